"""Repeat a table or figure of the paper: one comparison per problem, with the paper's hyperparameters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from valleys.lab import tasks
from valleys.lab.comparison import compare
from valleys.lab.config import DEVICES, ComparisonConfig
from valleys.lab.errors import LabError, typed, unknown
from valleys.lab.landscape import LandscapeConfig, landscape
from valleys.lab.optimizers.spec import OptimizerSpec
from valleys.lab.problem.loop import Loop
from valleys.lab.problem.task import Problem, Split, Task
from valleys.lab.run.config import check_device
from valleys.lab.run.ranks import joined
from valleys.lab.settings import documented, option
from valleys.paper import memory, render
from valleys.paper.results import Outcome, Ran, Reproduction, beside, blank, contrasts, outcome
from valleys.paper.tables import numbers
from valleys.paper.tables.methods import spec
from valleys.paper.tables.model import FLAT, Cell, Method, Setting
from valleys.paper.walks.endpoints import walk

__all__ = ["PRESETS", "ReproductionConfig", "reproduce"]

SHARES = ("tenth", "fortieth", "tenth-16px", "fortieth-16px")
PRESETS = ("smoke", "paper", *SHARES)
"""``paper`` is the paper's model, data, length, batch and schedule; ``tenth`` and ``fortieth`` are the same with that
share of CIFAR's images and of the batch, with images of 16x16 pixels where they end in ``16px``; ``smoke`` is a smaller
problem of the same kind, which takes minutes on two cores and tests nothing but that it runs, and which way the
differences point."""

_FLAT_EXAMPLES = 256  # training examples whose loss has the Hessian of Figure 3
_LEAST_BATCH = 32  # examples per step of a smaller problem, at least


@documented
@dataclass(frozen=True, kw_only=True)
class ReproductionConfig:
    """Settings of a reproduction.

    Raises:
        LabError: an unknown preset or device, a device that is not there, or fewer than one seed or epoch.
    """

    preset: str = option(PRESETS[0], f"smoke (a smaller problem), paper, or of CIFAR {', '.join(SHARES)}.")
    only: str | None = option(None, "Rows, by the words they begin with, such as CIFAR-10,ImageNet; default: all.")
    columns: str | None = option(None, "Columns, which are mostly optimizers, such as LAMB,ALTO; default: all.")
    seeds: int = option(3, "Runs of each optimizer on each problem; the paper's tables are means of 3.")
    epochs: int | None = option(None, "Length of a run; with another than the paper's it is no test of the paper.")
    data_dir: Path | str | None = option(None, "Folder of the data.", flag="--data", cli=Path | None)
    exclude_norms: bool = option(False, "No weight decay and no ratio for norms and biases, as the authors' package.")
    clip: float | None = option(None, "Largest norm of the gradient; the authors' package has 1. Default: the paper's.")
    keep_last_batch: bool = option(
        False, "Use the last batch of an epoch though it is smaller: 1,600 steps, not 1,200."
    )
    storage: str | None = option(None, "Optuna storage URL; default: SQLite in --out.", secret=True)
    device: str = option("auto", "auto, cpu or cuda; what is hopeless without a GPU runs without one only for cpu.")

    def __post_init__(self) -> None:
        typed(self)
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)
        for name in ("seeds", "epochs"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise LabError(f"{name} must be at least 1, not {number}")
        if self.clip is not None and self.clip <= 0:
            raise LabError(f"clip must be a number above 0, not {self.clip}")
        check_device(self.device, DEVICES)


def reproduce(
    number: str,
    config: ReproductionConfig | None = None,
    *,
    out: Path | str,
    progress: bool | None = None,
    **settings: Any,
) -> Reproduction:
    r"""Repeat a table or figure of the paper.

    Each problem is one comparison in a folder of its own, with nothing to tune: it goes on where it was interrupted,
    and other workers that make the same call share its runs. Preset ``smoke`` takes the task's own smoke preset, the
    paper's optimizers and hyperparameters, and a batch with as large a share of the training set as the paper's,

    .. math:: B' = \min(N', \max(32, \operatorname{round}(B N' / N)))

    so that an epoch has as many steps. What cannot run is left blank, with the reason.

    Args:
        number: such as ``table-3``; see ``numbers.find``.
        config: all settings. Where several data sets are needed, ``data_dir`` may hold CIFAR's own folders and folders
            ``imagenet``, ``gpt2``, ``conll2003``, ``imdb`` and ``mrpc``.
        out: folder of ``reproduce.md``, ``reproduce.json`` and the comparisons.
        progress: whether to show a progress bar; default: where stderr is a terminal.
        settings: fields of ``ReproductionConfig``, in place of ``config`` or of its values.

    Returns:
        The paper's numbers beside ours.

    Raises:
        LabError: an unknown table, row, column, preset or device, seeds or epochs below 1, settings of the training
            where nothing is trained, or a folder that holds other runs.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = reproduce("table-1", only="-g_k", out=folder)
        >>> [(one.cell.column, one.cell.value, one.mean) for one in found.outcomes]
        [('1-2', -1.0, -1.0), ('2-3', -1.0, -1.0), ('3-4', 1.0, 1.0), ('4-5', 1.0, 1.0)]

    Source: Zhao et al. 2025 (arXiv 2510.27153).
    """
    table = numbers.find(number)
    config = replace(config or ReproductionConfig(), **settings)
    rows = table.rows if config.only is None else numbers.rows(table, config.only)
    columns = table.columns if config.columns is None else numbers.columns(table, config.columns)
    cells = [cell for cell in table.cells if cell.row in rows and cell.column in columns]
    problems, folder = _problems(cells), Path(out)
    if cells and not problems:
        _check_unused(config, table.number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"--out {str(folder)!r} cannot be made ({error.strerror}); choose another folder") from error
    ran, reports = {}, []
    for setting, methods in problems.items():
        place = folder / _name(setting, config)
        measures = {cell.measure for cell in cells if cell.setting == setting}
        ran[setting] = _run(_Experiment(config, setting, progress), methods, place, measures)
        if ran[setting].records:
            reports.append(place)
    alone: dict[str, Callable[[Cell], Outcome]] = {"memory": partial(_memory, preset=config.preset), "sign": _sign}
    outcomes = tuple(alone[cell.measure](cell) if cell.measure in alone else outcome(cell, ran) for cell in cells)
    result = Reproduction(
        table,
        config.preset,
        config.seeds,
        config.epochs,
        outcomes,
        contrasts(table, outcomes),
        {cell.row: ran[cell.setting].problem for cell in cells if cell.setting and ran[cell.setting].problem},
        {"markdown": folder / "reproduce.md", "json": folder / "reproduce.json"},
        tuple(reports),
    )
    with joined() as ranks:
        ranks.decide(lambda: render.write(result))
    return result


def _check_unused(config: ReproductionConfig, number: str) -> None:
    """Refuse settings of the training where nothing is trained."""
    names = ("seeds", "epochs", "exclude_norms", "clip", "keep_last_batch")
    if unused := [name for name in names if getattr(config, name) != getattr(ReproductionConfig, name)]:
        raise LabError(f"{number} trains nothing, so that this has no effect: leave out {', '.join(unused)}")


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


def _problems(cells: Sequence[Cell]) -> dict[Setting, list[Method]]:
    """Each problem once, with each of its optimizers once."""
    problems: dict[Setting, dict[Method, None]] = {}
    for cell in cells:
        for setting, method in cell.runs():
            problems.setdefault(setting, {})[method] = None
    return {setting: list(methods) for setting, methods in problems.items()}


def _name(setting: Setting, config: ReproductionConfig) -> str:
    """A folder for a problem, another one for any other hyperparameters, which the comparison itself cannot see.

    The optimizers of all tables count, so that tables with a problem in common share its runs.
    """
    methods = {
        method for table in numbers.TABLES for cell in table.cells for at, method in cell.runs() if at == setting
    }
    length = () if config.epochs is None else (config.epochs,)
    options = (config.exclude_norms, config.clip, config.keep_last_batch, *length)
    mark = hashlib.sha256(repr((setting, config.preset, options, sorted(map(repr, methods)))).encode()).hexdigest()[:8]
    size = "" if setting.batch_size is None else f"-{setting.batch_size}"
    return f"{setting.task}{size}-{config.preset}-{mark}"


@dataclass(frozen=True)
class _Experiment:
    """A problem of the paper, in this preset and on this machine."""

    config: ReproductionConfig
    setting: Setting
    progress: bool | None

    @property
    def short(self) -> bool:
        """True for the task's smoke preset, another problem than the paper's and another length."""
        return self.config.preset == "smoke" and "smoke" in tasks.entries()[self.setting.task].presets

    @property
    def scaled(self) -> bool:
        """True for a smaller problem than the paper's."""
        return self.short or self.config.preset in SHARES

    def problem(self) -> Problem:
        config, setting = self.config, self.setting
        entry, preset, folder = tasks.entries()[setting.task], config.preset, None
        if entry.reads_folder and config.data_dir is not None:
            inside = Path(config.data_dir) / setting.folder
            folder = inside if setting.folder and inside.is_dir() else Path(config.data_dir)
        if preset in SHARES and preset not in entry.presets:
            raise LabError(f"the task {setting.task} has no preset {preset}")
        problem = tasks.load(setting.task, folder, preset if preset in entry.presets else None)
        changes: dict[str, Any] = {}
        if isinstance(problem, Task):
            changes |= {"clip": setting.clip if config.clip is None else config.clip}
            changes |= {"drop_last": False} if config.keep_last_batch else {}
            if preset == "paper" and setting.examples == len(problem.train) + len(problem.validation):
                changes |= _all_training(problem)
        if not self.short:
            epochs = setting.epochs if preset == "paper" or setting.smoke_epochs is None else setting.smoke_epochs
            changes |= {} if epochs is None else {"epochs": epochs}
            if isinstance(problem, Task) and setting.schedule is not None:
                changes["schedule"] = setting.schedule
        return replace(problem, **changes)

    def batch_size(self, problem: Problem) -> int:
        setting = self.setting
        examples = len(problem.train) if isinstance(problem, Task) else None
        if setting.batch_size is None or (self.scaled and setting.examples is None):
            return problem.batch_size or 1
        if examples is None:
            return setting.batch_size
        if not self.scaled or setting.examples is None:
            return min(setting.batch_size, examples)  # the paper's largest batch is its whole training set
        return min(examples, max(_LEAST_BATCH, round(setting.batch_size * examples / setting.examples)))

    def words(self, problem: Problem, length: int) -> str:
        """Describe the problem: data, batch, length, schedule; ``length`` is its own, in epochs."""
        batch_size = self.batch_size(problem)
        name = problem.name + (f" ({problem.variant})" if problem.variant else "")
        cut = "" if problem.epochs == length else f"; --epochs {problem.epochs} in place of {length}"
        if isinstance(problem, Loop):
            return f"{name}, {problem.steps(batch_size, problem.epochs):,} steps of batch {batch_size}{cut}"
        assert isinstance(problem, Task)
        steps = f"{problem.epochs} epochs, {problem.steps(batch_size, problem.epochs):,} steps"
        words = f"{name}, batch {batch_size} of {len(problem.train):,} examples, {steps}"
        clip = "" if problem.clip is None else f", gradient clipped to {problem.clip:g}"
        clip += ", norms and biases without weight decay and ratio" * self.config.exclude_norms
        remark = f" (set by us: {self.setting.ours})" if self.setting.ours else ""
        other = "; another, smaller problem than the paper's" if self.scaled else remark
        return f"{words}, {problem.schedule.describe()}{clip}{cut}{other}"


def _run(experiment: _Experiment, methods: Sequence[Method], out: Path, measures: Set[str]) -> Ran:
    """Compare the methods on one problem, and measure flatness and endpoints where cells want them."""
    config, setting = experiment.config, experiment.setting
    if not experiment.scaled and setting.gpu and config.device == "auto" and not torch.cuda.is_available():
        return Ran(blank="needs a GPU; --device cpu runs it all the same")
    try:
        problem = experiment.problem()
        _build_once(problem)
    except LabError as error:
        return Ran(blank=str(error))
    length = problem.epochs
    problem = replace(problem, epochs=length if config.epochs is None else config.epochs)
    specs, blanks = [], {}
    for method in methods:
        try:
            specs.append(spec(method, config.exclude_norms))
        except LabError as error:
            blanks[method.name] = str(error)
    ran = Ran(
        experiment.words(problem, length),
        same=not experiment.scaled
        and problem.epochs == length
        and (config.preset == "paper" or setting.smoke_epochs is None),
        epochs=problem.epochs,
        maximize=problem.maximize,
        target=problem.target,
        blanks=blanks,
    )
    if not specs:
        return ran
    walked, flat = "walk" in measures, bool(measures & set(FLAT))
    comparison = compare(
        problem,
        ComparisonConfig(
            optimizers=specs,
            batch_size=experiment.batch_size(problem),
            rounds=1,
            trials=1,
            seeds=config.seeds,
            storage=config.storage,
            keep_weights=flat,
            device="cpu" if walked else config.device,  # where ``walk`` repeats it
        ),
        out=out,
        progress=experiment.progress,
    )
    if flat:
        ran = _flat(experiment, ran, problem, specs, out)
    walks = {}
    if walked and isinstance(problem, Loop):
        walks = {s.name: tuple(walk(problem, s, run.seed) for run in comparison.records[s.name]) for s in specs}
    return replace(ran, records=comparison.records, walks=walks)


def _flat(experiment: _Experiment, ran: Ran, problem: Problem, specs: Sequence[OptimizerSpec], out: Path) -> Ran:
    """Measure the flatness of the finished runs."""
    config = LandscapeConfig(
        examples=_FLAT_EXAMPLES,
        measures=FLAT,
        storage=experiment.config.storage,
        device="cuda" if experiment.config.device != "cpu" and torch.cuda.is_available() else "cpu",
    )
    try:
        measured = landscape(out, config, task=problem, optimizers=specs, progress=experiment.progress)
    except LabError as error:
        return replace(ran, unmeasured=str(error))
    return replace(ran, flat=measured.runs)


def _all_training(task: Task) -> dict[str, Any]:
    """Return the changes by which a task trains on what it held out, too, as the paper does: nothing is selected here.

    Its curves are then of the test examples, as the paper's are.
    """
    if not (isinstance(task.train, Split) and isinstance(task.validation, Split)):
        return {}
    inputs, targets = (
        torch.cat([getattr(task.train, side), getattr(task.validation, side)]) for side in ("inputs", "targets")
    )
    variant = ", ".join(filter(None, [task.variant, "all training examples"]))
    return {"train": Split(inputs, targets), "validation": task.test, "variant": variant}


def _build_once(problem: Problem) -> None:
    """Ask for the model, whose pretrained weights may be missing, before hours of other runs."""
    if isinstance(problem, Task):
        with torch.random.fork_rng():
            problem.build_model()
