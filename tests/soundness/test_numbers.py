"""No wrong numbers without a word: counts that go on, backends that agree on what is finite, options checked again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from backends import BACKENDS
from public_optimizers import PUBLIC, available, feed, parameters, snapshot, train
from valleys.kernels.rounding import keys, mix, salt, signed

EACH = pytest.mark.parametrize("name", [*BACKENDS, "triton"])


@pytest.fixture
def backend(name: str) -> Iterator[dict[str, Any]]:
    with available(f"ALTO {name}"):
        yield {"fused": "triton"} if name == "triton" else BACKENDS[name]


# --- the count that feeds the random bits -----------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("begin", [2**24 - 2, 2**31 - 2, 2**32 - 2])
def test_random_bits_go_on_where_a_float32_stops_counting(
    backend: dict[str, Any], capturable: bool, begin: int
) -> None:
    """A float32 stays at 2^24; the same bits at every step would hold most bfloat16 elements for good."""
    param = torch.nn.Parameter(torch.ones(300, dtype=torch.bfloat16))
    optimizer = valleys.Lamb([param], lr=2**-12, layer_adaptation=False, capturable=capturable, **backend)
    param.grad = torch.ones_like(param)
    optimizer.step()
    state = optimizer.state[param]
    state["step"].fill_(begin)
    state["rounding_step"].fill_(begin)
    moved = torch.zeros(300, dtype=torch.bool)
    patterns = []
    for _ in range(24):
        before = param.detach().clone()
        param.grad = torch.ones_like(param)
        optimizer.step()
        patterns.append(before != param)
        moved |= patterns[-1]
    assert state["rounding_step"].dtype == torch.int64
    assert int(state["rounding_step"]) == begin + 24
    # A step is a sixteenth of the distance to the next number below 1: each moves with that probability.
    assert moved.float().mean() > 0.6
    assert len({tuple(pattern.tolist()) for pattern in patterns}) > 20


@pytest.mark.parametrize("begin", [2**24 - 1, 2**32 - 1])
def test_e_rounds_on_as_well(begin: int) -> None:
    param = torch.nn.Parameter(torch.ones(300))
    optimizer = valleys.adapt(torch.optim.SGD([param], 0.0), 0.5, 0.99, state_dtype=torch.bfloat16)
    feed([param], 0)
    optimizer.step()
    optimizer.state[param]["explore_step"].fill_(begin)
    values = set()
    for _ in range(5):
        optimizer.state[param]["explore_exp_avg"].zero_()
        param.grad = torch.full_like(param, 1 + 2**-9)
        optimizer.step()
        values.add(tuple(optimizer.state[param]["explore_exp_avg"].tolist()))
    assert len(values) == 5
    assert int(optimizer.state[param]["explore_step"]) == begin + 5


def test_keys_are_the_same_wherever_the_count_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [0, 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 3]
    salts = [salt(5, index) for index in range(len(counts))]
    tensors = [torch.tensor(count) for count in counts]
    numbers = keys(salts, tensors)
    assert numbers == [mix(s ^ count + 1) for s, count in zip(salts, counts, strict=True)]
    monkeypatch.setattr("valleys.kernels.rounding.is_readable", lambda tensor: False)
    on_device = keys(salts, tensors)
    assert [int(key) for key in on_device] == [signed(int(number)) for number in numbers]


@EACH
def test_the_count_is_saved_and_an_older_checkpoint_starts_it_from_its_steps(backend: dict[str, Any]) -> None:
    def build(params: Any) -> Any:
        return valleys.ALTO(params, lr=0.01, state_dtype=torch.bfloat16, **backend)

    params = parameters((50,), (4, 6), dtype=torch.float32)
    optimizer = build(params)
    train(optimizer, params, 3)
    saved, start = copy.deepcopy(optimizer.state_dict()), [param.detach().clone() for param in params]
    assert all(int(entry["rounding_step"]) == 3 for entry in saved["state"].values())
    older = copy.deepcopy(saved)
    for entry in older["state"].values():
        del entry["rounding_step"]
    feed(params, 3)
    optimizer.step()
    for state in (saved, older):
        twins = [torch.nn.Parameter(value.clone()) for value in start]
        again = build(twins)
        again.load_state_dict(state)
        feed(twins, 3)
        again.step()
        assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
        assert int(again.state[twins[0]]["rounding_step"]) == 4


@EACH
def test_steps_follow_torchs_convention(backend: dict[str, Any]) -> None:
    runs = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            params = parameters((50,), (4, 6))
            optimizer = valleys.ALTO(params, **backend)
            plain = torch.optim.AdamW(parameters((50,)))
            for step in range(3):
                feed(params, step)
                optimizer.step()
            feed(plain.param_groups[0]["params"], 0)
            plain.step()
            count = plain.state[plain.param_groups[0]["params"][0]]["step"]
            assert optimizer.state[params[0]]["step"].dtype == count.dtype == default
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer.load_state_dict(saved)
            assert optimizer.state[params[0]]["step"].dtype == default
            feed(params, 3)
            optimizer.step()
            runs.append([param.detach().clone() for param in params])
        finally:
            torch.set_default_dtype(torch.float32)
    for own, count in zip(*runs, strict=True):
        torch.testing.assert_close(own, count, rtol=1e-12, atol=1e-12)


@EACH
def test_steps_of_both_kinds_side_by_side(backend: dict[str, Any]) -> None:
    """A checkpoint from under another default dtype, and a parameter that is added afterwards."""
    params = parameters((5,), (4, 6), (7,))
    optimizer = valleys.ALTO(params[:2], **backend)
    train(optimizer, params[:2], 2)
    optimizer.state[params[0]]["step"] = optimizer.state[params[0]]["step"].double()
    optimizer.add_param_group({"params": [params[2]]})
    twins = parameters((5,), (4, 6), (7,))
    twin = valleys.ALTO(twins[:2], **backend)
    train(twin, twins[:2], 2)
    twin.add_param_group({"params": [twins[2]]})
    for step in range(2, 5):
        for own, values in ((optimizer, params), (twin, twins)):
            feed(values, step)
            own.step()
    for param, reference in zip(params, twins, strict=True):
        torch.testing.assert_close(param, reference, rtol=1e-12, atol=0)


# --- finite where it should be ----------------------------------------------------------------------------------------

SIZES = [1e-45, 1e-30, 1e-10, 1.0, 1e10, 1e18, 3e19, 1e25, 1e30, 3e38]
SAFEGUARDS: list[dict[str, Any]] = [{}, {"max_grad_norm": 1.0}, {"skip_nonfinite": True}]


def outcome(build: Any, size: float, options: dict[str, Any]) -> list[Tensor]:
    params = parameters((5,), (40, 6), dtype=torch.float32)
    optimizer = build(params, **options)
    for step in range(4):
        feed(params, step)
        for param in params:
            assert param.grad is not None
            # Large in the middle of a run of ordinary ones.
            param.grad = param.grad.sign() * size if step in (1, 2) else param.grad
        optimizer.step()
    return [param.detach().clone() for param in params]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", SAFEGUARDS, ids=str)
@pytest.mark.parametrize("cls", ["ALTO", "Lamb"])
def test_backends_agree_on_what_is_finite(cls: str, options: dict[str, Any], size: float) -> None:
    """AdamW survives gradients of 1e30: v overflows to infinity and stays there, and m / sqrt(v) is 0."""
    # Triton's interpreter is slow: it meets each size with one of the options, another one for each class.
    turn = (SIZES.index(size) + SAFEGUARDS.index(options) + (cls == "Lamb")) % 3 == 0
    results = {}
    for name in (*BACKENDS, *(["triton"] if turn else [])):
        with available(f"{cls} {name}") as build:
            results[name] = outcome(build, size, options)
    for name, params in results.items():
        for result, expected in zip(params, results["foreach"], strict=True):
            assert torch.equal(result.isfinite(), expected.isfinite()), name
            torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
    if size < 1e38:
        assert all(param.isfinite().all() for param in results["foreach"])


# --- options changed in mid-run ---------------------------------------------------------------------------------------

OUT_OF_RANGE: dict[str, list[Any]] = {
    "lr": [-1.0, float("nan"), float("inf"), None, "fast", torch.tensor(-1.0)],
    "betas": [(0.9, 1.5), (0.9,), None, (0.99, 0.9, 0.99)],
    "beta": [1.0, float("nan"), 0.5],
    "eps": [-1.0, float("nan")],
    "weight_decay": [float("nan"), -0.1],
    "trust_eps": [-1.0],
    "norm_eps": [float("nan")],
    "max_grad_norm": [-1.0, 0.0, float("nan")],
    "trust_clip": [(3.0, 1.0), (-1.0, 2.0), float("nan")],
    "maximize": ["yes"],
    "bias_correction": [None],
    "layer_adaptation": ["all"],
    "skip_nonfinite": [None],
    "stochastic_rounding": ["up"],
    "state_dtype": [torch.float16, "4bit"],
    "seed": [-1, 0.5],
    "foreach": ["no"],
    "fused": ["cuda"],
    "alpha": [float("nan"), 1000.0],
    "accelerate": ["momentum", ("speed",)],
    "blocks": ["all", ("stacked", 0, 5)],
    "explore_alpha": [float("nan"), 1000.0],
    "explore_beta": [1.0, -0.1],
}


@pytest.mark.parametrize("option", OUT_OF_RANGE)
@pytest.mark.parametrize("name", ["ALTO foreach", "ALTO c", "Lamb c", "EAdamW", "adapt(SGD)"])
def test_an_option_changed_out_of_range_raises_before_anything_moves(name: str, option: str) -> None:
    """Schedulers and users write into the groups."""
    params = parameters((3,), (4, 6))
    optimizer = PUBLIC[name](params)
    is_public = isinstance(optimizer, (valleys.ALTO, valleys.Lamb))
    group = optimizer.param_groups[0]
    if option not in group or (not is_public and not option.startswith("explore_")):
        return  # torch's own options are torch's to check
    train(optimizer, params, 2)
    for value in OUT_OF_RANGE[option]:
        good = group[option]
        group[option] = value
        feed(params, 3)
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=option.replace("explore_", "")):
            optimizer.step()
        after = snapshot(optimizer)
        assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        for index, entry in before[1].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(after[1][index][k])) for k, v in entry.items())
        group[option] = good
    optimizer.step()


# --- tensors without values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb, valleys.ESGD, valleys.EAdam, valleys.EAdamW])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_can_be_traced_with_fake_tensors(cls: Any, dtype: torch.dtype) -> None:
    """With the default options, and with all that is read on the device: nothing asks for a value."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    options = {"max_grad_norm": 1.0, "skip_nonfinite": True} if cls in (valleys.ALTO, valleys.Lamb) else {}
    for settings in ({}, options):
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="valleys falls back from a fused kernel")
            params = [torch.nn.Parameter(torch.empty(shape, dtype=dtype)) for shape in ((3,), (4, 6))]
            optimizer = cls(params, **settings)
            for _ in range(2):
                for param in params:
                    param.grad = torch.empty_like(param)
                optimizer.step()
            assert all(param.shape == value.shape for param in params for value in [param.grad] if value is not None)
            assert all("explore_exp_avg" in optimizer.state[param] for param in params if cls is not valleys.Lamb)


def test_a_fake_run_leaves_nothing_behind_for_a_real_one() -> None:
    """Constants that are sent to a device once must not be those of a mode that is over."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    options: dict[str, Any] = {
        "blocks": valleys.blocks.stacked(2),
        "state_dtype": torch.bfloat16,
        "foreach": True,
        "capturable": True,
        "seed": 123456,
    }

    def run() -> list[Tensor]:
        params = [torch.nn.Parameter(torch.ones(4, 6)), torch.nn.Parameter(torch.ones(2, 5))]
        optimizer = valleys.ALTO(params, **options)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        return [param.detach() for param in params]

    for _ in range(2):
        with FakeTensorMode():
            run()
        assert all(type(param) is Tensor for param in run())
