"""GPT-2 of 345 million parameters, trained from scratch with a batch of 4,096: the paper's largest problem."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Stream, Task
from valleys.lab.tasks.data.files import check_folder, list_names
from valleys.lab.tasks.data.packed import END_OF_TEXT, Windows, packed
from valleys.lab.tasks.networks.hugging_face import Logits
from valleys.lab.tasks.shared.metrics import token_loss

__all__ = ["load"]

_PARTS = {"train": "train", "validation": "valid", "test": "test"}
_VOCABULARIES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_HUB = "openai-community/gpt2"
_REMEDY = (
    "name the folder of the GPT-2 Output Dataset with webtext.train.jsonl, webtext.valid.jsonl and webtext.test.jsonl"
)


@dataclass(frozen=True)
class _Size:
    layers: int
    width: int
    heads: int
    context: int
    batch_size: int
    steps: int
    target: float
    micro_batch: int
    documents: int | None = None  # at most so many of each file


_SIZES = {
    "paper": _Size(24, 1024, 16, 1024, batch_size=4096, steps=5000, target=100.0, micro_batch=8),
    "smoke": _Size(2, 64, 2, 64, batch_size=32, steps=200, target=1000.0, micro_batch=64, documents=200),
}


def load(data_dir: Path | None = None, preset: str = "paper") -> Task:
    """Predict the next token of web pages.

    Documents are tokenised by GPT-2's byte pairs, joined by its end-of-text token, cut into windows of 1,024 tokens
    without regard to where documents end, and kept as a file beside the data. ``paper`` trains 24 layers of width 1,024
    with 16 heads for as many epochs as 5,000 steps of 4,096 windows take; ``smoke`` 2 layers of width 64 on windows of
    64 tokens from the first 200 documents of each file, for about 200 steps of 32. Dropout is GPT-2's, 0.1; gradients
    are clipped to a norm of 1, as in the paper. The target is a perplexity of 100 (``smoke``: 1,000): the paper's reach
    from 78 to 183.

    The data folder is that of the GPT-2 Output Dataset: all its ``*.train.jsonl`` files train, ``*.valid.jsonl``
    validate and ``*.test.jsonl`` test, so that the files in it decide which of its parts count (webtext and the samples
    of the four models make the paper's million documents; it does not say which it took). GPT-2's vocabulary is in
    vocab.json and merges.txt, or encoder.json and vocab.bpe, in that folder, otherwise from the hub.

    Source: Zhao et al. 2025 (arXiv 2510.27153), Tables 5c and 11, without a schedule; Radford et al. 2019.
    """
    size = _SIZES[preset]
    if data_dir is None:
        raise LabError(f"the task gpt2-345m reads a data folder and none was named; {_REMEDY}")
    files = {part: _files(data_dir, end) for part, end in _PARTS.items()}
    tokenizer = _tokenizer(data_dir)
    windows = {part: Windows(packed(paths, tokenizer, size.documents), size.context) for part, paths in files.items()}
    for part, split in windows.items():
        if not len(split):
            raise LabError(
                f"the files {', '.join(path.name for path in files[part])} in {str(data_dir)!r} hold fewer than "
                f"{size.context + 1} tokens; name a folder with more text"
            )
    batch_size = min(size.batch_size, len(windows["train"]))
    vocabulary = tokenizer.get_vocab_size()
    return Task(
        name="gpt2-345m",
        variant=preset,
        train=Stream(windows["train"]),
        validation=Stream(windows["validation"]),
        test=Stream(windows["test"]),
        build_model=lambda: build(vocabulary, size.context, size.layers, size.width, size.heads),
        loss=token_loss,
        metric=token_loss,
        finish=_perplexity,
        metric_name="perplexity",
        maximize=False,
        resolution=0.0,
        target=size.target,
        epochs=-(-size.steps // (len(windows["train"]) // batch_size)),
        batch_size=batch_size,
        schedule=Schedule("polynomial"),
        clip=1.0,  # as in the paper
        micro_batch=size.micro_batch,
    )


def build(vocabulary: int, context: int, layers: int, width: int, heads: int) -> nn.Module:
    """Build a freshly initialised GPT-2 of transformers, called as ``model(tokens) -> logits``."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise LabError("the task gpt2-345m needs transformers; pip install 'valleys[text]'") from error
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        use_cache=False,
        bos_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 1,
    )
    return Logits(GPT2LMHeadModel(config))


def _files(folder: Path, end: str) -> list[Path]:
    check_folder(folder, _REMEDY)
    files = [folder / name for name in list_names(folder, f".{end}.jsonl")]
    if lost := [path for path in files or [folder / f"*.{end}.jsonl"] if not path.is_file()]:
        raise LabError(f"the data folder {str(folder)!r} holds no {lost[0].name} that is a file; {_REMEDY}")
    return files


def _tokenizer(folder: Path) -> Any:
    try:
        from tokenizers import ByteLevelBPETokenizer, Tokenizer
    except ImportError as error:
        raise LabError("the task gpt2-345m needs tokenizers; pip install 'valleys[text]'") from error
    for names in _VOCABULARIES:
        vocabulary, merges = (folder / name for name in names)
        if vocabulary.is_file() and merges.is_file():
            try:
                return _complete(ByteLevelBPETokenizer.from_file(str(vocabulary), str(merges)))
            except Exception as error:  # tokenizers raises bare exceptions of a damaged file
                raise LabError(f"{vocabulary} and {merges.name} do not load ({error}); take GPT-2's") from error
    try:
        return Tokenizer.from_pretrained(_HUB)
    except Exception as error:  # offline, among others: tokenizers raises bare exceptions
        raise LabError(
            f"the data folder {str(folder)!r} has no vocab.json and merges.txt, and the hub's {_HUB} cannot be had "
            f"({error}); put GPT-2's two files there"
        ) from error


def _complete(tokenizer: Any) -> Any:
    """Refuse a tokenizer of which a file was cut off: bytes without a token would be left out of every text."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = tokenizer.get_vocab()
    merged = {*map("".join, json.loads(tokenizer.to_str())["model"]["merges"])}
    if tokens.keys() - {END_OF_TEXT} != {*ByteLevel.alphabet()} | merged or {*tokens.values()} != {*range(len(tokens))}:
        raise ValueError(f"the tokens 0, 1, 2 ... are not the 256 bytes, the merges and {END_OF_TEXT}")
    return tokenizer


def _perplexity(nats: Tensor) -> float:
    return nats.double().exp().item()
