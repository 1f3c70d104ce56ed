"""Pure data: every optimizer of ``valleys.optax`` beside its torch counterpart, and what both are fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
import torch

import valleys
import valleys.optax as vo

__all__ = [
    "CASES",
    "COMPILER",
    "FACTORIES",
    "FLOAT32",
    "NO_DECAY",
    "NO_RATIO",
    "SHAPES",
    "STEPS",
    "Case",
    "gradients",
    "parameters",
]

STEPS = 30
# Compiles in a tenth of the time.
COMPILER = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_backend_optimization_level": 0,
}
FLOAT32 = ("alto", "alto, matrices", "alto, no memory", "eadamw", "adapt before rmsprop")
SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (3, 5),
    "vector": (7,),
    "scalar": (),
    "cube": (2, 1, 3),
    "zero": (4,),
    "idle": (2, 3),  # gets zero gradients for a while
    "unused": (3,),  # gets nothing else
}
FEW = ("matrix", "scalar", "idle")  # enough to tell schedules apart
NO_DECAY = ("vector", "scalar")
NO_RATIO = ("vector", "cube")


@dataclass(frozen=True)
class Case:
    """One optimizer on both sides.

    Args:
        ours: builds the gradient transformation.
        torch: builds the optimizer over a dictionary of parameters.
    """

    ours: Callable[[], Any]
    torch: Callable[[dict[str, torch.Tensor]], torch.optim.Optimizer]


def parameters(kind: type = np.float64) -> dict[str, Any]:
    """Parameters of sizes from 1e-3 to 10, one of them zero."""
    rng = np.random.default_rng(1)
    sizes = 10.0 ** np.linspace(-3, 1, len(SHAPES))
    values: dict[str, Any] = {
        name: np.asarray(_random(rng, shape, kind) * size, kind)
        for (name, shape), size in zip(SHAPES.items(), sizes, strict=True)
    }
    return {**values, "zero": np.zeros(SHAPES["zero"], kind)}


def gradients(kind: type = np.float64, steps: int = STEPS) -> dict[str, Any]:
    """Gradients of all steps, stacked along a first dimension."""
    rng = np.random.default_rng(2)
    values: dict[str, Any] = {name: _random(rng, (steps, *shape), kind) for name, shape in SHAPES.items()}
    values["idle"][steps // 3 :] = 0
    values["unused"][:] = 0
    return values


def _random(rng: np.random.Generator, shape: tuple[int, ...], kind: type) -> Any:
    values = rng.standard_normal(shape)
    if issubclass(kind, np.complexfloating):
        return (values + 1j * rng.standard_normal(shape)).astype(kind)
    return np.asarray(values, kind)


def _masked(params: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [param],
            "weight_decay": 0.0 if name in NO_DECAY else 0.1,
            "layer_adaptation": name not in NO_RATIO,
        }
        for name, param in params.items()
    ]
    return valleys.ALTO(groups, lr=0.02, fused=False)


def _alto(lr: float = 0.02, **options: Any) -> Case:
    return Case(
        lambda: vo.alto(lr, **options), lambda params: valleys.ALTO(params.values(), lr=lr, fused=False, **options)
    )


def _lamb(lr: float = 0.02, **options: Any) -> Case:
    return Case(
        lambda: vo.lamb(lr, **options), lambda params: valleys.Lamb(params.values(), lr=lr, fused=False, **options)
    )


ALL: dict[str, Any] = {"layer_adaptation": True}

CASES = {
    "alto": _alto(**ALL),
    "alto, matrices": _alto(),
    "alto, matrices, much decay": _alto(alpha=-90.0, weight_decay=0.3, trust_clip=10.0),
    "alto, small batch": _alto(**ALL, beta=0.01, alpha=0.5),
    "alto, strong": _alto(**ALL, alpha=-90.0, weight_decay=0.3),
    "alto, Alg. 1": _alto(**ALL, bias_correction=False),
    "alto without ratio": _alto(layer_adaptation=False, weight_decay=0.1),
    "alto, a in m": _alto(**ALL, accelerate=("momentum",), alpha=-70.0),
    "alto, a in v": _alto(**ALL, accelerate=("second_moment",), alpha=-70.0),
    "alto, ratio in bounds": _alto(**ALL, trust_clip=(0.5, 2.0)),
    "alto, no memory": _alto(**ALL, eps=1e-2, trust_eps=0.3, norm_eps=0.2, beta=0.0, betas=(0.0, 0.9), alpha=0.5),
    "alto, masks": Case(
        lambda: vo.alto(
            0.02,
            weight_decay=0.1,
            mask={name: name not in NO_DECAY for name in SHAPES},
            layer_mask=lambda params: {name: name not in NO_RATIO for name in params},
        ),
        _masked,
    ),
    "lamb": _lamb(**ALL),
    "lamb, matrices": _lamb(),
    "esgd": Case(
        lambda: vo.esgd(0.02, 0.8, nesterov=True, alpha=0.5, beta=0.01),
        lambda params: valleys.ESGD(params.values(), lr=0.02, momentum=0.8, nesterov=True, alpha=0.5, beta=0.01),
    ),
    "eadam": Case(lambda: vo.eadam(0.02), lambda params: valleys.EAdam(params.values(), lr=0.02)),
    "eadamw": Case(
        lambda: vo.eadamw(0.02, weight_decay=0.1, alpha=-50.0),
        lambda params: valleys.EAdamW(params.values(), lr=0.02, weight_decay=0.1, alpha=-50.0),
    ),
    "adapt before rmsprop": Case(
        lambda: optax.chain(vo.adapt(-60.0, 0.99), optax.rmsprop(0.02, decay=0.99, eps=1e-8, eps_in_sqrt=False)),
        lambda params: valleys.adapt(torch.optim.RMSprop(params.values(), lr=0.02), -60.0, 0.99),
    ),
    "adapt before lamb": Case(
        lambda: optax.chain(vo.adapt(), vo.lamb(0.02, trust_clip=10.0)),
        lambda params: valleys.adapt(valleys.Lamb(params.values(), lr=0.02, trust_clip=10.0, fused=False)),
    ),
}

# What optax's contract asks of an optimizer's factory; the learning rate is one that converges.
FACTORIES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "alto": (vo.alto, {"learning_rate": 2e-3}),
    "lamb": (vo.lamb, {"learning_rate": 2e-3, "betas": (0.9, 0.99)}),
    "esgd": (vo.esgd, {"learning_rate": 1e-3}),
    "eadam": (vo.eadam, {"learning_rate": 1e-2}),
    "eadamw": (vo.eadamw, {"learning_rate": 1e-2}),
}
