"""Repeat a table or figure of the paper: one comparison per problem, with the paper's hyperparameters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from valleys.lab import tasks
from valleys.lab.compare import compare
from valleys.lab.errors import LabError, unknown
from valleys.lab.landscape import landscape
from valleys.lab.optimizers.resolve import OptimizerSpec
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Problem, Task
from valleys.lab.run.ranks import joined
from valleys.paper import memory, render
from valleys.paper.results import Outcome, Ran, Reproduction, beside, blank, contrasts, outcome
from valleys.paper.tables import numbers
from valleys.paper.tables.methods import spec
from valleys.paper.tables.model import FLAT, Cell, Method, Setting
from valleys.paper.walks.endpoints import Walk, walk

__all__ = ["LEAST_BATCH", "PRESETS", "reproduce"]

PRESETS = ("smoke", "paper")
"""``paper`` is the paper's model, data, length, batch and schedule; ``smoke`` a smaller problem of the same kind, which
takes minutes on two cores and tests nothing but that it runs, and which way the differences point."""

FLAT_EXAMPLES = 256
"""Training examples whose loss has the Hessian of Figure 3."""

LEAST_BATCH = 32
"""Examples per step of a smaller problem, at least."""

_NO_GPU = "needs a GPU; --device cpu runs it all the same"


@dataclass(frozen=True)
class _Asked:
    """The arguments of ``reproduce`` that every problem needs."""

    preset: str
    seeds: int
    data_dir: Path | None
    storage: str | None
    device: str
    progress: bool | None


def reproduce(
    number: str,
    *,
    preset: str = "smoke",
    only: str | None = None,
    seeds: int = 3,
    data_dir: Path | str | None = None,
    out: Path | str,
    storage: str | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Reproduction:
    r"""Repeat a table or figure of the paper.

    Each problem is one comparison in a folder of its own, with nothing to tune: it goes on where it was interrupted,
    and other workers that make the same call share its runs. Preset ``smoke`` takes the task's own smoke preset, the
    paper's optimizers and hyperparameters, and a batch with as large a share of the training set as the paper's,

    .. math:: B' = \min(N', \max(32, \operatorname{round}(B N' / N)))

    so that an epoch has as many steps. What cannot run is left blank, with the reason.

    Args:
        number: such as ``table-3``; see ``numbers.find``.
        preset: one of ``PRESETS``.
        only: label of a row, or a beginning of it that no other row has; default: all rows.
        seeds: runs of each optimizer on each problem, at least 1.
        data_dir: folder of the data. Where several data sets are needed, it may hold CIFAR's own folders and folders
            ``imagenet``, ``gpt2``, ``conll2003``, ``imdb`` and ``mrpc``.
        out: folder of ``reproduce.md``, ``reproduce.json`` and the comparisons.
        storage: Optuna storage URL, the same for all workers; default: an SQLite file in each comparison's folder.
        device: ``cpu``, ``cuda`` or ``auto``. What is hopeless without a GPU runs without one only for ``cpu``.
        progress: whether to show a progress bar; default: where stderr is a terminal.

    Returns:
        The paper's numbers beside ours.

    Raises:
        LabError: an unknown table, row, preset or device, seeds below 1, or a folder that holds other runs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = reproduce("table-1", only="-g_k", out=folder)
        >>> [(one.cell.column, one.cell.value, one.mean) for one in found.outcomes]
        [('1-2', -1.0, -1.0), ('2-3', -1.0, -1.0), ('3-4', 1.0, 1.0), ('4-5', 1.0, 1.0)]

    Source: Zhao et al. 2025 (arXiv 2510.27153).
    """
    table = numbers.find(number)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if seeds < 1:
        raise LabError(f"seeds must be at least 1, not {seeds}")
    _check_device(device)
    chosen = None if only is None else numbers.row(table, only)
    cells = [cell for cell in table.cells if chosen in (None, cell.row)]
    folder = Path(out)
    asked = _Asked(preset, seeds, None if data_dir is None else Path(data_dir), storage, device, progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--out {str(folder)!r} cannot be made ({error.strerror}); choose another folder") from error
    ran, reports = {}, []
    for setting, methods in _wanted(cells).items():
        place = folder / _name(setting, preset)
        walked = any(cell.setting == setting and cell.measure == "walk" for cell in cells)
        flat = any(cell.setting == setting and cell.measure in FLAT for cell in cells)
        ran[setting] = _run(asked, setting, methods, place, walked, flat)
        if ran[setting].records:
            reports.append(place)
    alone: dict[str, Callable[[Cell], Outcome]] = {"memory": partial(_memory, preset=preset), "sign": _sign}
    outcomes = tuple(alone[cell.measure](cell) if cell.measure in alone else outcome(cell, ran) for cell in cells)
    found = Reproduction(
        table,
        preset,
        seeds,
        outcomes,
        contrasts(table, outcomes),
        {cell.row: ran[cell.setting].problem for cell in cells if cell.setting and ran[cell.setting].problem},
        {"markdown": folder / "reproduce.md", "json": folder / "reproduce.json"},
        tuple(reports),
    )
    with joined() as ranks:
        ranks.decide(lambda: render.write(found))
    return found


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise unknown("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("--device cuda: torch finds no CUDA device here; use auto or cpu")


def _memory(cell: Cell, preset: str) -> Outcome:
    assert cell.method is not None
    assert cell.against is not None
    try:
        value = memory.above(cell.method, cell.against[1], int(cell.row), preset)
    except LabError as error:
        return blank(cell, str(error))
    return beside(cell, {0: value}, 1, preset == "paper")


def _sign(cell: Cell) -> Outcome:
    """A sign of Table 1, measured on a walk through a minimum: +1 or -1, 0 where it is neither."""
    from valleys.landscape.recorder.stages import table_1

    return beside(cell, {0: {"+": 1.0, "-": -1.0}.get(table_1()[cell.row][cell.column], 0.0)}, 1, True)


def _wanted(cells: Sequence[Cell]) -> dict[Setting, list[Method]]:
    """Each problem once, with each of its optimizers once."""
    found: dict[Setting, dict[Method, None]] = {}
    for cell in cells:
        for setting, method in cell.runs():
            found.setdefault(setting, {})[method] = None
    return {setting: list(methods) for setting, methods in found.items()}


def _name(setting: Setting, preset: str) -> str:
    """A folder for a problem, another one for any other hyperparameters, which the comparison itself cannot see.

    The optimizers of all tables count, so that tables with a problem in common share its runs.
    """
    methods = {
        method for table in numbers.TABLES for cell in table.cells for at, method in cell.runs() if at == setting
    }
    mark = hashlib.sha256(repr((setting, preset, sorted(map(repr, methods)))).encode()).hexdigest()[:8]
    size = "" if setting.batch_size is None else f"-{setting.batch_size}"
    return f"{setting.task}{size}-{preset}-{mark}"


def _run(asked: _Asked, setting: Setting, methods: Sequence[Method], out: Path, walked: bool, flat: bool) -> Ran:
    scaled = asked.preset == "smoke" and asked.preset in tasks.entries()[setting.task].presets
    if not scaled and setting.gpu and asked.device == "auto" and not torch.cuda.is_available():
        return Ran(blank=_NO_GPU)
    try:
        problem = _problem(asked, setting, scaled)
        _build_once(problem)
    except LabError as error:
        return Ran(blank=str(error))
    specs, blanks = [], {}
    for method in methods:
        try:
            specs.append(spec(method))
        except LabError as error:
            blanks[method.name] = str(error)
    batch_size = _batch_size(setting, problem, scaled)
    ran = Ran(
        _words(problem, batch_size, "" if scaled else setting.ours, scaled),
        same=not scaled and (asked.preset == "paper" or setting.smoke_epochs is None),
        epochs=problem.epochs,
        maximize=problem.maximize,
        target=problem.target,
        blanks=blanks,
    )
    if not specs:
        return ran
    found = compare(
        problem,
        specs,
        batch_size=batch_size,
        trials=1,
        seeds=asked.seeds,
        out=out,
        storage=asked.storage,
        keep_weights=flat,
        device="cpu" if walked else asked.device,  # where ``walk`` repeats it
        progress=asked.progress,
    )
    if flat:
        ran = _flat(asked, ran, problem, specs, out)
    walks = {}
    if walked and isinstance(problem, Loop):
        walks = {one.name: _walks(problem, one, [record.seed for record in found.records[one.name]]) for one in specs}
    return replace(ran, records=found.records, walks=walks)


def _flat(asked: _Asked, ran: Ran, problem: Problem, specs: Sequence[OptimizerSpec], out: Path) -> Ran:
    """Measure the flatness of the finished runs."""
    device = "cuda" if asked.device != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        found = landscape(
            out,
            task=problem,
            optimizers=specs,
            examples=FLAT_EXAMPLES,
            measures=FLAT,
            storage=asked.storage,
            device=device,
            progress=asked.progress,
        )
    except LabError as error:
        return replace(ran, unmeasured=str(error))
    return replace(ran, flat=found.runs)


def _walks(problem: Loop, chosen: OptimizerSpec, seeds: Sequence[int]) -> tuple[Walk, ...]:
    return tuple(walk(problem, chosen, seed) for seed in seeds)


def _problem(asked: _Asked, setting: Setting, scaled: bool) -> Problem:
    entry, preset = tasks.entries()[setting.task], asked.preset
    folder = None
    if entry.reads_folder and asked.data_dir is not None:
        inside = asked.data_dir / setting.folder
        folder = inside if setting.folder and inside.is_dir() else asked.data_dir
    problem = tasks.load(setting.task, folder, preset if preset in entry.presets else None)
    changes: dict[str, Any] = {}
    if isinstance(problem, Task) and setting.clip is not None:
        changes["clip"] = setting.clip
    if not scaled:
        epochs = setting.epochs if preset == "paper" or setting.smoke_epochs is None else setting.smoke_epochs
        changes |= {} if epochs is None else {"epochs": epochs}
        if isinstance(problem, Task) and setting.schedule is not None:
            changes["schedule"] = setting.schedule
    return replace(problem, **changes)


def _build_once(problem: Problem) -> None:
    """Ask for the model, whose pretrained weights may be missing, before hours of other runs."""
    if isinstance(problem, Task):
        with torch.random.fork_rng():
            problem.build_model()


def _batch_size(setting: Setting, problem: Problem, scaled: bool) -> int:
    examples = len(problem.train) if isinstance(problem, Task) else None
    if setting.batch_size is None or (scaled and setting.examples is None):
        return problem.batch_size or 1
    if examples is None:
        return setting.batch_size
    if not scaled or setting.examples is None:
        return min(setting.batch_size, examples)  # the paper's largest batch is its whole training set
    return min(examples, max(LEAST_BATCH, round(setting.batch_size * examples / setting.examples)))


def _words(problem: Problem, batch_size: int, ours: str, scaled: bool) -> str:
    name = problem.name + (f" ({problem.variant})" if problem.variant else "")
    if isinstance(problem, Loop):
        return f"{name}, {problem.steps(batch_size, problem.epochs):,} steps of batch {batch_size}"
    assert isinstance(problem, Task)
    examples = len(problem.train)
    steps = problem.epochs * (examples // batch_size)
    words = f"{name}, batch {batch_size} of {examples:,} examples, {problem.epochs} epochs, {steps:,} steps"
    clip = "" if problem.clip is None else f", gradient clipped to {problem.clip:g}"
    other = "; another, smaller problem than the paper's" if scaled else f" (set by us: {ours})" if ours else ""
    return f"{words}, {problem.schedule.describe()}{clip}{other}"
