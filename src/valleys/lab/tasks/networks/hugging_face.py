"""Networks of Hugging Face's transformers, called as the lab calls a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Logits(nn.Module):
    """A network of transformers of which only the logits come back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the logits of ``input_ids``, shape (N, T), or of a dictionary of inputs by name."""
        result: Any = self.network(input_ids=inputs) if isinstance(inputs, Tensor) else self.network(**inputs)
        logits: Tensor = result.logits
        return logits
