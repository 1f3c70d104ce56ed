"""A disk or a database that fails costs one line, which names the file and the remedy; finished runs are kept."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lab_fakes
from valleys.lab import LabError, compare
from valleys.lab.run import weights
from valleys.lab.run.checkpoint import Checkpoint
from valleys.lab.store.database import check_folder
from valleys.lab.store.store import Store

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some-file")


def compared(out: Path, rounds: int = 2) -> Any:
    return compare(
        lab_fakes.task(),
        optimizers=[lab_fakes.spec("sgd")],
        batch_size=16,
        rounds=rounds,
        trials=2,
        progress=False,
        out=out,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison with one finished round."""
    out = tmp_path_factory.mktemp("sound") / "out"
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        compared(out, 1)
    return out


def quick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("valleys.lab.run.trainer.train", lab_fakes.train)
    patch.setattr("valleys.lab.report.document.write", lambda *arguments, **options: {})


def one_line(out: Path) -> str:
    with pytest.raises(LabError) as caught:
        compared(out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_full_disk_names_the_file_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    runs = Mock(side_effect=[lab_fakes.record(), lab_fakes.record(), FULL])
    monkeypatch.setattr("valleys.lab.run.trainer.train", runs)
    message = one_line(tmp_path / "out")
    assert message.startswith("some-file: No space left on device; ")
    assert "the same command goes on" in message
    again = Mock(side_effect=lab_fakes.train)
    monkeypatch.setattr("valleys.lab.run.trainer.train", again)
    compared(tmp_path / "out")
    assert again.call_count == 4, "two rounds of two trials and a fresh seed, without the two that were finished"


def test_a_folder_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)

    def train(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(tmp_path / "out")
        return lab_fakes.train(*arguments, **options)

    monkeypatch.setattr("valleys.lab.run.trainer.train", train)
    assert str(tmp_path / "out") in one_line(tmp_path / "out")


@pytest.mark.parametrize("where", ["report.document.write", "run.environment.environment"])
def test_a_report_that_cannot_be_written_is_one_line(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)

    def full(*arguments: Any, **options: Any) -> None:
        raise FULL

    monkeypatch.setattr("valleys.lab.report.document.write", full)
    assert one_line(tmp_path / "out").startswith("some-file: No space left on device")


DAMAGED_WORDS = ("record", "curve", "validation", "round", "layout", "ranks", "configuration", "space:sgd", '{"', "lr")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["bytes", "page", "cut", "text"]))
def test_a_damaged_database_is_one_line_or_does_no_harm(
    seed: int, kind: str, sound: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    chance, data = random.Random(seed), bytearray((sound / "comparison.db").read_bytes())
    if kind == "bytes":
        for _ in range(chance.choice((1, 10, 100))):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == "page":
        page = 4096 * chance.randrange(len(data) // 4096)
        data[page : page + 4096] = chance.randbytes(4096)
    elif kind == "cut":
        del data[chance.randrange(len(data)) :]
    else:
        word = chance.choice(DAMAGED_WORDS).encode()
        place = max(data.find(word, chance.randrange(len(data))), 0)
        data[place : place + len(word)] = bytes(chance.choice(b'x"{}0') for _ in word)
    out = tmp_path_factory.mktemp("out")
    (out / "comparison.db").write_bytes(bytes(data))
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        try:
            compared(out)
        except LabError as error:
            message = str(error)
        else:
            message = "comparison.db; --out"
    assert "\n" not in message
    assert re.search(r"comparison.db|holds a comparison", message)
    assert capfd.readouterr().err == ""


def test_a_database_error_names_file_and_remedy(tmp_path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    shutil.copytree(sound, tmp_path / "out")
    data = bytearray((tmp_path / "out" / "comparison.db").read_bytes())
    data[8192:] = bytes(len(data) - 8192)
    (tmp_path / "out" / "comparison.db").write_bytes(bytes(data))
    message = one_line(tmp_path / "out")
    assert str(tmp_path / "out" / "comparison.db") in message
    assert "malformed" in message


def test_an_error_of_anything_else_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), Store(tmp_path / "out"):
        raise KeyError("mine")


def test_checkpoints_and_weights_that_cannot_be_written_are_errors_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    for save in (lambda path: weights.save(torch.nn.Linear(1, 1), path), lambda path: Checkpoint(path).save({}, {})):
        with pytest.raises(OSError, match="cannot be written") as caught:
            save(tmp_path / "folder" / "run.pt")
        assert caught.value.filename == str(tmp_path / "folder" / "run.pt")
        assert list((tmp_path / "folder").iterdir()) == []


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    weights.save(torch.nn.Linear(1, 1), tmp_path / "run.pt")
    whole = (tmp_path / "run.pt").read_bytes()
    for damaged in (b"", b"x" * 100, whole[: len(whole) // 2]):
        (tmp_path / "run.pt").write_bytes(damaged)
        with pytest.raises(LabError, match=r"run.pt are damaged; delete the file, and the run is trained again"):
            weights.load(tmp_path / "run.pt", torch.device("cpu"))


def test_a_folder_is_checked_without_being_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(LabError, match="file is no folder; choose another --out"):
            check_folder(path)
    with pytest.raises(LabError, match="cannot be made: File name too long; choose another --out"):
        check_folder(tmp_path / ("a" * 300))
    with pytest.raises(LabError, match="has control characters"):
        check_folder(tmp_path / "a\x00b")
