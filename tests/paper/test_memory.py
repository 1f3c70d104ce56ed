"""GPU memory, measured on stand-ins."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paper.reproductions import no_gpu, run
from valleys.lab import LabError
from valleys.paper import memory
from valleys.paper.tables.model import Method
from valleys.paper.tables.numbers import find


def test_memory_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch)
    reproduction = run(tmp_path, "table-6", "32", device="cpu")
    assert "needs a GPU" in reproduction.outcomes[0].blank


def test_memory_is_what_one_needs_above_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(chosen: Method, batch_size: int, preset: str) -> int:
        assert preset == "paper"
        return batch_size * {"ALTO": 126, "LAMB": 120}[chosen.name]

    monkeypatch.setattr(memory, "peak", peak)
    reproduction = run(tmp_path, "table-6", None, preset="paper")
    assert [o.mean for o in reproduction.outcomes] == [pytest.approx(5.0)] * 3
    assert reproduction.outcomes[0].difference == pytest.approx(5.0 - 43.0)


class Bert(nn.Module):
    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        self.table = nn.Embedding(2, config.get("hidden_size", 768))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        assert input_ids.shape == (2, memory.LENGTH)
        return SimpleNamespace(loss=self.table(input_ids).square().mean())


def test_the_peak_is_measured_over_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[list[torch.Size]] = []
    fake = SimpleNamespace(BertConfig=dict, BertForSequenceClassification=Bert)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.setattr(memory, "_DEVICE", "cpu")
    for name, answer in {"is_available": True, "empty_cache": None, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.random, "fork_rng", nullcontext)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 110)
    method = find("table-6").cells[0].method
    assert method is not None

    def build(params: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(params, lr=options["lr"])
        optimizer.register_step_post_hook(lambda *_: steps.append([param.shape for param in params]))
        return optimizer

    monkeypatch.setattr(memory, "MAKERS", {"alto": build})
    assert memory.peak(method, 2, "smoke") == 100
    assert memory.peak(method, 2, "paper") == 100
    assert steps == [[torch.Size([2, 128])]] * 2 + [[torch.Size([2, 768])]] * 2


def test_a_batch_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(BertConfig=dict, BertForSequenceClassification=0))
    monkeypatch.setattr(memory, "_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", full)
    with pytest.raises(LabError, match=r"batch 32 of 128 tokens does not fit into this GPU"):
        memory.peak(Method("ALTO", "alto", ()), 32, "paper")
