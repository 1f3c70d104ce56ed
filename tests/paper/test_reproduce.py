"""Problems, settings and data of a reproduction, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import lab_fakes
from paper.reproductions import ROW, Call, no_gpu, of, run
from valleys.lab import LabError, Task
from valleys.lab.optimizers.spec import Plan
from valleys.paper.tables.methods import spec
from valleys.paper.tables.numbers import find


def test_the_paper_s_setting_reaches_the_trainer_and_nothing_is_tuned(tmp_path: Path, calls: list[Call]) -> None:
    reproduction = run(tmp_path, "table-5a", "15K", preset="paper", device="cpu", seeds=2)
    assert [call["optimizer"] for call in calls] == ["ALTO", "LAMB"] * 2
    assert [call["seed"] for call in calls] == [5000] * 2 + [5001] * 2
    assert all(o.same for o in reproduction.outcomes)
    assert reproduction.problems["15K"].endswith("(set by us: epochs, 200 up to 1K, else 400)")
    assert {call["batch_size"] for call in calls} == {15000}
    assert all(call["hyperparameters"] == {} and call["test"] for call in calls)
    task = calls[0]["task"]
    assert (task.epochs, task.schedule.kind, task.schedule.drops, task.clip) == (400, "step", 4, None)


def test_a_row_runs_alone_and_the_same_call_again_runs_nothing(tmp_path: Path, calls: list[Call]) -> None:
    first = run(tmp_path, "table-5a", "1k", seeds=1)
    assert {o.cell.row for o in first.outcomes} == {"1K"} == {c.row for c in first.contrasts}
    assert len(calls) == 2
    calls.clear()
    again = run(tmp_path, "table-5a", "1k", seeds=1)
    assert calls == []
    assert again == first


def test_rows_and_columns_are_chosen(tmp_path: Path, calls: list[Call]) -> None:
    reproduction = run(tmp_path, only="CIFAR-10", columns="ALTO,LAMB", seeds=1)
    places = [(o.cell.row, o.cell.column) for o in reproduction.outcomes]
    assert places == [(row, column) for row in ("CIFAR-10, 128", "CIFAR-10, 16384") for column in ("LAMB", "ALTO")]
    assert [call["optimizer"] for call in calls] == ["LAMB", "ALTO"] * 2
    assert {(c.first, c.second) for c in reproduction.contrasts} == {("ALTO", "LAMB")}


def test_another_length_is_said_and_is_no_test_of_the_paper(tmp_path: Path, calls: list[Call]) -> None:
    paper: Call = {"preset": "paper", "device": "cpu", "columns": "LAMB,ALTO", "seeds": 1}
    as_printed = run(tmp_path, "table-5a", "200", **paper)
    shorter = run(tmp_path, "table-5a", "200", epochs=2, **paper)
    assert [call["task"].epochs for call in calls] == [200, 200, 2, 2]  # other runs, in the same folder
    assert [all(o.same for o in one.outcomes) for one in (as_printed, shorter)] == [True, False]
    text = shorter.paths["markdown"].read_text()
    assert "ANOTHER LENGTH: --epochs 2 for every run" in text
    assert "; --epochs 2 in place of 200" in text
    assert "| another problem |" in text
    assert "PRESET SMOKE" not in text
    assert "A SHARE" not in text
    assert '"epochs": 2,' in shorter.paths["json"].read_text()
    same = run(tmp_path / "same", "table-5a", "200", epochs=200, **paper)
    assert all(o.same for o in same.outcomes)
    assert "ANOTHER LENGTH" not in same.paths["markdown"].read_text()
    smoke = run(tmp_path / "smoke", "table-5a", "200", epochs=5, seeds=1).paths["markdown"].read_text()
    assert "PRESET SMOKE" in smoke
    assert "ANOTHER LENGTH: --epochs 5" in smoke


def test_tables_with_a_problem_in_common_share_its_runs(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, "table-8", ROW, seeds=1)
    assert [call["optimizer"] for call in calls] == ["SGD", "ESGD", "Adam", "EAdam"]
    calls.clear()
    run(tmp_path, seeds=1)
    assert [call["optimizer"] for call in calls] == ["AdamW", "LAMB", "AdaBelief", "ALTO"]
    calls.clear()
    run(tmp_path, "table-8", ROW, seeds=1, preset="paper", device="cpu")
    assert len(calls) == 4  # another problem


def test_other_hyperparameters_are_other_runs(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "table-5a", "1K", seeds=1)
    calls.clear()
    table = find("table-5a")
    cells = [replace(one, method=replace(one.method, options=(("lr", 0.5),))) for one in table.cells if one.method]
    monkeypatch.setattr("valleys.paper.tables.numbers.TABLES", (replace(table, cells=tuple(cells)),))
    run(tmp_path, "table-5a", "1K", seeds=1)
    assert [call["optimizer"] for call in calls] == ["ALTO", "LAMB"]


def test_workers_with_one_storage_share_the_runs(tmp_path: Path, calls: list[Call]) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first = run(tmp_path / "a", "table-5a", "1K", seeds=1, storage=url)
    calls.clear()
    second = run(tmp_path / "b", "table-5a", "1K", seeds=1, storage=url)
    assert calls == []
    assert second.outcomes == first.outcomes


def test_a_smaller_problem_has_as_large_a_share_in_a_batch(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, "table-5a", "15K", seeds=1)
    assert {call["batch_size"] for call in calls} == {15000 * 20000 // 50000}
    calls.clear()
    reproduction = run(tmp_path, "table-8", "ImageNet, 256", seeds=1)
    assert {call["batch_size"] for call in calls} == {32}
    assert calls[0]["task"].schedule == lab_fakes.task().schedule
    assert calls[0]["task"].epochs == 2
    assert not any(o.same for o in reproduction.outcomes)
    assert "another, smaller problem" in reproduction.problems["ImageNet, 256"]


def test_a_batch_is_never_more_than_there_is(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "table-5a", "50K", preset="paper", device="cpu", seeds=1)
    assert {call["batch_size"] for call in calls} == {20000}
    calls.clear()
    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: lab_fakes.task(examples=20))
    run(tmp_path / "few", "table-5a", "200", seeds=1)
    assert {call["batch_size"] for call in calls} == {20}


def test_preset_paper_trains_on_what_cifar_holds_out_too(tmp_path: Path, calls: list[Call]) -> None:
    def load(name: str, data_dir: object, preset: str | None) -> Task:
        return replace(
            lab_fakes.task(name, examples=45000), validation=lab_fakes.split(5000), test=lab_fakes.split(100)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.tasks.load", load)
        reproduction = run(tmp_path, "headline", None, preset="paper", device="cpu", seeds=1)
        run(tmp_path, "headline", None, preset="paper", device="cpu", seeds=1, keep_last_batch=True)
    whole, rest = calls[0]["task"], calls[-1]["task"]
    assert len(calls) == 8  # the two are other runs
    assert (len(whole.train), len(whole.validation), whole.variant) == (50000, 100, "all training examples")
    assert whole.steps(16384, whole.epochs) == 1200
    assert rest.steps(16384, rest.epochs) == 1600
    assert "batch 16384 of 50,000 examples, 400 epochs, 1,200 steps" in reproduction.problems["CIFAR-10, 16384"]


@pytest.mark.parametrize("preset", ["tenth", "fortieth-16px"])
def test_a_share_keeps_the_paper_s_length_and_schedule(preset: str, tmp_path: Path, calls: list[Call]) -> None:
    part = 10 if preset == "tenth" else 40

    def load(name: str, data_dir: object, preset: str | None) -> Task:
        return replace(lab_fakes.task(name, examples=50000 // part), micro_batch=103)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.tasks.load", load)
        reproduction = run(tmp_path, "headline", None, preset=preset, seeds=1)
    task = calls[0]["task"]
    assert [call["optimizer"] for call in calls] == ["LAMB", "without a, bias correction", "without a", "ALTO"]
    assert {call["batch_size"] for call in calls} == {round(16384 / part)}
    assert (task.epochs, task.schedule.kind, task.schedule.drops) == (400, "step", 4)
    assert "1,200 steps" in reproduction.problems["CIFAR-10, 16384"]
    assert not any(o.same for o in reproduction.outcomes)
    assert "PRESET SMOKE" not in reproduction.paths["markdown"].read_text()
    (column,) = {o.cell.column for o in reproduction.outcomes if o.cell.value == 88.11}
    assert column == "without a"


def test_a_task_without_the_share_is_blank(tmp_path: Path, calls: list[Call]) -> None:
    reproduction = run(tmp_path, "table-9", "MRPC", preset="tenth")
    assert {o.blank for o in reproduction.outcomes} == {"the task bert-mrpc has no preset tenth"}
    assert calls == []


def test_the_authors_options_reach_clipping_and_parameter_groups(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduction = run(tmp_path, seeds=1)
    plain = {call["optimizer"]: call for call in calls}
    calls.clear()
    reproduction = run(tmp_path, seeds=1, exclude_norms=True, clip=1.0)
    assert len(calls) == len(plain)  # other runs
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    for call in calls:
        assert call["task"].clip == 1.0
        assert plain[call["optimizer"]]["task"].clip is None
    for column, ratio in {"ALTO": True, "LAMB": True, "AdamW": None}.items():
        cell = of(reproduction, column).cell
        assert cell.method is not None
        (groups, alike) = (
            spec(cell.method, excluded).build(model, {}, Plan(128, 10)).param_groups for excluded in (True, False)
        )
        assert [len(group["params"]) for group in groups] == [1, 3]
        assert groups[0]["weight_decay"] == alike[0]["weight_decay"]
        assert groups[1]["weight_decay"] == 0
        assert len(alike) == 1
        if ratio is not None:
            assert [group["layer_adaptation"] for group in (*groups, *alike)] == [True, False, True]
    text = reproduction.paths["markdown"].read_text()
    assert "gradient clipped to 1, norms and biases without weight decay and ratio" in text


def test_a_clipped_gradient_is_clipped_in_both_presets(tmp_path: Path, calls: list[Call]) -> None:
    def load(name: str, data_dir: object, preset: str | None) -> Task:
        return replace(lab_fakes.load(name), batch_size=32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.tasks.load", load)
        reproduction = run(tmp_path, "table-5c", "ms per step", seeds=2)
        run(tmp_path, "table-5c", "ms per step", preset="paper", device="cpu", seeds=2)
    assert {call["task"].clip for call in calls} == {1.0}
    assert [call["batch_size"] for call in calls] == [32] * 4 + [4096] * 4  # ALTO and Lion, two seeds
    ratio = of(reproduction, "ALTO / Lion")
    assert [ratio.mean, ratio.difference] == pytest.approx([1.0, 1 - 332 / 253])
    assert (of(reproduction, "ALTO").mean, of(reproduction, "ALTO").difference) == (250.0, None)


def test_what_cannot_be_loaded_is_blank_with_the_reason(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, data_dir: object, preset: str | None) -> Task:
        if name.startswith("imagenet"):
            raise LabError("ImageNet is read from a folder, and none is named")
        return lab_fakes.load(name)

    monkeypatch.setattr("valleys.lab.tasks.load", load)
    reproduction = run(tmp_path, "table-8", None, seeds=1)
    blank = [o for o in reproduction.outcomes if o.cell.row == "ImageNet, 256"]
    assert [o.blank for o in blank] == ["ImageNet is read from a folder, and none is named"] * 4
    assert all((o.mean, o.difference, o.values) == (None, None, {}) for o in blank)
    assert all(o.mean is not None for o in reproduction.outcomes if o.cell.row != "ImageNet, 256")
    text = reproduction.paths["markdown"].read_text()
    assert "| ImageNet, 256 | ESGD | 70.59 |  |  | blank (1) |" in text
    assert "- blank (1): ImageNet is read from a folder, and none is named\n" in text


def test_the_real_task_says_what_is_missing(tmp_path: Path) -> None:
    reproduction = run(tmp_path, only="ImageNet, 256")
    assert {o.blank for o in reproduction.outcomes} == {
        "ImageNet is read from a folder, and none is named: name one that holds train/CLASS/IMAGE and val/CLASS/IMAGE "
        "as the data folder"
    }


def test_weights_that_are_missing_blank_the_row_before_any_run(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> nn.Module:
        raise LabError("the pretrained model does not load")

    monkeypatch.setattr(
        "valleys.lab.tasks.load", lambda *arguments: replace(lab_fakes.task(), build_model=missing, batch_size=8)
    )
    reproduction = run(tmp_path, "table-9", "MRPC")
    assert {o.blank for o in reproduction.outcomes} == {"the pretrained model does not load"}
    assert calls == []


def test_a_missing_package_blanks_its_optimizer_alone(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valleys.paper.tables.methods.find_spec", lambda name: None)
    reproduction = run(tmp_path, seeds=1)
    assert "pytorch_optimizer" in of(reproduction, "AdaBelief").blank
    assert [o.cell.column for o in reproduction.outcomes if o.blank] == ["AdaBelief"]


def test_without_a_gpu_the_paper_s_problems_do_not_start_by_themselves(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    reproduction = run(tmp_path, only=None, preset="paper")
    assert calls == []
    assert {o.blank for o in reproduction.outcomes} == {"needs a GPU; --device cpu runs it all the same"}
    assert reproduction.reports == ()
    run(tmp_path, "table-5a", "200", preset="paper", device="cpu", seeds=1)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "big"}, r"unknown preset 'big'.*smoke, paper"),
        ({"clip": 0.0}, r"clip must be a number above 0, not 0.0"),
        ({"seeds": 0}, r"seeds must be at least 1, not 0"),
        ({"epochs": 0}, r"epochs must be at least 1, not 0"),
        (
            {"number": "table-1", "only": None, "seeds": 2, "clip": 1.0},
            r"table-1 trains nothing, .*: leave out seeds, clip",
        ),
        ({"number": "table-6", "only": None, "epochs": 2}, r"table-6 trains nothing, .*: leave out epochs"),
        ({"columns": "Muon"}, r"--columns 'Muon' is no column of table-3; choose from: SGD; Adam;"),
        ({"device": "tpu"}, r"unknown device 'tpu'.*auto, cpu, cuda"),
        ({"number": "table-99"}, r"unknown table or figure 'table-99'"),
        ({"only": "MNIST"}, r"--only 'MNIST' is no row of table-3; choose from"),
    ],
)
def test_mistakes_are_named_before_any_work(tmp_path: Path, changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_cuda_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    with pytest.raises(LabError, match=r"--device cuda: torch finds no CUDA device here; use auto or cpu"):
        run(tmp_path, device="cuda")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"--out '.*file' cannot be made"):
        run(tmp_path / "file")


def test_data_may_lie_in_folders_by_name(tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, Path | None]] = []

    def load(name: str, data_dir: Path | None, preset: str | None) -> Task:
        requests.append((name, data_dir))
        raise LabError("no data")

    monkeypatch.setattr("valleys.lab.tasks.load", load)
    (tmp_path / "imagenet").mkdir()
    run(tmp_path / "out", "table-8", None, data_dir=tmp_path)
    run(tmp_path / "out", "table-9", "MRPC", data_dir=tmp_path)
    run(tmp_path / "out", "figure-8", "f1", data_dir=tmp_path)
    assert dict(requests) == {
        "cifar10-resnet20": tmp_path,
        "cifar100-resnet20": tmp_path,
        "imagenet-resnet34": tmp_path / "imagenet",
        "bert-mrpc": tmp_path,
        "fig8-f1": None,
    }
