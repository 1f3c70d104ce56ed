"""Checkpoints inside a run: killed at any step, it ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
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


CASES = [(name, Schedule("cosine")) for name in resolve.names()]
CASES += [(name, Schedule(kind)) for name in ("sgd", "alto") for kind in ("step", "wsd")]


@pytest.mark.parametrize(("name", "schedule"), CASES, ids=lambda value: getattr(value, "kind", value))
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path, name: str, schedule: Schedule) -> None:
    whole = without_times(train(tmp_path / "whole", name, schedule))
    for stop in (2, 13):
        folder = tmp_path / str(stop)
        with pytest.raises(Killed):
            train(folder, name, schedule, stop)
        made: list[int] = []
        resumed = train(folder, name, schedule, loaded=made)
        assert len(made) == STEPS - (stop - 1), "finished steps are not repeated"
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
    made: list[int] = []
    train(tmp_path, "sgd", Schedule("cosine"), loaded=made)
    assert len(made) == STEPS


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"of": Evil()}, tmp_path / "run.pt")
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
