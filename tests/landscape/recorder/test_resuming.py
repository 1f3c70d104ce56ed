"""A recording that is saved and loaded goes on as if it had never stopped."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from landscape.recorder.recorded import OPTIMIZERS, network, train
from valleys.landscape.recorder.recorder import Recorder, record


def resumed(name: str, options: dict[str, Any], at: int, dtype: torch.dtype) -> tuple[Recorder, Recorder]:
    """An uninterrupted run of 17 steps, and one that is saved and loaded after ``at``."""
    results = []
    for stop in (17, at):
        model = network().to(dtype)
        optimizer = OPTIMIZERS[name](model.parameters())
        recorder = record(optimizer, **options)
        train(model, optimizer, range(stop))
        if stop < 17:
            file = io.BytesIO()
            torch.save([model.state_dict(), optimizer.state_dict(), recorder.state_dict()], file)
            train(model, optimizer, range(stop, 17))  # what is saved must not follow
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            model = network().to(dtype)
            optimizer = OPTIMIZERS[name](model.parameters())
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            recorder = record(optimizer, **options)
            recorder.load_state_dict(saved[2])
            train(model, optimizer, range(stop, 17))
        results.append(recorder)
    return results[0], results[1]


@pytest.mark.parametrize("at", [3, 4, 8, 9])
@pytest.mark.parametrize(
    "options",
    [{"every": 1, "window": 3}, {"every": 4, "window": 6, "path": 3}, {"every": 4, "projection": 48, "path": 3}],
)
def test_a_resumed_recording_is_the_uninterrupted_one(options: dict[str, Any], at: int) -> None:
    whole, parts = resumed("adapt(AdamW)", options, at, torch.float32)
    assert whole.rows == parts.rows
    assert whole.layers == parts.layers
    assert whole.step == parts.step == 17
    assert whole.memory() == parts.memory()
    if "path" in options:
        assert whole.path().steps == parts.path().steps
        assert torch.equal(whole.path().points, parts.path().points)


def test_what_is_saved_does_not_follow_the_run() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(optimizer, every=2, window=4, path=4)
    train(model, optimizer, range(4))
    saved = recorder.state_dict()
    before = copy.deepcopy(saved)
    train(model, optimizer, range(5))

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        return bool(a == b)

    assert same(saved, before)


def test_states_of_other_recordings_are_refused() -> None:
    model = network()
    saved = record(torch.optim.SGD(model.parameters(), lr=0.1), every=5).state_dict()
    with pytest.raises(ValueError, match="every=2: the state was recorded with 5"):
        record(torch.optim.SGD(model.parameters(), lr=0.1), every=2).load_state_dict(saved)
    with pytest.raises(ValueError, match="shapes"):
        record(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), every=5).load_state_dict(saved)
