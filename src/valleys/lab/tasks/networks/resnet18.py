"""ResNet-18 for images of 32x32 pixels: the wide one, with the first convolution and no pooling adapted to them."""

from __future__ import annotations

from torch import nn

from valleys.lab.tasks.networks.layers import initialised, normalized
from valleys.lab.tasks.networks.residual import Residual, basic, projection

__all__ = ["cifar_resnet18"]


def cifar_resnet18(classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 behind a 3x3 convolution: four stages of two blocks with 1, 2, 4 and 8 times ``width`` channels.

    It has 11,173,962 parameters with 10 classes and 11,220,132 with 100.

    Args:
        classes: number of outputs.
        width: channels of the first stage.

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Example:
        >>> sum(param.numel() for param in cifar_resnet18(10, width=8).parameters())
        176402

    Source: He et al. 2016 (arXiv 1512.03385), with the first layer of its section 4.2.
    """
    layers: list[nn.Module] = [*normalized(3, width, 3), nn.ReLU(inplace=True)]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers.append(Residual(basic(inputs, outputs, stride), projection(inputs, outputs, stride)))
            inputs = outputs
    return initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)))
