"""Average-case sharpness: the mean rise of the loss under random perturbations."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch

from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter
from valleys.landscape.sharpness.scale import perturbation_scale, require_positive
from valleys.landscape.slices.directions import normal

__all__ = ["Averaged", "average_sharpness"]


@dataclass(frozen=True)
class Averaged:
    """A mean over random perturbations.

    Args:
        value: the mean rise of the loss.
        standard_error: of the mean, over the pairs.
        samples: how many pairs of opposite perturbations.
    """

    value: float
    standard_error: float
    samples: int


def average_sharpness(
    objective: Objective,
    sigma: float = 0.01,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
    samples: int = 50,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Averaged:
    r"""Average-case sharpness: the mean rise of the loss under Gaussian perturbations.

    .. math:: S = E_\delta \big[ L(\theta + \delta) \big] - L(\theta), \qquad
        \delta \sim N(0, \sigma^2 s^2), \quad s = 1 \text{ or, adaptive, } s = |\theta| + \eta

    Every perturbation is used with both signs, which removes the first-order term exactly, and with it most of the
    noise. What remains is :math:`\sigma^2 \mathrm{tr}(H) / 2` for a small sigma (with :math:`s H s` where adaptive).
    May be negative where the loss curves downwards.

    Args:
        objective: the loss. Its parameters are exactly as before afterwards.
        sigma: the standard deviation, above 0. Relative to the parameters where adaptive.
        adaptive: scale each element by its parameter's magnitude; same number for rescaled ReLU networks.
        eta: added to the magnitude, 0 or more; with ``adaptive`` only.
        samples: pairs of opposite perturbations, at least 2; each costs two losses.
        seed: of the perturbations.
        progress: a function of the pairs made and to make, or True for a counter on a terminal.

    Returns:
        The mean with its standard error. Infinite or NaN where a perturbed loss is.

    Raises:
        ValueError: a number out of range; eta without adaptive; an adaptive ball around zero.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 1), torch.zeros(1, 1))])
        >>> average = average_sharpness(objective, sigma=0.1, samples=1000)  # sigma^2, of the loss theta^2
        >>> abs(average.value - 0.01) < 3 * average.standard_error
        True

    Source: Andriushchenko et al. 2023 (arXiv 2302.07011), average-case adaptive sharpness; opposite pairs: Hammersley
    and Morton 1956.
    """
    require_positive(sigma, "sigma")
    if samples < 2:
        raise ValueError(f"samples {samples}: choose 2 or more, to have a standard error")
    scale = perturbation_scale(objective, adaptive, eta)
    centre = objective.value()
    generator = torch.Generator().manual_seed(seed)
    rises = []
    report = reporter(progress, "average sharpness", "pairs")
    for pair in range(samples):
        direction = objective.unflatten(objective.flatten(normal(objective, generator)) * scale)
        both = []
        for distance in (sigma, -sigma):
            with objective.moved(direction, distance):
                both.append(objective.value())
        rises.append(sum(both) / 2 - centre)
        report(pair + 1, samples)
    if not all(map(math.isfinite, rises)):
        return Averaged(sum(rises), math.nan, samples)
    return Averaged(statistics.fmean(rises), statistics.stdev(rises) / math.sqrt(samples), samples)
