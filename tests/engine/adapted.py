"""Adapted optimizers to test, and their states through a file."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

import valleys
from optimizer_cases import CASES, Case
from test_adapt import ALPHA, BETA

# ALTO and Lamb keep the same promises by themselves.
OURS = {
    "ALTO loop": Case(valleys.ALTO, {"lr": 0.02, "beta": BETA, "foreach": False}, amp=True),
    "ALTO foreach": Case(valleys.ALTO, {"lr": 0.02, "beta": BETA, "foreach": True}, amp=True),
}
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ALL_AND_OURS = pytest.mark.parametrize("case", [*CASES.values(), *OURS.values()], ids=[*CASES, *OURS])


def adapted(case: Case, params: Any, **options: Any) -> Optimizer:
    optimizer = case.build(params)
    return optimizer if isinstance(optimizer, valleys.ALTO) else valleys.adapt(optimizer, ALPHA, BETA, **options)


def saved(state: Any) -> Any:
    """Through torch.save and the safe loader."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
