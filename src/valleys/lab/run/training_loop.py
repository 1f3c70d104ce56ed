"""The training loop of a task: batches in, steps and evaluations out."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.lab.errors import LabError, finite
from valleys.lab.optimizers.spec import OptimizerSpec, Plan, has_modes, judged
from valleys.lab.problem.data import Batch, Reader, count
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.seeds import mixed, seeded
from valleys.lab.problem.task import Task
from valleys.lab.record import Evaluation
from valleys.lab.run import interruption
from valleys.lab.run.batch_statistics import restated
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.config import RunConfig
from valleys.lab.run.noise_scale import MicroGradients, NoiseScale
from valleys.lab.run.ranks import Ranks, check_averaged, held_back

EVALUATIONS = 20
"""Evaluations of a run, evenly spread; a shorter run has one at every step."""

RESTATED = 8
"""Micro-batches from which batch statistics are averaged where an optimizer judges other weights than it trains."""


@dataclass
class Fitting:
    """A run under way."""

    task: Task
    spec: OptimizerSpec
    model: nn.Module
    replica: nn.Module  # what ``Ranks.replicate`` made of the model
    optimizer: Optimizer
    device: torch.device
    ranks: Ranks
    batch_size: int  # this, ``micro_batch`` and ``seed``: see ``trainer.train``
    micro_batch: int
    seed: int
    autocast: bool = False  # whether forward passes compute in bfloat16 where torch holds that safe
    noise: NoiseScale | None = None  # learns from each step's micro-batches, two or more; for one rank
    guard: Callable[[], AbstractContextManager[None]] = nullcontext  # entered around the optimizer's part of a step
    steps: int = 0
    examples: int = 0
    diverged: bool = False
    curve: list[Evaluation] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    optimizer_seconds: list[float] = field(default_factory=list)

    def fit(
        self,
        epochs: int,
        progress: Callable[[int, int], None] | None = None,
        observe: Callable[[Evaluation], None] | None = None,
        checkpoint: Checkpoint | None = None,
        of: Mapping[str, Any] | None = None,
    ) -> None:
        """Step and evaluate until the epochs are over or the run diverges."""
        task = self.task
        total = task.steps(self.batch_size, epochs)
        schedule = Schedule("constant") if self.spec.own_schedule else task.schedule
        scheduler = schedule.build(self.optimizer, total)
        due = {math.ceil(total * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        loss_sum, since = torch.zeros((), device=self.device), 0
        self.train()
        state = None if checkpoint is None else self.ranks.decide(lambda: checkpoint.load(of or {}))
        if state is not None:
            scheduler.load_state_dict(state["scheduler"])
            loss_sum, since = state["loss_sum"].to(self.device), state["since"]
            self._restore(state)
        batches = itertools.islice(_batches(task, self.batch_size, epochs, self.seed), self.steps, None)
        parts = (self.ranks.parts(batch, self.micro_batch) for batch in batches)
        weights, indices = itertools.tee(parts)
        reading = self._reader.read(part for batch in indices for part, _ in batch)
        validation = task.validation.reader(self.device)
        for batch in weights:
            try:
                loss_sum += self.step(reading, [weight for _, weight in batch])
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                # A preconditioner of numbers that are not finite, the same on all ranks.
                self.diverged = True
                return
            scheduler.step()
            since += 1
            if progress is not None and self.ranks.main:
                progress(self.steps, total)
            if self.steps in due:
                loss = self.ranks.decide((self.ranks.total(loss_sum) / since).item)
                metric = self.evaluate(validation)
                if not (finite(loss) and finite(metric)):
                    self.diverged = True
                    return
                self.curve.append(Evaluation(self.steps, sum(self.step_seconds), loss, metric))
                if observe is not None and self.ranks.main:
                    observe(self.curve[-1])
                loss_sum, since = torch.zeros_like(loss_sum), 0
            # Right after an evaluation the ranks' states are the same; before, each has its part of the loss.
            if (self.ranks.size > 1 and since > 0) or self.steps == total:
                continue
            leaving = self.ranks.decide(interruption.requested)
            if checkpoint is not None and self.ranks.main and (leaving or checkpoint.due()):
                state = {"scheduler": scheduler.state_dict(), "loss_sum": loss_sum, "since": since}
                checkpoint.save(of or {}, state | self._state())
            if leaving:
                raise interruption.Interrupted

    def train(self) -> None:
        """Put model and optimizer into their training modes, in which they are but for evaluations."""
        self.model.train()
        if has_modes(self.optimizer):
            self.optimizer.train()  # type: ignore[attr-defined]

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Let the model have the weights that its optimizer wants judged, with batch statistics that belong to them."""
        own = restated(self.model, self._pass_examples) if has_modes(self.optimizer) else nullcontext()
        with judged(self.optimizer), own:
            yield

    def evaluate(self, split: Reader) -> float:
        """Return the metric over a whole split, of the weights that the optimizer wants judged."""
        with self.evaluation():
            return self.metric(split)

    def metric(self, split: Reader) -> float:
        """Return the metric over a whole split, in the model's evaluation mode.

        Every rank reads all of it: shared out, a metric would be rounded otherwise than in one process, and two equal
        accuracies of which the first wins would no longer be equal. Rank 0's number, whose statistics of a batch
        normalisation are those that count, is everybody's.
        """
        training = self.model.training
        self.model.eval()
        means: Tensor | float = 0.0
        with torch.no_grad():
            for inputs, targets in split.read(torch.arange(len(split)).split(self.micro_batch)):
                with self._precision():
                    outputs = self.model(self._laid_out(inputs))
                means = means + self.task.metric(outputs, targets) * (count(targets) / len(split))
        self.model.train(training)
        return self.ranks.decide(lambda: self.task.score(torch.as_tensor(means)))

    def step(self, reading: Iterator[tuple[Batch, Batch]], weights: Sequence[float]) -> Tensor:
        """Make one optimizer step on the next micro-batches; return this rank's part of the batch's mean loss.

        An optimizer that wants the gradient again gets it on the same examples with the same random numbers; the
        model's buffers, such as batch statistics, know the first pass alone.
        """
        start, closure, spent = self.now(), self.spec.closure, 0.0
        micro_batches: Iterable[tuple[Batch, Batch]] = itertools.islice(reading, len(weights))
        micro_batches = list(micro_batches) if closure else micro_batches
        random = self._random() if closure else {}
        loss = self._gradient(micro_batches, weights, self.noise)
        buffers = [buffer.clone() for buffer in self.model.buffers()] if closure else []

        def again() -> Tensor:
            nonlocal spent
            entered = self.now()
            self._set_random(random)
            repeated = self._gradient(micro_batches, weights)
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            spent += self.now() - entered
            return repeated

        seconds = self.update(again if closure else None)
        self.optimizer_seconds.append(seconds - spent)
        self.step_seconds.append(self.now() - start)
        self.steps += 1
        return loss

    def update(self, closure: Callable[[], Any] | None = None) -> float:
        """Let the optimizer move the parameters; return the seconds it took."""
        start = self.now()
        with self.guard():
            if closure is None:
                self.optimizer.step()
            else:
                self.optimizer.step(closure)
        return self.now() - start

    def _gradient(
        self, micro_batches: Iterable[tuple[Batch, Batch]], weights: Sequence[float], noise: NoiseScale | None = None
    ) -> Tensor:
        """Compute the gradient of the batch's mean loss, clipped; return this rank's part of that loss."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        generator = self._generator()
        micro = None if noise is None else MicroGradients(_parameters(self.optimizer))
        with self._own_noise():
            for number, ((inputs, targets), weight) in enumerate(zip(micro_batches, weights, strict=True), 1):
                with held_back(self.replica) if number < len(weights) else nullcontext():
                    loss += self._backward(inputs, targets, weight, generator)
                if micro is not None:
                    micro.take(weight)
        if micro is not None and noise is not None:
            micro.put(noise, self._examples())
        check_averaged(self.replica)
        if self.task.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.task.clip)
        self.examples += self._examples()
        return loss

    def _examples(self) -> int:
        """Return the number of examples of this step's batch; an epoch may end with a smaller one."""
        batches = self.steps % self.task.steps(self.batch_size, 1)
        return min(self.batch_size, len(self.task.train) - batches * self.batch_size)

    def _backward(self, inputs: Batch, targets: Batch, weight: float, generator: torch.Generator | None) -> Tensor:
        """Add a micro-batch's part of the gradient; return its part of the loss."""
        if self.task.augment is not None and generator is not None:
            inputs = self.task.augment(inputs, generator)
        with self._precision():
            part = self.task.loss(self.replica(self._laid_out(inputs)), targets) * weight
        (part * self.ranks.size).backward()  # the ranks' gradients are averaged, and their sum is wanted
        return part.detach()

    @cached_property
    def _reader(self) -> Reader:
        return self.task.train.reader(self.device)

    def _pass_examples(self) -> None:
        """Pass the first training examples through the model, augmented as in training; only its buffers change."""
        parts = torch.arange(min(len(self.task.train), RESTATED * self.micro_batch)).split(self.micro_batch)
        generator = torch.Generator(self.device).manual_seed(self.seed)
        with seeded(self.device, self.seed):
            for inputs, _ in self._reader.read(parts):
                view = inputs if self.task.augment is None else self.task.augment(inputs, generator)
                with self._precision():
                    self.model(self._laid_out(view))

    def _generator(self) -> torch.Generator | None:
        """A step's own source of what is random about its inputs: a run that is resumed needs no state of it."""
        if self.task.augment is None:
            return None
        return torch.Generator(self.device).manual_seed(self._own_seed(1))

    def _own_noise(self) -> AbstractContextManager[None]:
        """Dropout that differs from rank to rank, and leaves the generators alone.

        What an optimizer draws stays the same on all ranks, without which their weights would drift apart.
        """
        return nullcontext() if self.ranks.size == 1 else seeded(self.device, self._own_seed(0))

    def _own_seed(self, use: int) -> int:
        """A seed for this step on this rank."""
        return mixed(self.seed, self.steps, self.ranks.rank, use)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def _laid_out(self, inputs: Batch) -> Batch:
        if isinstance(inputs, Tensor) and inputs.dim() == 4:
            return inputs.to(memory_format=self.task.laid_out(self.device))
        return inputs

    def _random(self) -> dict[str, Tensor]:
        state = {"random": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _set_random(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def _state(self) -> dict[str, Any]:
        """Return the state between two steps; the optimizer is in its training mode, as its state may tell."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "examples": self.examples,
            "curve": [asdict(evaluation) for evaluation in self.curve],
            "step_seconds": self.step_seconds,
            "optimizer_seconds": self.optimizer_seconds,
            **self._random(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.examples = state["steps"], state["examples"]
        self.curve = [Evaluation(**evaluation) for evaluation in state["curve"]]
        self.step_seconds, self.optimizer_seconds = state["step_seconds"], state["optimizer_seconds"]
        self._set_random(state)

    def now(self) -> float:
        """Return the seconds of a clock, once the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def start(
    task: Task,
    spec: OptimizerSpec,
    values: Mapping[str, float],
    config: RunConfig,
    ranks: Ranks,
    *,
    seed: int,
    noise: NoiseScale | None = None,
) -> Fitting:
    """Make model and optimizer of a run, whose settings are resolved; torch's generator decides the initial weights."""
    assert config.batch_size is not None
    assert config.epochs is not None
    device, size = ranks.device(config.device), config.batch_size
    micro_batch = config.micro_batch or task.micro_batch
    model = task.build_model().to(device).to(memory_format=task.laid_out(device))  # type: ignore[call-overload]
    with spec.blamed(task.name):
        optimizer = spec.build(model, values, Plan(size, task.steps(size, config.epochs)))
        if not {id(parameter) for parameter in _parameters(optimizer)} & {id(one) for one in model.parameters()}:
            raise LabError(f"{spec.name} holds no parameter of {task.name}'s model; build must make it for each run")
    return Fitting(
        task,
        spec,
        model,
        ranks.replicate(model),
        optimizer,
        device,
        ranks,
        size,
        micro_batch if noise is None else min(micro_batch, -(-size // 2)),
        seed,
        config.precision == "bfloat16",
        noise,
        partial(spec.blamed, task.name, (torch.linalg.LinAlgError,)),  # type: ignore[attr-defined]
    )


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _batches(task: Task, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Indices of each batch, on the CPU so that every device sees the same order."""
    generator = torch.Generator().manual_seed(seed)  # its own: dropout must not change the order of the data
    for _ in range(epochs):
        order = torch.randperm(len(task.train), generator=generator)
        yield from order.split(batch_size)[: task.steps(batch_size, 1)]
