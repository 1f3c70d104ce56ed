"""Misuse of the recorder is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from landscape.recorder.recorded import backward, network
from valleys.landscape.recorder.recorder import record


class Moving(torch.optim.SGD):
    """Looks at the loss from another point, as SAM does."""

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(0.1)
        return None if closure is None else closure()


class Deaf(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return None


@pytest.mark.parametrize(("cls", "message"), [(Moving, "moves the parameters before"), (Deaf, "did not evaluate")])
def test_closures_that_tell_nothing_are_refused(cls: Any, message: str) -> None:
    model = network()
    optimizer = cls(model.parameters(), lr=0.1)
    record(optimizer, every=1)
    with pytest.raises(RuntimeError, match=message):
        optimizer.step(lambda: backward(model, 0))


class Wrapper(Optimizer):
    def __init__(self) -> None:
        pass


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[nn.Parameter]:
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield nn.Parameter(distribute_tensor(torch.zeros(2), DeviceMesh("cpu", [0]), [Shard(0)]))
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every 0"),
        ({"every": True}, "every True"),
        ({"window": 0}, "window 0"),
        ({"window": 2.0}, "window 2.0"),
        ({"projection": 31}, "projection 31"),
        ({"projection": -1}, "projection -1"),
        ({"path": 1}, "path 1"),
        ({"projection": 32, "seed": -1}, "seed -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=message):
        record(optimizer, **options)
    assert not optimizer._optimizer_step_pre_hooks


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(TypeError, match="not Linear"):
        record(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wraps another one"):
        record(Wrapper())


def test_shards_are_refused(sharded: nn.Parameter) -> None:
    with pytest.raises(ValueError, match="sharded over ranks"):
        record(torch.optim.SGD([sharded], lr=0.1))
    flattened = nn.Parameter(torch.zeros(2))
    flattened._fsdp_flattened = True  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="sharded over ranks"):
        record(torch.optim.SGD([flattened], lr=0.1))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    record(optimizer)
    optimizer.add_param_group({"params": [sharded]})
    with pytest.raises(ValueError, match="sharded over ranks"):
        optimizer.step()
