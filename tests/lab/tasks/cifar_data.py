"""Small data sets in the forms of CIFAR, whose images say their numbers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.data.cifar_files import Cifar
from valleys.lab.tasks.table import ENTRIES


def examples(count: int, first: int, classes: int) -> tuple[np.ndarray, list[int]]:
    """Images whose first two bytes are their number, the other bytes noise; labels in turn."""
    pixels = np.random.default_rng(first).integers(0, 256, (count, 3072), dtype=np.uint8)
    numbers = first + np.arange(count)
    pixels[:, 0], pixels[:, 1] = numbers // 256, numbers % 256
    return pixels, [int(number) % classes for number in numbers]


def parts(kind: Cifar, per_file: int, tests: int) -> dict[str, tuple[np.ndarray, list[int]]]:
    files = {name: examples(per_file, i * per_file, kind.classes) for i, name in enumerate(kind.train)}
    return {**files, kind.test[0]: examples(tests, 60_000, kind.classes)}


def write_binary(kind: Cifar, folder: Path, per_file: int = 40, tests: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in parts(kind, per_file, tests).items():
        coarse = np.full((len(labels), kind.label_bytes - 1), 19, dtype=np.uint8)
        records = np.concatenate([coarse, np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_pickles(kind: Cifar, folder: Path, per_file: int = 40, tests: int = 20, protocol: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in parts(kind, per_file, tests).items():
        content: dict[bytes, Any] = {b"batch_label": name.encode(), kind.key.encode(): labels, b"data": pixels}
        content[b"coarse_labels"] = [0] * len(labels)
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def numbers(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1].int()).tolist()


def load(folder: Path, name: str = "cifar10-resnet20", preset: str = "paper") -> Task:
    task = ENTRIES[name].load(folder, preset)
    assert isinstance(task, Task)
    return task


def in_memory(task: Task) -> list[tuple[Tensor, Tensor]]:
    splits = []
    for split in (task.train, task.validation, task.test):
        assert isinstance(split, Split)
        assert isinstance(split.inputs, Tensor)
        assert isinstance(split.targets, Tensor)
        splits.append((split.inputs, split.targets))
    return splits
