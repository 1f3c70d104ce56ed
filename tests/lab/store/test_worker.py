"""Runs that a comparison still needs."""

from __future__ import annotations

import itertools
from typing import Any, cast

import lab_fakes
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.progress import Pace
from valleys.lab.record import Record
from valleys.lab.search.candidates import fresh_seed, tuning_seed
from valleys.lab.store.job import Job, Key
from valleys.lab.worker import Work

ROUNDS = SEEDS = TRIALS = 2


class Finished:
    """A store in memory, of which each trial is better than the one before."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], dict[Key, Record]] = {}

    def tuned(self, optimizer: str, round_: int, trials: int, diverged: bool = False) -> Finished:
        for trial in range(trials):
            record = lab_fakes.record(validation=None if diverged else float(trial), diverged=diverged)
            self.runs.setdefault((optimizer, "tuning"), {})[Key(round_, trial, tuning_seed(round_, trial))] = record
        return self

    def take(self, job: Job) -> None:
        record = lab_fakes.record(validation=float(job.key.point))
        self.runs.setdefault((job.optimizer, job.phase), {})[job.key] = record

    def finished(self, optimizer: str, phase: str, age: float) -> dict[Key, Record]:
        return self.runs.get((optimizer, phase), {})


def work(*specs: OptimizerSpec) -> Work:
    return Work(specs, ROUNDS, TRIALS, SEEDS, maximize=True)


def needed(plan: Work, store: Finished) -> list[tuple[str, str, int, int, int]]:
    jobs, _ = plan.status(cast("Any", store))
    return [(job.optimizer, job.phase, job.key.round, job.key.point, job.key.seed) for job in jobs]


BOTH = work(lab_fakes.spec("sgd"), lab_fakes.spec("adamw"))


def test_fresh_seeds_wait_for_their_own_optimizers_trials_in_their_round_and_for_nothing_else() -> None:
    store = Finished().tuned("sgd", 0, 2).tuned("adamw", 0, 1).tuned("sgd", 1, 2).tuned("adamw", 1, 2)
    assert needed(BOTH, store) == [
        ("adamw", "tuning", 0, 1, tuning_seed(0, 1)),
        ("sgd", "final", 0, 1, fresh_seed(0, 0)),
        ("sgd", "final", 0, 1, fresh_seed(0, 1)),
        ("sgd", "final", 1, 1, fresh_seed(1, 0)),
        ("adamw", "final", 1, 1, fresh_seed(1, 0)),
        ("sgd", "final", 1, 1, fresh_seed(1, 1)),
        ("adamw", "final", 1, 1, fresh_seed(1, 1)),
    ]


def test_optimizers_of_a_round_share_seeds_and_rounds_share_neither_seeds_nor_points() -> None:
    jobs, finished = BOTH.status(cast("Any", Finished()))
    assert finished == 0
    assert len(jobs) == 2 * ROUNDS * TRIALS
    values: dict[tuple[int, int], set[Any]] = {}
    for job in jobs:
        values.setdefault((job.key.round, job.key.point), set()).add((job.key.seed, job.hyperparameters["lr"]))
    assert all(len(shared) == 1 for shared in values.values())
    assert len(set.union(*values.values())) == ROUNDS * TRIALS


def test_nothing_to_tune_needs_no_trials() -> None:
    fixed = work(OptimizerSpec("fixed", lab_fakes.sgd, {}))
    assert needed(fixed, Finished()) == [
        ("fixed", "final", r, 0, fresh_seed(r, k)) for r in range(ROUNDS) for k in range(SEEDS)
    ]
    assert fixed.total() == ROUNDS * SEEDS


def test_finished_runs_never_become_fewer_and_end_at_the_total() -> None:
    store = Finished().tuned("adamw", 1, 2, diverged=True)
    pace = Pace(BOTH.total())
    counts = []
    jobs, finished = BOTH.status(cast("Any", store))
    while jobs:
        counts.append(finished)
        store.take(jobs[-1])
        jobs, finished = BOTH.status(cast("Any", store))
    counts.append(finished)
    assert counts == sorted(counts)
    assert counts[0] == TRIALS + SEEDS  # the fresh seeds of a round that diverged are not to be made
    assert counts[-1] == BOTH.total() == pace.runs
    assert all(after == before + 1 for before, after in itertools.pairwise(counts))


def test_pace_knows_the_time_left_after_the_first_run_of_this_session() -> None:
    now = 100.0
    pace = Pace(10, clock=lambda: now)
    pace.update(4)
    assert pace.left() is None
    now = 130.0
    pace.update(6)
    assert pace.left() == 60.0
    pace.update(5)
    assert pace.finished == 6
