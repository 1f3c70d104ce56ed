"""SGD, Adam and LAMB beside their adapted forms and beside themselves with a memory as long as E's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from valleys.adaptor import ESGD, EAdam
from valleys.alto import ALTO, Lamb
from valleys.hyperparameters import check_explore

__all__ = ["FAMILIES", "PRESETS", "Walker", "equal_memory", "walkers"]


@dataclass(frozen=True)
class Family:
    """A plain optimizer and its adapted form."""

    plain: str
    adapted: str
    layerwise: bool = False  # whether it couples the coordinates of a tensor, so that walks need tensors of their own


FAMILIES: Mapping[str, Family] = {
    "sgd": Family("SGD", "ESGD"),
    "adam": Family("Adam", "EAdam"),
    "lamb": Family("LAMB", "ALTO", layerwise=True),
}
"""By the name of the plain one."""


@dataclass(frozen=True)
class Preset:
    """Settings for the walks on one function."""

    steps: int
    lr: Mapping[str, float]  # learning rate of each family
    alpha: float = -50.0  # strength of E
    beta1: float = 0.99  # memory of E
    momentum: float = 0.9  # of SGD, and first beta of Adam and LAMB, of ESGD, EAdam and ALTO just so
    # Memory of the second moments: of Adam's family and of LAMB's.
    beta2: Mapping[str, float] = field(default_factory=lambda: {"adam": 0.999, "lamb": 0.99})


def _lr(sgd: float, adam: float, lamb: float) -> Mapping[str, float]:
    return {"sgd": sgd, "adam": adam, "lamb": lamb}


PRESETS: Mapping[str, Preset] = {
    "cardioid": Preset(2000, _lr(3e-4, 0.01, 0.003)),
    "rosenbrock": Preset(2000, _lr(3e-4, 0.01, 0.003)),
    "f1": Preset(2000, _lr(0.03, 0.01, 0.003), alpha=-80.0, momentum=0.95),
    "f2": Preset(300, _lr(0.01, 0.1, 0.1), alpha=-90.0),
    "beale": Preset(2000, _lr(1e-4, 0.01, 0.003)),
    "himmelblau": Preset(500, _lr(1e-3, 0.1, 0.03)),
    "rastrigin": Preset(500, _lr(1e-3, 0.1, 0.03)),
}
"""Settings by the function's name. Alpha, beta1 and the momentum of ALTO on f1 and f2 are those of the paper's Fig. 8;
all else is ours."""


@dataclass(frozen=True)
class Walker:
    """An optimizer with all its settings.

    Args:
        name: of the optimizer; the control's ends in "equal memory".
        role: "plain", "adapted" or "control".
        family: a name in ``FAMILIES``.
        lr: learning rate.
        momentum: of SGD, or memory of the first moment.
        make: makes it from a list of parameters.
    """

    name: str
    role: str
    family: str
    lr: float
    momentum: float
    make: Callable[[list[Tensor]], Optimizer]


def equal_memory(momentum: float, alpha: float) -> float:
    r"""Return the momentum with which plain SGD remembers gradients for as long, on average, as E-adapted SGD.

    .. math:: \mu' = \frac{A}{1 + A}, \qquad A = \frac{\mu}{1 - \mu} - \alpha

    An update is a weighted sum of past gradients. E leaves the sum of the weights as it is, and changes the mean age
    from :math:`\mu / (1 - \mu)` steps to A: of the adapted gradient :math:`(1 + c)\,g + (-c)\,s`,
    :math:`c = \alpha (1 - \beta_1)`, the second part is :math:`1 / (1 - \beta_1)` steps old on average. So alpha < 0 is
    a longer memory, and this the plain optimizer to compare it with. SGD's learning rate is to be multiplied by
    :math:`(1 - \mu') / (1 - \mu)`, which leaves the sum of the weights as it was; Adam's and LAMB's is not, as their
    first moment is an average.

    Args:
        momentum: mu, in [0, 1).
        alpha: of E, at most mu / (1 - mu).

    Returns:
        The momentum, in [0, 1).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> equal_memory(0.9, 0.0), round(equal_memory(0.95, -80.0), 3)
        (0.9, 0.99)

    Source: ours.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum {momentum}: choose 0 <= momentum < 1")
    age = momentum / (1 - momentum) - alpha
    if not age >= 0:
        raise ValueError(
            f"alpha {alpha}: no memory is as short; at momentum {momentum} choose at most {momentum / (1 - momentum):g}"
        )
    return momentum if alpha == 0 else age / (1 + age)


def walkers(
    family: str,
    lr: float,
    *,
    alpha: float = -50.0,
    beta1: float = 0.99,
    momentum: float = 0.9,
    beta2: float = 0.999,
) -> tuple[Walker, Walker, Walker]:
    """Return the plain optimizer, its adapted form, and the plain one with equal memory (:func:`equal_memory`).

    All have the same learning rate, but that SGD with equal memory has the same sum of weights instead. There is no
    weight decay. LAMB and ALTO have ``layer_adaptation=True``: a point is a vector, to which their default gives no
    layerwise ratio, and the paper's Alg. 2 does.

    Args:
        family: sgd, adam or lamb.
        lr: learning rate, > 0.
        alpha: strength of E, ``|alpha| * (1 - beta1) < 1`` and at most 0. Default: -50.
        beta1: memory of E, in [0, 1). Default: 0.99.
        momentum: SGD's, and the memory of the first moment of the others, in [0, 1). Default: 0.9.
        beta2: memory of the second moment, in [0, 1); SGD has none. Default: 0.999.

    Returns:
        Plain, adapted, control.

    Raises:
        ValueError: an unknown family, or a value out of range.

    Example:
        >>> [(walker.name, round(walker.momentum, 4)) for walker in walkers("adam", 0.01)]
        [('Adam', 0.9), ('EAdam', 0.9), ('Adam, equal memory', 0.9833)]

    Source: Zhao et al. 2025 (arXiv 2510.27153), Algs. 2 to 4; the control is ours.
    """
    if family not in FAMILIES:
        raise ValueError(f"optimizer {family!r}: choose of {', '.join(FAMILIES)}; each comes with its adapted form")
    if not lr > 0:
        raise ValueError(f"lr {lr}: choose a number above 0")
    if not 0 <= beta2 < 1:
        raise ValueError(f"beta2 {beta2}: choose 0 <= beta2 < 1")
    check_explore(alpha, beta1, beta_name="beta1")
    longer = equal_memory(momentum, alpha)
    plain, adapted, options = _CLASSES[family]
    names = FAMILIES[family]
    shorter_step = (1 - longer) / (1 - momentum) if family == "sgd" else 1.0

    def walker(name: str, role: str, rate: float, memory: float, strength: float) -> Walker:
        own = {"lr": rate, **options}
        own |= {"momentum": memory} if family == "sgd" else {"betas": (memory, beta2)}
        explore = {"alpha": strength, "beta": beta1} if strength else {}
        return Walker(name, role, family, rate, memory, lambda p: (adapted if explore else plain)(p, **own, **explore))

    return (
        walker(names.plain, "plain", lr, momentum, 0.0),
        walker(names.adapted, "adapted", lr, momentum, alpha),
        walker(f"{names.plain}, equal memory", "control", lr * shorter_step, longer, 0.0),
    )


# Plain and adapted class, and options of both; torch's foreach only costs time on tensors so small.
_CLASSES: Mapping[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "sgd": (torch.optim.SGD, ESGD, {"foreach": False}),
    "adam": (torch.optim.Adam, EAdam, {"foreach": False}),
    "lamb": (Lamb, ALTO, {"weight_decay": 0.0, "layer_adaptation": True}),
}
