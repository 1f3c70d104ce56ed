"""The gradient noise scale: how large a batch must be before its gradient is more signal than noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.lab.errors import LabError

__all__ = ["CONFIDENCE", "Measurement", "NoiseScale"]

CONFIDENCE = 0.95
"""Of the intervals."""

_FEWEST = 5
"""Steps below which there is no interval."""


@dataclass(frozen=True)
class Measurement:
    """Estimate of the noise scale at one moment.

    Args:
        value: B_simple, in examples; None: unknown.
        interval: its confidence interval; the upper end may be infinite. None: unknown.
        trace: tr(Sigma), of one example's gradient; None before the first step.
        signal: :math:`|G|^2`; an unbiased estimate of a small number may be negative. None before the first step.
        steps: optimizer steps that took part.
    """

    value: float | None
    interval: tuple[float, float] | None
    trace: float | None
    signal: float | None
    steps: int


class NoiseScale:
    r"""Estimate the simple noise scale from the micro-batches of each step.

    .. math:: \hat S = \frac{n}{J-1} \Big(\sum_j \frac{n_j}{n} |g_j|^2 - |g|^2\Big),\quad
        \hat Q = |g|^2 - \hat S \Big(\frac1n - \frac1N\Big),\quad
        B_{simple} = \frac{\mathrm{EMA}(\hat S)}{\mathrm{EMA}(\hat Q)}

    for the mean gradients :math:`g_j` of J micro-batches of :math:`n_j` examples, :math:`n = \sum n_j`, and the batch's
    :math:`g = \sum_j n_j g_j / n`. Then :math:`E \hat S = \mathrm{tr}\,\Sigma` and :math:`E \hat Q = |G|^2` for any
    sizes. A ratio of two noisy numbers is biased, so both are averaged first and divided last.

    A batch drawn without replacement from N examples is less noisy than one drawn from an endless source, and free of
    noise when it holds all of them: hence :math:`1/N`. G is then the gradient of the mean over these N.

    The interval is Fieller's for a ratio, since :math:`|G|^2` may be indistinguishable from zero: its upper end is then
    infinite, which no method that expands or resamples the ratio would say. It covers the ratio of the averages along
    the path that training took. Given that path the steps' errors are uncorrelated, while their means drift; hence
    their covariance is taken from the differences of successive steps, in which a drift cancels, and not from blocks.

    Args:
        decay: of the exponential moving averages, in (0, 1]; 1 averages all steps alike. Default: 0.99, 100 steps.
        examples: N, the training examples that each epoch goes through without replacement. Default: None, infinitely
            many.

    Raises:
        LabError: a decay or a number of examples out of range.

    Example:
        >>> noise = NoiseScale()
        >>> noise.update([5.0, 3.0], [2, 2], 3.5)  # S = 4 (4 - 3.5) = 2, Q = 3.5 - 2/4 = 3
        >>> round(noise.value, 3), noise.interval
        (0.667, None)

    Source:
        McCandlish et al. 2018, arXiv 1812.06162, Appendix A.1 (two sizes, infinitely many examples); Fieller 1954;
        successive differences: von Neumann 1941. Micro-batches of different sizes, the finite N and the use of the
        differences are ours.
    """

    def __init__(self, decay: float = 0.99, examples: int | None = None) -> None:
        if not 0 < decay <= 1:
            raise LabError(f"decay {decay}: choose above 0 and at most 1; 0.99 averages about 100 steps")
        if examples is not None and examples < 2:
            raise LabError(f"examples {examples}: the training data holds 2 or more, or None for infinitely many")
        self.decay, self.examples, self.steps = decay, examples, 0
        # Sums with weights decay^age over the sum of these weights are the bias-corrected moving averages.
        self._sums, self._weight, self._weight2, self._weight4 = (0.0, 0.0), 0.0, 0.0, 0.0
        self._last: tuple[float, float] | None = None
        self._squares, self._products = (0.0, 0.0, 0.0), 0.0

    def update(self, square_norms: Sequence[float], sizes: Sequence[int], square_norm: float) -> None:
        """Take in one step.

        Args:
            square_norms: :math:`|g_j|^2` of each micro-batch's mean gradient; at least two.
            sizes: their examples n_j, each at least 1.
            square_norm: :math:`|g|^2` of the batch's mean gradient. A step with a norm that is not finite is left out.

        Raises:
            LabError: fewer than two micro-batches, other numbers of norms than of sizes, a size below 1, a negative
                norm, or more examples than there are.
        """
        parts, n = len(sizes), sum(sizes)
        if parts < 2 or len(square_norms) != parts:
            raise LabError(
                f"{len(square_norms)} square norms and {parts} sizes: give one of each for every micro-batch, of which "
                "the noise scale needs at least 2"
            )
        if min(sizes) < 1 or (self.examples is not None and n > self.examples):
            most = "" if self.examples is None else f", {self.examples} in all at most"
            raise LabError(f"sizes {list(sizes)}: a micro-batch has 1 example or more{most}")
        if min(*square_norms, square_norm) < 0:
            raise LabError(f"square norms {[*square_norms, square_norm]}: none can be negative")
        if not all(map(math.isfinite, (*square_norms, square_norm))):
            return
        mean = sum(size * square for size, square in zip(sizes, square_norms, strict=True)) / n
        trace = n / (parts - 1) * (mean - square_norm)
        signal = square_norm - trace * (1 / n - (0 if self.examples is None else 1 / self.examples))
        self._average(trace, signal)

    @property
    def trace(self) -> float | None:
        """The average estimate of tr(Sigma); None before the first step."""
        return self._sums[0] / self._weight if self.steps else None

    @property
    def signal(self) -> float | None:
        """The average estimate of :math:`|G|^2`, possibly negative; None before the first step."""
        return self._sums[1] / self._weight if self.steps else None

    @property
    def value(self) -> float | None:
        """B_simple in examples; None where :meth:`signal` is not positive: more steps or examples are needed."""
        trace, signal = self.trace, self.signal
        return trace / signal if trace is not None and signal is not None and signal > 0 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """A 95 % confidence interval of B_simple, infinite above where G may be zero; None after too few steps."""
        trace, signal = self.trace, self.signal
        if trace is None or signal is None or self.steps < _FEWEST:
            return None
        equal = self._weight2**2 / self._weight4  # so many steps of equal weight know the variance as well
        if equal < 2:
            return None
        from scipy import stats

        freedom = 2 * (equal - 1) ** 2 / (3 * equal - 4)  # of successive differences of normal numbers
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
        scale = quantile**2 * self._weight2 / self._weight**2 / self._products
        aa, ab, bb = (scale * square for square in self._squares)
        signal = max(signal, 0.0)  # as |G|^2 is; without this an unlucky estimate would leave no ratio at all
        # All r with (trace - r signal)^2 <= quantile^2 Var(trace - r signal), that is a r^2 - 2 b r + c <= 0.
        a, b, c = signal**2 - bb, trace * signal - ab, trace**2 - aa
        root = b + math.sqrt(max(b * b - a * c, 0.0))
        return c / root if c > 0 else 0.0, root / a if a > 0 else math.inf

    @property
    def measurement(self) -> Measurement:
        """All of it, as it stands."""
        return Measurement(self.value, self.interval, self.trace, self.signal, self.steps)

    def _average(self, trace: float, signal: float) -> None:
        keep = self.decay
        self._sums = (keep * self._sums[0] + trace, keep * self._sums[1] + signal)
        self._weight = keep * self._weight + 1
        self._weight2 = keep**2 * self._weight2 + 1
        self._weight4 = keep**4 * self._weight4 + 1
        if self._last is not None:
            s, q = trace - self._last[0], signal - self._last[1]
            aa, ab, bb = (keep**2 * square for square in self._squares)
            self._squares = (aa + s * s / 2, ab + s * q / 2, bb + q * q / 2)
            self._products = keep**2 * self._products + 1
        self._last = (trace, signal)
        self.steps += 1


class MicroGradients:
    """Gradients of a step's micro-batches: each one's norm, and their sum as plain accumulation gives it.

    A second copy of the gradients is kept during the step.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._sums: list[Tensor | None] = [None] * len(self._parameters)
        self._norms: list[Tensor] = []
        self._weights: list[float] = []

    def take(self, weight: float) -> None:
        """Take the gradients that a backward pass left; the weight, n_j / n, is the factor of its mean loss."""
        self._norms.append(_norms(parameter.grad for parameter in self._parameters))
        self._weights.append(weight)
        for number, parameter in enumerate(self._parameters):
            sums = self._sums[number]
            if sums is None:
                self._sums[number] = parameter.grad
            elif parameter.grad is not None:
                sums.add_(parameter.grad)
            parameter.grad = None

    def put(self, noise: NoiseScale, batch_size: int) -> None:
        """Leave the sums in ``.grad``, and tell the noise scale of the step, whose batch has n examples."""
        for parameter, sums in zip(self._parameters, self._sums, strict=True):
            parameter.grad = sums
        *parts, whole = (float(norm.cpu().double().square().sum()) for norm in [*self._norms, _norms(self._sums)])
        squares = [part / weight**2 for part, weight in zip(parts, self._weights, strict=True)]
        noise.update(squares, [round(weight * batch_size) for weight in self._weights], whole)


def _norms(gradients: Iterable[Tensor | None]) -> Tensor:
    """The norm of each gradient, in float32 or better: bfloat16 would leave two digits to a difference of squares."""
    tensors = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(
        [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in tensors]
        or [torch.zeros(())]
    )
