"""The benchmark's pictures hold what was computed, and importing theory imports neither scipy nor matplotlib."""

import ast
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import valleys.paper.theory
from valleys.paper.theory import largest_stable_lr

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("analysis_figures")


def test_the_region_has_a_panel_per_pair_with_the_limit_as_its_line(figures: Any, tmp_path: Path) -> None:
    figure = figures.region_figure([(0.99, 0.9), (0.5, 0.0)], points=12)
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["beta1 = 0.99, beta2 = 0.9", "beta1 = 0.5, beta2 = 0"]
    x, c = panels[1].lines[0].get_data()
    assert x == pytest.approx(largest_stable_lr(c / 0.5, 0.5, 0.0))
    figure.savefig(tmp_path / "region.png")
    assert (tmp_path / "region.png").stat().st_size > 1000


def test_the_limits_are_drawn_per_pair_beside_the_papers_bound(figures: Any) -> None:
    lines = figures.limit_figure([(0.9, 0.5)]).axes[0].lines
    c, limit = lines[0].get_data()
    assert limit == pytest.approx(largest_stable_lr(c / (1 - 0.9), 0.9, 0.5))
    assert [line.get_xdata()[0] for line in lines[1:]] == [-1, 1]


def test_steps_are_drawn_per_schedule_and_an_optimizer_keeps_its_colour(figures: Any) -> None:
    steps: dict[str, dict[str, Sequence[float]]] = {
        "constant": {"SGD": [100, 10], "E": [50, 9]},
        "cosine": {"E": [np.nan, 8]},
    }
    first, second = figures.steps_figure([1, 10], steps).axes
    assert first.lines[1].get_ydata().tolist() == [50, 9]
    assert second.lines[0].get_ydata()[1] == 8
    assert second.lines[0].get_color() == first.lines[1].get_color() != first.lines[0].get_color()


def test_arguments_out_of_range_are_refused(figures: Any) -> None:
    with pytest.raises(ValueError, match="beta2 must be"):
        figures.region_figure([(0.5, 1.0)], points=4)
    with pytest.raises(ValueError, match="panels: there is none"):
        figures.steps_figure([1], {})
    with pytest.raises(ValueError, match="'SGD' has 2 steps for 1 batches"):
        figures.steps_figure([1], {"constant": {"SGD": [1, 2]}})


def test_importing_the_package_imports_neither_scipy_nor_matplotlib() -> None:
    files = list(Path(valleys.paper.theory.__file__).parent.glob("*.py"))
    assert len(files) >= 7
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"scipy", "matplotlib"} & {name.split(".")[0] for name in names}, file
