"""Builds of wheels, and their hook, which lies beside pyproject.toml and belongs to no package."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

__all__ = ["build", "files", "load", "source_files"]

ROOT = Path(__file__).parents[1]


def build(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call hatchling, for plain wheels unless the variables say otherwise."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options]
    environment = {**os.environ, "VALLEYS_PREBUILT": "0", **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)


def files(wheel: Path) -> set[str]:
    """Names of a wheel's files, without those about it."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def source_files() -> set[str]:
    """Names that a wheel's files should have."""
    paths = (ROOT / "src").rglob("*")
    return {p.relative_to(ROOT / "src").as_posix() for p in paths if p.is_file() and "__pycache__" not in p.parts}


def load() -> ModuleType:
    """A new copy of the module."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
