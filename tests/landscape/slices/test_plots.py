"""That pictures carry the numbers they were given, and are written."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from valleys.landscape.slices import plots
from valleys.landscape.slices.interpolation import Path1D
from valleys.landscape.slices.slices import Slice

# Without types: what matplotlib declares of its artists is less than what they have.
contour: Any = plots.contour
plot_1d: Any = plots.plot_1d
surface: Any = plots.surface

X = torch.linspace(-1, 2, 7, dtype=torch.float64)
Y = torch.linspace(-1, 1, 5, dtype=torch.float64)
ROUTE = torch.tensor([[1.5, 0.75], [0.5, 0.25], [0.0, 0.0]], dtype=torch.float64)


def plane(values: Tensor | None = None, metric: Tensor | None = None) -> Slice:
    return Slice(X, Y, X**2 + 3 * Y[:, None] + 5 if values is None else values, 5.0, metric)


def line(values: Tensor, metric: Tensor | None = None) -> Slice:
    return Slice(X, None, values, 0.0, metric)


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5_000


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def vertices(axes: Any) -> Any:
    """The corners of a surface's faces, which matplotlib keeps in a place that changed with version 3.10."""
    faces = axes.collections[0]
    result = faces._faces if hasattr(faces, "_faces") else faces._vec[:3].T
    return np.asarray(result).reshape(-1, 3)


def labels(ticks: Any) -> list[str]:
    return [text.get_text() for text in ticks]


def test_a_line_carries_its_numbers(tmp_path: Path) -> None:
    first, second = X**2 + 1, (X - 1) ** 2 + 1
    figure = plot_1d(
        {"a": line(first, X), "b $^2$": line(second, -X)}, tmp_path / "line.png", metric="accuracy (%)", title="t$"
    )
    loss, metric = figure.axes
    curves = [curve for curve in loss.lines if len(curve.get_xdata()) == 7]
    for curve, values in zip(curves, (first, second), strict=True):
        np.testing.assert_array_equal(curve.get_xdata(), X)
        np.testing.assert_array_equal(curve.get_ydata(), values)
    np.testing.assert_array_equal(metric.lines[1].get_ydata(), -X)
    assert curves[0].get_color() == metric.lines[0].get_color() != curves[1].get_color()
    assert legend(loss) == ["a", r"b \$^2\$"], "a dollar sign starts no formula"
    assert (loss.get_ylabel(), metric.get_ylabel(), loss.get_title()) == ("loss", "accuracy (%)", r"t\$")
    assert loss.get_yscale() == "linear"
    assert "direction" in metric.get_xlabel()
    assert is_png(tmp_path / "line.png")


def test_a_way_shows_its_barrier_and_the_line_between_its_ends() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    losses = torch.tensor([1.0, 2.0, 4.0, 3.0, 2.0], dtype=torch.float64)
    figure = plot_1d({"two seeds": Path1D(t, losses, None)}, xlabel="alpha")
    curve, chord = figure.axes[0].lines
    np.testing.assert_array_equal(curve.get_ydata(), losses)
    np.testing.assert_allclose(chord.get_ydata(), 1 + t)
    assert legend(figure.axes[0]) == ["two seeds (barrier 2.5)"]
    assert figure.axes[0].get_xlabel() == "alpha"
    assert plot_1d(line(X)).axes[0].get_legend() is None


@pytest.mark.parametrize(("values", "scale"), [(10.0**X, "log"), (10.0**X - 0.1, "linear"), (X + 2, "linear")])
def test_a_wide_range_of_losses_is_logarithmic(values: Tensor, scale: str) -> None:
    assert plot_1d(line(values)).axes[0].get_yscale() == scale


def test_points_that_are_not_finite_are_marked() -> None:
    values = X.clone()
    values[2], values[5] = math.inf, math.nan
    figure = plot_1d(line(values))
    crosses = next(curve for curve in figure.axes[0].lines if curve.get_label() == "not finite")
    np.testing.assert_array_equal(crosses.get_xdata(), X[[2, 5]])
    assert legend(figure.axes[0]) == ["not finite"]


def test_contours_carry_the_values_and_the_trajectory(tmp_path: Path) -> None:
    figure = contour(plane(), tmp_path / "contour.png", trajectory=ROUTE, xlabel="PC1", ylabel="PC2", title="digits")
    axes, bar = figure.axes
    filled = axes.collections[0]
    assert filled.levels[0] == 2, "the lowest: x = 0, y = -1"
    assert filled.levels[-1] == 12, "the highest: x = 2, y = 1"
    np.testing.assert_allclose(np.diff(filled.levels), 10 / 24)
    # The values themselves: where the contour of 5 crosses y = 0 is x = 0; all its points fulfil the equation nearly.
    lines = axes.collections[1]
    level = int(np.argmin(np.abs(lines.levels - 7)))
    points = lines.get_paths()[level].vertices
    interpolated = np.interp(points[:, 0], X, X**2) + 3 * points[:, 1] + 5
    np.testing.assert_allclose(interpolated, lines.levels[level], atol=0.15)
    np.testing.assert_array_equal(np.stack(axes.lines[0].get_data(), 1), ROUTE)
    ends = {curve.get_label(): np.ravel(curve.get_data()).tolist() for curve in axes.lines}
    assert (ends["start"], ends["end"]) == ([1.5, 0.75], [0.0, 0.0])
    assert legend(axes) == ["trajectory", "start", "end"]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-1, 2), (-1, 1))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(), bar.get_ylabel()) == (
        "PC1",
        "PC2",
        "digits",
        "loss",
    )
    assert (bar.get_ylim(), bar.get_yticks().tolist()) == ((2, 12), [3, 4.5, 6, 7.5, 9, 10.5, 12]), (
        "none beyond the levels"
    )
    assert is_png(tmp_path / "contour.png")


def test_contours_of_a_wide_range_are_logarithmic_with_round_numbers() -> None:
    figure = contour(plane(10.0 ** (X + Y[:, None])), levels=10)
    levels = figure.axes[0].collections[0].levels
    np.testing.assert_allclose(levels[1:] / levels[:-1], 10**0.5)
    assert (levels[0], levels[-1]) == pytest.approx((0.01, 1000))
    assert labels(figure.axes[1].get_yticklabels()) == ["0.01", "0.1", "1", "10", "100", "1000"]
    narrow = contour(plane(5 * 10.0 ** (X * 0.5) + 0 * Y[:, None]))  # from 1.58 to 50
    assert labels(narrow.axes[1].get_yticklabels()) == ["2", "5", "10", "20", "50"]


def test_a_logarithmic_scale_ends_after_six_decades_and_takes_zeros() -> None:
    values = torch.full((5, 7), 100.0, dtype=torch.float64)
    values[2, 3], values[0, 0] = 0.0, 1e-30
    filled = contour(plane(values)).axes[0].collections[0]
    assert filled.levels[0] == pytest.approx(1e-4)
    assert filled.extend == "min", "what is lower has the lowest colour"
    assert contour(plane(values.clamp(min=1))).axes[0].collections[0].extend == "neither"
    heights = surface(plane(values)).axes[0].get_zlim()
    assert heights[0] == pytest.approx(-4, abs=0.5)


def test_a_metric_is_drawn_on_a_linear_scale() -> None:
    accuracy = (X + 2) * 25 + 0 * Y[:, None]
    accuracy[0, 0] = 1.0
    figure = contour(plane(metric=accuracy), metric="accuracy (%)")
    filled = figure.axes[0].collections[0]
    np.testing.assert_allclose(np.diff(filled.levels), 99 / 24)
    assert figure.axes[1].get_ylabel() == "accuracy (%)"
    assert surface(plane(metric=accuracy), metric="accuracy (%)").axes[0].get_zlabel() == "accuracy (%)"


def test_a_flat_plane_and_one_with_holes_can_be_drawn(tmp_path: Path) -> None:
    flat = torch.full((5, 7), 3.0, dtype=torch.float64)
    levels = contour(plane(flat), tmp_path / "flat.png").axes[0].collections[0].levels
    assert levels[0] < 3 < levels[-1]
    surface(plane(torch.zeros(5, 7, dtype=torch.float64)), tmp_path / "zero.png")
    holes = plane().values.clone()
    holes[1, 2], holes[3, 3] = math.inf, math.nan
    figure = contour(plane(holes), tmp_path / "holes.png", trajectory=ROUTE)
    assert legend(figure.axes[0])[-1] == "not finite"
    assert figure.axes[0].collections[0].levels[-1] == 12, "infinity is no level"
    surface(plane(holes), tmp_path / "holes3d.png")
    assert all(is_png(path) for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="no value of it is finite"):
        contour(plane(flat * math.nan))


def test_a_trajectory_that_leaves_the_plane_is_cut_and_counted() -> None:
    route = torch.cat([torch.tensor([[9.0, 0.0], [1.0, 3.0]], dtype=torch.float64), ROUTE])
    for figure in (contour(plane(), trajectory=route), surface(plane(), trajectory=route)):
        axes = figure.axes[0]
        assert legend(axes) == ["trajectory (2 of 5 points outside)", "end"], "the start is not seen"
        assert (axes.get_xlim(), axes.get_ylim()) == ((-1, 2), (-1, 1))


def test_a_surface_has_the_values_as_heights_and_the_trajectory_on_it(tmp_path: Path) -> None:
    figure = surface(plane(), tmp_path / "surface.png", trajectory=ROUTE, xlabel="PC1", title="digits")
    axes = figure.axes[0]
    corners = vertices(axes)
    np.testing.assert_allclose(corners[:, 0] ** 2 + 3 * corners[:, 1] + 5, corners[:, 2], atol=1e-12)
    assert {(x, y) for x, y, _ in corners} == {(float(x), float(y)) for x in X for y in Y}, "all points are drawn"
    xs, ys, heights = axes.lines[0].get_data_3d()
    np.testing.assert_array_equal(np.stack([xs, ys], 1), ROUTE)
    # x = 1.5 and 0.5 and 0, y = 0 are grid lines, where bilinear is linear in y: exact, plus 1% of the range of 10.
    np.testing.assert_allclose(heights, [1.5**2 + 3 * 0.75 + 5.1, 0.25 + 0.75 + 5.1, 5.1])
    assert legend(axes) == ["trajectory", "start", "end"]
    assert (axes.get_xlabel(), axes.get_title()) == ("PC1", "digits")
    assert is_png(tmp_path / "surface.png")


def test_a_trajectory_between_grid_lines_and_on_the_far_edge_has_the_surfaces_height() -> None:
    route = torch.tensor([[0.25, 0.1], [2.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    _, _, heights = surface(plane(), trajectory=route).axes[0].lines[0].get_data_3d()
    np.testing.assert_allclose(heights, [0.125 + 0.3 + 5.1, 12.1, 3.1])  # x^2 is 0.125 on the chord from 0 to 0.5


def test_a_logarithmic_surface_names_the_losses_themselves() -> None:
    axes, bar = surface(plane(10.0 ** (X + Y[:, None]))).axes
    heights = vertices(axes)[:, 2]
    assert (heights.min(), heights.max()) == pytest.approx((-2, 3))
    expected = ["0.01", "0.1", "1", "10", "100", "1000"]
    assert labels(axes.get_zticklabels()) == labels(bar.get_yticklabels()) == expected


def test_what_cannot_be_drawn_is_refused() -> None:
    for draw in (contour, surface):
        with pytest.raises(ValueError, match="slice on a line"):
            draw(line(X))
        with pytest.raises(ValueError, match="metric 'accuracy'"):
            draw(plane(), metric="accuracy")
        with pytest.raises(ValueError, match=r"trajectory: of shape \(2, 3\)"):
            draw(plane(), trajectory=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="is a plane"):
        plot_1d(plane())
    with pytest.raises(ValueError, match="metric 'accuracy'"):
        plot_1d(line(X), metric="accuracy")
    with pytest.raises(ValueError, match="there are none"):
        plot_1d({})
    with pytest.raises(ValueError, match="levels 1"):
        contour(plane(), levels=1)


def test_no_window_backend_or_pyplot_is_touched() -> None:
    code = (
        "import sys, torch\n"
        "from valleys.landscape.slices.plots import contour\n"
        "from valleys.landscape.slices.slices import Slice\n"
        "assert 'matplotlib' not in sys.modules\n"
        "x = torch.linspace(0, 1, 3)\n"
        "contour(Slice(x, x, x + x[:, None], 0.0, None))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
