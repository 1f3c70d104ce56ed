"""Needs of the optimizers of ``pytorch_optimizer``, and those that cannot be adapted: data only."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

import pytorch_optimizer as po
import torch
from torch.nn import Parameter

__all__ = [
    "BASE_FAULTS",
    "EXCEPTIONS",
    "NAMES",
    "TAKE_AN_OPTIMIZER",
    "UNAVAILABLE",
    "Case",
    "Refusal",
    "case",
]

Groups = Callable[[list[Parameter]], list[dict[str, Any]]]


def with_rank(params: list[Parameter]) -> list[dict[str, Any]]:
    """The groups of the low-rank optimizers, which are plain AdamW without them."""
    projected = {"rank": 2, "update_proj_gap": 5, "scale": 1.0, "projection_type": "std"}
    return [
        {"params": [p for p in params if p.ndim == 2], **projected},
        {"params": [p for p in params if p.ndim != 2]},
    ]


def with_muon(params: list[Parameter]) -> list[dict[str, Any]]:
    """The groups of the Muon family: matrices, and the rest for AdamW."""
    return [
        {"params": [p for p in params if p.ndim >= 2], "use_muon": True},
        {"params": [p for p in params if p.ndim < 2], "use_muon": False, "lr": 1e-2},
    ]


@dataclass(frozen=True)
class Case:
    """Building and stepping of one optimizer.

    Attributes:
        options: constructor arguments besides the parameters.
        feed: "backward" (then ``step()``), "closure" (which runs the backward), "loss" (backward, then a
            closure that only returns the loss), "graph" (backward with ``create_graph=True``), "twice"
            (backward, then a closure that runs it again), "fused" (the optimizer's own ``fused_backward``).
        takes: the constructor's first argument.
        groups: parameter groups, where the optimizer needs its own.
        matrices: a model of two matrices alone, where the optimizer takes no other shapes.
        dtype: float64, unless the optimizer fails there.
        bitwise: why rounding in the gradient's last bit is blown up beyond 1e-9, so that it is compared bit
            for bit with the one-buffer form of E, not to 1e-9 with the two-buffer form; empty: it is not.
        classes: of objects in the optimizer's own state, to be allowed for ``torch.load(weights_only=True)``.
        weights_only: whether ``torch.load(weights_only=True)`` can read that state at all.
    """

    options: Mapping[str, Any] = field(default_factory=lambda: {"lr": 1e-2})
    feed: Literal["backward", "closure", "loss", "graph", "twice", "fused"] = "backward"
    takes: Literal["params", "model"] = "params"
    groups: Groups | None = None
    matrices: bool = False
    dtype: torch.dtype = torch.float64
    bitwise: str = ""
    classes: tuple[str, ...] = ()
    weights_only: bool = True


_GALORE = "pytorch_optimizer.optimizer.utils.galore.GaLoreProjector"
# Older releases of Python 3.11 pickle a member of an enum as getattr(class, name).
_ENUM = ("builtins.getattr",) if b"getattr" in pickle.dumps(HTTPStatus.OK) else ()
_SCION = ("pytorch_optimizer.optimizer.scion.LMONorm", *_ENUM)
_SHAMPOO = (
    *_ENUM,
    "pytorch_optimizer.optimizer.utils.graft.SGDGraft",
    "pytorch_optimizer.optimizer.utils.partition.PreConditionerType",
    "pytorch_optimizer.optimizer.utils.preconditioner.PreConditioner",
)
_SINGULAR = "singular vectors of a gradient matrix that lacks full rank"

# Everything that is not built as cls(params, lr=1e-2) and stepped after a plain backward().
_SPECIAL: dict[str, Case] = {
    "adahessian": Case(feed="graph"),
    "adago": Case(groups=with_muon),
    "adalomo": Case(feed="fused", takes="model", matrices=True),
    "adammini": Case(takes="model"),
    "adamuon": Case(groups=with_muon),
    "adashift": Case(classes=("collections.deque",), weights_only=False),
    "alice": Case(bitwise=_SINGULAR),
    "alig": Case({"max_lr": 1e-1}, feed="loss"),
    "apollo": Case(groups=with_rank, classes=(_GALORE,)),
    "bsam": Case({"lr": 1e-2, "num_data": 8}, feed="twice"),
    "conda": Case(bitwise=_SINGULAR, classes=(_GALORE,)),
    # Their estimate of the learning rate starts at 1e-6, too small to move anything in 20 steps.
    "dadaptadagrad": Case({"lr": 1.0, "d0": 1e-2}),
    "dadaptadam": Case({"lr": 1.0, "d0": 1e-2}),
    "dadaptadan": Case({"lr": 1.0, "d0": 1e-2}),
    "dadaptlion": Case({"lr": 1.0, "d0": 1e-2}),
    "dadaptsgd": Case({"lr": 1.0, "d0": 1e-2}),
    "demo": Case(matrices=True),
    "distributedmuon": Case(groups=with_muon),
    "emofact": Case(feed="closure"),
    "emolynx": Case(feed="closure"),
    "emonavi": Case(feed="closure"),
    "fadam": Case(dtype=torch.float32, bitwise="float32 only: it mixes dtypes in float64"),
    "fira": Case(groups=with_rank, classes=(_GALORE,)),
    "galore": Case(groups=with_rank, classes=(_GALORE,)),
    "lbfgs": Case(feed="closure"),
    "lomo": Case(feed="fused", takes="model"),
    "lorarite": Case(bitwise=_SINGULAR),
    "muon": Case(groups=with_muon),
    "muonclip": Case(groups=with_muon),
    "normuon": Case(groups=with_muon),
    "prodigy": Case({"lr": 1.0, "d0": 1e-2}),
    "ranger21": Case({"lr": 1e-2, "num_iterations": 20}),
    # It trains only weights that start below the threshold, by default none of a small model.
    "sara": Case({"lr": 1e-2, "threshold": 0.2}),
    "scalableshampoo": Case(classes=_SHAMPOO),
    "scion": Case(classes=_SCION),
    "scionlight": Case(classes=_SCION),
    "soap": Case(bitwise=_SINGULAR),
    "sophiah": Case(feed="graph"),
    "spectralsphere": Case(matrices=True),
}


def case(name: str) -> Case:
    """Return the case of the optimizer called ``name``."""
    return _SPECIAL.get(name, Case())


# DeMo's constructor raises ImportError without einops, which pytorch_optimizer does not install.
UNAVAILABLE = frozenset() if importlib.util.find_spec("einops") else frozenset({"demo"})

NAMES: tuple[str, ...] = tuple(name for name in po.get_supported_optimizers() if name not in UNAVAILABLE)

# Exported, but built from an optimizer or an optimizer's class: not plain arguments.
TAKE_AN_OPTIMIZER = frozenset(
    {
        "FriendlySAM",
        "GSAM",
        "Lookahead",
        "LookSAM",
        "OrthoGrad",
        "PCGrad",
        "SAM",
        "SafeFP16Optimizer",
        "ScheduleFreeWrapper",
        "TRAC",
        "WSAM",
    }
)


@dataclass(frozen=True)
class Refusal:
    """Reason and symptom of an optimizer that cannot be adapted.

    Attributes:
        reason: for the user.
        error: what ``adapt`` or the first step raises; None where E silently has no effect.
        match: a pattern in the message.
    """

    reason: str
    error: type[Exception] | None = None
    match: str = ""


_FUSED = "updates each parameter inside backward(), so there is no gradient left to adapt and step() does nothing"

EXCEPTIONS: dict[str, Refusal] = {
    "adalomo": Refusal(_FUSED, TypeError, "inside the backward pass"),
    "bsam": Refusal(
        "evaluates the closure twice per step, at two other points",
        RuntimeError,
        "evaluates the closure again",
    ),
    "lbfgs": Refusal("evaluates the closure several times per step", TypeError, "several times per step"),
    "lomo": Refusal(_FUSED, TypeError, "inside the backward pass"),
    "magma": Refusal("wraps an AdamW that it builds itself", TypeError, "wraps another optimizer"),
}

_CAST = "torch.optim's load_state_dict casts a float32 state to the parameter's float64"

# Optimizers that do not resume exactly without E either.
BASE_FAULTS: dict[tuple[str, torch.dtype], str] = {
    ("kron", torch.float64): _CAST,
    ("nadam", torch.float64): _CAST,
    ("qhadam", torch.float64): _CAST,
}
