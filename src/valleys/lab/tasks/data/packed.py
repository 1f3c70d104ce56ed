"""Documents as one long row of tokens in a file, from which windows are read while training."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from valleys.lab.errors import LabError

END_OF_TEXT = "<|endoftext|>"
"""The token behind each document."""

_CACHE = "packed"  # the folder, within the data folder, that the rows of tokens are kept in
_TOKEN = np.dtype("<u2")  # GPT-2 has 50,257 tokens
_TOGETHER = 1000  # documents that the tokenizer, which is parallel, gets at once


@dataclass(frozen=True)
class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Neighbouring windows of a row of tokens (16 bits each); what an incomplete last one would hold is left out.

    An item is what the model reads, shape (context,), and the tokens that follow each. A window is one read of the
    file, which the system keeps in memory as it can.
    """

    path: Path
    context: int

    def __len__(self) -> int:
        return max(0, (self.path.stat().st_size // _TOKEN.itemsize - 1) // self.context)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        offset = number * self.context * _TOKEN.itemsize
        row = np.fromfile(self.path, _TOKEN, self.context + 1, offset=offset).astype(np.int64)
        tokens = torch.from_numpy(row)
        return tokens[:-1], tokens[1:]


def packed(files: Sequence[Path], tokenizer: Any, limit: int | None = None) -> Path:
    """Tokenise the documents of some files, joined by the end-of-text token; once, and kept in a file beside them.

    The files are of one folder, in JSON lines with the key ``text``; at most ``limit`` documents of each are taken. The
    name of the row of tokens depends on the files' names, sizes and times, on the tokenizer and on ``limit``.
    """
    end, size = tokenizer.token_to_id(END_OF_TEXT), tokenizer.get_vocab_size()
    if end is None or size > 2 ** (8 * _TOKEN.itemsize):
        raise LabError(f"a vocabulary of {size} tokens, not of up to 65536, {END_OF_TEXT} among them; take GPT-2's")
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([stamps, limit, tokenizer.to_str()]).encode()).hexdigest()[:16]
    cache = files[0].parent / _CACHE / f"{files[0].stem}-{key}.bin"
    if cache.is_file():
        return cache
    unfinished = cache.with_suffix(f".{os.getpid()}")
    try:
        cache.parent.mkdir(exist_ok=True)
        with unfinished.open("wb") as row:
            for file in files:
                documents = itertools.islice(_documents(file), limit)
                while together := list(itertools.islice(documents, _TOGETHER)):
                    for encoded in tokenizer.encode_batch(together):
                        np.array([*encoded.ids, end], _TOKEN).tofile(row)
        unfinished.replace(cache)  # at once: another process may be looking, and this one may be stopped
    except OSError as error:
        raise LabError(
            f"the tokens of {files[0].parent} cannot be kept in its folder {_CACHE!r} ({error}); make it writable, or "
            "name a copy of the data where there is room"
        ) from error
    finally:
        with suppress(OSError):  # it is gone when all went well
            unfinished.unlink()
    return cache


def _documents(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _text(line, f"{file}, line {number}", "utf-8-sig" if number == 1 else "utf-8")
    except OSError as error:
        raise LabError(f"cannot read {file}: {error.strerror or error}; take a complete copy") from error


def _text(line: bytes, where: str, encoding: str) -> str:
    try:
        text = json.loads(line.decode(encoding))["text"]
        text.encode()  # JSON can write half of a character beyond 16 bits, which is no Unicode
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabError(f'{where}: expected JSON with the key "text" and Unicode ({error})') from error
    except AttributeError as error:
        raise LabError(f"{where}: the text is {text!r:.60}, which is no string") from error
    return str(text)
