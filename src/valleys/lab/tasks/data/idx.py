"""Reader of IDX files, the format of MNIST and its successors."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from valleys.lab.errors import LabError

__all__ = ["read_idx"]

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # IDX's code for unsigned bytes, the only type in use for images and labels


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
    data = _content(path)
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise _damaged(path, f"it holds {len(data)} bytes, fewer than the {header} of its header")
    magic = bytes([0, 0, _BYTES, dimensions])
    if data[:4] != magic:
        raise _damaged(
            path, f"it begins with {data[:4].hex()}, not with {magic.hex()} (bytes in {dimensions} dimensions)"
        )
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    count = math.prod(shape)
    if len(data) - header != count:
        raise _damaged(path, f"its header announces {' x '.join(map(str, shape))} bytes, {len(data) - header} follow")
    if count == 0:
        raise _damaged(path, "it is empty")
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == _GZIP else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:  # first: BadGzipFile is an OSError
        raise _damaged(path, f"its compressed data is cut off or corrupt ({error})") from error
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror or error}") from error


def _damaged(path: Path, reason: str) -> LabError:
    return LabError(f"{path} is not a sound IDX file: {reason}; fetch it again")
