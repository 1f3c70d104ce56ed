"""The outermost eigenvalues of the Hessian, or of the Gauss-Newton matrix, each with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from valleys.landscape.curvature.density import lanczos, tridiagonal
from valleys.landscape.curvature.hvp import LinearOperator, SymmetricOperator, curvature_of, dot, norm, require_memory
from valleys.landscape.objective import Objective
from valleys.landscape.progress import Progress, reporter

__all__ = ["Eigen", "eigenvalues"]

WHICH = ("largest", "magnitude", "smallest")
_RESTARTS = 300
_PROBE = 5  # Lanczos steps from which the size of the largest eigenvalue is guessed, within a factor of 2
_COARSE = 1e-2  # tolerance of the search for eigenvalues of the other sign

Array = NDArray[Any]
Product = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Eigen:
    r"""Eigenvalues and how far to trust them.

    Args:
        values: float64, (k,), descending: Rayleigh quotients of the vectors found.
        residuals: float64, (k,): :math:`|H v - \lambda v|` of each pair. An exact eigenvalue lies within that distance
            of the value, and usually within about its square over the distance to the next eigenvalue.
        batch_values: float64, (k, batches): :math:`v^\top H_j v`, of each batch alone, scaled so that its mean,
            weighted by the batches' examples, is the value.
        standard_error: float64, (k,): of the value as an estimate for the data that the batches were drawn from, by
            the spread of ``batch_values``; NaN with one batch. Since v fits these batches, the largest eigenvalue is
            also too large on the average, which a standard error cannot show.
        matvecs: the products that it cost, without the one or two that test the symmetry.
        vectors: where asked for, k unit vectors, each a tuple of tensors of the parameters' shapes; else None.
    """

    values: Tensor
    residuals: Tensor
    batch_values: Tensor
    standard_error: Tensor
    matvecs: int
    vectors: tuple[tuple[Tensor, ...], ...] | None = None


def eigenvalues(
    objective: Objective | SymmetricOperator | LinearOperator,
    k: int = 1,
    *,
    kind: str = "hessian",
    which: str = "largest",
    tolerance: float = 1e-3,
    max_iterations: int | None = None,
    vectors: bool = False,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> Eigen:
    r"""The k outermost eigenvalues, by Lanczos.

    .. math:: H v_i = \lambda_i v_i

    ARPACK's restarted Lanczos (``scipy.sparse.linalg.eigsh``) over products of H with vectors in the parameters' type.
    A Krylov space holds one vector of each eigenvalue, so that copies of equal eigenvalues can be missed; hence, for
    k > 1, it is run again on the complement of what was found, until nothing there belongs to the k. For ``magnitude``
    both ends are looked at. Where the matrix is no larger than Lanczos' basis, all of it is built instead, and
    ``tolerance`` is not used.

    Memory: about 3 k + 18 vectors of ``objective.numel`` (for ``magnitude`` k more), of which about 5 on the
    parameters' device, besides the parameters and the graph of one batch.

    Args:
        objective: the loss as a function of the parameters, or a symmetric linear operator with ``shape``, ``dtype``,
            ``device`` and ``@``: a ``Curvature``, one of curvlinops, a matrix.
        k: how many; 1 to ``objective.numel``. Default: 1.
        kind: ``hessian`` or ``ggn``.
        which: ``largest``, ``smallest`` (the most negative) or largest in ``magnitude``.
        tolerance: of a residual, as a fraction of the magnitude of the largest eigenvalue; between 0 and 1. In float32
            less than 1e-5 is out of reach. Default: 1e-3, which mostly leaves six digits of the largest eigenvalue.
        max_iterations: restarts, of k + 6 products each. Default: None, 300.
        vectors: return the eigenvectors as well.
        seed: of the start vector.
        progress: a function of the products made and to make (the most that may be needed; at the end, those that were
            made), or True for a counter on a terminal.

    Returns:
        The eigenvalues, the residuals that bound their errors, and their spread over the batches.

    Raises:
        ValueError: an argument out of range, or vectors that do not fit into memory.
        RuntimeError: no convergence within ``max_iterations``, or a product that is not finite.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = (torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1))
        >>> eigenvalues(Objective(model, torch.nn.functional.mse_loss, [batch]), k=2).values  # H = diag(1, 9)
        tensor([9., 1.], dtype=torch.float64)

    Source: Lehoucq, Sorensen, Yang 1998, ARPACK users' guide; the residual's bound: Parlett 1998, The symmetric
        eigenvalue problem, Theorem 4.5.1. The second run on the complement is ours.
    """
    if which not in WHICH:
        raise ValueError(f"which {which!r}: choose one of {', '.join(WHICH)}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance {tolerance}: choose between 0 and 1; 1e-3 of the largest eigenvalue is usual")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations {max_iterations}: choose 1 or more, or None for {_RESTARTS}")
    curvature = curvature_of(objective, kind)
    if not 1 <= k <= curvature.numel:
        raise ValueError(f"k {k}: choose 1 to {curvature.numel}, the number of parameters")
    solver = _Solver(curvature, k, which, tolerance, max_iterations or _RESTARTS, seed, progress)
    basis = solver.dense() if curvature.numel <= solver.basis else solver.krylov()
    return solver.measured(basis, vectors)


class _Solver:
    """One call's settings, and the products that it made."""

    def __init__(
        self,
        curvature: SymmetricOperator,
        k: int,
        which: str,
        tolerance: float,
        restarts: int,
        seed: int,
        progress: Progress | bool | None,
    ) -> None:
        self.curvature, self.k, self.which = curvature, k, which
        self.tolerance, self.restarts = tolerance, restarts
        self.basis = 2 * k + 6  # Lanczos vectors; fewer than 2 k converge slowly
        self.random = np.random.default_rng(seed)
        self.made, self.report = 0, reporter(progress, "eigenvalues")
        self.most = _PROBE + self.basis + restarts * (self.basis - k) + k

    def dense(self) -> Array:
        """The vectors of a matrix that is built whole."""
        values, vectors = np.linalg.eigh(self.curvature.dense().numpy())
        self.made += self.curvature.numel
        order = np.argsort({"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[self.which])
        return np.asarray(vectors[:, order[: self.k]])

    def krylov(self) -> Array:
        """The vectors that Lanczos finds, (numel, k)."""
        remedy = "ask for fewer eigenvalues, or name fewer parameters"
        require_memory(self.curvature, 3 * self.k + 12, remedy, on_cpu=True)
        start = self.start()
        probe = lanczos(lambda v: torch.from_numpy(self.product(v.numpy())), torch.from_numpy(start), _PROBE)
        scale = float(torch.linalg.eigvalsh(tridiagonal(*probe)).abs().max()) or 1.0
        if self.which != "magnitude":
            return self.end(self.product, 1 if self.which == "largest" else -1, scale, start)[1]
        values, vectors = self.end(self.product, 1, scale, start)
        # In the complement, for the ends must not share a vector where their eigenvalues are the same.
        rest = _complement(self.product, vectors, 2 * scale)
        # The other end may be a cluster at zero, which converges slowly and matters to nobody.
        tolerance = max(self.tolerance, _COARSE)
        lowest, _ = self.arpack(rest, 1, -1, scale, self.start(), tolerance)
        if -lowest[0] + tolerance * scale < np.abs(values).min():
            return vectors
        more, others = self.end(rest, -1, scale, self.start())
        order = np.argsort(-np.abs(np.append(values, more)), kind="stable")[: self.k]
        return np.concatenate([vectors, others], axis=1)[:, order]

    def end(self, product: Product, sign: int, scale: float, start: Array) -> tuple[Array, Array]:
        """The k largest (sign 1) or smallest (-1) eigenvalues of an operator, and their vectors."""
        values, vectors = self.arpack(product, self.k, sign, scale, start)
        for _ in range(self.k if self.k > 1 else 0):
            worst = int(np.argmin(sign * values))
            extra, vector = self.arpack(_complement(product, vectors, -2 * sign * scale), 1, sign, scale, self.start())
            # A margin, since the rest may hold further copies of the worst one, equal but for rounding.
            if sign * (extra[0] - values[worst]) <= self.tolerance * abs(extra[0]) + 1e-2 * self.tolerance * scale:
                break
            vector -= vectors @ (vectors.T @ vector)
            values[worst] = extra[0]
            vectors[:, worst] = vector[:, 0] / np.linalg.norm(vector)
        return values, vectors

    def measured(self, vectors: Array, keep: bool) -> Eigen:
        """Values and residuals of the vectors by one more product each, in float64."""
        rows = []
        for column in range(self.k):
            vector = self.curvature.unflatten(torch.from_numpy(np.ascontiguousarray(vectors[:, column])))
            length = norm(vector)
            vector = tuple(part / length for part in vector)
            shares, quotients = [], []
            product = [torch.zeros_like(part) for part in vector]
            for share, parts in self.curvature.parts(vector):
                shares.append(share)
                quotients.append(sum(dot(left, right) for left, right in zip(vector, parts, strict=True)))
                torch._foreach_add_(product, list(parts))
            self.count()
            value = sum(quotients)
            left = [one - value * part for one, part in zip(product, vector, strict=True)]
            rows.append((value, norm(left), shares, quotients, vector if keep else None))
        self.report(self.made, self.made)
        rows.sort(key=lambda row: -row[0])
        *numbers, eigenvectors = zip(*rows, strict=True)
        values, residuals, weights, sums = (torch.tensor(column, dtype=torch.float64) for column in numbers)
        batch_values = sums / weights[0]
        error = _standard_error(batch_values, weights[0], values)
        return Eigen(values, residuals, batch_values, error, self.made, eigenvectors if keep else None)

    def arpack(
        self, product: Product, k: int, sign: int, scale: float, start: Array, tolerance: float | None = None
    ) -> tuple[Array, Array]:
        """The same by one run of ARPACK, for an operator whose eigenvalues are not much larger than the scale."""
        from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

        # ARPACK's tolerance is relative to the eigenvalue itself, and never met by one near zero. All eigenvalues,
        # shifted by twice the scale, are of its order; the Krylov space stays the same.
        n, kind, shift = len(start), start.dtype, 2 * scale

        def shifted(vector: Array) -> Array:
            flat = vector.reshape(-1)
            return np.asarray(sign * product(flat) + kind.type(shift) * flat, kind)

        try:
            values, vectors = eigsh(
                LinearOperator((n, n), matvec=shifted, dtype=kind),
                k,
                which="LA",
                v0=start,
                ncv=2 * k + 6,
                maxiter=self.restarts,
                tol=(tolerance or self.tolerance) / 3,
            )
        except ArpackError as error:
            raise RuntimeError(
                f"the eigenvalues did not converge after {self.made} products ({error}): raise max_iterations "
                f"({self.restarts}) or tolerance ({self.tolerance}), or use float64"
            ) from error
        return sign * (values.astype(np.float64) - shift), vectors

    def product(self, vector: Array) -> Array:
        """The curvature's product, counted."""
        result = self.curvature.matvec_flat(torch.tensor(vector)).cpu().numpy()
        self.count()
        return np.asarray(result)

    def start(self) -> Array:
        """A random vector in the parameters' type."""
        kind = np.float64 if self.curvature.dtype == torch.float64 else np.float32
        return self.random.standard_normal(self.curvature.numel, dtype=kind)

    def count(self) -> None:
        """One product more."""
        self.made += 1
        self.report(self.made, max(self.most, self.made + 1))


def _complement(product: Product, vectors: Array, away: float) -> Product:
    """Deflate ``vectors``: project them out and shift their eigenvalue out of the searched range."""

    def projected(vector: Array) -> Array:
        inside = vectors @ (vectors.T @ vector)
        result = product(vector - inside)
        result = result - vectors @ (vectors.T @ result)
        return np.asarray(result + vectors.dtype.type(away) * inside)

    return projected


def _standard_error(batch_values: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    """Of a mean over batches, weighted by their examples: that of a ratio of two means."""
    count = len(weights)
    if count < 2:
        return torch.full_like(values, math.nan)
    squares = (weights * (batch_values - values[:, None])).square().sum(1)
    return (squares * count / (count - 1)).sqrt()
