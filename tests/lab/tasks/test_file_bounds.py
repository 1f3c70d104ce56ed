"""Files that would take all memory, folders with what systems leave in them, and one line for every refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from valleys.lab.errors import LabError
from valleys.lab.tasks.data.files import list_names, read_lines, read_text

# Each small file would need 500 MB or more if it were believed.
BOMBS = """
import gzip, resource, struct, sys, zlib
from pathlib import Path
from PIL import Image
from valleys.lab.errors import LabError
from valleys.lab.tasks.data import cifar_files, idx, image_folder

folder = Path(sys.argv[1])
path = folder / "file"
Image.new("1", (8, 8)).save(path, "PNG")
image_folder._decoded(path, 8)  # Pillow is loaded now

def tried(name, read):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read()
    except LabError as error:
        print(name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error, sep="|")

def idx_of(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)

def png(width, height):
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    rows = zlib.compress((b"\\0" + bytes((width + 7) // 8)) * height)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

with gzip.open(path, "wb", compresslevel=1) as file:
    file.write(idx_of(2, 28, 28))
    for _ in range(500):
        file.write(bytes(2**20))
tried("longer than announced", lambda: idx.read_idx(path, 3))
path.write_bytes(gzip.compress(idx_of(2**20, 28, 28)))
tried("shorter than announced", lambda: idx.read_idx(path, 3))
path.write_bytes(idx_of(2**31, 28, 28))
tried("huge announcement", lambda: idx.read_idx(path, 3))
path.write_bytes(png(1_000_000, 1))
tried("a line of pixels", lambda: image_folder._decoded(path, 256))
path.write_bytes(png(10_000, 10_000))
tried("many pixels", lambda: image_folder._decoded(path, 256))
path.write_bytes(png(20_000, 20_000))
tried("too many pixels", lambda: image_folder._decoded(path, 256))
path.write_bytes(b"\\x80\\x02]r\\xff\\xff\\xff\\x01.")
tried("a large number in the memo", lambda: cifar_files._read(cifar_files.CIFAR10, path))
path.write_bytes(b"\\x80\\x05\\x96" + struct.pack("<Q", 2**29) + b"abc.")
tried("a long array of bytes", lambda: cifar_files._read(cifar_files.CIFAR10, path))
"""

MESSAGES = {
    "longer than announced": "announces 2 x 28 x 28 bytes, more follow",
    "shorter than announced": "announces 1048576 x 28 x 28 bytes, 0 follow",
    "huge announcement": "announces 2147483648 x 28 x 28 bytes, more than the 1073741824 that are read",
    "a line of pixels": "1000000 x 1 pixels would become 256000000 x 256, too many",
    "many pixels": "100000000 pixels) exceeds limit",
    "too many pixels": "400000000 pixels) exceeds limit",
    "a large number in the memo": "it has no entry 'data' and no 'labels'",
    "a long array of bytes": "it cannot be unpickled",
}


@pytest.mark.skipif(sys.platform == "win32", reason="it has no module resource")
def test_small_files_take_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", BOMBS, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
    lines = {name: (int(growth), message) for name, growth, message in (x.split("|") for x in output.splitlines())}
    assert lines.keys() == MESSAGES.keys()
    unit = 2**10 if sys.platform == "darwin" else 1
    for name, (growth, message) in lines.items():
        assert MESSAGES[name] in message
        assert str(tmp_path / "file") in message
        assert growth // unit < 100_000, (name, growth)  # kilobytes


def test_hidden_names_are_not_listed_and_endings_count_in_either_case(tmp_path: Path) -> None:
    for name in ("b.TXT", "a.txt", "._a.txt", ".DS_Store", "c.text", ".txt"):
        (tmp_path / name).touch()
    assert list_names(tmp_path, ".txt") == ["a.txt", "b.TXT"]
    assert list_names(tmp_path, ".txt", ".text") == ["a.txt", "b.TXT", "c.text"]
    assert list_names(tmp_path) == ["a.txt", "b.TXT", "c.text"]
    assert list_names(tmp_path / "nowhere") == list_names(tmp_path / "a.txt") == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", fails)
    with pytest.raises(LabError, match=f"cannot list the folder {tmp_path}: Permission denied; make it readable"):
        list_names(tmp_path)


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffa\u2028b\x0bc\x85\r\nd\x1ce\n\nf".encode())
    assert read_lines(path, "") == ["a\u2028b\x0bc\x85", "d\x1ce", "", "f"]
    path.write_bytes(b"")
    with pytest.raises(LabError, match=r"x\.txt is empty; take a copy"):
        read_lines(path, "take a copy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\rc\n", "line 2: a carriage return alone, .*; convert it"),
        ("a\n\ufeffb\n".encode(), "line 2: .* second byte order mark; convert it"),
        ("a\nb".encode("utf-16-le"), "line 1: a NUL, as in UTF-16 or in a damaged file, is no text; convert it"),
        (b"a\nb\nc\0", "line 3: a NUL"),
        ("a".encode("utf-16"), "cannot be read as UTF-8 text .* position 0"),
        (b"\xed\xa0\x80", "cannot be read as UTF-8 text"),
    ],
)
def test_what_is_no_text_in_utf_8_is_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(LabError, match=f"x.txt.* {message}"):
        read_lines(tmp_path / "x.txt", "convert it")


def test_a_text_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(LabError, match=f"{path} cannot be read as UTF-8 text"):
            read_text(path, "")


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(LabError("x.txt: other\nlibrary's\n words")) == "x.txt: other library's  words"
