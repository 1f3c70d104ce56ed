"""The thin ResNets for images of 32x32 pixels: ResNet-8, ResNet-20 and so on."""

from __future__ import annotations

from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.tasks.networks.layers import initialised, normalized
from valleys.lab.tasks.networks.residual import Padded, Residual, basic

__all__ = ["cifar_resnet"]


def cifar_resnet(depth: int, classes: int, width: int = 16) -> nn.Module:
    """A ResNet of depth 6 n + 2: three stages of n blocks with 1, 2 and 4 times ``width`` channels.

    Shortcuts have no parameters (option A), as in its paper: 269,722 parameters at depth 20 with 10 classes.
    Projections would give 272,474, and both are the 0.27M of the ALTO paper; with 100 classes there are 275,572.

    Args:
        depth: 8, 14, 20, 26 and so on.
        classes: number of outputs.
        width: channels of the first stage.

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Raises:
        LabError: there is no such depth.

    Example:
        >>> sum(param.numel() for param in cifar_resnet(20, 10).parameters())
        269722

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise LabError(f"depth {depth}: a CIFAR ResNet has 6 n + 2 layers, so choose 8, 14, 20, 32, 44, 56 or 110")
    layers: list[nn.Module] = [*normalized(3, width, 3), nn.ReLU(inplace=True)]
    inputs = width
    for stage in range(3):
        outputs = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = nn.Identity() if inputs == outputs else Padded(outputs - inputs, stride)
            layers.append(Residual(basic(inputs, outputs, stride), shortcut))
            inputs = outputs
    return initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)))
