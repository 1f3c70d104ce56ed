"""GPU memory of one optimizer above another's, BERT-base: the paper's Table 6. It needs a GPU, but no data."""

from __future__ import annotations

from typing import Any

import torch

from valleys.lab.errors import LabError
from valleys.paper.tables.methods import MAKERS
from valleys.paper.tables.model import Method

LENGTH = 128  # tokens per example; the paper does not say how many it has

_DEVICE = "cuda"
_STEPS = 2  # the first makes the optimizer's state
_SMALL: Any = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}


def above(first: Method, second: Method, batch_size: int, preset: str) -> float:
    r"""Return how much more memory a method needs than another, in percent: :math:`100\, (M_1 / M_2 - 1)`."""
    return 100 * (peak(first, batch_size, preset) / peak(second, batch_size, preset) - 1)


def peak(method: Method, batch_size: int, preset: str) -> int:
    """Return the peak of CUDA's allocator, in bytes, over two training steps of BERT-base (``smoke``: a small one)."""
    if not torch.cuda.is_available():
        raise LabError("needs a GPU: it is the peak of CUDA's memory, whatever --device says")
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError as error:
        raise LabError("BERT needs transformers; pip install 'valleys[text]'") from error
    try:
        torch.ones(8, 8, device=_DEVICE).matmul(torch.ones(8, 8, device=_DEVICE))  # cuBLAS's workspace stays for good
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.random.fork_rng():
            model: Any = BertForSequenceClassification(BertConfig(**(_SMALL if preset == "smoke" else {})))
        model = model.to(_DEVICE)
        optimizer = MAKERS[method.kind](list(model.parameters()), **dict(method.options))
        tokens = torch.ones(batch_size, LENGTH, dtype=torch.long, device=_DEVICE)
        labels = torch.zeros(batch_size, dtype=torch.long, device=_DEVICE)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()
        return torch.cuda.max_memory_allocated() - before
    except torch.cuda.OutOfMemoryError as error:
        raise LabError(f"batch {batch_size} of {LENGTH} tokens does not fit into this GPU in one pass") from error
