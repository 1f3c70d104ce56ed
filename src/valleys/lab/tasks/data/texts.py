"""Labelled texts of IMDB and MRPC, from the files of their authors, of GLUE, or from ``datasets``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.files import list_names, read_lines, read_text
from valleys.lab.tasks.data.hub import dataset, is_saved, rows
from valleys.lab.tasks.shared.splits import hold_out, spread

_REMEDY = "take a complete copy"


@dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, and its class, 0 or 1."""

    texts: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Texts:
    """The examples of the three splits."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def few(self, limit: int | None) -> Texts:
        """Return at most ``limit`` examples of each split, evenly spread: IMDB's are sorted by class."""
        if limit is None:
            return self
        splits = (self.train, self.validation, self.test)
        return Texts(*([examples[i] for i in spread(len(examples), limit).tolist()] for examples in splits))


def imdb(folder: Path | None) -> Texts:
    """Read IMDB's film reviews: 25,000 to train, of which every tenth validates, and 25,000 to test; 1 is positive.

    The folder is aclImdb, with ``train/pos/*.txt``, train/neg, test/pos and test/neg; or what ``datasets.save_to_disk``
    wrote, with the columns ``text`` and ``label``. None: from the hub.

    Source: Maas et al. 2011, Learning word vectors for sentiment analysis.
    """
    if folder is None or is_saved(folder):
        where, splits = dataset(folder, "stanfordnlp/imdb", ("train", "test"))
        train, test = (_rows(splits[part], ("text",), f"{where}, {part}") for part in splits)
    else:
        train, test = _reviews(folder / "train"), _reviews(folder / "test")
        where = str(folder)
    return _complete(where, *_held_out(train), test)


def mrpc(folder: Path | None) -> Texts:
    """Read Microsoft's paraphrase pairs; 1 is a paraphrase.

    The folder has msr_paraphrase_train.txt and msr_paraphrase_test.txt, with every tenth of the 4,076 training pairs
    for validation and 1,725 for test; or GLUE's train.tsv and dev.tsv, with every tenth training pair for validation
    and dev.tsv for test, since GLUE keeps the classes of its test pairs; or what ``datasets.save_to_disk`` wrote, with
    the columns ``sentence1``, ``sentence2`` and ``label`` and its own splits. None: from the hub, with its own splits.

    Source: Dolan and Brockett 2005, Automatically constructing a corpus of sentential paraphrases.
    """
    if folder is None or is_saved(folder):
        where, splits = dataset(folder, "nyu-mll/glue", ("train", "validation", "test"), "mrpc")
        columns = ("sentence1", "sentence2")
        return _complete(where, *(_rows(splits[part], columns, f"{where}, {part}") for part in splits))
    for names in (("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"), ("train.tsv", "dev.tsv")):
        train, test = (folder / name for name in names)
        if train.is_file() and test.is_file():
            return _complete(str(folder), *_held_out(_pairs(train)), _pairs(test))
    raise LabError(
        f"the data folder {str(folder)!r} lacks msr_paraphrase_train.txt and msr_paraphrase_test.txt, or train.tsv and "
        "dev.tsv; put MRPC there, or what datasets.save_to_disk wrote"
    )


def _held_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    train, validation = hold_out(torch.tensor([example.label for example in examples], dtype=torch.int64))
    return [examples[i] for i in train.tolist()], [examples[i] for i in validation.tolist()]


def _complete(where: str, train: list[Example], validation: list[Example], test: list[Example]) -> Texts:
    for part, examples in (("train", train), ("validation", validation), ("test", test)):
        if not examples:
            raise LabError(f"{where}: the {part} split has no example; name a folder with a complete copy")
    return Texts(train, validation, test)


def _reviews(folder: Path) -> list[Example]:
    reviews = {name: list_names(folder / name, ".txt") for name in ("neg", "pos")}
    if not all(reviews.values()):
        raise LabError(
            f"the folder {str(folder)!r} lacks neg/*.txt or pos/*.txt; name the folder aclImdb, or what "
            "datasets.save_to_disk wrote"
        )
    files = [(folder / name / file, int(name == "pos")) for name, files in reviews.items() for file in files]
    return [Example((read_text(path, _REMEDY),), label) for path, label in files]


def _rows(split: Any, columns: tuple[str, ...], where: str) -> list[Example]:
    examples = []
    for number, row in enumerate(rows(split, where)):
        try:
            texts, label = tuple(row[column] for column in columns), row["label"]
        except KeyError as error:
            raise LabError(f"{where} has no column {error}; it needs {', '.join(columns)} and label") from error
        if not isinstance(label, int) or label not in (0, 1):
            raise LabError(
                f"{where}, row {number}: the label is {label}, expected 0 or 1; take a split with its labels"
            )
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise LabError(f"{where}, row {number}: {' or '.join(columns)} is empty or no string; {_REMEDY}")
        examples.append(Example(texts, label))
    return examples


def _pairs(path: Path) -> list[Example]:
    """Read quality, two ids and two sentences, separated by tabs; quotation marks are only characters.

    The first line is a header if its first column is ``Quality``.
    """
    pairs = []
    for number, line in enumerate(read_lines(path, _REMEDY), start=1):
        columns = [column.strip(" ") for column in line.split("\t")]
        if not line or (number == 1 and columns[0] == "Quality"):
            continue
        if len(columns) != 5 or columns[0] not in ("0", "1") or not (columns[3] and columns[4]):
            raise LabError(
                f"{path}, line {number}: expected 0 or 1, two ids and two sentences, separated by tabs, but got "
                f"{len(columns)} columns, the first {columns[0]!r}{', or an empty sentence' * (len(columns) == 5)}"
            )
        pairs.append(Example((columns[3], columns[4]), int(columns[0])))
    return pairs
