"""A rehearsal before a comparison: every optimizer makes two steps on the task's model, and is timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.problem.data import Split
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Problem, Task
from valleys.lab.run.config import RunConfig
from valleys.lab.run.ranks import Ranks
from valleys.lab.run.training_loop import start

_MOST = 128  # examples: times are nearly proportional to them, and a rehearsal must be short
_UPDATES, _SECONDS = 10, 2.0


@dataclass(frozen=True)
class Rehearsal:
    """Cost of one optimizer's steps on this machine."""

    optimizer: str
    examples: int  # in the micro-batch
    gradient_seconds: float  # seconds of a forward and backward pass of the micro-batch
    step_seconds: float  # seconds of ``optimizer.step`` without the gradients that it asks for
    evaluation_seconds: float  # seconds of evaluating the micro-batch
    gradients: int  # gradients that it needs in a step
    activation_bytes: int  # what the forward pass of the micro-batch keeps for the backward pass


def rehearse(problem: Problem, specs: Sequence[OptimizerSpec], config: RunConfig) -> tuple[Rehearsal, ...]:
    """Build each optimizer on the task's model and make two steps, so that a mistake costs no tuning runs.

    The steps are those of training, in one process, on the same few examples (128 at most), in the middle of the search
    space; the second is timed. The update is then repeated with the same gradient, ten times or for two seconds: some
    optimizers do most of their work every tenth step. Of a ``Loop``, whose model nobody knows, only what it says itself
    is checked. Torch's random state is left alone.

    Raises:
        LabError: an optimizer that cannot be built for this model, or whose step fails, with the reason in one line.

    Example:
        >>> from valleys.lab import tasks
        >>> from valleys.lab.optimizers.resolve import resolve
        >>> config = RunConfig(batch_size=64)
        >>> [(r.optimizer, r.examples, r.gradients) for r in rehearse(tasks.load("digits"), [resolve("adamw")], config)]
        [('adamw', 64, 1)]
        >>> rehearse(tasks.load("digits"), [resolve("torch.optim:SparseAdam")], config)
        Traceback (most recent call last):
        ...
        valleys.lab.errors.LabError: torch.optim:SparseAdam cannot train digits: RuntimeError: SparseAdam does not ...
    """
    if isinstance(problem, Loop):
        for spec in specs:
            problem.check(spec)
    if not isinstance(problem, Task):
        return ()
    config = config.resolved(problem)
    return tuple(_rehearsed(problem, spec, config) for spec in specs)


def _rehearsed(task: Task, spec: OptimizerSpec, config: RunConfig) -> Rehearsal:
    assert config.batch_size is not None
    device = torch.device(config.device)
    size = min(config.batch_size, config.micro_batch or task.micro_batch, _MOST)
    values = {name: ranges.middle for name, ranges in spec.space.items()}

    with seeded(device, 0):
        ((inputs, targets),) = task.train.reader(device).read([torch.arange(size)])
        fitting = start(task, spec, values, config, Ranks(), seed=0)
        fitting.batch_size = fitting.micro_batch = size
        fitting.guard = partial(spec.blamed, task.name)
        fitting.train()
        fitting.step(iter([(inputs, targets)]), [1.0])
        with _activations(fitting.model) as activations:
            fitting.step(iter([(inputs, targets)]), [1.0])
        gradients = fitting.examples // (2 * size)
        passes = fitting.step_seconds[-1] - fitting.optimizer_seconds[-1]
        updates = fitting.optimizer_seconds[-1:]
        while not spec.closure and len(updates) < _UPDATES and sum(updates) < _SECONDS:
            updates.append(fitting.update())
        split = Split(inputs, targets).reader(device)
        with fitting.evaluation():
            began = fitting.now()
            fitting.metric(split)
            seconds = fitting.now() - began
        with fitting.guard():  # what a run asks of it beside steps
            task.schedule.build(fitting.optimizer, task.steps(config.batch_size, config.epochs or 1))
            fitting.optimizer.state_dict()["state"]
    costs = passes / gradients, sum(updates) / len(updates), seconds
    return Rehearsal(spec.name, size, *costs, gradients, sum(activations.values()) // gradients)


@contextmanager
def _activations(model: nn.Module) -> Iterator[dict[tuple[int, int], int]]:
    """Collect the bytes of each memory that autograd keeps, but for the parameters'."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[tuple[int, int], int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            sizes[memory.data_ptr(), tensor._version] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes
