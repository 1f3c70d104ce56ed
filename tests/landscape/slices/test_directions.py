"""Directions: norms, orthogonality, and principal components against numpy on the full matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from valleys.landscape.objective import Objective
from valleys.landscape.slices import directions
from valleys.landscape.slices.directions import between, normalize, pca_directions, random_direction


def small(dtype: torch.dtype = torch.float64) -> Objective:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    for parameter in model.parameters():  # so that no bias or gain is 0 or 1
        nn.init.normal_(parameter)
    model = model.to(dtype).eval()
    return Objective(model, nn.functional.mse_loss, [(torch.ones(2, 1, 3, 3, dtype=dtype), torch.ones(2, 2))])


def rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def dot(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("include_biases", [False, True])
def test_every_filter_has_the_norm_of_the_parameters(include_biases: bool) -> None:
    objective = small()
    direction = random_direction(objective, include_biases=include_biases)
    for part, parameter in zip(direction, objective.parameters, strict=True):
        assert part.shape == parameter.shape
        assert part.dtype == parameter.dtype
        if parameter.dim() > 1:
            torch.testing.assert_close(rows(part).norm(dim=1), rows(parameter.detach()).norm(dim=1))
            assert not torch.allclose(rows(part).norm(), rows(part)[0].norm() * len(part) ** 0.5), "filters differ"
        elif include_biases:
            torch.testing.assert_close(part.norm(), parameter.detach().norm())
        else:
            assert not part.any()


def test_a_layer_is_scaled_as_a_whole_and_none_is_not_scaled() -> None:
    objective = small()
    direction = random_direction(objective, normalization="none", include_biases=True)
    layered = random_direction(objective, normalization="layer")
    for part, raw, parameter in zip(layered, direction, objective.parameters, strict=True):
        if parameter.dim() > 1:
            torch.testing.assert_close(part, raw / raw.norm() * parameter.detach().norm())
    values = torch.cat([part.reshape(-1) for part in direction])
    assert abs(float(values.mean())) < 4 / len(values) ** 0.5
    assert float(values.std()) == pytest.approx(1, abs=4 / (2 * len(values)) ** 0.5)
    without = random_direction(objective, normalization="none")
    assert [bool(part.any()) for part in without] == [parameter.dim() > 1 for parameter in objective.parameters]


def test_a_rescaled_network_has_the_same_slice_along_a_filter_normalised_direction() -> None:
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False)).double()
    objective = Objective(
        model, nn.functional.mse_loss, [(torch.ones(4, 3, dtype=torch.float64), torch.ones(4, 2))], check=False
    )

    def loss() -> float:
        with objective.moved(random_direction(objective), 0.7):
            return objective.value()

    before = loss()
    with torch.no_grad():
        model[0].weight.mul_(7)  # type: ignore[operator]
        model[2].weight.div_(7)  # type: ignore[operator]
    assert loss() == pytest.approx(before, rel=1e-12)


def test_seeds_repeat_differ_and_do_not_depend_on_the_type() -> None:
    first, again, other = (random_direction(small(), normalization="none", seed=seed) for seed in (1, 1, 2))
    single = random_direction(small(torch.float32), normalization="none", seed=1)
    assert torch.equal(first[0], again[0])
    assert not torch.allclose(first[0], other[0])
    torch.testing.assert_close(single[0].double(), first[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalization", ["filter", "layer", "none"])
def test_a_second_direction_may_be_orthogonal_to_the_first(normalization: str) -> None:
    objective = small()
    first = random_direction(objective, normalization=normalization, seed=1)
    plain = random_direction(objective, normalization=normalization, seed=2)
    second = random_direction(objective, normalization=normalization, seed=2, orthogonal_to=first)
    size = dot(first, first) ** 0.5 * dot(second, second) ** 0.5
    assert abs(dot(first, second)) < 1e-12 * size < abs(dot(first, plain))
    if normalization == "filter":
        for part, other, parameter in zip(first, second, objective.parameters, strict=True):
            if parameter.dim() > 1:
                assert float((rows(part) * rows(other)).sum(1).abs().max()) < 1e-12 * size, "within each filter"
                torch.testing.assert_close(rows(other).norm(dim=1), rows(parameter.detach()).norm(dim=1))


def test_a_filter_of_one_number_has_no_orthogonal_direction() -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 2, bias=False))
    objective = Objective(model, nn.functional.mse_loss, [(torch.ones(1, 1), torch.ones(1, 2))])
    first = random_direction(objective, seed=1)
    second = random_direction(objective, seed=2, orthogonal_to=first)
    assert not second[0].any()
    torch.testing.assert_close(second[1].norm(dim=1), model[1].weight.detach().norm(dim=1))  # type: ignore[operator, union-attr]


def test_a_filter_of_zeros_does_not_move() -> None:
    objective = small()
    with torch.no_grad():
        objective.parameters[0][1] = 0
    direction = random_direction(objective)
    assert not direction[0][1].any()
    assert all(part.isfinite().all() for part in direction)


def test_normalize_keeps_where_a_direction_points() -> None:
    objective = small()
    eigenvector = tuple(torch.full_like(parameter, -1e-3) for parameter in objective.parameters)
    direction = normalize(eigenvector, objective)
    for part, parameter in zip(direction, objective.parameters, strict=True):
        if parameter.dim() > 1:
            assert bool((part < 0).all())
            torch.testing.assert_close(rows(part).norm(dim=1), rows(parameter.detach()).norm(dim=1))
    same = normalize(eigenvector, objective, normalization="none", include_biases=True)
    assert all(torch.equal(a, b) for a, b in zip(same, eigenvector, strict=True))


def walk(objective: Objective, points: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    steps = torch.randn(points, objective.numel, generator=generator, dtype=torch.float64)
    return list((steps * torch.linspace(3, 0.1, points, dtype=torch.float64)[:, None]).cumsum(0))


@pytest.mark.parametrize("numbers", [7, 1 << 22])
def test_principal_directions_are_numpys(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "_NUMBERS", numbers)  # 7: in blocks of one column
    objective = small()
    path = walk(objective)
    result, explained = pca_directions(objective, path, k=3)
    matrix = np.stack([(point - path[-1]).numpy() for point in path[:-1]])
    _, singular, right = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(explained, singular[:3] ** 2 / np.sum(matrix**2), rtol=1e-12)
    for row, direction in zip(right, result, strict=False):
        flat = objective.flatten(direction).numpy()
        coordinates = matrix @ flat
        assert coordinates[np.abs(coordinates).argmax()] > 0, "the sign"
        np.testing.assert_allclose(flat, row * np.sign(row @ flat), atol=1e-12)


def test_a_path_of_tensors_is_the_path_of_vectors() -> None:
    objective = small()
    path = walk(objective)
    mixed: list[Tensor | tuple[Tensor, ...]] = [path[0], *(objective.unflatten(point) for point in path[1:])]
    flat, tensors = pca_directions(objective, path), pca_directions(objective, mixed)
    assert flat[1] == pytest.approx(tensors[1], rel=1e-12)
    for a, b in zip(flat[0], tensors[0], strict=True):
        assert [part.shape for part in b] == [parameter.shape for parameter in objective.parameters]
        torch.testing.assert_close(a, b)


def test_a_weak_second_direction_is_still_orthogonal_and_of_length_one() -> None:
    objective = small()
    one, two = torch.linalg.qr(torch.randn(objective.numel, 2, dtype=torch.float64)).Q.T
    path = [3 * one + 1e-5 * two, 2 * one - 1e-5 * two, one, torch.zeros_like(one)]
    directions, explained = pca_directions(objective, path)
    first, second = (objective.flatten(direction) for direction in directions)
    assert float(first @ second) == pytest.approx(0, abs=1e-14)
    assert [float(first.norm()), float(second.norm())] == pytest.approx([1, 1], rel=1e-14)
    assert abs(float(second @ two)) == pytest.approx(1, rel=1e-8)
    assert explained[1] == pytest.approx(0, abs=1e-10)


def test_a_path_that_spans_too_little_is_refused() -> None:
    objective = small()
    step = torch.ones(objective.numel, dtype=torch.float64)
    line = [step * i for i in range(5)]
    assert pca_directions(objective, line, k=1)[1] == pytest.approx((1.0,))
    with pytest.raises(ValueError, match="spans 1 dimensions and not k = 2"):
        pca_directions(objective, line)
    with pytest.raises(ValueError, match="spans 0"):
        pca_directions(objective, [step] * 4)
    with pytest.raises(ValueError, match="k 2 of a path of 2 points"):
        pca_directions(objective, line[:2])
    with pytest.raises(ValueError, match="k 0"):
        pca_directions(objective, line, k=0)


def test_between_arrives() -> None:
    objective = small()
    target = tuple(torch.randn_like(parameter) for parameter in objective.parameters)
    with objective.moved(between(objective.parameters, target)):
        for parameter, value in zip(objective.parameters, target, strict=True):
            torch.testing.assert_close(parameter.detach(), value)
    with pytest.raises(ValueError, match="second"):
        between(target, target[1:])
    with pytest.raises(ValueError, match="shapes"):
        between([torch.zeros(2)], [torch.zeros(3)])


def test_what_is_no_direction_is_refused_by_name() -> None:
    objective = small()
    with pytest.raises(ValueError, match="normalization 'unit'"):
        random_direction(objective, normalization="unit")
    with pytest.raises(ValueError, match="normalization 'unit'"):
        normalize(objective.parameters, objective, normalization="unit")
    with pytest.raises(ValueError, match="direction: tensors of shapes"):
        normalize(objective.parameters[1:], objective)
    with pytest.raises(ValueError, match="direction: a vector of shape"):
        normalize(torch.ones(3), objective)
    with pytest.raises(ValueError, match="zero everywhere"):
        normalize([torch.zeros_like(p) for p in objective.parameters], objective)
    with pytest.raises(ValueError, match="orthogonal_to"):
        random_direction(objective, orthogonal_to=objective.parameters[:1])
    broken = walk(objective)
    broken[2][0] = torch.nan
    with pytest.raises(ValueError, match=r"path\[2\]: it holds infinities or NaN"):
        pca_directions(objective, broken)
    with pytest.raises(ValueError, match=r"path\[0\]"):
        pca_directions(objective, [torch.zeros(3), *broken[3:]])
    flat = Objective(
        nn.Linear(1, 2), lambda _, targets: targets.sum(), [(torch.ones(1, 1), torch.ones(1))], check=False
    )
    flat = Objective(flat.model, flat.loss, [(torch.ones(1, 1), torch.ones(1))], parameters=flat.parameters[1:])
    with pytest.raises(ValueError, match="include_biases=True"):
        random_direction(flat)
