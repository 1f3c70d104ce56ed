"""Tensors that the contenders of one run share: parameters, gradients, most states, and a large copy.

A dozen optimizers over GPT-2 with everything of their own need 30 GB. They may share the parameters, because a step
costs the same whatever their values; the gradients, because a step reads them; and every state that a step overwrites
in place. So each of them also works on the same pages of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shapes import Shape

__all__ = ["Stage"]

_OVERWRITTEN = ("exp_avg", "exp_avg_sq", "exp_avg_diff", "exp_grad_diff", "explore_exp_avg", "momentum_buffer")
"""States that every contender which has them changes in place; those it replaces by new tensors stay its own."""


class Stage:
    """Parameters and gradients of one set.

    The gradients are small enough that no optimizer which clips at norm 1 would change them; those that write into
    ``.grad`` get a scratch copy, which is made anew before each of their steps, untimed.

    Args:
        shapes: shapes of the parameters.
        device: where they live.
        seed: of their values.
        copied: bytes of the buffer whose copy measures the bandwidth and empties the caches.
        dtype: of parameters and gradients.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        device: str = "cpu",
        seed: int = 0,
        copied: int = 1 << 28,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def random(shape: Shape, scale: float) -> Tensor:
            return torch.randn(shape, generator=generator, device=device, dtype=dtype).mul_(scale)

        self.device = device
        self.params = [random(shape, 0.02).requires_grad_() for shape in shapes]
        self.numel = sum(param.numel() for param in self.params)
        self.grads = [random(shape, 0.5 * self.numel**-0.5) for shape in shapes]
        self._sums = self._checksums()
        self._scratch: list[Tensor] = []
        self._pool: dict[tuple[str, int], Tensor] = {}
        self._source = torch.zeros(copied // 4, device=device)
        self._target = torch.zeros_like(self._source)

        self.copied = 2 * self._source.nbytes
        self.negated = 4 * self._source.nbytes

    def copy(self) -> None:
        """One plain copy, larger than the caches; it moves ``copied`` bytes."""
        self._target.copy_(self._source)

    def negate(self) -> None:
        """An update in place; it moves ``negated`` bytes, and no others: a CPU's copy also reads what it overwrites."""
        self._source.neg_()
        self._target.neg_()

    def serve(self, scratch: bool = False) -> None:
        """Sets every ``.grad``, as a backward pass would have, and leaves none of it in the caches.

        Args:
            scratch: serve copies, for an optimizer that writes into them.
        """
        grads = self.grads
        if scratch:
            self._scratch = self._scratch or [torch.empty_like(grad) for grad in self.grads]
            torch._foreach_copy_(self._scratch, self.grads)
            grads = self._scratch
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        self.copy()

    def share(self, stores: Sequence[Mapping[Tensor, MutableMapping[str, Any]]]) -> None:
        """Replaces an optimizer's states by those of the contenders before it, as far as they may be shared.

        Args:
            stores: its mappings from parameter to states.
        """
        for store in stores:
            for index, param in enumerate(self.params):
                entry = store.get(param, {})
                for name in entry.keys() & set(_OVERWRITTEN):
                    own = entry[name]
                    pooled = self._pool.setdefault((name, index), own)
                    if pooled.dtype == own.dtype:
                        entry[name] = pooled

    def sample(self) -> Tensor:
        """A few elements of every parameter, copied."""
        return torch.cat([param.detach().flatten()[:64] for param in self.params]).clone()

    def intact(self) -> bool:
        """Return True if the shared gradients are unchanged."""
        return torch.equal(self._sums, self._checksums())

    def _checksums(self) -> Tensor:
        return torch.stack([grad.sum(dtype=torch.float64) for grad in self.grads])
