"""A model trained by several ranks equals the one trained by a single process, however it is spread over them.

``PYTHONPATH=tests python tests/distributed/test_wrappers.py`` prints the errors of all settings as a table.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import valleys
from backends import largest_error
from distributed.models import SETTINGS, Result, Run, Setting, Spread, new_net, train, whole
from distributed.worlds import SINCE_2_13, spawn

DOUBLE, SINGLE = torch.float64, torch.float32
# Relative to each tensor's largest element. In float32 one process is itself some 1e-6 off.
TOLERANCES = {DOUBLE: 1e-12, SINGLE: 1e-5}
STEPS = 30


class Job(NamedTuple):
    """Optimizers on one model: the first trains it, others follow with copies of its parameters, which is cheaper.

    Args:
        leader: name of the first.
        dtype: of the model.
        followers: names and dtypes of the others.
    """

    leader: str
    dtype: torch.dtype
    followers: tuple[tuple[str, torch.dtype], ...] = ()


FOLLOWERS = (("Lamb", DOUBLE), ("ALTO clipped", DOUBLE), ("ALTO", SINGLE))
ADAPTED = (("E AdamW", DOUBLE), ("E SGD", DOUBLE), ("E RMSprop", DOUBLE))
LAYERWISE = tuple(Job(name, dtype) for name in ("ALTO", "Lamb") for dtype in (DOUBLE, SINGLE))
TABLE = (*LAYERWISE, Job("ALTO clipped", DOUBLE), *(Job(*each) for each in ADAPTED))


class Key(NamedTuple):
    """The case that a result belongs to."""

    job: Job
    steps: int
    optimizer: str
    dtype: torch.dtype


def jobs_of(setting: Setting) -> Sequence[Job]:
    """Small worlds close the loop for Lamb in float32 too; E is tried on each kind of placement."""
    placed = (setting.title, setting.ranks) in {("FSDP2", 2), ("TP", 2), ("FSDP2 x TP", 4)}
    job = Job("ALTO", DOUBLE, FOLLOWERS + ADAPTED if placed else FOLLOWERS)
    return [job] if setting.ranks > 2 else [job, Job("Lamb", SINGLE)]


def carried_out(jobs: Sequence[Job], setting: Setting | None, steps: int) -> dict[Key, Result]:
    """The results of jobs on this rank; without a setting, those of one process."""
    results: dict[Key, Result] = {}
    for job in jobs:
        net = new_net(job.dtype)
        spread = Spread(net) if setting is None else setting.spread(net)
        runs = {Key(job, steps, job.leader, job.dtype): Run(job.leader, net)}
        runs |= {Key(job, steps, name, dtype): Run(name, net, dtype) for name, dtype in job.followers}
        train(spread, list(runs.values()), steps, job.dtype)
        results |= {key: run.result() for key, run in runs.items()}
    return results


def on_ranks(ranks: int, steps: int, jobs: Sequence[Job] | None = None) -> dict[Setting, dict[Key, Result]]:
    # FSDP2 warns of what in-place operations on a layer's output would do, and DTensor that strided shards are slow.
    warnings.simplefilter("ignore")
    settings = [setting for setting in SETTINGS if setting.ranks == ranks]
    return {setting: carried_out(jobs or jobs_of(setting), setting, steps) for setting in settings}


@functools.cache
def on_one_process(job: Job, steps: int) -> dict[Key, Result]:
    return carried_out([job], None, steps)


def error_of(key: Key, result: Result) -> float:
    expected = on_one_process(key.job, key.steps)[key]
    assert (result.params.keys(), result.states.keys()) == (expected.params.keys(), expected.states.keys())
    error = largest_error(list(result.params.values()), list(expected.params.values()))
    if key.dtype is DOUBLE:
        # In float32 a first moment near zero has no element that its rounding errors were relative to.
        error = max(error, largest_error(list(result.states.values()), list(expected.states.values())))
    return error


def different_replicas(results: Sequence[Result]) -> Iterator[str]:
    """Names of what is not the same, bit for bit, on all ranks that should have the same."""
    for name in results[0].shards:
        first: dict[tuple[int, ...], Tensor] = {}
        for result in results:
            which, shard = result.shards[name]
            if not torch.equal(first.setdefault(which, shard), shard):
                yield name


def expected_collectives(setting: Setting, optimizer: str, partial: int) -> dict[str, int]:
    """One all-reduce per mesh, two with clipping, and one for each gradient that torch has not summed up itself."""
    sums = 0 if optimizer.startswith("E ") else setting.sums * (2 if "clipped" in optimizer else 1)
    return {"allreduce": sums + partial} if sums + partial else {}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SINCE_2_13), pytest.param(4, marks=SINCE_2_13)])
def test_training_equals_one_process(ranks: int) -> None:
    outcomes = spawn(on_ranks, ranks, ranks, STEPS if ranks == 1 else STEPS // 3)
    faults = []
    for setting, results in outcomes[0].items():
        for key, result in results.items():
            row = f"{setting.title}, {ranks} ranks, {key.optimizer}, {key.dtype}"
            error = error_of(key, result)
            if error > TOLERANCES[key.dtype]:
                faults.append(f"{row}: error {error:.1e}")
            for collectives, partial in zip(result.collectives, result.partial, strict=False):
                if collectives != expected_collectives(setting, key.optimizer, partial):
                    faults.append(f"{row}: collectives {collectives} with {partial} Partial gradients")
            for name in different_replicas([other[setting][key] for other in outcomes]):
                faults.append(f"{row}: replicas of {name} differ")
    assert not faults, "\n".join(faults)


def test_training_moves_parameters_and_the_tolerance_is_that_of_rounding() -> None:
    """Else the equality above would mean little."""
    start = dict(new_net().named_parameters())
    for name in ("ALTO", "Lamb"):
        result, rounded = (
            on_one_process(job, STEPS)[Key(job, STEPS, name, job.dtype)] for job in LAYERWISE if job.leader == name
        )
        for param, value in result.params.items():
            shift = (value - start[param]).norm() / start[param].norm()
            assert (shift == 0) if param.startswith("unused") else (shift > 0.1), param
        error = largest_error(list(rounded.params.values()), list(result.params.values()))
        assert TOLERANCES[SINGLE] / 20 < error < TOLERANCES[SINGLE]


def at_extremes(ranks: int) -> tuple[dict[tuple[Setting, str], dict[str, int]], list[Tensor]]:
    """The collectives of a step with many more parameters; a layer of one row, of which most ranks have nothing."""
    warnings.simplefilter("ignore")
    outcomes = {}
    for setting in (setting for setting in SETTINGS if setting.ranks == ranks and setting.sums):
        net = new_net(depth=40)
        setting.spread(net)
        for param in net.parameters():
            param.grad = torch.ones_like(param)
        for name in ("ALTO", "ALTO clipped"):
            run = Run(name, net, DOUBLE)
            run.step()
            (outcomes[setting, name],) = run.collectives
    return outcomes, one_row(shard=True)


def one_row(shard: bool) -> list[Tensor]:
    torch.manual_seed(0)
    layer: Any = nn.Linear(7, 1).double()
    if shard:
        fully_shard(layer)
    optimizer = valleys.Lamb(layer.parameters(), max_grad_norm=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(2, 7, dtype=DOUBLE)).square().mean().backward()
        optimizer.step()
    return [whole(param.detach()) for param in layer.parameters()]


def test_collectives_are_few_with_many_layers_and_complete_with_one_row() -> None:
    for counts, params in spawn(at_extremes, 4, 4):
        assert len(counts) == 2 * 5
        for (setting, name), collectives in counts.items():
            assert collectives == expected_collectives(setting, name, partial=0), (setting.title, name)
        assert largest_error(params, one_row(shard=False)) < TOLERANCES[DOUBLE]


def main() -> None:
    """Prints the table."""
    print("| setting | ranks | " + " | ".join(f"{job.leader} {str(job.dtype)[6:]}" for job in TABLE) + " |")  # noqa: T201
    print("|---" * (2 + len(TABLE)) + "|")  # noqa: T201
    outcomes: dict[Setting, dict[Key, Result]] = {}
    for ranks in (1, 2, 4):
        outcomes |= spawn(on_ranks, ranks, ranks, STEPS, TABLE, seconds=1000)[0]
    for setting in SETTINGS:
        cells = [f"{error_of(key, result):.0e}" for key, result in outcomes[setting].items()]
        print(f"| {setting.title} | {setting.ranks} | " + " | ".join(cells) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
