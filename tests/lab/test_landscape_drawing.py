"""``valleys landscape --draw``: the minima of a comparison, drawn into its folder and its report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import lab_fakes
from valleys.cli.app import app
from valleys.lab import Comparison, LabError, compare, tasks
from valleys.lab.flatness.pictures import PICTURES
from valleys.lab.landscape import Measured, landscape
from valleys.lab.optimizers.spec import OptimizerSpec

PNGS = [f"landscape-{name}.png" for name in PICTURES]


def sgd(name: str, lr: float) -> OptimizerSpec:
    return OptimizerSpec(name, lambda model, values, plan: torch.optim.SGD(model.parameters(), lr=lr), {})


SLOW, FAST, WILD = sgd("slow", 0.01), sgd("fast", 0.1), sgd("wild", 1e30)


def run(out: Path, optimizers: Sequence[Any] = ("lamb", "alto"), **changes: Any) -> Comparison:
    settings: dict[str, Any] = {"batch_size": 8, "rounds": 2, "trials": 2, "keep_weights": True, **changes}
    task = settings.pop("task", lab_fakes.points())
    return compare(task, optimizers=list(optimizers), progress=False, out=out, **settings)


def draw(out: Path, **changes: Any) -> Measured:
    defaults = {"task": lab_fakes.points(), "progress": False, "draw": True, "grid": 5, "measures": ["drift"]}
    return landscape(out, **{**defaults, **changes})


def strict(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def weights_of(out: Path, minimum: dict[str, Any]) -> Tensor:
    name = f"{minimum['optimizer']}-final-{minimum['round'] - 1}-{minimum['trial'] - 1}-{minimum['seed']}.pt"
    state = torch.load(out / "weights" / name, weights_only=True)
    return torch.cat([value.reshape(-1) for value in state.values()]).double()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Path]:
    out = tmp_path_factory.mktemp("drawn") / "points"
    run(out)
    draw(out, draw=False)
    before = strict(out / "report.json")
    measured = draw(out)
    assert strict(out / "report.json") == before, "a drawing changes no number of the comparison"
    return measured, out


def test_the_files_and_the_paths_are_those_of_the_documentation(pair: tuple[Measured, Path]) -> None:
    measured, out = pair
    names = {path.name for path in out.iterdir()}
    assert {"landscape.json", *PNGS} <= names
    assert not [name for name in names if name.startswith("landscape") and name not in ("landscape.json", *PNGS)]
    assert measured.paths["drawing"] == out / "landscape.json"
    assert [measured.paths[name] for name in PICTURES] == [out / name for name in PNGS]
    drawing = strict(out / "landscape.json")
    assert drawing == measured.drawing
    assert set(drawing) == {
        *("task", "batch_size", "title", "optimizers", "left_out", "notes", "examples"),
        *("plane", "minima", "barriers", "spectra", "sharpness"),
    }
    assert (drawing["task"], drawing["batch_size"], drawing["title"]) == ("points", 8, "points at batch 8")
    assert (drawing["optimizers"], drawing["left_out"], drawing["notes"]) == (["lamb", "alto"], [], [])
    assert len(drawing["plane"]["loss"]) == len(drawing["plane"]["loss"][0]) == 5


def test_the_minima_are_the_first_runs_on_fresh_seeds(pair: tuple[Measured, Path]) -> None:
    _, out = pair
    drawing, task = strict(out / "landscape.json"), lab_fakes.points()
    report = strict(out / "report.json")["rounds"][0]["runs"]
    assert [(minimum["round"], minimum["seed"]) for minimum in drawing["minima"]] == [(1, 5000), (1, 5000)]
    for minimum in drawing["minima"]:
        (final,) = [
            one for one in report if (one["optimizer"], one["phase"]) == (minimum["optimizer"], "final")
        ]  # the metric of this task is its loss
        assert minimum["validation_loss"] == pytest.approx(final["validation"], rel=1e-5)
        assert minimum["trial"] == final["trial"]
        weight = weights_of(out, minimum)
        model = nn.Linear(2, 1)
        nn.utils.vector_to_parameters(weight.float(), model.parameters())
        loss = task.loss(model(task.train.inputs), task.train.targets).item()  # type: ignore[union-attr]
        assert minimum["training_loss"] == pytest.approx(loss, rel=1e-5)
        assert minimum["plane_loss"] == pytest.approx(loss, rel=1e-4)
    (barrier,) = drawing["barriers"]
    first, second = (weights_of(out, minimum) for minimum in drawing["minima"])
    assert barrier["distance"] == pytest.approx((first - second).norm().item())
    assert barrier["training"]["barrier"] == pytest.approx(0, abs=1e-6)  # a linear model's squared error is convex
    best = min(drawing["minima"], key=lambda minimum: minimum["validation_loss"])
    assert drawing["plane"]["spanned_by"][0] == best["optimizer"]
    assert (best["x"], best["y"]) == (0, 0)


def test_the_report_shows_pictures_and_barriers(pair: tuple[Measured, Path]) -> None:
    text = (pair[1] / "report.md").read_text(encoding="utf-8")
    section = text.split("## The landscape between the minima")[1].split("\n## ")[0]
    assert re.findall(r"!\[.+?\]\((.+?)\)", section) == PNGS
    assert "| lamb to alto |" in section
    assert "24 training and 8 validation examples" in section
    assert "Left out" not in section


def test_a_later_comparison_and_a_later_measurement_keep_the_section(pair: tuple[Measured, Path]) -> None:
    _, out = pair
    section = "## The landscape between the minima"
    before = (out / "report.md").read_text(encoding="utf-8")
    assert section in before
    run(out)
    assert (out / "report.md").read_text(encoding="utf-8") == before
    assert draw(out, draw=False).drawing is None
    assert (out / "report.md").read_text(encoding="utf-8") == before


def test_a_drawing_of_other_runs_is_not_shown(tmp_path: Path) -> None:
    run(tmp_path, rounds=1, trials=1)
    draw(tmp_path)
    drawing = strict(tmp_path / "landscape.json")
    drawing["minima"][1]["seed"] += 1
    (tmp_path / "landscape.json").write_text(json.dumps(drawing), encoding="utf-8")
    run(tmp_path, rounds=1, trials=1)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "runs that are no longer selected" in text
    assert "landscape-surface.png" not in text


def test_runs_without_weights_are_trained_again_to_the_same_drawing(
    pair: tuple[Measured, Path], tmp_path: Path
) -> None:
    run(tmp_path, keep_weights=False)
    measured = draw(tmp_path)
    assert measured.trained_again == 4
    assert measured.drawing == pair[0].drawing
    for path in (tmp_path / "weights").glob("*.pt"):
        path.unlink()
    again = draw(tmp_path)  # the measurements are there, the weights are not
    assert again.trained_again == 2
    assert again.drawing == pair[0].drawing


def test_an_optimizer_that_diverged_is_left_out_and_named(tmp_path: Path) -> None:
    own = [SLOW, WILD, FAST]
    run(tmp_path, own, rounds=1)
    measured = draw(tmp_path, optimizers=own)
    drawing = strict(tmp_path / "landscape.json")
    assert drawing == measured.drawing
    assert drawing["optimizers"] == ["slow", "wild", "fast"]
    assert drawing["left_out"] == ["wild"]
    for part in ("minima", "spectra", "sharpness"):
        assert [entry["optimizer"] for entry in drawing[part]] == ["slow", "fast"]
    assert "Left out, since no final run stayed finite: wild." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_one_minimum_is_no_landscape(tmp_path: Path) -> None:
    own = [SLOW, WILD]
    run(tmp_path, own, rounds=1)
    with pytest.raises(LabError, match="a finite final run of slow alone") as caught:
        draw(tmp_path, optimizers=own)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "landscape.json").exists()
    assert draw(tmp_path, optimizers=own, draw=False).drawing is None


def test_four_optimizers_have_a_plane_and_six_barriers(tmp_path: Path) -> None:
    own = [SLOW, FAST]
    run(tmp_path, ["lamb", "alto", *own], rounds=1, trials=1)
    drawing = draw(tmp_path, optimizers=own).drawing
    assert drawing is not None
    assert [minimum["optimizer"] for minimum in drawing["minima"]] == ["lamb", "alto", "slow", "fast"]
    assert len(drawing["barriers"]) == 6
    ranked = sorted(drawing["minima"], key=lambda minimum: minimum["validation_loss"])
    assert drawing["plane"]["spanned_by"] == [minimum["optimizer"] for minimum in ranked[:3]]
    assert ranked[3]["distance"] > 10 * max(minimum["distance"] for minimum in ranked[:3])


def test_mistakes_are_told_in_one_line(pair: tuple[Measured, Path]) -> None:
    with pytest.raises(LabError, match=r"grid 1: choose 2 or more"):
        draw(pair[1], grid=1)
    with pytest.raises(LabError, match=r"training loop of its own"):
        draw(pair[1], task=tasks.load("fig8-f1"))
    result = CliRunner().invoke(app, ["landscape", str(pair[1]), "--draw", "--grid", "1"])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


def test_the_command_draws(tmp_path: Path) -> None:
    call = CliRunner().invoke
    words = "--optimizers lamb,adamw --batch-size 512 --epochs 1 --rounds 1 --trials 1 --keep-weights --out"
    assert call(app, ["compare", "digits", *words.split(), str(tmp_path)]).exit_code == 0
    options = ["--draw", "--grid", "3", "--examples", "32", "--measures", "drift"]
    result = call(app, ["landscape", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert "The minima" in result.output
    assert call(app, ["report", str(tmp_path), "--out", str(tmp_path / "merged.html")]).exit_code == 0
    assert "The loss along the straight line between two minima" in (tmp_path / "merged.html").read_text()
    assert "lamb to adamw" in result.output
    assert str(tmp_path / "landscape.json") in result.output.replace("\n", "")
    assert strict(tmp_path / "landscape.json")["examples"] == {"training": 32, "validation": 32}
