"""The recorder's benchmark on a network of seven numbers: what is counted, what is judged, what is written."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    result = importlib.import_module("recorder")
    monkeypatch.setattr(result, "BLOCK", 20)
    return result


def tiny(module: Any) -> Any:
    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(4, 2, generator=generator), torch.randint(0, 3, (4,), generator=generator)

    return module.Workload("tiny", lambda: nn.Linear(2, 3), batch)


def test_ways_train_alike_and_hooks_are_counted(module: Any) -> None:
    ways = {"every=1": {"every": 1}, "every=20": {"every": 20}}
    runs = module.measure(tiny(module), ways, rounds=2, seed=0)
    assert set(runs) == {"plain", *ways}
    for name, run in runs.items():
        assert len(run.blocks) == len(run.hooks) == 2
        assert all(0 < inside < whole for inside, whole in zip(run.hooks, run.blocks, strict=True))
        for mine, plain in zip(run.model.parameters(), runs["plain"].model.parameters(), strict=True):
            assert torch.equal(mine, plain)
        assert (run.recorder is None) == (name == "plain")
    assert runs["every=1"].recorder.step == 60
    assert len(runs["every=1"].recorder.rows) == 60
    assert len(runs["every=20"].recorder.rows) == 3
    # Sixty rows against three: what the hooks do is in their time.
    assert min(runs["every=1"].hooks) > 2 * min(runs["every=20"].hooks)
    # The start, ten steps of the window, and what waits for the next gradient: copies of 9 numbers of 4 bytes each.
    assert runs["every=1"].bytes_held >= 11 * 9 * 4
    assert runs["plain"].bytes_held == 0


def test_a_share_is_judged_against_the_limit(module: Any) -> None:
    plain = module.Run(tiny(module), nn.Linear(2, 3), None)
    cheap, dear = (module.Run(tiny(module), nn.Linear(2, 3), {}) for _ in range(2))
    plain.blocks, plain.hooks = [1.0, 1.0], [0.0, 0.0]
    cheap.blocks, cheap.hooks = [1.04, 1.04], [0.04, 0.04]
    dear.blocks, dear.hooks = [1.06, 1.06], [0.06, 0.06]
    assert module._row("cheap", cheap, plain)[3:6] == ["4.00 (4.00 to 4.00)", "yes", "+4.0 (+4.0 to +4.0)"]
    assert module._row("dear", dear, plain)[3:6] == ["6.00 (6.00 to 6.00)", "**no**", "+6.0 (+6.0 to +6.0)"]
    assert module._row("plain", plain, plain)[4:] == ["", "", ""]


def test_every_way_has_a_row_and_its_times(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module.WORKLOADS, "tiny", tiny(module))
    texts = {"command": "the command"}
    path = module.benchmark(["tiny"], 1, 0, texts, tmp_path)
    text, numbers = path.read_text(), json.loads((tmp_path / "recorder.json").read_text())
    names = ["plain", *module.WAYS]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows if row[0].removeprefix("| ") in names] == names
    assert [run["recorder"] for run in numbers["runs"]] == names
    assert all(len(run["step"]) == len(run["hooks"]) == 1 for run in numbers["runs"])
    assert "9 parameters in 2 tensors" in text
    assert numbers["command"] == "the command"
