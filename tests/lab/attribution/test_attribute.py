"""Attributions from the two names to the files, most of them with a trainer whose answers are known."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.attribution.responses import (
    EFFECTS,
    FIXED,
    PNG,
    Call,
    Settings,
    Whole,
    document,
    effects,
    explores,
    known,
    luck,
    responding,
    run,
    task,
)
from valleys.lab import AttributionConfig, attribute
from valleys.lab.attribution.attribute import dry_run_attribution
from valleys.lab.errors import LabError
from valleys.lab.optimizers.recipes import Recipe

SWITCHES = ("beta3", "norms_and_biases", "clip", "E")

# --- effects and runs ------------------------------------------------------------------------------------------------


def test_known_effects_are_recovered(whole: Whole) -> None:
    result, _ = whole
    assert result.switches == SWITCHES
    assert effects(result) == pytest.approx(EFFECTS)
    assert {part.name: part.mean for part in result.decomposition.interactions if part.mean} == pytest.approx(
        {"clip x E": 4.0}
    )
    assert result.decomposition.total.mean == pytest.approx(8.0)
    assert result.decomposition.units == (1, 2)
    assert [part.significant for part in result.decomposition.effects] == [True, False, True, True]
    assert result.sentence == (
        "From lamb-paper to alto-authors the test accuracy changes by +8.0 points (8.0 to 8.0): E +5.0 (5.0 to 5.0), "
        "beta3 +2.00 (2.00 to 2.00) and clip +1.00 (1.00 to 1.00); no significant effect of norms_and_biases (0, 0 to "
        "0)"
    )


def test_every_recipe_between_the_two_is_run_once_in_a_round(whole: Whole) -> None:
    result, calls = whole
    assert len(calls) == 16 * 2
    assert len(set(result.recipes.values())) == len(result.recipes) == 16
    assert result.recipes[frozenset()] == "lamb-paper"
    assert result.recipes[frozenset(SWITCHES)] == "alto-authors"
    assert result.recipes[frozenset({"E", "beta3"})] == "lamb-paper+beta3+E"
    assert {tuple(call["values"].items()) for call in calls} == {tuple(FIXED.items())}
    seeds = {call["seed"] for call in calls}
    assert len(seeds) == 2
    assert {(call["optimizer"], call["seed"]) for call in calls} == set(
        itertools.product(result.recipes.values(), seeds)
    )
    settings = {call["optimizer"]: call["settings"] for call in calls}
    for changed, name in result.recipes.items():
        for switch in SWITCHES:
            source = result.last if switch in changed else result.first
            assert settings[name][switch] == source.settings[switch]


def test_more_rounds_repeat_nothing(tmp_path: Path, calls: list[Call]) -> None:
    run(tmp_path, "lamb-paper", "alto", rounds=1)
    first = [(call["optimizer"], call["seed"]) for call in calls]
    calls.clear()
    grown = run(tmp_path, "lamb-paper", "alto")
    second = [(call["optimizer"], call["seed"]) for call in calls]
    assert len(second) == 4
    assert not set(first) & set(second)
    calls.clear()
    assert run(tmp_path, "lamb-paper", "alto").decomposition == grown.decomposition
    assert calls == []
    assert run(tmp_path / "other", "lamb-paper", "alto").decomposition == grown.decomposition


def test_what_is_not_fixed_is_tuned_in_every_round(tmp_path: Path, calls: list[Call]) -> None:
    result = run(tmp_path, "lamb-paper", "alto", fixed={"momentum": 0.9}, trials=2)
    assert len(calls) == 4 * 2 * (2 + 1)
    assert {call["values"]["momentum"] for call in calls} == {0.9}
    assert len({call["values"]["lr"] for call in calls}) == 4
    text = result.paths["markdown"].read_text()
    assert "The same for all recipes: momentum 0.9. Tuned: lr, weight_decay." in text.replace("\\_", "_")


def test_one_round_of_several_seeds_speaks_of_its_hyperparameters(tmp_path: Path, calls: list[Call]) -> None:
    result = run(tmp_path, "lamb-paper", "lamb", rounds=1, seeds=3)
    assert len(calls) == 2 * 3
    assert effects(result) == pytest.approx({"beta3": 2.0})
    assert result.sentence.endswith("one round: this holds for these hyperparameters")
    assert "Each fresh seed gives one value of the effect, whose interval holds with 95 % (Student's t over 3" in (
        result.paths["markdown"].read_text()
    )


def test_one_run_of_each_names_no_switch(tmp_path: Path, calls: list[Call]) -> None:
    result = run(tmp_path, "lamb-paper", "alto", rounds=1)
    assert effects(result) == pytest.approx({"beta3": 2.0, "E": 3.0})
    assert result.sentence == (
        "From lamb-paper to alto the test accuracy changes by +5.0 points; 1 fresh seed: no intervals, so no "
        "switch can be named"
    )
    text = result.paths["markdown"].read_text()
    assert "An interval takes two fresh seeds that every recipe in use finished; there is 1 fresh seed." in text
    assert result.paths["waterfall"].read_bytes().startswith(PNG)


def test_an_inert_switch_is_run_once_and_has_no_effect(tmp_path: Path, calls: list[Call], own: Path) -> None:
    result = run(tmp_path / "out", "none", "memory", recipes=own)
    assert result.switches == ("alpha", "beta")
    assert len(calls) == 3 * 2
    assert result.recipes[frozenset({"beta"})] == result.recipes[frozenset()] == "none"
    rows = re.findall(r"^\| none \|.*", result.paths["markdown"].read_text(), flags=re.MULTILINE)
    assert len(rows) == 1, "a recipe of several sets has one row"
    assert rows[0].startswith("| none | 0.0 | None | ")
    null = run(tmp_path / "null", "lamb-paper", "null-e", recipes=own)
    assert len(set(null.recipes.values())) == 2
    assert [part.values for part in null.decomposition.effects if part.name == "E"] == [(0.0, 0.0)]
    assert effects(null)["beta3"] == pytest.approx(2.0)


def test_e_and_alpha_and_beta_can_be_compared(tmp_path: Path, calls: list[Call], own: Path) -> None:
    result = run(tmp_path / "out", "lamb-paper", "memory", recipes=own)
    assert result.switches == ("alpha",)
    assert [call["settings"].get("alpha") for call in calls[:2]] == [None, 0.5]


def test_of_many_switches_each_is_changed_alone(tmp_path: Path, calls: list[Call], own: Path) -> None:
    result = run(tmp_path / "out", "lamb-paper", "six", recipes=own)
    assert len(result.switches) == 6
    assert len(calls) == 14 * 2
    assert effects(result)["clip"] == pytest.approx((-1.0 + 3.0) / 2)
    assert effects(result)["E"] == pytest.approx((3.0 + 7.0) / 2)
    assert result.sentence.endswith("; each switch was changed alone, and the effects add up to the change")
    text = result.paths["markdown"].read_text()
    assert "added: +3.0" in text
    assert "the 6 intervals hold together with 95 % (99.17 % each, Student's t over 2 rounds), and so do the 12" in text
    assert len(document(result)["added"]) == 6
    assert result.paths["waterfall"].read_bytes().startswith(PNG)


def test_of_many_switches_an_unknown_effect_is_named(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    responding(monkeypatch, lambda s, seed: None if explores(s) and s["beta3"] != 0.99 else known(s, seed))
    result = run(tmp_path / "out", "lamb-paper", "six", recipes=own)
    assert effects(result)["E"] is None
    assert "the effect of beta3 and E is unknown, since it was changed in a recipe that diverged" in result.sentence
    assert "leave" not in result.sentence
    assert set(result.paths) == {"markdown", "json"}


# --- recipes that diverge --------------------------------------------------------------------------------------------


def test_a_recipe_that_diverges_is_reported_and_its_switch_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 5000  # the fresh seed of the first round

    def response(settings: Settings, seed: int) -> float | None:
        alone = explores(settings) and settings["beta3"] == 0.999
        return None if alone and seed == lost else known(settings, seed)

    responding(monkeypatch, response)
    result = run(tmp_path, "lamb-paper", "alto")
    assert (result.decomposition.orders, result.decomposition.of) == (1, 2)
    assert effects(result) == pytest.approx({"beta3": 2.0, "E": 3.0})
    assert [part.diverges for part in result.decomposition.effects] == [False, True]
    assert result.sentence.endswith(
        "the effects are averaged over the 1 of 2 orders of changing the switches that meet no recipe that diverged; "
        "lamb-paper+E diverged in 1 round; E makes a recipe diverge"
    )
    text = result.paths["markdown"].read_text()
    assert "averaged over 1 of 2 orders of changing the switches" in text
    assert "1 diverged" in text
    assert "makes a recipe diverge" in text
    assert document(result)["orders"] == 1


def test_names_of_diverged_recipes_are_those_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def response(settings: Settings, seed: int) -> float | None:
        mixed = explores(settings) and settings["beta3"] == 0.99 and settings.get("clip") is None
        return None if mixed else known(settings, seed)

    responding(monkeypatch, response)
    result = run(tmp_path, last=Recipe("mine", {"beta3": 0.99, "clip": 1.0, "E": [-5.0, 0.99]}))
    assert "lamb-paper+beta3+E diverged in 2 rounds" in result.sentence
    assert "beta3 and E make a recipe diverge" in result.sentence


def test_without_the_last_recipe_nothing_can_be_said(tmp_path: Path, calls: list[Call], own: Path) -> None:
    result = run(tmp_path / "out", "lamb-paper", "alto")
    assert result.paths["waterfall"].exists()
    with pytest.MonkeyPatch.context() as patch:
        responding(patch, lambda s, seed: None if explores(s) and s["beta3"] == 0.99 else known(s, seed))
        lost = run(tmp_path / "lost", "lamb-paper", "alto")
        (tmp_path / "lost" / "waterfall.png").write_bytes(PNG)  # of an earlier call
        lost = run(tmp_path / "lost", "lamb-paper", "alto")
    assert lost.sentence == (
        "Nothing can be said of the way from lamb-paper to alto; alto diverged in 2 rounds; beta3 and E make a recipe "
        "diverge"
    )
    assert set(lost.paths) == {"markdown", "json"}
    assert not (tmp_path / "lost" / "waterfall.png").exists()
    assert "waterfall" not in lost.paths["markdown"].read_text()
    assert document(lost)["total"]["mean"] is None


def test_every_run_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    responding(monkeypatch, lambda settings, seed: None)
    result = run(tmp_path / "out", "none", "memory", recipes=own, fixed={}, trials=2)
    assert result.sentence.count("none diverged in 2 rounds") == 1, "a recipe of two sets is named once"
    assert document(result)["switches"][0]["mean"] is None


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last": "lamb-paper"}, "lamb-paper and lamb-paper are the same recipe; name two that differ"),
        ({"last": "lam"}, "unknown recipe 'lam'; did you mean lamb.*Choices: lamb-paper, lamb, alto, .*into a file"),
        (
            {"last": "sgd"},
            "lamb-paper is a recipe of valleys.ALTO, sgd of torch.optim.SGD; name two recipes of one opt",
        ),
        ({"last": "narrow"}, "lamb-paper and narrow have different spaces; give both the same"),
        ({"last": "e-alone"}, "lamb-paper and e-alone differ in nothing that has an effect"),
        ({"last": Recipe("mine", {"beta4": 1})}, "unknown setting of recipe 'mine' 'beta4'"),
        (
            {"last": Recipe("lamb-paper+E", {"E": [-5.0, 0.99]})},
            r"two different recipes are called 'lamb-paper\+E'; rename lamb-paper\+E",
        ),
        ({"last": Recipe("lamb-paper", {"E": "off"})}, "two different recipes are called 'lamb-paper'"),
        ({"fixed": {"rate": 0.1}}, "unknown hyperparameter of lamb-paper 'rate'"),
        ({"fixed": {"lr": -1.0}}, "lamb-paper cannot train fake: ValueError: "),
        ({"optimizers": ("sgd",)}, "optimizers: an attribution compares the recipes between two others; leave it out"),
        ({"pairs": ("sgd:lamb",)}, "pairs: an attribution compares the recipes between two others; leave it out"),
        ({"copies": 2}, "copies: an attribution compares the recipes between two others; leave it out"),
        ({"rounds": 0}, "rounds must be a number from 1"),
        ({"batch_size": 33}, "batch size 33"),
        ({"recipes": Path("no.yaml")}, r"the recipes 'no\.yaml' cannot be read"),
    ],
)
def test_mistakes_end_before_any_work(
    tmp_path: Path, calls: list[Call], own: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        run(tmp_path / "out", **{"recipes": own, **changes})
    assert calls == []
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_attribution_is_refused(tmp_path: Path, calls: list[Call], own: Path) -> None:
    file = tmp_path / "same.yaml"
    file.write_text("recipes: {mine: {like: lamb, clip: 1.0}}")
    run(tmp_path / "out", "lamb", "mine", recipes=file)
    calls.clear()
    with pytest.raises(LabError, match=r"comparison with other settings .*another search space of lamb;.*of mine"):
        run(tmp_path / "out", "lamb", "mine", recipes=file, fixed={**FIXED, "lr": 0.03})
    file.write_text("recipes: {mine: {like: lamb, clip: 2.0}}")
    with pytest.raises(LabError, match=r"comparison with other settings \(other settings of mine\); choose another"):
        run(tmp_path / "out", "lamb", "mine", recipes=file)
    assert calls == []


def test_recipes_of_another_optimizer_are_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    calls = responding(monkeypatch, lambda settings, seed: 80 + luck(seed) + 2 * bool(settings.get("nesterov")))
    result = run(tmp_path / "out", "sgd", "heavy", recipes=own, fixed={"lr": 0.1, "weight_decay": 0.01})
    assert effects(result) == pytest.approx({"nesterov": 2.0})
    assert calls[0]["settings"] == {"optimizer": "torch.optim.SGD", "momentum": 0.9}
    assert calls[0]["values"] == {"lr": 0.1, "weight_decay": 0.01}


def test_a_dry_run_checks_and_writes_nothing(tmp_path: Path, calls: list[Call]) -> None:
    config = AttributionConfig(first="lamb-paper", last="alto", batch_size=16, rounds=2, trials=4)
    cost = dry_run_attribution(task(), config, tmp_path / "out")
    assert cost.runs == 4 * 2 * (4 + 1)
    cost = dry_run_attribution(task(), replace(config, fixed=FIXED), tmp_path / "out")
    assert cost.runs == 4 * 2
    with pytest.raises(LabError, match="unknown recipe"):
        dry_run_attribution(task(), replace(config, last="other"), tmp_path / "out")
    assert calls == []
    assert not (tmp_path / "out").exists()


# --- for real --------------------------------------------------------------------------------------------------------


def test_from_lamb_to_alto_on_digits(tmp_path: Path, own: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 128, "epochs": 2, "rounds": 2, "progress": False}
    settings |= {"first": "lamb-paper", "fixed": FIXED}
    result = attribute("digits", last="alto", out=tmp_path / "out", **settings)
    assert result.switches == ("beta3", "E")
    assert result.decomposition.rest == pytest.approx(0.0, abs=1e-9)
    tests = {name: outcome.test for name, outcome in result.comparison.outcomes.items()}
    assert len(tests) == 4
    assert len({tuple(values.values()) for values in tests.values()}) == 4, "each recipe trains differently"
    assert result.comparison.records["alto"][0].hyperparameters == FIXED
    null = attribute("digits", last="null-e", out=tmp_path / "null", recipes=own, **settings)
    assert {part.name: part.values for part in null.decomposition.effects}["E"] == (0.0, 0.0)
    assert null.comparison.outcomes["lamb-paper"].test == tests["lamb-paper"]
