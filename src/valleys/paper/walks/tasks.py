"""Descents on the test functions of the paper's Figures 1 and 8: no data, one vector, one function."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from valleys.lab.tasks.entry import Entry

if TYPE_CHECKING:
    from valleys.lab.problem.loop import Loop

# task -> function, target, steps, figure
_TASKS = {
    "fig1-cardioid": ("cardioid", 1e-6, 2000, "Fig. 1"),
    "fig1-rosenbrock": ("rosenbrock", 1e-3, 5000, "Fig. 1"),
    "fig8-f1": ("f1", 0.5, 2000, "Fig. 8"),
    "fig8-f2": ("f2", 0.01, 2000, "Fig. 8"),
}


def load(name: str) -> Loop:
    r"""Return the task of walking down a test function.

    .. math:: \theta_0 = s + 0.01\, |s|\, \epsilon, \quad \epsilon \sim N(0, I)

    from the function's start s, a point of its own for each seed, in float64. One epoch is one step, the batch is 1,
    the learning rate is constant, and loss, validation and test are the function's value. So the metric says how low a
    walk ends, which is the question for f1 and for Rosenbrock's. It is not all of it on the cardioid, where every point
    of the valley is equally low, and not on f2, whose narrow minima, in which the paper shows Adam caught, are even
    1.2e-4 lower than the wide one that ALTO goes on to: there, look at where a walk went.

    The point is a vector, so the lab's optimizers treat it as they treat biases: no weight decay, and no layerwise
    ratio for LAMB and ALTO, whose ready-made settings are not those of Fig. 8 anyway: for these, name a callable.

    Targets: 1e-6 and 1e-3 mean the floor of the valley, and its end, within what the eye would see; 0.5 on f1 lies
    between the values of its first minimum, 0.552, and of its second, 0.464; 0.01 on f2 means any minimum.

    Example:
        >>> load("fig8-f1").target
        0.5

    Source: Zhao et al. 2025 (arXiv 2510.27153), Figs. 1 and 8. The starts of Fig. 1 are not given there, the numbers of
    steps not in either; both are ours.
    """
    from valleys.lab.problem.loop import Loop
    from valleys.paper.walks.functions import FUNCTIONS
    from valleys.paper.walks.walk import descend

    function, target, steps, _ = _TASKS[name]
    return Loop(
        name=name,
        metric_name="f(x)",
        maximize=False,
        target=target,
        epochs=steps,
        batch_size=1,
        run=partial(descend, FUNCTIONS[function]),
        steps=lambda batch_size, epochs: epochs,
        examples=1,
    )


def _entry(name: str) -> Entry:
    function, _, steps, figure = _TASKS[name]
    return Entry(
        what=f"the paper's {figure}: {steps:,} steps on the test function {function}, the last value",
        data="is a formula",
        load=lambda data_dir, preset: load(name),
    )


ENTRIES = {name: _entry(name) for name in _TASKS}
"""The tasks of this module by name."""
