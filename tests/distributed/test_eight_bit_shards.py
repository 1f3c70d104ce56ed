"""States in 8 bits on shards: the codes of the whole parameter, and checkpoints that other numbers of ranks load."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as write
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import valleys
from distributed.worlds import spawn

# Shape, placements on one mesh of 4 or on one of 2 x 2, whether its states are in 8 bits.
CASES: list[tuple[tuple[int, ...], list[Any], bool]] = [
    ((30, 300), [Shard(0)], True),
    ((3, 2000), [Shard(0)], True),  # an empty shard
    ((9, 40, 50), [Replicate(), Shard(0)], True),
    ((21, 300), [Shard(0), Shard(0)], True),
    ((16, 2048), [Shard(1)], True),
    ((16, 2048), [Shard(0), Shard(1)], True),
    ((16, 1040), [Shard(1)], False),  # 260 elements of a row
    ((16, 1027), [Shard(1)], False),  # uneven: the first shards have 256 or more
    ((16, 40, 50), [Shard(2)], False),
]
MAKERS: dict[str, Any] = {
    "ALTO": lambda params: valleys.ALTO(params, lr=0.01, state_dtype="8bit"),
    "ALTO, nearest": lambda params: valleys.ALTO(params, lr=0.01, state_dtype="8bit", stochastic_rounding=False),
    "Lamb, foreach": lambda params: valleys.Lamb(params, lr=0.01, state_dtype="8bit", foreach=True),
    "EAdamW": lambda params: valleys.EAdamW(params, lr=0.01, alpha=-30.0, state_dtype="8bit"),
}


def values(index: int, shape: tuple[int, ...], step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + index)
    return torch.randn(shape, generator=generator) * 10 ** torch.randn(
        shape[0], *[1] * (len(shape) - 1), generator=generator
    )


def against_whole() -> list[tuple[str, int, bool, float, float]]:
    """For each optimizer and case: whether its states are in 8 bits, the share of other codes, the error."""
    meshes = {1: init_device_mesh("cpu", (4,)), 2: init_device_mesh("cpu", (2, 2))}
    result = []
    for name, make in MAKERS.items():
        wholes = [nn.Parameter(values(i, shape, 0)) for i, (shape, _, _) in enumerate(CASES)]
        shards = [
            nn.Parameter(distribute_tensor(whole.detach(), meshes[len(placed)], placed))
            for whole, (_, placed, _) in zip(wholes, CASES, strict=True)
        ]
        starts = [whole.detach().clone() for whole in wholes]
        optimizers = make(wholes), make(shards)
        for step in range(1, 6):
            for i, (whole, shard, (shape, placed, _)) in enumerate(zip(wholes, shards, CASES, strict=True)):
                whole.grad = values(i, shape, step)
                shard.grad = distribute_tensor(whole.grad, meshes[len(placed)], placed)
            for optimizer in optimizers:
                optimizer.step()
        for i, (whole, shard) in enumerate(zip(wholes, shards, strict=True)):
            states = [optimizer.state[param] for optimizer, param in zip(optimizers, (whole, shard), strict=True)]
            codes = [key for key in states[1] if key.endswith("_code")]
            other = [(states[1][key].full_tensor() != states[0][key]).float().mean().item() for key in codes]
            error = (whole_value(shard.detach()) - whole.detach()).norm() / (whole.detach() - starts[i]).norm()
            result.append((name, i, bool(codes), max(other, default=0.0), error.item()))
    return result


def what_shards_cannot_have() -> tuple[bool, float]:
    """Layers inside shards along the second dimension; the states of a whole parameter for shards along the third."""
    mesh = init_device_mesh("cpu", (2,))
    wide = nn.Parameter(distribute_tensor(values(0, (16, 1024), 0), mesh, [Shard(1)]))
    optimizer = valleys.ALTO([wide], blocks=valleys.blocks.stacked(2, dim=1), state_dtype="8bit")
    wide.grad = distribute_tensor(values(0, (16, 1024), 1), mesh, [Shard(1)])
    optimizer.step()
    whole = nn.Parameter(values(1, (16, 40, 50), 0))
    shard = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Shard(2)]))
    optimizers = [valleys.ALTO([param], lr=0.01, state_dtype="8bit") for param in (whole, shard)]
    whole.grad = values(1, (16, 40, 50), 1)
    optimizers[0].step()
    with torch.no_grad():
        shard.copy_(distribute_tensor(whole.detach(), mesh, [Shard(2)]))
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    whole.grad = values(1, (16, 40, 50), 2)
    shard.grad = distribute_tensor(whole.grad, mesh, [Shard(2)])
    before = whole.detach().clone()
    for each in optimizers:
        each.step()
    error = (whole_value(shard.detach()) - whole.detach()).norm() / (whole.detach() - before).norm()
    # A whole checkpoint is cut into the shards' codes and scales.
    first = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Shard(0)]))
    rows = valleys.ALTO([first], state_dtype="8bit")
    rows.load_state_dict(optimizers[0].state_dict())
    for name, value in optimizers[0].state[whole].items():
        assert torch.equal(whole_value(rows.state[first][name]), value), name
    first.grad = distribute_tensor(whole.grad, mesh, [Shard(0)])
    rows.step()
    return "exp_avg_code" in optimizer.state[wide], error.item()


def test_what_shards_cannot_have_stays_in_float32() -> None:
    for has_codes, error in spawn(what_shards_cannot_have, 2):
        assert not has_codes
        assert error < 0.2


def corrected_shards() -> tuple[bool, bool]:
    """Without a ratio, which adds up in another order: whether parameters and corrections are those of the whole."""
    mesh = init_device_mesh("cpu", (2,))
    whole = nn.Parameter(values(0, (31, 300), 0).to(torch.bfloat16))
    shard = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Shard(0)]))
    pair = [
        valleys.ALTO([param], lr=1e-4, layer_adaptation=False, state_dtype="8bit", error_correction=True)
        for param in (whole, shard)
    ]
    for step in range(1, 4):
        whole.grad = values(0, (31, 300), step).to(torch.bfloat16)
        shard.grad = distribute_tensor(whole.grad, mesh, [Shard(0)])
        for optimizer in pair:
            optimizer.step()
    corrections = pair[0].state[whole]["correction"], whole_value(pair[1].state[shard]["correction"])
    return torch.equal(whole, whole_value(shard.detach())), torch.equal(*corrections)


def test_shards_have_the_corrections_of_the_whole() -> None:
    for alike in spawn(corrected_shards, 2):
        assert alike == (True, True)


def test_shards_have_the_codes_of_the_whole() -> None:
    results = spawn(against_whole, 4)
    assert all(rank == results[0] for rank in results)
    for name, i, has_codes, other, error in results[0]:
        shape, placed, expected = CASES[i]
        # The random bits of a shard along another dimension than the first are its own.
        alike = "nearest" in name or all(p == Shard(0) or p == Replicate() for p in placed)
        assert has_codes is expected, (name, shape, placed)
        assert other <= (2e-4 if alike else 0.6), (name, shape, placed)
        assert error < (1e-3 if alike and expected else 0.2), (name, shape, placed, error)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(150, 37), nn.Linear(37, 150)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.first(x).tanh())


def run(name: str, folder: str, saves: bool) -> dict[str, Tensor]:
    """Make three steps and save, or load: the states, whole, and the parameters after two more steps."""
    model = Model()
    if distributed.get_world_size() > 1:
        fully_shard(model)
    optimizer = MAKERS[name](model.parameters())
    x = torch.randn(8, 150, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about the CPU and about one process
        if saves:
            train(model, optimizer, x, 3)
            state: Any = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
            write(state, checkpoint_id=folder)
        else:
            state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
            load(state, checkpoint_id=folder)
            model.load_state_dict(state["model"])
            set_optimizer_state_dict(model, optimizer, state["optimizer"])
    result = {
        f"{parameter}.{key}": whole_value(value)
        for parameter, param in model.named_parameters()
        for key, value in optimizer.state[param].items()
    }
    train(model, optimizer, x, 2)
    return {**result, **{key: whole_value(param.detach()) for key, param in model.named_parameters()}}


def train(model: nn.Module, optimizer: Any, x: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def whole_value(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value.clone()


@pytest.mark.parametrize("name", ["ALTO", "EAdamW"])
def test_four_two_and_one_ranks_go_on(name: str, tmp_path: Path) -> None:
    expected = spawn(run, 4, name, str(tmp_path), True)[0]
    assert any(key.endswith("_code") and value.int().abs().max() > 50 for key, value in expected.items())
    for ranks in (2, 1):
        loaded_states = spawn(run, ranks, name, str(tmp_path), False)[0]
        assert loaded_states.keys() == expected.keys()
        for key, value in expected.items():
            if "." in key.removeprefix("first.").removeprefix("last."):
                assert torch.equal(loaded_states[key], value), (ranks, key)
            else:
                torch.testing.assert_close(loaded_states[key], value, rtol=1e-4, atol=1e-5)
