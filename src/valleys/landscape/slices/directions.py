"""Directions in the space of the parameters, along which a loss is worth looking at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from valleys.landscape.objective import Objective

__all__ = ["between", "normalize", "pca_directions", "random_direction"]

_NORMALIZATIONS = ("filter", "layer", "none")
_NUMBERS = 1 << 22  # of a trajectory that are in float64 at one time: 32 MiB


def random_direction(
    objective: Objective,
    *,
    normalization: str = "filter",
    seed: int = 0,
    include_biases: bool = False,
    orthogonal_to: Sequence[Tensor] | None = None,
) -> tuple[Tensor, ...]:
    r"""A Gaussian direction, scaled so that a step of 1 is as large as the parameters themselves.

    .. math:: d_{i,j} \leftarrow \frac{d_{i,j}}{\lVert d_{i,j} \rVert} \lVert \theta_{i,j} \rVert,
        \qquad d \sim N(0, I)

    for filter j of parameter tensor i. Without this scaling a ReLU network with larger weights, which may well compute
    the same function, looks flatter.

    Args:
        objective: whose parameters give shapes and norms.
        normalization: ``filter``, ``layer`` or ``none``: see ``normalize``.
        seed: of the Gaussian numbers, which are the same on every device.
        include_biases: keep the tensors of at most one dimension (biases, BatchNorm), instead of zeros.
        orthogonal_to: another direction. The new one is orthogonal to it within each filter (or layer, or as a whole),
            hence also in all, before and after the scaling. A filter of a single number has no such direction: zero.

    Returns:
        One tensor per parameter, of its shape, type and device.

    Raises:
        ValueError: an unknown normalization; another direction of other shapes; a direction that is zero everywhere.

    Example:
        >>> objective = Objective(
        ...     torch.nn.Linear(3, 2), torch.nn.functional.mse_loss, [(torch.ones(1, 3), torch.ones(1, 2))]
        ... )
        >>> weight, bias = random_direction(objective, seed=1)
        >>> torch.allclose(weight.norm(dim=1), objective.parameters[0].norm(dim=1)), bias
        (True, tensor([0., 0.]))

    Source: Li et al. 2018 (arXiv 1712.09913), Sec. 4; layers and orthogonality within filters are ours.
    """
    drawn = normal(objective, torch.Generator().manual_seed(seed))
    if orthogonal_to is not None:
        other = checked(objective, orthogonal_to, "orthogonal_to")
        drawn = _orthogonal(drawn, other, normalization)
    return normalize(drawn, objective, normalization=normalization, include_biases=include_biases)


def normalize(
    direction: Tensor | Sequence[Tensor],
    objective: Objective,
    *,
    normalization: str = "filter",
    include_biases: bool = False,
) -> tuple[Tensor, ...]:
    """Scale a direction, an eigenvector say, to the size of the parameters.

    Args:
        direction: one tensor per parameter, of its shape, or a flat vector.
        objective: whose parameters give the norms.
        normalization: ``filter``: each slice along the first dimension of a tensor of two or more gets the norm of the
            parameter's slice: an output feature of Linear and Conv, an input feature of ConvTranspose. ``layer``: each
            tensor gets the norm of the parameter. ``none``: as it is.
        include_biases: keep the tensors of at most one dimension (biases, BatchNorm), each scaled as one filter,
            instead of zeros.

    Returns:
        One tensor per parameter, of its shape, type and device. Where a filter of the parameter or of the direction is
        zero, so is the result.

    Raises:
        ValueError: an unknown normalization; a direction of other shapes, not finite, or without anything left of it.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 1))])
        >>> normalize([torch.tensor([[0.0, 0.1]])], objective)
        (tensor([[0., 5.]]),)

    Source: Li et al. 2018 (arXiv 1712.09913), Sec. 4.
    """
    if normalization not in _NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r}: choose one of {', '.join(_NORMALIZATIONS)}")
    result = []
    for part, parameter in zip(checked(objective, direction, "direction"), objective.parameters, strict=True):
        if parameter.dim() < 2 and not include_biases:
            part = torch.zeros_like(part)
        elif normalization != "none":
            rows, norms = _rows(part, normalization), _rows(parameter.detach(), normalization)
            old, new = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (rows, norms))
            part = torch.where(old > 0, rows / old * new, torch.zeros_like(rows)).reshape(part.shape)
        result.append(part)
    if not any(part.any() for part in result):
        raise ValueError(
            f"direction: nothing is left of it after normalization={normalization!r}, include_biases={include_biases}; "
            "with parameters of one dimension pass include_biases=True, with parameters that are zero "
            "normalization='none'"
        )
    return tuple(result)


def pca_directions(
    objective: Objective, path: Sequence[Tensor | Sequence[Tensor]], k: int = 2
) -> tuple[tuple[tuple[Tensor, ...], ...], tuple[float, ...]]:
    r"""The k orthonormal directions that hold most of a trajectory, seen from its last point.

    .. math:: M = [\theta_0 - \theta_n; \ldots; \theta_{n-1} - \theta_n] = U S V^T, \qquad
        \text{explained}_i = S_i^2 / \textstyle\sum_j S_j^2

    The directions are the first rows of :math:`V^T`. They come from the eigenvectors of the small matrix
    :math:`M M^T`, so that memory holds no more than the path itself, k directions and blocks of 32 MiB; a singular
    value below 1e-7 of the first is beyond its accuracy and counts as zero.

    Args:
        objective: whose parameters give the shapes.
        path: of n + 1 points, in order; each a flat vector of (numel,) or one tensor per parameter.
        k: how many directions, 1 or more. Default: 2.

    Returns:
        The directions, one tensor per parameter each, of norm 1, with the sign that makes the farthest point's
        coordinate positive; and the share of the squared distances from the last point that each explains.

    Raises:
        ValueError: k below 1; fewer than k + 1 points; a point of another shape or not finite; a path that spans fewer
            than k dimensions.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> objective = Objective(model, torch.nn.functional.mse_loss, [(torch.ones(1, 2), torch.ones(1, 1))])
        >>> path = [torch.tensor([4.0, 1.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0])]
        >>> directions, explained = pca_directions(objective, path)
        >>> directions[0][0].round(decimals=3), [round(share, 3) for share in explained]
        (tensor([[1., 0.]]), [0.941, 0.059])

    Source: Li et al. 2018 (arXiv 1712.09913), Sec. 7.2. Their program centres M at its mean; here it is not, because
    the plane that is drawn goes through the last point, and this is the plane that is closest to the path.
    """
    if k < 1 or len(path) < k + 1:
        raise ValueError(f"k {k} of a path of {len(path)} points: choose k from 1 to the number of points less one")
    for index, point in enumerate(path):
        _refuse(objective, point, f"path[{index}]")
    gram = torch.zeros(len(path) - 1, len(path) - 1, dtype=torch.float64)
    for block in _differences(objective, path):
        gram += (block @ block.T).cpu()
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    reached = int((squares > 1e-14 * squares[0]).sum())
    if reached < k:
        raise ValueError(f"path: it spans {reached} dimensions and not k = {k}; give a longer path or a smaller k")
    chosen = vectors[:, :k]
    chosen = chosen * chosen.gather(0, chosen.abs().argmax(0, keepdim=True)).sign()
    rows = torch.cat([chosen.T.to(block) @ block for block in _differences(objective, path)], dim=1)
    for index, row in enumerate(rows):  # Gram-Schmidt: the small matrix leaves the weaker ones slightly oblique
        for earlier in rows[:index]:
            row -= (earlier @ row) * earlier
        row /= torch.linalg.vector_norm(row)
    total = float(squares.sum())
    return tuple(objective.unflatten(row) for row in rows), tuple(float(x) / total for x in squares[:k])


def between(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The direction from one solution to another: a step of 1 from the first arrives at the second.

    Args:
        first: one tensor per parameter.
        second: the same shapes.

    Returns:
        second - first.

    Raises:
        ValueError: different numbers or shapes of tensors.

    Example:
        >>> between([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 5.0])])
        (tensor([0., 3.]),)

    Source: Goodfellow et al. 2015 (arXiv 1412.6544).
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"second: its shapes are {shapes[1]}; first has {shapes[0]}. Give the parameters of one model")
    return tuple(b.detach() - a.detach() for a, b in zip(first, second, strict=True))


def normal(objective: Objective, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Draw normal numbers in the parameters' shapes and types; the same numbers for every type and device."""
    return tuple(
        torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        for parameter in objective.parameters
    )


def flat(tensors: Tensor | Sequence[Tensor]) -> Tensor:
    """Return a flat vector, or tensors, as a flat vector."""
    if isinstance(tensors, Tensor):
        return tensors.detach().reshape(-1)
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def checked(
    objective: Objective, value: Tensor | Sequence[Tensor], name: str, *, zero: bool = False
) -> tuple[Tensor, ...]:
    """Return tensors of the parameters' shapes, types and device; refuse all else, and unless ``zero`` all zeros."""
    _refuse(objective, value, name)
    if not zero and not any(tensor.any() for tensor in value):
        raise ValueError(f"{name}: it is zero everywhere; give a direction that moves something")
    if isinstance(value, Tensor):
        return objective.unflatten(value.detach())
    return tuple(t.detach().to(p) for t, p in zip(value, objective.parameters, strict=True))


def _refuse(objective: Objective, value: Tensor | Sequence[Tensor], name: str) -> None:
    expected = [tuple(parameter.shape) for parameter in objective.parameters]
    if isinstance(value, Tensor):
        if tuple(value.shape) != (objective.numel,):
            raise ValueError(
                f"{name}: a vector of shape {tuple(value.shape)}; give ({objective.numel},), as objective.flatten "
                f"does, or one tensor per parameter, of shapes {expected}"
            )
    else:
        shapes = [tuple(tensor.shape) for tensor in value]
        if shapes != expected:
            raise ValueError(f"{name}: tensors of shapes {shapes}; give one per parameter, of shapes {expected}")
    if not all(tensor.isfinite().all() for tensor in ([value] if isinstance(value, Tensor) else value)):
        raise ValueError(f"{name}: it holds infinities or NaN; give finite numbers")


def _differences(objective: Objective, path: Sequence[Tensor | Sequence[Tensor]]) -> Iterator[Tensor]:
    """M in blocks of columns, in order."""
    width, offset = max(1, _NUMBERS // len(path)), 0
    for number, parameter in enumerate(objective.parameters):
        count = parameter.numel()
        rows = [
            point.detach()[offset : offset + count] if isinstance(point, Tensor) else point[number].detach().reshape(-1)
            for point in path
        ]
        offset += count
        for start in range(0, count, width):
            *block, last = (row[start : start + width].double() for row in rows)
            yield torch.stack(block) - last


def _rows(tensor: Tensor, normalization: str) -> Tensor:
    """One row for each part that is scaled by itself."""
    return tensor.reshape(len(tensor) if tensor.dim() > 1 and normalization == "filter" else 1, -1)


def _orthogonal(direction: Sequence[Tensor], other: Sequence[Tensor], normalization: str) -> tuple[Tensor, ...]:
    if normalization == "none":
        a, b = flat(direction), flat(other)
        share = (a @ b) / (b @ b)
        return tuple(part - share * against for part, against in zip(direction, other, strict=True))
    result = []
    for part, against in zip(direction, other, strict=True):
        rows, others = _rows(part, normalization), _rows(against, normalization)
        squares = others.square().sum(1, keepdim=True)
        share = torch.where(squares > 0, (rows * others).sum(1, keepdim=True) / squares, torch.zeros_like(squares))
        left = rows - share * others
        # What rounding leaves of a single number is no direction.
        after, before = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (left, rows))
        result.append(torch.where(after > 1e-3 * before, left, torch.zeros_like(left)).reshape(part.shape))
    return tuple(result)
