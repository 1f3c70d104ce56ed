"""Memory of an optimizer between steps, and that of one step on top, in multiples of the parameters' bytes.

Each optimizer has a process of its own. On the CPU the peak is the kernel's high-water mark of resident memory, which
sees whatever any library touches; on CUDA it is torch's count of allocated bytes. Writes a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fresh import in_fresh_process
from provenance import provenance
from report import listing, table
from resident import check, in_use, transient
from rivals import Contender, compressed_states, contenders, reason
from running import OptaxRunning, Running
from shapes import SETS, Shape
from stage import Stage

__all__ = ["Memory", "benchmark", "bounds_table", "candidates", "main", "measure", "memory_table", "parser"]

METHOD = """\
All figures are multiples of the parameters' bytes. States: every tensor in the optimizer's state. Transient: the peak
during one step above what the process held when it began, the largest of three steps after two others. Kept: what
else the process holds after those two, parameters, gradients and states aside: scratch memory that survives the step,
and code. On the CPU all this is resident memory as the kernel counts it (VmRSS, and VmHWM after a reset through
/proc/self/clear_refs), which sees C code and jax too, but not memory that is reserved and never touched; what glibc
has freed but not returned is returned first (malloc_trim), else it would hide as much of the peak. During a step glibc
keeps many freed blocks, so temporaries of many sizes can reach more than their largest sum. A hundredth is within the
error."""


@dataclass(frozen=True)
class Memory:
    """Measurements of a contender, as multiples of the parameters' bytes.

    Args:
        name: the contender's.
        states: its states.
        kept: what else it keeps between steps.
        transient: the largest peak of a step.
        failure: why it did not run; None if it did.
    """

    name: str
    states: float = 0.0
    kept: float = 0.0
    transient: float = 0.0
    failure: str | None = None


def candidates(device: str = "cpu") -> list[Contender]:
    """The contenders of the step benchmark, and those with states in bfloat16."""
    return [*contenders(device), *compressed_states(device)]


def measure(name: str, shapes: Sequence[Shape], device: str = "cpu", threads: int = 2, steps: int = 3) -> Memory:
    """Measures one contender in this process, which should be a fresh one.

    Args:
        name: of the contender.
        shapes: of the parameters.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        steps: how many are measured.

    Returns:
        Its figures, or why there are none.
    """
    torch.set_num_threads(threads)
    (contender,) = (candidate for candidate in candidates(device) if candidate.name == name)
    try:
        _start(contender, Stage([(8, 250), (7,)], device, copied=0))  # loads code and compiles, before the count begins
        stage = Stage(shapes, device, copied=0)
        stage.serve(contender.scratch)
        before = in_use(device)
        running = _start(contender, stage)
        stage.serve(contender.scratch)
        states = running.state_bytes()
        own = 4 * stage.numel if isinstance(running, OptaxRunning) else 0
        rest = in_use(device) - before - states - own
        peaks = []
        for _ in range(steps):
            stage.serve(contender.scratch)
            peaks.append(transient(running.step, device))
    except Exception as error:  # whatever a rival raises belongs in the table
        return Memory(name, failure=reason(error))
    unit = 4 * stage.numel
    return Memory(name, states / unit, rest / unit, max(peaks) / unit)


def benchmark(names: Sequence[str], set_name: str, device: str, threads: int, texts: dict[str, str], out: Path) -> Path:
    """Measures contenders, each in a process of its own, and writes ``SET.md`` and ``SET.json``.

    Args:
        names: of the contenders.
        set_name: of the parameter set.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        texts: provenance.
        out: folder, made if missing.

    Returns:
        The Markdown file.
    """
    results = []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        try:
            results.append(in_fresh_process({}, measure, name, SETS[set_name](), device, threads))
        except Exception as error:  # the process died
            results.append(Memory(name, failure=reason(error)))
    problem = in_fresh_process({}, check)
    measured = ", ".join(f"{100 * share:.1f}% of 268 MB by {name}" for name, share in problem.items())
    texts = {**texts, "n": "3 steps, each optimizer in a process of its own", "check": f"measured {measured}"}
    parts = [
        f"# Memory of a step over {set_name}, float32",
        listing(texts),
        METHOD,
        memory_table(results),
        "## Bounds",
        bounds_table(results),
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{set_name}.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    document = {**texts, "found": [asdict(row) for row in results]}
    (out / f"{set_name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def memory_table(found: Sequence[Memory]) -> str:
    """One row per contender, in the order given."""
    rows = []
    for row in found:
        figures = [f"{value:.2f}" for value in (row.states, row.kept, row.transient)]
        rows.append([row.name, *(figures if row.failure is None else [f"unavailable: {row.failure}", "", ""])])
    return table(["optimizer", "states", "kept", "transient"], rows)


def bounds_table(found: Sequence[Memory]) -> str:
    """Bounds: demanded, measured, met or not.

    Args:
        found: what was measured.
    """
    states = {row.name: row.states for row in found if row.failure is None}
    added = {f"{name} over {base}": states[name] - states[base] for name in states if (base := _base(name)) in states}
    transients = {row.name: row.transient for row in found if row.failure is None}
    demands = [
        ("states of ALTO", 3.0, _matching(states, r"ALTO \w+")),
        ("states of Lamb", 2.0, _matching(states, r"Lamb \w+")),
        ("states that adapt adds", 1.0, {name: figure for name, figure in added.items() if "bfloat16" not in name}),
        ("states of ALTO in bfloat16", 1.5, _matching(states, r"ALTO .*, bfloat16 states")),
        ("states of Lamb in bfloat16", 1.0, _matching(states, r"Lamb .*, bfloat16 states")),
        ("states that adapt adds in bfloat16", 0.5, _matching(added, r".*, bfloat16 states .*")),
        ("transient of ALTO's best backend", 0.15, _matching(transients, r"ALTO (c|triton)")),
    ]
    rows = []
    for text, bound, figures in demands:
        if not figures:
            rows.append([text, f"<= {bound:g}", "-", "not measured"])
            continue
        largest = max(figures, key=lambda name: figures[name])
        # The step counts are states too: 4 bytes per tensor.
        met = "yes" if figures[largest] <= bound + 1e-3 else "**no**"
        rows.append([text, f"<= {bound:g}", f"{figures[largest]:.2f} ({largest})", met])
    return table(["multiple of the parameters' bytes", "bound", "largest found", "met"], rows)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--set", nargs="+", choices=[*SETS], default=["gpt2-124m"], help="parameter sets (default: gpt2-124m)")
    add("--only", default="", metavar="REGEX", help="contenders whose name this expression is found in")
    add("--threads", type=int, default=2, help="of torch (default: 2)")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add("--out", type=Path, default=Path("benchmarks/results/memory"), help="default: benchmarks/results/memory")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    options = parser().parse_args(arguments)
    texts = provenance(options.device, options.threads)
    names = [row.name for row in candidates(options.device) if re.search(options.only, row.name)]
    for name in options.set:
        print(benchmark(names, name, options.device, options.threads, texts, options.out))


def _start(contender: Contender, stage: Stage) -> Running:
    """Builds it and makes two steps."""
    stage.serve(contender.scratch)
    running = contender.build(stage)
    for _ in range(2):
        stage.serve(contender.scratch)
        running.step()
    return running


def _matching(figures: dict[str, float], names: str) -> dict[str, float]:
    return {name: figure for name, figure in figures.items() if re.fullmatch(names, name)}


def _base(name: str) -> str | None:
    """The optimizer inside ``adapt(...)``."""
    inner = re.fullmatch(r"adapt\((.*?)(, inplace)?\)(, bfloat16 states)?", name)
    return inner[1] if inner else None


if __name__ == "__main__":
    main()
