"""Size and place of E's change to an update: the measurements of docs/when-e-matters.md.

    OMP_NUM_THREADS=1 python benchmarks/when_e_matters.py --data FOLDER

On problems of ``benchmarks/evidence``, with the folder that its script takes. A minute of one core.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import AdamW, Optimizer

import valleys
from evidence.problems import PROBLEMS
from provenance import provenance
from report import listing, table
from valleys.lab import Task

RESULTS = Path(__file__).parent / "results" / "when-e-matters.md"
STEPS = 300
SETTINGS = {
    "large-batch rule": {"alpha": -5.0, "beta": 0.99},
    "c -0.5, memory 100": {"alpha": -50.0, "beta": 0.99},
    "small-batch rule": {"alpha": 0.5, "beta": 0.01},
}
"""E's options by title; c is -0.05, -0.5 and 0.495."""
PAIRS: dict[str, tuple[Callable[..., Optimizer], Callable[..., Optimizer], float]] = {
    "LAMB": (valleys.Lamb, valleys.ALTO, 0.01),
    "AdamW": (AdamW, valleys.EAdamW, 0.003),
}
"""Base, adapted optimizer, and learning rate, by the base's title."""
NAMES = ("noisy-digits", "fashion-1024", "words")
IDLE = 20  # steps without a gradient after which a row counts as idle


class Training(NamedTuple):
    """A model with batches in an order of their own."""

    model: nn.Module
    task: Task
    batches: Iterator[Tensor]

    def backward(self) -> None:
        """Leave the gradient on the next batch in ``.grad``."""
        rows = next(self.batches)
        self.model.zero_grad()
        self.task.loss(self.model(self.task.train.inputs[rows]), self.task.train.targets[rows]).backward()

    @property
    def params(self) -> Tensor:
        """All parameters, flat."""
        return parameters_to_vector(self.model.parameters()).detach().clone()


def training(task: Task, batch_size: int, order: int = 0) -> Training:
    """Start a training: always from the same weights, with the batches of an order."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(order)
    epochs = (torch.randperm(len(task.train), generator=generator) for _ in itertools.count())
    batches = (rows for epoch in epochs for rows in epoch.split(batch_size) if len(rows) == batch_size)
    return Training(task.build_model(), task, batches)


def cosines(task: Task, batch_size: int, pair: str, options: Mapping[str, float], steps: int = STEPS) -> Tensor:
    """Return, for each step of the base, the cosine between its update and that of its adapted twin.

    Both see the same gradients at the same parameters; each keeps its own state. Shape (steps,).
    """
    base, adapted, lr = PAIRS[pair]
    run, twin = training(task, batch_size), training(task, batch_size)
    optimizers = base(run.model.parameters(), lr=lr), adapted(twin.model.parameters(), lr=lr, **options)
    values = []
    for _ in range(steps):
        run.backward()
        before = run.params
        vector_to_parameters(before.clone(), twin.model.parameters())
        for param, other in zip(twin.model.parameters(), run.model.parameters(), strict=True):
            param.grad = None if other.grad is None else other.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        values.append(torch.cosine_similarity(run.params - before, twin.params - before, dim=0))
    return torch.stack(values)


def end(task: Task, batch_size: int, build: Callable[[Any], Optimizer], order: int = 0, nudge: float = 0.0) -> Tensor:
    """Return the parameters after a training, whose first weights were multiplied by 1 + nudge."""
    run = training(task, batch_size, order)
    vector_to_parameters(run.params * (1 + nudge), run.model.parameters())
    optimizer = build(run.model.parameters())
    for _ in range(STEPS):
        run.backward()
        optimizer.step()
    return run.params


def distances(task: Task, batch_size: int) -> dict[str, float]:
    """Return how far other trainings end from LAMB's, over how far LAMB's end is from its start."""
    lr = PAIRS["LAMB"][2]
    start = training(task, batch_size).params
    builds = {
        f"ALTO, {title}": lambda params, options=options: valleys.ALTO(params, lr=lr, **options)
        for title, options in SETTINGS.items()
    }

    def lamb(params: Any) -> Optimizer:
        return valleys.Lamb(params, lr=lr)

    reference = end(task, batch_size, lamb)
    ends = {title: end(task, batch_size, build) for title, build in builds.items()}
    ends["LAMB, learning rate 5 % larger"] = end(task, batch_size, lambda params: valleys.Lamb(params, lr=1.05 * lr))
    ends["LAMB, first weights times 1 + 1e-6"] = end(task, batch_size, lamb, nudge=1e-6)
    ends["LAMB, batches in another order"] = end(task, batch_size, lamb, order=1)
    whole = (reference - start).norm()
    return {title: float((other - reference).norm() / whole) for title, other in ends.items()}


def idle_rows(task: Task, batch_size: int, build: Callable[[Any], Optimizer]) -> tuple[float, float]:
    """Return the share of idle rows of the first embedding, and how far they move beside the others.

    A row is idle in a step if no batch of the last ``IDLE`` steps held its word. The second number is the root mean
    square of their steps over that of the rows whose word is in the batch; both are means over the last 100 steps.
    """
    run = training(task, batch_size)
    (embedding,) = (module for module in run.model.modules() if isinstance(module, nn.Embedding))
    optimizer = build(run.model.parameters())
    last = torch.full((embedding.num_embeddings,), -IDLE)
    shares, ratios = [], []
    for step in range(STEPS):
        run.backward()
        assert embedding.weight.grad is not None
        active = embedding.weight.grad.abs().sum(1) > 0
        last[active] = step
        before = embedding.weight.detach().clone()
        optimizer.step()
        moves = (embedding.weight.detach() - before).square().mean(1)
        idle = (step - last >= IDLE) & (last >= 0)
        if step >= STEPS - 100:
            shares.append(idle.float().mean())
            ratios.append((moves[idle].mean() / moves[active].mean()).sqrt())
    return float(torch.stack(shares).mean()), float(torch.stack(ratios).mean())


def report(data: Path) -> str:
    """Measure everything, and return it as Markdown."""
    environment = provenance("cpu", torch.get_num_threads(), ("torch", "valleys"))
    environment["command"] = "`OMP_NUM_THREADS=1 python benchmarks/when_e_matters.py --data FOLDER`"
    lines = ["# How much E changes, and where", "", listing(environment), "", "## Cosine between the updates", ""]
    lines += [f"Base and adapted optimizer at the same parameters and gradients, {STEPS} steps of the base.", ""]
    tasks = {name: (PROBLEMS[name].load(data), PROBLEMS[name].batch_size) for name in NAMES}
    rows = []
    for (name, (task, size)), pair, (title, options) in itertools.product(tasks.items(), PAIRS, SETTINGS.items()):
        values = cosines(task, size, pair, options)
        cells = [values[1], values[9], values[99], values.quantile(0.5), values.min()]
        rows.append([name, pair, title, *(f"{float(value):.4f}" for value in cells)])
    lines += [table(["problem", "base", "E", "step 2", "step 10", "step 100", "median", "least"], rows), ""]
    lines += ["## Distance of the ends", "", f"From the end of LAMB after {STEPS} steps, over LAMB's own way.", ""]
    ends = {name: distances(*tasks[name]) for name in NAMES}
    titles = list(ends[NAMES[0]])
    lines += [table(["training", *NAMES], [[title, *(f"{ends[n][title]:.3f}" for n in NAMES)] for title in titles]), ""]
    lines += ["## Rows without a gradient", "", "Embedding of `words`: rows whose word no batch held for "]
    lines[-1] += f"{IDLE} steps or more; their step over that of the rows in the batch, root mean squares."
    builds: dict[str, Callable[[Any], Optimizer]] = {"AdamW": lambda params: AdamW(params, lr=0.003)}
    for title, options in SETTINGS.items():
        builds[f"EAdamW, {title}"] = lambda params, options=options: valleys.EAdamW(params, lr=0.003, **options)
    idle = {title: idle_rows(*tasks["words"], build) for title, build in builds.items()}
    cells = [[title, f"{100 * share:.0f} %", f"{ratio:.3f}"] for title, (share, ratio) in idle.items()]
    return "\n".join([*lines, "", table(["optimizer", "idle rows", "their step over the others'"], cells)]) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    text = report(parser.parse_args().data)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
