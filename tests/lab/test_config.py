"""One configuration: what is configured reaches the command line, the identity of a comparison, and comes back."""

from __future__ import annotations

import shlex
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lab_fakes
from valleys.cli.app import app
from valleys.lab import ComparisonConfig, LabError, Task
from valleys.lab.config import DEVICES, GROWING
from valleys.lab.problem.schedules import KINDS, Schedule
from valleys.lab.run.config import PRECISIONS, RunConfig
from valleys.lab.run.trackers import NAMES
from valleys.lab.search import candidates

COUNTS = st.integers(1, 10**6)
FEW = st.integers(1, candidates.MOST)
WORDS = st.text("aZé_ '\"$*;0", min_size=1).filter(str.strip)
NAME = st.sampled_from(["sgd", "adamw", "alto", "lamb", "torch.optim:Adam"])

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "batch_size": st.none() | COUNTS,
    "epochs": st.none() | COUNTS,
    "micro_batch": st.none() | COUNTS,
    "precision": st.sampled_from(PRECISIONS),
    "device": st.sampled_from(DEVICES),
    "optimizers": st.lists(NAME, min_size=1, unique=True).map(tuple),
    "rounds": FEW,
    "trials": FEW,
    "seeds": FEW,
    "pairs": st.just(()),
    "copies": st.integers(1, 3),
    "preset": st.none() | st.sampled_from(["paper", "smoke"]),
    "schedule": st.none() | st.sampled_from(KINDS),
    "data_dir": st.none() | WORDS.map(Path),
    "name": st.none() | WORDS,
    "log": st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    "keep_weights": st.booleans(),
}
CONFIGS = st.builds(ComparisonConfig, **VALUES)


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> ComparisonConfig:
    """The configuration that the command line makes of a command."""
    calls: list[ComparisonConfig] = []
    monkeypatch.setattr("valleys.cli.compare.compare", lambda task, config, out, announce: calls.append(config))
    monkeypatch.setattr("valleys.cli.compare.print_comparison", lambda comparison: None)
    group: Any = typer.main.get_command(app)
    group.main(shlex.split(command)[1:], standalone_mode=False)
    return calls[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=CONFIGS)
def test_the_command_of_a_configuration_makes_that_configuration(
    config: ComparisonConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, batch_size=config.batch_size or 1)  # a comparison has one when it is asked for its command
    assert parsed(config.command("digits", Path("out")), monkeypatch) == config


def test_every_setting_is_tried_here_and_has_a_help_text() -> None:
    assert {entry.name for entry in fields(ComparisonConfig)} == {*VALUES, "storage"}
    for entry in fields(ComparisonConfig):
        assert f"{entry.name}: {entry.metadata['text']}" in str(ComparisonConfig.__doc__)


def test_a_storage_s_password_stays_out_of_the_command() -> None:
    config = ComparisonConfig(batch_size=8, storage="postgresql://user:secret@host/name")
    assert "--storage URL" in config.command("digits", Path("out"))
    assert "secret" not in config.command("digits", Path("out"))


def test_the_command_of_objects_is_python() -> None:
    config = ComparisonConfig(batch_size=8, optimizers=("sgd", lab_fakes.spec("mine")), data_dir=Path("a"))
    command = config.command(lab_fakes.task(), Path("out"))
    assert command.startswith("valleys.lab.compare(fake, optimizers=[sgd, mine], batch_size=8, ")
    assert command.endswith(", data_dir='a', out='out')")


def test_settings_of_the_identity_are_in_it_and_others_are_not() -> None:
    task = lab_fakes.task()
    config = ComparisonConfig(device="cpu").resolved(replace(task, batch_size=4))
    identity = config.identity(task)
    changes: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 9,
        "micro_batch": 2,
        "precision": "bfloat16",
        "device": "cuda",
    }
    changes |= {"pairs": ("sgd:lamb",), "copies": 2}
    changes |= {
        "rounds": 9,
        "trials": 9,
        "seeds": 9,
        "log": ("wandb",),
        "keep_weights": True,
        "name": "other",
        "storage": "URL",
    }
    changes |= {"preset": "smoke", "data_dir": "d", "optimizers": ("sgd",), "schedule": "constant"}
    assert changes.keys() == {entry.name for entry in fields(ComparisonConfig)}
    for entry in fields(ComparisonConfig):
        other = replace(config, **{entry.name: changes[entry.name]}).identity(task)
        differences = {name for name in other if other[name] != identity[name]}
        assert differences == ({entry.name} if "identity" in entry.metadata else set())
    names = {"batch_size", "epochs", "micro_batch", "precision", "device", "rounds", "trials", "seeds"}
    assert names == {entry.name for entry in fields(ComparisonConfig) if "identity" in entry.metadata}
    assert set(GROWING) == {"rounds", "trials", "seeds"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds must be a number from 1 to 5000, not 0"),
        ({"trials": 0}, "trials must be a number from 1 to 5000, not 0"),
        ({"trials": 5001}, "trials must be a number from 1 to 5000, not 5001"),
        ({"seeds": -1}, "seeds must be a number from 1 to 5000, not -1"),
        ({"copies": 0}, "copies must be a number from 1 to 5000, not 0"),
        (
            {"pairs": ("lamb:lion",)},
            "the pair 'lamb:lion' names no two optimizers .* write A:B with sgd, adamw, lamb, alto",
        ),
        ({"pairs": ("lamb",)}, "the pair 'lamb' names no two"),
        ({"pairs": ("lamb:lamb",)}, "the pair 'lamb:lamb' names no two"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"micro_batch": 0}, "micro batch 0: choose 1 or more"),
        ({"precision": "float16"}, "precision 'float16': choose one of float32, bfloat16"),
        ({"device": "tpu"}, "unknown device 'tpu'; known: auto, cpu, cuda"),
        ({"optimizers": ()}, "name at least one"),
        ({"optimizers": ("sgd", "alto", "sgd")}, "named more than once: sgd"),
    ],
)
def test_a_value_out_of_its_range_is_refused_when_the_configuration_is_made(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        ComparisonConfig(**changes)
    with pytest.raises(LabError, match=message):
        replace(ComparisonConfig(), **changes)


def test_pairs_may_name_optimizers_with_colons() -> None:
    config = ComparisonConfig(optimizers=("torch.optim:Adam", "lamb"), pairs=("torch.optim:Adam:lamb",))
    assert config.planned == [("torch.optim:Adam", "lamb")]


def test_pairs_reach_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ComparisonConfig(batch_size=8, optimizers=("sgd", "lamb"), pairs=("lamb:sgd",))
    assert "--pairs lamb:sgd" in config.command("digits", Path("out"))
    assert parsed(config.command("digits", Path("out")), monkeypatch) == config


def test_copies_have_names_and_seeds_of_their_own_and_the_same_points() -> None:
    one, other = ComparisonConfig(optimizers=("alto",), batch_size=8, copies=2).specs()
    assert (one.name, other.name) == ("alto-1", "alto-2")
    assert one.space == other.space
    assert one.base is None
    assert one.salt != other.salt
    most = candidates.fresh_seed(candidates.MOST - 1, candidates.MOST - 1)
    assert all(spec.salt + most < 2**32 for spec in (one, other)), "torch's generator on the CPU reads 32 bits"


def test_a_configuration_is_frozen_and_knows_no_other_setting() -> None:
    config = ComparisonConfig()
    with pytest.raises(FrozenInstanceError):
        config.trials = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="heartbeat"):
        ComparisonConfig(heartbeat=1)  # type: ignore[call-arg]


def test_a_run_takes_from_its_problem_what_the_user_left_open() -> None:
    task = replace(lab_fakes.task(), batch_size=4, micro_batch=3)
    assert RunConfig().resolved(task) == RunConfig(batch_size=4, epochs=2, micro_batch=3)
    own = RunConfig(batch_size=8, epochs=1, micro_batch=8)
    assert own.resolved(task) == own
    with pytest.raises(LabError, match="fake has no batch size of its own: name one"):
        RunConfig().resolved(lab_fakes.task())


def test_a_schedule_of_the_configuration_takes_the_place_of_the_task_s() -> None:
    for schedule in ("constant", Schedule("constant")):
        problem = ComparisonConfig(schedule=schedule).problem(lab_fakes.task())
        assert isinstance(problem, Task)
        assert problem.schedule == Schedule("constant")
