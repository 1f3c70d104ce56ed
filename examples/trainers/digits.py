"""Data and network of the examples beside this file: scikit-learn's 1,797 digits of 8x8 pixels, two layers."""

import argparse
import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

__all__ = ["accuracy", "batch", "load", "network", "options"]


@functools.cache
def load(test: bool = False) -> tuple[Tensor, Tensor]:
    """The first 1,437 images, shuffled once, to train on, or the other 360 to test."""
    pixels, classes = load_digits(return_X_y=True)
    indices = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    indices = indices[1437:] if test else indices[:1437]
    return torch.tensor(pixels, dtype=torch.float32)[indices] / 8 - 1, torch.tensor(classes)[indices]


def batch(step: int, size: int = 128) -> tuple[Tensor, Tensor]:
    """The batch of a step, which depends on nothing else, so that a resumed run sees the same ones."""
    inputs, classes = load()
    indices = torch.randint(len(inputs), (size,), generator=torch.Generator().manual_seed(step))
    return inputs[indices], classes[indices]


def network() -> nn.Sequential:
    """The same one every time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Percent of the test images."""
    inputs, classes = load(test=True)
    return 100 * (model(inputs).argmax(1) == classes).double().mean().item()


def options(arguments: list[str] | None, steps: int) -> argparse.Namespace:
    """The command line of every example."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--optimizer", choices=["alto", "eadamw"], default="alto")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--checkpoint", help="write one here half-way")
    parser.add_argument("--resume", help="go on from this one")
    return parser.parse_args(arguments)
