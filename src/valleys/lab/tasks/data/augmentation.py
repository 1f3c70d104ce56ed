"""Augmentation of images on the device; images are bytes until they are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from valleys.lab.problem.data import Batch

__all__ = [
    "CentreCrop",
    "Normalized",
    "crop_and_flip",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "resized_crop_and_flip",
]

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


class Normalized(nn.Module):
    r"""A network's first layer: bytes become floats of about zero mean and unit variance.

    .. math:: y = (x / 255 - \mu) / \sigma

    Images thus stay bytes in memory, a quarter of their size as floats. Mean and deviation have one number per channel,
    of pixels scaled to [0, 1].

    Example:
        >>> Normalized([0.5], [0.25])(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        tensor([[[[-2.0000, 2.0000]]]])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        means, deviations = torch.tensor(mean), torch.tensor(deviation)
        # Constants, so they are no part of a checkpoint; as buffers they follow the model's device and floating type.
        self.register_buffer("scale", (1 / (255 * deviations)).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("shift", (-means / deviations).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize images of shape (N, channels, H, W), uint8 or floats in [0, 255]."""
        return torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)


class CentreCrop(nn.Module):
    """The middle of images that are larger than a network takes; smaller ones pass unchanged.

    In front of a network it serves training and evaluation alike: what augmentation has cropped already is left alone,
    whatever mode the network is in.

    Example:
        >>> CentreCrop(2)(torch.arange(16).reshape(1, 1, 4, 4)).flatten().tolist()
        [5, 6, 9, 10]
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Shape (N, channels, H, W) -> (N, channels, min(H, size), min(W, size))."""
        top, left = (max(0, length - self.size) // 2 for length in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Pad every image (N, channels, H, W) with zeros (black) on all sides and cut a window of its old size out.

    Each image has its own of the ``(2 padding + 1) ** 2`` places, which are equally likely. The generator may be on any
    device.
    """
    height, width = images.shape[-2:]
    padded = nn.functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, channels, top, left, H, W)
    places = torch.randint(2 * padding + 1, (2, len(images)), generator=generator, device=generator.device)
    top, left = places.to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image left to right, each with probability one half."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device).to(images.device) < 0.5
    return torch.where(flipped, images.flip(-1), images)


def random_resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    r"""Cut a rectangle out of every square image, each its own, and scale it to a square of ``size`` pixels.

    .. math:: A \sim U(0.08, 1), \quad \log r \sim U(\log \tfrac34, \log \tfrac43), \quad
        w = \sqrt{A r}, \quad h = \sqrt{A / r}

    in shares of the image's sides, at a uniformly random place; A and r are drawn up to ten times until the rectangle
    fits, otherwise the whole image is taken. Pixels are interpolated bilinearly without a filter against aliasing,
    which for an image not much larger than ``size`` makes little difference. Bytes are rounded.

    Source: Szegedy et al. 2015 (arXiv 1409.4842), section 6.
    """
    centre, extent = _rectangles(len(images), generator)
    matrix = torch.zeros(len(images), 2, 3, device=generator.device)  # from the output's [-1, 1] to the input's
    matrix[:, 0, 0], matrix[:, 1, 1] = extent
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * centre - 1
    grid = nn.functional.affine_grid(
        matrix.to(images.device), [len(images), images.shape[1], size, size], align_corners=False
    )
    floats = images if images.is_floating_point() else images.float()
    # Border: the rectangle lies inside, but the outermost sampling points are beyond the outermost pixels' centres.
    sampled = nn.functional.grid_sample(floats, grid.to(floats.dtype), padding_mode="border", align_corners=False)
    return sampled if images.is_floating_point() else sampled.round_().clamp_(0, 255).to(images.dtype)


def crop_and_flip(inputs: Batch, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Apply the standard augmentation of CIFAR: a crop after padding, by 4 pixels unless told otherwise, and a flip."""
    return random_flip(random_crop(_images(inputs), padding, generator), generator)


def resized_crop_and_flip(inputs: Batch, generator: torch.Generator, size: int = 224) -> Tensor:
    """Apply the standard augmentation of ImageNet: a resized crop to ``size`` pixels and a flip."""
    return random_flip(random_resized_crop(_images(inputs), size, generator), generator)


def _rectangles(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centres and extents, each of shape (2, count), horizontal first, in shares of the image."""
    draws = torch.rand(2, _TRIES, count, generator=generator, device=generator.device)
    area = _AREA[0] + (_AREA[1] - _AREA[0]) * draws[0]
    ratio = (math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * draws[1]).exp()
    extents = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()])
    fits = (extents <= 1).all(0)
    first = fits.int().argmax(0)  # the first of the largest
    size = extents.gather(1, first.expand(2, 1, -1)).squeeze(1)
    extent = torch.where(fits.any(0), size, 1.0)
    place = torch.rand(2, count, generator=generator, device=generator.device)
    return extent / 2 + place * (1 - extent), extent


def _images(inputs: Batch) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs
