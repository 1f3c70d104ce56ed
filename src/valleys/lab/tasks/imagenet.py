"""ImageNet, or any folder of images laid out like it, on ResNet-34 and ResNet-50."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.problem.schedules import Schedule
from valleys.lab.problem.task import Stream, Task
from valleys.lab.tasks.data.augmentation import CentreCrop, Normalized, resized_crop_and_flip
from valleys.lab.tasks.data.image_folder import held_out, list_images
from valleys.lab.tasks.networks import resnet34, resnet50
from valleys.lab.tasks.shared.metrics import classification
from valleys.lab.tasks.shared.splits import SEED

__all__ = ["load"]

_CLASSES = 1000  # of the original; another number is another problem, and its variant says so
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels scaled to [0, 1], by channel
_READERS = 16  # more processes than this decode faster than a GPU trains


@dataclass(frozen=True)
class _Recipe:
    """A preset of a network."""

    build: Callable[[int], nn.Module]  # by the number of classes
    stored: int  # height and width of decoded images
    shown: int  # of what the network sees
    target: float  # accuracy in percent
    epochs: int
    batch_size: int
    schedule: Schedule
    micro_batch: int


_RECIPES = {
    ("resnet34", "paper"): _Recipe(resnet34, 256, 224, 69.0, 90, 256, Schedule("step", gamma=0.1, drops=3), 256),
    ("resnet50", "paper"): _Recipe(
        resnet50, 256, 224, 75.0, 90, 1024, Schedule("polynomial", warm_up=0.625 / 90, power=1.0), 128
    ),
    ("resnet34", "smoke"): _Recipe(partial(resnet34, width=8), 64, 56, 50.0, 5, 32, Schedule("cosine"), 128),
    ("resnet50", "smoke"): _Recipe(partial(resnet50, width=8), 64, 56, 50.0, 5, 32, Schedule("cosine"), 128),
}


def load(network: str, data_dir: Path | None, preset: str) -> Task:
    """Classify ImageNet, or other images in folders by class, by ``resnet34`` or ``resnet50``.

    Images are decoded while training, scaled to a shorter side of 256 pixels, and the middle 256x256 kept. For
    training, a random rectangle of it is scaled to 224x224 and flipped at random (elsewhere the rectangle is one of the
    whole image); for evaluation the network sees the middle 224x224. Of every training class 10 images validate (a
    fifth of it where it has fewer than 50); the test images are those of ``val``, ImageNet's official validation set.

    - ``paper``: the paper's network, and as in its tables 90 epochs. ResNet-34: batch 256, the learning rate times 0.1
      after each 30 epochs; target 69 %, a little below the paper's 69.95 % of ALTO at this batch. ResNet-50: batch
      1,024, linear warm-up over 0.625 epochs, then linear decay to zero; target 75 %, a little below what the paper
      reports of AdamW there (75.65 %). At a larger batch the paper's warm-up is longer, 20 epochs at 32,768: ask for
      it.
    - ``smoke``: images of 64x64 pixels, of which the network sees 56x56; an eighth of the channels; batch 32; 5 epochs;
      cosine schedule with a warm-up; target 50 %, whatever the classes are.

    Source: Russakovsky et al. 2015 (arXiv 1409.0575); evaluation as Krizhevsky et al. 2012, its middle crop alone.
    """
    if data_dir is None:
        raise LabError(
            "ImageNet is read from a folder, and none is named: name one that holds train/CLASS/IMAGE and "
            "val/CLASS/IMAGE as the data folder"
        )
    recipe = _RECIPES[network, preset]
    names, images = list_images(data_dir / "train", recipe.stored)
    test_names, test = list_images(data_dir / "val", recipe.stored)
    _same_classes(data_dir, names, test_names)
    train, validation = held_out(images, SEED)
    workers = _readers() if preset == "paper" else 0
    return classification(
        name=f"imagenet-{network}",
        train=Stream(train, workers),
        validation=Stream(validation, workers),
        test=Stream(test, workers),
        build_model=partial(_model, recipe, len(names)),
        target=recipe.target,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        variant=preset if len(names) == _CLASSES else f"{preset}, {len(names)} classes",
        augment=partial(resized_crop_and_flip, size=recipe.shown),
        schedule=recipe.schedule,
        micro_batch=recipe.micro_batch,
        channels_last=preset == "paper",
    )


def _same_classes(folder: Path, train: list[str], val: list[str]) -> None:
    differences = []
    for place, names in (("train", set(train) - set(val)), ("val", set(val) - set(train))):
        if names:
            labels = sorted(names)
            more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
            differences.append(f"only {place} has {', '.join(labels[:3])}{more}")
    if differences:
        raise LabError(
            f"train and val in {folder} do not have the same classes: {'; '.join(differences)}. ImageNet's validation "
            "images come in one folder and must be sorted by class first"
        )


def _model(recipe: _Recipe, classes: int) -> nn.Module:
    return nn.Sequential(CentreCrop(recipe.shown), Normalized(_MEAN, _DEVIATION), recipe.build(classes))


def _readers() -> int:
    """Return the number of processes that decode images: those that this process may use, but for one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_READERS, max(1, usable - 1))
