"""Mathematics of E: weights of the past, stability, a noisy quadratic model, the theorems' rates.

Needs numpy; ``regret`` and ``mean_squared_gradient`` need scipy. See ``docs/analysis.md`` and ``docs/mechanism.md``.
"""

from __future__ import annotations

from valleys.paper.theory.ema import ema_age, ema_weights, nested_weights
from valleys.paper.theory.quadratic import NoisyQuadratic
from valleys.paper.theory.search import FAMILIES, STRONG, Best, Family, fewest_steps, shortest_horizon
from valleys.paper.theory.stability import (
    continuous_limit,
    frequency_response,
    largest_stable_lr,
    spectral_radius,
    widest,
)
from valleys.paper.theory.theorems import GAMES, Setting, mean_squared_gradient, regret

__all__ = ["FAMILIES", "GAMES", "STRONG", "Best", "Family", "NoisyQuadratic", "Setting", "continuous_limit"]
__all__ += ["ema_age", "ema_weights", "fewest_steps", "frequency_response", "largest_stable_lr"]
__all__ += ["mean_squared_gradient", "nested_weights", "regret", "shortest_horizon", "spectral_radius", "widest"]
