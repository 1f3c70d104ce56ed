"""Time of an import over that of torch alone, in fresh processes that import torch first and then the module."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from provenance import Others, provenance
from report import listing, table

__all__ = ["BOUND", "MODULES", "benchmark", "main", "milliseconds"]

MODULES = {
    "valleys": "`import valleys`",
    "valleys.optax": "`import valleys.optax`, JAX and optax included",
    "valleys.cli.app": "what `valleys --help` waits for",
}

BOUND = 50.0
"""The issue's, for ``import valleys``, in ms."""

METHOD = """\
Wall time inside the process, between the end of `import torch` and the end of the import; torch's own import is beside
it. The processes of all rows take turns; one of each, which writes byte code and fills the disk's cache, does not
count."""

_CODE = (
    "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import {}; "
    "c = time.perf_counter(); print(1e3 * (b - a), 1e3 * (c - b))"
)


def milliseconds(module: str) -> tuple[float, float]:
    """Times of torch's import and of a module's after it, in a fresh process.

    Args:
        module: its name.
    """
    process = subprocess.run([sys.executable, "-c", _CODE.format(module)], capture_output=True, text=True, check=True)
    torch, own = map(float, process.stdout.split())
    return torch, own


def benchmark(rounds: int, out: Path) -> Path:
    """Measures all modules and writes ``README.md``.

    Args:
        rounds: processes of each module, at least 2.
        out: folder.

    Returns:
        The report's path.
    """
    texts, others = provenance("cpu", 1, ("torch", "valleys", "jax", "optax")), Others()
    del texts["threads"]
    pairs: dict[str, list[tuple[float, float]]] = {module: [] for module in MODULES}
    for each in range(rounds + 1):
        for module, times in pairs.items():
            pair = milliseconds(module)
            if each:
                times.append(pair)
    rows = [[MODULES[module], *_spread([own for _, own in times])] for module, times in pairs.items()]
    rows.append(["torch itself", *_spread([torch for times in pairs.values() for torch, _ in times])])
    median = statistics.median(own for _, own in pairs["valleys"])
    verdict = f"`import valleys` takes {median:.1f} ms over torch alone; bound {BOUND:g} ms: "
    texts |= {"other processes": others.share(), "n": f"{rounds} processes per row, {len(pairs) * rounds} for torch"}
    parts = [
        "# What importing costs",
        listing(texts),
        METHOD,
        table(["", "median, ms", "quartiles, ms", "slowest, ms"], rows),
        verdict + ("met" if median <= BOUND else "**not met**"),
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "README.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _spread(times: Sequence[float]) -> list[str]:
    low, _, high = statistics.quantiles(times, n=4)
    return [f"{statistics.median(times):.1f}", f"{low:.1f} to {high:.1f}", f"{max(times):.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=30, help="processes of each module (default: 30)")
    add("--out", type=Path, default=Path("benchmarks/results/import"), help="default: benchmarks/results/import")
    options = parser.parse_args(arguments)
    print(benchmark(options.rounds, options.out))


if __name__ == "__main__":
    main()
