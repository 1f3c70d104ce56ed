"""Accelerate: accumulation, clipping, a prepared scheduler, bfloat16, the fp16 scaler, two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.worlds import spawn
from integrations.examples import differences, example, snapshot, watched

accelerate = pytest.importorskip("accelerate", reason="pip install accelerate")
accelerate_ddp, digits = example("accelerate_ddp"), example("digits")

NAMES = ["alto", "eadamw"]


def forget() -> None:
    """Accelerate's state is the process's."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def _clean() -> Any:
    yield
    forget()


def inner(optimizer: Any) -> Any:
    """The optimizer that Accelerate's wrapper holds: the user's own object."""
    return optimizer.optimizer


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_trains_and_resumes_exactly(name: str, precision: str, tmp_path: Path) -> None:
    path = str(tmp_path / "half")
    with watched() as gradients:
        model, optimizer = accelerate_ddp.main(["--optimizer", name, "--checkpoint", path], precision)
    assert [images for images, _ in gradients[:12]] == [128] * 11 + [29], "two micro-batches; one at the epoch's end"
    if name == "alto":  # AdamW's gradients stay below 1
        assert max(norm for _, norm in gradients) == pytest.approx(1.0, abs=1e-4), "clipped"
    assert digits.accuracy(model) >= 95
    assert int(inner(optimizer).state[next(model.parameters())]["step"]) == 88, "one step per two micro-batches"
    again = accelerate_ddp.main(["--optimizer", name, "--resume", path], precision)
    assert differences(snapshot(model, optimizer), snapshot(*again)) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_scaler_of_fp16(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate refuses to make a scaler on a CPU, but goes its way of fp16 with one; the first scale overflows."""

    class Scaled(accelerate.Accelerator):  # type: ignore[name-defined, misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.native_amp, self.state._mixed_precision = True, "fp16"
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1000)

    path = str(tmp_path / "half")
    plain = snapshot(*accelerate_ddp.main(["--optimizer", name]))
    monkeypatch.setattr(accelerate_ddp, "Accelerator", Scaled)
    model, optimizer = accelerate_ddp.main(["--optimizer", name, "--checkpoint", path])
    forget()
    assert digits.accuracy(model) >= 95
    count = int(inner(optimizer).state[next(model.parameters())]["step"])
    assert 80 <= count < 88, "a skipped step moves nothing"
    assert differences(plain, snapshot(model, optimizer))
    again = accelerate_ddp.main(["--optimizer", name, "--resume", path])
    assert differences(snapshot(model, optimizer), snapshot(*again)) == []


def two(folder: str) -> Any:
    """On each of two ranks: the whole run, the resumed one, what the accelerator found."""
    from torch import distributed

    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), ACCELERATE_USE_CPU="true")
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT="29501")
    module = example("accelerate_ddp")
    results = {}
    for name in NAMES:
        arguments = ["--optimizer", name, "--steps", "56"]
        model, optimizer = module.main([*arguments, "--checkpoint", f"{folder}/{name}"])
        assert accelerate.state.PartialState().num_processes == ranks
        again = module.main([*arguments, "--resume", f"{folder}/{name}"])
        results[name] = (snapshot(model, optimizer), snapshot(*again), example("digits").accuracy(model))
    return results


def test_two_processes(tmp_path: Path) -> None:
    first, second = spawn(two, 2, str(tmp_path), seconds=280)
    for name in NAMES:
        whole, again, reached = first[name]
        assert reached >= 95
        assert differences(whole, again) == []
        assert differences(whole, second[name][0]) == [], "replicas part"
