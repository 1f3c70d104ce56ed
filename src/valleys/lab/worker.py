"""The work of a comparison, shared by all workers that join it: in each round tuning runs, then fresh seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from valleys.lab.optimizers.spec import OptimizerSpec, tunable
from valleys.lab.progress import Announce, Follow, watch
from valleys.lab.record import Record
from valleys.lab.search import candidates
from valleys.lab.store.job import Job, Key
from valleys.lab.store.rank_store import RankStore

_PATIENCE = 5.0
"""Seconds between two looks at what other workers have finished, where there is nothing else to do."""

_AGE = 1.0
"""Seconds that may pass before a worker sees what others have finished: a look takes some milliseconds for each study,
and a comparison of many optimizers has many."""


@dataclass(frozen=True)
class Work:
    """The runs of a comparison."""

    specs: Sequence[OptimizerSpec]
    rounds: int
    trials: int  # tuning points of each optimizer in a round; one with nothing to tune has none
    seeds: int  # fresh seeds of each in a round
    maximize: bool  # whether a larger metric is better

    def status(self, store: RankStore) -> tuple[list[Job], int]:
        """Return the runs that can be made now, in the order in which they are best made, and how many are finished.

        Optimizers take turns, so that a machine that slows down slows all of them down. An optimizer's fresh seeds can
        be run as soon as its own tuning in the same round is finished; a round comes before the next. The fresh seeds
        of a round in which every trial diverged count as finished.
        """
        tuned = {spec.name: store.finished(spec.name, "tuning", _AGE) for spec in self.specs}
        final = {spec.name: store.finished(spec.name, "final", _AGE) for spec in self.specs}
        missing: list[Job] = []
        waiting = 0  # runs that depend on the missing ones
        for round_ in range(self.rounds):
            points = {spec.name: candidates.points(spec.space, self.trials, round_) for spec in self.specs}
            untuned = set()
            for trial in range(self.trials):
                for spec in self.specs:
                    key = Key(round_, trial, candidates.tuning_seed(round_, trial, spec.salt))
                    if tunable(spec.space) and key not in tuned[spec.name]:
                        untuned.add(spec.name)
                        missing.append(Job(spec.name, "tuning", key, points[spec.name][trial], spec.space))
            waiting += self.seeds * len(untuned)
            ready = [spec for spec in self.specs if spec.name not in untuned]
            selection = {spec.name: self._chosen(spec, tuned[spec.name], round_) for spec in ready}
            for number in range(self.seeds):
                for spec in ready:
                    if (point := selection[spec.name]) is not None:
                        key = Key(round_, point, candidates.fresh_seed(round_, number, spec.salt))
                        if key not in final[spec.name]:
                            missing.append(Job(spec.name, "final", key, points[spec.name][point], spec.space))
        return missing, self.total() - len(missing) - waiting

    def _chosen(self, spec: OptimizerSpec, tuned: Mapping[Key, Record], round_: int) -> int | None:
        """Return the point with which an optimizer's round goes on; None if every trial diverged."""
        if not tunable(spec.space):
            return candidates.FIXED
        records = {key.point: record for key, record in tuned.items() if key.round == round_}
        return candidates.select(records, self.maximize)

    def total(self) -> int:
        """Return the number of runs."""
        return self.rounds * sum((self.trials if tunable(spec.space) else 0) + self.seeds for spec in self.specs)


def work(
    plan: Work,
    store: RankStore,
    run: Callable[[Job, Follow], Record],
    title: str,
    show: bool | None = None,
    announce: Announce | None = None,
) -> int:
    """Do all of it, or what other workers leave, and wait for the rest."""
    count = 0
    with watch(title, plan.total(), show, announce) as bar:
        while True:
            jobs, finished = plan.status(store)
            if not jobs:
                break
            job = store.claim(jobs)
            if job is None:
                jobs, finished = plan.status(store)  # which others may have finished within the last second
                if not jobs:
                    break
                bar("waiting for other workers", finished)
                time.sleep(_PATIENCE)
                continue
            with store.at_work(job):
                record = run(job, bar(_label(job), finished))
            count += store.complete(job, record)
        bar("", plan.total())
    return count


def _label(job: Job) -> str:
    what = f"trial {job.key.point + 1}" if job.phase == "tuning" else f"fresh seed {job.key.seed}"
    return f"round {job.key.round + 1}, {job.phase}: {job.optimizer}, {what}"
