"""Named entities in the column format of CoNLL-2003, or from a dataset of that shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.files import read_lines
from valleys.lab.tasks.data.hub import dataset, is_saved, rows

_FILES = {
    "train": ("eng.train", "train.txt"),
    "validation": ("eng.testa", "valid.txt", "dev.txt"),
    "test": ("eng.testb", "test.txt"),
}
_HUB = "eriktks/conll2003"
_REVISION = "refs/convert/parquet"  # its main branch is a script, which datasets no longer runs
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class Sentence:
    """Words and as many tags in IOB2: ``O``, ``B-LOC``, ``I-LOC`` ..."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Sentences of the three splits, and the entity types that the training sentences name, sorted."""

    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    types: tuple[str, ...]

    def numbers(self, sentence: Sentence) -> list[int]:
        """Return the tags as numbers: O is 0, B and I of the k-th type are 2 k + 1 and 2 k + 2."""
        return [
            0 if tag == "O" else 2 * self.types.index(tag[2:]) + (1 if tag[0] == "B" else 2) for tag in sentence.tags
        ]


def corpus(folder: Path | None, limit: int | None = None) -> Corpus:
    """Read CoNLL-2003 or another corpus of its shape, at most ``limit`` sentences of each split, the first ones.

    The lines ``-DOCSTART-`` are left out, so that eng.train has 14,041 sentences: the usual number, 14,987, counts its
    946 document starts as sentences. The sentences are in IOB2, whichever of IOB1 and IOB2 the data is in.

    The folder holds eng.train, eng.testa and eng.testb, or train.txt, valid.txt (dev.txt) and test.txt; or what
    ``datasets.save_to_disk`` wrote, with the columns ``tokens`` and ``ner_tags``. None: from the Hugging Face hub.

    Source: Tjong Kim Sang and De Meulder 2003, Introduction to the CoNLL-2003 shared task.
    """
    if folder is None or is_saved(folder):
        where, splits = dataset(folder, _HUB, tuple(_FILES), revision=_REVISION)
        parts = {part: _rows(split, f"{where}, {part}") for part, split in splits.items()}
    else:
        where, parts = str(folder), {part: read(path) for part, path in _paths(folder).items()}
    parts = {part: sentences[:limit] for part, sentences in parts.items()}
    types = {
        part: {tag[2:] for sentence in sentences for tag in sentence.tags if tag != "O"}
        for part, sentences in parts.items()
    }
    for part, sentences in parts.items():
        if not sentences:
            raise LabError(f"{where}: the {part} split holds no sentence; name a folder with a complete copy")
        if strange := types[part] - types["train"]:
            raise LabError(
                f"{where}: the {part} split has the entity types {', '.join(sorted(strange))}, which are not among the "
                f"training split's {', '.join(sorted(types['train'])) or 'none'}; take all splits from one corpus"
            )
    return Corpus(**parts, types=tuple(sorted(types["train"])))


def read(path: Path) -> list[Sentence]:
    """Read one file in IOB2: a word per line, its tag in the last column, a blank line after each sentence.

    All lines have as many columns, which spaces or tabs separate; a no-break space is part of a word.
    """
    lines = read_lines(path, "name another folder or convert it")
    if lines[-1]:
        raise LabError(f"{path}, line {len(lines)}: no line break ends it, as if cut off; end it, or take another copy")
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in enumerate(lines, start=1):
        columns = re.findall(r"[^ \t]+", line)
        if columns and columns[0] != _DOCUMENT:
            width = width or max(2, len(columns))
            if len(columns) != width:
                raise LabError(f"{path}, line {number}: {line!r:.80} has not {width} columns, a word ... and its tag")
            words.append(columns[0])
            tags.append(_checked(columns[-1], f"{path}, line {number}"))
        elif words:
            sentences.append(Sentence(tuple(words), to_iob2(tags)))
            words, tags = [], []
    return sentences


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Convert tags of IOB1 or IOB2 to IOB2, where every entity begins with B.

    IOB1, which the original files are in, has B only between two neighbouring entities of one type.

    Example:
        >>> to_iob2(["I-ORG", "I-ORG", "B-ORG", "O", "I-LOC", "I-PER"])
        ('B-ORG', 'I-ORG', 'B-ORG', 'O', 'B-LOC', 'B-PER')
    """
    return tuple(
        "B" + tag[1:] if tag[0] == "I" and before[2:] != tag[2:] else tag
        for before, tag in zip(("O", *tags), tags, strict=False)
    )


def _checked(tag: Any, where: str) -> str:
    if isinstance(tag, str) and (tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)):
        return tag
    raise LabError(f"{where}: the tag {tag!r} is neither O nor B-TYPE nor I-TYPE; convert the file to IOB2")


def _paths(folder: Path) -> dict[str, Path]:
    paths = {}
    for part, names in _FILES.items():
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise LabError(
                f"the data folder {str(folder)!r} lacks {' or '.join(names)}; put CoNLL-2003's three files there, or "
                "what datasets.save_to_disk wrote"
            )
        paths[part] = path
    return paths


def _rows(split: Any, where: str) -> list[Sentence]:
    """Return sentences of a split of ``datasets``; its tags are numbers whose names the column's features know."""
    names = getattr(getattr(split.features.get("ner_tags"), "feature", None), "names", None) or ()
    sentences = []
    for number, row in enumerate(rows(split, where)):
        place, words, tags = f"{where}, row {number}", row.get("tokens"), row.get("ner_tags")
        are_lists = isinstance(words, list) and isinstance(tags, list) and len(words) == len(tags)
        if not are_lists or {*map(type, words)} - {str} or "" in words:
            raise LabError(f"{place}: the columns tokens, of strings, and ner_tags must be lists of one length")
        if words and words != [_DOCUMENT]:
            sentences.append(Sentence(tuple(words), to_iob2([_checked(_name(names, tag), place) for tag in tags])))
    return sentences


def _name(names: Sequence[str], tag: Any) -> Any:
    return names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag
