"""Recipes: the table of the specification, what each builds, a user's file, and mixes of two recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import valleys
from valleys.lab.errors import LabError
from valleys.lab.optimizers.recipe_files import checked, recipes
from valleys.lab.optimizers.recipes import Recipe, aligned, mixed_settings, recipe_spec, setting
from valleys.lab.optimizers.spaces import ADAMW, LAMB
from valleys.lab.optimizers.spec import Plan, Range

VALUES = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
COMMON: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
LARGE, SMALL = [-5.0, 0.99], [0.5, 0.01]
NOTHING = frozenset[str]()

Build = Callable[[nn.Module], Optimizer]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))


def trained(build: Build, steps: int = 6, clip: float | None = None) -> list[torch.Tensor]:
    """Weights after some steps with large gradients; clipped by hand where it is asked for."""
    network = model()
    optimizer = build(network)
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        optimizer.zero_grad()
        (40 * (network(inputs) - torch.tensor([3.0, -2.0 * step])).square().mean()).backward()
        if clip is not None:
            order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            assert set(order) == set(network.parameters())
            norm = nn.utils.clip_grad_norm_(order, clip)
            assert norm > clip, "the test must clip"
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def built(name: str, batch_size: int = 16384, file: Path | None = None, values: Mapping[str, float] = VALUES) -> Build:
    spec = recipe_spec(recipes(batch_size, file)[name], {})
    return lambda network: spec.build(network, values, Plan(batch_size, 10))


def mixed(settings: Mapping[str, Any]) -> Build:
    spec = recipe_spec(Recipe("mix", settings), {})
    return lambda network: spec.build(network, VALUES, Plan(128, 10))


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def write(folder: Path, text: str) -> Path:
    file = folder / "recipes.yaml"
    file.write_text(text)
    return file


# --- the recipes of the package --------------------------------------------------------------------------------------

COLUMNS = ("beta3", "bias_correction", "layer_adaptation", "norms_and_biases", "clip", "E")
TABLE: dict[str, tuple[Any, ...]] = {
    "lamb-paper": (0.999, True, True, "as others", None, "off"),
    "lamb": (0.99, True, True, "as others", None, "off"),
    "alto": (0.99, True, True, "as others", None, "rule"),
    "alto-vanilla": (0.99, False, True, "as others", None, "rule"),
    "alto-authors": (0.99, True, True, "excluded", 1.0, LARGE),
    "adamw": (0.999, True, False, "as others", None, "off"),
}


@pytest.mark.parametrize(("batch_size", "rule"), [(128, SMALL), (16384, LARGE)])
def test_the_table_of_the_specification(batch_size: int, rule: list[float]) -> None:
    table = recipes(batch_size)
    assert list(table) == list(TABLE)
    for name, row in TABLE.items():
        cells = tuple(rule if cell == "rule" else cell for cell in row)
        assert (table[name].name, table[name].optimizer, table[name].space) == (name, "valleys.ALTO", {})
        assert tuple(setting(table[name], column) for column in COLUMNS) == cells
        assert set(table[name].settings) == set(COLUMNS)


HAND: dict[str, Build] = {
    "lamb-paper": lambda m: valleys.Lamb(m.parameters(), betas=(0.9, 0.999), layer_adaptation=True, **COMMON),
    "lamb": lambda m: valleys.Lamb(m.parameters(), betas=(0.9, 0.99), layer_adaptation=True, **COMMON),
    "alto": lambda m: valleys.ALTO(
        m.parameters(), betas=(0.9, 0.99), alpha=-5.0, beta=0.99, layer_adaptation=True, **COMMON
    ),
    "alto-vanilla": lambda m: valleys.ALTO(
        m.parameters(),
        betas=(0.9, 0.99),
        alpha=-5.0,
        beta=0.99,
        layer_adaptation=True,
        bias_correction=False,
        **COMMON,
    ),
    "adamw": lambda m: valleys.Lamb(m.parameters(), betas=(0.9, 0.999), layer_adaptation=False, **COMMON),
}


@pytest.mark.parametrize("name", HAND)
def test_a_recipe_builds_what_it_says(name: str) -> None:
    assert same(trained(built(name)), trained(HAND[name]))
    assert not any(same(trained(built(name)), trained(HAND[other])) for other in HAND if other != name)


def test_alto_at_a_small_batch() -> None:
    def by_hand(m: nn.Module) -> Optimizer:
        return valleys.ALTO(m.parameters(), betas=(0.9, 0.99), alpha=0.5, beta=0.01, layer_adaptation=True, **COMMON)

    assert same(trained(built("alto", 128)), trained(by_hand))


def test_the_recipe_adamw_is_that_of_torch_with_the_same_eps() -> None:
    def torchs(network: nn.Module) -> Optimizer:
        return torch.optim.AdamW(network.parameters(), lr=0.02, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.1)

    for a, b in zip(trained(built("adamw")), trained(torchs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_authors_recipe_clips_the_norm_of_all_gradients_and_leaves_norms_and_biases_out() -> None:
    def by_hand(network: nn.Module) -> Optimizer:
        weights = [network[0].weight, network[3].weight]  # type: ignore[index]
        others = [network[0].bias, network[1].weight, network[1].bias, network[3].bias]  # type: ignore[index]
        groups = [
            {"params": weights, "weight_decay": 0.1, "layer_adaptation": True},
            {"params": others, "weight_decay": 0.0, "layer_adaptation": False},
        ]
        return valleys.ALTO(groups, lr=0.02, betas=(0.9, 0.99), alpha=-5.0, beta=0.99)

    optimizer = built("alto-authors", 128)(model())
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]
    assert same(trained(built("alto-authors", 128)), trained(by_hand, clip=1.0))
    assert not same(trained(built("alto-authors", 128)), trained(by_hand))


def test_without_layer_adaptation_no_group_has_it() -> None:
    settings = {**recipes(128)["alto-authors"].settings, "layer_adaptation": False, "clip": None}
    groups = mixed(settings)(model()).param_groups
    assert [(group["layer_adaptation"], group["weight_decay"]) for group in groups] == [(False, 0.1), (False, 0.0)]


def test_the_rule_follows_the_batch_size_and_the_family_the_layer_adaptation() -> None:
    assert dict(recipe_spec(recipes(128)["alto"], {}).space) == LAMB
    assert dict(recipe_spec(recipes(128)["adamw"], {}).space) == ADAMW
    spec = recipe_spec(recipes(128)["lamb"], {"lr": 0.05, "weight_decay": 0.0})
    assert dict(spec.space) == {**LAMB, "lr": Range(0.05, 0.05), "weight_decay": Range(0.0, 0.0, "linear")} | {
        "lr": Range(0.05, 0.05, "linear")
    }
    assert (spec.name, spec.base, spec.salt) == ("lamb", None, 0)
    assert spec.settings == {"optimizer": "valleys.ALTO", **recipes(128)["lamb"].settings}


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"rate": 0.1}, "unknown hyperparameter of lamb 'rate'.* Choices: lr, momentum, weight_decay"),
        ({"lr": float("nan")}, "the fixed lr must be a finite number, not nan"),
        ({"lr": float("inf")}, "the fixed lr must be a finite number, not inf"),
    ],
)
def test_fixed_values_that_are_refused(fixed: dict[str, float], message: str) -> None:
    with pytest.raises(LabError, match=message):
        recipe_spec(recipes(128)["lamb"], fixed)


# --- a user's file ---------------------------------------------------------------------------------------------------


def test_recipes_of_a_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
recipes:
  second: {like: first, E: off, eps: 1e-8}
  third: {like: lamb}
  first: {like: alto, accelerate: [momentum], clip: 2}
  lamb: {like: lamb-paper, bias_correction: false}
  narrow: {like: lamb-paper, space: {lr: [1e-2, 0.1]}}
  bare: {}
""",
    )
    table = recipes(16384, file)
    assert [*table] == [*TABLE, "second", "third", "first", "narrow", "bare"]
    assert table["first"].settings == {**recipes(16384)["alto"].settings, "accelerate": ["momentum"], "clip": 2}
    assert table["second"].settings == {**table["first"].settings, "E": "off", "eps": 1e-8}
    assert (setting(table["lamb"], "beta3"), setting(table["lamb"], "bias_correction")) == (0.999, False)
    assert table["third"].settings == table["lamb"].settings
    assert table["alto"] == recipes(16384)["alto"], "the package's are made of the package's"
    assert dict(recipe_spec(table["narrow"], {}).space) == {**LAMB, "lr": Range(0.01, 0.1)}
    assert recipe_spec(table["narrow"], {"lr": 0.5}).space["lr"] == Range(0.5, 0.5, "linear")
    assert [setting(table["bare"], column) for column in COLUMNS] == [*TABLE["lamb"]]
    assert same(trained(built("bare", file=file)), trained(HAND["lamb"]))


def test_an_option_of_alto_reaches_it(tmp_path: Path) -> None:
    file = write(tmp_path, "recipes: {mine: {like: alto, accelerate: [momentum], trust_clip: [0.5, 2.0]}}")

    def by_hand(m: nn.Module) -> Optimizer:
        options: dict[str, Any] = {"accelerate": ("momentum",), "trust_clip": (0.5, 2.0), "layer_adaptation": True}
        return valleys.ALTO(m.parameters(), betas=(0.9, 0.99), alpha=-5.0, beta=0.99, **options, **COMMON)

    assert same(trained(built("mine", file=file)), trained(by_hand))
    assert not same(trained(by_hand), trained(HAND["alto"]))


@pytest.mark.parametrize("word", ["off", "no", '"off"', "false"])
def test_off_is_off_however_yaml_reads_it(word: str, tmp_path: Path) -> None:
    assert recipes(128, write(tmp_path, f"recipes: {{mine: {{like: alto, E: {word}}}}}"))["mine"].settings["E"] == "off"


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("1E+2", 100.0), (".5e0", 0.5), ("2.e-1", 0.2)])
def test_powers_of_ten_are_numbers(text: str, number: float, tmp_path: Path) -> None:
    assert recipes(128, write(tmp_path, f"recipes: {{mine: {{eps: {text}}}}}"))["mine"].settings == {"eps": number}


def test_a_recipe_of_another_optimizer(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
recipes:
  plain: {optimizer: torch.optim.SGD, momentum: 0.9, space: {lr: [0.01, 1]}, clip: 1.0}
  nesterov: {like: plain, nesterov: true, clip: null}
""",
    )
    plain, nesterov = (recipes(128, file)[name] for name in ("plain", "nesterov"))
    assert plain == Recipe("plain", {"momentum": 0.9, "clip": 1.0}, "torch.optim.SGD", {"lr": Range(0.01, 1)})
    assert [setting(plain, name) for name in ("nesterov", "dampening", "nothing")] == [False, 0, None]
    assert dict(recipe_spec(nesterov, {"weight_decay": 0.1}).space) == {
        "lr": Range(0.01, 1),
        "weight_decay": Range(0.1, 0.1, "linear"),
    }

    def by_hand(m: nn.Module) -> Optimizer:
        return torch.optim.SGD(m.parameters(), lr=0.02, momentum=0.9)

    assert same(trained(built("plain", file=file, values={"lr": 0.02}), 3), trained(by_hand, 3, clip=1.0))
    assert mixed_settings(plain, nesterov, frozenset({"nesterov"})) == {"momentum": 0.9, "clip": 1.0, "nesterov": True}
    with pytest.raises(LabError, match="momentum is a setting of plain, and a hyperparameter"):
        recipe_spec(plain, {"momentum": 0.5})


NAMES = "beta3, layer_adaptation, norms_and_biases, clip, E, alpha, beta, eps"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{like: lamb, beta4: 0.9}", f"unknown setting of recipe 'mine' 'beta4'; did you mean beta? Choices: {NAMES}"),
        ("{like: lamb, lr: 0.1}", "unknown setting of recipe 'mine' 'lr'"),
        ("{beta3: 1.0}", "recipe 'mine': beta3 must be a number in [0, 1), not 1.0"),
        ("{beta3: true}", "beta3 must be a number in [0, 1), not True"),
        ("{norms_and_biases: none}", "norms_and_biases must be 'as others' or 'excluded', not 'none'"),
        ("{clip: 0}", "clip must be a number above 0, or null, not 0"),
        ("{clip: 'one'}", "clip must be a number above 0, or null, not 'one'"),
        ("{E: on}", "E must be off, rule or [alpha, beta], not True"),
        ("{E: 0}", "E must be off, rule or [alpha, beta], not 0"),
        ("{E: [1, 2, 3]}", "E must be off, rule or [alpha, beta], not [1, 2, 3]"),
        ("{E: [true, 0.9]}", "E must be off, rule or [alpha, beta], not [True, 0.9]"),
        ("{E: [-500, 0.99]}", "recipe 'mine': alpha"),
        ("{bias_correction: maybe}", "recipe 'mine': bias_correction"),
        ("{accelerate: [gradient]}", "recipe 'mine': accelerate must be"),
        ("{like: alto, alpha: -5, beta: 0.9}", "recipe 'mine': write E: [alpha, beta] in place of alpha and beta"),
        ("{like: alto, alpha: -5}", "recipe 'mine': write E: [alpha, beta] in place of alpha"),
        ("{beta: 0.9}", "recipe 'mine': there must be both alpha and beta, or E: [alpha, beta] in their place"),
        ("{like: mine}", "recipe 'mine': 'mine' is like itself; like must name one of lamb-paper, lamb, "),
        ("{like: other}", "recipe 'mine': there is no recipe 'other'; like must name one of lamb-paper, lamb, "),
        ("{like: [lamb]}", "recipe 'mine': there is no recipe \"['lamb']\""),
        ("{space: {lr: 0.1}}", "recipe 'mine': space must have (low, high) by name"),
        ("{space: [lr]}", "recipe 'mine': space must have (low, high) by name, not ['lr']"),
        ("{space: {lr: [1, 0.1]}}", "the range from 1 to 0.1 is none"),
        ("{space: {rate: [0.1, 1]}}", "unknown hyperparameter of mine 'rate'. Choices: lr, momentum, weight_decay"),
        ("{optimizer: torch.optim.Nothing}", "recipe 'mine': the optimizer 'torch.optim.Nothing' cannot be imported"),
        ("{optimizer: nowhere.SGD}", "recipe 'mine': the optimizer 'nowhere.SGD' cannot be imported"),
        ("{optimizer: SGD}", "recipe 'mine': the optimizer 'SGD' cannot be imported"),
        ("{optimizer: torch.nn.Linear}", "recipe 'mine': torch.nn.Linear is no torch.optim.Optimizer"),
        ("{optimizer: torch.nn.functional.relu}", "torch.nn.functional.relu is no torch.optim.Optimizer"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LabError) as error:
        recipes(128, write(tmp_path, f"recipes: {{mine: {text}}}"))
    assert message in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("text", ["", "[]", "mine: {E: off}", "recipes: [lamb]", "recipes: {mine: 3}", "recipes:"])
def test_a_file_without_recipes_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"recipes\.yaml: there must be an entry recipes, with the settings of each"):
        recipes(128, write(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"the recipes '.*none\.yaml' cannot be read .*; name a YAML file"):
        recipes(128, tmp_path / "none.yaml")
    with pytest.raises(LabError, match="cannot be read"):
        recipes(128, tmp_path)
    with pytest.raises(LabError, match=r"recipes\.yaml: "):
        recipes(128, write(tmp_path, "recipes: {"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(LabError, match="cannot be read"):
        recipes(128, tmp_path / "binary.yaml")


def test_a_recipe_in_python_is_checked_as_those_of_a_file() -> None:
    assert checked(Recipe("mine", {"E": "rule"}), 128).settings == {"E": SMALL}
    assert checked(Recipe("mine", {"E": (-5.0, 0.99)}), 128).settings == {"E": LARGE}
    adam = checked(Recipe("adam", {"betas": (0.8, 0.99)}, "torch.optim.Adam"), 128)
    assert adam.settings == {"betas": [0.8, 0.99]}, "as the store gives it back"
    with pytest.raises(LabError, match="recipe 'mine': settings must be numbers, words and lists"):
        checked(Recipe("mine", {"state_dtype": torch.bfloat16}), 128)
    with pytest.raises(LabError, match="unknown setting of recipe 'mine' 'beta4'"):
        checked(Recipe("mine", {"beta4": 1}), 128)


# --- mixes -----------------------------------------------------------------------------------------------------------


def test_a_mix_has_the_last_ones_settings_of_what_is_changed() -> None:
    first, last = recipes(128)["lamb-paper"], recipes(128)["alto-authors"]
    assert mixed_settings(first, last, NOTHING) == first.settings
    assert mixed_settings(first, last, frozenset(COLUMNS)) == last.settings
    changed = frozenset({"clip", "E"})
    assert mixed_settings(first, last, changed) == {**first.settings, "clip": 1.0, "E": LARGE}


def test_a_setting_that_one_recipe_lacks_goes_back_to_its_default() -> None:
    first, last = Recipe("first", {"eps": 1e-3, "clip": 1.0}), Recipe("last", {"beta3": 0.9})
    assert mixed_settings(first, last, frozenset({"eps"})) == {"clip": 1.0, "E": "off"}
    assert mixed_settings(first, last, frozenset({"beta3"})) == {"eps": 1e-3, "clip": 1.0, "beta3": 0.9, "E": "off"}


def test_settings_without_effect_are_left_out_and_have_none() -> None:
    first = Recipe("first", {"E": "off", "layer_adaptation": False})
    last = Recipe("last", {"E": [0.0, 0.9], "accelerate": ["momentum"], "trust_eps": 0.1, "trust_clip": [0.1, 0.2]})
    off = {"E": "off", "layer_adaptation": False}
    for name in ("E", "accelerate", "trust_eps", "trust_clip"):
        assert mixed_settings(first, last, frozenset({name})) == off
    plain = trained(mixed(off))
    assert same(plain, trained(mixed({**off, "E": [0.0, 0.9]})))
    assert same(plain, trained(mixed({**off, "E": [0.0, 0.9], "accelerate": ["momentum"]})))
    assert same(plain, trained(mixed({**off, "trust_eps": 0.1, "norm_eps": 0.1, "trust_clip": [0.1, 0.2]})))
    settings = mixed_settings(first, last, frozenset({"layer_adaptation", "trust_eps"}))
    assert settings == {"E": "off", "trust_eps": 0.1}


def test_alpha_and_beta_are_those_of_e() -> None:
    cases = {"off": (0.0, None), "rule": (0.5, 0.01)}
    for text, expected in cases.items():
        recipe = checked(Recipe("mine", {"E": text}), 128)
        assert (setting(recipe, "alpha"), setting(recipe, "beta")) == expected
    assert setting(Recipe("mine", {}), "alpha") == 0.0


def test_the_memory_of_e_has_no_effect_where_e_is_off() -> None:
    off, on = Recipe("off", {"alpha": 0.0, "beta": 0.9}), Recipe("on", {"alpha": -5.0, "beta": 0.99})
    mixes = [mixed_settings(off, on, frozenset(changed)) for changed in ((), {"beta"}, {"alpha"}, {"alpha", "beta"})]
    assert mixes == [{"E": "off"}, {"E": "off"}, {"alpha": -5.0, "beta": 0.9}, {"alpha": -5.0, "beta": 0.99}]
    assert mixed_settings(on, off, frozenset({"alpha"})) == {"E": "off"}
    paths = [trained(mixed({"alpha": alpha, "beta": beta})) for alpha, beta in ((0.0, 0.9), (0.0, 0.1), (-5.0, 0.9))]
    assert same(paths[0], paths[1])
    assert not same(paths[0], paths[2])


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ({"E": "off"}, {"E": LARGE}, None),
        ({"E": "off"}, {"alpha": -5.0, "beta": 0.99}, ({"alpha": 0.0, "beta": 0.99}, {"alpha": -5.0, "beta": 0.99})),
        ({}, {"alpha": -5.0, "beta": 0.99}, ({"alpha": 0.0, "beta": 0.99}, {"alpha": -5.0, "beta": 0.99})),
        (
            {"alpha": -5.0, "beta": 0.99},
            {"E": SMALL, "clip": 1.0},
            ({"alpha": -5.0, "beta": 0.99}, {"alpha": 0.5, "beta": 0.01, "clip": 1.0}),
        ),
    ],
)
def test_e_becomes_two_switches_where_one_recipe_has_it_so(
    first: dict[str, Any], last: dict[str, Any], expected: tuple[dict[str, Any], ...] | None
) -> None:
    pair = aligned(Recipe("a", first), Recipe("b", last))
    assert tuple(recipe.settings for recipe in pair) == (expected or (first, last))
    for recipe, settings in zip(pair, (first, last), strict=True):
        assert same(trained(mixed(recipe.settings)), trained(mixed(settings)))
