"""ResNets: the thin ones and ResNet-18 for images of 32x32 pixels, ResNet-34 and ResNet-50 for ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from valleys.lab.errors import LabError
from valleys.lab.tasks.networks.layers import initialised, normalized

__all__ = ["cifar_resnet", "cifar_resnet18", "resnet34", "resnet50"]

_IMAGENET = (3, 4, 6, 3)  # blocks of each stage
_EXPANSION = 4  # a bottleneck's outputs per inner channel


def cifar_resnet(depth: int, classes: int, width: int = 16) -> nn.Module:
    """Build a ResNet of depth 6 n + 2: three stages of n blocks with 1, 2 and 4 times ``width`` channels.

    Shortcuts have no parameters (option A), as in its paper: 269,722 parameters at depth 20 with 10 classes.
    Projections would give 272,474, and both are the 0.27M of the ALTO paper; with 100 classes there are 275,572.

    Args:
        depth: 8, 14, 20, 26 and so on.
        classes: number of outputs.
        width: channels of the first stage.

    Returns:
        The network, from images (N, 3, H, W) to scores (N, classes), freshly initialised.

    Raises:
        LabError: no such network has this depth.

    Example:
        >>> sum(param.numel() for param in cifar_resnet(20, 10).parameters())
        269722

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise LabError(f"depth {depth}: a CIFAR ResNet has 6 n + 2 layers, so choose 8, 14, 20, 32, 44, 56 or 110")
    return _network(_small_stem(width), width, (blocks,) * 3, classes, basic, padded)


def cifar_resnet18(classes: int, width: int = 64) -> nn.Module:
    """Build ResNet-18 behind a 3x3 convolution: four stages of two blocks with 1, 2, 4 and 8 times ``width`` channels.

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
    return _network(_small_stem(width), width, (2,) * 4, classes, basic, projection)


def resnet34(classes: int = 1000, width: int = 64) -> nn.Module:
    """Build ResNet-34: 21,797,672 parameters with 1,000 classes.

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
    return _network(_large_stem(width), width, _IMAGENET, classes, basic, projection)


def resnet50(classes: int = 1000, width: int = 64) -> nn.Module:
    """Build ResNet-50: 25,557,032 parameters with 1,000 classes.

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
    return _network(_large_stem(width), width, _IMAGENET, classes, bottleneck, projection, _EXPANSION)


class Residual(nn.Module):
    r"""A block that adds its input to what it computes: a branch f and a shortcut s.

    .. math:: y = \max(0, f(x) + s(x))
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to images of shape (N, channels, H, W)."""
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


class Padded(nn.Module):
    """The shortcut without parameters (option A): every ``stride``-th pixel, and ``missing`` channels of zeros."""

    def __init__(self, missing: int, stride: int) -> None:
        super().__init__()
        self.before = missing // 2
        self.after = missing - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, channels, H, W) -> (N, channels + missing, H / stride, W / stride)."""
        thinned = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(thinned, (0, 0, 0, 0, self.before, self.after))


def padded(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build the shortcut of option A, or the identity where the number of channels does not change."""
    return nn.Identity() if inputs == outputs else Padded(outputs - inputs, stride)


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build the shortcut of a 1x1 convolution (option B), or the identity where the shape does not change."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*normalized(inputs, outputs, 1, stride))


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Build a branch of two 3x3 convolutions, the first with the stride."""
    return nn.Sequential(
        *normalized(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *normalized(outputs, outputs, 3)
    )


def bottleneck(inputs: int, inner: int, stride: int) -> nn.Module:
    """Build a branch of a 1x1, a 3x3 and a 1x1 convolution.

    He et al. had the stride in the first layer; here, as in all later work, the 3x3 convolution has it.
    """
    return nn.Sequential(
        *normalized(inputs, inner, 1),
        nn.ReLU(inplace=True),
        *normalized(inner, inner, 3, stride),
        nn.ReLU(inplace=True),
        *normalized(inner, _EXPANSION * inner, 1),
    )


def _small_stem(width: int) -> list[nn.Module]:
    return [*normalized(3, width, 3), nn.ReLU(inplace=True)]


def _large_stem(width: int) -> list[nn.Module]:
    return [*normalized(3, width, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]


def _network(
    stem: list[nn.Module],
    width: int,
    stages: Sequence[int],
    classes: int,
    branch: Callable[[int, int, int], nn.Module],
    shortcut: Callable[[int, int, int], nn.Module],
    expansion: int = 1,
) -> nn.Module:
    """Build a network from the number of blocks of each stage; a stage halves the image and doubles the channels."""
    layers, inputs = stem, width
    for stage, blocks in enumerate(stages):
        channels = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            outputs = expansion * channels
            layers.append(Residual(branch(inputs, channels, stride), shortcut(inputs, outputs, stride)))
            inputs = outputs
    return initialised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)))
