"""A small GPT: pre-norm transformer blocks that see only the past, and an output layer tied to the embedding."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from valleys.lab.errors import LabError

__all__ = ["GPT"]

_DEVIATION = 0.02


class GPT(nn.Module):
    r"""A decoder-only transformer without dropout.

    .. math:: x_0 = E[t] + P, \quad y_l = x_{l-1} + \mathrm{attention}(\mathrm{norm}(x_{l-1})), \quad
        x_l = y_l + \mathrm{mlp}(\mathrm{norm}(y_l)), \quad \text{logits} = \mathrm{norm}(x_L) E^\top

    Weights start as in GPT-2: normal with standard deviation 0.02, the two layers that write into the residual stream
    smaller by :math:`\sqrt{2 L}`, biases at zero. The heads must divide the width of the residual stream.

    Example:
        >>> import torch
        >>> GPT(vocabulary=11, context=8, layers=2, width=12, heads=3)(torch.zeros(5, 7, dtype=torch.uint8)).shape
        torch.Size([5, 7, 11])

    Source: Radford et al. 2019, Language models are unsupervised multitask learners.
    """

    def __init__(self, *, vocabulary: int, context: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise LabError(f"width {width}: it must be a multiple of the number of heads, {heads}")
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_the_stream = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=_DEVIATION / (math.sqrt(2 * layers) if into_the_stream else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of every next token, (N, T) -> (N, T, vocabulary), from the tokens up to it."""
        stream = self.tokens(tokens.long()) + self.positions.weight[: tokens.shape[1]]
        return functional.linear(self.norm(self.blocks(stream)), self.tokens.weight)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.attention(self.norm1(stream))
        hidden = functional.gelu(self.up(self.norm2(stream)), approximate="tanh")
        output: Tensor = self.down(hidden)
        return stream + output


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, stream: Tensor) -> Tensor:
        parts = self.into(stream).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, N, heads, T, size)
        query, key, value = parts
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return output
