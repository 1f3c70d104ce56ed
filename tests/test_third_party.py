"""``adapt`` over every optimizer that ``pytorch_optimizer`` lists."""

from __future__ import annotations

import importlib
import io
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer as po
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from third_party import BASE_FAULTS, EXCEPTIONS, NAMES, TAKE_AN_OPTIMIZER, UNAVAILABLE, Case, case
from valleys.kernels import Needs
from valleys.kernels.choice import select
from valleys.reference import TwoBuffer, explore

ALPHA, BETA = -20.0, 0.97  # c = -0.6
STEPS, HALF = 20, 10
WORKING = tuple(name for name in NAMES if name not in EXCEPTIONS)
DOCS = Path(__file__).parents[1] / "docs" / "third-party.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
    pytest.mark.filterwarnings("ignore:you need to install `transformers`:ImportWarning"),
]

Loss = Callable[[int], Tensor]
Feed = Callable[[nn.Module], None]


@pytest.fixture(autouse=True, scope="module")
def process_group() -> Iterator[None]:
    """DistributedMuon wants one; it is this process alone."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors; the threads of two pytest workers would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seed(number: int) -> None:
    """For the optimizers that draw random numbers; every run draws the same ones at the same step."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def model_for(case: Case, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    if case.matrices:
        layers = [nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False)]
    else:
        head = [nn.Linear(16, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)]
        layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), *head]
    return nn.Sequential(*layers).to(dtype)


def loss_at(model: nn.Module, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + number)
    images = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (8,), generator=generator)
    return nn.functional.cross_entropy(model(images.to(next(model.parameters()).dtype)), labels)


def build(name: str, model: nn.Module) -> Optimizer:
    wanted = case(name)
    params = list(model.parameters())
    first = model if wanted.takes == "model" else wanted.groups(params) if wanted.groups else params
    seed(0)
    optimizer: Optimizer = po.load_optimizer(name)(first, **wanted.options)
    return optimizer


def run_step(model: nn.Module, optimizer: Any, number: int, feed: str, change: Feed | None = None) -> None:
    """One step; ``change`` works on the gradients between backward and step, which takes closures apart."""
    seed(number)
    optimizer.zero_grad()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(model, number)
        loss.backward()
        return loss

    if feed == "fused":
        optimizer.fused_backward(loss_at(model, number), 1e-2)
        return
    if feed == "closure" and change is None:
        optimizer.step(closure)
        return
    loss = loss_at(model, number)
    loss.backward(create_graph=feed == "graph")
    if change is not None:
        change(model)
    if feed == "twice":
        optimizer.step(closure)
    elif feed in ("closure", "loss"):
        optimizer.step(lambda: loss.item())
    else:
        optimizer.step()


def run(
    name: str,
    dtype: torch.dtype,
    *,
    alpha: float | None = None,
    change: Feed | None = None,
    steps: int = STEPS,
) -> tuple[nn.Module, Optimizer]:
    """Model and optimizer after ``steps``; adapted where ``alpha`` is given."""
    model = model_for(case(name), dtype)
    optimizer = build(name, model)
    if alpha is not None:
        valleys.adapt(optimizer, alpha, BETA)
    for number in range(steps):
        run_step(model, optimizer, number, case(name).feed, change)
    return model, optimizer


def two_buffers() -> Feed:
    """Puts the paper's g + alpha a into ``.grad``."""
    memories: dict[Tensor, TwoBuffer] = {}

    def change(model: nn.Module) -> None:
        for param in model.parameters():
            assert param.grad is not None
            zero = torch.zeros_like(param)
            memory = memories.get(param, TwoBuffer(zero, zero))
            param.grad, new = explore(param.grad, memory, ALPHA, BETA)
            memories[param] = TwoBuffer(*(buffer.detach() for buffer in new))

    return change


def one_buffer() -> Feed:
    """The same in exact arithmetic; in floating point with the very rounding of the kernel."""
    averages: dict[Tensor, Tensor] = {}

    def change(model: nn.Module) -> None:
        for param in model.parameters():
            assert param.grad is not None
            average = averages.setdefault(param, torch.zeros_like(param).detach())
            adapted = torch.empty_like(param.grad)
            kernel = select([param], Needs(param.dtype, param.dtype, param.dtype), None, None)
            kernel.explore_([param.grad], [average], [adapted], alpha=ALPHA, beta=BETA)
            param.grad = adapted

    return change


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


def assert_same_path(adapted: nn.Module, explicit: nn.Module) -> None:
    for param, expected in zip(adapted.parameters(), explicit.parameters(), strict=True):
        assert torch.isfinite(param).all()
        torch.testing.assert_close(param, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", WORKING)
def test_equals_the_base_fed_explicit_gradients(name: str) -> None:
    wanted = case(name)
    adapted, _ = run(name, wanted.dtype, alpha=ALPHA)
    explicit, _ = run(name, wanted.dtype, change=one_buffer() if wanted.bitwise else two_buffers())
    if wanted.bitwise:
        assert same(adapted, explicit)
    else:
        assert_same_path(adapted, explicit)
    plain, _ = run(name, wanted.dtype)
    assert distance(explicit, plain) > 1e-5, "E makes too little difference for this test to see"


@pytest.mark.parametrize("name", WORKING)
def test_alpha_zero_is_the_base_bit_for_bit(name: str) -> None:
    adapted, _ = run(name, case(name).dtype, alpha=0.0)
    plain, _ = run(name, case(name).dtype)
    assert same(adapted, plain)


@pytest.mark.parametrize("name", WORKING)
def test_leaves_grad_as_found(name: str) -> None:
    model, optimizer = run(name, case(name).dtype, alpha=ALPHA, steps=HALF)
    found: list[Tensor] = []

    def note(_: nn.Module) -> None:
        found.extend(param.grad.clone() for param in model.parameters() if param.grad is not None)

    run_step(model, optimizer, HALF, case(name).feed, note)
    for param, grad in zip(model.parameters(), found, strict=True):
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
    """Whether a run saved and loaded into fresh objects ends bit for bit like the uninterrupted one."""
    alpha = ALPHA if adapted else None
    model, optimizer = run(name, dtype, alpha=alpha, steps=HALF)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
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
    moved = distance(plain, model_for(case(name), torch.float32))
    assert 0 < moved < float("inf"), "the base itself does not run"
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


Inner = Callable[[Any], Optimizer]

WRAPPERS: dict[str, Callable[[list[nn.Parameter], Inner], Any]] = {
    "FriendlySAM": lambda params, inner: po.FriendlySAM(params, lambda groups, **_: inner(groups)),
    "LookSAM": lambda params, inner: po.LookSAM(params, lambda groups, **_: inner(groups), k=3),
    "Lookahead": lambda params, inner: po.Lookahead(inner(params), k=3),
    "Magma": lambda params, inner: po.Magma(inner(params)),
    "OrthoGrad": lambda params, inner: po.OrthoGrad(inner(params)),
    "SAM": lambda params, inner: po.SAM(params, lambda groups, **_: inner(groups)),
    "ScheduleFreeWrapper": lambda params, inner: po.ScheduleFreeWrapper(inner(params)),
    "TRAC": lambda params, inner: po.TRAC(inner(params)),
}


def wrapped(name: str, model: nn.Module, *, adapted: bool) -> Any:
    """The wrapper around an AdamW: adapted, or with a hook that makes ``.grad`` the two-buffer gradient."""

    def inner(params: Any) -> Optimizer:
        optimizer = torch.optim.AdamW(params, lr=1e-2)
        if adapted:
            return valleys.adapt(optimizer, ALPHA, BETA)
        change = two_buffers()
        optimizer.register_step_pre_hook(lambda *_: change(model))
        return optimizer

    wrapper = WRAPPERS[name](list(model.parameters()), inner)
    if name == "ScheduleFreeWrapper":
        wrapper.train()
    return wrapper


def wrapper_step(name: str, model: nn.Module, optimizer: Any, number: int) -> None:
    run_step(model, optimizer, number, "twice" if "SAM" in name else "backward")


@pytest.mark.parametrize("name", WRAPPERS)
def test_adapts_inside_a_wrapper(name: str) -> None:
    models = []
    for adapted in (True, False):
        model = model_for(Case(), torch.float64)
        optimizer = wrapped(name, model, adapted=adapted)
        for number in range(STEPS):
            wrapper_step(name, model, optimizer, number)
        models.append(model)
    assert_same_path(*models)


def holder(name: str, wrapper: Any) -> Any:
    """What saves E's buffers: the wrapper, but for SAM, whose state dict does not ask the inner optimizer."""
    return wrapper.base_optimizer if name == "SAM" else wrapper


@pytest.mark.parametrize("name", WRAPPERS)
def test_resumes_inside_a_wrapper(name: str) -> None:
    model = model_for(Case(), torch.float32)
    optimizer = wrapped(name, model, adapted=True)
    for number in range(HALF):
        wrapper_step(name, model, optimizer, number)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": holder(name, optimizer).state_dict()}, file)
    for number in range(HALF, STEPS):
        wrapper_step(name, model, optimizer, number)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = model_for(Case(), torch.float32)
    successor = wrapped(name, fresh, adapted=True)
    fresh.load_state_dict(saved["model"])
    holder(name, successor).load_state_dict(saved["optimizer"])
    if name == "SAM":
        successor.param_groups = successor.base_optimizer.param_groups
        successor.state = successor.base_optimizer.state
    for number in range(HALF, STEPS):
        wrapper_step(name, fresh, successor, number)
    assert same(fresh, model)


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_themselves_are_refused(name: str) -> None:
    model = model_for(Case(), torch.float32)
    with pytest.raises(TypeError, match="adapt the inner one before wrapping it"):
        valleys.adapt(wrapped(name, model, adapted=False))
