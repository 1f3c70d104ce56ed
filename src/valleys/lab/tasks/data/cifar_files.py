"""Reader of CIFAR-10 and CIFAR-100 in both forms in which they are published: binary files and Python pickles."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.files import check_folder

_NUMPY = {("numpy", "ndarray"), ("numpy", "dtype")}
_NUMPY |= {(f"numpy.{package}.multiarray", "_reconstruct") for package in ("core", "_core")}
_SIDE = 32
_PIXELS = 3 * _SIDE**2


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets."""

    name: str  # as people write it
    classes: int
    folders: tuple[str, str]  # how its archives call their folders: the binary one, the pickled one
    train: tuple[str, ...]  # files, without the binary ones' ending
    test: tuple[str, ...]
    label_bytes: int  # how many bytes precede a record's pixels in the binary form; the last is the class
    key: str  # where a pickle has the classes


CIFAR10 = Cifar(
    name="CIFAR-10",
    classes=10,
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    label_bytes=1,
    key="labels",
)

CIFAR100 = Cifar(
    name="CIFAR-100",
    classes=100,
    folders=("cifar-100-binary", "cifar-100-python"),
    train=("train",),
    test=("test",),
    label_bytes=2,
    key="fine_labels",
)


def read_cifar(kind: Cifar, folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read training images and labels, test images and labels from a folder, or from the folder that this folder is in.

    A binary record is the label (for CIFAR-100 the coarse one, then the fine one), then 1,024 bytes each of red, green
    and blue. A pickle holds the same bytes as an array of shape (N, 3072), and a list of labels. Pickles may hold
    nothing but arrays and plain values: anything else in them is refused before it can run. Where the folder has both
    forms, the binary one is read. Images are uint8 of shape (N, 3, 32, 32), labels int64.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images, and its data sets' web page.
    """
    check_folder(folder, f"name the folder that holds {kind.folders[0]} or {kind.folders[1]}")
    train, test = _paths(kind, folder)
    return *_joined(kind, train), *_joined(kind, test)


def _paths(kind: Cifar, folder: Path) -> tuple[list[Path], list[Path]]:
    lacking = []
    for ending, inner in zip((".bin", ""), kind.folders, strict=True):
        for place in (folder, folder / inner):
            train, test = ([place / (name + ending) for name in names] for names in (kind.train, kind.test))
            missing = [path.name for path in (*train, *test) if not path.is_file()]
            if not missing:
                return train, test
            if len(missing) < len(train) + len(test):
                lacking.append(f"{place} lacks {', '.join(missing)}")
    archives = f"{kind.folders[0]} (binary) or {kind.folders[1]} (Python)"
    if lacking:
        raise LabError(f"{kind.name} is incomplete: {'; '.join(lacking)}; unpack the archive of {archives} again")
    raise LabError(f"the data folder {str(folder)!r} has no {kind.name}; name the folder that holds {archives}")


def _joined(kind: Cifar, paths: list[Path]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*(_read(kind, path) for path in paths), strict=True)
    return torch.cat(images), torch.cat(labels)


def _read(kind: Cifar, path: Path) -> tuple[Tensor, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from error
    pixels, labels = _binary(kind, path, content) if path.suffix == ".bin" else _pickled(kind, path, content)
    for label in (min(labels), max(labels)):
        if not 0 <= label < kind.classes:
            raise _damaged(kind, path, f"it holds the label {label}, {kind.name} has 0 to {kind.classes - 1}")
    return pixels.reshape(-1, 3, _SIDE, _SIDE), torch.tensor(labels)


def _binary(kind: Cifar, path: Path, content: bytes) -> tuple[Tensor, list[int]]:
    record = kind.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise _damaged(kind, path, f"it holds {len(content)} bytes, no multiple of the {record} of an image")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, record)
    return records[:, kind.label_bytes :], records[:, kind.label_bytes - 1].tolist()


def _pickled(kind: Cifar, path: Path, content: bytes) -> tuple[Tensor, list[int]]:
    try:
        loaded = _Arrays(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly everything there is
        raise _damaged(kind, path, f"it cannot be unpickled ({error or type(error).__name__})") from error
    entries = {_text(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}
    missing = [key for key in ("data", kind.key) if key not in entries]
    if missing:
        raise _damaged(kind, path, f"it has no entry {' and no '.join(map(repr, missing))}")
    pixels, labels = _pixels(entries["data"]), entries[kind.key]
    if pixels is None:
        raise _damaged(kind, path, f"its images are no array of uint8 of shape (N, {_PIXELS})")
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise _damaged(kind, path, "its labels are not a list of integers")
    if len(pixels) != len(labels):
        raise _damaged(kind, path, f"it holds {len(pixels)} images but {len(labels)} labels")
    return pixels, labels


def _pixels(data: Any) -> Tensor | None:
    """Return the array that a pickle describes; None if it is not one of images."""
    try:
        _, shape, dtype, is_transposed, content = data.state
        if dtype.arguments[0] not in ("u1", b"u1") or shape != (len(content) // _PIXELS, _PIXELS) or not content:
            return None
        pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return pixels.reshape(_PIXELS, -1).T if is_transposed else pixels.reshape(-1, _PIXELS)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return None


class _Described:
    """Description of an array or its type in a pickle: numpy itself crashes on a damaged one."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Arrays(pickle._Unpickler):
    """An unpickler that knows nothing but descriptions of arrays.

    It is the one in Python: that in C takes 20 GB where a damaged byte gives an object a large number in its memo.
    """

    dispatch: ClassVar = {op: f for op, f in pickle._Unpickler.dispatch.items() if op != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> Any:
        """Return stand-ins for numpy's functions under all their names; never import what the file names."""
        if (module, name) in _NUMPY:
            return lambda *arguments: _Described(*arguments)
        if (module, name) == ("_codecs", "encode"):
            return lambda *arguments: _encode(*arguments)  # how Python 3 writes bytes for Python 2
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no part of CIFAR")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it wants the encoding {encoding!r}, which is no part of CIFAR")
    return text.encode("latin1")


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _damaged(kind: Cifar, path: Path, reason: str) -> LabError:
    return LabError(f"{path} is not a sound file of {kind.name}: {reason}; unpack the archive again")
