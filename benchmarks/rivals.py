"""The contenders: valleys in every backend, its rivals, torch's own. Each is built when its turn comes.

All take the same learning rate and a weight decay: without one the authors' ALTO leaves out the layer ratio.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

import valleys
from running import OptaxRunning, Running, TorchRunning
from stage import Stage

__all__ = ["Contender", "compressed_states", "contenders", "reason"]

FUSED = {"cpu": "c", "cuda": "triton"}
"""Meaning of ``fused=True`` on each device."""

COMMON: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.01}

ALTO, LAMB, ADAN, ADAMW, SGD_MOMENTUM, EXPLORE = 48, 40, 44, 28, 20, 8
"""Least bytes that a float32 parameter moves per step. The layer ratio needs a second pass: LAMB's 40 are AdamW's 28
and 12. E before another optimizer (EXPLORE) adds the reading and writing of its buffer."""


@dataclass(frozen=True)
class Contender:
    """A row of the tables.

    Args:
        name: unique; ``--only`` is searched in it.
        package: the distribution it comes from.
        traffic: least bytes that its algorithm moves per parameter and step, what a copy is compared with.
        build: makes the optimizer over a stage; what it raises is the reason in the table.
        scratch: it writes into ``.grad``, so it gets a copy of the gradients.
    """

    name: str
    package: str
    traffic: int
    build: Callable[[Stage], Running]
    scratch: bool = False


def contenders(device: str = "cpu") -> list[Contender]:
    """Every contender, whether it runs here or not.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    fused = FUSED[device]
    return [
        Contender(f"ALTO {fused}", "valleys", ALTO, _layerwise(valleys.ALTO, fused=True)),
        Contender("ALTO compiled", "valleys", ALTO, _layerwise(valleys.ALTO, fused="compiled")),
        Contender("ALTO foreach", "valleys", ALTO, _layerwise(valleys.ALTO, foreach=True, fused=False)),
        Contender("ALTO loop", "valleys", ALTO, _layerwise(valleys.ALTO, foreach=False, fused=False)),
        Contender(f"Lamb {fused}", "valleys", LAMB, _layerwise(valleys.Lamb, fused=True)),
        Contender("Lamb compiled", "valleys", LAMB, _layerwise(valleys.Lamb, fused="compiled")),
        Contender("Lamb foreach", "valleys", LAMB, _layerwise(valleys.Lamb, foreach=True, fused=False)),
        Contender("adapt(AdamW fused)", "valleys", ADAMW + EXPLORE, _adapted(AdamW, fused=True)),
        Contender(
            "adapt(AdamW fused, inplace)",
            "valleys",
            ADAMW + EXPLORE,
            _adapted(AdamW, {"inplace": True}, fused=True),
            True,
        ),
        Contender("adapt(AdamW foreach)", "valleys", ADAMW + EXPLORE, _adapted(AdamW, foreach=True)),
        Contender("adapt(SGD foreach)", "valleys", SGD_MOMENTUM + EXPLORE, _adapted(SGD, momentum=0.9, foreach=True)),
        Contender("adapt(SGD fused)", "valleys", SGD_MOMENTUM + EXPLORE, _adapted(SGD, momentum=0.9, fused=True)),
        Contender(
            "adapt(SGD fused, inplace)",
            "valleys",
            SGD_MOMENTUM + EXPLORE,
            _adapted(SGD, {"inplace": True}, momentum=0.9, fused=True),
            True,
        ),
        Contender("authors' ALTO", "e-optimizer-adaptor", ALTO, _authors_alto, scratch=True),
        Contender("authors' E(AdamW fused)", "e-optimizer-adaptor", ADAMW + EXPLORE, _authors_e),
        Contender("pytorch_optimizer Lamb", "pytorch_optimizer", LAMB, _pytorch_optimizer("Lamb")),
        Contender("pytorch_optimizer Lamb loop", "pytorch_optimizer", LAMB, _pytorch_optimizer("Lamb", foreach=False)),
        Contender("pytorch_optimizer Adan", "pytorch_optimizer", ADAN, _pytorch_optimizer("Adan"), scratch=True),
        Contender("optax lamb", "optax", LAMB, _optax_lamb),
        Contender("timm Lamb", "timm", LAMB, _timm_lamb, scratch=True),
        Contender("apex FusedLAMB", "apex", LAMB, _apex_lamb, scratch=True),
        Contender("AdamW fused", "torch", ADAMW, _torch(AdamW, fused=True)),
        Contender("AdamW foreach", "torch", ADAMW, _torch(AdamW, foreach=True)),
        Contender("SGD fused", "torch", SGD_MOMENTUM, _torch(SGD, momentum=0.9, fused=True)),
        Contender("SGD foreach", "torch", SGD_MOMENTUM, _torch(SGD, momentum=0.9, foreach=True)),
    ]


def compressed_states(device: str = "cpu") -> list[Contender]:
    """The same with the states of valleys in bfloat16 or in 8 bits, rounded stochastically or to nearest.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    fused, half, eight = FUSED[device], torch.bfloat16, "8bit"
    rows = [
        (f"ALTO {fused}", "bfloat16 states", ALTO - 12, _layerwise(valleys.ALTO, fused=True, state_dtype=half)),
        ("ALTO foreach", "bfloat16 states", ALTO - 12, _layerwise(valleys.ALTO, foreach=True, state_dtype=half)),
        (f"Lamb {fused}", "bfloat16 states", LAMB - 8, _layerwise(valleys.Lamb, fused=True, state_dtype=half)),
        ("Lamb foreach", "bfloat16 states", LAMB - 8, _layerwise(valleys.Lamb, foreach=True, state_dtype=half)),
        (
            "adapt(AdamW fused)",
            "bfloat16 states",
            ADAMW + EXPLORE // 2,
            _adapted(AdamW, {"state_dtype": half}, fused=True),
        ),
        (f"ALTO {fused}", "8-bit states", ALTO - 24, _layerwise(valleys.ALTO, fused=True, state_dtype=eight)),
        ("ALTO foreach", "8-bit states", ALTO - 24, _layerwise(valleys.ALTO, foreach=True, state_dtype=eight)),
        (f"Lamb {fused}", "8-bit states", LAMB - 18, _layerwise(valleys.Lamb, fused=True, state_dtype=eight)),
        ("adapt(AdamW fused)", "8-bit states", ADAMW + 2, _adapted(AdamW, {"state_dtype": eight}, fused=True)),
        *(
            (
                f"ALTO {fused}",
                f"{name} states, nearest",
                traffic,
                _layerwise(valleys.ALTO, fused=True, state_dtype=dtype, stochastic_rounding=False),
            )
            for name, traffic, dtype in (("bfloat16", ALTO - 12, half), ("8-bit", ALTO - 24, eight))
        ),
    ]
    return [Contender(f"{name}, {states}", "valleys", traffic, build) for name, states, traffic, build in rows]


def reason(error: BaseException) -> str:
    """Reason that a contender did not run, in one line for a table, without the paths of this machine."""
    lines = str(error).strip().splitlines() or [""]
    text = re.sub(r"\s*\(?/[\w./+-]+\)?", "", lines[0]).replace("|", "/")
    return f"{type(error).__name__}: {text}"[:200].rstrip(": ")


def _torch(cls: Callable[..., Optimizer], **options: Any) -> Callable[[Stage], Running]:
    return lambda stage: TorchRunning(cls(stage.params, **COMMON, **options), stage)


def _layerwise(cls: Callable[..., Optimizer], **options: Any) -> Callable[[Stage], Running]:
    """With a ratio for every tensor, as the other packages' LAMBs have."""
    return _torch(cls, layer_adaptation=True, **options)


def _adapted(
    cls: Callable[..., Optimizer], how: dict[str, Any] | None = None, **options: Any
) -> Callable[[Stage], Running]:
    def build(stage: Stage) -> Running:
        base = cls(stage.params, **COMMON, **options)
        return TorchRunning(valleys.adapt(base, -5.0, 0.99, **(how or {})), stage)

    return build


def _authors_alto(stage: Stage) -> Running:
    from ALTO import ALTO as AuthorsALTO  # noqa: N811

    return TorchRunning(AuthorsALTO(stage.params, betas=(0.99, 0.9, 0.99), alp=-5.0, eps=1e-6, **COMMON), stage)


def _authors_e(stage: Stage) -> Running:
    from E import E

    return TorchRunning(E(AdamW(stage.params, fused=True, **COMMON), alpha=-5.0, beta=0.99), stage)


def _pytorch_optimizer(name: str, **options: Any) -> Callable[[Stage], Running]:
    def build(stage: Stage) -> Running:
        import pytorch_optimizer

        return TorchRunning(
            getattr(pytorch_optimizer, name)(stage.params, weight_decouple=False, **COMMON, **options), stage
        )

    return build


def _optax_lamb(stage: Stage) -> Running:
    if stage.device != "cpu":
        raise RuntimeError("compared on the CPU only")
    import optax

    return OptaxRunning(optax.lamb(COMMON["lr"], weight_decay=COMMON["weight_decay"]), stage)


def _timm_lamb(stage: Stage) -> Running:
    from timm.optim import Lamb  # type: ignore[import-not-found]

    return TorchRunning(Lamb(stage.params, **COMMON), stage)


def _apex_lamb(stage: Stage) -> Running:
    if stage.device == "cpu":
        raise RuntimeError("runs on CUDA only")
    from apex.optimizers import FusedLAMB  # type: ignore[import-not-found]

    return TorchRunning(FusedLAMB(stage.params, **COMMON), stage)
