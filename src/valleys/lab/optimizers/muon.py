"""Muon for matrices and AdamW for all else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from valleys.groups import param_groups
from valleys.lab.errors import LabError

__all__ = ["MuonAdamW"]


class MuonAdamW(Optimizer):
    """``torch.optim.Muon`` on a model's matrices, AdamW on its other parameters, with one learning rate.

    Matrices are weights of two dimensions that no embedding holds; a head that is tied to an embedding is none. Muon's
    steps have the root mean square of AdamW's (``adjust_lr_fn="match_rms_adamw"``), so that one learning rate and one
    decoupled weight decay serve both. Norms and biases have no decay.

    Args:
        model: the module to optimize.
        lr: learning rate, >= 0. Default: 1e-3.
        momentum: Muon's, in [0, 1). Default: 0.95.
        weight_decay: decoupled, of weights, >= 0. Default: 0.1.
        betas: AdamW's decay rates. Default: (0.9, 0.95).

    Raises:
        LabError: the model has no matrix.
        ValueError: a value out of its range.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
        >>> [len(group["params"]) for group in MuonAdamW(model, lr=1e-3).param_groups]  # matrix; embedding; bias
        [1, 1, 1]

    Source: Jordan et al. 2024 (Muon); Liu et al. 2025 (arXiv 2502.16982) for the matched steps and AdamW's betas.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        matrices, others = _divided(model, weight_decay)
        if not matrices["params"]:
            raise LabError(
                f"muon: {type(model).__name__} has no weight of two dimensions outside embeddings for Muon to "
                "orthogonalize; use adamw"
            )
        self._muon = Muon([matrices], lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW(others, lr, betas) if others else None
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._share()

    @property
    def _parts(self) -> list[Optimizer]:
        return [self._muon] if self._adamw is None else [self._muon, self._adamw]

    def _share(self) -> None:
        """Let both parts step with the groups and states of the whole, which schedulers and checkpoints know."""
        self._muon.param_groups = self.param_groups[:1]
        for part in self._parts:
            part.state = self.state
        if self._adamw is not None:
            self._adamw.param_groups = self.param_groups[1:]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what ``load_state_dict`` has read."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step; return what the closure, which is called first if there is one, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def _divided(model: nn.Module, weight_decay: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the group of matrices, which may be empty, and the other groups."""
    tables = (module for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag)))
    embeddings = {id(parameter) for table in tables for parameter in table.parameters(recurse=False)}
    matrices: list[nn.Parameter] = []
    others: list[dict[str, Any]] = []
    for group in param_groups(model, weight_decay):
        rest: list[nn.Parameter] = []
        for parameter in group["params"]:
            weight = group["layer_adaptation"] and parameter.ndim == 2 and id(parameter) not in embeddings
            (matrices if weight else rest).append(parameter)
        if rest:
            others.append({"params": rest, "weight_decay": group["weight_decay"]})
    return {"params": matrices, "weight_decay": weight_decay}, others
