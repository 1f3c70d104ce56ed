"""GPT-2: documents packed once and read window by window, a model of the stated size, a perplexity that is one."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Stream, Task
from valleys.lab.tasks import gpt2
from valleys.lab.tasks.data import packed as packed_module
from valleys.lab.tasks.data.packed import _CACHE, END_OF_TEXT, Windows, packed
from valleys.lab.tasks.gpt2 import build, load
from valleys.lab.tasks.table import ENTRIES

pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = {"train": "the cat sat on the mat", "valid": "the mat sat", "test": "on the cat"}


def write_vocabulary(folder: Path, names: tuple[str, str] = ("vocab.json", "merges.txt"), end: bool = True) -> Path:
    """All bytes, "th" and "the", and the end of a text."""
    folder.mkdir(exist_ok=True)
    tokens = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "th", "the", *([END_OF_TEXT] if end else [])]
    (folder / names[0]).write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    (folder / names[1]).write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")
    return folder


def write_documents(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts), encoding="utf-8")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_vocabulary(tmp_path)
    for part, text in TEXTS.items():
        write_documents(tmp_path / f"webtext.{part}.jsonl", [text] * 40)
    return tmp_path


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_vocabulary(tmp_path)
    return tokenizers.ByteLevelBPETokenizer.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))


def configuration(network: torch.nn.Module) -> Any:
    return network.network.config  # type: ignore[union-attr]


def row(path: Path) -> list[int]:
    tokens: list[int] = np.fromfile(path, "<u2").tolist()
    return tokens


def test_documents_are_joined_by_the_end_of_text(tmp_path: Path, tokenizer: Any) -> None:
    first = write_documents(tmp_path / "a.train.jsonl", ["the", "\u00e9 the"])
    second = write_documents(tmp_path / "b.train.jsonl", ["mat"])
    path = packed([first, second], tokenizer)
    tokens = [tokenizer.id_to_token(token) for token in row(path)]
    assert tokens == ["the", END_OF_TEXT, "\u00c3", "\u00a9", "\u0120", "the", END_OF_TEXT, "m", "a", "t", END_OF_TEXT]
    assert path.parent == tmp_path / _CACHE
    assert [*path.parent.iterdir()] == [path]
    assert row(packed([first, second], tokenizer, limit=1)) == [257, 258, *row(path)[-4:]]


def test_tokens_are_kept_until_something_changes(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_documents(tmp_path / "a.train.jsonl", ["the"])
    path = packed([file], tokenizer)
    path.write_bytes(b"kept")
    assert packed([file], tokenizer) == path
    assert path.read_bytes() == b"kept"
    write_documents(file, ["the mat"])
    changed = packed([file], tokenizer)
    assert changed != path
    write_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n", encoding="utf-8")
    other = tokenizers.ByteLevelBPETokenizer.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert packed([file], other) not in (path, changed)


def test_windows_predict_every_token_but_the_first_once(tmp_path: Path) -> None:
    np.arange(65_000, 65_024, dtype="<u2").tofile(tmp_path / "row.bin")
    windows = Windows(tmp_path / "row.bin", 5)
    assert len(windows) == 4
    copied = pickle.loads(pickle.dumps(windows))
    for number in range(4):
        inputs, targets = copied[number]
        assert inputs.tolist() == list(range(65_000 + 5 * number, 65_005 + 5 * number))
        assert targets.tolist() == list(range(65_001 + 5 * number, 65_006 + 5 * number))
        assert inputs.dtype == targets.dtype == torch.int64
    for number in (-1, 4):
        with pytest.raises(IndexError):
            windows[number]
    np.arange(21, dtype="<u2").tofile(tmp_path / "row.bin")
    assert len(windows) == 4
    np.arange(20, dtype="<u2").tofile(tmp_path / "row.bin")
    assert len(windows) == 3
    (tmp_path / "row.bin").write_bytes(b"")
    assert len(windows) == 0


def test_an_interrupted_run_leaves_nothing_behind(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_documents(tmp_path / "a.train.jsonl", ["the"])
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"text": 3}\n')
    monkeypatch.setattr("valleys.lab.tasks.data.packed._TOGETHER", 1)
    with pytest.raises(LabError, match="line 2: the text is 3, which is no string"):
        packed([file], tokenizer)
    assert not [*(tmp_path / _CACHE).iterdir()]


@pytest.mark.parametrize("line", [b"the", b'{"txt": "the"}', b"[1]", b'{"text": "caf\xe9"}'])
def test_a_broken_line_is_named(tmp_path: Path, tokenizer: Any, line: bytes) -> None:
    file = tmp_path / "a.train.jsonl"
    file.write_bytes(b'{"text": "the"}\n' + line + b"\n")
    with pytest.raises(LabError, match=r"a\.train\.jsonl, line 2: expected JSON with the key \"text\""):
        packed([file], tokenizer)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, tokenizer: Any) -> None:
    file = write_documents(tmp_path / "a.train.jsonl", ["the"])
    (tmp_path / _CACHE).touch()
    with pytest.raises(LabError, match=r"cannot be kept in its folder 'packed' .* make it writable"):
        packed([file], tokenizer)


def test_gpt2_has_the_papers_size() -> None:
    with torch.device("meta"):
        size = gpt2._SIZES["paper"]
        network = build(50257, size.context, size.layers, size.width, size.heads)
    assert sum(parameter.numel() for parameter in network.parameters()) == 354_823_168
    assert (size.batch_size, size.steps) == (4096, 5000)
    assert configuration(network).n_head == 16


def test_smoke_is_the_same_pipeline_and_learns(folder: Path) -> None:
    entry = ENTRIES["gpt2-345m"]
    assert entry.presets == ("paper", "smoke")
    task = entry.load(folder, "smoke")
    assert isinstance(task, Task)
    assert isinstance(task.train, Stream)
    assert (task.name, task.variant, task.maximize) == ("gpt2-345m", "smoke", False)
    assert len(task.train) == (40 * 19 - 1) // 64
    assert task.batch_size == len(task.train)
    assert task.epochs == 200
    device = torch.device("cpu")
    ((inputs, targets),) = task.train.reader(device).read([torch.arange(task.batch_size)])
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(targets, torch.Tensor)
    torch.manual_seed(0)
    network = task.build_model()
    with torch.no_grad():
        first = task.score(task.metric(network(inputs), targets))
    assert first == pytest.approx(259, rel=0.1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(15):
        optimizer.zero_grad()
        task.loss(network(inputs), targets).backward()
        optimizer.step()
    network.eval()
    choices = [torch.arange(1), torch.arange(1, len(task.validation))]
    with torch.no_grad():
        parts = [
            task.metric(network(tokens), following) * len(choice)
            for choice, (tokens, following) in zip(choices, task.validation.reader(device).read(choices), strict=True)
        ]
    means = sum(parts[1:], parts[0]) / len(task.validation)
    assert task.score(means) == pytest.approx(math.exp(means.item()), rel=1e-5)
    assert task.score(means) < 40
    assert task.score(torch.tensor(100.0)) == pytest.approx(math.exp(100))  # beyond 32 bits
    assert task.score(torch.tensor(1000.0)) == math.inf


def test_epochs_make_the_papers_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpt2._SIZES, "paper", gpt2._Size(1, 8, 1, 16, 10, 50, 100.0, 8))
    task = load(folder)
    assert len(task.train) == 47  # four batches of ten: 13 epochs make the fifty steps
    assert (task.epochs, task.batch_size, task.variant) == (13, 10, "paper")
    network = task.build_model()
    assert configuration(network).vocab_size == 259


def test_the_other_names_of_the_vocabulary_are_known(tmp_path: Path) -> None:
    folder = write_vocabulary(tmp_path / "gpt", ("encoder.json", "vocab.bpe"))
    assert gpt2._tokenizer(folder).encode("the").ids == [257]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr("tokenizers.Tokenizer.from_pretrained", offline)
    with pytest.raises(LabError, match=r"none was named; name the folder .* webtext\.train\.jsonl"):
        load()
    with pytest.raises(LabError, match="does not exist"):
        load(tmp_path / "nowhere")
    write_documents(tmp_path / "webtext.train.jsonl", ["the"])
    with pytest.raises(LabError, match=r"holds no \*\.valid\.jsonl that is a file"):
        load(tmp_path)
    write_documents(tmp_path / "webtext.valid.jsonl", ["the"])
    write_documents(tmp_path / "webtext.test.jsonl", ["the"])
    with pytest.raises(LabError, match=r"no vocab\.json .* \(no network\); put GPT-2's two files there"):
        load(tmp_path)
    write_vocabulary(tmp_path, end=False)
    with pytest.raises(LabError, match=r"a vocabulary of 258 tokens, .* <\|endoftext\|> among them"):
        load(tmp_path)
    write_vocabulary(tmp_path)
    with pytest.raises(LabError, match=r"webtext\.train\.jsonl .* hold fewer than 65 tokens"):
        load(tmp_path, "smoke")
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    with pytest.raises(LabError, match=r"vocab\.json and merges\.txt do not load"):
        load(tmp_path)


def test_marks_and_line_ends_of_other_systems_are_no_text(tmp_path: Path, tokenizer: Any) -> None:
    file = write_documents(tmp_path / "a.train.jsonl", ["the", "th\u2028\u00e9 \U0001f600"])
    plain = row(packed([file], tokenizer))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert row(packed([file], tokenizer)) == plain
    assert tokenizer.decode(plain[2:-1]) == "th\u2028\u00e9 \U0001f600"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a\\ud83d"}', r"expected JSON .* '\\ud83d' in position 1"),
        (b'{"text": "\\ude00"}', r"expected JSON .* '\\ude00' in position 0"),
        (b'{"text": "a\xed\xa0\x80"}', "expected JSON"),
        (b'{"text": ' + b"[" * 100_000, "expected JSON"),
        (b'{"text": ' + b"1" * 5_000 + b"}", "expected JSON"),
        (b'{"text": "a"', "expected JSON"),
        ('{"text": "a"}'.encode("utf-16-le"), "expected JSON"),
        (b"\xef\xbb\xbf" + b'{"text": "a"}', "expected JSON"),
        (b"", "expected JSON"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path, tokenizer: Any, line: bytes, message: str) -> None:
    file = tmp_path / "a.train.jsonl"
    file.write_bytes(b'{"text": "the"}\n' + line + b"\n")
    with pytest.raises(LabError, match=rf"a\.train\.jsonl, line 2: {message}"):
        packed([file], tokenizer)


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.train.jsonl").write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert tokenizer.decode(row(packed([tmp_path / "a.train.jsonl"], tokenizer))[:-1]) == "\U0001f600"


def test_hidden_files_are_left_out_and_what_is_no_file_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gpt2._files(folder, "train")
    (folder / "._webtext.train.jsonl").write_bytes(b"\0\5\x16\7")
    assert gpt2._files(folder, "train") == before
    (folder / "x.train.jsonl").symlink_to(folder / "nowhere")
    with pytest.raises(LabError, match=r"holds no x\.train\.jsonl that is a file"):
        gpt2._files(folder, "train")

    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(LabError, match=r"cannot read .*webtext\.train\.jsonl: Permission denied"):
        next(packed_module._documents(before[0]))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("merges.txt", "th e\n", ""),
        ("vocab.json", '"the": 257', '"the": 258'),
        ("vocab.json", '"the": 257', '"the": 9999'),
        ("vocab.json", '"a": ', '"aa": '),
    ],
)
def test_a_vocabulary_that_would_lose_text_is_refused(tmp_path: Path, name: str, old: str, new: str) -> None:
    file = write_vocabulary(tmp_path) / name
    content = file.read_text(encoding="utf-8")
    assert content.count(old) == 1
    file.write_text(content.replace(old, new), encoding="utf-8")
    with pytest.raises(LabError, match=r"vocab\.json and merges\.txt do not load \(the tokens 0, 1, 2 \.\.\. are not"):
        gpt2._tokenizer(tmp_path)
