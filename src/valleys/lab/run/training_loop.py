"""The training loop of a task: batches in, steps and evaluations out."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from valleys.lab.problem.data import Batch, Reader, count
from valleys.lab.problem.seeds import seeded
from valleys.lab.problem.task import Task
from valleys.lab.record import Evaluation
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.run.noise_scale import MicroGradients, NoiseScale
from valleys.lab.run.ranks import Ranks, check_averaged, held_back

EVALUATIONS = 20
"""How often a run is evaluated, evenly; a shorter run at every step."""


@dataclass
class Fitting:
    """A run under way.

    Args:
        task: what is learnt.
        model, replica: the model, and what ``Ranks.replicate`` made of it.
        optimizer: of the model.
        device: where all of it is.
        ranks: the processes that share the batches.
        batch_size, micro_batch, seed: see ``trainer.train``.
        autocast: whether forward passes compute in bfloat16 where torch holds that safe.
        noise: learns the norms of each step's micro-batches, of which there must be two or more; for one rank.
    """

    task: Task
    model: nn.Module
    replica: nn.Module
    optimizer: Optimizer
    device: torch.device
    ranks: Ranks
    batch_size: int
    micro_batch: int
    seed: int
    autocast: bool = False
    noise: NoiseScale | None = None
    steps: int = 0
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
        task, examples = self.task, len(self.task.train)
        total = epochs * (examples // self.batch_size)
        scheduler = task.schedule.build(self.optimizer, total)
        due = {math.ceil(total * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        loss_sum, since = torch.zeros((), device=self.device), 0
        state = None if checkpoint is None else self.ranks.decide(lambda: checkpoint.load(of or {}))
        if state is not None:
            scheduler.load_state_dict(state["scheduler"])
            loss_sum, since = state["loss_sum"].to(self.device), state["since"]
            self._restore(state)
        self.model.train()
        batches = itertools.islice(_batches(examples, self.batch_size, epochs, self.seed), self.steps, None)
        parts = (self.ranks.parts(batch, self.micro_batch) for batch in batches)
        weights, chosen = itertools.tee(parts)
        reading = task.train.reader(self.device).read(part for batch in chosen for part, _ in batch)
        validation = task.validation.reader(self.device)
        for batch in weights:
            loss_sum += self._step(reading, [weight for _, weight in batch])
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
                if observe is not None and self.ranks.main:
                    observe(self.curve[-1])
                loss_sum, since = torch.zeros_like(loss_sum), 0
            # Right after an evaluation the ranks' states are the same; before, each has its part of the loss.
            shared = self.ranks.size == 1 or since == 0
            if checkpoint is not None and shared and self.ranks.main and self.steps < total and checkpoint.due():
                checkpoint.save(
                    of or {},
                    {"scheduler": scheduler.state_dict(), "loss_sum": loss_sum, "since": since, **self._state()},
                )

    def evaluate(self, split: Reader) -> float:
        """Return the metric over a whole split, in evaluation mode.

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

    def _step(self, reading: Iterator[tuple[Batch, Batch]], weights: list[float]) -> Tensor:
        """Make one optimizer step; return this rank's part of the batch's mean loss without waiting for it."""
        start = self._now()
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        generator = self._generator()
        micro = None if self.noise is None else MicroGradients(_parameters(self.optimizer))
        with self._own_noise():
            for number, weight in enumerate(weights, 1):
                with held_back(self.replica) if number < len(weights) else nullcontext():
                    loss += self._backward(*next(reading), weight, generator)
                if micro is not None:
                    micro.take(weight)
        if micro is not None and self.noise is not None:
            micro.put(self.noise, self.batch_size)
        check_averaged(self.replica)
        if self.task.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.task.clip)
        before = self._now()
        self.optimizer.step()
        end = self._now()
        self.optimizer_seconds.append(end - before)
        self.step_seconds.append(end - start)
        self.steps += 1
        return loss

    def _backward(self, inputs: Batch, targets: Batch, weight: float, generator: torch.Generator | None) -> Tensor:
        """Add a micro-batch's part of the gradient; return its part of the loss."""
        if self.task.augment is not None and generator is not None:
            inputs = self.task.augment(inputs, generator)
        with self._precision():
            part = self.task.loss(self.replica(self._laid_out(inputs)), targets) * weight
        (part * self.ranks.size).backward()  # the ranks' gradients are averaged, and their sum is wanted
        return part.detach()

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
        return ((self.seed * 2**32 + self.steps * self.ranks.size + self.ranks.rank + 1) * 2 + use) % 2**63

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def _laid_out(self, inputs: Batch) -> Batch:
        if self.task.channels_last and isinstance(inputs, Tensor) and inputs.dim() == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _state(self) -> dict[str, Any]:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "curve": [asdict(evaluation) for evaluation in self.curve],
            "step_seconds": self.step_seconds,
            "optimizer_seconds": self.optimizer_seconds,
            "random": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        self.curve = [Evaluation(**evaluation) for evaluation in state["curve"]]
        self.step_seconds, self.optimizer_seconds = state["step_seconds"], state["optimizer_seconds"]
        torch.set_rng_state(state["random"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _batches(examples: int, batch_size: int, epochs: int, seed: int) -> Iterator[Tensor]:
    """Indices of each batch, on the CPU so that every device sees the same order."""
    generator = torch.Generator().manual_seed(seed)  # its own: dropout must not change the order of the data
    for _ in range(epochs):
        yield from torch.randperm(examples, generator=generator).split(batch_size)[: examples // batch_size]
