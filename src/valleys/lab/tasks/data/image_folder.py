"""Images in folders by class, decoded one by one: the layout in which ImageNet is unpacked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.files import list_names

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # told by the content; Pillow would hand EPS to Ghostscript
_OTHERS = (".avif", ".eps", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pgm", ".ppm", ".tif", ".tiff")
_MOST_PIXELS = 2**30 // 12  # of a scaled image; Pillow's own limit for one in a file
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
    names = [name for name in list_names(folder) if (folder / name).is_dir()]
    if not names:
        raise LabError(f"{folder} is empty: it must have one folder per class, with the images of that class")
    files, targets = [], []
    for target, name in enumerate(names):
        paths = [f"{name}/{file}" for file in list_names(folder / name, *_ENDINGS)]
        if others := list_names(folder / name, *_OTHERS):
            raise LabError(f"{folder / name / others[0]} cannot be read; convert it to one of {', '.join(_ENDINGS)}")
        if not paths:
            raise LabError(f"{folder / name} has no image ({', '.join(_ENDINGS)}); add some or remove the folder")
        files += paths
        targets += [target] * len(paths)
    return names, Images(str(folder), files, targets, size)


def held_out(images: Images, seed: int) -> tuple[Images, Images]:
    """Take images out of every class (they are sorted by it): 10, but no more than a fifth and no less than one.

    Returns what remains, and what was taken.
    """
    targets = torch.tensor(images.targets)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(targets), dtype=torch.bool)
    first = 0
    for count in targets.bincount().tolist():
        if count < 2:
            raise LabError(
                f"{Path(images.folder) / images.files[first]} is the only image of its class; each class needs at "
                "least 2 training images, of which one validates"
            )
        share = min(_HELD_OUT, max(1, count // 5))
        mask[first + torch.randperm(count, generator=generator)[:share]] = True
        first += count
    return images.some((~mask).nonzero().flatten().tolist()), images.some(mask.nonzero().flatten().tolist())


def _decoded(path: Path, size: int) -> Tensor:
    try:
        square = np.asarray(_square(path, size))
    except ImportError as error:
        raise LabError("reading images needs pillow; pip install 'valleys[lab]'") from error
    except Exception as error:  # a damaged file may raise whatever its decoder does
        reason = str(error) or type(error).__name__
        raise LabError(f"{path} is no image that can be decoded ({reason}); replace or remove it") from error
    return torch.tensor(square).permute(2, 0, 1).contiguous()


def _square(path: Path, size: int) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            image.verify()  # the checksums of a PNG, which decoding passes over
        with Image.open(path, formats=_FORMATS) as image:
            width, height = (side * size // min(image.size) for side in image.size)
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels would become {width} x {height}, too many")
            if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
                image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
            scaled = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return scaled.crop((left, top, left + size, top + size))
