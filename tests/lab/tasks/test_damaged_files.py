"""Files damaged at random: each reader returns what the damaged file says, or refuses it in one line with its name."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lab.tasks.cifar_data import examples
from lab.tasks.damaged_files import damaged
from valleys.lab.errors import LabError
from valleys.lab.tasks import gpt2, shakespeare
from valleys.lab.tasks.data import cifar_files, conll, packed, texts
from valleys.lab.tasks.data.files import read_text
from valleys.lab.tasks.data.idx import read_idx
from valleys.lab.tasks.data.image_folder import _decoded

EXAMPLES = settings(max_examples=200, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def outcome(read: Callable[[Path], Any], path: Path, content: bytes) -> Any:
    """Return what the reader does; None if it refuses the file, as it may: in one line that names it."""
    path.write_bytes(content)
    try:
        return read(path)
    except LabError as error:
        message = str(error)
    assert str(path.parent) in message
    assert "\n" not in message
    return None


def text_of(content: bytes) -> str | None:
    """The text of a file as documented, or None where it is none."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or not text.strip() else re.sub("\r\n", "\n", text)


# --- texts -----------------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- O O

Zoë NNP I-NP I-PER
paid VBD I-VP O
10\u00a0000 CD I-NP O

Rome\tNNP\tI-NP\tI-LOC
Oslo NNP I-NP B-LOC
""".encode()


def conll_reference(content: bytes) -> list[tuple[list[str], list[str]]] | None:
    text = text_of(content)
    if text is None or re.search("[\r\ufeff]", text) or not re.fullmatch(r"(.*\n)*", text, re.DOTALL):
        return None
    if text and text[-1] != "\n":
        return None
    rows = [[column for column in re.split("[ \t]", line) if column] for line in re.split("\n", text)]
    blocks = itertools.groupby(rows, key=lambda row: bool(row) and row[0] != "-DOCSTART-")
    sentences = [list(block) for is_sentence, block in blocks if is_sentence]
    columns = {len(row) for block in sentences for row in block}
    tags = [row[-1] for block in sentences for row in block]
    if len(columns) > 1 or 1 in columns or not all(re.fullmatch("O|[BI]-.+", tag, re.DOTALL) for tag in tags):
        return None
    return [([row[0] for row in block], [row[-1][2:] for row in block]) for block in sentences]


@EXAMPLES
@given(damaged(CONLL))
def test_columns(folder: Path, content: bytes) -> None:
    sentences = outcome(conll.read, folder / "eng.train", content)
    expected = conll_reference(content)
    assert (sentences is None) == (expected is None)
    assert sentences is None or [([*s.words], [tag[2:] for tag in s.tags]) for s in sentences] == expected


PAIRS = (
    '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tAnn\u2028said "no\t\u00a0So\x85 she\n0\t9\t1\ta b\tc\n'
)


def pairs_reference(content: bytes) -> list[texts.Example] | None:
    text = text_of(content)
    if text is None or re.search("[\r\ufeff]", text):
        return None
    lines = text.split("\n")
    if re.fullmatch(" *Quality *(\t.*)?", lines[0], re.DOTALL):
        lines = lines[1:]
    pairs = []
    for line in filter(None, lines):
        match = re.fullmatch("( *)([01])( *)\t[^\t]*\t[^\t]*\t([^\t]+)\t([^\t]+)", line, re.DOTALL)
        sentences = tuple(match[part].strip(" ") for part in (4, 5)) if match else ("",)
        if not match or not all(sentences):
            return None
        pairs.append(texts.Example(sentences, int(match[2])))
    return pairs


@EXAMPLES
@given(damaged(PAIRS.encode()), st.booleans())
def test_pairs(folder: Path, content: bytes, header: bool) -> None:
    if not header:
        content = content.partition(b"\n")[2]
    assert outcome(texts._pairs, folder / "train.tsv", content) == pairs_reference(content)


@EXAMPLES
@given(damaged("Good\u00a0film.\nI liked\u2028it.".encode()))
def test_reviews(folder: Path, content: bytes) -> None:
    review = outcome(lambda path: read_text(path, ""), folder / "0_9.txt", content)
    assert review == text_of(content)


@EXAMPLES
@given(
    damaged(b"*** START OF THE PROJECT GUTENBERG EBOOK X ***\nTo be\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n")
)
def test_works(folder: Path, content: bytes) -> None:
    work = outcome(shakespeare._text, folder / "a_gut.txt", content)
    text = text_of(content) or ""
    start, end = re.search(r"\*\*\* ?START OF .*GUTENBERG.*\n", text), re.search(r"\*\*\* ?END OF .*GUTENBERG", text)
    body = text[start.end() if start else 0 : end.start() if end else len(text)].strip()
    assert work == (None if not text or (start and not end) else body)


LINES = [json.dumps({"text": text}, ensure_ascii=False) for text in ("caf\u00e9 \U0001f600", "a\u2028b\nc")]


@EXAMPLES
@given(damaged("".join(f"{line}\n" for line in LINES).encode()))
def test_documents(folder: Path, content: bytes) -> None:
    def line_of(line: bytes) -> str:
        text = json.JSONDecoder().decode(line.decode("utf-8"))["text"]
        return text.encode("utf-8").decode("utf-8")  # type: ignore[no-any-return]

    documents = outcome(lambda path: [*packed._documents(path)], folder / "a.train.jsonl", content)
    try:
        lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", content.removeprefix(b"\xef\xbb\xbf"))
        expected = [*map(line_of, lines)]
    except Exception:
        expected = None
    assert documents == expected


# --- arrays ----------------------------------------------------------------------------------------------------------

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
IDX = bytes([0, 0, 8, 3]) + struct.pack(">3I", *ARRAY.shape) + ARRAY.tobytes()


def idx_reference(content: bytes) -> np.ndarray | None:
    try:
        plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        zero, code, dimensions, *shape = struct.unpack(">HBB3I", plain[:16])
        array = np.frombuffer(plain, np.uint8, offset=16).reshape(shape)
    except Exception:
        return None
    return array if (zero, code, dimensions) == (0, 8, 3) and array.size else None


@EXAMPLES
@given(damaged(IDX) | damaged(gzip.compress(IDX, mtime=0)))
def test_idx(folder: Path, content: bytes) -> None:
    array = outcome(lambda path: read_idx(path, 3), folder / "images", content)
    expected = idx_reference(content)
    assert (array is None) == (expected is None)
    assert array is None or np.array_equal(array.numpy(), np.asarray(expected))


PIXELS, LABELS = examples(2, 0, 10)
RECORDS = b"".join(bytes([label]) + row.tobytes() for row, label in zip(PIXELS, LABELS, strict=True))


@EXAMPLES
@given(damaged(RECORDS), st.sampled_from([cifar_files.CIFAR10, cifar_files.CIFAR100]))
def test_cifar_records(folder: Path, content: bytes, kind: cifar_files.Cifar) -> None:
    value = outcome(lambda path: cifar_files._read(kind, path), folder / "data_batch_1.bin", content)
    before = kind.label_bytes
    sound = bool(content) and len(content) % (3072 + before) == 0
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3072 + before) if sound else np.empty((0, 3072 + before))
    assert (value is not None) == (sound and bool((rows[:, before - 1] < kind.classes).all()))
    if value is not None:
        assert np.array_equal(value[0].flatten(1).numpy(), rows[:, before:])
        assert value[1].tolist() == rows[:, before - 1].tolist()


@EXAMPLES
@given(st.data(), st.sampled_from([2, 3, 4]))
def test_cifar_pickles(folder: Path, data: st.DataObject, protocol: int) -> None:
    """The pixels of a damaged pickle are bytes of the file, where that has them as such; its labels nobody knows."""
    whole = pickle.dumps({b"labels": LABELS, b"data": PIXELS}, protocol=protocol)
    head, pixels = whole[:40], whole[40:]
    content = data.draw(damaged(whole) | damaged(head).map(lambda start: start + pixels) | damaged(whole[-60:]).map(
        lambda end: whole[:-60] + end
    ))  # fmt: skip
    value = outcome(lambda path: cifar_files._read(cifar_files.CIFAR10, path), folder / "data_batch_1", content)
    if value is None:
        assert content != whole
        return
    images, labels = value
    assert images.shape == (len(labels), 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.min() >= 0
    assert labels.max() <= 9
    assert protocol == 2 or images.numpy().tobytes() in content


# --- images ----------------------------------------------------------------------------------------------------------


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    image = Image.fromarray(np.arange(126, dtype=np.uint16).reshape(9, 14) * 521) if kind == "grey" else None
    (image or Image.fromarray(pixels)).save(file, "PNG" if kind == "grey" else kind, **options)
    return file.getvalue()


IMAGES = {
    "PNG": encoded("PNG"),
    "grey": encoded("grey"),
    "JPEG": encoded("JPEG"),
    "BMP": encoded("BMP"),
    "WEBP": encoded("WEBP", lossless=True),
}


def decoded(path: Path) -> Any:
    return _decoded(path, 8)


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind: str, folder: Path) -> None:
    """PNG has checksums: it is read as it was or not at all. Other kinds have none, and only a cut is seen."""
    whole = IMAGES[kind]
    original = outcome(decoded, folder / "image", whole)
    assert original is not None

    @EXAMPLES
    @given(damaged(whole))
    def check(content: bytes) -> None:
        image = outcome(decoded, folder / "image", content)
        if image is not None:
            assert image.shape == (3, 8, 8)
            assert image.dtype == torch.uint8
            is_cut = whole.startswith(content)
            assert torch.equal(image, original) or not (is_cut or kind in ("PNG", "grey"))

    check()


# --- vocabularies ----------------------------------------------------------------------------------------------------


def test_vocabularies(folder: Path) -> None:
    """A tokenizer that is returned loses no byte of a text."""
    tokenizers = pytest.importorskip("tokenizers")
    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "th", "the", packed.END_OF_TEXT]
    files = {
        "vocab.json": json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False).encode(),
        "merges.txt": b"#version: 0.2\nt h\nth e\n",
    }
    text = "the th\u00e9 \U0001f600" + "".join(map(chr, range(300)))

    @EXAMPLES
    @given(st.data(), st.sampled_from(sorted(files)))
    def check(data: st.DataObject, name: str) -> None:
        for other, whole in files.items():
            (folder / other).write_bytes(whole)
        content = data.draw(damaged(files[name]))
        tokenizer = outcome(lambda _: gpt2._tokenizer(folder), folder / name, content)
        if tokenizer is None:
            assert content != files[name]
            return
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert max(ids) < tokenizer.get_vocab_size() == len(tokens)

    check()
