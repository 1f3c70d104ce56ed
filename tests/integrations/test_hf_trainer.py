"""Hugging Face's Trainer: the optimizer by instance and by class, resumed from a checkpoint to the same bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers imports of others
    pytest.importorskip("accelerate", reason="pip install accelerate")
    transformers = pytest.importorskip("transformers", reason="pip install 'valleys[text]'")
    from integrations.examples import differences, example, snapshot, watched

    hf_trainer = example("hf_trainer")

import valleys

CASES = [("alto", True), ("alto", False), ("eadamw", True), ("eadamw", False)]


@pytest.mark.parametrize(("name", "instance"), CASES, ids=[f"{n}, {'instance' if i else 'class'}" for n, i in CASES])
def test_trains_and_resumes_exactly(name: str, instance: bool, tmp_path: Path) -> None:
    with watched() as steps:
        model, optimizer, reached = hf_trainer.main(["--optimizer", name, "--checkpoint", str(tmp_path)], instance)
    assert max(norm for _, norm in steps) == pytest.approx(1.0, abs=1e-4), "clipped"
    assert reached >= 94
    half = str(tmp_path / "checkpoint-60")
    again, resumed, _ = hf_trainer.main(["--optimizer", name, "--resume", half], instance)
    assert differences(snapshot(model, inner(optimizer)), snapshot(again, inner(resumed))) == []


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's wrapper, which the Trainer adds."""
    base: torch.optim.Optimizer = optimizer.optimizer
    assert isinstance(base, valleys.ALTO) or hasattr(type(base), "adapted_from")
    return base
