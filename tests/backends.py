"""Pure data: the backends that run on a CPU, and a parameter group's options in the symbols of the reference."""

from __future__ import annotations

from typing import Any

__all__ = ["BACKENDS", "symbols"]

BACKENDS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "compiled": {"fused": "compiled"},
    "native": {"fused": "native"},
}


def symbols(group: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``valleys.reference.alto`` beside the tensors, for a group of ALTO or Lamb."""
    explores = "alpha" in group
    b1, b2, b3 = group["betas"] if explores else (0.0, *group["betas"])
    clip = group["trust_clip"]
    return {
        "lr": float(group["lr"]),
        "alpha": group.get("alpha", 0.0),
        "b1": b1,
        "b2": b2,
        "b3": b3,
        "lam": group["weight_decay"],
        "eps1": group["eps"],
        "eps2": group["trust_eps"],
        "eps3": group["norm_eps"],
        "bias_correction": group["bias_correction"],
        "layer_adaptation": group["layer_adaptation"],
        "in_m": "momentum" in group.get("accelerate", ()),
        "in_v": "second_moment" in group.get("accelerate", ()),
        "ratio_clip": (0.0, clip) if isinstance(clip, float) else clip,
    }
