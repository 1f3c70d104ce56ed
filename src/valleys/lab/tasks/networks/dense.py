"""DenseNet for images of 32x32 pixels, with the linear layers of the ALTO paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from valleys.lab.tasks.networks.layers import convolution, initialised

__all__ = ["densenet"]

_BLOCKS = (6, 12, 32, 32)


class _Dense(nn.Module):
    """A layer that appends ``growth`` new channels to its input."""

    def __init__(self, inputs: int, inner: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_before(inputs, inner, 1), *_before(inner, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def densenet(
    classes: int,
    blocks: tuple[int, ...] = _BLOCKS,
    growth: int = 32,
    inner: int = 2,
    hidden: tuple[int, ...] = (256, 128),
    dropout: float = 0.4,
) -> nn.Module:
    """Build a DenseNet behind a 3x3 convolution; by default the DenseNet-169 of the ALTO paper.

    Between stages a 1x1 convolution halves the channels and pooling the image. The paper gives 7.27M parameters. With
    DenseNet's own bottlenecks, 4 times the growth, there would be 12.94M, so it must have narrower ones: with twice the
    growth there are 7,271,396 with 100 classes (7.27M) and 7,259,786 with 10 (7.26M; 7,268,746 if the convolutions had
    biases, which the normalisations would remove).

    Args:
        classes: number of outputs.
        blocks: layers of each stage.
        growth: channels that a layer adds.
        inner: channels of a layer's bottleneck, in units of ``growth``.
        hidden: units of the hidden linear layers.
        dropout: probability of dropping a hidden unit, in [0, 1).

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Example:
        >>> sum(param.numel() for param in densenet(100).parameters())
        7271396

    Source: Huang et al. 2017 (arXiv 1608.06993); blocks, growth and linear layers of the ALTO paper.
    """
    planes = 2 * growth
    layers: list[nn.Module] = [convolution(3, planes, 3)]
    for stage, depth in enumerate(blocks):
        if stage:
            layers += [*_before(planes, planes // 2, 1), nn.AvgPool2d(2)]
            planes //= 2
        for _ in range(depth):
            layers.append(_Dense(planes, inner * growth, growth))
            planes += growth
    layers += [nn.BatchNorm2d(planes), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for units in hidden:
        layers += [nn.Linear(planes, units), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        planes = units
    return initialised(nn.Sequential(*layers, nn.Linear(planes, classes)))


def _before(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    """Build a convolution with normalisation and activation before it, as DenseNet has them."""
    return [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), convolution(inputs, outputs, size)]
