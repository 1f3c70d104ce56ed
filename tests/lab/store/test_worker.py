"""Which runs a comparison wants, given what is finished."""

from __future__ import annotations

from typing import Any, cast

import lab_fakes
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.record import Record
from valleys.lab.search.candidates import FIRST_SEED
from valleys.lab.store.job import Key
from valleys.lab.worker import Work


class Finished:
    """A store that knows what is finished."""

    def __init__(self, **tuned: int) -> None:
        self.runs: dict[tuple[str, str], dict[Key, Record]] = {}
        for name, count in tuned.items():
            self.runs[name, "tuning"] = {Key(p, 0): lab_fakes.record(validation=float(p)) for p in range(count)}

    def finished(self, optimizer: str, phase: str) -> dict[Key, Record]:
        return self.runs.get((optimizer, phase), {})


def wanted(specs: list[OptimizerSpec], store: Any) -> list[tuple[str, str, int, int]]:
    jobs = Work(specs, trials=2, seeds=2, maximize=True).jobs(cast("Any", store))
    return [(job.optimizer, job.phase, job.key.point, job.key.seed) for job in jobs]


def test_fresh_seeds_wait_for_all_of_their_own_optimizers_trials_and_for_no_others() -> None:
    specs: list[OptimizerSpec] = [lab_fakes.spec("sgd"), lab_fakes.spec("adamw")]
    assert wanted(specs, Finished(sgd=2, adamw=1)) == [
        ("adamw", "tuning", 1, 0),
        ("sgd", "final", 1, FIRST_SEED),
        ("sgd", "final", 1, FIRST_SEED + 1),
    ]


def test_nothing_to_tune_needs_no_trials() -> None:
    fixed = OptimizerSpec("fixed", lab_fakes._never_built, {})
    assert wanted([fixed], Finished()) == [("fixed", "final", 0, FIRST_SEED), ("fixed", "final", 0, FIRST_SEED + 1)]
