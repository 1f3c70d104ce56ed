"""One run: a task, an optimizer, a seed; what comes back is a record. No optimizer is named here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from valleys.lab.errors import LabError
from valleys.lab.optimizers import OptimizerSpec
from valleys.lab.parallel import Ranks, check_averaged, held_back, joined
from valleys.lab.record import Evaluation, Record
from valleys.lab.task import Split, Task

__all__ = ["MICRO_BATCH", "check", "train"]

MICRO_BATCH = 4096
"""Examples per forward pass and rank unless the user says otherwise; larger batches are accumulated."""

_EVALUATIONS = 20
_WARM_UP = 0.05


def check(task: Task, batch_size: int, micro_batch: int | None = None) -> None:
    """Refuse what ``train`` could not do, before any work.

    Args:
        task: the task.
        batch_size: examples per optimizer step.
        micro_batch: examples per forward and backward pass, at least 1; None: the default.

    Raises:
        LabError: a size below 1, or a batch larger than the training data.
    """
    if batch_size < 1 or batch_size > len(task.train):
        raise LabError(
            f"batch size {batch_size}: {task.name} has {len(task.train)} training examples; "
            f"choose 1 to {len(task.train)}"
        )
    if micro_batch is not None and micro_batch < 1:
        raise LabError(f"micro batch {micro_batch}: choose 1 or more; it only bounds the memory of a backward pass")


def train(
    task: Task,
    spec: OptimizerSpec,
    hyperparameters: Mapping[str, float],
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    micro_batch: int | None = None,
    device: torch.device | str = "cpu",
    test: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    r"""Train once, to the end of the schedule.

    .. math:: g = \nabla \sum_j \frac{n_j}{n} L_j,\quad \text{the mean losses } L_j
        \text{ of micro-batches of } n_j \text{ examples weighted by their share of the batch's } n

    The processes of a launch (torchrun, ``accelerate launch``), or of the process group that is there, share every
    batch: the sum then runs over the micro-batches of all ranks. All of them make the same call.

    Epochs are shuffled and their last, incomplete batch is left out. A cosine schedule warms up linearly over the first
    5 % of the steps. The validation metric is read 20 times, evenly, or at every step of a shorter run. The same
    arguments give the same record on the same machine, but for the times.

    Args:
        task: what to learn.
        spec: the optimizer.
        hyperparameters: values for ``spec.space``.
        batch_size: examples per optimizer step, of all ranks together; 1 to the number of training examples.
        seed: of initialisation, order and dropout; the caller's random state is left alone.
        epochs: passes over the data, at least 1; None: the task's.
        micro_batch: examples per forward and backward pass on one rank, at least 1; None: 4096. Like the number of
            ranks it changes neither gradient nor metric but for rounding, unless the model normalises over the batch
            (or, with several ranks, drops out at random).
        device: where to train; with several ranks ``cuda`` is each rank's own device.
        test: evaluate the test split at the end, once.
        progress: called with (steps made, steps in all) after each step, on rank 0.

    Returns:
        The record, rank 0's on all ranks. A run whose loss or metric stops being finite ends there, marked as diverged.

    Raises:
        LabError: see ``check``; fewer than one epoch; hyperparameters that are not those of the space.

    Example:
        >>> from valleys.lab import optimizers, tasks
        >>> record = train(
        ...     tasks.load("digits"),
        ...     optimizers.resolve("adamw"),
        ...     {"lr": 1e-2, "one_minus_beta1": 0.1},
        ...     batch_size=1024,
        ...     seed=0,
        ...     epochs=3,
        ... )
        >>> record.steps, len(record.curve), record.test
        (3, 3, None)
    """
    check(task, batch_size, micro_batch)
    epochs = task.epochs if epochs is None else epochs
    if epochs < 1:
        raise LabError(f"epochs {epochs}: choose 1 or more; {task.name} has {task.epochs} by default")
    if hyperparameters.keys() != spec.space.keys():
        raise LabError(
            f"{spec.name} needs values for {', '.join(spec.space) or 'nothing'}, "
            f"got {', '.join(hyperparameters) or 'nothing'}"
        )
    with joined() as ranks:
        record = _train(
            ranks, task, spec, hyperparameters, batch_size, seed, epochs, micro_batch, device, test, progress
        )
        return ranks.decide(lambda: record)  # the times are rank 0's


def _train(
    ranks: Ranks,
    task: Task,
    spec: OptimizerSpec,
    hyperparameters: Mapping[str, float],
    batch_size: int,
    seed: int,
    epochs: int,
    micro_batch: int | None,
    device: torch.device | str,
    test: bool,
    progress: Callable[[int, int], None] | None,
) -> Record:
    device = ranks.device(device)
    with _seeded(device, seed):
        model = task.build_model().to(device)
        replica = ranks.replicate(model)
        optimizer = spec.build(model, hyperparameters)
        run = _Run(task, model, replica, optimizer, device, ranks, batch_size, micro_batch or MICRO_BATCH, seed)
        run.fit(_moved(task.train, device), _moved(task.validation, device), epochs, progress)
        result = run.evaluate(_moved(task.test, device)) if test and not run.diverged else None
    reached = next((e for e in run.curve if task.reached(e.validation)), None)
    return Record(
        optimizer=spec.name,
        hyperparameters=dict(hyperparameters),
        seed=seed,
        batch_size=batch_size,
        steps=run.steps,
        diverged=run.diverged,
        curve=run.curve,
        validation=None if run.diverged else run.curve[-1].validation,
        test=result,
        steps_to_target=reached.step if reached else None,
        seconds_to_target=reached.seconds if reached else None,
        step_seconds=_median_after_first(run.step_seconds),
        optimizer_seconds=_median_after_first(run.optimizer_seconds),
        state_bytes=_bytes(_tensors(optimizer.state_dict()["state"]), without=model.parameters()),
        parameter_bytes=_bytes(model.parameters()),
    )


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the generators in use and no others; put them and cuDNN's switches back afterwards."""
    cuda = device.type == "cuda"
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.cuda.device(device) if cuda else nullcontext(), torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every device
        if cuda:
            torch.cuda.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


def _moved(split: Split, device: torch.device) -> Split:
    return Split(split.inputs.to(device), split.targets.to(device))


@dataclass
class _Run:
    """A run under way."""

    task: Task
    model: nn.Module
    replica: nn.Module
    optimizer: Optimizer
    device: torch.device
    ranks: Ranks
    batch_size: int
    micro_batch: int
    seed: int
    steps: int = 0
    diverged: bool = False
    curve: list[Evaluation] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)

    def fit(self, train: Split, validation: Split, epochs: int, progress: Callable[[int, int], None] | None) -> None:
        """Step and evaluate until the epochs are over or the run diverges."""
        total = epochs * (len(train) // self.batch_size)
        scheduler = LambdaLR(self.optimizer, _schedule(self.task.schedule, total))
        due = {math.ceil(total * (i + 1) / _EVALUATIONS) for i in range(_EVALUATIONS)}
        loss_sum, since = torch.zeros((), device=self.device), 0
        self.model.train()
        for batch in _batches(len(train), self.batch_size, epochs, self.seed):
            loss_sum += self._step(train, batch)
            scheduler.step()
            since += 1
            if progress is not None and self.ranks.main:
                progress(self.steps, total)
            if self.steps in due:
                loss = self.ranks.decide((self.ranks.total(loss_sum) / since).item)
                metric = self.evaluate(validation)
                if not (math.isfinite(loss) and math.isfinite(metric)):
                    self.diverged = True
                    return
                self.curve.append(Evaluation(self.steps, sum(self.step_seconds), loss, metric))
                loss_sum, since = torch.zeros_like(loss_sum), 0

    def _step(self, train: Split, batch: Tensor) -> Tensor:
        """Make one optimizer step; return this rank's part of the batch's mean loss without waiting for it."""
        start = self._now()
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        *earlier, last = self.ranks.parts(batch.to(self.device), self.micro_batch)
        with self._own_noise():
            with held_back(self.replica):
                for part in earlier:
                    loss += self._backward(train, *part)
            loss += self._backward(train, *last)
        check_averaged(self.replica)
        before = self._now()
        self.optimizer.step()
        end = self._now()
        self.optimizer_seconds.append(end - before)
        self.step_seconds.append(end - start)
        self.steps += 1
        return loss

    def _backward(self, train: Split, chosen: Tensor, weight: float) -> Tensor:
        """Add a micro-batch's part of the gradient; return its part of the loss."""
        part = self.task.loss(self.replica(train.inputs[chosen]), train.targets[chosen]) * weight
        (part * self.ranks.size).backward()  # the ranks' gradients are averaged, and their sum is wanted
        return part.detach()

    def _own_noise(self) -> AbstractContextManager[None]:
        """Dropout that differs from rank to rank, and leaves the generators alone.

        What an optimizer draws stays the same on all ranks, without which their weights would drift apart.
        """
        if self.ranks.size == 1:
            return nullcontext()
        return _seeded(self.device, (self.seed * 2**32 + self.steps * self.ranks.size + self.ranks.rank + 1) % 2**63)

    @torch.no_grad()
    def evaluate(self, split: Split) -> float:
        """The metric over a whole split, in evaluation mode.

        Every rank reads all of it: shared out, a metric would be rounded otherwise than in one process, and two equal
        accuracies of which the first wins would no longer be equal. Rank 0's number, whose statistics of a batch
        normalisation are those that count, is everybody's.
        """
        training = self.model.training
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for inputs, targets in zip(
            split.inputs.split(self.micro_batch), split.targets.split(self.micro_batch), strict=True
        ):
            total += self.task.metric(self.model(inputs), targets) * (len(inputs) / len(split))
        self.model.train(training)
        return self.ranks.decide(total.item)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _batches(examples: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Indices of each batch, on the CPU so that every device sees the same order."""
    generator = torch.Generator().manual_seed(seed)  # its own: dropout must not change the order of the data
    for _ in range(epochs):
        yield from torch.randperm(examples, generator=generator).split(batch_size)[: examples // batch_size]


def _schedule(kind: str, total: int) -> Callable[[int], float]:
    """Factor on the learning rate: constant, or a linear warm-up over 5 % of the steps and a cosine to zero."""
    if kind == "constant":
        return lambda step: 1.0
    warm_up = max(1, round(_WARM_UP * total))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor


def _median_after_first(seconds: list[float]) -> float:
    """Without the first step, which pays for allocations."""
    return statistics.median(seconds[1:] or seconds or [0.0])


def _tensors(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def _bytes(tensors: Iterable[Tensor], without: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages under the tensors, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(size for address, size in storages.items() if address not in left_out)
