"""The registry: every optimizer builds, learns, and is tuned in a space of the same kind."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve as optimizers
from valleys.lab.optimizers.resolve import names, resolve
from valleys.lab.optimizers.spec import Plan, Range

NAMES = [
    "sgd",
    "adam",
    "adamw",
    "nadam",
    "radam",
    "rmsprop",
    "adagrad",
    "lamb",
    "alto",
    "alto-0",
    "alto-strong",
    "alto-tuned",
    "esgd",
    "eadam",
    "eadamw",
    "eadamw-tuned",
    "adabelief",
    "adan",
    "mars",
    "lion",
]
DECAY = {"adamw": 0.01, "lamb": 0.01, "eadamw": 0.01, "eadamw-tuned": 0.01}
DECAY |= {"alto": 1e-4, "alto-0": 1e-4, "alto-strong": 1e-4, "alto-tuned": 1e-4}
PLAN = Plan(batch_size=1024, steps=400)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1))


def middle(space: Range) -> float:
    # Not the very middle of a linear range: c = 0 is no E at all.
    return math.sqrt(space.low * space.high) if space.log else 0.3 * space.low + 0.7 * space.high


def values(name: str) -> dict[str, float]:
    return {key: middle(ranges) for key, ranges in resolve(name).space.items()}


def test_the_registry_is_what_was_promised() -> None:
    assert sorted(names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_space_has_the_learning_rate_and_one_more_or_two_where_alpha_is_tuned(name: str) -> None:
    spec = resolve(name)
    assert spec.name == name
    assert next(iter(spec.space)) == "lr"
    tuned = name.endswith("-tuned")
    assert len(spec.space) == 2 + tuned
    assert all(ranges.log == (key != "c") for key, ranges in spec.space.items())
    if tuned:
        assert (spec.space["c"].low, spec.space["c"].high) == (-0.95, 0.95)
    decades = math.log10(spec.space["lr"].high / spec.space["lr"].low)
    assert decades == pytest.approx(2.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_corner_of_the_space_builds_and_takes_a_step(name: str) -> None:
    spec = resolve(name)
    for corner in itertools.product(*((ranges.low, ranges.high) for ranges in spec.space.values())):
        model = make_model()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = spec.build(model, dict(zip(spec.space, corner, strict=True)), PLAN)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        assert all(p.isfinite().all() for p in model.parameters())
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_middle_of_the_space_learns(name: str) -> None:
    model = make_model()
    optimizer = resolve(name).build(model, values(name), PLAN)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_both_tuned_values_reach_the_optimizer(name: str) -> None:
    spec = resolve(name)
    first = values(name)
    ends = []
    for changed in (None, *spec.space):
        hyperparameters = {k: v * 1.5 if k == changed else v for k, v in first.items()}
        model = make_model()
        optimizer = spec.build(model, hyperparameters, PLAN)
        generator = torch.Generator().manual_seed(1)
        for _ in range(12):
            optimizer.zero_grad()
            # Gradients must change sign, or sign-based steps would not show their memory.
            inputs, targets = torch.randn(8, 4, generator=generator), torch.randn(8, 1, generator=generator)
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
        ends.append([p.detach().clone() for p in model.parameters()])
    for end in ends[1:]:
        # Every tensor: a vector with settings of its own would escape the tuning.
        assert not torch.equal(ends[0][0], end[0])
    assert all(not torch.equal(p, q) for p, q in zip(ends[0], ends[1], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_methods_decay_and_norms_and_biases_none(name: str) -> None:
    model = make_model()
    optimizer = resolve(name).build(model, values(name), PLAN)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decay[id(parameter)] == (DECAY.get(name, 0.0) if parameter.ndim == 2 else 0.0)
        assert not any(group.get("weight_decay_1d", 0.0) for group in optimizer.param_groups)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_reaches_zero_stops_every_parameter(name: str) -> None:
    model = make_model()
    optimizer = resolve(name).build(model, values(name), PLAN)
    LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_the_tuned_memory_is_one_minus_the_decay() -> None:
    for name, key, read in (
        ("sgd", "one_minus_momentum", lambda group: group["momentum"]),
        ("adamw", "one_minus_beta1", lambda group: group["betas"][0]),
        ("rmsprop", "one_minus_alpha", lambda group: group["alpha"]),
        ("lamb", "one_minus_beta2", lambda group: group["betas"][0]),
        ("alto", "one_minus_beta1", lambda group: group["beta"]),
        ("eadamw", "one_minus_beta", lambda group: group["explore_beta"]),
        ("lion", "one_minus_beta1", lambda group: group["betas"][0]),
    ):
        optimizer = resolve(name).build(make_model(), {"lr": 0.01, key: 0.03}, PLAN)
        assert {read(group) for group in optimizer.param_groups} == {0.97}
    assert resolve("sgd").build(make_model(), {"lr": 0.01, "one_minus_momentum": 0.1}, PLAN).param_groups[0]["nesterov"]


def test_alto_0_differs_from_alto_in_e_alone() -> None:
    """The same steps as ALTO at alpha = 0, from the same values."""
    values = {"lr": 0.02, "one_minus_beta2": 0.1}
    ours, theirs = make_model(), make_model()
    base = resolve("alto-0").build(ours, values, PLAN)
    alto = resolve("alto-strong").build(theirs, values, PLAN)
    for group in alto.param_groups:
        group["alpha"] = 0.0
    for _ in range(5):
        for model, optimizer in ((ours, base), (theirs, alto)):
            optimizer.zero_grad()
            model(torch.ones(8, 4)).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_strong_e_has_a_memory_of_a_quarter_of_the_run_and_a_tuned_momentum() -> None:
    values = {"lr": 0.01, "one_minus_beta2": 0.2}
    (group, *_) = resolve("alto-strong").build(make_model(), values, PLAN).param_groups
    beta1, beta2 = group["beta"], group["betas"][0]
    assert 1 / (1 - beta1) == pytest.approx(100)
    assert group["alpha"] * (1 - beta1) == pytest.approx(-0.75)
    assert beta2 == pytest.approx(0.8)
    (group, *_) = resolve("alto-strong").build(make_model(), values, Plan(1024, 3)).param_groups
    assert (group["beta"], group["alpha"]) == (0.0, -0.75)  # no memory is shorter than one step


@pytest.mark.parametrize("name", ["alto-tuned", "eadamw-tuned"])
def test_alpha_is_tuned_as_c(name: str) -> None:
    values = {"lr": 0.01, "c": -0.6, "one_minus_beta1": 0.05}
    (group, *_) = resolve(name).build(make_model(), values, PLAN).param_groups
    alpha, beta = (group["alpha"], group["beta"]) if "alto" in name else (group["explore_alpha"], group["explore_beta"])
    assert (alpha, beta) == (pytest.approx(-12), pytest.approx(0.95))


@pytest.mark.parametrize("name", ["alto", "esgd", "eadam", "eadamw"])
def test_the_papers_rule_turns_at_1024(name: str) -> None:
    for batch, alpha, low, high in ((1023, 0.5, 0.01, 0.5), (1024, -5.0, 0.9, 0.999)):
        spec = resolve(name, batch)
        lr, memory = spec.space.values()
        key = list(spec.space)[1]
        for edge in (memory.low, memory.high):
            (group, *_) = spec.build(make_model(), {"lr": lr.low, key: edge}, PLAN).param_groups
            found, beta = (
                (group["alpha"], group["beta"]) if name == "alto" else (group["explore_alpha"], group["explore_beta"])
            )
            assert found == alpha
            assert beta in (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamW", "unknown optimizer 'adamW'; did you mean adamw.*or module:callable"),
        ("altoo", "did you mean alto"),
        ("zzz", "unknown optimizer 'zzz'. Choices: sgd"),
        ("no_such_module_here:Adam", "no_such_module_here cannot be imported"),
        ("torch.optim:Adamm", "unknown callable of torch.optim 'Adamm'"),
        ("math:pi", "pi is a float, which cannot be called"),
        ("math:sqrt", r"cannot be called with \(params, lr\)"),
        ("torch.optim:", "not of the form module:callable"),
        (":Adam", "not of the form module:callable"),
        (".optim:Adam", "not of the form module:callable"),
        ("torch.optim:Adam:x", "not of the form module:callable"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(LabError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_class_of_torch_keeps_its_own_defaults_and_gets_plain_parameters() -> None:
    spec = resolve("torch.optim:AdamW")
    assert spec.space == {"lr": Range(1e-4, 1.0)}
    (group,) = spec.build(make_model(), {"lr": 0.02}, PLAN).param_groups
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.02, 0.01, 6)


MINE = """
from torch.optim import SGD

class Range(SGD):
    search_space = {"lr": (0.01, 0.1), "momentum": (0.5, 0.99)}

def nothing(params, lr):
    return None

def strict(params, lr, momentum):
    return SGD(params, lr, momentum)

def pair(params, lr):
    return SGD(params, lr)
pair.search_space = {"lr": (1.0, 0.1)}

def words(params, lr):
    return SGD(params, lr)
words.search_space = ["lr"]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "valleys_test_my_optimizers"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return name


def test_a_callable_in_the_current_folder_with_a_space_of_its_own(mine: str) -> None:
    spec = resolve(f"{mine}:Range")
    assert spec.space == {"lr": Range(0.01, 0.1), "momentum": Range(0.5, 0.99)}
    (group,) = spec.build(make_model(), {"lr": 0.05, "momentum": 0.75}, PLAN).param_groups
    assert (group["lr"], group["momentum"]) == (0.05, 0.75)


def test_callables_that_cannot_serve(mine: str) -> None:
    with pytest.raises(LabError, match="returned a NoneType"):
        resolve(f"{mine}:nothing").build(make_model(), {"lr": 0.1}, PLAN)
    with pytest.raises(LabError, match="missing a required argument: 'momentum'"):
        resolve(f"{mine}:strict")
    with pytest.raises(LabError, match=r"range from 1.0 to 0.1"):
        resolve(f"{mine}:pair")
    with pytest.raises(LabError, match="search_space must be a dictionary"):
        resolve(f"{mine}:words")


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (math.nan, 1.0), (0.1, math.inf), ("a", 1.0)])
def test_ranges_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(LabError, match="both ends must be finite"):
        Range(*ends)
    if ends == (-1.0, 1.0):
        assert Range(*ends, log=False).low == -1.0


def test_a_missing_package_is_named_with_its_extra_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"lion needs the package pytorch_optimizer; pip install 'valleys\[lab\]'"):
        resolve("lion")
    assert resolve("adam").name == "adam"
