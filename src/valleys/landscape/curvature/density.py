"""The density of all eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from valleys.landscape.curvature.hvp import LinearOperator, SymmetricOperator, curvature_of, dot, require_memory
from valleys.landscape.curvature.trace import rademacher
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter

__all__ = ["Density", "density"]

_MARGIN = 6.0  # widths of the kernel from the outermost nodes to the grid's ends: 1e-9 of a kernel lies farther out


@dataclass(frozen=True, eq=False)
class Density:
    """The density of the eigenvalues on a grid, smoothed by a Gaussian.

    Args:
        grid: float64, (points,), evenly spaced eigenvalues.
        values: float64, (points,), the density there; it integrates to 1.
        standard_error: float64, (points,), of the values, over the random vectors.
        sigma: standard deviation of the smoothing Gaussian.
        nodes: float64, one (j,) for each random vector: the eigenvalues of its Lanczos matrix.
        weights: float64, one (j,) for each random vector: the shares of its nodes, which add up to 1.
        matvecs: the products that it cost, without the one that tests the symmetry.
    """

    grid: Tensor
    values: Tensor
    standard_error: Tensor
    sigma: float
    nodes: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    matvecs: int

    def moment(self, order: int) -> tuple[float, float]:
        r"""The mean of the eigenvalues' powers, free of smoothing, and its standard error.

        .. math:: \frac1n \mathrm{tr}\,H^p \approx \frac1s \sum_{i=1}^s \sum_j \tau_{ij} \theta_{ij}^p

        Order 1 is trace / numel. For each random vector it is exact up to order 2 steps - 1.

        Args:
            order: p, 0 or more.

        Returns:
            The moment, and its standard error over the random vectors.
        """
        if order < 0:
            raise ValueError(f"order {order}: choose 0 or more; eigenvalues may be zero")
        each = torch.stack([weights @ nodes**order for nodes, weights in zip(self.nodes, self.weights, strict=True)])
        return each.mean().item(), each.std().item() / math.sqrt(len(each))


def density(
    objective: Objective | SymmetricOperator | LinearOperator,
    *,
    kind: str = "hessian",
    steps: int = 80,
    samples: int = 10,
    sigma: float | None = None,
    points: int = 1024,
    reorthogonalize: bool = True,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Density:
    r"""Estimate the density of the eigenvalues: how many of them lie where.

    .. math:: \phi(t) = \frac1n \sum_{i=1}^n N(t;\, \lambda_i, \sigma^2) \;\approx\;
        \frac1s \sum_{i=1}^s \sum_{j=1}^m \tau_{ij}\, N(t;\, \theta_{ij}, \sigma^2)

    with the eigenvalues :math:`\theta_{ij}` of the m x m matrix that m Lanczos steps from the i-th random vector of
    signs leave, and the squared first entries :math:`\tau_{ij}` of its eigenvectors. The outer eigenvalues come out
    sharply; of the inner ones, only how many lie within about 1/steps of the spectrum's width is known. With as many
    steps as there are different eigenvalues all is exact but the random vectors' weights.

    Memory: ``steps`` vectors of ``objective.numel`` and about eight more. ``reorthogonalize=False`` keeps only those
    eight. Rounding then makes copies of eigenvalues that have converged, among which their weight is divided, so that
    the density and the moments stay right, while the number of nodes means nothing.

    Args:
        objective: the loss as a function of the parameters, or a symmetric linear operator with ``shape``, ``dtype``,
            ``device`` and ``@``: a ``Curvature``, one of curvlinops, a matrix.
        kind: ``hessian`` or ``ggn``.
        steps: m, Lanczos steps for each random vector, which is a product each; 1 or more. Default: 80.
        samples: s, random vectors; 2 or more. Default: 10.
        sigma: standard deviation of the smoothing Gaussian. Default: None, a hundredth of the range of the nodes.
        points: of the grid; 2 or more. Default: 1024.
        reorthogonalize: keep all Lanczos vectors, and each new one orthogonal to them.
        seed: of the random vectors.
        progress: a function of the products made and to make, or True for a counter on a terminal.

    Returns:
        The density with its standard error.

    Raises:
        ValueError: a number out of range; a grid too coarse for sigma; vectors that do not fit into memory.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))
        >>> result = density(Objective(model, torch.nn.functional.mse_loss, [batch]))  # H = diag(1, 9)
        >>> [round(node, 4) for node in result.nodes[0].tolist()], round(result.moment(1)[0], 4)
        ([1.0, 9.0], 5.0)

    Source: Golub, Welsch 1969; Lin, Saad, Yang 2016, arXiv 1308.5467; for networks Ghorbani, Krishnan, Xiao 2019, arXiv
        1901.10159, Algorithms 1 and 2. Without reorthogonalisation: Knizhnerman 1996, The simple Lanczos procedure:
        estimates of the error of the Gauss quadrature formula.
    """
    for name, number, fewest in (("steps", steps, 1), ("samples", samples, 2), ("points", points, 2)):
        if number < fewest:
            raise ValueError(f"{name} {number}: choose {fewest} or more")
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"sigma {sigma}: choose a width above 0, in units of the eigenvalues, or None")
    curvature = curvature_of(objective, kind)
    steps = min(steps, curvature.numel)
    if reorthogonalize:
        require_memory(curvature, steps, "fewer steps, or reorthogonalize=False, which keeps none of them")
    report = reporter(progress, "density")
    generator = torch.Generator().manual_seed(seed)
    count = 0

    def product(vector: Tensor) -> Tensor:
        nonlocal count
        result = curvature.matvec_flat(vector)
        count += 1
        report(count, total)
        return result

    nodes, weights = [], []
    for number in range(samples):
        total = count + (samples - number) * steps  # a run that ends early leaves less to do
        diagonal, beside = lanczos(product, rademacher(curvature, generator), steps, reorthogonalize=reorthogonalize)
        values, vectors = torch.linalg.eigh(tridiagonal(diagonal, beside))
        nodes.append(values)
        weights.append(vectors[0].square())
    report(count, count)
    low, high = min(float(values[0]) for values in nodes), max(float(values[-1]) for values in nodes)
    if sigma is None:
        spread = high - low
        sigma = 0.01 * (spread if spread > 1e-6 * max(abs(low), abs(high)) else max(abs(low), abs(high)) or 1.0)
    grid = torch.linspace(low - _MARGIN * sigma, high + _MARGIN * sigma, points, dtype=torch.float64)
    spacing = float(grid[1] - grid[0])
    if spacing > sigma:
        raise ValueError(
            f"sigma {sigma:.3g}: the grid of {points} points is {spacing:.3g} wide and would miss eigenvalues; raise "
            f"sigma, or points to {math.ceil((high - low) / sigma + 2 * _MARGIN) + 1}"
        )
    each = torch.stack([_smooth(grid, *pair, sigma) for pair in zip(nodes, weights, strict=True)])
    error = each.std(0) / math.sqrt(samples)
    return Density(grid, each.mean(0), error, sigma, tuple(nodes), tuple(weights), count)


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, steps: int, *, reorthogonalize: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Return the tridiagonal matrix of a symmetric operator in the Krylov space of a vector.

    .. math:: \beta_j q_{j+1} = H q_j - \alpha_j q_j - \beta_{j-1} q_{j-1}, \qquad \alpha_j = q_j^\top H q_j

    Gives the diagonal alpha, (j,), and the entries beta beside it, (j - 1,), in float64 on the CPU; j < steps where the
    space is exhausted. Reorthogonalizes against all earlier vectors, twice, or runs the recurrence in three vectors.

    Source: Lanczos 1950; twice is enough: Giraud, Langou, Rozloznik 2005.
    """
    current = start / torch.linalg.vector_norm(start)
    basis = torch.empty(steps if reorthogonalize else 0, len(start), dtype=start.dtype, device=start.device)
    last: Tensor | None = None
    diagonal: list[float] = []
    beside: list[float] = []
    scale, smallest = 0.0, 100 * torch.finfo(start.dtype).eps
    for step in range(steps):
        new = product(current)
        diagonal.append(dot(current, new))
        new = new - diagonal[-1] * current
        if last is not None:
            new -= beside[-1] * last
        if reorthogonalize:
            basis[step] = current
            for _ in range(2):
                new -= basis[: step + 1].T @ (basis[: step + 1] @ new)
        norm = math.sqrt(dot(new, new))
        scale = max(scale, abs(diagonal[-1]), norm)
        if step == steps - 1 or norm <= smallest * scale:
            break
        beside.append(norm)
        last, current = current, new / norm
    return torch.tensor(diagonal, dtype=torch.float64), torch.tensor(beside, dtype=torch.float64)


def tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    """Return the symmetric matrix of a diagonal and the entries beside it."""
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


def _smooth(grid: Tensor, nodes: Tensor, weights: Tensor, sigma: float) -> Tensor:
    distance = (grid[:, None] - nodes[None, :]) / sigma
    return (-distance.square() / 2).exp() @ weights / (sigma * math.sqrt(2 * math.pi))
