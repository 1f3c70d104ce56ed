from __future__ import annotations

import os
from pathlib import Path

import pytest

from valleys.lab.atomic_write import sweep, write_whole


@pytest.mark.parametrize(("content", "found"), [("a\nü\n", "a\nü\n".encode()), (b"\x89PNG\n", b"\x89PNG\n")])
def test_text_and_bytes_are_written_as_they_are(tmp_path: Path, content: str | bytes, found: bytes) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    write_whole(path, content)
    assert path.read_bytes() == found
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, mode: int) -> None:
        raise OSError("full")

    path = tmp_path / "report"
    path.write_text("old")
    monkeypatch.setattr(Path, "chmod", fails)
    with pytest.raises(OSError, match="full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_it_is_as_readable_as_its_neighbours(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "report", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "report").stat().st_mode & 0o777 == 0o640


def test_old_litter_is_swept_and_nothing_else(tmp_path: Path) -> None:
    litter = [
        ".report.html.abcd1234",
        ".runs.csv.x_y_z_12",
        ".attribution.json.abcdefgh",
        ".landscape-surface.png.12345678",
        "run.17.new",
    ]
    others = ["report.html", ".env.abcdefgh", "run.pt", ".report.html", "notes.new.txt"]
    for name in (*litter, *others):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".report.md.abcdefgh").touch()  # somebody is writing
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".report.md.abcdefgh"}
    sweep(tmp_path / "nowhere")
