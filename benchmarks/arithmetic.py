"""Time of a step where all tensors lie in the cache: what a CPU's instructions take, whatever the memory's speed.

    OMP_NUM_THREADS=1 python benchmarks/arithmetic.py

One process, one thread, every optimizer in each round in a new order. The difference between a step over 49,152
elements and one over 16,384 is that of 32,768 elements, without what each call takes. Writes
``benchmarks/results/step/arithmetic.md``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

import valleys
from provenance import Others, provenance
from report import listing, table
from timing import quartiles

__all__ = ["CONTENDERS", "main", "nanoseconds"]

OUT = Path(__file__).parent / "results" / "step" / "arithmetic.md"
SIZES = (1 << 14, 3 << 14)
STEPS = 100  # timed together: one alone is shorter than an interruption


def _alto(**options: Any) -> Callable[[Any], Optimizer]:
    return lambda params: valleys.ALTO(params, fused="c", **options)


CONTENDERS: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW fused": lambda params: torch.optim.AdamW(params, fused=True),
    "EAdamW fused": lambda params: valleys.EAdamW(params, fused=True),
    "EAdamW fused, bfloat16 buffer": lambda params: valleys.EAdamW(params, fused=True, state_dtype=torch.bfloat16),
    "EAdamW fused, 8-bit buffer": lambda params: valleys.EAdamW(params, fused=True, state_dtype="8bit"),
    "Lamb": lambda params: valleys.Lamb(params, fused="c"),
    "ALTO": _alto(),
    "ALTO, bfloat16 states": _alto(state_dtype=torch.bfloat16),
    "ALTO, bfloat16 states, nearest": _alto(state_dtype=torch.bfloat16, stochastic_rounding=False),
    "ALTO, 8-bit states": _alto(state_dtype="8bit"),
    "ALTO, 8-bit states, nearest": _alto(state_dtype="8bit", stochastic_rounding=False),
}


def nanoseconds(rounds: int) -> dict[str, list[float]]:
    """Time of a step for each element and round, by contender."""
    optimizers: dict[str, list[Optimizer]] = {name: [] for name in CONTENDERS}
    for size in SIZES:
        param = torch.nn.Parameter(torch.randn(size // 1024, 1024) * 0.02)
        param.grad = torch.randn_like(param) * 1e-3
        for name, make in CONTENDERS.items():
            optimizers[name].append(make([param]))
    results: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(-1, rounds):
        for name in random.Random(number).sample(list(CONTENDERS), len(CONTENDERS)):
            small, large = (_seconds(optimizer) for optimizer in optimizers[name])
            if number >= 0:
                results[name].append((large - small) / (SIZES[1] - SIZES[0]) * 1e9)
    return results


def _seconds(optimizer: Optimizer) -> float:
    optimizer.step()
    begin = time.perf_counter()
    for _ in range(STEPS):
        optimizer.step()
    return (time.perf_counter() - begin) / STEPS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help="default: 31")
    parser.add_argument("--out", type=Path, default=OUT, help="default: benchmarks/results/step/arithmetic.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    texts, others = provenance("cpu", 1, ("torch", "valleys")), Others()
    rows = []
    for name, times in nanoseconds(options.rounds).items():
        low, high = quartiles(times)
        rows.append([name, f"{statistics.median(times):.2f}", f"{low:.2f} to {high:.2f}"])
        print(*rows[-1], sep="   ")
    texts = {**texts, "n": f"{options.rounds} rounds of {STEPS} steps", "other processes": others.share()}
    head = ["optimizer", "ns per element, one thread", "quartiles"]
    parts = ["# Time of a step where all tensors lie in the cache", listing(texts), table(head, rows)]
    options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
