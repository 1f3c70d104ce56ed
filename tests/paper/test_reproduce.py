from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import lab_fakes
from paper.reproductions import ROW, Call, of, run, watched_calls
from valleys.lab import LabError, Record, Task
from valleys.lab.record import Evaluation
from valleys.paper import memory, render
from valleys.paper.results import Ran, Reproduction, contrasts, outcome
from valleys.paper.tables.model import Cell, Method, Setting
from valleys.paper.tables.numbers import TABLES, find


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every run asked for, in order; nothing is loaded, trained or drawn."""
    return watched_calls(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """A row of Table 3, smaller than the paper's."""
    with pytest.MonkeyPatch.context() as patch:
        watched_calls(patch)
        return run(tmp_path_factory.mktemp("whole"))


def no_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: False)


def test_ours_stands_beside_the_papers_with_its_interval(whole: Reproduction) -> None:
    alto = of(whole, "ALTO")
    assert dict(alto.values) == {1000: 93.0, 1001: 94.0, 1002: 95.0}
    half_width = 4.302652729749464 / 3**0.5  # t of 2 degrees of freedom, standard deviation 1
    assert alto.mean == pytest.approx(94.0)
    assert alto.half_width == pytest.approx(half_width)
    assert alto.difference == pytest.approx(94.0 - 91.24)
    assert [alto.low, alto.high] == pytest.approx([2.76 - half_width, 2.76 + half_width])
    assert (alto.blank, alto.same, alto.runs) == ("", False, 3)
    assert [o.cell.column for o in whole.outcomes] == ["SGD", "Adam", "AdamW", "LAMB", "AdaBelief", "ALTO"]


def test_the_paper_s_setting_reaches_the_trainer_and_nothing_is_tuned(tmp_path: Path, calls: list[Call]) -> None:
    found = run(tmp_path, "table-5a", "15K", preset="paper", device="cpu", seeds=2)
    assert [call["optimizer"] for call in calls] == ["ALTO", "LAMB"] * 2
    assert [call["seed"] for call in calls] == [1000] * 2 + [1001] * 2
    assert all(o.same for o in found.outcomes)
    assert found.problems["15K"].endswith("(set by us: epochs, 200 up to 1K, else 400)")
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
    found = run(tmp_path, "table-8", "ImageNet, 256", seeds=1)
    assert {call["batch_size"] for call in calls} == {32}
    assert calls[0]["task"].schedule == lab_fakes.task().schedule
    assert calls[0]["task"].epochs == 2
    assert not any(o.same for o in found.outcomes)
    assert "another, smaller problem" in found.problems["ImageNet, 256"]


def test_a_batch_is_never_more_than_there_is(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "table-5a", "50K", preset="paper", device="cpu", seeds=1)
    assert {call["batch_size"] for call in calls} == {20000}
    calls.clear()
    monkeypatch.setattr("valleys.lab.tasks.load", lambda *arguments: lab_fakes.task(examples=20))
    run(tmp_path / "few", "table-5a", "200", seeds=1)
    assert {call["batch_size"] for call in calls} == {20}


def test_a_clipped_gradient_is_clipped_in_both_presets(tmp_path: Path, calls: list[Call]) -> None:
    def load(name: str, data_dir: object, preset: str | None) -> Task:
        return replace(lab_fakes.load(name), batch_size=32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("valleys.lab.tasks.load", load)
        found = run(tmp_path, "table-5c", "ms per step", seeds=2)
        run(tmp_path, "table-5c", "ms per step", preset="paper", device="cpu", seeds=2)
    assert {call["task"].clip for call in calls} == {1.0}
    assert [call["batch_size"] for call in calls] == [32] * 4 + [4096] * 4  # ALTO and Lion, two seeds
    ratio = of(found, "ALTO / Lion")
    assert [ratio.mean, ratio.difference] == pytest.approx([1.0, 1 - 332 / 253])
    assert (of(found, "ALTO").mean, of(found, "ALTO").difference) == (250.0, None)


def test_what_cannot_be_loaded_is_blank_with_the_reason(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, data_dir: object, preset: str | None) -> Task:
        if name.startswith("imagenet"):
            raise LabError("ImageNet is read from a folder, and none is named")
        return lab_fakes.load(name)

    monkeypatch.setattr("valleys.lab.tasks.load", load)
    found = run(tmp_path, "table-8", None, seeds=1)
    blank = [o for o in found.outcomes if o.cell.row == "ImageNet, 256"]
    assert [o.blank for o in blank] == ["ImageNet is read from a folder, and none is named"] * 4
    assert all((o.mean, o.difference, o.values) == (None, None, {}) for o in blank)
    assert all(o.mean is not None for o in found.outcomes if o.cell.row != "ImageNet, 256")
    text = found.paths["markdown"].read_text()
    assert "| ImageNet, 256 | ESGD | 70.59 |  |  | blank (1) |" in text
    assert "- blank (1): ImageNet is read from a folder, and none is named\n" in text


def test_the_real_task_says_what_is_missing(tmp_path: Path) -> None:
    found = run(tmp_path, only="ImageNet, 256")
    assert {o.blank for o in found.outcomes} == {
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
    found = run(tmp_path, "table-9", "MRPC")
    assert {o.blank for o in found.outcomes} == {"the pretrained model does not load"}
    assert calls == []


def test_a_missing_package_blanks_its_optimizer_alone(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valleys.paper.tables.methods.find_spec", lambda name: None)
    found = run(tmp_path, seeds=1)
    assert "pytorch_optimizer" in of(found, "AdaBelief").blank
    assert [o.cell.column for o in found.outcomes if o.blank] == ["AdaBelief"]


def test_without_a_gpu_the_paper_s_problems_do_not_start_by_themselves(
    tmp_path: Path, calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    found = run(tmp_path, only=None, preset="paper")
    assert calls == []
    assert {o.blank for o in found.outcomes} == {"needs a GPU; --device cpu runs it all the same"}
    assert found.reports == ()
    run(tmp_path, "table-5a", "200", preset="paper", device="cpu", seeds=1)
    assert len(calls) == 2


def test_runs_that_diverge_are_counted_and_left_out(whole: Reproduction) -> None:
    found = whole
    adam = of(found, "Adam")
    assert (dict(adam.values), adam.runs) == ({1000: 89.0, 1002: 91.0}, 3)
    assert "1 of 3 runs diverged" in found.paths["markdown"].read_text()


def test_orders_are_paired_and_have_a_sign(whole: Reproduction) -> None:
    found = whole
    orders = {c.second: c for c in found.contrasts}
    assert list(orders) == ["SGD", "Adam", "AdamW", "LAMB", "AdaBelief"]
    sgd, lamb, adam = orders["SGD"], orders["LAMB"], orders["Adam"]
    assert [sgd.paper, lamb.paper] == pytest.approx([91.24 - 91.85, 0.35])
    assert [sgd.sign, lamb.sign] == ["opposite"] * 2
    assert sgd.ours is not None
    assert (sgd.ours.mean, sgd.ours.pairs) == (2.0, 3)
    assert adam.ours is not None
    assert (adam.ours.pairs, adam.sign) == (2, "as in the paper")


SETTING, METHOD, SECOND = Setting("sine", 256), Method("A", "adam", ()), Method("B", "adam", ())


def ran(*values: float | None, second: tuple[float | None, ...] = ()) -> dict[Setting, Ran]:
    """Runs of two methods that end at these values, None for one that diverged."""

    def records(name: str, ends: tuple[float | None, ...]) -> tuple[Record, ...]:
        return tuple(
            lab_fakes.record(
                optimizer=name,
                seed=seed,
                test=end,
                diverged=end is None,
                steps=100,
                curve=[Evaluation(50, 3.0, 1.0, 10.0), Evaluation(100, 6.0 + seed, 1.0, 20.0 if end is None else end)],
            )
            for seed, end in enumerate(ends)
        )

    made = {"A": records("A", values), "B": records("B", second)}
    return {SETTING: Ran("a problem", True, epochs=10, target=40.0, records=made)}


def place(measure: Any = "test", value: float | None = 1.0, **changes: Any) -> Cell:
    return Cell("r", "c", value, SETTING, METHOD, measure, **changes)


def test_one_value_has_no_interval() -> None:
    found = outcome(place(), ran(5.0))
    assert (found.mean, found.half_width, found.difference, found.low, found.high) == (5.0, None, 4.0, None, None)


def test_a_cell_of_which_all_runs_diverged_is_blank() -> None:
    found = outcome(place(), ran(None, None))
    assert (found.mean, found.runs, found.blank) == (None, 2, "all 2 runs diverged")


def test_seconds_and_epochs_are_those_of_the_first_crossing() -> None:
    assert dict(outcome(place("seconds", level=50.0), ran(60.0, 70.0)).values) == {0: 6.0, 1: 7.0}
    assert dict(outcome(place("seconds", level=10.0), ran(60.0, 70.0)).values) == {0: 3.0, 1: 3.0}
    assert dict(outcome(place("epochs"), ran(60.0)).values) == {0: 10.0}  # the task's target, 40, after all 10 epochs
    assert outcome(place("seconds", level=10.0), ran(60.0)).difference is None


def test_a_run_that_misses_the_level_blanks_the_cell() -> None:
    found = outcome(place("seconds", level=65.0), ran(60.0, 70.0))
    assert (found.mean, found.blank) == (None, "1 of 2 runs of batch 16 never came to 65")
    ratio = place("time ratio", level=65.0, against=(SETTING, SECOND))
    assert "1 of 2 runs" in outcome(ratio, ran(70.0, 70.0, second=(60.0, 70.0))).blank


def test_a_metric_to_be_small_is_reached_from_above() -> None:
    there = ran(5.0)
    down = {SETTING: replace(there[SETTING], maximize=False)}
    assert dict(outcome(place("seconds", level=7.0), down).values) == {0: 6.0}


def test_ratios_are_of_the_same_seed() -> None:
    ratio = place("time ratio", value=0.5, level=50.0, against=(SETTING, SECOND))
    found = outcome(ratio, ran(60.0, 70.0, second=(5.0, 70.0)))
    assert found.blank == "1 of 2 runs of batch 16 never came to 50"
    found = outcome(ratio, ran(60.0, 70.0, second=(60.0, 70.0, 70.0)))
    assert (dict(found.values), found.difference) == ({0: 1.0, 1: 1.0}, 0.5)


def test_no_order_without_numbers() -> None:
    table = replace(find("table-3"), cells=(), contrasts=(("A", "B"),))
    a = outcome(replace(place(value=None), column="A"), ran(5.0, 6.0, second=(4.0, 9.0)))
    b = outcome(replace(place(value=None), column="B", method=SECOND), ran(5.0, 6.0, second=(4.0, 9.0)))
    (found,) = contrasts(table, [a, b])
    assert (found.paper, found.sign) == (None, "")
    paper = [replace(one, cell=replace(one.cell, value=value)) for one, value in ((a, 2.0), (b, 1.0))]
    assert contrasts(table, paper)[0].sign == "undecided"


def test_the_json_is_strict_and_complete(whole: Reproduction) -> None:
    found = whole

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(found.paths["json"].read_text(), parse_constant=refuse)
    assert (document["table"], document["preset"], document["seeds"]) == ("table-3", "smoke", 3)
    alto = document["cells"][-1]
    assert (alto["column"], alto["paper"], alto["ours"], alto["blank"]) == ("ALTO", 91.24, 94.0, "")
    assert (alto["difference"], alto["same_problem"]) == (pytest.approx(2.76), False)
    assert alto["interval"] == [pytest.approx(0.27592, abs=1e-4), pytest.approx(5.24408, abs=1e-4)]
    assert alto["hyperparameters"] == {
        "lr": 0.01,
        "betas": [0.9, 0.99],
        "alpha": 0.5,
        "beta": 0.1,
        "weight_decay": 0.0001,
    }
    assert document["orders"][0]["sign"] == "opposite"


def test_a_terminal_shows_numbers_reasons_and_whose_choice_it_was(whole: Reproduction) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    for part in render.parts(whole):
        console.print(part)
    text = shown.getvalue()
    assert "PRESET SMOKE" in text
    assert "94.00 ± 2.48 (3 seeds)" in text
    assert "+2.76 [+0.28, +5.24]" in text
    assert "Ours, since our notes of the paper do not give them" in text
    assert "opposite" in text


def test_the_paper_s_problem_is_not_called_smaller(tmp_path: Path, calls: list[Call]) -> None:
    text = run(tmp_path, "table-5a", "200", preset="paper", device="cpu", seeds=1).paths["markdown"].read_text()
    assert "PRESET SMOKE" not in text
    assert "no interval: one value" in text


def test_the_list_names_everything() -> None:
    shown = io.StringIO()
    for part in render.parts():
        Console(file=shown, width=250).print(part)
    assert all(name in shown.getvalue() for table in TABLES for name in (table.number, *table.aliases))


def test_memory_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    found = run(tmp_path, "table-6", "32", device="cpu")
    assert "needs a GPU" in found.outcomes[0].blank


def test_memory_is_what_one_needs_above_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(chosen: Method, batch_size: int, preset: str) -> int:
        assert preset == "paper"
        return batch_size * {"ALTO": 126, "LAMB": 120}[chosen.name]

    monkeypatch.setattr(memory, "peak", peak)
    found = run(tmp_path, "table-6", None, preset="paper")
    assert [o.mean for o in found.outcomes] == [pytest.approx(5.0)] * 3
    assert found.outcomes[0].difference == pytest.approx(5.0 - 43.0)


class Bert(nn.Module):
    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        self.table = nn.Embedding(2, config.get("hidden_size", 768))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        assert input_ids.shape == (2, memory.LENGTH)
        return SimpleNamespace(loss=self.table(input_ids).square().mean())


def test_the_peak_is_measured_over_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[list[torch.Size]] = []
    fake = SimpleNamespace(BertConfig=dict, BertForSequenceClassification=Bert)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.setattr(memory, "_DEVICE", "cpu")
    for name, answer in {"is_available": True, "empty_cache": None, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.random, "fork_rng", nullcontext)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 110)
    chosen = find("table-6").cells[0].method
    assert chosen is not None

    def build(params: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(params, lr=options["lr"])
        optimizer.register_step_post_hook(lambda *_: steps.append([param.shape for param in params]))
        return optimizer

    monkeypatch.setattr(memory, "MAKERS", {"alto": build})
    assert memory.peak(chosen, 2, "smoke") == 100
    assert memory.peak(chosen, 2, "paper") == 100
    assert steps == [[torch.Size([2, 128])]] * 2 + [[torch.Size([2, 768])]] * 2


def test_a_batch_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(BertConfig=dict, BertForSequenceClassification=0))
    monkeypatch.setattr(memory, "_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", full)
    with pytest.raises(LabError, match=r"batch 32 of 128 tokens does not fit into this GPU"):
        memory.peak(Method("ALTO", "alto", ()), 32, "paper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "big"}, r"unknown preset 'big'.*smoke, paper"),
        ({"seeds": 0}, r"seeds must be at least 1, not 0"),
        ({"device": "tpu"}, r"unknown device 'tpu'.*auto, cpu, cuda"),
        ({"number": "table-99"}, r"unknown table or figure 'table-99'"),
        ({"only": "MNIST"}, r"--only 'MNIST' is no row of table-3; choose one of"),
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
    asked: list[tuple[str, Path | None]] = []

    def load(name: str, data_dir: Path | None, preset: str | None) -> Task:
        asked.append((name, data_dir))
        raise LabError("no data")

    monkeypatch.setattr("valleys.lab.tasks.load", load)
    (tmp_path / "imagenet").mkdir()
    run(tmp_path / "out", "table-8", None, data_dir=tmp_path)
    run(tmp_path / "out", "table-9", "MRPC", data_dir=tmp_path)
    run(tmp_path / "out", "figure-8", "f1", data_dir=tmp_path)
    assert dict(asked) == {
        "cifar10-resnet20": tmp_path,
        "cifar100-resnet20": tmp_path,
        "imagenet-resnet34": tmp_path / "imagenet",
        "bert-mrpc": tmp_path,
        "fig8-f1": None,
    }
