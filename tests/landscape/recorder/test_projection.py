"""The random projection against a dense matrix, and its error against the stated one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from valleys.landscape.recorder.projection import Projection

SEEDS = 400


def matrix(projection: Projection, n: int, first: int = 0) -> Tensor:
    """(d, n): the projection of each unit vector."""
    return torch.stack([projection([row], first) for row in torch.eye(n, dtype=torch.float64)], dim=1)


def test_each_element_goes_to_one_place_with_a_sign() -> None:
    dense = matrix(Projection(40, seed=3), 100)
    assert (dense.abs().sum(0) == 1).all()
    assert (dense.abs().max(0).values == 1).all()
    assert {-1.0, 1.0} <= set(dense.flatten().tolist())


def test_neighbours_never_meet_and_go_around_the_end() -> None:
    places = matrix(Projection(33, seed=1), 320).abs().argmax(0).view(10, 32)
    assert all(len(set(run.tolist())) == 32 for run in places)
    assert any((run.diff() < 0).any() for run in places)


def test_it_is_the_dense_matrix() -> None:
    projection = Projection(64, seed=7)
    x = torch.randn(300, dtype=torch.float64)
    torch.testing.assert_close(projection([x]), matrix(projection, 300) @ x)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_it_is_linear_and_parts_add_up(sizes: list[int], seed: int) -> None:
    projection = Projection(32, seed)
    xs, ys = ([torch.randn(size, dtype=torch.float64) for size in sizes] for _ in range(2))
    whole = projection([2 * x - y for x, y in zip(xs, ys, strict=True)])
    torch.testing.assert_close(whole, 2 * projection(xs) - projection(ys))
    parts = [projection([x], number) for number, x in enumerate(xs)]
    torch.testing.assert_close(projection(xs), torch.stack(parts).sum(0))


def test_large_tensors_go_in_chunks_that_do_not_show() -> None:
    # 32 * 2^13 elements are a chunk; the second one must go on with the counter.
    n = 32 * 2**13 + 77
    projection = Projection(32)
    x = torch.randn(n, dtype=torch.float64)
    head, tail = x.clone(), x.clone()
    head[2**18 :], tail[: 2**18] = 0, 0
    torch.testing.assert_close(projection([x]), projection([head]) + projection([tail]))
    repeated = torch.zeros(n)
    repeated[: 2**18] = torch.randn(2**18)
    moved = torch.zeros(2**19)
    moved[2**18 :] = repeated[: 2**18]
    assert not torch.allclose(projection([repeated]).abs().sort().values, projection([moved]).abs().sort().values)


def test_shapes_types_and_strides_do_not_matter() -> None:
    projection = Projection(64)
    x = torch.randn(24, 10)
    expected = projection([x.reshape(-1).double()])
    torch.testing.assert_close(projection([x]), expected)
    torch.testing.assert_close(projection([x.T.contiguous().T]), expected)
    half = x.bfloat16()
    torch.testing.assert_close(projection([half]), projection([half.double()]))
    assert projection([half]).dtype == torch.float64


def test_the_seed_and_the_number_decide() -> None:
    x = [torch.randn(1000)]
    assert torch.equal(Projection(64, 1)(x), Projection(64, 1)(x))
    assert not torch.equal(Projection(64, 1)(x), Projection(64, 2)(x))
    assert not torch.equal(Projection(64, 1)(x), Projection(64, 1)(x, first=1))


def test_the_hash_stays_what_it_is() -> None:
    """Saved positions would be worthless in a version that hashes differently."""
    y = Projection(32, seed=5)([torch.arange(100.0)])
    assert y[:6].tolist() == PINNED


PINNED = [-129.0, -132.0, -135.0, -138.0, 141.0, -30.0]


@pytest.mark.parametrize("kind", ["even", "one column", "few", "normal"])
def test_lengths_are_unbiased_with_at_most_the_stated_error(kind: str) -> None:
    d, rows, columns = 128, 24, 128
    x = torch.zeros(rows, columns, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    if kind == "even":
        x[:] = 1
    elif kind == "one column":
        x[:, 5] = 1  # every 128th element: what folding by position would add up in one place
    elif kind == "few":
        x[0, 0] = x[7, 3] = 1
    else:
        x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    y = 0.3 * x + torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    squares, inners = [], []
    for seed in range(SEEDS):
        projection = Projection(d, seed)
        a, b = projection([x]), projection([y])
        squares.append(float(a @ a))
        inners.append(float(a @ b))
    ratio = torch.tensor(squares) / float(x.square().sum())
    inner = (torch.tensor(inners) - float((x * y).sum())) / float(x.norm() * y.norm())
    bound = math.sqrt(2 / d)
    # Five standard errors of a mean; a standard deviation of so many is known to 1/sqrt(2 SEEDS), a heavy tail aside.
    assert abs(float(ratio.mean()) - 1) < 5 * bound / math.sqrt(SEEDS)
    assert abs(float(inner.mean())) < 5 * bound / math.sqrt(SEEDS)
    assert float(ratio.std()) < bound * 1.15
    exact = 2 / d * (1 - float(x.pow(4).sum() / x.square().sum() ** 2))
    if kind in ("one column", "normal"):
        # Here nearly all pairs lie in different runs: the bound is reached.
        assert float(ratio.std()) == pytest.approx(math.sqrt(exact), rel=0.15)
    assert Projection(d).error == pytest.approx(bound / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 31}, "at least 32"),
        ({"dimension": 64.0}, "at least 32"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Projection(**options)
