"""Entities: files read as their format says, spans counted as the task's own script counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.conll import Sentence, corpus, read, to_iob2
from valleys.lab.tasks.shared.metrics import IGNORED, entity_counts, f1, tag_loss

TYPES = ("LOC", "PER")
NUMBERS = {"O": 0, "B-LOC": 1, "I-LOC": 2, "B-PER": 3, "I-PER": 4}
TRAIN = """-DOCSTART- -X- -X- O

Ann NNP I-NP I-PER
Lee NNP I-NP I-PER
saw VBD I-VP O
Rome NNP I-NP I-LOC

-DOCSTART- -X- O O

Oslo NNP I-NP I-LOC
Rome NNP I-NP B-LOC
"""


def write(folder: Path, train: str = TRAIN, valid: str = "Rome B-LOC\n", test: str = "Ann B-PER\nsaw O\n\n\n") -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("eng.train", train), ("eng.testa", valid), ("eng.testb", test)):
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def numbered(*sentences: str) -> torch.Tensor:
    rows = [torch.tensor([NUMBERS.get(tag, IGNORED) for tag in sentence.split()]) for sentence in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def scores(tags: torch.Tensor) -> torch.Tensor:
    """Outputs that predict these tags; where there is none, the first of a place."""
    return 5 * torch.eye(len(NUMBERS))[tags.where(tags != IGNORED, torch.tensor(1))]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("I-PER I-PER O I-PER", "B-PER I-PER O B-PER"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-LOC I-PER", "B-LOC B-PER"),
        ("B-LOC I-PER I-LOC", "B-LOC B-PER B-LOC"),
        ("B-LOC I-LOC B-LOC O O", "B-LOC I-LOC B-LOC O O"),
        ("O I-LOC", "O B-LOC"),
        ("", ""),
    ],
)
def test_iob1_becomes_iob2_and_iob2_stays(before: str, after: str) -> None:
    assert to_iob2(before.split()) == tuple(after.split())
    assert to_iob2(after.split()) == tuple(after.split())


def test_the_original_files_are_read(tmp_path: Path) -> None:
    texts = corpus(write(tmp_path))
    assert texts.train == [
        Sentence(("Ann", "Lee", "saw", "Rome"), ("B-PER", "I-PER", "O", "B-LOC")),
        Sentence(("Oslo", "Rome"), ("B-LOC", "B-LOC")),
    ]
    assert texts.validation == [Sentence(("Rome",), ("B-LOC",))]
    assert texts.test == [Sentence(("Ann", "saw"), ("B-PER", "O"))]
    assert texts.types == TYPES
    assert texts.numbers(texts.train[0]) == [3, 4, 0, 1]
    assert len(corpus(tmp_path, limit=1).train) == 1


@pytest.mark.parametrize("valid", ["valid.txt", "dev.txt"])
def test_the_other_names_of_the_files_are_known(tmp_path: Path, valid: str) -> None:
    write(tmp_path)
    for old, new in (("eng.train", "train.txt"), ("eng.testa", valid), ("eng.testb", "test.txt")):
        (tmp_path / old).rename(tmp_path / new)
    assert len(corpus(tmp_path).train) == 2


def test_a_dataset_saved_to_disk_is_the_same_corpus(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = corpus(write(tmp_path / "files"))
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=list(NUMBERS))),
        }
    )
    rows = {
        part: {
            "tokens": [[*sentence.words] for sentence in sentences],
            "ner_tags": [[NUMBERS[tag] for tag in sentence.tags] for sentence in sentences],
        }
        for part, sentences in (("train", texts.train), ("validation", texts.validation), ("test", texts.test))
    }
    saved = datasets.DatasetDict({part: datasets.Dataset.from_dict(row, features) for part, row in rows.items()})
    saved.save_to_disk(tmp_path / "saved")
    assert corpus(tmp_path / "saved") == texts
    datasets.DatasetDict({"train": saved["train"]}).save_to_disk(tmp_path / "partial")
    with pytest.raises(LabError, match="lacks validation"):
        corpus(tmp_path / "partial")
    (tmp_path / "saved" / "train" / "state.json").write_text("{")
    with pytest.raises(LabError, match="does not load"):
        corpus(tmp_path / "saved")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ann B-PER\nLee\n", "line 2: 'Lee' has not 2 columns, a word ... and its tag"),
        ("Ann B-PER\n\nLee S-PER\n", "line 3: the tag 'S-PER'"),
        ("Ann B-\n", "line 1: the tag 'B-'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=message):
        read(tmp_path / "train.txt")


def test_what_is_wrong_with_a_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"lacks eng\.train or train\.txt"):
        corpus(tmp_path)
    with pytest.raises(LabError, match=r"test split has the entity types ORG, which are not among .* LOC, PER"):
        corpus(write(tmp_path / "types", test="Acme B-ORG\n"))
    with pytest.raises(LabError, match="validation split holds no sentence"):
        corpus(write(tmp_path / "empty", valid="-DOCSTART- O\n\n"))
    broken = write(tmp_path / "broken")
    (broken / "eng.train").write_bytes(b"caf\xe9 O\n")
    with pytest.raises(LabError, match=r"eng\.train cannot be read as UTF-8"):
        corpus(broken)


@pytest.mark.parametrize(
    ("true", "found", "counts"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", (1, 0, 0)),
        ("B-PER I-PER O", "B-PER O O", (0, 1, 1)),  # too short
        ("B-PER O O", "B-PER I-PER O", (0, 1, 1)),  # too long
        ("B-PER I-PER", "B-LOC I-LOC", (0, 1, 1)),  # another type
        ("B-PER I-PER", "B-PER B-PER", (0, 2, 1)),
        ("B-PER B-PER", "B-PER I-PER", (0, 1, 2)),
        ("B-PER B-PER", "B-PER B-PER", (2, 0, 0)),
        ("B-PER I-PER", "I-PER I-PER", (1, 0, 0)),  # I after nothing begins an entity
        ("B-PER I-PER", "B-PER I-LOC", (0, 2, 1)),  # and so does I of another type
        ("O O", "O O", (0, 0, 0)),
        ("O O", "O B-LOC", (0, 1, 0)),
        ("O B-LOC", "O O", (0, 0, 1)),
        ("B-LOC - I-LOC - O", "B-LOC B-PER I-LOC I-LOC O", (1, 0, 0)),  # what has no tag is no gap
        ("- B-LOC - -", "B-PER B-LOC I-LOC B-PER", (1, 0, 0)),
        ("B-LOC - B-LOC", "B-LOC O I-LOC", (0, 1, 2)),
    ],
)
def test_entities_are_counted_as_worked_by_hand(true: str, found: str, counts: tuple[int, ...]) -> None:
    assert entity_counts(scores(numbered(found)), numbered(true)).tolist() == [*map(float, counts)]


def test_long_sentences_keep_their_order() -> None:
    true = numbered(" ".join(["B-LOC - I-LOC - I-LOC O B-PER"] * 60))
    assert entity_counts(scores(true), true).tolist() == [120, 0, 0]


def test_counts_are_means_over_sentences_whatever_the_padding() -> None:
    true, prediction = numbered("B-PER I-PER O", "O", "B-LOC O"), numbered("B-PER I-PER O", "B-LOC", "O O")
    counts = entity_counts(scores(prediction), true)
    assert torch.allclose(counts, torch.tensor([1.0, 1.0, 1.0]) / 3)
    halves = [entity_counts(scores(prediction[part]), true[part]) * len(true[part]) for part in (slice(2), slice(2, 3))]
    assert torch.allclose(sum(halves, torch.zeros(3)) / 3, counts)
    wider = torch.nn.functional.pad(true, (0, 4), value=IGNORED)
    assert torch.equal(entity_counts(scores(torch.nn.functional.pad(prediction, (0, 4), value=1)), wider), counts)
    assert f1(counts) == pytest.approx(50)


def test_the_score_of_nothing_is_zero_and_a_broken_network_has_none() -> None:
    assert f1(torch.zeros(3)) == 0
    assert f1(torch.tensor([3.0, 1.0, 2.0])) == pytest.approx(100 * 2 * 0.75 * 0.6 / 1.35)
    true = numbered("B-PER")
    assert entity_counts(scores(true) * float("nan"), true).isnan().all()


def test_the_loss_adds_up_over_micro_batches_of_unequal_lengths() -> None:
    torch.manual_seed(0)
    true = numbered("B-PER I-PER O O O", "O", "B-LOC O")
    outputs = torch.randn(3, 5, len(NUMBERS))
    loss = tag_loss(2.5)
    whole = loss(outputs, true)
    parts = loss(outputs[:1], true[:1]) / 3 + loss(outputs[1:], true[1:]) * 2 / 3
    assert torch.allclose(parts, whole)
    by_hand = -sum(
        outputs[n, t].log_softmax(0)[true[n, t]] for n in range(3) for t in range(5) if true[n, t] != IGNORED
    )
    assert torch.allclose(whole, torch.as_tensor(by_hand) / (3 * 2.5))


def sentences(folder: Path, content: str) -> list[Sentence]:
    (folder / "train.txt").write_bytes(content.encode())
    return read(folder / "train.txt")


def test_a_byte_order_mark_is_no_word(tmp_path: Path) -> None:
    assert sentences(tmp_path, "\ufeff" + TRAIN) == sentences(tmp_path, TRAIN)
    assert sentences(tmp_path, TRAIN.replace("\n", "\r\n")) == sentences(tmp_path, TRAIN)


@pytest.mark.parametrize("character", ["\u00a0", "\u2028", "\u3000", "\x0b", "\x85", "\x1c"])
def test_only_spaces_and_tabs_end_a_word(tmp_path: Path, character: str) -> None:
    word = f"10{character}000"
    assert sentences(tmp_path, f"{word} CD\tI-NP  O\n") == [Sentence((word,), ("O",))]
    assert sentences(tmp_path, f"{character} CD I-NP O\n") == [Sentence((character,), ("O",))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Ann NNP I-NP O\nRome NNP I-NP\n", "line 2: 'Rome NNP I-NP' has not 4 columns"),  # its tag is lost
        ("Ann O\nRome I-LOC", "line 2: no line break ends it, as if cut off"),
        ("Ann O\rRome I-LOC\r", "line 1: a carriage return alone"),
        ("\ufeff\ufeffAnn O\n", "line 1: .* a second byte order mark"),
    ],
)
def test_files_that_are_cut_off_or_not_as_expected_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(LabError, match=f"train.txt, {message}"):
        sentences(tmp_path, content)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"tokens": [["a", "b"]], "ner_tags": [[0]]}, "train, row 0: the columns tokens.* lists of one length"),
        ({"tokens": [["a"], None], "ner_tags": [["O"], ["O"]]}, "train, row 1: the columns tokens"),
        (
            {"tokens": [["a"], ["", "b"]], "ner_tags": [["O"], ["O", "O"]]},
            "train, row 1: the columns tokens, of strings",
        ),
        ({"tokens": [["a"]], "ner_tags": [[7]]}, "train, row 0: the tag 7 is neither O nor B-TYPE"),
        ({"words": [["a"]]}, "train, row 0: the columns tokens"),
    ],
)
def test_a_dataset_of_another_shape_is_refused(tmp_path: Path, rows: dict[str, list[object]], message: str) -> None:
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), split)).save_to_disk(tmp_path)
    with pytest.raises(LabError, match=f"{tmp_path}, {message}"):
        corpus(tmp_path)


@pytest.mark.parametrize("tag", [-1, 5])
def test_a_number_without_a_tag_is_refused(tmp_path: Path, tag: int) -> None:
    datasets = pytest.importorskip("datasets")
    tags = datasets.Sequence(datasets.ClassLabel(names=list(NUMBERS)))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    split = datasets.Dataset.from_dict({"tokens": [["a"]], "ner_tags": [[0]]}, features)
    table = split.data.table.set_column(1, "ner_tags", [[[tag]]])
    damaged = datasets.Dataset(table.cast(split.data.table.schema))
    datasets.DatasetDict({"train": split, "validation": damaged, "test": split}).save_to_disk(tmp_path)
    with pytest.raises(LabError, match=f"{tmp_path}, validation, row 0: the tag {tag} is neither O nor"):
        corpus(tmp_path)


def test_a_damaged_table_of_a_dataset_is_refused_before_arrow_crashes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = ["ab", "cd", "ef"] * 50
    split = datasets.Dataset.from_dict({"tokens": [[text] for text in texts], "ner_tags": [["O"]] * len(texts)})
    datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), split)).save_to_disk(tmp_path)
    assert len(corpus(tmp_path).test) == len(texts)
    file = next((tmp_path / "test").glob("*.arrow"))
    content = file.read_bytes()
    offsets = b"".join(number.to_bytes(4, "little") for number in range(10))
    assert content.count(offsets) >= 2  # where each list begins
    file.write_bytes(content.replace(offsets, offsets[:16] + (2).to_bytes(4, "little") + offsets[20:]))
    with pytest.raises(LabError, match=f"{tmp_path}, test cannot be read .*; save the dataset again") as caught:
        corpus(tmp_path)
    assert type(caught.value.__cause__).__name__ == "ArrowInvalid"
