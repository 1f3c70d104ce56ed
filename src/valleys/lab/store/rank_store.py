"""The store of a comparison whose every run is shared by several ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from valleys.lab.record import Record
from valleys.lab.run.ranks import Ranks
from valleys.lab.store.job import Job, Key, Phase, Results
from valleys.lab.store.store import Store

if TYPE_CHECKING:
    from valleys.lab.optimizers.spec import Range


class RankStore(AbstractContextManager["RankStore"]):
    """A store that rank 0 holds and all ranks use: every method is called by all, and tells all the same.

    All ranks together are one worker; what ``Store`` raises on rank 0 is raised on all.
    """

    def __init__(self, ranks: Ranks, folder: Path, url: str | None, name: str | None) -> None:
        self._ranks = ranks
        self._stores: list[Store] = []
        ranks.decide(lambda: self._stores.append(Store(folder, url, name)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store where it is open."""
        for store in self._stores:
            store.__exit__(kind, error, trace)

    def configure(self, *about: Mapping[str, Any]) -> list[str]:
        """``Store.configure`` on rank 0."""
        return self._ranks.decide(lambda: self._stores[0].configure(*about))

    def claim(self, jobs: Sequence[Job]) -> Job | None:
        """``Store.claim`` on rank 0."""

        def number() -> int | None:
            job = self._stores[0].claim(jobs)
            return None if job is None else jobs.index(job)

        index = self._ranks.decide(number)
        return None if index is None else jobs[index]

    def complete(self, job: Job, record: Record) -> bool:
        """``Store.complete`` on rank 0."""
        return self._ranks.decide(lambda: self._stores[0].complete(job, record))

    @contextmanager
    def at_work(self, job: Job) -> Iterator[None]:
        """``Store.at_work`` on rank 0."""
        if self._stores:
            with self._stores[0].at_work(job):
                yield
        else:
            yield

    def finished(self, optimizer: str, phase: Phase, age: float = 0.0) -> Mapping[Key, Record]:
        """``Store.finished`` on rank 0."""
        return self._ranks.decide(lambda: self._stores[0].finished(optimizer, phase, age))

    def results(self, spaces: Mapping[str, Mapping[str, Range]]) -> Results:
        """``Store.results`` on rank 0."""
        return self._ranks.decide(lambda: self._stores[0].results(spaces))
