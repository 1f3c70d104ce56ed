from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import lab_fakes
from lab.comparisons import Call, run, watched
from valleys.lab import Comparison, ComparisonConfig, LabError, Record, Split, compare, demo
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.run import trainer
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.store.store import Store

Whole = tuple[Comparison, list[Call], Path]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return watched(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One ordinary comparison, the runs it asked for, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        calls = watched(patch)
        return run(out), calls, out


RUNS = 2 * 2 * (2 + 2)


def test_budgets_points_and_seeds_are_equal_and_optimizers_take_turns(whole: Whole) -> None:
    _, calls, _ = whole
    assert [call["optimizer"] for call in calls] == ["sgd", "adamw"] * (RUNS // 2)
    seeds = [call["seed"] for call in calls]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == RUNS // 2
    for start in (0, RUNS // 2):  # the trials of each round
        tuning = calls[start : start + 4]
        assert [a["hyperparameters"] for a in tuning[::2]] == [b["hyperparameters"] for b in tuning[1::2]]
    points = {call["hyperparameters"]["lr"] for start in (0, RUNS // 2) for call in calls[start : start + 4]}
    assert len(points) == 4


def test_every_run_computes_the_test_metric_and_nothing_selects_on_it(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, calls, _ = whole
    assert all(call["test"] for call in calls)

    def lies(*arguments: Any, **options: Any) -> Record:
        record = lab_fakes.train(*arguments, **options)
        return replace(record, test=None if record.test is None else -record.test)

    monkeypatch.setattr("valleys.lab.run.trainer.train", lies)
    assert run(tmp_path).selected == expected.selected


def test_the_best_trial_of_a_round_is_run_on_its_fresh_seeds(whole: Whole) -> None:
    _, calls, out = whole
    for entry in json.loads((out / "report.json").read_text())["rounds"]:
        for name in ("sgd", "adamw"):
            tuning, final = (
                [run for run in entry["runs"] if (run["optimizer"], run["phase"]) == (name, phase)]
                for phase in ("tuning", "final")
            )
            best = max((run for run in tuning if run["validation"] is not None), key=lambda run: run["validation"])
            assert [run["hyperparameters"] for run in final] == [best["hyperparameters"]] * 2
            assert [run["selected"] for run in tuning] == [run is best for run in tuning]
            assert {run["seed"] for run in final}.isdisjoint(run["seed"] for run in tuning)
    assert len(calls) == RUNS


def test_the_same_call_again_trains_nothing_and_finds_the_same(whole: Whole, calls: list[Call]) -> None:
    first, _, out = whole
    report = (out / "report.json").read_text()
    again = run(out)
    assert calls == []
    assert (again.rows, again.verdicts, again.selected) == (first.rows, first.verdicts, first.selected)
    assert (out / "report.json").read_text() == report


def test_settings_reach_the_trainer(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, epochs=7, micro_batch=4, trials=1, seeds=1, device="cpu")
    configs = [call["config"] for call in calls]
    assert {(c.batch_size, c.epochs, c.micro_batch, c.device) for c in configs} == {(16, 7, 4, "cpu")}


@pytest.mark.parametrize("before", [{"rounds": 1}, {"trials": 1}, {"seeds": 1}, {"rounds": 1, "trials": 1, "seeds": 1}])
def test_a_comparison_that_has_grown_equals_one_made_in_one_go(
    tmp_path: Path, whole: Whole, calls: list[Call], before: dict[str, int]
) -> None:
    run(tmp_path, **before)
    first = [(call["optimizer"], call["seed"], call["hyperparameters"]) for call in calls]
    calls.clear()
    grown = run(tmp_path)
    expected, result, _ = whole
    assert (grown.rows, grown.verdicts, grown.records) == (expected.rows, expected.verdicts, expected.records)
    second = [(call["optimizer"], call["seed"], call["hyperparameters"]) for call in calls]
    assert not [key for key in second if key in first], "nothing that is finished is repeated"
    everything = [(call["optimizer"], call["seed"], call["hyperparameters"]) for call in result]
    assert all(key in first + second for key in everything)


def test_runs_of_a_superseded_choice_stay_on_record_but_out_of_the_table(tmp_path: Path, calls: list[Call]) -> None:
    only = [lab_fakes.spec("sgd", 1e-1)]
    before = run(tmp_path, optimizers=only, rounds=1, trials=1, seeds=1)
    after = run(tmp_path, optimizers=only, rounds=1, trials=4, seeds=1)
    assert before.selected["sgd"] != after.selected["sgd"]
    (entry,) = json.loads((tmp_path / "report.json").read_text())["rounds"]
    assert [run["selected"] for run in entry["runs"] if run["phase"] == "final"] == [False, True]
    assert after.rows[0].units == 1


def test_an_optimizer_whose_every_trial_diverges_loses_and_ends_nothing(tmp_path: Path, calls: list[Call]) -> None:
    comparison = run(
        tmp_path, optimizers=[lab_fakes.spec("wild", 1e-9), lab_fakes.spec("sgd")], pairs=("wild:sgd",), trials=4
    )
    assert comparison.selected["wild"] == (None, None)
    assert comparison.records["wild"] == ()
    assert [row.optimizer for row in comparison.rows] == ["sgd", "wild"]
    assert comparison.rows[1].diverged_trials == 8
    (verdict,) = comparison.verdicts
    assert verdict.lost == (2, 0)
    assert verdict.better is None
    assert "wild diverged in both rounds" in verdict.sentence


def test_an_interruption_keeps_what_was_finished(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Record:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append({})
        return lab_fakes.train(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("valleys.lab.run.trainer.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    calls.clear()
    run(tmp_path)
    assert len(calls) == RUNS - 5


def test_a_choice_at_the_edge_is_told(tmp_path: Path, calls: list[Call]) -> None:
    near = lab_fakes.spec("sgd", 1e-2, lr=Range(1e-2, 1e4))
    comparison = run(tmp_path, optimizers=[near], trials=32, seeds=1)
    assert any("edge of its range" in note for note in comparison.warnings)


def test_the_tuning_budget_may_be_one_trial_of_one_optimizer_on_one_seed(tmp_path: Path, calls: list[Call]) -> None:
    comparison = run(tmp_path, optimizers=[lab_fakes.spec("sgd")], rounds=1, trials=1, seeds=1)
    assert comparison.rows[0].test is not None
    assert comparison.rows[0].test.low is None
    assert any("one round" in note.lower() for note in comparison.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "no-such-task"}, "no-such-task"),
        ({"optimizers": ["no-such-optimizer"]}, "no-such-optimizer"),
        ({"optimizers": []}, "name at least one"),
        ({"optimizers": [lab_fakes.spec("a"), lab_fakes.spec("a")]}, "more than once: a"),
        ({"batch_size": 33}, "33"),
        ({"batch_size": 0}, "batch size 0: fake has 32 training examples; choose 1 to 32"),
        ({"rounds": 0}, "rounds must be a number from 1"),
        ({"trials": 0}, "trials must be a number from 1"),
        ({"seeds": -1}, "seeds must be a number from 1"),
        ({"pairs": ("sgd:lion",)}, "'sgd:lion' names no two optimizers of this comparison"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_mistakes_end_before_any_work(tmp_path: Path, calls: list[Call], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        run(tmp_path / "out", **changes)
    assert calls == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("use_cpu", "device"), [("", "cuda"), ("False", "cuda"), ("True", "cpu")])
def test_auto_is_cuda_unless_accelerate_was_told_to_use_the_cpu(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch, use_cpu: str, device: str
) -> None:
    monkeypatch.setattr(sys.modules["valleys.lab.comparison"], "forecast", lambda *_: None)  # there is no such device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a made-up device")
    monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
    run(tmp_path, trials=1, seeds=1)
    assert {call["config"].device for call in calls} == {device}


def test_an_unusable_folder_ends_before_any_work(tmp_path: Path, calls: list[Call]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot write"):
        run(tmp_path / "file" / "out")
    assert calls == []


def test_progress_is_shown_when_asked_and_nothing_else_is_printed(
    tmp_path: Path, calls: list[Call], capfd: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, Any] = {"trials": 1, "seeds": 1}
    run(tmp_path / "quiet", progress=None, **small)
    assert capfd.readouterr() == ("", "")
    run(tmp_path / "shown", progress=True, **small)
    output = capfd.readouterr()
    assert output.out == ""
    assert "fake" in output.err
    assert "8/8" in output.err
    assert "round 2, final: adamw" in output.err


def test_the_command_in_the_report_repeats_the_comparison(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    monkeypatch.setattr("valleys.lab.optimizers.resolve.resolve", lab_fakes.resolve)
    storage = f"sqlite:///{tmp_path / 'a.db'}"
    run(
        tmp_path / "a b",
        trials=1,
        pairs=("m:f:sgd",),
        task="fake",
        optimizers=["sgd", "m:f"],
        data_dir="d",
        storage=storage,
        device="cpu",
    )
    command = json.loads((tmp_path / "a b" / "report.json").read_text())["command"]
    assert command == (
        "valleys compare fake --optimizers sgd,m:f --batch-size 16 --device cpu --rounds 2 --trials 1 --seeds 2 "
        f"--pairs m:f:sgd --data d --storage URL --out '{tmp_path / 'a b'}'"
    )


def test_importing_the_package_imports_no_lab_and_the_lab_no_heavy_extra() -> None:
    code = (
        "import sys, valleys; assert not [name for name in sys.modules if name.startswith('valleys.lab')];"
        "import valleys.lab; print({'optuna', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"


def test_the_demo_gives_the_threads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Call]) -> None:
    threads: list[int] = []
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    monkeypatch.setattr("valleys.lab.optimizers.resolve.resolve", lab_fakes.resolve)
    monkeypatch.setattr("valleys.lab.demo.STAGES", {"digits": ComparisonConfig(batch_size=16, rounds=1, trials=1)})
    monkeypatch.setattr("valleys.lab.run.trackers.check", lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    assert len(list(demo.run(tmp_path))) == 1
    assert (set(threads), torch.get_num_threads()) == ({1}, before)


def test_real_training_interrupted_and_resumed_equals_real_training_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "task": "digits",
        "optimizers": ["adamw", "alto"],
        "batch_size": 512,
        "rounds": 1,
        "epochs": 1,
        "micro_batch": 256,
    }
    expected = run(tmp_path / "whole", **arguments)
    count = 0

    def interrupted(*positional: Any, **options: Any) -> Record:
        nonlocal count
        count += 1
        if count == 6:  # 4 trials and a fresh seed are done
            raise KeyboardInterrupt
        return trainer.train(*positional, **options)

    with monkeypatch.context() as patch:
        patch.setitem(compare.__globals__, "trainer", SimpleNamespace(train=interrupted, Hooks=trainer.Hooks))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", **arguments)
    resumed = run(tmp_path / "parts", **arguments)
    assert resumed.selected == expected.selected
    for name in ("adamw", "alto"):
        metrics = [
            [(record.seed, record.validation, record.test) for record in comparison.records[name]]
            for comparison in (resumed, expected)
        ]
        assert metrics[0] == metrics[1]
        assert all(isinstance(test, float) for _, _, test in metrics[0])


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real trainer: no step is made twice, and the result is that of a comparison left in peace."""
    starts: list[int] = []

    def interrupting(stop: int | None) -> OptimizerSpec:
        def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
            optimizer = torch.optim.SGD(model.parameters(), lr=values["lr"], momentum=0.9)

            def count(*_: Any) -> None:
                if len(starts) == stop:
                    raise KeyboardInterrupt
                starts.append(1)

            optimizer.register_step_pre_hook(count)
            return optimizer

        return OptimizerSpec("mine", build, {"lr": Range(1e-3, 1e-1)})

    def comparison(out: Path, stop: int | None) -> Comparison:
        return compare(
            lab_fakes.points(),
            ComparisonConfig(optimizers=[interrupting(stop)], batch_size=8, rounds=1, trials=2, seeds=2, epochs=3),
            out=out,
        )

    monkeypatch.setattr(sys.modules["valleys.lab.comparison"], "forecast", lambda *_: None)  # it would make steps, too
    monkeypatch.setattr(sys.modules["valleys.lab.comparison"], "Checkpoint", partial(Checkpoint, every=0.0))
    whole = comparison(tmp_path / "whole", None)
    steps = len(starts)
    starts.clear()
    for stop in (5, 30):  # in tuning, and on a fresh seed
        with pytest.raises(KeyboardInterrupt):
            comparison(tmp_path / "out", stop)
        assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 1
    resumed = comparison(tmp_path / "out", None)
    assert len(starts) == steps
    assert [record.test for record in resumed.records["mine"]] == [record.test for record in whole.records["mine"]]
    assert resumed.verdicts == whole.verdicts
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


def test_the_store_keeps_what_it_takes_to_find_the_task_again(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valleys.lab.tasks.load", lab_fakes.load)
    settings = {"data_dir": Path("d"), "preset": "smoke", "schedule": "constant", "trials": 1, "seeds": 1}
    run(tmp_path / "named", task="fake", **settings)
    run(tmp_path / "object", trials=1, seeds=1)
    expected = {"task": "fake", "data_dir": "d", "preset": "smoke", "schedule": "constant"}
    for folder, request in (("named", expected), ("object", dict.fromkeys(expected))):
        with Store(tmp_path / folder) as store:
            _, names, before = store.description()
        assert names == before["optimizers"] == ["sgd", "adamw"]
        assert before["planned"] == []
        assert {name: before[name] for name in expected} == request
        assert before["command"] == json.loads((tmp_path / folder / "report.json").read_text())["command"]


@pytest.mark.parametrize("name", ["loss", "metric"])
def test_a_task_object_is_tried_like_a_file_s(name: str, tmp_path: Path, calls: list[Call]) -> None:
    change: dict[str, Any] = {name: lambda outputs, targets: (outputs - targets).square().sum()}
    summed = replace(lab_fakes.points(), **change)
    with pytest.raises(LabError, match=f"the {name} of points must be the mean over the examples"):
        run(tmp_path, task=summed)
    assert calls == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"validation": Split(torch.ones(8, 2), torch.ones(8, 1))}, "validation data"),
        ({"build_model": lambda: nn.Linear(2, 1, bias=False)}, "initial weights at seed 0"),
        ({"loss": nn.functional.l1_loss}, "loss of six examples"),
    ],
)
def test_results_of_two_problems_are_not_mixed(
    change: dict[str, Any], named: str, tmp_path: Path, calls: list[Call]
) -> None:
    run(tmp_path, task=lab_fakes.points())
    count = len(calls)
    run(tmp_path, task=lab_fakes.points(), rounds=3)
    assert len(calls) > count, "the same problem made anew goes on"
    count = len(calls)
    with pytest.raises(LabError, match=f"holds runs of another problem: .*{named}.* changed since"):
        run(tmp_path, task=replace(lab_fakes.points(), **change), rounds=4)
    assert len(calls) == count
