"""Several processes give what one gives, speak with one voice, and end together."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from lab.run import worlds
from lab.run.worlds import Ended, Sitting, values, without_gloo, world
from valleys.lab import LabError, compare
from valleys.lab.record import Evaluation, Record
from valleys.lab.run import ranks as parallel
from valleys.lab.run.ranks import Layout, Ranks


def same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def alike(ours: Record, theirs: Record) -> bool:
    """Equal but for times and rounding: mean losses are summed in 32 bits, everything else here has 64."""

    def numbers(record: Record) -> list[float]:
        losses = [value for e in record.curve for value in (e.train_loss, e.validation)]
        return [*losses, record.validation or 0.0, record.test or 0.0]

    def others(record: Record) -> Record:
        curve = [Evaluation(e.step, 0.0, 0.0, 0.0) for e in record.curve]
        none: dict[str, Any] = {"validation": None, "test": None, "seconds_to_target": None}
        return replace(record, curve=curve, step_seconds=0.0, optimizer_seconds=0.0, ended=None, **none)

    return others(ours) == others(theirs) and numbers(ours) == pytest.approx(numbers(theirs), rel=1e-6)


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_and_records_are_those_of_one_process(size: int, tmp_path: Path) -> None:
    expected = worlds.gradients()
    ranks = values(world(size, tmp_path, worlds.gradients))
    for result in ranks:
        for (gradient, record), (reference, whole) in zip(result, expected, strict=True):
            assert len(gradient) == len(reference) == whole.steps
            for a, b in zip(gradient, reference, strict=True):
                same(a, b)
            assert alike(record, whole)
    assert all([record for _, record in result] == [record for _, record in ranks[0]] for result in ranks)


def test_replicas_stay_equal_whatever_is_random(tmp_path: Path) -> None:
    alone = worlds.noisy_replicas()
    ranks = values(world(4, tmp_path, worlds.noisy_replicas))
    for name in ("random optimizer", "dropout", "batch normalisation"):
        for result in ranks:
            assert result[name][0] == ranks[0][name][0]
            same(result[name][1], ranks[0][name][1], tolerance=0.0)
    same(ranks[0]["random optimizer"][1], alone["random optimizer"][1])
    draws = [number for result in ranks for number in result["draws"]]
    assert len(set(draws)) == len(draws) == 4 * 2


def test_all_ranks_see_a_divergence_that_one_of_them_meets(tmp_path: Path) -> None:
    expected = worlds.divergence()
    ranks = values(world(3, tmp_path, worlds.divergence))
    assert ranks[0] == ranks[1] == ranks[2]
    assert expected["loss"].diverged
    assert alike(ranks[0]["loss"], expected["loss"])
    assert not ranks[0]["metric of rank 1"].diverged  # rank 0's number is everybody's


def test_a_parameter_without_a_gradient_is_refused_by_several_ranks(tmp_path: Path) -> None:
    assert worlds.unused() == "trained"
    first, second = values(world(2, tmp_path, worlds.unused))
    assert first == second
    assert "layers.2.spare got no gradient; with several processes" in first


def test_groups_of_its_own_follow_one_another_and_are_taken_down(tmp_path: Path) -> None:
    assert values(world(2, tmp_path, worlds.groups, 12, launched=True)) == [[(False, 0)] * 12] * 2


def test_a_mistake_takes_the_group_down_only_if_all_ranks_know_of_it(tmp_path: Path) -> None:
    """Else the others, which wait in it, would fail for that reason, and be heard before the rank that is at fault."""
    assert values(world(2, tmp_path, worlds.mistakes, launched=True)) == [[False, False, True]] * 2


def test_ranks_share_decisions_and_errors(tmp_path: Path) -> None:
    ranks = values(world(3, tmp_path, worlds.agreement, launched=True))
    assert [result.pop("agreed") for result in ranks] == [0, 1, 2]
    (_, end), *others = [result.pop("rank 0 first") for result in ranks]
    assert all(start > end for start, _ in others)
    messages = {
        "decided": 10,
        "decide": "mistake of 0",
        "agree, rank 0": "mistake of 0",
        "agree, rank 1": "rank 1: mistake of 1",
        "sum": [3.0, 3.0],
    }
    assert ranks == [messages] * 3


@pytest.mark.parametrize(("begun", "continued"), [(1, 2), (4, 1)])
def test_a_folder_may_be_continued_with_another_number_of_processes(begun: int, continued: int, tmp_path: Path) -> None:
    def session(size: int, **options: Any) -> list[Sitting]:
        if size == 1:
            return [worlds.comparison(tmp_path / "out", options)]
        return values(world(size, tmp_path / f"session {options}", worlds.comparison, tmp_path / "out", options))

    whole = worlds.comparison(tmp_path / "whole", {}).comparison
    session(begun, trials=1, seeds=1)
    ranks = session(continued)
    comparison = ranks[0].comparison
    assert all(rank.comparison == comparison for rank in ranks)
    assert comparison.selected == whole.selected
    for records, reference in ((comparison.trials, whole.trials), (comparison.records, whole.records)):
        for name in ("sgd", "adamw"):
            assert all(alike(a, b) for a, b in zip(records[name], reference[name], strict=True))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    runs = sum(len(entry["runs"]) for entry in report["rounds"])
    assert [rank.made for rank in ranks] == [runs - 4] * continued
    assert [(rank.opened, rank.written) for rank in ranks] == [(1, 1)] + [(0, 0)] * (continued - 1)
    (changed,) = [note for note in comparison.warnings if note.startswith("the environment changed")]
    assert f"ranks {begun} then, {continued} now" in changed
    layouts = [note for note in comparison.warnings if note.startswith("global batch")]
    product = {
        1: "global batch 14: at most 3 per rank x 1 rank x 5 accumulation steps",
        2: "global batch 14: at most 3 per rank x 2 ranks x 3 accumulation steps",
        4: "global batch 14: at most 3 per rank x 4 ranks x 2 accumulation steps",
    }
    assert layouts == [product[begun], product[continued]]
    assert [entry["ranks"] for entry in report["global_batch"]] == [begun, continued]


def test_progress_is_shown_by_rank_0_alone(tmp_path: Path) -> None:
    first, second = world(2, tmp_path, worlds.comparison, tmp_path / "out", {"trials": 1, "seeds": 1, "progress": True})
    assert (first.code, first.out, second.code, second.out, second.err) == (0, "", 0, "", "")
    assert "toy" in first.err


COMPARE = ("compare", "toy", "--batch-size", "14", "--optimizers", "sgd", "--rounds", "1", "--trials", "1", "--out")


def test_every_rank_prints_the_same_table(tmp_path: Path) -> None:
    """``torchrun --local-ranks-filter 0`` shows one of them; below."""
    first, second = world(2, tmp_path, worlds.command, *COMPARE, str(tmp_path / "out"), launched=True)
    assert first.code == 0
    assert "1 optimizer x 1 round x (1 trial + 1 fresh seed) = 2 runs" in first.err
    assert first.out.count("toy at batch 14") == 1
    assert "note: global batch 14 = 7 per rank x 2 ranks x 1 accumulation step\n" in first.out
    assert second == first._replace(err="")


@pytest.mark.parametrize(
    ("words", "shown"), [(["--version"], version("valleys")), (["tasks"], "sine"), (["--help"], "Usage")]
)
def test_what_needs_no_group_makes_none(tmp_path: Path, words: list[str], shown: str) -> None:
    first, second = world(2, tmp_path, worlds.command, *words, launched=True)
    assert (first.code, first.err) == (0, "")
    assert shown in first.out
    assert second == first


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--batch-size", "99"], "valleys: batch size 99: toy has 50 training examples; choose 1 to 50"),
        (["--trials", "0"], "valleys: trials must be a number from 1 to 5000, not 0"),
        (["--optimizers", "nonsense"], "valleys: unknown optimizer 'nonsense'"),
        (["--nonsense"], "valleys: No such option: --nonsense"),
    ],
)
def test_a_mistake_ends_all_with_one_line_and_2(tmp_path: Path, words: list[str], line: str) -> None:
    first, second = world(2, tmp_path, worlds.command, *COMPARE, str(tmp_path / "out"), *words, launched=True)
    assert (first.code, first.out) == (2, "")
    assert first.err.count(line) == 1
    assert len(first.err.splitlines()) == 1
    assert second == first


def test_a_mistake_that_one_rank_makes_is_told_by_that_rank(tmp_path: Path) -> None:
    words = [*COMPARE, str(tmp_path / "out")]
    first, second = world(2, tmp_path, worlds.failing_command, "LabError", 1, *words, launched=True)
    assert (second.code, second.out) == (2, "")
    assert second.err.endswith(": mine\n")
    assert first.code == 1  # its peer has gone


def test_an_interruption_ends_all_with_130(tmp_path: Path) -> None:
    words = [*COMPARE, str(tmp_path / "out")]
    ended = world(2, tmp_path, worlds.failing_command, "interruption", None, *words, launched=True)
    line = "valleys: interrupted; the same command continues\n"
    assert [rank._replace(err=rank.err.splitlines(keepends=True)[-1]) for rank in ended] == [
        Ended(130, "", line, None)
    ] * 2


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_torchrun_on_digits_gives_the_report_of_one_process(tmp_path: Path) -> None:
    """The weights have 32 bits: roundings differ, and may put one of 360 examples on the other side."""
    words = ["compare", "digits", "--batch-size", "512", "--optimizers", "adamw,alto", "--device", "cpu"]
    words += ["--rounds", "1", "--trials", "2", "--seeds", "2", "--epochs", "2", "--out", str(tmp_path / "two")]
    process = torchrun("--local-ranks-filter", "0", "-m", "valleys", *words)
    assert process.returncode == 0, process.stderr
    assert not any(word in process.stderr for word in ("valleys", "Warning", "Error"))
    assert process.stderr.count("2 optimizers x 1 round x (2 trials + 2 fresh seeds) = 8 runs") == 1
    assert process.stdout.count("digits at batch 512") == 1
    settings: dict[str, Any] = {"batch_size": 512, "rounds": 1, "trials": 2, "seeds": 2, "epochs": 2, "device": "cpu"}
    compare("digits", optimizers=["adamw", "alto"], **settings, out=tmp_path / "one")
    two, one = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("two", "one"))
    assert two["global_batch"] == [{"batch_size": 512, "per_rank": 256, "ranks": 2, "accumulation_steps": 1}]
    assert two["notes"] == ["global batch 512 = 256 per rank x 2 ranks x 1 accumulation step", *one["notes"]]
    assert two["configuration"] == one["configuration"]
    runs, expected = ([run for entry in report["rounds"] for run in entry["runs"]] for report in (two, one))
    assert len(runs) == 2 * (2 + 2)
    for run, other in zip(runs, expected, strict=True):
        for key in ("optimizer", "phase", "trial", "selected", "hyperparameters", "seed", "steps", "diverged"):
            assert run[key] == other[key]
        for key in ("validation", "test"):
            assert run[key] == pytest.approx(other[key], abs=100.1 / 360)
        for a, b in zip(run["curve"], other["curve"], strict=True):
            assert a["step"] == b["step"]
            assert a["validation"] == pytest.approx(b["validation"], abs=100.1 / 360)
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)


def test_launchers_may_start_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["valleys", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("valleys", run_name="__main__")
    assert (left.value.code, capsys.readouterr().out) == (0, f"{version('valleys')}\n")


RAISES = """
import os
from valleys.lab.run.training_loop import Fitting

step = Fitting.step

def broken(self, reading, weights):
    if os.environ["RANK"] == "1" and self.steps == 3:
        raise ZeroDivisionError("mine")
    return step(self, reading, weights)

Fitting.step = broken
from valleys.cli import main
main()
"""


def test_a_rank_that_raises_ends_the_job_and_is_heard(tmp_path: Path) -> None:
    script = tmp_path / "raises.py"
    script.write_text(RAISES)
    words = ["compare", "sine", "--batch-size", "4096", "--device", "cpu", "--out", str(tmp_path / "out")]
    process = torchrun(str(script), *words)
    assert process.returncode == 1
    assert "ZeroDivisionError: mine" in process.stderr
    assert without_gloo(process.stdout) == ""


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # some clusters set it for all their jobs
    with parallel.joined() as ranks:
        assert ranks == Ranks(0, 1)
        assert not distributed.is_initialized()


def test_a_launch_without_a_meeting_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(LabError, match=r"WORLD_SIZE=4 .* MASTER_PORT is not set; start them with torchrun"),
        parallel.joined(),
    ):
        pass


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_parts_are_the_batch_and_their_weights_its_mean(size: int, micro_batch: int) -> None:
    batch = torch.arange(7) + 10
    parts = [Ranks(rank, size).parts(batch, micro_batch) for rank in range(size)]
    assert all(0 < len(part) <= micro_batch for own in parts for part, _ in own)
    assert torch.cat([part for own in parts for part, weight in own if weight]).tolist() == batch.tolist()
    assert all(weight in (0, len(part) / 7) for own in parts for part, weight in own)
    assert max(map(len, parts)) == Layout(7, micro_batch, size).accumulation_steps
    assert max(len(part) for own in parts for part, weight in own if weight) == Layout(7, micro_batch, size).per_rank


def test_each_rank_has_its_own_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one here: what torch would say is made up."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    config = "cpu:gloo,cuda:nccl"
    monkeypatch.setattr(distributed, "get_backend_config", lambda: config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    ranks = Ranks(5, 8)
    assert ranks.device("cuda") == torch.device("cuda:1")
    assert ranks.device("cuda:0") == torch.device("cuda:0")
    assert ranks.device("cpu") == torch.device("cpu")
    assert Ranks().device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(LabError, match=r"no CUDA device is left for process 2 .* which has 2; start at most 2"):
        ranks.device("cuda")
    config = "cuda:nccl"
    with pytest.raises(LabError, match="has no backend for the device cpu"):
        ranks.device("cpu")
