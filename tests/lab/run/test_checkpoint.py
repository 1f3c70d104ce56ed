"""Checkpoints inside a run: killed at any step, it ends as if nothing had happened."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lab_fakes
from valleys.lab.optimizers import resolve
from valleys.lab.optimizers.spec import Plan
from valleys.lab.problem.data import Batch
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Split, Task
from valleys.lab.record import Record
from valleys.lab.run.checkpoint import Checkpoint

STEPS = 20


def _split(count: int, seed: int) -> Split:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return Split(x, x.sum(1, keepdim=True).sin())


def _jitter(inputs: Batch, generator: torch.Generator) -> Batch:
    assert isinstance(inputs, Tensor)
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def task(schedule: Schedule) -> Task:
    """With dropout, batch statistics and augmentation: all that a resumed run could get wrong."""
    return Task(
        name="toy",
        train=_split(40, 1),
        validation=_split(11, 2),
        test=_split(7, 3),
        build_model=lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)),
        loss=nn.functional.mse_loss,
        metric=nn.functional.mse_loss,
        metric_name="mse",
        maximize=False,
        target=0.1,
        epochs=5,
        augment=_jitter,
        schedule=schedule,
    )


class Killed(BaseException):
    """As if the process ended here."""


def train(
    folder: Path, name: str, schedule: Schedule, stop: int | None = None, loaded: list[int] | None = None
) -> Record:
    spec = resolve.resolve(name)

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> torch.optim.Optimizer:
        optimizer = spec.build(model, values, plan)
        steps = [0]

        def count(*_: Any) -> None:
            steps[0] += 1
            if loaded is not None:
                loaded.append(steps[0])
            if steps[0] == stop:
                raise Killed

        optimizer.register_step_pre_hook(count)
        return optimizer

    return lab_fakes.train_really(
        task(schedule),
        replace(spec, build=build),
        {key: -0.5 if key == "c" else r.middle for key, r in spec.space.items()},
        batch_size=10,
        micro_batch=4,
        seed=3,
        test=True,
        checkpoint=Checkpoint(folder / "run.pt", every=0.0),
    )


def without_times(record: Record) -> Record:
    curve = [replace(evaluation, seconds=0.0) for evaluation in record.curve]
    return replace(record, curve=curve, seconds_to_target=None, step_seconds=0.0, optimizer_seconds=0.0, ended=None)


# Older releases of Python 3.11 pickle a member of an enum, of which shampoo has some, by getattr, which is not allowed.
BY_GETATTR = b"getattr" in pickle.dumps(HTTPStatus.OK)
CASES = [(name, Schedule("cosine")) for name in resolve.names() if not (name == "shampoo" and BY_GETATTR)]
CASES += [(name, Schedule(kind)) for name in ("sgd", "alto") for kind in ("step", "wsd")]


@pytest.mark.parametrize(("name", "schedule"), CASES, ids=lambda value: getattr(value, "kind", value))
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, name: str, schedule: Schedule) -> None:
    whole = without_times(train(tmp_path / "whole", name, schedule))
    for stop in (2, 13):
        folder = tmp_path / str(stop)
        with pytest.raises(Killed):
            train(folder, name, schedule, stop)
        result: list[int] = []
        resumed = train(folder, name, schedule, loaded=result)
        assert len(result) == STEPS - (stop - 1), "finished steps are not repeated"
        assert without_times(resumed) == whole


def test_times_go_on_from_where_they_were(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, "sgd", Schedule("cosine"), 13)
    resumed = train(tmp_path, "sgd", Schedule("cosine"))
    seconds = [evaluation.seconds for evaluation in resumed.curve]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 broken"], ids=["empty", "text", "zip"])
def test_a_file_that_cannot_be_read_costs_the_run_no_more_than_its_progress(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.pt").write_bytes(content)
    result: list[int] = []
    with pytest.warns(UserWarning, match="its run begins anew"):
        train(tmp_path, "sgd", Schedule("cosine"), loaded=result)
    assert len(result) == STEPS


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"of": Evil()}, tmp_path / "run.pt")
    with pytest.warns(UserWarning, match="Weights only load failed"):
        assert Checkpoint(tmp_path / "run.pt").load({}) is None
    assert not (tmp_path / "ran").exists()


def test_another_runs_file_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"seed": 1}, {"steps": 5})
    assert checkpoint.load({"seed": 2}) is None
    assert checkpoint.load({"seed": 1}) == {"steps": 5}
    checkpoint.remove()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_it_is_due_when_its_time_has_come(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "run.pt", every=0.0).due()
    assert not Checkpoint(tmp_path / "run.pt", every=1e6).due()


def test_a_damaged_checkpoint_is_as_good_as_none_and_says_so(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": torch.arange(300.0), "moments": {"a": torch.ones(7, 3)}, "step": 5}
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"seed": 1}, state)
    whole = checkpoint.path.read_bytes()
    random = Random(0)
    outcomes = Counter[str]()
    for _ in range(400):
        content = bytearray(whole)
        first = random.randrange(len(content))
        kind = random.choice(("cut", "flipped", "zeroed", "doubled"))
        if kind == "cut":
            del content[first:]
        elif kind == "flipped":
            content[first] ^= 1 << random.randrange(8)
        elif kind == "zeroed":
            content[first : first + 64] = bytes(len(content[first : first + 64]))
        else:
            content[first:first] = content[first : first + 64]
        checkpoint.path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = checkpoint.load({"seed": 1})
        if loaded is None:
            assert [f"the checkpoint {checkpoint.path} is damaged" in str(one.message) for one in caught] == [True]
        else:  # the damage lies where nobody reads: what is loaded is what was saved
            assert not caught
            assert torch.equal(loaded["weights"], state["weights"])
            assert torch.equal(loaded["moments"]["a"], torch.ones(7, 3))
            assert loaded["step"] == 5
        outcomes[f"{kind}: {'damaged' if loaded is None else 'whole'}"] += 1
    assert {outcome for outcome in outcomes if outcome.endswith("damaged")} >= {
        f"{kind}: damaged" for kind in ("cut", "flipped", "zeroed", "doubled")
    }


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", b"hello"])
def test_what_is_no_checkpoint_is_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.warns(UserWarning, match="its run begins anew"):
        assert Checkpoint(tmp_path / "run.pt").load({}) is None


def test_without_a_file_nothing_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert Checkpoint(tmp_path / "run.pt").load({}) is None
    assert not recwarn.list
