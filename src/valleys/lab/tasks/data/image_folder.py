"""Images in folders by class, decoded one by one: the layout in which ImageNet is unpacked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from valleys.lab.errors import LabError

__all__ = ["Images", "held_out", "list_images"]

_ENDINGS = (".jpeg", ".jpg", ".png")
_HELD_OUT = 10


@dataclass(frozen=True)
class Images(Dataset[tuple[Tensor, int]]):
    """Image files and their classes; an item is the middle of an image, as bytes.

    An image is scaled bilinearly, with a filter against aliasing, so that its shorter side has ``size`` pixels, and the
    square in its middle is kept. The same file always gives the same item.
    """

    folder: str
    files: Sequence[str]
    targets: Sequence[int]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        """Return the image, uint8 of shape (3, size, size), and its class."""
        return _decoded(Path(self.folder) / self.files[number], self.size), self.targets[number]

    def some(self, chosen: Sequence[int]) -> Images:
        """Return the data set of some of these images."""
        files, targets = [self.files[i] for i in chosen], [self.targets[i] for i in chosen]
        return Images(self.folder, files, targets, self.size)


def list_images(folder: Path, size: int) -> tuple[list[str], Images]:
    """Return the sorted classes' names and the images of ``folder/CLASS/IMAGE``, in the order of their paths."""
    if not folder.is_dir():
        raise LabError(f"there is no folder {folder}; the data folder must hold train/CLASS/IMAGE and val/CLASS/IMAGE")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise LabError(f"{folder} is empty: it must have one folder per class, with the images of that class")
    files, targets = [], []
    for target, name in enumerate(names):
        paths = sorted(
            f"{name}/{entry.name}"
            for entry in os.scandir(folder / name)
            if entry.name.lower().endswith(_ENDINGS) and not entry.name.startswith(".")
        )
        if not paths:
            raise LabError(
                f"the class folder {folder / name} has no image ({', '.join(_ENDINGS)}); add some or remove the folder"
            )
        files += paths
        targets += [target] * len(paths)
    return names, Images(str(folder), files, targets, size)


def held_out(images: Images, seed: int) -> tuple[Images, Images]:
    """Take images out of every class (they are sorted by it): 10, but no more than a fifth and no less than one.

    Returns what remains, and what was taken.
    """
    targets = torch.tensor(images.targets)
    generator = torch.Generator().manual_seed(seed)
    taken = torch.zeros(len(targets), dtype=torch.bool)
    first = 0
    for count in targets.bincount().tolist():
        if count < 2:
            raise LabError(
                f"{Path(images.folder) / images.files[first]} is the only image of its class; each class needs at "
                "least 2 training images, of which one validates"
            )
        share = min(_HELD_OUT, max(1, count // 5))
        taken[first + torch.randperm(count, generator=generator)[:share]] = True
        first += count
    return images.some((~taken).nonzero().flatten().tolist()), images.some(taken.nonzero().flatten().tolist())


def _decoded(path: Path, size: int) -> Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise LabError("reading images needs pillow; pip install 'valleys[lab]'") from error
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise LabError(f"{path} is no image that can be decoded ({error}); replace or remove it") from error
    width, height = picture.size
    shorter = min(width, height)
    scaled = picture.resize((width * size // shorter, height * size // shorter), Image.Resampling.BILINEAR)
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    square = scaled.crop((left, top, left + size, top + size))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return pixels.reshape(size, size, 3).permute(2, 0, 1).contiguous()
