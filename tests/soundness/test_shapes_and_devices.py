"""Nothing but a parameter's own memory reaches a kernel: shapes and devices are compared before anything moves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from public_optimizers import PUBLIC, STATES, available, feed, parameters, snapshot, train
from valleys._engine.tensor_checks import _fits


@pytest.fixture(params=PUBLIC)
def build(request: pytest.FixtureRequest) -> Iterator[Any]:
    with available(request.param) as function:
        yield function


def states_of(optimizer: Any, param: Tensor) -> list[str]:
    return [name for name in STATES if name in optimizer.state[param]]


def assert_unmoved(optimizer: Any, before: Any) -> None:
    after = snapshot(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    for index, entry in before[1].items():
        assert entry.keys() == after[1][index].keys()
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.device.type != "meta":
                assert torch.equal(value, after[1][index][name]), name


DAMAGE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "shorter": (lambda x: x.new_zeros(4), r"shape \(4,\), and the parameter \(4, 6\)"),
    "longer": (lambda x: x.new_zeros(40, 6), r"shape \(40, 6\), and the parameter \(4, 6\)"),
    "transposed": (lambda x: x.reshape(6, 4), r"shape \(6, 4\), and the parameter \(4, 6\)"),
    "a scalar": (lambda x: x.new_zeros(()), r"shape \(\), and"),
    "elsewhere": (lambda x: x.to("meta"), "lies on meta, and the parameter on cpu"),
    "complex": (lambda x: x.to(torch.complex128), "complex128, and the parameter torch.float64"),
    "None": (lambda x: None, "is None, not a tensor"),
    "text": (lambda x: "x", "is 'x', not a tensor"),
    "without memory": (lambda x: freed(x), "no memory"),
}


def freed(tensor: Tensor) -> Tensor:
    """Return a copy whose memory is freed, as FSDP1 and offloading tools free it."""
    copied = tensor.clone()
    copied.untyped_storage().resize_(0)
    return copied


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_that_does_not_fit_is_refused_before_anything_moves(build: Any, damage: str) -> None:
    change, message = DAMAGE[damage]
    params = parameters((3,), (4, 6))
    optimizer = build([("bias", params[0]), ("weight", params[1])])
    train(optimizer, params, 2)
    for name in states_of(optimizer, params[1]):
        state = optimizer.state[params[1]][name]
        if damage == "None" and not isinstance(optimizer, (valleys.ALTO, valleys.Lamb)):
            continue  # a buffer that E has yet to make, a momentum that SGD has yet to make
        optimizer.state[params[1]][name] = change(state)
        feed(params, 3)
        memory = damage == "without memory"
        before = None if memory else snapshot(optimizer)
        with pytest.raises(ValueError, match=message) as raised:
            optimizer.step()
        assert f"state '{name}' of parameter 'weight'" in str(raised.value)
        if not memory:
            assert_unmoved(optimizer, before)
        optimizer.state[params[1]][name] = state
    optimizer.step()


@pytest.mark.parametrize("damage", ["shorter", "longer", "transposed", "without memory"])
def test_a_gradient_that_does_not_fit_is_refused_before_anything_moves(build: Any, damage: str) -> None:
    """torch compares when a gradient is set, and not when a parameter's data is changed afterwards."""
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 2)
    feed(params, 3)
    assert params[1].grad is not None
    params[1].grad.data = DAMAGE[damage][0](params[1].grad)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"the gradient of parameter 1 of its group"):
        optimizer.step()
    assert_unmoved(optimizer, before)


def test_a_parameter_that_grew_is_refused_and_goes_on_once_its_states_have_grown(build: Any) -> None:
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 2)
    params[1].data = torch.cat([params[1].data, torch.ones(100, 6, dtype=torch.float64)])
    before = snapshot(optimizer)
    feed(params, 3)
    with pytest.raises(ValueError, match=r"has the shape \(4, 6\), and the parameter \(104, 6\)"):
        optimizer.step()
    assert_unmoved(optimizer, before)
    grow(optimizer, params[1], params[1])
    optimizer.step()
    assert all(optimizer.state[params[1]][name].shape == (104, 6) for name in states_of(optimizer, params[1]))


def grow(optimizer: Any, old: Tensor, new: Tensor) -> None:
    """The recipe of docs/faq.md: every state of the parameter's shape grows, whatever its name."""
    state = optimizer.state.pop(old)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim():
            more = value.new_zeros(new.shape[0] - value.shape[0], *value.shape[1:])
            state[name] = torch.cat([value, more])
    optimizer.state[new] = state


def test_new_rows_as_gaussian_splatting_adds_them(build: Any) -> None:
    """A longer Parameter takes the old one's place; code that knows Adam's names alone is refused, the recipe works."""
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 2)
    twin_params = [torch.nn.Parameter(param.detach().clone()) for param in params]
    longer = torch.nn.Parameter(torch.cat([params[1].detach(), torch.ones(100, 6, dtype=torch.float64)]))

    def replace() -> None:
        optimizer.param_groups[0]["params"][1] = longer

    names = states_of(optimizer, params[1])
    old = dict(optimizer.state[params[1]])
    replace()
    state = optimizer.state.pop(params[1])
    for name in ("exp_avg", "exp_avg_sq"):
        if name in state:
            state[name] = torch.cat([state[name], torch.zeros(100, 6, dtype=torch.float64)])
    optimizer.state[longer] = state
    feed([params[0], longer], 2)
    if "explore_exp_avg" in names:
        with pytest.raises(ValueError, match=r"'explore_exp_avg' of parameter 1 of its group has the shape \(4, 6\)"):
            optimizer.step()
    optimizer.state[longer] = old
    grow(optimizer, longer, longer)
    optimizer.step()

    # Elementwise optimizers move the old rows as if nothing had been added.
    if not isinstance(optimizer, (valleys.ALTO, valleys.Lamb)):
        twin = build(twin_params)
        fresh = parameters((3,), (4, 6))
        again = build(fresh)
        train(again, fresh, 2)
        twin.load_state_dict(again.state_dict())
        feed([params[0], longer], 2)
        assert longer.grad is not None
        feed(twin_params, 2)
        twin_params[0].grad, twin_params[1].grad = params[0].grad, longer.grad[:4].clone()
        twin.step()
        if "bfloat16" not in str(optimizer.param_groups[0].get("explore_state_dtype")):
            torch.testing.assert_close(longer.detach()[:4], twin_params[1].detach(), rtol=1e-12, atol=1e-12)


def test_loading_refuses_states_of_another_shape(build: Any) -> None:
    """The checkpoint of a model with 10 classes, into one with 100; and 4 x 6 into 6 x 4, of equal count."""
    for saved_shape, shape in (((10, 4), (100, 4)), ((4, 6), (6, 4))):
        sources, mine = parameters(saved_shape), parameters(shape)
        saved, optimizer = build(sources), build(mine)
        train(saved, sources, 2)
        train(optimizer, mine, 1)
        before = snapshot(optimizer)
        if not states_of(saved, sources[0]):
            pytest.skip("keeps no state of the parameter's shape")
        with pytest.raises(ValueError, match=rf"has the shape .*{saved_shape[0]}, {saved_shape[1]}.* the parameter"):
            optimizer.load_state_dict(saved.state_dict())
        assert_unmoved(optimizer, before)
        train(optimizer, mine, 1)


def test_a_zero_tensor_is_a_gradient_of_zeros(build: Any) -> None:
    """Autograd's placeholder for zeros has a shape and no memory (data_ptr 0)."""
    runs = []
    for make in (lambda p: torch._efficientzerotensor(p.shape, dtype=p.dtype), torch.zeros_like):
        params = parameters((3,), (4, 6))
        optimizer = build(params)
        train(optimizer, params, 2)
        for param in params:
            param.grad = make(param)
        assert params[0].grad is not None
        assert params[0].grad._is_zerotensor() == (make is not torch.zeros_like)
        optimizer.step()
        runs.append(snapshot(optimizer))
    assert_equal(runs)


def test_lazily_negated_and_conjugated_tensors_are_what_they_stand_for(build: Any) -> None:
    """torch marks x.conj().imag as negated and leaves the memory alone; a kernel reads memory."""
    runs = []
    for lazily in (False, True):
        params = parameters((3,), (4, 6))
        if lazily:
            params = [torch.nn.Parameter(negated(param.detach())) for param in params]
        optimizer = build(params)
        for step in range(4):
            feed(params, step)
            if lazily:
                for param in params:
                    assert param.grad is not None
                    param.grad = negated(param.grad)
                    assert param.grad.is_neg()
                    assert param.is_neg()
                for param in params:
                    for name in states_of(optimizer, param):
                        optimizer.state[param][name] = negated(optimizer.state[param][name])
            optimizer.step()
        runs.append(snapshot(optimizer))
    assert_equal(runs)


def negated(tensor: Tensor) -> Tensor:
    """The same values, of which the memory holds the negatives."""
    result = torch._neg_view(-tensor)
    assert torch.equal(result, tensor)
    assert result.is_neg()
    return result


def assert_equal(runs: list[Any]) -> None:
    (params, states, _), (others, other_states, _) = runs
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    for index, entry in states.items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other_states[index][name])), name


# torch refuses complex parameters in its fused optimizers, and a bfloat16 buffer is for real ones.
COMPLEX = [name for name in PUBLIC if "one pass" not in name and "bfloat16" not in name]


@pytest.mark.parametrize("name", COMPLEX)
def test_conjugated_complex_gradients(name: str) -> None:
    with available(name) as build:
        runs = []
        for lazily in (False, True):
            params = parameters((3,), (4, 6), dtype=torch.complex128)
            optimizer = build(params)
            for step in range(4):
                feed(params, step)
                for param in params:
                    assert param.grad is not None
                    param.grad = param.grad.conj() if lazily else param.grad.conj().resolve_conj()
                    assert param.grad.is_conj() == lazily
                optimizer.step()
            runs.append(snapshot(optimizer))
        assert_equal(runs)


def test_the_negated_gradient_that_autograd_itself_makes(build: Any) -> None:
    """loss = |y - conj(h) x|^2 gives the imaginary part a gradient with the negative bit, where it is one number."""
    generator = torch.Generator().manual_seed(0)
    real, imaginary = (torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))
    true, x = (torch.randn(4, dtype=torch.complex128, generator=generator) for _ in range(2))
    y = true.conj() * x
    optimizer = build([real, imaginary])
    plain = [torch.nn.Parameter(p.detach().clone()) for p in (real, imaginary)]
    twin = build(plain)
    for _ in range(20):
        for params, own in (((real, imaginary), optimizer), (plain, twin)):
            own.zero_grad()
            loss = (y - torch.complex(*params).conj() * x).abs().square().mean()
            loss.backward()
            if own is optimizer:
                assert imaginary.grad is not None
                assert imaginary.grad.is_neg()
            else:
                for param in params:
                    assert param.grad is not None
                    param.grad = param.grad.resolve_neg()
            own.step()
    for ours_, sources in zip((real, imaginary), plain, strict=True):
        assert torch.equal(ours_, sources)


OPTIONS: list[dict[str, Any]] = [{}, {"max_grad_norm": 0.5}, {"skip_nonfinite": True}, {"blocks": ("stacked", 0, 2)}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_default_device_changes_nothing(build: Any, options: dict[str, Any]) -> None:
    """torch.set_default_device makes every tensor without ``device=`` there; here on one that holds no values."""
    runs = []
    for device in ("cpu", "meta"):
        params = parameters((4,), (4, 6))
        optimizer = build(params)
        if options and not isinstance(optimizer, (valleys.ALTO, valleys.Lamb)):
            return  # an option of ALTO and Lamb
        if isinstance(optimizer, torch.optim.RMSprop):
            pytest.skip("torch's own RMSprop makes its count of steps on the default device")
        optimizer.add_param_group({"params": parameters((2,), seed=5)})  # without gradients
        for group in optimizer.param_groups:
            group.update(options)
        torch.set_default_device(device)
        try:
            for step in range(3):
                feed(params, step)
                optimizer.step()
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            feed(params, 3)
            optimizer.step()
        finally:
            torch.set_default_device(None)
        runs.append(snapshot(optimizer))
    assert_equal(runs)


def test_megatrons_tensor_parallel_shards_are_refused_where_a_norm_is_needed() -> None:
    for cls in (valleys.ALTO, valleys.Lamb):
        params = parameters((3,), (4, 6))
        params[1].tensor_model_parallel, params[1].partition_dim = True, 0  # type: ignore[attr-defined]
        optimizer = cls(params)
        feed(params, 0)
        before = snapshot(optimizer)
        with pytest.raises(RuntimeError, match="Megatron's tensor-parallel"):
            optimizer.step()
        assert_unmoved(optimizer, before)
        for option in ({"skip_nonfinite": True}, {"max_grad_norm": 1.0}):
            with pytest.raises(RuntimeError, match="Megatron's tensor-parallel"):
                cls(params, layer_adaptation=False, **option).step()
        cls(params, layer_adaptation=False).step()


def test_lazy_modules_train_from_their_first_batch_on(build: Any) -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()

    lazy, whole = model(), model()
    batch = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    optimizer = build(lazy.parameters())
    for network in (lazy, whole):
        torch.manual_seed(2)
        network(batch)
    twin = build(whole.parameters())
    for _ in range(3):
        for network, own in ((lazy, optimizer), (whole, twin)):
            own.zero_grad()
            network(batch).square().mean().backward()
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(lazy.parameters(), whole.parameters(), strict=True))


def test_a_lazy_modules_blocks_are_checked_at_its_first_step() -> None:
    layer = torch.nn.LazyLinear(4)
    optimizer = valleys.ALTO([{"params": [layer.weight], "blocks": valleys.blocks.stacked(3)}])
    layer(torch.ones(2, 5)).sum().backward()
    with pytest.raises(ValueError, match="must be a multiple of 3"):
        optimizer.step()


def test_another_device_is_seen_in_the_quick_check_too() -> None:
    """Here no second device has addresses; on a machine with a GPU both would have."""
    tensor = torch.ones(3)
    assert _fits(tensor, tensor.shape, torch.device("cpu"))
    assert not _fits(tensor, tensor.shape, torch.device("cuda", 0))
