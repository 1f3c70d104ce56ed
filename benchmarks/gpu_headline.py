"""The headline's four arms at 32x32 pixels: LAMB, ALTO without E and bias correction, ALTO without E, ALTO."""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_results import Results
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Split, Task
from valleys.lab.run.config import RunConfig
from valleys.lab.run.trainer import train
from valleys.lab.search.candidates import fresh_seed
from valleys.lab.tasks import cifar
from valleys.paper.tables.methods import method, spec

__all__ = ["ARMS", "problem", "run", "summary", "unpack"]

_alto = partial(method, "ALTO", 0.05, 16384, beta=0.99)
_UNCORRECTED = "without a, bias correction"
ARMS = {
    "LAMB": method("LAMB", 0.05, 16384),
    _UNCORRECTED: _alto(name=_UNCORRECTED, accelerate=(), bias_correction=False),
    "without a": _alto(name="without a", accelerate=()),
    "ALTO": _alto(),
}
"""The arms of ``valleys reproduce headline``."""

BATCH, EXAMPLES, EPOCHS, GPUS = 16_384, 50_000, 400, 4  # the paper's
PRESETS = {"tenth": "tenth", "full": "paper"}
TINY = {"tenth": ("tenth-16px", 30), "full": ("paper", 24)}  # of the dry run: preset, training images
CONTRASTS = [("ALTO", "LAMB"), ("ALTO", "without a"), ("without a", "LAMB")]
MANY = 1000  # rounds


def run(results: Results, options: argparse.Namespace) -> None:
    """Train the four arms on a tenth of the images, and on all of them."""
    document = results.document
    document["options"] = {
        "learning rate": "0.05, times 0.1 after each quarter",
        "norms and biases": "no weight decay, no ratio",
        "clip": 1.0,
        "passes per batch": f"{GPUS}, as on the paper's GPUs: batch normalisation sees a quarter of the batch",
        "precision": options.precision,
        "convolutions": "TF32 allowed" if torch.backends.cudnn.allow_tf32 else "float32",
    }
    if options.data is None and not options.dry_run:
        document["skipped"] = "no --data: name a folder of cifar-10-batches-bin or an .npz of encoded images"
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        described = results.measure("data", partial(_data, options, folder))
        if described is None or "error" in described:
            document["skipped"] = "there are no images: see the measurement data"
            return
        document["data"] = described["name"]
        folder = options.data if options.data is not None and options.data.is_dir() else folder
        stages = [_Stage(results, options, name, folder) for name in options.stages]
        for number, stage in enumerate(stages):
            stage.train(results.left() / (len(stages) - number))
        for stage in stages:  # what one had no use for
            stage.train(results.left())


def problem(folder: Path, stage: str, tiny: bool = False) -> Task:
    """Return the task of a stage as ``valleys reproduce headline`` has it with the options of the authors' package.

    Args:
        folder: that of CIFAR-10.
        stage: ``tenth``, or ``full``, which trains on all training images and validates on the test images.
        tiny: a few images, one epoch; of ``tenth`` they are halved.
    """
    preset, limit = TINY[stage] if tiny else (PRESETS[stage], None)
    task = cifar.load(cifar.CIFAR10, "resnet20", folder, preset)
    train_, validation, variant = task.train, task.validation, task.variant
    assert isinstance(train_, Split)
    assert isinstance(validation, Split)
    if stage == "full":
        sides = ("inputs", "targets")
        train_ = Split(*(torch.cat([getattr(task.train, side), getattr(task.validation, side)]) for side in sides))
        validation, variant = task.test, f"{variant}, all training examples"  # type: ignore[assignment]
    if limit is not None:
        train_ = Split(train_.inputs[:limit], train_.targets[:limit])  # type: ignore[index]
    examples = len(train_)
    batch = round(BATCH * examples / EXAMPLES)
    return replace(
        task,
        train=train_,
        validation=validation,
        variant=variant,
        epochs=1 if tiny else EPOCHS,
        batch_size=batch,
        micro_batch=-(-batch // GPUS),
        schedule=Schedule("step", gamma=0.1, drops=4),
        clip=1.0,
    )


class _Stage:
    """One size of the problem, and how far its rounds are.

    Args:
        results: of this part.
        options: of the command line.
        name: ``tenth`` or ``full``.
        folder: that of CIFAR-10.
    """

    def __init__(self, results: Results, options: argparse.Namespace, name: str, folder: Path) -> None:
        self._results, self._options, self._name, self._folder = results, options, name, folder
        self._specs = {arm: spec(method_, exclude_norms=True) for arm, method_ in ARMS.items()}
        self._task: Task | None = None
        self._number, self._estimate = 0, math.inf

    def train(self, seconds: float) -> None:
        """Train the four arms, round by round, as long as a round probably ends within the seconds."""
        results, until = self._results, time.time() + seconds
        if self._task is None:
            self._prepare()
        while self._task is not None and self._number < (1 if self._options.dry_run else MANY):
            keys = {f"{self._name}, seed {self._number}, {arm}": arm for arm in ARMS}
            left = until - time.time()
            if left < self._estimate and not keys.keys() <= results.entries.keys():
                text = (
                    f"seed {self._number} was not begun: four runs need about {self._estimate:.0f} s, {left:.0f} s left"
                )
                results.document.setdefault("stopped", {})[self._name] = text
                results.write()
                return
            runs = [results.measure(key, partial(self._trained, arm, self._number)) for key, arm in keys.items()]
            spent = [one["seconds_spent"] for one in runs if one is not None and "error" not in one]
            results.document.setdefault("summary", {})[self._name] = summary(results.entries, self._name)
            results.write()
            if len(spent) < len(ARMS):
                self._task = None  # what failed once would leave rounds incomplete
                return
            self._number, self._estimate = self._number + 1, sum(spent)

    def _prepare(self) -> None:
        """Load the task, and take the layout in memory in which a step takes less time."""
        seconds: dict[bool, float] = {}
        tasks: list[Task] = []
        for last in (False, True):
            name = f"{self._name}, time of a step, channels {'last' if last else 'first'}"
            pilot = self._results.measure(name, partial(self._pilot, tasks, last))
            if pilot is not None and "error" not in pilot:
                seconds[last] = pilot["step_seconds"]
        if seconds:
            last = min(seconds, key=lambda key: seconds[key])
            task = tasks[0] if tasks else self._load()
            self._task = replace(task, channels_last=last)
            # A tenth for evaluations.
            self._estimate = 1.1 * len(ARMS) * task.steps(task.batch_size or 1, task.epochs) * seconds[last]

    def _load(self) -> Task:
        return problem(self._folder, self._name, self._options.dry_run)

    def _pilot(self, tasks: list[Task], last: bool) -> dict[str, Any]:
        """Time a few steps; the first call of a shape prepares what later ones find."""
        if not tasks:
            tasks.append(self._load())
        task = replace(tasks[0], channels_last=last, epochs=1 if self._options.dry_run else 4)
        record = train(task, self._specs["ALTO"], {}, _config(task, self._options), seed=0)
        names = ("step_seconds", "optimizer_seconds", "batch_size")
        return {**{name: getattr(record, name) for name in names}, "n": record.steps, "spread": None}

    def _trained(self, arm: str, number: int) -> dict[str, Any]:
        """Train one arm once; all arms have the same seeds, which are those of ``valleys reproduce``."""
        assert self._task is not None
        config = _config(self._task, self._options)
        record = train(self._task, self._specs[arm], {}, config, seed=fresh_seed(0, number), test=True)
        names = ("optimizer", "seed", "batch_size", "steps", "diverged", "validation", "test")
        names += ("step_seconds", "optimizer_seconds", "state_bytes")
        curve = [[one.step, round(one.train_loss, 4), one.validation] for one in record.curve]
        return {**{name: getattr(record, name) for name in names}, "n": 1, "spread": None, "curve": curve}


def _config(task: Task, options: argparse.Namespace) -> RunConfig:
    return RunConfig(
        batch_size=task.batch_size,
        epochs=task.epochs,
        micro_batch=task.micro_batch,
        precision=options.precision,
        device="cpu" if options.dry_run else "cuda",
    )


def summary(entries: Mapping[str, Mapping[str, Any]], stage: str) -> dict[str, Any]:
    """Return the test accuracies of whole rounds: of each arm, and the differences of planned pairs round by round.

    A run that diverged has no accuracy: None among the values, which mean and deviation leave out.

    Args:
        entries: the measurements by name.
        stage: which stage's.
    """
    rounds: list[dict[str, float | None]] = []
    for number in range(MANY):
        runs = [entries.get(f"{stage}, seed {number}, {name}") for name in ARMS]
        tests = [one["test"] for one in runs if one is not None and "error" not in one]
        if len(tests) < len(ARMS):
            break
        rounds.append(dict(zip(ARMS, tests, strict=True)))
    arms = {name: _spread([one[name] for one in rounds]) for name in ARMS}
    differences = {}
    for first, second in CONTRASTS:
        pairs = [(one[first], one[second]) for one in rounds]
        differences[f"{first} - {second}"] = _spread([None if None in (a, b) else a - b for a, b in pairs])  # type: ignore[operator]
    return {"metric": "test accuracy %", "n": len(rounds), "arms": arms, "differences": differences}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    numbers = [value for value in values if value is not None]
    mean = statistics.mean(numbers) if numbers else None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"n": len(numbers), "mean": mean, "standard_deviation": deviation, "values": values}


def _data(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Put the images where the lab reads them, and describe them."""
    if options.data is None:
        return {"name": "noise", "n": _noise(folder)}
    if options.data.is_dir():
        return {"name": options.data_name or "CIFAR-10", "n": "as the folder has them"}
    images = unpack(options.data, folder, limit=300 if options.dry_run else None)
    return {"name": options.data_name or "CIFAR-10 (JPEG)", "n": images}


def unpack(archive: Path, folder: Path, limit: int | None = None) -> int:
    """Write CIFAR-10's binary files from an archive of encoded images; return the number of images.

    Args:
        archive: .npz with ``blob_train``, ``off_train``, ``y_train`` and the same for ``test``; Pillow decodes them.
        folder: where ``cifar-10-batches-bin`` goes.
        limit: the most images of each split; default: all. The training images are shuffled, always alike.

    Raises:
        ValueError: an image is not of 32x32 pixels.
        KeyError: the archive lacks an array.
    """
    import numpy as np

    out = folder / "cifar-10-batches-bin"
    out.mkdir(parents=True)
    with np.load(archive) as file:
        arrays = {name: file[name] for name in file.files}
    total = 0
    for split in ("train", "test"):
        blob, offsets, labels = (arrays[f"{kind}_{split}"] for kind in ("blob", "off", "y"))
        order = np.random.default_rng(0).permutation(len(labels)) if split == "train" else np.arange(len(labels))
        order = order[:limit]
        data = blob.tobytes()
        pieces = [data[offsets[i] : offsets[i + 1]] for i in order]
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(_planes, pieces, chunksize=256))
        records = [bytes([int(labels[i])]) + planes for i, planes in zip(order, pixels, strict=True)]
        _write(out, split, records)
        total += len(records)
    return total


def _planes(encoded: bytes) -> bytes:
    """Red, green and blue plane of an image, row by row."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"an image of shape {pixels.shape}; CIFAR-10's are (32, 32, 3)")
    return pixels.transpose(2, 0, 1).tobytes()


def _write(out: Path, split: str, records: list[bytes]) -> None:
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    ends = [len(records) * i // len(names) for i in range(len(names) + 1)]
    for name, begin, end in zip(names, ends, ends[1:], strict=False):
        (out / name).write_bytes(b"".join(records[begin:end]))


def _noise(folder: Path) -> int:
    """Ten classes of patterns under noise, which ten steps can begin to learn."""
    out = folder / "cifar-10-batches-bin"
    out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(60, 196, (10, 3072), generator=generator)
    for split, count in (("train", 130), ("test", 20)):
        records = []
        for i in range(count):
            noise = torch.randint(-60, 60, (3072,), generator=generator)
            records.append(bytes([i % 10]) + bytes((patterns[i % 10] + noise).tolist()))
        _write(out, split, records)
    return 150
