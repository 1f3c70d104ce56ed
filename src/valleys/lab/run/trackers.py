"""Runs as they go in TensorBoard, MLflow and Weights & Biases.

The packages are called directly. Accelerate's trackers rest on its global ``PartialState``, a second owner of the
launch beside ``valleys.lab.run.ranks``, and log into MLflow's one active run, which is the user's.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote

from valleys.lab.errors import LabError, unknown
from valleys.lab.record import Evaluation, Record

PROJECT = "valleys"
"""MLflow's experiment and W&B's project, unless MLFLOW_EXPERIMENT_NAME or WANDB_PROJECT says otherwise."""

Observe: TypeAlias = Callable[[Evaluation | Record], None]
"""Hears of every evaluation of a run, and of its end."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}

NAMES = tuple(_MODULES)
"""Names that ``tracker`` knows."""


def check(names: Sequence[str]) -> None:
    """Raise LabError for trackers that are unknown, named twice or not installed, before any work.

    Example:
        >>> check(["tensorbord"])
        Traceback (most recent call last):
        ...
        valleys.lab.errors.LabError: unknown tracker 'tensorbord'; did you mean tensorboard? Choices:
        tensorboard, mlflow, wandb
    """
    for name in names:
        if name not in NAMES:
            raise unknown("tracker", name, NAMES)
        if list(names).count(name) > 1:
            raise LabError(f"tracker {name!r} is named {list(names).count(name)} times; name each once")
        _module(name)


def run_name(optimizer: str, phase: str, point: int, seed: int) -> str:
    """Return the trackers' name of a run, another for every run of a comparison.

    Example:
        >>> run_name("alto", "final", 3, 1000)
        'alto-final-3-1000'
    """
    return f"{optimizer}-{phase}-{point}-{seed}"


@contextmanager
def tracker(
    names: Sequence[str], folder: Path | str, run_name: str, configuration: Mapping[str, Any]
) -> Iterator[Observe]:
    """Follow one run; yield an ``observe`` for its evaluations and, at the end, its record.

    A run that is made again takes the place of TensorBoard's curve from where it begins; in the others it is a second
    run of that name.

    TensorBoard writes into ``folder/tensorboard/RUN``. MLflow logs to where MLFLOW_TRACKING_URI or
    ``mlflow.set_tracking_uri`` says, otherwise to the SQLite file ``folder/mlflow.db``. W&B stays offline, with its
    files in ``folder/wandb``, unless WANDB_MODE says otherwise; ``wandb sync`` sends them.

    A tracker that fails while the run is under way is dropped with a warning: it must not cost the run. In a launch of
    several processes rank 0 alone has names to give.

    Raises:
        LabError: see ``check``; a tracker that cannot begin.

    Example:
        >>> with tracker([], "runs/example", "alto-final-3-1000", {"lr": 0.01}) as observe:
        ...     observe(Evaluation(step=10, seconds=1.0, train_loss=0.5, validation=90.0))
    """
    check(names)
    open_: dict[str, _Tracker] = {}
    failed = True

    def each(what: Callable[[_Tracker], None]) -> None:
        for name in list(open_):
            try:
                what(open_[name])
            except Exception as error:  # whatever a logger's network or disk may raise
                del open_[name]
                warnings.warn(f"{name} stopped logging {run_name}: {error}", RuntimeWarning, stacklevel=2)

    def observe(seen: Evaluation | Record) -> None:
        if isinstance(seen, Record):
            numbers = _outcome(seen)
            each(lambda one: one.log(numbers, seen.steps, last=True))
        else:
            numbers = {
                "loss/train": seen.train_loss,
                "metric/validation": seen.validation,
                "time/seconds": seen.seconds,
            }
            each(lambda one: one.log(numbers, seen.step, last=False))

    try:
        for name in names:
            try:
                open_[name] = _BEGIN[name](Path(folder), run_name, configuration)
            except Exception as error:
                raise LabError(f"{name} cannot begin to log {run_name}: {error}; leave it out or mend this") from error
        yield observe
        failed = False
    finally:
        each(lambda one: one.close(failed))


class _Tracker(Protocol):
    def log(self, numbers: Mapping[str, float], step: int, last: bool) -> None: ...

    def close(self, failed: bool) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, run_name: str, configuration: Mapping[str, Any]) -> None:
        self._folder = folder / "tensorboard" / quote(run_name, safe="")  # module:callable is no name for a folder
        self._configuration = configuration
        self._writer: Any = None

    def log(self, numbers: Mapping[str, float], step: int, last: bool) -> None:
        if self._writer is None:
            # Only now is it known from where on this run repeats an earlier one that was cut off.
            self._writer = _module("tensorboard").SummaryWriter(str(self._folder), purge_step=step)
            text = json.dumps(dict(self._configuration), indent=2, default=str)
            self._writer.add_text("configuration", f"```\n{text}\n```", step)
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _MLflow:
    def __init__(self, folder: Path, run_name: str, configuration: Mapping[str, Any]) -> None:
        mlflow = self._mlflow = _module("mlflow")
        local = not mlflow.is_tracking_uri_set()
        if local:
            folder.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}" if local else None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        entry = self._client.get_experiment_by_name(name)
        place = (folder.resolve() / "mlflow").as_uri() if local else None
        experiment = entry.experiment_id if entry else self._client.create_experiment(name, artifact_location=place)
        self._run: str = self._client.create_run(experiment, run_name=run_name).info.run_id
        entries = [mlflow.entities.Param(key, str(value)) for key, value in configuration.items()]
        self._client.log_batch(self._run, params=entries)

    def log(self, numbers: Mapping[str, float], step: int, last: bool) -> None:
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(name, number, now, step) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class _WandB:
    def __init__(self, folder: Path, run_name: str, configuration: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)  # else W&B takes a temporary folder
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = _module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder),
            name=run_name,
            config=dict(configuration),
            mode=mode,
            reinit="create_new",  # a run of the user's own stays open
            settings={"console": "off", "silent": mode == "offline"},  # a comparison makes hundreds of runs
        )

    def log(self, numbers: Mapping[str, float], step: int, last: bool) -> None:
        if last:
            self._run.summary.update(dict(numbers))
        else:
            self._run.log(dict(numbers), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


_BEGIN: Mapping[str, Callable[[Path, str, Mapping[str, Any]], _Tracker]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _WandB,
}


def _module(name: str) -> ModuleType:
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise LabError(
            f"the tracker {name} needs a package that is not installed ({error}); pip install {name}"
        ) from error


def _outcome(record: Record) -> dict[str, float]:
    """The numbers of a finished run that it has."""
    numbers = {
        "final/validation": record.validation,
        "final/test": record.test,
        "final/steps_to_target": record.steps_to_target,
        "final/seconds_to_target": record.seconds_to_target,
        "final/step_seconds": record.step_seconds,
        "final/optimizer_seconds": record.optimizer_seconds,
        "final/diverged": float(record.diverged),
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}
