"""What the mathematics says about E: weights of the past, stability, a noisy quadratic model, the theorems' rates.

Needs numpy; ``fit_rate`` scipy and ``valleys.paper.theory.plots`` matplotlib. See ``docs/analysis.md``.
"""

from __future__ import annotations

from valleys.paper.theory.ema import ema_age, ema_weights, nested_weights
from valleys.paper.theory.quadratic import Hyper, NoisyQuadratic, final_loss, loss_after, loss_curve, moments, steps_to
from valleys.paper.theory.search import (
    FAMILIES,
    SCHEDULES,
    STRONG,
    Best,
    Family,
    best_for_horizon,
    fewest_steps,
    shortest_horizon,
)
from valleys.paper.theory.stability import (
    Widest,
    best_rate,
    flip_limit,
    frequency_response,
    iteration_matrix,
    largest_stable_lr,
    rotation_limit,
    spectral_radius,
    stability_region,
    widest,
)
from valleys.paper.theory.theorems import GAMES, Setting, fit_rate, mean_squared_gradient, regret

__all__ = [
    "FAMILIES",
    "GAMES",
    "SCHEDULES",
    "STRONG",
    "Best",
    "Family",
    "Hyper",
    "NoisyQuadratic",
    "Setting",
    "Widest",
    "best_for_horizon",
    "best_rate",
    "ema_age",
    "ema_weights",
    "fewest_steps",
    "final_loss",
    "fit_rate",
    "flip_limit",
    "frequency_response",
    "iteration_matrix",
    "largest_stable_lr",
    "loss_after",
    "loss_curve",
    "mean_squared_gradient",
    "moments",
    "nested_weights",
    "regret",
    "rotation_limit",
    "shortest_horizon",
    "spectral_radius",
    "stability_region",
    "steps_to",
    "widest",
]
