"""The backends that run on a CPU, runs of an optimizer and of the reference, how far one is from the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from valleys import reference

__all__ = ["BACKENDS", "largest_error", "problem", "reference_run", "run", "symbols"]

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


def reference_run(params: list[Tensor], grads: list[list[Tensor]], group: dict[str, Any]) -> list[Tensor]:
    """Run ``reference.alto`` on the parameters, in float64, with the paper's two buffers."""
    thetas = [p.detach().double() for p in params]
    memory: list[Any] = [reference.TwoBuffer(torch.zeros_like(t), torch.zeros_like(t)) for t in thetas]
    moments = [reference.zeros(t) for t in thetas]
    for step in grads:
        gs = [g.double() for g in step]
        if group["max_grad_norm"] is not None:
            gs = reference.clip(gs, group["max_grad_norm"])
        for i, g in enumerate(gs):
            thetas[i], memory[i], moments[i] = reference.alto(thetas[i], g, memory[i], moments[i], **symbols(group))
    return thetas


def run(optimizer: torch.optim.Optimizer, params: list[Any], grads: list[list[Tensor]]) -> None:
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad.clone()
        optimizer.step()


def problem(shapes: list[tuple[int, ...]], dtype: torch.dtype, steps: int = 3) -> tuple[list[Any], list[list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype)) for s in shapes]
    grads = [[torch.randn(s, dtype=torch.float64, generator=generator).to(dtype) for s in shapes] for _ in range(steps)]
    return params, grads
