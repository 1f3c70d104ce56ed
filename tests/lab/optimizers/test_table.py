"""The table: every optimizer builds, learns, decays weights alone, and is tuned in a space of its family's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import valleys
import valleys.lab.optimizers.muon
from lab.optimizers.models import PLAN, advance, make_model, middle, trained
from valleys.lab.optimizers.entry import modules
from valleys.lab.optimizers.resolve import names, resolve
from valleys.lab.optimizers.spaces import MEANING
from valleys.lab.optimizers.spec import Plan, Range
from valleys.lab.optimizers.table import entries

FAMILIES = {
    "sgd": ("esgd", "sam"),
    "adam": ("eadam",),
    "adamw": ("eadamw", "nadam", "adabelief", "ademamix", "shampoo"),
    "lamb": ("lamb-paper", "alto", "alto-sqrt"),
}
TUNED = {"alto-tuned": "lamb", "eadamw-tuned": "adamw"}
OTHERS = ("adan", "mars", "lion", "muon", "soap", "schedule-free-adamw", "prodigy")
NAMES = [*FAMILIES, *itertools.chain(*FAMILIES.values()), *TUNED, *OTHERS]
COUPLED = ("sgd", "esgd", "sam", "adam", "eadam")
RATIO = ("lamb", "lamb-paper", "alto", "alto-sqrt", "alto-tuned")


def test_the_table_is_what_was_promised() -> None:
    assert sorted(names()) == sorted(NAMES)


def test_spaces_are_nested() -> None:
    for base, members in FAMILIES.items():
        for member in members:
            assert resolve(member).space == resolve(base).space
    for tuned, base in TUNED.items():
        space, shared = resolve(tuned).space, resolve(base).space
        assert {name: space[name] for name in shared} == shared
        assert set(space) - set(shared) == {"c", "memory"}
    bases = {name: resolve(name).base for name in NAMES if resolve(name).base}
    assert bases == {"alto": "lamb", "alto-sqrt": "lamb", "esgd": "sgd", "eadam": "adam", "eadamw": "adamw", **TUNED}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_the_same_in_every_space(name: str) -> None:
    spec = resolve(name)
    assert list(spec.space)[:3] == ["lr", "momentum", "weight_decay"]
    assert set(spec.space) <= set(MEANING)
    assert spec.space["lr"].high / spec.space["lr"].low == pytest.approx(100)
    scales = {"lr": "log", "momentum": "reverse-log", "weight_decay": "log", "c": "linear", "memory": "log"}
    assert {key: ranges.scale for key, ranges in spec.space.items()} == {key: scales[key] for key in spec.space}
    assert {key: ranges.zero for key, ranges in spec.space.items() if ranges.zero} == {"weight_decay": 1 / 8}
    assert spec.about.endswith(".")
    assert spec.source


@pytest.mark.parametrize("name", NAMES)
def test_every_corner_of_the_space_builds_and_takes_steps(name: str) -> None:
    spec = resolve(name)
    before = {key: value.detach().clone() for key, value in make_model().named_parameters()}
    for corner in itertools.product(*({r.value(0.0), r.low, r.high} for r in spec.space.values())):
        after = trained(spec, dict(zip(spec.space, corner, strict=True)), steps=3)
        assert all(value.isfinite().all() for value in after.values())
        assert any(not torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_middle_of_the_space_learns(name: str) -> None:
    spec = resolve(name)
    model = make_model()
    optimizer = spec.build(model, middle(spec), PLAN)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    losses = [advance(spec, optimizer, model, x, x.sum(1, keepdim=True).sin()) for _ in range(60)]
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_tuned_value_reaches_the_optimizer(name: str) -> None:
    spec = resolve(name)
    first = middle(spec)
    whole = trained(spec, first)
    for changed in spec.space:
        value = first[changed] * 1.5 if changed != "momentum" else 1 - 0.9 * (1 - first[changed])
        other = trained(spec, {**first, changed: value})
        assert any(not torch.equal(whole[key], other[key]) for key in whole), changed
        if changed == "lr":  # also of vectors: with settings of their own they would escape the tuning
            assert all(not torch.equal(whole[key], other[key]) for key in whole)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_on_weights_alone_and_of_its_family(name: str) -> None:
    spec = resolve(name)
    # The second step is the first of SOAP; with one step alone, gradients do not depend on the decay.
    steps = 2 if name == "soap" else 1
    weak, strong = ({**middle(spec), "weight_decay": decay} for decay in (0.0, 0.01))
    start = {key: value.detach() for key, value in make_model(torch.float64).named_parameters()}
    one, other = (trained(spec, values, steps, torch.float64) for values in (weak, strong))
    vectors = [key for key in start if start[key].ndim == 1]
    assert all(torch.equal(one[key], other[key]) for key in vectors) is (name != "lamb-paper")
    for key in start.keys() - vectors:
        change, weight = other[key] - one[key], one[key] if name in ("adan", "soap") else start[key]
        assert change.any(), key
        if name in (*COUPLED, *RATIO):
            continue  # the decay goes through the method's own scale
        share = (change.norm() / weight.norm()).item()
        torch.testing.assert_close(change / share, -weight, rtol=0.01, atol=1e-3)
        if name not in ("prodigy", "schedule-free-adamw"):  # their learning rates start small
            assert share == pytest.approx(strong["lr"] * 0.01, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_reaches_zero_stops_every_parameter(name: str) -> None:
    spec = resolve(name)

    def stopped(model: Any) -> Any:
        optimizer = spec.build(model, middle(spec), PLAN)
        LambdaLR(optimizer, lambda step: 0.0)
        return optimizer

    before = dict(make_model().named_parameters())
    after = trained(spec, {}, steps=12, optimizer=stopped)
    assert all(torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("batch_size", [128, 1024])
@pytest.mark.parametrize("name", NAMES)
def test_the_python_line_makes_the_same_optimizer(name: str, batch_size: int) -> None:
    entry, plan = entries(batch_size)[name], Plan(batch_size, 300)
    values = {key: 0.4 if key == "c" else ranges.middle for key, ranges in entry.space.items()}
    line = entry.line(values, plan)
    assert set(modules(line)) <= {"valleys", "valleys.lab.optimizers.muon", "torch.optim", "pytorch_optimizer"}

    def of_the_line(model: Any) -> Any:
        import pytorch_optimizer

        names = {"torch": torch, "valleys": valleys, "pytorch_optimizer": pytorch_optimizer, "model": model}
        return eval(line, names)

    optimizer, twin = entry.build(make_model(), values, plan), of_the_line(make_model())
    assert type(optimizer) is type(twin)
    assert optimizer.defaults == twin.defaults
    for one, other in zip(optimizer.param_groups, twin.param_groups, strict=True):
        assert {key: value for key, value in one.items() if key != "params"} == {
            key: value for key, value in other.items() if key != "params"
        }
        assert [p.shape for p in one["params"]] == [p.shape for p in other["params"]]
    spec = resolve(name, batch_size)
    weights = trained(spec, values, steps=2, optimizer=lambda model: entry.build(model, values, plan))
    evaluated = trained(spec, values, steps=2, optimizer=of_the_line)
    assert all(torch.equal(weights[key], evaluated[key]) for key in weights)


def group(name: str, batch_size: int = 1024, plan: Plan = PLAN, **values: float) -> dict[str, Any]:
    spec = resolve(name, batch_size)
    (first, *_) = spec.build(make_model(), {**middle(spec), **values}, plan).param_groups
    return first


def test_e_follows_the_papers_rule_or_what_is_tuned() -> None:
    for name, prefix in (("alto", ""), ("esgd", "explore_"), ("eadam", "explore_"), ("eadamw", "explore_")):
        for batch, alpha, beta in ((1023, 0.5, 0.01), (1024, -5.0, 0.99)):
            options = group(name, batch)
            assert (options[f"{prefix}alpha"], options[f"{prefix}beta"]) == (alpha, beta)
    for name, prefix in (("alto-tuned", ""), ("eadamw-tuned", "explore_")):
        options = group(name, c=-0.6, memory=20.0)
        assert options[f"{prefix}alpha"] == pytest.approx(-12)
        assert options[f"{prefix}beta"] == pytest.approx(0.95)


@pytest.mark.parametrize("batch_size", [128, 1024])
def test_alpha_of_alto_sqrt_falls_with_the_root_of_the_steps(batch_size: int) -> None:
    spec = resolve("alto-sqrt", batch_size)
    model, start = make_model(), group("alto", batch_size)["alpha"]
    optimizer = spec.build(model, middle(spec), PLAN)
    x = torch.ones(8, 4)
    for k in range(1, 6):
        assert [each["alpha"] for each in optimizer.param_groups] == [start / k**0.5] * 2
        advance(spec, optimizer, model, x, x.sum(1, keepdim=True))


def test_lamb_has_altos_settings_and_lamb_paper_the_published_ones() -> None:
    lamb, alto, paper = (group(name, momentum=0.8) for name in ("lamb", "alto", "lamb-paper"))
    assert all(alto[key] == value for key, value in lamb.items() if key != "params")
    assert lamb["betas"] == (0.8, 0.99)
    published = {"betas": (0.8, 0.999), "eps": 1e-6, "trust_eps": 0.0, "norm_eps": 0.0, "bias_correction": True}
    published |= {"layer_adaptation": True, "max_grad_norm": None, "trust_clip": None}
    assert published.items() <= paper.items()
    assert len(paper["params"]) == 6


def test_rivals_have_their_users_settings() -> None:
    assert group("sgd", momentum=0.8)["nesterov"]
    assert group("nadam")["decoupled_weight_decay"]
    assert group("adan", momentum=0.98)["betas"] == (0.98, 0.92, 0.99)
    mars = group("mars", lr=0.004)
    assert (mars["lr_1d_factor"], mars["weight_decay_1d"], mars["gamma"], mars["mars_type"]) == (1, 0, 0.025, "adamw")
    assert group("soap", momentum=0.95)["precondition_frequency"] == 10
    assert group("schedule-free-adamw", plan=Plan(64, 400))["warmup_steps"] == 20
    assert group("schedule-free-adamw", plan=Plan(64, 3))["warmup_steps"] == 1
    long, short = (group("ademamix", plan=Plan(64, steps)) for steps in (1_000_000, 1000))
    assert (long["betas"][2], long["alpha"], long["t_alpha_beta3"]) == (pytest.approx(0.9999), 5.0, 1_000_000)
    assert short["betas"][2] == pytest.approx(1 - 1 / 40)
    assert group("prodigy")["safeguard_warmup"]
    assert group("sam")["rho"] == 0.05
    assert {name for name in NAMES if resolve(name).closure} == {"sam"}
    assert {name for name in NAMES if resolve(name).own_schedule} == {"schedule-free-adamw"}


def test_the_middle_of_a_range_is_half_way_on_its_scale() -> None:
    assert Range(0.01, 1.0).middle == pytest.approx(0.1)
    assert Range(0.01, 1.0, zero=0.5).middle == pytest.approx(0.1)
    assert Range(0.5, 0.9, "linear").middle == pytest.approx(0.7)
    assert Range(0.9, 0.99, "reverse-log").middle == pytest.approx(1 - 0.1 * 0.1**0.5)
