"""Seconds until the first step is done, with cold and with warm compile caches, and that later steps do not compile."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fresh import in_fresh_process
from provenance import Others
from report import listing, table
from rivals import contenders, reason
from running import TorchRunning
from shapes import SETS
from stage import Stage

__all__ = ["DEFAULT", "First", "benchmark", "measure"]

DEFAULT = r"^(ALTO|Lamb) (c|triton|compiled)$|^adapt\(AdamW fused\)$"

COLD, WARM = 20.0, 5.0
"""Bounds, in seconds."""

METHOD = """\
Each figure is the median over fresh processes, between the end of the imports and the end of the first step:
construction, compilation, allocation of the states, update. Cold: every compile cache is an empty folder; warm: the
next process, with the caches the first one left. Then five more steps, each with another learning rate and, where
there is one, another alpha; "graphs" counts what torch.compile compiled during those, "files" what the first process
left in the caches."""


@dataclass(frozen=True)
class First:
    """One process.

    Args:
        first: seconds of construction and first step.
        later: seconds of the slowest of five later steps.
        graphs: graphs that torch.compile compiled during those.
    """

    first: float
    later: float
    graphs: int


def measure(name: str, set_name: str, device: str, threads: int, copied: int = 1 << 28) -> First:
    """The first step and five more, in this process.

    Args:
        name: of the contender.
        set_name: of the parameter set.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        copied: see :class:`stage.Stage`.
    """
    torch.set_num_threads(threads)
    (contender,) = (contender for contender in contenders(device) if contender.name == name)
    stage = Stage(SETS[set_name](), device, copied=copied)
    stage.serve(contender.scratch)
    start = time.perf_counter()
    running = contender.build(stage)
    running.step()
    _wait(device)
    first = time.perf_counter() - start
    before, later = _graphs(), []
    for _ in range(5):
        if isinstance(running, TorchRunning):
            _reschedule(running.optimizer.param_groups)
        stage.serve(contender.scratch)
        start = time.perf_counter()
        running.step()
        _wait(device)
        later.append(time.perf_counter() - start)
    return First(first, max(later), _graphs() - before)


def benchmark(names: Sequence[str], set_name: str, device: str, repeats: int, texts: dict[str, str], out: Path) -> Path:
    """Measures contenders and writes ``first-step-SET.md``.

    Args:
        names: of the contenders.
        set_name: of the parameter set.
        device: ``cpu`` or ``cuda``.
        repeats: pairs of processes, cold and warm, per contender.
        texts: provenance.
        out: folder, made if missing.

    Returns:
        The Markdown file.
    """
    others = Others()
    rows = []
    for name in names:
        print(f"first step: {name}", file=sys.stderr, flush=True)
        try:
            rows.append([name, *_row(name, set_name, device, repeats)])
        except Exception as error:  # whatever is raised belongs in the table
            rows.append([name, f"unavailable: {reason(error)}", *[""] * 5])
    texts = {**texts, "other processes": others.share(), "n": f"{repeats} pairs of processes"}
    header = [
        "optimizer",
        f"cold, s (<= {COLD:g})",
        f"warm, s (<= {WARM:g})",
        "met",
        "slowest later, s",
        "graphs",
        "files",
    ]
    parts = [f"# The first step over {set_name}", listing(texts), METHOD, table(header, rows)]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"first-step-{set_name}.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _row(name: str, set_name: str, device: str, repeats: int) -> list[str]:
    cold: list[First] = []
    warm: list[First] = []
    files = 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            variables = {
                "VALLEYS_CACHE_DIR": f"{folder}/valleys",
                "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
                "TRITON_CACHE_DIR": f"{folder}/triton",
                "TORCH_EXTENSIONS_DIR": f"{folder}/extensions",
            }
            for results in (cold, warm):
                times = in_fresh_process(variables, measure, name, set_name, device, torch.get_num_threads())
                results.append(times)
                if results is cold:
                    files = sum(path.is_file() for path in Path(folder).rglob("*"))
    seconds = [statistics.median(result.first for result in results) for results in (cold, warm)]
    met = seconds[0] <= COLD and seconds[1] <= WARM
    later = max(result.later for result in [*cold, *warm])
    graphs = max(result.graphs for result in [*cold, *warm])
    return [*(f"{value:.2f}" for value in seconds), "yes" if met else "**no**", f"{later:.2f}", str(graphs), str(files)]


def _reschedule(groups: list[dict[str, Any]]) -> None:
    for group in groups:
        for name in ("lr", "alpha", "explore_alpha"):
            if name in group:
                group[name] *= 0.9


def _graphs() -> int:
    """Graphs that torch.compile has compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
