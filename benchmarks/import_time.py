"""Cost of imports over torch alone, and of the command where it only lists, all in fresh processes."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from provenance import Others, provenance
from report import listing, table

__all__ = ["BOUND", "COMMANDS", "MODULES", "benchmark", "cpu_seconds", "main", "milliseconds"]

MODULES = {
    "valleys": "`import valleys`",
    "valleys.optax": "`import valleys.optax`, JAX and optax included",
    "valleys.lab": "`import valleys.lab`",
}

BOUND = 50.0
"""Of ``import valleys`` with all its public names, in ms."""

COMMANDS = ("--help", "--version", "tasks", "optimizers", "optimizers alto", "claims")
"""Command lines that import no torch."""

METHOD = """\
Wall time inside the process, between the end of `import torch` and the end of the import; torch's own import is beside
it. The processes of all rows take turns; one of each, which writes byte code and fills the disk's cache, does not
count. The public names of both packages, which are imported when they are used, are used."""

CPU = """\
CPU time, user and system, of `python -m valleys ...` from start to end, as the system counts it for a finished
process. All rows take turns, after one of each that does not count."""

_CODE = (
    "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); import {0}; "
    "[getattr({0}, name) for name in getattr({0}, '__all__', ())]; "
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


def cpu_seconds(words: str, source: Path | None = None) -> float:
    """CPU seconds of the command.

    Args:
        words: its words.
        source: folder of another version's package ``valleys``; None: the one that Python finds.
    """
    paths = [] if source is None else [str(source)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "valleys", *words.split()]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def benchmark(rounds: int, out: Path, former: Path | None = None) -> Path:
    """Measures all modules and writes ``README.md``.

    Args:
        rounds: processes of each module, at least 2.
        out: folder.
        former: folder of a former version's package, whose commands take turns with these. Default: none.

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
    versions = {"now": None} | ({} if former is None else {"before": former})
    seconds: dict[tuple[str, str], list[float]] = {(words, when): [] for words in COMMANDS for when in versions}
    for each in range(rounds + 1):
        for (words, when), cpu in seconds.items():
            spent = cpu_seconds(words, versions[when])
            if each:
                cpu.append(spent)
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
        CPU,
        table(
            ["", "", "median, s", "quartiles, s", "slowest, s"],
            [[f"`valleys {words}`", when, *_spread(cpu, 2)] for (words, when), cpu in seconds.items()],
        ),
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "README.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _spread(times: Sequence[float], digits: int = 1) -> list[str]:
    low, _, high = statistics.quantiles(times, n=4)
    median = statistics.median(times)
    return [f"{median:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}", f"{max(times):.{digits}f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=30, help="processes of each row (default: 30)")
    add("--out", type=Path, default=Path("benchmarks/results/import"), help="default: benchmarks/results/import")
    add("--former", type=Path, help="folder of a former version's package, whose commands are measured beside these")
    options = parser.parse_args(arguments)
    print(benchmark(options.rounds, options.out, options.former))


if __name__ == "__main__":
    main()
