"""Several ranks on this machine, and what they do in the tests; forked from a server that has imported torch once."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

import lab_fakes
from valleys.cli import main
from valleys.lab import Comparison, LabError, compare, tasks
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, Range
from valleys.lab.problem.task import Split, Task
from valleys.lab.record import Record
from valleys.lab.report import document
from valleys.lab.run import ranks as parallel
from valleys.lab.run import trainer, training_loop
from valleys.lab.store import rank_store

PRELOADED = ["valleys.cli.compare", "torch._dynamo", "optuna", "alembic.command", "scipy.stats", "matplotlib.figure"]
"""All that a comparison imports when it needs it."""


class Ended(NamedTuple):
    """Result of a rank's process."""

    code: int | None
    out: str
    err: str
    value: Any


def world(size: int, folder: Path, work: Callable[..., Any], *arguments: Any, launched: bool = False) -> list[Ended]:
    """Let so many ranks do the work, in a group that is there or, launched, as a launcher would start them."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rest = (size, port if launched else None, folder, work, arguments)
    ranks = [context.Process(target=_rank, args=(rank, *rest)) for rank in range(size)]
    deadline = time.monotonic() + 120
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
        hanging = [number for number, rank in enumerate(ranks) if rank.is_alive()]
        errors = "\n".join((folder / f"{number}.err").read_text() for number in range(size))
        assert not hanging, f"ranks {hanging} hang; on stderr: {errors}"
    finally:
        for rank in ranks:
            rank.kill()
    ended = []
    for number, rank in enumerate(ranks):
        out, err, value = (folder / f"{number}.{name}" for name in ("out", "err", "value"))
        left = pickle.loads(value.read_bytes()) if value.exists() else None
        ended.append(Ended(rank.exitcode, without_gloo(out.read_text()), err.read_text(), left))
    return ended


def without_gloo(out: str) -> str:
    """Output without the lines of torch 2.9 itself."""
    return re.sub(r"\[Gloo\] Rank \d+ is connected to .*\n", "", out)


def values(ended: list[Ended]) -> list[Any]:
    """Values that the ranks returned; all must have exited with 0 and without output."""
    for number, rank in enumerate(ended):
        assert (rank.code, rank.out, rank.err) == (0, "", ""), f"rank {number}: {rank}"
    return [rank.value for rank in ended]


def _rank(
    rank: int, size: int, port: int | None, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    gc.freeze()  # else every collection would copy the pages shared with the server
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if port is None:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
    else:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    value = work(*arguments)
    (folder / f"{rank}.value").write_bytes(pickle.dumps(value))
    assert distributed.is_initialized() == (port is None)
    if port is None:
        distributed.destroy_process_group()


class Net(nn.Module):
    """Of double precision, so that what is not rounding shows."""

    def __init__(self, *middle: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), *middle, nn.Linear(8, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def task(*middle: Callable[[], nn.Module], **changes: Any) -> Task:
    """50 examples, 11 to validate, 7 to test; the model has more layers in the middle if they are named."""

    def split(count: int, seed: int) -> Split:
        x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return Split(x, x.sum(1, keepdim=True).sin())

    plain = Task(
        name="toy",
        train=split(50, 1),
        validation=split(11, 2),
        test=split(7, 3),
        build_model=lambda: Net(*(make() for make in middle)),
        loss=nn.functional.mse_loss,
        metric=nn.functional.mse_loss,
        metric_name="mse",
        maximize=False,
        target=0.3,
        epochs=2,
    )
    return replace(plain, **changes)


def train(problem: Task, make: Callable[..., Optimizer] = SGD, **options: Any) -> Record:
    """One run of any optimizer at a fixed learning rate."""

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        return make(model.parameters(), **values)

    spec = OptimizerSpec("toy optimizer", build, {"lr": Range(1e-4, 1.0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "EVALUATIONS", 3)
        return lab_fakes.train_really(problem, spec, {"lr": 0.05}, **{"batch_size": 20, "seed": 0, **options})


class Spy(SGD):
    """Remembers the gradients of every step, and the weights of all runs."""

    gradients: list[list[Tensor]]
    weights: list[Tensor]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        type(self).gradients = []
        type(self).weights = self.param_groups[0]["params"]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients.append([p.grad.clone() for p in self.weights if p.grad is not None])
        super().step(closure)

    @classmethod
    def ended_at(cls) -> list[Tensor]:
        return [weight.detach().clone() for weight in cls.weights]


class Noisy(Spy):
    """Draws at random in its step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for weight in self.weights:
            weight.data += 0.01 * torch.randn(weight.shape, dtype=weight.dtype)


class Draws(nn.Module):
    """Remembers a random number of each training pass."""

    seen: list[float] = []  # noqa: RUF012  # the test empties it

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(torch.rand(()).item())
        return x


BATCHES = [(20, 20), (50, 7), (7, 1), (9, 2), (3, 1)]
"""Batch and micro-batch: even and uneven shares and numbers of backward passes, ranks without a share."""


def gradients() -> list[tuple[list[list[Tensor]], Record]]:
    """The gradients of every step, and the record, for each of ``BATCHES``."""
    results = []
    for batch_size, micro_batch in BATCHES:
        record = train(task(), Spy, batch_size=batch_size, micro_batch=micro_batch, test=True)
        results.append((Spy.gradients, record))
    return results


def noisy_replicas() -> dict[str, Any]:
    """Runs with dropout, with an optimizer that draws, with statistics of the batch; odd shares."""
    odd: dict[str, Any] = {"batch_size": 9, "micro_batch": 2}
    results: dict[str, Any] = {}
    results["random optimizer"] = (train(task(), Noisy, **odd), Noisy.ended_at())
    results["dropout"] = (train(task(lambda: nn.Dropout(0.5)), Noisy, **odd), Noisy.ended_at())
    normalised = task(lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2), nn.Flatten()))
    results["batch normalisation"] = (train(normalised, Spy, **odd), Spy.ended_at())
    Draws.seen = []
    train(task(Draws), epochs=1)
    results["draws"] = Draws.seen
    return results


def divergence() -> dict[str, Record]:
    """Runs in which one example, or the validation metric of one rank, is no number."""

    def poisoned(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) + (torch.nan if (targets > 0.999).any() else 0.0)

    rank = distributed.get_rank() if distributed.is_initialized() else 1

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) + (torch.nan if rank == 1 else 0.0)

    return {
        "loss": train(task(loss=poisoned), batch_size=5),
        "metric of rank 1": train(task(metric=metric)),
    }


class Unused(nn.Module):
    """A parameter without a purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x


def unused() -> str:
    """Return the message of its error."""
    try:
        train(task(Unused))
    except LabError as error:
        return str(error)
    return "trained"


class Cyclic(DistributedDataParallel):
    """Refers to itself, as the first one of a process does by its imports."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.__dict__["itself"] = self


def groups(one_by_one: int) -> list[tuple[bool, int]]:
    """Runs in groups of their own, one after the other: is a group left, how many wrapped models are?"""
    left = []
    gc.disable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "DistributedDataParallel", Cyclic)
        for _ in range(one_by_one):
            train(task(), epochs=1)
            left.append((distributed.is_initialized(), sum(type(o) is Cyclic for o in gc.get_objects())))
    return left


def mistakes() -> list[bool]:
    """Return True for each kind of error that the group survives: known to all ranks, and possibly not."""

    def fail() -> None:
        raise LabError("mine")

    states = []

    def alone(ranks: parallel.Ranks, work: Callable[[], None]) -> None:
        distributed.barrier()  # a rank that leaves while the other is still connecting would fail it
        work()

    for way in (parallel.Ranks.agree, parallel.Ranks.decide, alone):
        with suppress(LabError), parallel.joined() as ranks:
            way(ranks, fail)
        states.append(distributed.is_initialized())
    distributed.destroy_process_group()
    return states


def agreement() -> dict[str, Any]:
    """Errors of other ranks and results of rank 0 as each rank gets them."""
    results: dict[str, Any] = {}
    with parallel.joined() as ranks:

        def fail(*failing: int) -> int:
            if ranks.rank in failing:
                raise LabError(f"mistake of {ranks.rank}")
            return ranks.rank

        results["decided"] = ranks.decide(lambda: fail() + 10)
        results["agreed"] = ranks.agree(fail)
        for name, work in {
            "decide": lambda: ranks.decide(lambda: fail(0)),
            "agree, rank 0": lambda: ranks.agree(lambda: fail(0, 1)),
            "agree, rank 1": lambda: ranks.agree(lambda: fail(1, 2)),
        }.items():
            try:
                work()
            except LabError as error:
                results[name] = str(error)

        def slow() -> tuple[float, float]:
            start = time.monotonic()
            time.sleep(0.2)
            return start, time.monotonic()

        results["rank 0 first"] = ranks.agree(slow)
        results["sum"] = ranks.total(torch.tensor([1.0, float(ranks.rank)])).tolist()
    return results


class Sitting(NamedTuple):
    """A comparison, and what this rank did for it: runs made, stores opened, reports written."""

    comparison: Comparison
    made: int
    opened: int
    written: int


def comparison(out: Path, options: Mapping[str, Any]) -> Sitting:
    """Compare on the toy."""
    calls: Counter[str] = Counter()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **given: Any) -> Any:
            calls[name] += 1
            return real(*arguments, **given)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((trainer, "train"), (rank_store, "Store"), (document, "write")):
            patch.setattr(module, name, counted(name, getattr(module, name)))
        settings = {"batch_size": 14, "micro_batch": 3, "rounds": 1, "trials": 3, "seeds": 2, **options}
        result = compare(task(), optimizers=["sgd", "adamw"], out=out, **settings)
    return Sitting(result, calls["train"], calls["Store"], calls["write"])


def command(*words: str) -> None:
    """The command line, with the toy for every task."""
    tasks.load = lambda name, data_dir=None, preset=None: task()
    sys.argv = ["valleys", *words]
    main()


def failing_command(kind: str, failing: int | None, *words: str) -> None:
    """The same; in the first step of training on one rank, or on all, something happens."""
    calls = itertools.count(1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        rehearsed = next(calls) > 2  # steps of the one optimizer before the first run
        if rehearsed and (failing is None or os.environ["RANK"] == str(failing)):
            if kind == "interruption":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise LabError("mine")
        return nn.functional.mse_loss(outputs, targets)

    tasks.load = lambda name, data_dir=None, preset=None: task(loss=loss)
    sys.argv = ["valleys", *words]
    main()
