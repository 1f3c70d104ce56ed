"""The backends that run on a CPU, a parameter group's options in the symbols of the reference, how far a run is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["BACKENDS", "largest_error", "symbols"]

BACKENDS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"fused": "compiled"},
    "c": {"fused": "c"},
}


def symbols(group: dict[str, Any], dims: int = 2) -> dict[str, Any]:
    """The arguments of ``valleys.reference.alto`` beside the tensors, for a tensor in a group of ALTO or Lamb.

    Args:
        group: the options.
        dims: how many dimensions the tensor has, which matters with ``layer_adaptation="matrices"`` alone.
    """
    explores = "alpha" in group
    b2, b3 = group["betas"]
    clip = group["trust_clip"]
    after_m = group.get("accelerate") == "after_momentum"
    accelerate = () if after_m else group.get("accelerate", ())
    left_out = group["layer_adaptation"] == "matrices" and dims < 2
    return {
        "lr": float(group["lr"]),
        "alpha": group.get("alpha", 0.0),
        "b1": group["beta"] if explores else 0.0,
        "b2": b2,
        "b3": b3,
        "lam": 0.0 if left_out and not group["decay_vectors"] else group["weight_decay"],
        "eps1": group["eps"],
        "eps2": group["trust_eps"],
        "eps3": group["norm_eps"],
        "bias_correction": group["bias_correction"],
        "layer_adaptation": bool(group["layer_adaptation"]) and not left_out,
        "in_m": "momentum" in accelerate,
        "in_v": "second_moment" in accelerate,
        "after_m": after_m,
        "ratio_clip": (0.0, clip) if isinstance(clip, float) else clip,
    }


def largest_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference relative to each tensor's largest element, in float64; empty tensors have none."""
    pairs = [(a.detach().double(), e.detach().double()) for a, e in zip(actual, expected, strict=True) if e.numel()]
    errors = [float((a - e).abs().max() / e.abs().max()) for a, e in pairs]
    assert all(error == error for error in errors), "a NaN, which max would pass over"
    return max(errors)
