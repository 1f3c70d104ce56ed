"""The work of a comparison, shared by all workers that join it: tuning runs, then runs with fresh seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.progress import Follow, watch
from valleys.lab.record import Record
from valleys.lab.search import candidates
from valleys.lab.store.job import Job, Key
from valleys.lab.store.rank_store import RankStore

_PATIENCE = 5.0
"""Seconds between two looks at what other workers have finished."""


@dataclass(frozen=True)
class Work:
    """The runs of a comparison."""

    specs: Sequence[OptimizerSpec]
    trials: int  # tuning points of each optimizer; one with nothing to tune has none
    seeds: int  # fresh seeds of each
    maximize: bool  # whether a larger metric is better

    def jobs(self, store: RankStore) -> list[Job]:
        """The runs that can be made now and are not finished, in the order in which they are best made.

        Optimizers take turns, so that a machine that slows down slows all of them down. An optimizer's fresh seeds can
        be run as soon as its own tuning is finished.
        """
        points = {spec.name: candidates.points(spec.space, self.trials) for spec in self.specs}
        tuned_at_all = [spec for spec in self.specs if spec.space]
        tuned = {spec.name: store.finished(spec.name, "tuning") for spec in self.specs}
        final = {spec.name: store.finished(spec.name, "final") for spec in self.specs}
        missing = []
        for trial in range(self.trials):
            for spec in tuned_at_all:
                if trial < len(points[spec.name]):
                    key = Key(trial, candidates.TUNING_SEED)
                    if key not in tuned[spec.name]:
                        missing.append(Job(spec.name, "tuning", key, points[spec.name][trial], spec.space))
        waiting = {job.optimizer for job in missing}
        chosen: dict[str, int | None] = {spec.name: candidates.FIXED for spec in self.specs if not spec.space}
        for spec in tuned_at_all:
            if spec.name not in waiting:
                records = {key.point: record for key, record in tuned[spec.name].items()}
                chosen[spec.name] = candidates.select(records, self.maximize)
        for seed in range(candidates.FIRST_SEED, candidates.FIRST_SEED + self.seeds):
            for spec in self.specs:
                if (point := chosen.get(spec.name)) is not None:
                    key = Key(point, seed)
                    if key not in final[spec.name]:
                        missing.append(Job(spec.name, "final", key, points[spec.name][point], spec.space))
        return missing

    def total(self) -> int:
        """Return the number of runs if every optimizer has a trial that does not diverge."""
        return sum((self.trials if spec.space else 0) + self.seeds for spec in self.specs)


def work(
    plan: Work,
    store: RankStore,
    run: Callable[[Job, Follow], Record],
    title: str,
    show: bool | None = None,
) -> int:
    """Do all of it, or what other workers leave, and wait for the rest."""
    done = 0
    with watch(title, plan.total(), show) as bar:
        while jobs := plan.jobs(store):
            job = store.claim(jobs)
            if job is None:
                bar("waiting for other workers", plan.total() - len(jobs))
                time.sleep(_PATIENCE)
                continue
            with store.at_work(job):
                record = run(job, bar(_label(job), plan.total() - len(jobs)))
            done += store.complete(job, record)
        bar("", plan.total())
    return done


def _label(job: Job) -> str:
    number = f"trial {job.key.point + 1}" if job.phase == "tuning" else f"seed {job.key.seed}"
    return f"{job.optimizer}, {number}"
