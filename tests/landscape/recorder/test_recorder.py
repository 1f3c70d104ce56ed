"""Promises of an attached recorder: nothing changes, memory is bounded, tables and files agree."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import valleys
from landscape.recorder.recorded import OPTIMIZERS, backward, network, train
from valleys.landscape.recorder import recorder as trajectory
from valleys.landscape.recorder.recorder import record
from valleys.landscape.recorder.stages import signs


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("projection", [0, 32])
def test_training_is_the_same_bit_for_bit(name: str, projection: int) -> None:
    results = []
    for attach in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        recorder = record(optimizer, every=2, window=4, projection=projection, path=3) if attach else None
        torch.manual_seed(5)
        train(model, optimizer, range(9))
        results.append(
            [
                *(p.detach() for p in model.parameters()),
                *(p.grad for p in model.parameters() if p.grad is not None),
                torch.rand(3),
            ]
        )
        assert recorder is None or len(recorder.rows) == 4
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_scheduler_shows_in_the_learning_rate() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    recorder = record(optimizer, every=1)
    for step in range(4):
        backward(model, step)
        optimizer.step()
        scheduler.step()
    assert [row["lr"] for row in recorder.rows] == [0.1, 0.1, 0.05, 0.05]
    assert [line["lr"] for line in recorder.layers[:: len(list(model.parameters()))]] == [0.1, 0.1, 0.05, 0.05]


def test_a_first_step_that_was_left_out_has_no_ratio() -> None:
    """With skip_nonfinite there are moments after it, and no step that their correction could be of."""
    model = network()
    optimizer = valleys.ALTO(model.parameters(), lr=0.01, layer_adaptation=True, skip_nonfinite=True)
    recorder = record(optimizer, every=1)
    for step in range(3):
        backward(model, step)
        if step == 0:
            next(model.parameters()).grad[0] = torch.nan  # type: ignore[index]
        optimizer.step()
    count = len(list(model.parameters()))
    ratios = [line["trust_ratio"] for line in recorder.layers]
    assert ratios[:count] == [None] * count
    assert all(ratio > 0 for ratio in ratios[count:])


@pytest.mark.parametrize("projection", [0, 64])
def test_a_group_that_comes_later_starts_where_it_is(projection: int) -> None:
    first, second = nn.Parameter(torch.zeros(40)), nn.Parameter(torch.full((30,), 7.0))
    optimizer = torch.optim.SGD([first], lr=1.0)
    recorder = record(optimizer, every=1, window=2, projection=projection, path=9)
    for step in range(4):
        if step == 2:
            optimizer.add_param_group({"params": [second]})
        first.grad = torch.full((40,), -1.0)
        second.grad = torch.full((30,), -2.0)
        optimizer.step()
    rows = recorder.rows
    truth = [40, 160, 40 * 9 + 30 * 4, 40 * 16 + 30 * 16]
    rel = 1e-6 if projection == 0 else 0.45
    assert [row["drift"] ** 2 for row in rows] == pytest.approx(truth, rel=rel)
    assert [row["window_drift"] ** 2 for row in rows[1:]] == pytest.approx([160, 160 + 120, 160 + 480], rel=rel)
    assert [row["gradient_norm"] and row["gradient_norm"] ** 2 for row in rows] == pytest.approx([40, 40, 160, None])
    points = recorder.path().points
    assert points.shape == (5, 70 if projection == 0 else 64)
    distances = (points[1:] - points[0]).square().sum(1)
    assert distances.tolist() == pytest.approx([row["drift"] ** 2 for row in rows], rel=1e-5)


def test_removing_leaves_nothing() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = set(vars(optimizer))
    with record(optimizer, every=1) as recorder:
        assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
        train(model, optimizer, range(2))
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert set(vars(optimizer)) == before
    assert all(set(state) <= {"momentum_buffer"} for state in optimizer.state.values())
    train(model, optimizer, range(2))
    assert len(recorder.rows) == 2
    assert recorder.rows[-1]["stage"] is None


def test_beyond_the_limit_it_projects_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trajectory, "EXACT_LIMIT", 10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(11))], lr=0.1)
    with caplog.at_level(logging.WARNING):
        recorder = record(optimizer)
    assert not recorder.exact
    assert "projected to 4096 numbers" in repr(recorder)
    assert (recorder.every, record(optimizer, every=7).every) == (100, 7)
    assert "11 parameters: positions are projected to 4096 numbers" in caplog.text
    assert "standard error of 1.1 %" in caplog.text
    caplog.clear()
    assert record(optimizer, projection=0).exact
    assert record(optimizer, projection=0).every == 50
    assert record(torch.optim.SGD([nn.Parameter(torch.zeros(10))], lr=0.1)).exact
    assert not record(optimizer, projection=64).exact
    assert caplog.text == ""


@pytest.mark.parametrize(("every", "window"), [(10, 10), (10, 30), (1, 10), (20, 5), (20, 25)])
@pytest.mark.parametrize("projection", [0, 64])
def test_memory_is_what_the_documentation_says(every: int, window: int, projection: int) -> None:
    """The start; positions that a record will look back to; and, while it waits for a gradient, one step's pair."""
    n = 50_000
    p = nn.Parameter(torch.zeros(n))
    optimizer = torch.optim.SGD([p], lr=0.1)
    recorder = record(optimizer, every=every, window=window, projection=projection, per_layer=False)
    position = 4 * n if projection == 0 else 8 * projection
    assert recorder.memory() == position
    for step in range(1, 60):
        p.grad = torch.ones(n)
        optimizer.step()
        recent = [s for s in range(1, step + 1) if (s + window) % every == 0 and s + window > step]
        assert len(recent) <= math.ceil(window / every)
        pair = 2 * 4 * n if step % every == 0 else 0
        assert recorder.memory() == position * (1 + len(recent)) + pair


def test_the_path_is_thinned_to_its_limit() -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([p], lr=1.0)
    recorder = record(optimizer, every=1, path=5)
    for step in range(1, 40):
        p.grad = torch.tensor([-1.0, 0.0, -2.0])
        optimizer.step()
        steps, points = recorder.path()
        assert len(steps) <= 5
        assert steps[0] == 0
        assert len({b - a for a, b in itertools.pairwise(steps)}) <= 1
        assert steps[-1] > step - (steps[1] if len(steps) > 1 else 1)
        torch.testing.assert_close(points, torch.tensor(steps)[:, None] * torch.tensor([1.0, 0.0, 2.0]))
    coordinates, shares = recorder.path().coordinates(2)
    assert shares.tolist() == pytest.approx([1, 0], abs=1e-12)
    assert (coordinates[1:, 0] - coordinates[0, 0]).abs().tolist() == pytest.approx(
        [s * math.sqrt(5) for s in steps[1:]]
    )
    with pytest.raises(ValueError, match="from 1 to 3"):
        recorder.path().coordinates(4)
    with pytest.raises(ValueError, match="keeps no positions"):
        record(optimizer).path()


def test_tables_and_files_say_the_same(tmp_path: Path) -> None:
    model = network()
    optimizer = valleys.ALTO(model.parameters(), layer_adaptation=True)
    recorder = record(optimizer, model, every=2)
    train(model, optimizer, range(7))
    table = recorder.table()
    assert table["step"] == [2, 4, 6]
    assert table["drift"] == [row["drift"] for row in recorder.rows]
    assert table["window_drift"] == [None] * 3
    recorder.to_csv(tmp_path / "rows.csv")
    recorder.to_csv(tmp_path / "layers.csv", layers=True)
    recorder.to_json(tmp_path / "all.json")
    with (tmp_path / "rows.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["inner"]) for line in lines] == table["inner"]
    assert lines[0]["window_drift"] == ""
    with (tmp_path / "layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [float(line["trust_ratio"]) for line in layers] == recorder.table(layers=True)["trust_ratio"]
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["rows"] == recorder.rows
    assert document["layers"] == recorder.layers
    assert document["settings"]["every"] == 2
    assert set(signs(recorder.rows[0]) or {}) == set(signs(recorder.rows[1]) or {}) != set()


def test_a_diverged_run_is_written_too(tmp_path: Path) -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([p], lr=1.0)
    recorder = record(optimizer, every=1)
    for _ in range(3):
        p.grad = torch.full((3,), math.nan)
        optimizer.step()
    assert math.isnan(recorder.rows[0]["drift"])
    assert recorder.rows[0]["stage"] is None
    recorder.to_json(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["rows"][0]["drift"] is None


def test_layers_have_names_and_can_be_left_out() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    for parameters, own_names, expected_names in (
        (model.parameters(), model, names),
        (model.named_parameters(), None, names),
        (model.parameters(), None, [f"0.{i}" for i in range(len(names))]),
    ):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        recorder = record(optimizer, own_names, every=1)
        train(model, optimizer, range(1))
        assert [line["layer"] for line in recorder.layers] == expected_names
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    whole, totals = record(optimizer, every=1), record(optimizer, every=1, per_layer=False)
    train(model, optimizer, range(3))
    assert totals.layers == []
    assert totals.table(layers=True)["step"] == []
    for a, b in zip(whole.rows, totals.rows, strict=True):
        for column, value in a.items():
            assert b[column] == (pytest.approx(value) if isinstance(value, float) else value)


def test_rows_are_left_on_the_device_but_not_without_end() -> None:
    p = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([p], lr=1.0)
    recorder = record(optimizer, every=1)
    for step in range(1, 140):
        p.grad = torch.ones(3)
        optimizer.step()
        waiting = sum(bool(row._waiting) for row in recorder._steps.rows)
        assert waiting <= 65
        if step <= 64:
            assert waiting == step
    assert len(recorder.rows) == 139
    assert all(row["gradient_difference_norm"] == 0 for row in recorder.rows[:-1])


@pytest.mark.parametrize(
    "name", ["SGD", "plain SGD", "AdamW", "AdamW fused", "ALTO", "adapt(AdamW)", "adapt(AdamW fused)"]
)
@pytest.mark.parametrize("restore", [False, True])
def test_the_probe_of_distributed_checkpoint_is_no_step(name: str, restore: bool) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    recorder = record(optimizer, every=1)
    state = get_optimizer_state_dict(model, optimizer)
    if restore:
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        recorder = record(optimizer, every=1)
        set_optimizer_state_dict(model, optimizer, state)
    assert recorder.step == 0
    assert recorder.rows == []
    train(model, optimizer, range(2))
    assert recorder.step == len(recorder.rows) == 2


def test_a_probe_with_a_learning_rate_tensor_is_no_step() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    recorder = record(optimizer, every=1)
    get_optimizer_state_dict(model, optimizer)
    assert recorder.step == 0


@pytest.mark.parametrize("options", [{}, {"closure": None}])
def test_the_first_step_of_a_warm_up_counts(options: dict[str, Any]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    recorder = record(optimizer, every=1)
    backward(model, 0)
    optimizer.step(**options)
    model.zero_grad(set_to_none=False)
    optimizer.step()
    assert [row["update_norm"] for row in recorder.rows] == [0, 0]
