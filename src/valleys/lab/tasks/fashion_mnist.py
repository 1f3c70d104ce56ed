"""Fashion-MNIST: clothes of 28x28 pixels, at full size, on a network that a laptop trains in seconds."""

from __future__ import annotations

import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.data.files import check_folder
from valleys.lab.tasks.data.idx import read_idx
from valleys.lab.tasks.entry import STANDARD
from valleys.lab.tasks.shared.metrics import classification
from valleys.lab.tasks.shared.splits import hold_out

__all__ = ["load"]

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_TRAIN, _TEST = 60_000, 10_000
_PIXELS = 28
_MEAN, _DEVIATION = 0.2860, 0.3530  # of the pixels of the 60,000 training images, scaled to [0, 1]


def load(data_dir: Path | None = None, preset: str = STANDARD) -> Task:
    """Classify Fashion-MNIST.

    Of the 60,000 training images every tenth, class by class, validates (6,000) and 54,000 train; the 10,000 test
    images are the official ones. A CNN of two strided convolutions and two linear layers, initialised after He et al.
    The target, 85 %, is above what a linear model of the pixels reaches (about 84 %). The preset ``half`` has images of
    14 x 14, the means of 2 x 2 pixels, and half the channels, which train ten times as fast.

    The data: four IDX files, plain or ``.gz``, in the data folder or in Debian's package; otherwise OpenML by
    scikit-learn, which keeps what it downloads in its own cache.

    Source: Xiao, Rasul and Vollgraf 2017 (arXiv 1708.07747).
    """
    folder = _DEBIAN_FOLDER if data_dir is None and _DEBIAN_FOLDER.is_dir() else data_dir
    images, labels, test_images, test_labels = _from_openml() if folder is None else _from_folder(folder)
    if len(images) < 2:
        raise LabError("Fashion-MNIST needs at least 2 training images, one of them for validation")
    half = preset == "half"
    train, validation = hold_out(labels)
    return classification(
        name="fashion-mnist",
        variant=preset if half else "",
        train=_split(images[train], labels[train], half),
        validation=_split(images[validation], labels[validation], half),
        test=_split(test_images, test_labels, half),
        build_model=partial(_model, half),
        target=85.0,
        epochs=10,
    )


def _from_folder(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_folder(folder, f"name the folder of the files {_FILES[0]}(.gz) ...")
    train_images, train_labels, test_images, test_labels = _paths(folder)
    return *_labelled(train_images, train_labels), *_labelled(test_images, test_labels)


def _paths(folder: Path) -> list[Path]:
    paths = {name: [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()] for name in _FILES}
    missing = [name for name, files in paths.items() if not files]
    if missing:
        raise LabError(
            f"the data folder {str(folder)!r} lacks {', '.join(missing)} (plain or .gz); put all four files of "
            "Fashion-MNIST there or name another folder"
        )
    return [files[0] for files in paths.values()]


def _labelled(images_file: Path, labels_file: Path) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if images.shape[1:] != (_PIXELS, _PIXELS):
        size = " x ".join(map(str, images.shape[1:]))
        raise LabError(f"{images_file} holds images of {size} pixels, Fashion-MNIST has {_PIXELS} x {_PIXELS}")
    if len(images) != len(labels):
        raise LabError(
            f"{images_file} holds {len(images)} images but {labels_file} holds {len(labels)} labels; "
            "take both from one source"
        )
    if labels.max() > 9:
        raise LabError(f"{labels_file} holds the label {labels.max()}, Fashion-MNIST has 0 to 9")
    return images, labels.long()


def _from_openml() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    try:
        from sklearn.datasets import fetch_openml

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns at each attempt; what counts is the outcome
            data = fetch_openml(
                "Fashion-MNIST",
                version=1,
                as_frame=False,
                parser="pandas" if find_spec("pandas") else "liac-arff",  # the second is slow and needs nothing else
            )
    except Exception as error:  # offline, or a damaged cache: its readers share no exception
        raise LabError(
            "Fashion-MNIST is not here: name the folder of its four IDX files as the data folder, or install Debian's "
            f"package dataset-fashion-mnist, or let scikit-learn download it from OpenML, which failed ({error})"
        ) from error
    if data.data.shape != (_TRAIN + _TEST, _PIXELS**2):
        raise LabError(
            f"OpenML's Fashion-MNIST has the shape {data.data.shape} instead of {(_TRAIN + _TEST, _PIXELS**2)}; "
            "clear scikit-learn's cache or name a folder"
        )
    if not (data.data.min() >= 0 and data.data.max() <= 255 and {*map(str, data.target)} <= {*"0123456789"}):
        raise LabError("OpenML's Fashion-MNIST has other pixels than 0 to 255 or labels than 0 to 9; name a folder")
    images = torch.tensor(data.data, dtype=torch.uint8).reshape(-1, _PIXELS, _PIXELS)
    labels = torch.tensor(data.target.astype("int64"))
    return images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:]


def _split(images: Tensor, labels: Tensor, half: bool) -> Split:
    pixels = images.unsqueeze(1).float().div_(255).sub_(_MEAN).div_(_DEVIATION)
    return Split(nn.functional.avg_pool2d(pixels, 2) if half else pixels, labels)


def _model(half: bool = False) -> nn.Module:
    channels, size = (8, 4) if half else (16, 7)
    model = nn.Sequential(
        nn.Conv2d(1, channels, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * size * size, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    for name, param in model.named_parameters():
        # torch's default keeps too little of the signal for a run of 60 large-batch steps to get anywhere.
        if name.endswith("weight"):
            nn.init.kaiming_normal_(param, nonlinearity="relu")
        else:
            nn.init.zeros_(param)
    return model
