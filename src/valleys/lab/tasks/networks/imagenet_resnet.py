"""ResNet-34 and ResNet-50 as they are used on ImageNet."""

from __future__ import annotations

from torch import nn

from valleys.lab.tasks.networks.layers import initialised, normalized
from valleys.lab.tasks.networks.residual import Residual, basic, bottleneck, projection

__all__ = ["resnet34", "resnet50"]

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4  # a bottleneck's outputs per inner channel


def resnet34(classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-34: 21,797,672 parameters with 1,000 classes.

    Args:
        classes: number of outputs.
        width: channels of the first stage.

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Example:
        >>> sum(param.numel() for param in resnet34().parameters())
        21797672

    Source: He et al. 2016 (arXiv 1512.03385), table 1.
    """
    blocks: list[nn.Module] = []
    inputs = width
    for outputs, stride in _plan(width):
        blocks.append(Residual(basic(inputs, outputs, stride), projection(inputs, outputs, stride)))
        inputs = outputs
    return _network(width, blocks, inputs, classes)


def resnet50(classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-50: 25,557,032 parameters with 1,000 classes.

    Each block's last normalisation begins as the identity, not at zero.

    Args:
        classes: number of outputs.
        width: inner channels of the first stage.

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Example:
        >>> sum(param.numel() for param in resnet50(10, width=8).parameters())
        376722

    Source: He et al. 2016 (arXiv 1512.03385), table 1.
    """
    blocks: list[nn.Module] = []
    inputs = width
    for inner, stride in _plan(width):
        outputs = _EXPANSION * inner
        blocks.append(Residual(bottleneck(inputs, inner, outputs, stride), projection(inputs, outputs, stride)))
        inputs = outputs
    return _network(width, blocks, inputs, classes)


def _plan(width: int) -> list[tuple[int, int]]:
    """Channels and stride of every block."""
    return [
        (width * 2**stage, 2 if stage and not block else 1)
        for stage, count in enumerate(_BLOCKS)
        for block in range(count)
    ]


def _network(width: int, blocks: list[nn.Module], outputs: int, classes: int) -> nn.Module:
    stem = [*normalized(3, width, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, classes)]
    return initialised(nn.Sequential(*stem, *blocks, *head))
