"""Pictures of walks and the table beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from valleys.paper.walks import plots
from valleys.paper.walks.functions import FUNCTIONS
from valleys.paper.walks.measures import measure
from valleys.paper.walks.plots import COLORS, TrajectoryReport, TrajectoryRow, draw, picture
from valleys.paper.walks.walk import walk
from valleys.paper.walks.walkers import PRESETS, walkers


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def share(path: Path, color: str) -> float:
    """The share of a picture's pixels that are nearly of a colour."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.int16)).view(-1, 3)
    return ((pixels - torch.tensor(rgb(color))).abs().max(dim=-1).values <= 6).double().mean().item()


def row(name: str, walker: Any, steps: int = 50) -> TrajectoryRow:
    path = walk(FUNCTIONS[name], walker.make, steps=steps)
    return TrajectoryRow(name, walker, path, measure(path))


def test_draw_walks_and_makes_a_picture_for_each_function(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    report = draw(["cardioid", "f2"], optimizers=["sgd", "lamb"], steps=150, out=out)
    assert report.pictures == (out / "cardioid.png", out / "f2.png")
    names = ["SGD", "ESGD", "SGD, equal memory", "LAMB", "ALTO", "LAMB, equal memory"]
    assert [(one.function, one.walker.name) for one in report.rows] == [
        (function, name) for function in ("cardioid", "f2") for name in names
    ]
    for one in report.rows:
        preset = PRESETS[one.function]
        assert len(one.walk.points) == 151
        assert one.measures == measure(one.walk)
        assert one.walk.points[0].tolist() == list(FUNCTIONS[one.function].start)
        rate = preset.lr[one.walker.family]
        if one.walker.name != "SGD, equal memory":
            assert one.walker.lr == rate
    expected = walkers("lamb", PRESETS["f2"].lr["lamb"], alpha=-90.0, beta1=0.99, momentum=0.9, beta2=0.99)[1]
    again = walk(FUNCTIONS["f2"], expected.make, steps=150)
    assert torch.equal(report.rows[-2].walk.points, again.points)
    for path in report.pictures:
        assert path.stat().st_size < 150_000
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width > image.height
        for name in ("ESGD", "ALTO"):
            assert share(path, COLORS[name]) > 1e-4
        assert share(path, COLORS["EAdam"]) == 0
        assert share(path, "#FFFFFF") > 0.2


def test_what_is_asked_for_holds_for_all(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 0.002, "alpha": -7.0, "beta1": 0.9, "steps": 20, "noise": 0.1, "seed": 5}
    report = draw(["rosenbrock"], optimizers=["adam"], control=False, out=tmp_path, **options)
    assert [one.walker.name for one in report.rows] == ["Adam", "EAdam"]
    assert [one.walker.lr for one in report.rows] == [0.002, 0.002]
    expected = walkers("adam", 0.002, alpha=-7.0, beta1=0.9, momentum=0.9, beta2=0.999)[1]
    again = walk(FUNCTIONS["rosenbrock"], expected.make, steps=20, noise=0.1, seed=5)
    assert torch.equal(report.rows[1].walk.points, again.points)


def test_all_functions_and_optimizers_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    monkeypatch.setattr(plots, "picture", lambda function, rows, path: names.append((function.name, len(rows))))
    report = draw(steps=2, out=tmp_path)
    assert names == [(name, 9) for name in FUNCTIONS]
    assert [path.stem for path in report.pictures] == list(FUNCTIONS)
    assert len(report.rows) == 9 * len(FUNCTIONS)
    assert {len(one.walk.points) for one in report.rows} == {3}


def test_presets_say_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "picture", lambda function, rows, path: None)
    report = draw(["himmelblau"], optimizers=["sgd"], out=tmp_path)
    assert {len(one.walk.points) for one in report.rows} == {PRESETS["himmelblau"].steps + 1}


def test_a_walk_that_diverges_is_drawn_and_named(tmp_path: Path) -> None:
    report = draw(["rosenbrock", "f1"], optimizers=["sgd"], lr=50.0, steps=60, out=tmp_path)
    assert report.rows[0].measures.diverged
    table = report.table()
    assert table[1][-1] == "diverged"
    assert all(path.exists() for path in report.pictures)


def test_the_table(tmp_path: Path) -> None:
    group = walkers("adam", 0.01)
    rows = (row("cardioid", group[1]), row("f2", group[0]), row("himmelblau", group[2]))
    header, *lines = TrajectoryReport(rows, ()).table()
    assert header == [
        "function", "optimizer", "lr", "length in the valley", "floor covered", "lowest f", "minima passed", "ends at",
    ]  # fmt: skip
    assert all(len(line) == len(header) for line in lines)
    assert lines[0][:3] == ["cardioid", "EAdam", "0.01"]
    measures = rows[0].measures
    assert lines[0][3:6] == [f"{measures.arc:.3g}", f"{measures.floor:.3g}", f"{measures.lowest:.3g}"]
    assert lines[0][7] == f"({measures.end[0]:.4g}, {measures.end[1]:.4g})"
    assert lines[1][3] == "-"
    assert lines[1][6] == str(rows[1].measures.passed)
    assert lines[2][3:5] == ["-", "-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"functions": ["ackley"]}, "ackley.*cardioid"),
        ({"functions": []}, "functions: name at least one"),
        ({"optimizers": []}, "optimizers: name at least one"),
        ({"optimizers": ["lion"]}, "lion.*sgd, adam, lamb"),
        ({"steps": 0}, "steps 0"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"noise": -1.0}, "noise -1.0"),
        ({"alpha": -100.0}, "must be below 1"),
    ],
)
def test_what_draw_refuses_before_any_work(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**arguments, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_picture_is_of_walks_on_its_function(tmp_path: Path) -> None:
    one = row("f2", walkers("sgd", 0.1)[0])
    with pytest.raises(ValueError, match="all on cardioid"):
        picture(FUNCTIONS["cardioid"], [one], tmp_path / "x.png")
    with pytest.raises(ValueError, match="one walk or more"):
        picture(FUNCTIONS["cardioid"], [], tmp_path / "x.png")


def test_colours_differ_for_every_optimizer() -> None:
    assert len(set(COLORS.values())) == 6
