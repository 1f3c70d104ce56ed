"""LAMB on DTensors the obvious way, a yardstick: a loop over the parameters, with DTensor's own norms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["NaiveLamb"]


class NaiveLamb(Optimizer):
    """LAMB as written for tensors, run on DTensors: two all-reduces per parameter and step.

    The step is that of ``valleys.Lamb(..., trust_eps=0, norm_eps=0)``.

    Args:
        params: parameters, DTensors or not.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: part of the update whose length the ratio sets.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes one step; takes no closure."""
        assert closure is None
        for group in self.param_groups:
            (beta1, beta2), decay = group["betas"], group["weight_decay"]
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
                state["step"] += 1
                m, v, grad = state["exp_avg"], state["exp_avg_sq"], param.grad
                m.mul_(beta1).add_(grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                root = (v / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
                update = (m / (1 - beta1 ** state["step"])).div_(root).add_(param, alpha=decay)
                # A tensor on every rank, so that the ratio may be computed without another collective.
                length, reach = (_whole(torch.linalg.vector_norm(x)) for x in (param, update))
                ratio = torch.where((length > 0) & (reach > 0), length / reach, 1.0)
                param.sub_(update.mul_(group["lr"] * ratio))


def _whole(norm: Any) -> Tensor:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm
