"""A task of one's own: `valleys compare examples/my_task.py:task --batch-size 64 --out runs/wine`."""

import torch
from sklearn.datasets import load_wine
from torch import nn

from valleys.lab import Split, Task

features, classes = load_wine(return_X_y=True)
inputs = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
targets = torch.tensor(classes)
order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
train, validation, test = (Split(inputs[part], targets[part]) for part in order.split([110, 34, 34]))


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 100 * (outputs.argmax(1) == targets).float().mean()


task = Task(
    name="wine",
    train=train,
    validation=validation,
    test=test,
    build_model=lambda: nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3)),
    loss=nn.functional.cross_entropy,  # the mean over the examples
    metric=accuracy,  # the same
    metric_name="accuracy %",
    maximize=True,
    target=95.0,  # fixed before looking
    epochs=40,
)
