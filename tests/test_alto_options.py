"""ALTO and Lamb as torch optimizers: what they refuse, and what they do at the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import valleys

BOTH = pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb], ids=lambda cls: cls.__name__)


def one(value: float = 1.0) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((3,), value))]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lr": -0.1}, r"lr must be a number in \[0, inf\), got -0.1; .*1e-2"),
    ({"lr": float("nan")}, r"lr .*got nan"),
    ({"lr": "0.1"}, r"lr .*got '0.1'"),
    ({"lr": torch.tensor(-1.0)}, "lr"),
    ({"eps": -1e-9}, "eps .*got -1e-09"),
    ({"weight_decay": -1.0}, "weight_decay"),
    ({"trust_eps": -1.0}, "trust_eps"),
    ({"norm_eps": float("inf")}, "norm_eps"),
    ({"betas": (0.9,)}, r"betas must be \d numbers"),
    ({"betas": 0.9}, r"betas must be \d numbers"),
    ({"trust_clip": -1.0}, "trust_clip"),
    ({"trust_clip": (2.0, 1.0)}, "trust_clip"),
    ({"trust_clip": (1.0, 2.0, 3.0)}, "trust_clip"),
    ({"max_grad_norm": 0.0}, "max_grad_norm .*None"),
]
BAD_ALTO: list[tuple[dict[str, Any], str]] = [
    ({"betas": (0.9, 1.0)}, r"betas\[1\] .*\[0, 1\), got 1.0; it is the second moment"),
    ({"beta": 0.1}, r"alpha = -5.0 and beta = 0.1 .*below 1; use \|alpha\| <"),
    ({"alpha": 100.0}, r"\|alpha\| < 100"),
    ({"alpha": float("nan")}, "alpha"),
    ({"accelerate": "momentum"}, "accelerate must be a tuple"),
    ({"accelerate": ("m",)}, "second_moment"),
    ({"accelerate": ("after_momentum",)}, "or 'after_momentum'"),
    ({"accelerate": "after"}, "or 'after_momentum'"),
]


@BOTH
@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_are_refused(cls: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(one(), **options)
    optimizer = cls(one())
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": one(), **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("options", "message"), BAD_ALTO)
def test_bad_options_of_alto_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        valleys.ALTO(one(), **options)
    with pytest.raises(ValueError, match=message):
        valleys.ALTO([{"params": one(), **options}])


def test_what_cannot_be_honoured_raises() -> None:
    with pytest.raises(RuntimeError, match=r"fused='triton'.*; leave fused=None"):
        valleys.ALTO(one(), fused="triton")
    with pytest.raises(ValueError, match="fused must be None, True, False or the name"):
        valleys.ALTO(one(), fused="fast")
    with pytest.raises(RuntimeError, match="fused and foreach"):
        valleys.ALTO(one(), fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="differentiable"):
        valleys.ALTO(one(), differentiable=True, foreach=True)
    with pytest.raises(ValueError, match="has no effect on Lamb; use ALTO"):
        valleys.Lamb([{"params": one(), "alpha": -5.0}])


def test_alpha_changed_out_of_range_raises_at_the_step() -> None:
    params = one()
    optimizer = valleys.ALTO(params)
    optimizer.param_groups[0]["beta"] = 0.1
    params[0].grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"beta = 0\.1"):
        optimizer.step()
    assert not optimizer.state


@BOTH
def test_empty_groups_and_parameters_without_gradients(cls: Any) -> None:
    params = one()
    optimizer = cls([{"params": []}, {"params": params}])
    optimizer.step()
    assert not optimizer.state
    params[0].grad = torch.ones(3)
    optimizer.step()
    assert optimizer.state[params[0]]["step"].item() == 1


@BOTH
def test_a_parameter_counts_its_own_steps(cls: Any) -> None:
    first, late = one()[0], one()[0]
    optimizer = cls([first, late])
    for step in range(5):
        first.grad = torch.ones(3)
        late.grad = torch.ones(3) if step == 4 else None
        optimizer.step()
    assert optimizer.state[late]["step"].item() == 1
    # Bias correction by its own count: a first step is a full one.
    fresh = one()
    alone = cls(fresh)
    fresh[0].grad = torch.ones(3)
    alone.step()
    assert torch.equal(late.detach(), fresh[0].detach())


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_states_keep_their_dtype_through_a_load(cls: Any, dtype: torch.dtype) -> None:
    params = [torch.nn.Parameter(torch.ones(3, dtype=dtype))]
    optimizer = cls(params)
    params[0].grad = torch.full((3,), 0.1, dtype=dtype)
    optimizer.step()
    state = optimizer.state_dict()
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    names = {"exp_avg", "exp_avg_sq", *(["explore_exp_avg"] if cls is valleys.ALTO else [])}
    counts = {"step", *(["rounding_step"] if dtype == torch.bfloat16 else [])}
    assert set(state["state"][0]) == {*counts, *names}
    twin = cls([torch.nn.Parameter(torch.ones(3, dtype=dtype))])
    twin.load_state_dict(state)
    for name in names:
        loaded = twin.state_dict()["state"][0][name]
        assert loaded.dtype == expected
        assert torch.equal(loaded, state["state"][0][name])


@BOTH
def test_closure(cls: Any) -> None:
    (param,) = one()
    optimizer = cls([param])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 3.0
    assert not torch.equal(param.detach(), torch.ones(3))


def test_a_bad_checkpoint_changes_nothing() -> None:
    (param,) = one()
    optimizer = valleys.ALTO([param])
    param.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    broken = {**state, "param_groups": [{**state["param_groups"][0], "beta": 0.1}]}
    with pytest.raises(ValueError, match="alpha"):
        optimizer.load_state_dict(broken)
    assert optimizer.param_groups[0]["beta"] == 0.99


def test_clipping_is_per_group() -> None:
    """Each group's own norm and bound; Alg. 1 without the ratio shows the gradient's scale in the moments."""
    a, b, c = one()[0], one()[0], one()[0]
    groups: list[dict[str, Any]] = [{"params": [a, b], "max_grad_norm": 1.0}, {"params": [c]}]
    optimizer = valleys.Lamb(groups, betas=(0.0, 0.0), layer_adaptation=False)
    for param in (a, b, c):
        param.grad = torch.full((3,), 2.0)
    optimizer.step()
    clipped = 2.0 / (24**0.5 + 1e-6)
    for param, value in ((a, clipped), (b, clipped), (c, 2.0)):
        torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((3,), value))


def test_mixed_dtypes_in_one_group() -> None:
    for foreach in (False, True):
        params = [torch.nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float32, torch.float64, torch.bfloat16)]
        optimizer = valleys.ALTO(params, lr=0.1, foreach=foreach, max_grad_norm=1.0)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        for param in params:
            torch.testing.assert_close(param.detach().double(), torch.full((3,), 0.9).double(), rtol=5e-3, atol=0)


def test_adapted_and_ours_work_with_the_models_own_groups() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    optimizer = valleys.ALTO(valleys.param_groups(model, weight_decay=0.1), lr=0.1)
    options = [(g["weight_decay"], g["layer_adaptation"]) for g in optimizer.param_groups]
    assert options == [(0.1, True), (0.0, False)]
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_clip_norm_accumulates_in_float32() -> None:
    """The norm of these float16 gradients, 120,000, is no float16 number; the factor would be 0."""
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = valleys.Lamb([param], betas=(0.0, 0.0), max_grad_norm=1.0)
    param.grad = torch.full((4,), 60000.0, dtype=torch.float16)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((4,), 0.5), rtol=1e-3, atol=0)


@BOTH
def test_a_checkpoint_older_than_an_option(cls: Any) -> None:
    """Options that it lacks have their defaults."""
    (param,) = one()
    optimizer = cls([param])
    param.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        for name in ("state_dtype", "stochastic_rounding", "seed"):
            del group[name]
    twin = cls([torch.nn.Parameter(param.detach().clone())])
    twin.load_state_dict(state)
    assert twin.param_groups[0]["seed"] == 0
    param.grad = twin.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.param_groups[0].update(state_dtype=None, stochastic_rounding=True, seed=0)
    optimizer.step()
    twin.step()
    assert torch.equal(param, twin.param_groups[0]["params"][0])


@BOTH
def test_a_fused_kernel_that_is_gone_changes_nothing(cls: Any) -> None:
    """Parameters may move to where the kernel does not run after the optimizer was made."""
    (param,) = one()
    optimizer = cls([param], fused="c")
    param.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["fused"] = "triton"
    with pytest.raises(RuntimeError, match=r"fused='triton'"):
        optimizer.step()
    assert optimizer.state[param]["step"].item() == 1


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("valleys.alto._reported_rates", [])


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("rate", [3e-4, torch.tensor(3e-4)])
def test_a_rate_left_over_from_adamw_is_reported_once(rate: Any) -> None:
    with pytest.warns(UserWarning, match=r"lr = 0.0003 is low for ALTO.*valleys suggest --from adamw --lr 0.0003"):
        valleys.ALTO([torch.ones(2, 2)], lr=rate)
    valleys.ALTO([torch.ones(2, 2)], lr=rate)  # a second warning would be an error here


@pytest.mark.usefixtures("unreported")
def test_a_low_rate_of_a_group_is_reported_where_the_group_is_added() -> None:
    optimizer = valleys.ALTO([torch.ones(2, 2)])
    optimizer.add_param_group({"params": [torch.ones(3)], "lr": 1e-5, "layer_adaptation": False})
    with pytest.warns(UserWarning, match="lr = 2e-05 is low"):
        optimizer.add_param_group({"params": [torch.ones(3, 1)], "lr": 2e-5})


@pytest.mark.usefixtures("unreported")
def test_no_rate_is_called_low_that_may_be_meant() -> None:
    parameters = [torch.ones(2, 2)]
    for optimizer in (
        valleys.ALTO(parameters, lr=0.0),
        valleys.ALTO(parameters, lr=1e-3),
        valleys.ALTO(parameters),
        valleys.Lamb(parameters, lr=1e-4),
    ):
        optimizer.step()
    valleys.ALTO(parameters, lr=1e-4, layer_adaptation=False)
    optimizer = valleys.ALTO(parameters)
    torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1e-3)  # a warm-up passes through low rates
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
