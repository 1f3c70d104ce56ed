"""The instruments stand beside the optimizers: they import none of them."""

from __future__ import annotations

import re
from pathlib import Path

import valleys.landscape

ALLOWED = ("valleys.landscape", "valleys.palette", "valleys.hyperparameters", "valleys.kernels.rounding")


def test_landscape_imports_no_optimizer() -> None:
    paths = list(Path(valleys.landscape.__file__).parent.rglob("*.py"))
    assert len(paths) > 20
    for path in paths:
        for module in re.findall(r"^\s*(?:from|import) (valleys\S*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert module.startswith(ALLOWED), f"{path.name} imports {module}"
