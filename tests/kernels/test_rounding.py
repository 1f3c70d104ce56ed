"""Stochastic rounding: the bits, their distribution, and training that goes on where rounding to nearest stalls."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import BACKENDS
from valleys.kernels import Needs, c, compiled, foreach
from valleys.kernels.rounding import Noise, bits, mix, mix_tensor, round_to_bfloat16, salt, signed

EACH = pytest.mark.parametrize("backend", BACKENDS)
COUNT = 100_003
FLOATS = Needs(torch.float32, torch.float32, torch.float32)


def values(seed: int = 0, count: int = COUNT) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_the_tensor_form_of_the_hash() -> None:
    numbers = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 123456789]
    patterns = mix_tensor(torch.tensor([signed(x) for x in numbers], dtype=torch.int32))
    assert [x % 2**32 for x in patterns.tolist()] == [mix(x) for x in numbers]


@pytest.mark.parametrize("role", ["param", "explore", "exp_avg", "exp_avg_sq"])
def test_bits_are_uniform_and_independent(role: str) -> None:
    """Means, variances and correlations between neighbours, steps, tensors and roles, each within 4 sigma."""
    like = torch.empty(COUNT)

    def uniform(index: int, step: int, role: str) -> Tensor:
        return (bits(Noise(mix(salt(0, index) ^ step), 0), role, like).double() + 0.5) / 2**16 - 0.5

    x = uniform(0, 1, role)
    assert abs(x.mean()) < 4 * (1 / 12 / COUNT) ** 0.5
    assert abs(x.var() * 12 - 1) < 4 * (0.8 / COUNT) ** 0.5
    roles = [other for other in ("param", "explore", "exp_avg", "exp_avg_sq") if other != role]
    others = [uniform(0, 2, role), uniform(1, 1, role), *(uniform(0, 1, other) for other in roles), x.roll(1)]
    for y in others:
        assert abs((x * y).mean() * 12) < 4 / COUNT**0.5


def test_bits_of_a_slice_are_the_slice_of_the_bits() -> None:
    key = mix(12345)
    whole = bits(Noise(key, 0), "exp_avg", torch.empty(100))
    assert torch.equal(bits(Noise(key, 60), "exp_avg", torch.empty(40)), whole[60:])
    on_device = torch.tensor(signed(key), dtype=torch.int32)
    assert torch.equal(bits(Noise(on_device, 60), "exp_avg", torch.empty(40)), whole[60:])


def test_rounding_is_unbiased_and_to_a_neighbour() -> None:
    x = torch.full((COUNT,), 1 + 0.3 * 2**-7)
    rounded = round_to_bfloat16(x, bits(Noise(mix(1), 0), "param", x)).double()
    assert set(rounded.tolist()) == {1.0, 1 + 2**-7}
    assert abs(((rounded - 1) * 2**7).mean() - 0.3) < 4 * (0.21 / COUNT) ** 0.5


def test_special_values_stay() -> None:
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0, -0.0, 1.0])
    noise = torch.full((6,), 65535, dtype=torch.int32)
    rounded = round_to_bfloat16(special, noise)
    assert torch.equal(rounded.isnan(), special.isnan())
    torch.testing.assert_close(rounded.float(), special, rtol=0, atol=0, equal_nan=True)
    # A NaN whose pattern is all ones would overflow into a number.
    ones = torch.tensor([-1], dtype=torch.int32).view(torch.float32)
    assert round_to_bfloat16(ones, noise[:1]).isnan().all()


@pytest.mark.parametrize("module", [foreach, c, compiled], ids=lambda m: m.__name__.rsplit(".", 1)[1])
def test_every_backend_rounds_e_with_the_same_bits(module: Any) -> None:
    """beta = 0 makes s the gradient itself, so nothing but the rounding is left to differ."""
    assert module is foreach or module.unavailable(torch.device("cpu"), FLOATS) is None
    grads = [values(0), values(1, 7), torch.tensor([float("nan"), 2.0, 1.0])]
    keys = [mix(salt(3, i) ^ 5) for i in range(3)]
    buffers = [torch.zeros_like(g, dtype=torch.bfloat16) for g in grads]
    outs = [torch.empty_like(g) for g in grads]
    module.explore_(grads, buffers, outs, alpha=0.5, beta=0.0, keys=keys)
    for g, s, out, key in zip(grads, buffers, outs, keys, strict=True):
        expected = round_to_bfloat16(g, bits(Noise(key, 0), "explore", g))
        torch.testing.assert_close(s, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(out, 1.5 * g, rtol=1e-6, atol=0, equal_nan=True)
    module.explore_(grads[:1], buffers[:1], outs[:1], alpha=0.5, beta=0.0, keys=None)
    assert torch.equal(buffers[0], grads[0].bfloat16())


@EACH
def test_every_backend_rounds_states_and_parameters_with_the_same_bits(backend: str) -> None:
    """betas of 0 leave s = m = g and v = g^2; a fixed update makes the parameter exact before it is rounded."""
    g = values(0)
    param = torch.nn.Parameter(torch.ones(COUNT))
    param.grad = g.clone()
    optimizer: Any = valleys.ALTO(
        [param],
        alpha=0.5,
        beta=0.0,
        betas=(0.0, 0.0),
        accelerate=(),
        state_dtype=torch.bfloat16,
        seed=11,
        bias_correction=False,
        **BACKENDS[backend],
    )
    optimizer.step()
    place = Noise(mix(salt(11, 0) ^ 1), 0)
    state = optimizer.state[param]
    assert torch.equal(state["explore_exp_avg"], round_to_bfloat16(g, bits(place, "explore", g)))
    assert torch.equal(state["exp_avg"], round_to_bfloat16(g, bits(place, "exp_avg", g)))
    assert torch.equal(state["exp_avg_sq"], round_to_bfloat16(g * g, bits(place, "exp_avg_sq", g)))

    # m = 1/4, v = 1/4: the update is 1/4 / (1/2 + 1/2) = 1/4, and 1 - 2^-9 * 1/4 lies between bfloat16 numbers.
    half = torch.nn.Parameter(torch.ones(COUNT, dtype=torch.bfloat16))
    half.grad = torch.full_like(half, 0.5)
    options: dict[str, Any] = {"betas": (0.5, 0.0), "eps": 0.5, "weight_decay": 0.0, "layer_adaptation": False}
    optimizer = valleys.Lamb([half], lr=2**-9, bias_correction=False, seed=11, **options, **BACKENDS[backend])
    optimizer.step()
    wide = torch.full((COUNT,), 1 - 2**-11)
    assert torch.equal(half.detach(), round_to_bfloat16(wide, bits(place, "param", wide)))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_backends_agree_on_whole_runs(backend: str, dtype: torch.dtype) -> None:
    """The last bit of the float32 arithmetic may tip a rounding here and there, no more."""

    def trained(options: dict[str, Any]) -> Tensor:
        param = torch.nn.Parameter(values(1).to(dtype))
        optimizer = valleys.ALTO([param], lr=0.01, layer_adaptation=True, state_dtype=torch.bfloat16, **options)
        for k in range(3):
            param.grad = values(2 + k).to(dtype)
            optimizer.step()
        return param.detach().float()

    params, expected = trained(BACKENDS[backend]), trained({"foreach": False})
    differing = ((params - expected).abs() > 1e-5 * expected.abs().clamp(min=1e-3)).double().mean()
    assert differing < 2e-3
    assert (params - expected).abs().max() < 0.05


@EACH
def test_seeds_steps_and_tensors_have_their_own_bits(backend: str) -> None:
    def stepped(seed: int, number: int = 1) -> list[Tensor]:
        params = [torch.nn.Parameter(torch.ones(1000)) for _ in range(2)]
        optimizer = valleys.Lamb(params, betas=(0.0, 0.0), state_dtype=torch.bfloat16, seed=seed, **BACKENDS[backend])
        for _ in range(number):
            for param in params:
                param.grad = values(0, 1000)
            optimizer.step()
        return [optimizer.state[param]["exp_avg"] for param in params]

    first = stepped(0)
    assert all(torch.equal(a, b) for a, b in zip(first, stepped(0), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], stepped(1)[0])
    assert not torch.equal(first[0], stepped(0, 2)[0])


def test_pieces_round_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepped() -> list[Tensor]:
        param = torch.nn.Parameter(torch.ones(5000))
        param.grad = values(0, 5000)
        options: dict[str, Any] = {"alpha": 0.5, "beta": 0.0, "betas": (0.0, 0.0), "accelerate": (), "foreach": True}
        optimizer = valleys.ALTO([param], state_dtype=torch.bfloat16, **options)
        optimizer.step()
        buffer, out = torch.zeros(5000, dtype=torch.bfloat16), torch.empty(5000)
        foreach.explore_([values(0, 5000)], [buffer], [out], alpha=0.5, beta=0.0, keys=[7])
        return [*(optimizer.state[param][name] for name in ("explore_exp_avg", "exp_avg", "exp_avg_sq")), buffer]

    whole = stepped()
    monkeypatch.setattr(foreach, "_CPU_PIECE", 1000)
    assert all(torch.equal(a, b) for a, b in zip(whole, stepped(), strict=True))


def test_tensors_of_different_groups_have_their_own_bits() -> None:
    params = [torch.nn.Parameter(torch.ones(1000)) for _ in range(3)]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = valleys.Lamb(groups, betas=(0.0, 0.0), state_dtype=torch.bfloat16)
    for param in params:
        param.grad = values(0, 1000)
    optimizer.step()
    first, second, third = (optimizer.state[param]["exp_avg"] for param in params)
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)
    assert not torch.equal(second, third)


@EACH
def test_small_updates_of_bfloat16_parameters_are_not_lost(backend: str) -> None:
    """Each step is a thirtieth of the distance between bfloat16 numbers; to nearest nothing would ever move."""

    def movement(stochastic: bool) -> Tensor:
        param = torch.nn.Parameter(torch.ones(2000, dtype=torch.bfloat16))
        optimizer = valleys.ALTO(
            [param],
            lr=1e-4,
            layer_adaptation=False,
            weight_decay=0.0,
            stochastic_rounding=stochastic,
            **BACKENDS[backend],
        )
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        return 1 - param.detach().double()

    assert movement(False).abs().max() == 0
    assert movement(True).mean() == pytest.approx(0.01, rel=0.05)


@EACH
def test_bfloat16_averages_do_not_stall(backend: str) -> None:
    """A memory of 1,000 steps: its increments are a fourth of bfloat16's resolution and less."""
    betas = (0.99, 0.999)

    def averages(stochastic: bool) -> list[float]:
        param = torch.nn.Parameter(torch.ones(2000))
        optimizer = valleys.ALTO(
            [param],
            lr=0.0,
            alpha=0.5,
            beta=0.999,
            betas=betas,
            state_dtype=torch.bfloat16,
            stochastic_rounding=stochastic,
            **BACKENDS[backend],
        )
        for _ in range(1000):
            param.grad = torch.ones_like(param)
            optimizer.step()
        return [optimizer.state[param][name].double().mean().item() for name in ("explore_exp_avg", "exp_avg_sq")]

    expected = 1 - 0.999**1000
    assert averages(True) == pytest.approx([expected, expected], rel=0.01)
    assert max(averages(False)) < 0.6 * expected


def test_the_second_moment_is_safe_in_bfloat16() -> None:
    """Noisy gradients, memory of 1,000: relative error of sqrt(v) about the size of bfloat16's resolution, no bias."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(5000)) for _ in range(2)]
    exact = valleys.Lamb(params[:1], lr=0.0, betas=(0.9, 0.999))
    narrow = valleys.Lamb(params[1:], lr=0.0, betas=(0.9, 0.999), state_dtype=torch.bfloat16)
    for _ in range(2000):
        params[0].grad = torch.randn(5000, generator=generator)
        params[1].grad = params[0].grad
        exact.step()
        narrow.step()
    v = exact.state[params[0]]["exp_avg_sq"].double()
    error = narrow.state[params[1]]["exp_avg_sq"].double().sqrt() / v.sqrt() - 1
    assert error.square().mean().sqrt() < 0.03
    assert abs(error.mean()) < 0.003


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_rounds_alike(backend: str, dtype: torch.dtype) -> None:
    """The count of steps and the seed are all there is to save."""
    params = [torch.nn.Parameter(values(i, 50).to(dtype)) for i in range(2)]
    options = {"lr": 0.01, "state_dtype": torch.bfloat16, "seed": 5, **BACKENDS[backend]}
    optimizer = valleys.ALTO(params, **options)

    def steps(optimizer: Any, params: list[Any], first: int) -> None:
        for k in range(first, first + 4):
            for i, param in enumerate(params):
                param.grad = values(10 * k + i, 50).to(dtype)
            optimizer.step()

    steps(optimizer, params, 0)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    twins = copy.deepcopy(params)
    resumed = valleys.ALTO(twins, lr=1.0)  # every option comes from the checkpoint
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    steps(optimizer, params, 4)
    steps(resumed, twins, 4)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    assert resumed.state[twins[0]]["exp_avg"].dtype == torch.bfloat16


def test_e_in_bfloat16_resumes_and_does_not_stall() -> None:
    def steps(optimizer: Any, param: Any, count: int) -> None:
        for _ in range(count):
            param.grad = torch.ones_like(param)
            optimizer.step()

    param = torch.nn.Parameter(torch.ones(2000))
    optimizer = valleys.adapt(torch.optim.SGD([param], 0.1), 0.5, 0.999, state_dtype=torch.bfloat16, seed=3)
    steps(optimizer, param, 500)
    twin = torch.nn.Parameter(param.detach().clone())
    resumed = valleys.adapt(torch.optim.SGD([twin], 0.1), 0.5, 0.999, state_dtype=torch.bfloat16)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(optimizer, param, 500)
    steps(resumed, twin, 500)
    s = optimizer.state_dict()["state"][0]["explore_exp_avg"]
    assert s.dtype == torch.bfloat16
    assert torch.equal(s, resumed.state_dict()["state"][0]["explore_exp_avg"])
    assert s.double().mean() == pytest.approx(1 - 0.999**1000, rel=0.01)


@pytest.mark.parametrize(("options", "message"), [({"state_dtype": torch.float16}, "float16"), ({"seed": -1}, "seed")])
def test_bad_precision_is_refused(options: dict[str, Any], message: str) -> None:
    param = torch.nn.Parameter(torch.ones(3))
    for build in (
        lambda: valleys.ALTO([param], **options),
        lambda: valleys.EAdamW([param], **options),
        lambda: valleys.adapt(torch.optim.SGD([param]), **options),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_complex_parameters_keep_complex_states() -> None:
    param = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="is complex; put it into a group with state_dtype=None"):
        valleys.ALTO([param], state_dtype=torch.bfloat16).step()
