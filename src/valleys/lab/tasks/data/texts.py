"""Labelled texts of IMDB and MRPC, from the files of their authors, of GLUE, or from ``datasets``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.hub import from_hub, is_saved, saved, split_of
from valleys.lab.tasks.shared.classification import deal
from valleys.lab.tasks.shared.language import spread

__all__ = ["Example", "Texts", "imdb", "mrpc"]

_SEED = 20251027


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
        """At most ``limit`` examples of each split, evenly spread: IMDB's are sorted by class."""
        if limit is None:
            return self
        splits = (self.train, self.validation, self.test)
        return Texts(*([examples[i] for i in spread(len(examples), limit).tolist()] for examples in splits))


def imdb(folder: Path | None) -> Texts:
    """IMDB's film reviews: 25,000 for training, of which every tenth validates, class by class, and 25,000 for test.

    Args:
        folder: aclImdb, with train/pos/*.txt, train/neg, test/pos and test/neg; or what ``datasets.save_to_disk``
            wrote, with the columns ``text`` and ``label``. None: from the hub.

    Returns:
        The reviews; 1 is positive.

    Raises:
        LabError: data that is missing or damaged.

    Source: Maas et al. 2011, Learning word vectors for sentiment analysis.
    """
    if folder is None or is_saved(folder):
        where, data = _dataset(folder, "stanfordnlp/imdb", None)
        train, test = (_rows(split_of(data, part, where), ("text",), where) for part in ("train", "test"))
    else:
        train, test = _reviews(folder / "train"), _reviews(folder / "test")
        where = str(folder)
    return _complete(where, *_held_out(train), test)


def mrpc(folder: Path | None) -> Texts:
    """Microsoft's paraphrase pairs.

    Args:
        folder: msr_paraphrase_train.txt and msr_paraphrase_test.txt, with every tenth of the 4,076 training pairs for
            validation and 1,725 for test; or GLUE's train.tsv and dev.tsv, with every tenth training pair for
            validation and dev.tsv for test, since GLUE keeps the classes of its test pairs; or what
            ``datasets.save_to_disk`` wrote, with the columns ``sentence1``, ``sentence2`` and ``label`` and its own
            splits. None: from the hub, with its own splits.

    Returns:
        The pairs; 1 is a paraphrase.

    Raises:
        LabError: data that is missing or damaged.

    Source: Dolan and Brockett 2005, Automatically constructing a corpus of sentential paraphrases.
    """
    if folder is None or is_saved(folder):
        where, data = _dataset(folder, "nyu-mll/glue", "mrpc")
        parts = ("train", "validation", "test")
        splits = [_rows(split_of(data, part, where), ("sentence1", "sentence2"), where) for part in parts]
        return _complete(where, *splits)
    for names in (("msr_paraphrase_train.txt", "msr_paraphrase_test.txt"), ("train.tsv", "dev.tsv")):
        train, test = (folder / name for name in names)
        if train.is_file() and test.is_file():
            return _complete(str(folder), *_held_out(_pairs(train)), _pairs(test))
    raise LabError(
        f"the data folder {str(folder)!r} lacks msr_paraphrase_train.txt and msr_paraphrase_test.txt, or train.tsv and "
        "dev.tsv; put MRPC there, or what datasets.save_to_disk wrote"
    )


def _dataset(folder: Path | None, hub: str, configuration: str | None) -> tuple[str, Mapping[str, Any]]:
    return (f"the hub's {hub}", from_hub(hub, configuration)) if folder is None else (str(folder), saved(folder))


def _held_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """The examples that train, and every tenth, class by class, that validates."""
    validation, *rest = deal(torch.tensor([example.label for example in examples], dtype=torch.int64), 10, _SEED)
    return [examples[i] for i in torch.cat(rest).tolist()], [examples[i] for i in validation.tolist()]


def _complete(where: str, train: list[Example], validation: list[Example], test: list[Example]) -> Texts:
    for part, examples in (("train", train), ("validation", validation), ("test", test)):
        if not examples:
            raise LabError(f"{where}: the {part} split has no example; name a folder with a complete copy")
    return Texts(train, validation, test)


def _reviews(folder: Path) -> list[Example]:
    found = {name: sorted((folder / name).glob("*.txt")) for name in ("neg", "pos")}
    if not all(found.values()):
        raise LabError(
            f"the folder {str(folder)!r} lacks neg/*.txt or pos/*.txt; name the folder aclImdb, or what "
            "datasets.save_to_disk wrote"
        )
    return [Example((_read(path),), int(name == "pos")) for name, paths in found.items() for path in paths]


def _rows(split: Iterable[Mapping[str, Any]], columns: tuple[str, ...], where: str) -> list[Example]:
    examples = []
    for number, row in enumerate(split):
        try:
            texts, label = tuple(row[column] for column in columns), row["label"]
        except KeyError as error:
            raise LabError(f"{where} has no column {error}; it needs {', '.join(columns)} and label") from error
        if label not in (0, 1):
            raise LabError(
                f"{where}, row {number}: the label is {label}, expected 0 or 1; take a split with its labels"
            )
        examples.append(Example(texts, label))
    return examples


def _pairs(path: Path) -> list[Example]:
    """Quality, two ids and two sentences, separated by tabs; quotation marks are only characters."""
    lines = _read(path).split("\n")
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        columns = line.split("\t")
        if len(columns) != 5 or columns[0] not in ("0", "1"):
            raise LabError(
                f"{path}, line {number}: expected 0 or 1, two ids and two sentences, separated by tabs, but got "
                f"{len(columns)} columns, the first {columns[0]!r}"
            )
        pairs.append(Example((columns[3].strip(), columns[4].strip()), int(columns[0])))
    return pairs


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} cannot be read as UTF-8 text ({error}); take a complete copy") from error
