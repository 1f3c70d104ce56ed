"""Wheels and sdist: the same bytes twice, everything in it, one version everywhere."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import build_hook
import valleys
from build_hook import build, files, source_files

ROOT = Path(__file__).parents[1]

_LEFT_OUT = (".ci", ".git/", ".hypothesis", ".mypy_cache", ".venv", "build/", "dist/", "runs/")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("dist") for _ in range(2)]
    for folder in folders:
        build(folder).check_returncode()
    return folders


def test_wheel_and_sdist_are_the_same_bytes_each_time(built: list[Path]) -> None:
    first, second = ({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(f.iterdir())} for f in built)
    assert first == second
    assert sorted(first) == [f"valleys-{valleys.__version__}-py3-none-any.whl", f"valleys-{valleys.__version__}.tar.gz"]


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built: list[Path]) -> None:
    (wheel,) = built[0].glob("*.whl")
    names = files(wheel)
    assert names == source_files()
    for needed in (
        "py.typed",
        "kernels/c/update.c",
        "paper/playground/app.js",
        "lab/report/html/style.css",
        "lab/report/schema.json",
        "lab/report/html/template.html.j2",
    ):
        assert f"valleys/{needed}" in names


def test_an_editable_installation_compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VALLEYS_PREBUILT", "1")
    monkeypatch.setenv("CC", "no-such-compiler")
    hook = build_hook.load().PrebuiltKernels(str(ROOT), {}, None, None, str(tmp_path), "wheel")
    data: dict[str, Any] = {"force_include": {}, "pure_python": True}
    hook.initialize("editable", data)
    hook.finalize("editable", data, "")
    assert data == {"force_include": {}, "pure_python": True}
    with pytest.raises(RuntimeError, match="no C compiler"):
        hook.initialize("standard", data)


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "no C compiler"), ("false", "false .* failed")])
def test_a_wheel_with_kernels_is_not_made_without_them(tmp_path: Path, compiler: str, reason: str) -> None:
    process = build(tmp_path, "-t", "wheel", VALLEYS_PREBUILT="1", CC=compiler)
    assert process.returncode
    assert re.search(f"{reason}.*set CC", process.stderr, flags=re.DOTALL)
    assert not list(tmp_path.iterdir())


def test_the_sdist_has_what_its_tests_need(built: list[Path]) -> None:
    (archive,) = built[0].glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}
    for needed in (
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "Makefile",
        "hatch_build.py",
        "docs/lab.md",
        "tests/conftest.py",
        "src/valleys/alto.py",
        "examples/my_task.py",
        "examples/read_runs.py",
        "docs/conf.py",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(_LEFT_OUT)]


def test_the_sdist_is_the_same_where_the_site_was_built_and_runs_lie(built: list[Path], tmp_path: Path) -> None:
    checkout, dist = tmp_path / "checkout", tmp_path / "dist"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv*", "__pycache__", "build"))
    for name in ("build/site", "runs/demo", ".venv-3.13/bin", ".mypy_cache/3.13", "dist"):
        (checkout / name).mkdir(parents=True, exist_ok=True)
        (checkout / name / "some.txt").write_text("some")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(dist)], cwd=checkout, check=True, capture_output=True
    )
    (archive,) = dist.glob("*.tar.gz")
    assert archive.read_bytes() == (built[0] / archive.name).read_bytes()


def test_one_version_everywhere() -> None:
    version = valleys.__version__
    assert metadata.version("valleys") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_importing_it_brings_in_nothing_but_torch_and_what_python_ships() -> None:
    """Milliseconds are benchmarks/import_time.py's; this is why they are few."""
    code = (
        "import sys, torch; before = set(sys.modules); import valleys;"
        "[getattr(valleys, name) for name in valleys.__all__];"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    process = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert process.stdout == "{'valleys'}\n"
