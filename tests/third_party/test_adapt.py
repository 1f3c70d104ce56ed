"""``adapt`` over every optimizer that ``pytorch_optimizer`` lists."""

from __future__ import annotations

import functools
import importlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer as po
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from third_party.cases import BASE_FAULTS, EXCEPTIONS, NAMES, TAKE_AN_OPTIMIZER, UNAVAILABLE, case
from third_party.runs import (
    ALPHA,
    BETA,
    HALF,
    STEPS,
    WORKING,
    assert_same_path,
    build,
    distance,
    loss_at,
    model_for,
    one_buffer,
    run,
    run_step,
    same,
    two_buffers,
)

DOCS = Path(__file__).parents[2] / "docs" / "third-party.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
    pytest.mark.filterwarnings("ignore:you need to install `transformers`:ImportWarning"),
]


@functools.cache
def trained(name: str, alpha: float | None = None) -> nn.Module:
    """The model after all steps, which no test changes: of the base, or of the optimizer with E."""
    return run(name, case(name).dtype, alpha=alpha)[0]


@pytest.mark.parametrize("name", WORKING)
def test_equals_the_base_fed_explicit_gradients(name: str) -> None:
    settings = case(name)
    adapted = trained(name, ALPHA)
    explicit, _ = run(name, settings.dtype, change=one_buffer() if settings.bitwise else two_buffers())
    if settings.bitwise:
        assert same(adapted, explicit)
    else:
        assert_same_path(adapted, explicit)
    assert distance(explicit, trained(name)) > 1e-5, "E makes too little difference for this test to see"


@pytest.mark.parametrize("name", WORKING)
def test_alpha_zero_is_the_base_bit_for_bit(name: str) -> None:
    assert same(trained(name, 0.0), trained(name))


@pytest.mark.parametrize("name", WORKING)
def test_leaves_grad_as_found(name: str) -> None:
    model, optimizer = run(name, case(name).dtype, alpha=ALPHA, steps=HALF)
    grads: list[Tensor] = []

    def note(_: nn.Module) -> None:
        grads.extend(param.grad.clone() for param in model.parameters() if param.grad is not None)

    run_step(model, optimizer, HALF, case(name).feed, note)
    for param, grad in zip(model.parameters(), grads, strict=True):
        assert param.grad is not None
        assert torch.equal(param.grad, grad)


def load(name: str, file: io.BytesIO) -> Any:
    """A checkpoint, read as safely as the optimizer's own state allows."""
    file.seek(0)
    with torch.serialization.safe_globals([imported(path) for path in case(name).classes]):
        return torch.load(file, weights_only=case(name).weights_only)


def imported(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def resumes(name: str, dtype: torch.dtype, *, adapted: bool) -> bool:
    """Return True if a run saved and loaded into fresh objects ends bit for bit like the uninterrupted one."""
    alpha = ALPHA if adapted else None
    model, optimizer = run(name, dtype, alpha=alpha, steps=HALF)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    if dtype == case(name).dtype:
        model = trained(name, alpha)
    else:
        for number in range(HALF, STEPS):
            run_step(model, optimizer, number, case(name).feed)

    saved = load(name, file)
    fresh = model_for(case(name), dtype)
    successor = build(name, fresh)
    if adapted:
        valleys.adapt(successor, ALPHA, BETA)
    fresh.load_state_dict(saved["model"])
    successor.load_state_dict(saved["optimizer"])
    for number in range(HALF, STEPS):
        run_step(fresh, successor, number, case(name).feed)
    return same(fresh, model)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{dtype}".replace("torch.", ""))
        for name in WORKING
        for dtype in (torch.float32, torch.float64)
        if dtype in (torch.float32, case(name).dtype) and (name, dtype) not in BASE_FAULTS
    ],
)
def test_resumes_exactly(name: str, dtype: torch.dtype) -> None:
    assert resumes(name, dtype, adapted=True)


@pytest.mark.parametrize(("name", "dtype"), BASE_FAULTS)
@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapted"])
def test_base_faults_still_are(name: str, dtype: torch.dtype, adapted: bool) -> None:
    """The same protocol fails with and without E."""
    try:
        exact = resumes(name, dtype, adapted=adapted)
    except RuntimeError:
        exact = False
    assert not exact, "resumes exactly now: take it off BASE_FAULTS"


@pytest.fixture
def nothing_allowed() -> Iterator[None]:
    """No class is allowed, whatever other tests of the process have allowed: the lab does for its own optimizers."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.add_safe_globals(allowed)


@pytest.mark.usefixtures("nothing_allowed")
@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapted"])
@pytest.mark.parametrize("name", [name for name in WORKING if case(name).classes])
def test_base_state_needs_the_classes_allowed(name: str, adapted: bool) -> None:
    """E adds nothing to what ``torch.load(weights_only=True)`` refuses in the optimizer's own state."""
    _, optimizer = run(name, torch.float32, alpha=ALPHA if adapted else None, steps=HALF)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    assert sorted(refused) == sorted(case(name).classes)
    if not case(name).weights_only:
        file.seek(0)
        allowed = torch.serialization.safe_globals([imported(path) for path in refused])
        with allowed, pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_still_are(name: str) -> None:
    refusal = EXCEPTIONS[name]
    plain, _ = run(name, torch.float32)
    shift = distance(plain, model_for(case(name), torch.float32))
    assert 0 < shift < float("inf"), "the base itself does not run"
    if refusal.error is None:
        adapted, _ = run(name, torch.float32, alpha=ALPHA)
        assert same(adapted, plain), "E has an effect now: take it off EXCEPTIONS"
    else:
        with pytest.raises(refusal.error, match=refusal.match):
            run(name, torch.float32, alpha=ALPHA)


def test_at_least_95_percent_work() -> None:
    """Of everything listed; in float32, where no base fails to resume."""
    assert set(EXCEPTIONS) < set(NAMES)
    assert len(WORKING) / len(NAMES) >= 0.95
    assert all(dtype == torch.float64 for _, dtype in BASE_FAULTS)


def test_no_exported_optimizer_is_missing() -> None:
    exported = {
        name
        for name, value in ((name, getattr(po, name)) for name in po.optimizer.__all__)
        if isinstance(value, type) and issubclass(value, Optimizer)
    }
    listed = {po.load_optimizer(name).__name__ for name in NAMES} | {
        po.load_optimizer(name).__name__ for name in UNAVAILABLE
    }
    assert exported - listed == TAKE_AN_OPTIMIZER
    for name in UNAVAILABLE:
        with pytest.raises(ImportError):
            build(name, model_for(case(name), torch.float32))


def test_docs_name_every_exception() -> None:
    text = DOCS.read_text()
    classes = {po.load_optimizer(name).__name__ for name in [*EXCEPTIONS, *(name for name, _ in BASE_FAULTS)]}
    classes |= {po.load_optimizer(name).__name__ for name in WORKING if case(name).classes}
    assert {name for name in classes if f"`{name}`" not in text} == set()
    assert f"{len(WORKING)} of {len(NAMES)}" in text or not UNAVAILABLE


@pytest.mark.parametrize("name", ["adahessian", "sophiah"])
def test_hessian_may_come_from_outside(name: str) -> None:
    """Without create_graph: the documented alternative."""
    models = []
    for change in (None, two_buffers()):
        model = model_for(case(name), torch.float64)
        optimizer: Any = build(name, model)
        if change is None:
            valleys.adapt(optimizer, ALPHA, BETA)
        for number in range(STEPS):
            optimizer.zero_grad()
            loss_at(model, number).backward()
            hessian = [(param.grad.square() + 1).detach() for param in model.parameters() if param.grad is not None]
            if change is not None:
                change(model)
            optimizer.step(hessian=hessian)
        models.append(model)
    assert_same_path(*models)
