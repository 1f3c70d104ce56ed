"""Handwritten digits of 8x8 pixels: the classification task that needs no download and takes seconds."""

from __future__ import annotations

import torch
from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.shared.metrics import classification
from valleys.lab.tasks.shared.splits import deal

__all__ = ["load"]


def load() -> Task:
    """Classify scikit-learn's digits.

    1,797 images dealt 3 : 1 : 1, so that 1,077 train (a batch of 1,024 is possible), 360 validate and 360 test; a CNN
    of two convolutions. The target, 97 %, is above what a linear model of the pixels reaches (about 96 %).

    Source: Alpaydin and Kaynak 1998, UCI's optical recognition of handwritten digits (test part).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise LabError("the task digits needs scikit-learn; pip install 'valleys[lab]'") from error
    pixels, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    targets = torch.tensor(classes, dtype=torch.int64)
    validation, test, *train = deal(targets, 5)
    splits = [Split(inputs[part], targets[part]) for part in (torch.cat(train), validation, test)]
    return classification(
        name="digits",
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        build_model=_model,
        target=97.0,
        epochs=100,
    )


def _model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
