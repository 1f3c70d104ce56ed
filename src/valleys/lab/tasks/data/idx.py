"""Reader of IDX files, the format of MNIST and its successors."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from valleys.lab.errors import LabError

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # IDX's code for unsigned bytes, the only type in use for images and labels
_MOST_BYTES = 2**30  # EMNIST, the largest successor, has 0.64e9


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or compressed by gzip (by its content, not its name).

    The file: two zero bytes, the type's code (8), the number of dimensions (1 for labels, 3 for images), each dimension
    as four bytes (most significant first), the elements.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "labels"
        >>> _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(file, 1)
        tensor([7, 9], dtype=torch.uint8)

    Source: LeCun, Cortes and Burges, The MNIST database, "File formats for the MNIST database".
    """
    try:
        with path.open("rb") as plain:
            is_compressed = plain.read(2) == _GZIP
        with gzip.open(path) if is_compressed else path.open("rb") as file:
            return _read(path, file, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # first: BadGzipFile is an OSError
        raise _damaged(path, f"its compressed data is cut off or corrupt ({error})") from error
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path, file: IO[bytes] | gzip.GzipFile, dimensions: int) -> Tensor:
    size = 4 + 4 * dimensions
    header = file.read(size)
    if len(header) < size:
        raise _damaged(path, f"it holds {len(header)} bytes, fewer than the {size} of its header")
    magic = bytes([0, 0, _BYTES, dimensions])
    if header[:4] != magic:
        raise _damaged(
            path, f"it begins with {header[:4].hex()}, not with {magic.hex()} (bytes, {dimensions} dimensions)"
        )
    shape = [int.from_bytes(header[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    count, announced = math.prod(shape), f"its header announces {' x '.join(map(str, shape))} bytes"
    if count > _MOST_BYTES:
        raise _damaged(path, f"{announced}, more than the {_MOST_BYTES} that are read")
    elements = file.read(count + 1)  # never more: a small file can be decompressed to any size
    if len(elements) != count:
        raise _damaged(path, f"{announced}, {'more' if len(elements) > count else len(elements)} follow")
    if count == 0:
        raise _damaged(path, "it is empty")
    return torch.frombuffer(bytearray(elements), dtype=torch.uint8).reshape(shape)


def _damaged(path: Path, reason: str) -> LabError:
    return LabError(f"{path} is not a sound IDX file: {reason}; fetch it again")
