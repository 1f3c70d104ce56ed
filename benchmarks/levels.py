"""The C kernels of a wheel's instruction-set levels beside those compiled for this very processor.

    OMP_NUM_THREADS=1 python benchmarks/levels.py

Whether ``-march=native`` is worth a compilation on the user's machine: one process, one thread, every level in each
round in a new order, ratios to native within the round. Writes ``benchmarks/results/step/levels.md``.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import valleys
from provenance import Others, provenance
from report import listing, table
from timing import quartiles
from valleys.kernels import Needs, c
from valleys.kernels.c import compiler, openmp
from valleys.kernels.c.sources import LEVELS, NATIVE, Variant

__all__ = ["CASES", "main", "ratios"]

OUT = Path(__file__).parent / "results" / "step" / "levels.md"
OPTIONS = {"native": NATIVE, **{level: f"-march={level}" for level in LEVELS["x86_64"]}}
CASES: list[tuple[str, int, torch.dtype, dict[str, Any]]] = [
    *((f"{dtype}".removeprefix("torch."), 1 << 20, dtype, {}) for dtype in (torch.float32, torch.bfloat16)),
    ("float32, 16 million", 1 << 24, torch.float32, {}),
    ("float64", 1 << 20, torch.float64, {}),
    ("float32, bfloat16 states", 1 << 20, torch.float32, {"state_dtype": torch.bfloat16}),
    ("float32, 8-bit states", 1 << 20, torch.float32, {"state_dtype": "8bit"}),
]
"""Name, elements, dtype of the parameter, options of ALTO."""


class Kernels:
    """Libraries of one level at a time, in place of ``valleys.kernels.c``'s own."""

    def __init__(self) -> None:
        self.level = "native"
        self._libraries: dict[tuple[str, Variant], ctypes.CDLL] = {}

    def __call__(self, needs: Needs) -> ctypes.CDLL:
        """The library for such tensors."""
        variant = c.variant_of(needs)
        key = self.level, variant
        if key not in self._libraries:
            flags = [*variant.flags, OPTIONS[self.level], "-shared"]
            library = compiler.load(Path(c.__file__).parent / variant.source, flags, variant.symbols)
            library.use_runtime(openmp.runtime())
            self._libraries[key] = library
        return self._libraries[key]


def ratios(size: int, dtype: torch.dtype, options: dict[str, Any], rounds: int, kernels: Kernels) -> dict[str, Any]:
    """Time of a step at each level as multiples of native's, round by round.

    Args:
        size: elements of the parameter, a multiple of 1,024.
        dtype: of the parameter.
        options: of ALTO.
        rounds: how many.
        kernels: what ``valleys.kernels.c`` takes its libraries from.
    """
    param = torch.nn.Parameter(torch.randn(size // 1024, 1024).to(dtype))
    param.grad = torch.randn_like(param)
    optimizer = valleys.ALTO([param], fused="c", **options)
    times: dict[str, list[float]] = {level: [] for level in OPTIONS}
    for number in range(-1, rounds):
        for level in random.Random(number).sample(list(OPTIONS), len(OPTIONS)):
            kernels.level = level
            optimizer.step()
            begin = time.perf_counter()
            optimizer.step()
            if number >= 0:
                times[level].append(time.perf_counter() - begin)
    return {level: [a / b for a, b in zip(values, times["native"], strict=True)] for level, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help="default: 31")
    parser.add_argument("--out", type=Path, default=OUT, help="default: benchmarks/results/step/levels.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    texts, others, kernels = provenance("cpu", 1, ("torch", "valleys")), Others(), Kernels()
    c._library = kernels  # type: ignore[assignment]
    rows = []
    for name, size, dtype, of_alto in CASES:
        by_level = ratios(size, dtype, of_alto, options.rounds, kernels)
        cells = []
        for level in LEVELS["x86_64"]:
            low, high = quartiles(by_level[level])
            cells.append(f"{statistics.median(by_level[level]):.2f} ({low:.2f} to {high:.2f})")
        rows.append([name, *cells])
        print(rows[-1])
    texts = {**texts, "n": f"{options.rounds} rounds", "other processes": others.share()}
    head = ["ALTO's step", *LEVELS["x86_64"]]
    parts = ["# Time at a wheel's levels, as a multiple of `-march=native`", listing(texts), table(head, rows)]
    options.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
