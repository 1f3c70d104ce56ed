"""Running statistics of batch normalisation at weights that were not trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def restated(model: nn.Module, forward: Callable[[], None]) -> Iterator[None]:
    """Average the batch statistics anew at the present weights; put those of training back afterwards.

    ``forward`` passes training examples through the model. Without running statistics nothing happens.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _NormBase) and layer.running_mean is not None]
    if not layers:
        yield
        return
    saved = [[buffer.clone() for buffer in layer.buffers(recurse=False)] for layer in layers]
    momenta, training = [layer.momentum for layer in layers], model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over all batches
    model.train()
    with torch.no_grad():
        forward()
    model.train(training)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    try:
        yield
    finally:
        for layer, buffers in zip(layers, saved, strict=True):
            for buffer, value in zip(layer.buffers(recurse=False), buffers, strict=True):
                buffer.copy_(value)
