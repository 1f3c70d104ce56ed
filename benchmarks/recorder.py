"""Cost of the trajectory recorder: its share of a training step's processor time, and its memory.

One process and one thread. Each way to record has a copy of the model and trains it in blocks of a hundred steps;
rounds give every way one block, in a new order, and plain training another. Hooks before and after the recorder's own
read this process's processor time, which other processes on the machine lengthen less than they do the clock's; the
ratio of whole blocks is shown beside it, for what hooks cannot see. Writes a Markdown table and all times as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import valleys
from provenance import Others, peak_gigabytes, provenance
from report import listing, table
from timing import quartiles
from valleys.lab.tasks.networks import cifar_resnet
from valleys.lab.tasks.networks.gpt import GPT
from valleys.landscape.recorder.recorder import Recorder, record

__all__ = ["WAYS", "WORKLOADS", "Run", "benchmark", "main", "parser"]

BLOCK = 100
"""Steps in a block: as many as the defaults record one or two of."""

LIMIT = 0.05
"""Bound: cost below 5 % of a step."""

WAYS: dict[str, dict[str, Any]] = {
    "default (every=50)": {},
    "projection=4096 (every=100)": {"projection": 4096},
    "every=10": {"every": 10},
    "every=1": {"every": 1},
}


@dataclass(frozen=True)
class Workload:
    """Model and batch that are trained.

    Args:
        text: in words.
        model: makes the network.
        batch: makes inputs and targets from a generator.
    """

    text: str
    model: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]


def _images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(128, 3, 32, 32, generator=generator), torch.randint(0, 10, (128,), generator=generator)


def _characters(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(0, 80, (64, 65), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def _vectors(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(128, 784, generator=generator), torch.randint(0, 10, (128,), generator=generator)


def _perceptron() -> nn.Module:
    layers = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


WORKLOADS = {
    "mlp": Workload("784-512-512-10 perceptron, batch 128", _perceptron, _vectors),
    "gpt": Workload(
        "GPT of 4 layers, width 128, batch 64 of 64 tokens",
        lambda: GPT(vocabulary=80, context=64, layers=4, heads=4, width=128),
        _characters,
    ),
    "resnet20": Workload("ResNet-20, batch 128 of 32x32 images", lambda: cifar_resnet(20, 10), _images),
}


@dataclass
class Run:
    """One way to record, at work on its own copy of the model.

    Args:
        workload: what is trained.
        model: its own.
        options: of ``record``; None: no recorder.
    """

    workload: Workload
    model: nn.Module
    options: dict[str, Any] | None
    blocks: list[float] = field(default_factory=list)
    """Seconds of processor time per step."""
    hooks: list[float] = field(default_factory=list)
    """Of these, in the recorder's hooks."""
    bytes_held: int = 0

    def __post_init__(self) -> None:
        self._optimizer = valleys.ALTO(self.model.parameters(), lr=1e-3, layer_adaptation=True)
        self._entered = self._inside = 0.0
        self.recorder: Recorder | None = None
        self._optimizer.register_step_pre_hook(self._enter)
        self._optimizer.register_step_post_hook(self._enter)
        if self.options is not None:
            self.recorder = record(self._optimizer, self.model, **self.options)
        self._optimizer.register_step_pre_hook(self._leave)
        self._optimizer.register_step_post_hook(self._leave)

    def block(self, batches: Sequence[tuple[Tensor, Tensor]], keep: bool) -> None:
        """Trains one block.

        Args:
            batches: one per step.
            keep: the times; the first block warms up.
        """
        self._inside = 0.0
        start = time.process_time()
        for inputs, targets in batches:
            self._optimizer.zero_grad()
            outputs = self.model(inputs)
            nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten()).backward()
            self._optimizer.step()
            if self.recorder is not None and not keep:
                self.bytes_held = max(self.bytes_held, self.recorder.memory())
        if keep:
            self.blocks.append((time.process_time() - start) / len(batches))
            self.hooks.append(self._inside / len(batches))

    def _enter(self, *_: object) -> None:
        self._entered = time.process_time()

    def _leave(self, *_: object) -> None:
        self._inside += time.process_time() - self._entered


def measure(workload: Workload, ways: dict[str, dict[str, Any]], rounds: int, seed: int) -> dict[str, Run]:
    """Trains a workload in all ways, interleaved.

    Args:
        workload: what is trained.
        ways: options of ``record`` by name.
        rounds: blocks of each.
        seed: of model, data and order.

    Returns:
        The runs by name; ``plain`` has no recorder.
    """
    torch.manual_seed(seed)
    model = workload.model()
    generator = torch.Generator().manual_seed(seed)
    batches = [workload.batch(generator) for _ in range(10)] * (BLOCK // 10)
    every: dict[str, dict[str, Any] | None] = {"plain": None, **ways}
    runs = {name: Run(workload, copy.deepcopy(model), options) for name, options in every.items()}
    order = random.Random(seed)
    for number in range(rounds + 1):
        names = list(runs)
        order.shuffle(names)
        for name in names:
            runs[name].block(batches, keep=number > 0)
    return runs


def _row(name: str, run: Run, plain: Run) -> list[str]:
    size = sum(p.numel() * p.element_size() for p in run.model.parameters())
    # Two reads of the clock are in plain's "hooks" too.
    shares = [100 * h / (b - h) for b, h in zip(run.blocks, run.hooks, strict=True)]
    ratios = [100 * (b / p - 1) for b, p in zip(run.blocks, plain.blocks, strict=True)]
    low, high = quartiles(shares)
    less, more = quartiles(ratios)
    share = statistics.median(shares)
    within = "" if run is plain else "yes" if share < 100 * LIMIT else "**no**"
    return [
        name,
        f"{1e3 * statistics.median(run.blocks):.1f}",
        f"{1e3 * statistics.median(run.hooks):.3f}",
        f"{share:.2f} ({low:.2f} to {high:.2f})",
        within,
        "" if run is plain else f"{statistics.median(ratios):+.1f} ({less:+.1f} to {more:+.1f})",
        "" if run is plain else f"{run.bytes_held / 1e6:.1f} ({run.bytes_held / size:.1f})",
    ]


HEADER = [
    "recorder",
    "step, ms",
    "in its hooks, ms",
    "share of the step, % (quartiles)",
    "below 5 %",
    "whole blocks against plain, % (quartiles)",
    "memory, MB (in models)",
]


def benchmark(names: Sequence[str], rounds: int, seed: int, texts: dict[str, str], out: Path) -> Path:
    """Measures the workloads and writes ``README.md`` and ``recorder.json``.

    Args:
        names: of the workloads.
        rounds: blocks of each way.
        seed: of model, data and order.
        texts: provenance.
        out: folder, made if missing.

    Returns:
        The Markdown file.
    """
    others = Others()
    parts, document = [], []
    for name in names:
        workload = WORKLOADS[name]
        runs = measure(workload, WAYS, rounds, seed)
        parameters = list(runs["plain"].model.parameters())
        parts.append(
            f"## {workload.text}: {sum(p.numel() for p in parameters):,} parameters in {len(parameters)} tensors\n\n"
            + table(HEADER, [_row(way, run, runs["plain"]) for way, run in runs.items()])
        )
        for way, run in runs.items():
            document.append(
                {"workload": name, "recorder": way, "step": run.blocks, "hooks": run.hooks, "bytes": run.bytes_held}
            )
        texts = {
            **texts,
            "other processes": others.share(),
            "n": f"{rounds} blocks of {BLOCK} steps for each row, after one that is not counted; seed {seed}",
            "optimizer": "valleys.ALTO",
            "peak memory": f"{peak_gigabytes():.1f} GB",
        }
        path = _write(texts, parts, document, out)
    return path


def _write(texts: dict[str, str], parts: list[str], document: list[dict[str, Any]], out: Path) -> Path:
    """After each workload what there is so far."""
    title = "# What the trajectory recorder costs"
    method = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    columns = (
        'Times are this process\'s processor time per step, medians over the blocks. "Share" is the time in the '
        'recorder\'s hooks over the rest of the step. "Whole blocks against plain" compares with the plain block of '
        "the same round; it sees all there is to see, and the noise of the machine too, of which its quartiles tell. "
        "Memory is the most that the recorder's tensors held between two steps."
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "README.md"
    path.write_text("\n\n".join([title, listing(texts), method, columns, *parts]) + "\n", encoding="utf-8")
    (out / "recorder.json").write_text(json.dumps({**texts, "runs": document}, indent=1) + "\n", encoding="utf-8")
    return path


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--workload", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="default: all")
    add("--rounds", type=int, default=4, help="blocks of each way (default: 4)")
    add("--seed", type=int, default=0, help="of model, data and order (default: 0)")
    add("--out", type=Path, default=Path("benchmarks/results/recorder"), help="default: benchmarks/results/recorder")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    texts = provenance("cpu", 1, ("torch", "valleys"))
    texts["threads"] = "1"
    print(benchmark(options.workload, options.rounds, options.seed, texts, options.out))


if __name__ == "__main__":
    main()
