"""Broken backends: fused=None does without them, and says why; fused=True raises nothing but a RuntimeError."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import valleys
from valleys.kernels import Needs, c, choice
from valleys.kernels import triton as backend

CUDA = torch.device("cuda", 0)
FLOATS = Needs(torch.float32, torch.float32, torch.float32)


def parameter() -> torch.nn.Parameter:
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return param


@pytest.mark.parametrize("place", ["import", "check"])
@pytest.mark.parametrize(
    "error", [OSError("libgomp.so.1: not there\nmore"), AttributeError(""), RuntimeError("no driver")], ids=repr
)
def test_a_broken_backend_is_a_reason(fresh_choice: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    original = importlib.import_module

    def broken(name: Any, *rest: Any, **options: Any) -> Any:
        if place == "import" and name != c.__name__:
            return original(name, *rest, **options)
        raise error

    if place == "import":
        fresh_choice.setattr(importlib, "import_module", broken)
    else:
        fresh_choice.setattr(c, "unavailable", broken)
    reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
    param, expected = parameter(), parameter()
    with pytest.warns(UserWarning, match=f"falls back .*{reason}"):
        valleys.ALTO([param]).step()
    valleys.ALTO([expected], foreach=True).step()
    assert torch.equal(param, expected)
    for fused in (True, "c"):
        with pytest.raises(RuntimeError, match=f"fused={fused!r}: .*{reason}"):
            valleys.ALTO([param], fused=fused)
    assert choice.best([param], FLOATS) is None


def test_a_subclass_is_refused_before_anything_is_compiled(fresh_choice: pytest.MonkeyPatch) -> None:
    """Nor is a kernel tried on a device that a fake tensor only claims to be on."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        param = parameter()
        with pytest.warns(UserWarning, match="plain tensors, not FakeTensor"):
            choice.select([param.data], FLOATS, None, None)
    assert choice.fused_backend.cache_info().misses == 0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A CUDA device as far as the check of Triton sees; its launches, each a function to be called."""
    launches: list[Any] = []

    def square_sum(tensors: list[torch.Tensor]) -> torch.Tensor:
        launches.pop(0)()
        return tensors[0].sum()

    ones = torch.ones
    kernels = types.SimpleNamespace(DTYPES={torch.float32: None}, INTERPRETED=False)
    monkeypatch.setattr(torch, "ones", lambda *size, device: ones(*size))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(backend, "_kernel_module", lambda: kernels)
    monkeypatch.setattr(backend, "square_sum", square_sum)
    backend._launch_problem.cache_clear()
    yield launches
    backend._launch_problem.cache_clear()


def no_compiler() -> None:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")


def test_triton_is_tried_once_on_a_device(card: list[Any]) -> None:
    card[:] = [lambda: None, no_compiler]
    assert backend.unavailable(CUDA, FLOATS) is backend.unavailable(CUDA, FLOATS) is None
    problem = backend.unavailable(torch.device("cuda", 1), FLOATS) or ""
    assert "RuntimeError: Failed to find C compiler" in problem
    assert "needs a C compiler" in problem
    assert len(problem.splitlines()) == 1
    assert not card


def test_triton_is_not_tried_while_a_graph_is_captured(card: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    card[:] = [no_compiler]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert backend.unavailable(CUDA, FLOATS) is None
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert "Failed to find" in (backend.unavailable(CUDA, FLOATS) or "")


def test_a_triton_that_does_not_import_for_any_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise AttributeError("module 'triton' has no attribute 'jit'\nmore")

    monkeypatch.setattr(backend, "_kernel_module", broken)
    problem = backend.unavailable(CUDA, FLOATS) or ""
    assert "no attribute 'jit'" in problem
    assert "install valleys[triton]" in problem
    assert "more" not in problem
