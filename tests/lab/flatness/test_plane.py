"""The plane through minima: what lies in it, and how far away all else is."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from valleys.lab import LabError
from valleys.lab.flatness.plane import through


def points(count: int, size: int = 50, seed: int = 0) -> dict[str, Tensor]:
    sample = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return dict(zip("abcdefg", 1000 + 10 * sample, strict=False))  # far from zero, as weights of float32 may be


@pytest.mark.parametrize("seed", range(5))
def test_coordinates_are_distances_of_the_weights(seed: int) -> None:
    corners = points(3, seed=seed)
    plane = through(corners)
    located = {name: plane.locate(point) for name, point in corners.items()}
    assert plane.spanned_by == ("a", "b", "c")
    assert located["a"] == (0.0, 0.0, 0.0)
    assert located["b"][1] == pytest.approx(0, abs=1e-3)
    assert min(located["b"][0], located["c"][1]) > 0
    for one, other in itertools.combinations(corners, 2):
        apart = torch.dist(corners[one].double(), corners[other].double()).item()
        assert torch.dist(torch.tensor(located[one]), torch.tensor(located[other])).item() == pytest.approx(apart)
        assert located[one][2] < 1e-3


def test_the_distance_of_another_point_is_the_rest_of_least_squares() -> None:
    corners = points(4)
    plane = through(corners)
    origin, b, c, d = (corners[name].double() for name in "abcd")
    basis = torch.stack([b - origin, c - origin], dim=1)
    rest = d - origin - basis @ torch.linalg.lstsq(basis, (d - origin)[:, None]).solution[:, 0]
    x, y, distance = plane.locate(corners["d"])
    assert distance == pytest.approx(rest.norm().item())
    assert torch.allclose(plane.at(x, y), d - rest)


def test_a_point_on_the_line_is_passed_over_and_lies_in_the_plane() -> None:
    corners = points(3)
    a, b, c = corners.values()
    plane = through({"a": a, "a again": a.clone(), "b": b, "between": (a + b) / 2, "c": c})
    assert plane.spanned_by == ("a", "b", "c")
    assert plane.locate((a + b) / 2)[1:] == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize("far", [0.0, 1.0])
def test_points_on_one_line_span_no_plane(far: float) -> None:
    a = torch.ones(4)
    with pytest.raises(LabError, match="adamw, lamb, start lie at one point or on one line"):
        through({"adamw": a, "lamb": a + far * torch.arange(4), "start": a + 2 * far * torch.arange(4)})
