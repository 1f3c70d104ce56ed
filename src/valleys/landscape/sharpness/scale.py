"""The scale of a perturbation: 1, or the magnitude of each parameter."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from valleys.landscape.objective import Objective


def perturbation_scale(objective: Objective, adaptive: bool, eta: float) -> Tensor:
    """Return the scale s of each parameter, flat, in float32 or better."""
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta {eta}: choose 0 or a small positive number; Kwon et al. take 0.01")
    if eta and not adaptive:
        raise ValueError(f"eta {eta}: it is part of the adaptive scale; pass adaptive=True, or leave it out")
    theta = objective.flatten(objective.parameters)
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    if not adaptive:
        return torch.ones_like(theta)
    scale = theta.abs() + eta
    if not scale.any():
        raise ValueError("adaptive: all parameters are zero, so nothing can move; pass eta above 0, or adaptive=False")
    return scale


def require_positive(value: float, name: str) -> None:
    """Raise ValueError for a radius or a width that is not a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} {value}: choose a positive number; 0.05 is usual for rho, 0.01 for sigma")
