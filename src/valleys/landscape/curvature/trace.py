"""The trace of the Hessian, or of the Gauss-Newton matrix, by random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.landscape.curvature.hvp import LinearOperator, SymmetricOperator, curvature_of, dot, require_memory
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter

__all__ = ["Estimate", "trace"]

METHODS = ("hutchinson", "hutch++")


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number with its error bar.

    Args:
        value: the estimate.
        standard_error: of the value, over the random vectors: about 2 of them to either side make 95 % when there are
            20 samples or more. It says nothing about how far these batches stand for others.
        matvecs: the products that it cost, without the one that tests the symmetry.
        samples: float64, (s,), the independent estimates whose mean is the value.
    """

    value: float
    standard_error: float
    matvecs: int
    samples: Tensor


def trace(
    objective: Objective | SymmetricOperator | LinearOperator,
    *,
    kind: str = "hessian",
    method: str = "hutchinson",
    matvecs: int = 100,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Estimate:
    r"""Estimate the trace: the sum of all eigenvalues.

    .. math:: \mathrm{tr}\,H \approx \frac1m \sum_{i=1}^m z_i^\top H z_i, \qquad
        \mathrm{tr}\,H \approx \mathrm{tr}(Q^\top H Q) + \frac3m \sum_{i=1}^{m/3} z_i^\top P H P z_i

    for entries of z that are 1 or -1 with equal chance (the first: Hutchinson), and for a basis Q of H times m/3 such
    vectors, :math:`P = I - Q Q^\top` (the second: Hutch++). Both are unbiased. Hutch++ treats the large eigenvalues
    exactly and is far better where a few dominate; its error bar comes from the remaining sum alone, since the first
    term has none. Where the eigenvalues are alike, it is worse than Hutchinson: it has a third of the samples.

    Hutchinson keeps about seven vectors of ``objective.numel``; Hutch++ keeps m/3 more.

    Args:
        objective: the loss as a function of the parameters, or a symmetric linear operator with ``shape``, ``dtype``,
            ``device`` and ``@``: a ``Curvature``, one of curvlinops, a matrix.
        kind: ``hessian`` or ``ggn``.
        method: ``hutchinson`` or ``hutch++``.
        matvecs: m, products to make: 2 or more, for Hutch++ 4 or more. Default: 100.
        seed: of the random vectors.
        progress: a function of the products made and to make, or True for a counter on a terminal.

    Returns:
        The estimate with its standard error.

    Raises:
        ValueError: an unknown kind or method, too few products, or vectors that do not fit into memory.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))
        >>> result = trace(Objective(model, torch.nn.functional.mse_loss, [batch]))  # H = diag(1, 9)
        >>> result.value, result.standard_error
        (10.0, 0.0)

    Source: Hutchinson 1990, A stochastic estimator of the trace of the influence matrix; Meyer, Musco, Musco, Woodruff
        2021, arXiv 2010.09649, Algorithm 1.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: choose one of {', '.join(METHODS)}")
    fewest = 2 if method == "hutchinson" else 4
    if matvecs < fewest:
        raise ValueError(f"matvecs {matvecs}: {method} needs {fewest} or more, to have an error bar; 100 is usual")
    curvature = curvature_of(objective, kind)
    generator = torch.Generator().manual_seed(seed)
    report = reporter(progress, "trace")
    basis, exact, count = None, 0.0, 0
    samples = matvecs
    if method == "hutch++":
        width = matvecs // 3
        remedy = f"fewer matvecs than {matvecs}, or method='hutchinson', which keeps none"
        require_memory(curvature, min(width, curvature.numel), remedy)
        basis, count = _range(curvature, width, generator, lambda made: report(made, matvecs))
        for row in basis:
            exact += dot(row, curvature.matvec_flat(row))
            count += 1
            report(count, matvecs)
        samples = matvecs - 2 * (matvecs // 3)
    total = count + samples
    values = []
    for _ in range(samples):
        vector = rademacher(curvature, generator)
        if basis is not None:
            vector -= basis.T @ (basis @ vector)
        values.append(exact + dot(vector, curvature.matvec_flat(vector)))
        count += 1
        report(count, total)
    each = torch.tensor(values, dtype=torch.float64)
    return Estimate(each.mean().item(), each.std().item() / math.sqrt(samples), count, each)


def rademacher(curvature: SymmetricOperator, generator: torch.Generator) -> Tensor:
    """Return a vector of (numel,) of random signs, the same on every device."""
    signs = torch.empty(curvature.numel, dtype=curvature.dtype).bernoulli_(0.5, generator=generator)
    return signs.mul_(2).sub_(1).to(curvature.device)


def _range(
    curvature: SymmetricOperator, width: int, generator: torch.Generator, report: Callable[[int], None]
) -> tuple[Tensor, int]:
    """Orthonormal rows that span H times random vectors, fewer where its rank is smaller; the products made."""
    shape, device = (min(width, curvature.numel), curvature.numel), curvature.device
    basis = torch.empty(shape, dtype=curvature.dtype, device=device)
    smallest = 100 * torch.finfo(curvature.dtype).eps
    rank = products = 0
    while products < width and rank < curvature.numel:
        row = curvature.matvec_flat(rademacher(curvature, generator))
        before = torch.linalg.vector_norm(row)
        for _ in range(2):  # once leaves what rounding made of the large components
            row -= basis[:rank].T @ (basis[:rank] @ row)
        after = torch.linalg.vector_norm(row)
        if after > smallest * before:  # else the rest is rounding; leaving it out is harmless, since P then keeps it
            basis[rank] = row / after
            rank += 1
        products += 1
        report(products)
    return basis[:rank], products
