"""``valleys landscape``: the runs of a comparison are measured once, and the report says what was found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lab_fakes
from lab.report.pages import Reader
from valleys.cli.app import app
from valleys.lab import Comparison, LabError, compare, tasks
from valleys.lab import landscape as module
from valleys.lab.landscape import Measured, landscape
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.run import trainer
from valleys.lab.store.store import Store

OPTIMIZERS = ["lamb", "alto"]


def run(out: Path, **changes: Any) -> Comparison:
    arguments: dict[str, Any] = {
        "task": lab_fakes.points(),
        "optimizers": OPTIMIZERS,
        "batch_size": 8,
        "rounds": 2,
        "trials": 2,
        "progress": False,
        "out": out,
        **changes,
    }
    return compare(arguments.pop("task"), **arguments)


def look(out: Path, **changes: Any) -> Measured:
    return landscape(out, **{"task": lab_fakes.points(), "progress": False, **changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Measured, Path]:
    """A comparison that kept its weights, measured."""
    out = tmp_path_factory.mktemp("measured") / "points"
    run(out, keep_weights=True)
    return look(out), out


def test_every_final_run_is_measured_and_nothing_was_trained_again(measured: tuple[Measured, Path]) -> None:
    table, out = measured
    assert [(row.optimizer, row.units) for row in table.flatness.rows] == [("lamb", 2), ("alto", 2)]
    assert {name: list(runs) for name, runs in table.runs.items()} == {name: [5000, 15000] for name in OPTIMIZERS}
    assert table.trained_again == 0
    assert len(list((out / "weights").glob("*.pt"))) == 4


def test_the_kept_weights_are_those_of_the_run(measured: tuple[Measured, Path]) -> None:
    _, out = measured
    report = json.loads((out / "report.json").read_text())
    task = lab_fakes.points()
    finals = [
        (number, run_of)
        for number, entry in enumerate(report["rounds"])
        for run_of in entry["runs"]
        if (run_of["optimizer"], run_of["phase"]) == ("alto", "final")
    ]
    assert len(finals) == 2
    for number, run_of in finals:
        model = task.build_model()
        name = f"alto-final-{number}-{run_of['trial'] - 1}-{run_of['seed']}.pt"
        model.load_state_dict(torch.load(out / "weights" / name, weights_only=True))
        with torch.no_grad():
            loss = task.metric(model(task.test.inputs), task.test.targets).item()  # type: ignore[union-attr]
        assert loss == pytest.approx(run_of["test"], rel=1e-6)


def test_the_report_shows_them(measured: tuple[Measured, Path]) -> None:
    result, out = measured
    report = json.loads((out / "report.json").read_text())["flatness"]
    assert [row["optimizer"] for row in report["rows"]] == OPTIMIZERS
    assert [(run_of["round"], run_of["seed"]) for run_of in report["runs"]["alto"]] == [(1, 5000), (2, 15000)]
    assert report["examples"] == [24]
    mean = sum(run_of["trace"] for run_of in report["runs"]["alto"]) / 2
    assert report["rows"][1]["means"]["trace"]["estimate"] == pytest.approx(mean)
    text = (out / "report.md").read_text()
    assert "## Flatness of the minima" in text
    assert "| alto / lamb | Hessian trace |" in text
    reader = Reader((out / "report.html").read_text())
    table = reader.table("Flatness of the finished runs on fresh seeds")
    assert [row[0] for row in table.rows] == OPTIMIZERS
    assert reader.table("Flatness of pairs").rows[0][0] == "alto / lamb"
    (line,) = [line for line in text.splitlines() if "# alto" in line]
    assert line.startswith("optimizer = valleys.ALTO(")
    assert result.paths["html"] == out / "report.html"


def test_a_report_without_measurements_has_no_such_part(tmp_path: Path) -> None:
    run(tmp_path / "plain")
    assert json.loads((tmp_path / "plain/report.json").read_text())["flatness"] is None
    assert "Flatness" not in (tmp_path / "plain/report.md").read_text()
    assert "Flatness" not in (tmp_path / "plain/report.html").read_text()


def test_runs_without_weights_are_trained_again_to_the_same_numbers(
    measured: tuple[Measured, Path], tmp_path: Path
) -> None:
    run(tmp_path / "points")
    again = look(tmp_path / "points")
    assert again.trained_again == 4
    assert again.flatness == measured[0].flatness
    assert again.flatness.notes == ()


def test_what_is_measured_is_not_measured_again(
    measured: tuple[Measured, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(module, "measure", never)
    assert look(measured[1]).flatness == measured[0].flatness
    with pytest.raises(LabError, match="twice"):
        look(measured[1], examples=4)


def test_measures_asked_for_later_join_the_earlier_ones(tmp_path: Path) -> None:
    run(tmp_path / "points", optimizers=["lamb"], rounds=1, trials=1, keep_weights=True)
    assert list(look(tmp_path / "points", measures=["drift"]).flatness.measures) == ["drift"]
    both = look(tmp_path / "points", measures=["trace"]).flatness
    assert list(both.measures) == ["trace", "drift"]
    other = look(tmp_path / "points", measures=["trace"], examples=4).flatness  # of another loss: they do not mix
    assert list(other.measures) == ["trace"]


def test_a_run_that_diverged_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = trainer.train

    def unlucky(*arguments: Any, **options: Any) -> Any:
        record = train(*arguments, **options)
        lost = options["seed"] == 15000
        return replace(record, diverged=True, validation=None, test=None) if lost else record

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", unlucky)
        run(tmp_path / "points", optimizers=["lamb"], trials=1, keep_weights=True)
    assert [row.units for row in look(tmp_path / "points").flatness.rows] == [1]


@pytest.mark.parametrize(("lr", "kept"), [(0.01, 1), (1e30, 0)])
def test_only_a_model_that_did_not_diverge_is_kept(lr: float, kept: int) -> None:
    models: list[torch.nn.Module] = []
    spec = OptimizerSpec("sgd", lambda model, values, plan: torch.optim.SGD(model.parameters(), lr=lr), {})
    record = lab_fakes.train_really(lab_fakes.points(), spec, {}, batch_size=8, keep=models.append)
    assert record.diverged == (not kept)
    assert len(models) == kept


def test_the_comparison_asked_for_again_keeps_them(tmp_path: Path) -> None:
    run(tmp_path / "points", trials=1)
    look(tmp_path / "points")
    before = json.loads((tmp_path / "points/report.json").read_text())["flatness"]
    run(tmp_path / "points", trials=1)
    assert json.loads((tmp_path / "points/report.json").read_text())["flatness"] == before


def test_a_run_that_is_no_longer_the_same_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "points", optimizers=["lamb"], rounds=1, trials=1)
    train = trainer.train

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        record = train(*arguments, **options)
        return replace(record, validation=1.1 * (record.validation or 0.0))

    monkeypatch.setattr(trainer, "train", elsewhere)
    (note,) = look(tmp_path / "points").flatness.notes
    assert "lamb, seed 5000: trained again" in note
    assert note in (tmp_path / "points/report.md").read_text().replace("\\", "")


def test_mistakes_are_told_before_any_work(
    measured: tuple[Measured, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = measured
    with pytest.raises(LabError, match=r"nowhere holds no comparison"):
        look(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(LabError, match=r"examples 0: choose 1 or more"):
        look(out, examples=0)
    with pytest.raises(LabError, match=r"not the task that was compared \(target 1.0 there, 2.0 now\)"):
        look(out, task=replace(lab_fakes.points(), target=2.0))
    with pytest.raises(LabError, match=r"training loop of its own"):
        look(out, task=tasks.load("fig8-f1"))
    with pytest.raises(LabError, match=r"unknown task 'points'"):
        landscape(out, progress=False)


def test_a_comparison_without_final_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(task: Any, spec: Any, values: Any, config: Any, **options: Any) -> Any:
        if options["seed"] == 5000:
            raise KeyboardInterrupt
        return lab_fakes.record(optimizer="lamb", hyperparameters=values)

    with monkeypatch.context() as patch:
        patch.setattr("valleys.lab.run.trainer.train", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "points", optimizers=["lamb"], trials=1)
    with pytest.raises(LabError, match=r"no finished run on a fresh seed"):
        look(tmp_path / "points")


def test_the_command_finds_the_task_by_itself(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    call = CliRunner().invoke
    words = "--optimizers lamb,alto --batch-size 512 --epochs 1 --rounds 1 --trials 1 --keep-weights --out"
    assert call(app, ["compare", "digits", *words.split(), str(tmp_path / "d")]).exit_code == 0
    result = call(app, ["landscape", str(tmp_path / "d"), "--examples", "64"])
    assert result.exit_code == 0, result.output
    assert "Flatness of the finished runs" in result.output
    assert "top Hessian eigenvalue" in result.output
    assert "trained again" not in result.output
    lost = call(app, ["landscape", str(tmp_path / "gone")])
    assert lost.exit_code == 2
    assert "holds no comparison" in lost.output


def test_copies_and_optimizers_of_ones_own_are_found_again(tmp_path: Path) -> None:
    own = OptimizerSpec("mine", lambda model, values, plan: torch.optim.SGD(model.parameters(), lr=0.01), {})
    run(tmp_path / "points", optimizers=["lamb", own], copies=2, trials=1, rounds=1, seeds=2, keep_weights=True)
    names = ["lamb-1", "lamb-2", "mine-1", "mine-2"]
    measured = look(tmp_path / "points", optimizers=[own], measures=["drift"])
    assert [row.optimizer for row in measured.flatness.rows] == names
    assert measured.trained_again == 0
    seeds = [set(measured.runs[name]) for name in names]
    assert len(set.union(*seeds)) == 8  # copies have seeds of their own
    assert len(measured.flatness.contrasts) == 6
    with pytest.raises(LabError, match="mine"):
        look(tmp_path / "points", measures=["drift"])


def test_a_comparison_without_rounds_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.configure({"task": "points", "maximize": False}, {"ranks": 1}, {}, {"optimizers": ["lamb"]})
    with pytest.raises(LabError, match="of another version of valleys, without rounds") as caught:
        look(tmp_path)
    assert "\n" not in str(caught.value)


def test_flatness_of_another_problem_is_not_measured(measured: tuple[Measured, Path]) -> None:
    changed = replace(lab_fakes.points(), loss=torch.nn.functional.l1_loss)
    with pytest.raises(LabError, match="holds runs of another problem: loss of six examples changed since"):
        look(measured[1], task=changed)
