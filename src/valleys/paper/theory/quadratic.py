r"""The noisy quadratic model with E-adapted momentum SGD: its expected loss, exactly, without sampling.

The loss is :math:`\frac12 \sum_i h_i \theta_i^2`; the gradient along i is :math:`h_i\theta_i + \xi`, with
:math:`\operatorname{Var} \xi = v_i / B` for a batch of B. Each direction is a linear system of three numbers,
y = (theta, m / h, s / h), whose mean and second moment obey

.. math:: \mu_{k+1} = A_k \mu_k, \qquad S_{k+1} = A_k S_k A_k^\top + \frac{v}{B h^2}\, b_k b_k^\top

Two ways to the loss are faster. With a constant learning rate, powers of two of A: ten thousand steps are fourteen
products (``loss_after``). With any schedule, the loss alone needs no second moment: read backwards, what the last
theta owes to each earlier step is a row of three numbers (``final_loss``). Both take many hyperparameters at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from valleys.paper.theory.checks import Floats, decay, real, whole
from valleys.paper.theory.stability import iteration_matrix

__all__ = ["NoisyQuadratic"]


class Hyper(NamedTuple):
    """Hyperparameters of E-adapted momentum SGD: numbers, or arrays of one shape (n,) for n settings at once."""

    lr: ArrayLike  # learning rate, the first one if it decays
    c: ArrayLike = 0.0  # alpha (1 - beta1); 0 is momentum without E
    beta1: ArrayLike = 0.0  # decay of E's memory, in [0, 1)
    beta2: ArrayLike = 0.0  # decay of the momentum, in [0, 1)


@dataclass(frozen=True)
class NoisyQuadratic:
    r"""Independent directions of given curvatures, with gradient noise.

    Args:
        curvatures: (d,) h, positive. Default: 60 at equal ratios from 1 to 1e-3.
        noise: (d,) v, the variance of one example's gradient, at least 0. Default: h, as Zhang et al. take it: the
            gradients of a well-specified model have the curvature as their covariance.
        start: (d,) theta at the beginning. Default: ones.

    Raises:
        ValueError: an argument out of range or of another length.

    Example:
        >>> round(NoisyQuadratic().first_loss, 3)  # half the sum of the curvatures
        4.521

    Source: Zhang et al. 2019, arXiv 1907.04164; 60 curvatures and their range are ours.
    """

    curvatures: ArrayLike | None = None
    noise: ArrayLike | None = None
    start: ArrayLike | None = None

    def __post_init__(self) -> None:
        h = (
            np.geomspace(1.0, 1e-3, 60)
            if self.curvatures is None
            else np.atleast_1d(np.asarray(self.curvatures, float))
        )
        h = real("curvatures", h, 0.0, np.inf, "the model has a minimum in every direction", low_open=True)
        v = h if self.noise is None else np.asarray(self.noise, float)
        v = real("noise", v, 0.0, np.inf, "it is a variance; 0 is a gradient without noise")
        theta = np.ones_like(h) if self.start is None else np.asarray(self.start, float)
        theta = real("start", theta, -np.inf, np.inf, "it is theta at step 0")
        for name, array in (("noise", v), ("start", theta)):
            if array.shape != h.shape:
                raise ValueError(f"{name} has shape {array.shape}, the curvatures {h.shape}; give one per direction")
        object.__setattr__(self, "curvatures", h)
        object.__setattr__(self, "noise", v)
        object.__setattr__(self, "start", theta)
        if not self.first_loss > 0:
            raise ValueError("start: all zero is the minimum; there is nothing to measure a loss against")

    @property
    def first_loss(self) -> float:
        """The loss at the start."""
        return float(0.5 * np.sum(self.h * np.square(np.asarray(self.start))))

    @property
    def h(self) -> Floats:
        """The curvatures as an array."""
        return np.asarray(self.curvatures)

    def weights(self, batch: float) -> tuple[Floats, Floats]:
        """Return the weights in the relative loss of squared responses of theta to the start and to a noise of one."""
        real("batch", batch, 0.0, np.inf, "it is a number of examples", low_open=True)
        scale = 0.5 * self.h / self.first_loss
        return scale * np.square(np.asarray(self.start)), scale * np.asarray(self.noise) / (batch * self.h**2)


def loss_after(model: NoisyQuadratic, hyper: Hyper, batch: float, steps: int) -> Floats:
    r"""Return the expected loss after some steps of a constant learning rate, relative to the first loss.

    .. math:: A_{2n} = A_n^2, \qquad W_{2n} = A_n W_n A_n^\top + W_n

    so that the time is that of :math:`\log_2` steps products of 3 x 3 matrices. The loss, (n,), is infinity beyond
    float64.

    Example:
        >>> loss_after(NoisyQuadratic(), Hyper(lr=[0.1, 1.0]), batch=100, steps=10_000).round(5)
        array([0.00059, 0.00712])
    """
    whole("steps", steps, 0, "0 is the start")
    lr, c, b1, b2 = _columns(hyper)
    x = lr * model.h
    A = iteration_matrix(x, c / (1 - b1), b1, b2)
    b = _noise_input(x, c, b1)
    from_start, from_noise = model.weights(batch)
    with np.errstate(over="ignore", invalid="ignore"):
        W = b[..., :, None] * b[..., None, :]
        whole_A = np.broadcast_to(np.eye(3), A.shape)
        whole_W = np.zeros_like(W)
        while steps:
            if steps & 1:
                whole_W = A @ whole_W @ A.swapaxes(-1, -2) + W
                whole_A = A @ whole_A
            steps >>= 1
            if steps:
                W = A @ W @ A.swapaxes(-1, -2) + W
                A = A @ A
        loss = np.square(whole_A[..., 0, 0]) @ from_start + whole_W[..., 0, 0] @ from_noise
    return _finite(loss)


def final_loss(model: NoisyQuadratic, hyper: Hyper, batch: float, schedule: ArrayLike) -> Floats:
    """Return the expected loss after the last step of a learning-rate schedule, relative to the first loss.

    The schedule, (steps,) or (n, steps), has factors of the learning rate; the loss, (n,), is infinity beyond float64.

    Example:
        >>> from valleys.paper.theory.search import SCHEDULES
        >>> model, hyper = NoisyQuadratic(), Hyper(lr=[1.0])
        >>> final_loss(model, hyper, 10, SCHEDULES["constant"](1000)).round(3)
        array([0.071])
        >>> final_loss(model, hyper, 10, SCHEDULES["cosine"](1000)).round(3)
        array([0.002])
    """
    factors = real("schedule", schedule, -np.inf, np.inf, "one factor of the learning rate per step")
    *_, last = _responses(model, hyper, batch, factors)
    return last


def steps_to(
    model: NoisyQuadratic, hyper: Hyper, batch: float, target: float, limit: int, *, fraction: bool = False
) -> Floats:
    """Return the first step of a constant learning rate after which the expected loss is at most the target.

    Infinity where ``limit`` steps do not suffice. With ``fraction`` the logarithm of the loss is interpolated within
    the step, which a search can climb.

    Example:
        >>> steps_to(NoisyQuadratic(), Hyper(lr=[0.5, 1.5]), batch=1e5, target=0.01, limit=1000)
        array([87., 29.])
    """
    real("target", target, 0.0, 1.0, "it is a part of the first loss", low_open=True)
    whole("limit", limit, 1, "the search for the step ends there")
    curve = _responses(model, hyper, batch, None)
    before = next(curve)
    steps = np.full(before.shape, np.inf)
    for step in range(1, limit + 1):
        loss = next(curve)
        crossed = (loss <= target) & np.isinf(steps)
        if crossed.any():
            part = 1.0
            if fraction:
                part = np.log(before[crossed] / target) / np.log(before[crossed] / loss[crossed])
            steps[crossed] = step - 1 + part
            if np.isfinite(steps).all():
                break
        before = loss
    return steps


def _responses(model: NoisyQuadratic, hyper: Hyper, batch: float, schedule: Floats | None) -> Iterator[Floats]:
    """Yield the relative loss at the end of the last 0, 1, 2, ... steps of a schedule, or of a constant learning rate.

    The row (t, m, s) is the response of the last theta to the state; one more step before it multiplies it by A from
    the right. With a constant lr the last k steps are any k steps, so that the values are the loss after k steps.
    """
    lr, c, b1, b2 = _columns(hyper)
    from_start, from_noise = model.weights(batch)
    lead, rest = 1 + c, 1 - b1
    x = lr * model.h
    t, m, s, noise = np.ones_like(x), np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    q, p, spare = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    factors = None if schedule is None else np.atleast_1d(schedule)[..., ::-1]
    steps = None if factors is None else factors.shape[-1]
    # Buffers are reused: the arrays are small, and what a step would spend on allocation is most of its time.
    with np.errstate(over="ignore", invalid="ignore"):
        count = 0
        while True:
            np.multiply(t, t, out=spare)
            yield _finite(spare @ from_start + noise @ from_noise)
            if count == steps:
                return
            np.multiply(x, t, out=q)
            if factors is not None:
                q *= factors[..., count, None]
            np.subtract(m, q, out=q)  # what the new momentum is worth: it moves theta, and it stays
            np.multiply(q, lead, out=p)
            np.multiply(s, rest, out=spare)
            p += spare  # what the gradient is worth
            np.multiply(p, p, out=spare)
            noise += spare
            t += p
            np.multiply(q, b2, out=m)
            s *= b1
            q *= c
            s -= q
            count += 1


def _columns(hyper: Hyper) -> tuple[Floats, Floats, Floats, Floats]:
    """Check the settings, and return them as columns (n, 1)."""
    lr = real("lr", hyper.lr, 0.0, np.inf, "the first learning rate", low_open=True)
    c = real("c", hyper.c, -np.inf, np.inf, "c = alpha (1 - beta1); 0 switches E off")
    arrays = np.broadcast_arrays(lr, c, decay("beta1", hyper.beta1), decay("beta2", hyper.beta2))
    if arrays[0].ndim > 1:
        raise ValueError(f"hyper broadcasts to shape {arrays[0].shape}; give numbers, or arrays of one shape (n,)")
    lr, c, b1, b2 = (np.atleast_1d(array)[:, None] for array in arrays)
    return lr, c, b1, b2


def _noise_input(x: Floats, c: Floats | float, b1: Floats | float) -> Floats:
    """Return b, which a noise of one in the gradient (in units of h) adds to (theta, m / h, s / h)."""
    lead, rest = np.broadcast_to(1 + c, x.shape), np.broadcast_to(1 - b1, x.shape)
    return np.stack([-x * lead, lead, rest], axis=-1)


def _finite(loss: Floats) -> Floats:
    return np.where(np.isnan(loss), np.inf, loss)
