"""8-bit states, which are torchao's: a quarter of the memory, a run close to the exact one, exact resumes."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch

import valleys

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever torchao warns of when it is imported is not ours
    pytest.importorskip("torchao.optim", reason="needs torchao")
pytestmark = pytest.mark.filterwarnings("ignore:.*from a fused kernel")


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(128, 64), (5,), (100, 100)]  # the last is no multiple of 256
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]


def train(optimizer: Any, params: list[Any], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = 0.3 + torch.randn(param.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
def test_a_run_stays_close_to_the_exact_one(cls: Any) -> None:
    exact, narrow = parameters(), parameters()
    start = parameters()
    optimizers = cls(exact, lr=0.01, foreach=True), cls(narrow, lr=0.01, foreach=True, state_dtype="8bit")
    for optimizer, params in zip(optimizers, (exact, narrow), strict=True):
        train(optimizer, params, range(50))
    for a, b, origin in zip(exact, narrow, start, strict=True):
        assert (a - b).norm() < 0.1 * (a - origin).norm()
    assert not torch.equal(exact[0], narrow[0])
    assert torch.equal(exact[1], narrow[1])  # too small: float32
    state = optimizers[1].state[narrow[0]]["exp_avg"]
    assert sum(getattr(state, name).nbytes for name in ("codes", "scale")) < 0.27 * narrow[0].nbytes
    assert type(optimizers[1].state[narrow[2]]["exp_avg"]) is torch.Tensor


def test_a_resumed_run_is_the_same() -> None:
    params = parameters()
    optimizer = valleys.ALTO(params, lr=0.01, foreach=True, state_dtype="8bit")
    train(optimizer, params, range(5))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = copy.deepcopy(params)
    resumed = valleys.ALTO(twins)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, range(5, 10))
    train(resumed, twins, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_fused_is_refused() -> None:
    with pytest.raises(RuntimeError, match="fused=True excludes state_dtype='8bit'"):
        valleys.ALTO(parameters(), fused=True, state_dtype="8bit")


def test_e_alone_has_no_eight_bits() -> None:
    options: dict[str, Any] = {"state_dtype": "8bit"}
    with pytest.raises(ValueError, match="state_dtype"):
        valleys.EAdamW(parameters(), **options)
