"""Optimizers by name and by module:callable; what cannot serve is refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lab.optimizers.models import PLAN, make_model, trained
from valleys.lab.errors import LabError
from valleys.lab.optimizers import resolve as optimizers
from valleys.lab.optimizers.entry import modules
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.spec import Range


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamW", "unknown optimizer 'adamW'; did you mean adamw.*or module:callable"),
        ("altoo", "did you mean alto"),
        ("radam", "unknown optimizer 'radam'"),
        ("zzz", "unknown optimizer 'zzz'. Choices: sgd"),
        ("no_such_module_here:Adam", "no_such_module_here cannot be imported"),
        ("torch.optim:Adamm", "unknown callable of torch.optim 'Adamm'"),
        ("math:pi", "pi is a float, which cannot be called"),
        ("math:sqrt", r"cannot be called with \(params, lr\)"),
        ("torch.optim:", "not of the form module:callable"),
        (":Adam", "not of the form module:callable"),
        (".optim:Adam", "not of the form module:callable"),
        ("torch.optim:Adam:x", "not of the form module:callable"),
        ("builtins:int", "'builtins:int' is a class, but no torch.optim.Optimizer"),
        ("torch.nn:Linear", "is a class, but no torch.optim.Optimizer"),
        ("torch.optim:LBFGS", "'torch.optim:LBFGS' evaluates the loss as often as it likes"),
        ("pytorch_optimizer:SAM", "missing a required argument: 'base_optimizer'"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(LabError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torch.optim:RMSprop", "torch.optim:Adagrad", "torch.optim:RAdam"])
def test_a_class_of_torch_keeps_its_own_defaults_and_gets_plain_parameters(name: str) -> None:
    spec = resolve(name)
    assert spec.space == {"lr": Range(1e-4, 1.0)}
    (group,) = spec.build(make_model(), {"lr": 0.02}, PLAN).param_groups
    assert (group["lr"], len(group["params"])) == (0.02, 6)


MINE = """
from torch.optim import SGD
from valleys.lab import Range

class Narrow(SGD):
    search_space = {"lr": (0.01, 0.1), "momentum": Range(0.5, 0.99, "reverse-log")}
    search_space["weight_decay"] = Range(1e-4, 1, zero=0.2)

def by_name(named_parameters, lr):
    assert isinstance(named_parameters, list)
    weights = [(name, p) for name, p in named_parameters if name.endswith("weight")]
    others = [(name, p) for name, p in named_parameters if not name.endswith("weight")]
    return SGD([{"params": weights, "lr": lr}, {"params": others, "lr": 0.0}])

def nothing(params, lr):
    return None

def strict(params, lr, momentum):
    return SGD(params, lr, momentum)

def reversed_ends(params, lr):
    return SGD(params, lr)
reversed_ends.search_space = {"lr": (1.0, 0.1)}

def no_ends(params, lr):
    return SGD(params, lr)
no_ends.search_space = {"lr": 0.1}

def listed(params, lr):
    return SGD(params, lr)
listed.search_space = ["lr"]

def numbered(params, lr):
    return SGD(params, lr)
numbered.search_space = {1: (0.1, 1.0)}

def without_parameters():
    return None
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
    spec = resolve(f"{mine}:Narrow")
    assert list(spec.space.values()) == [
        Range(0.01, 0.1),
        Range(0.5, 0.99, "reverse-log"),
        Range(1e-4, 1, zero=0.2),
    ]
    values = {"lr": 0.05, "momentum": 0.75, "weight_decay": 0.0}
    (group,) = spec.build(make_model(), values, PLAN).param_groups
    assert values.items() <= group.items()


def test_a_builder_may_ask_for_the_parameters_by_name(mine: str) -> None:
    spec = resolve(f"{mine}:by_name")
    weights, others = spec.build(make_model(), {"lr": 0.05}, PLAN).param_groups
    assert weights["param_names"] == ["0.weight", "1.weight", "3.weight"]
    assert others["param_names"] == ["0.bias", "1.bias", "3.bias"]
    before, after = dict(make_model().named_parameters()), trained(spec, {"lr": 0.05}, steps=3)
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == set(weights["param_names"])


@pytest.mark.parametrize("name", ["Narrow", "by_name", "torch.optim:RMSprop"])
def test_the_python_line_of_a_callable_makes_the_same_optimizer(mine: str, name: str) -> None:
    spec = resolve(name if ":" in name else f"{mine}:{name}")
    values = {key: ranges.middle for key, ranges in spec.space.items()}
    assert spec.line is not None
    line = spec.line(values, PLAN)
    (module,) = modules(line)
    names = {module.partition(".")[0]: __import__(module)}
    one = trained(spec, values, steps=3)
    other = trained(spec, values, steps=3, optimizer=lambda model: eval(line, {**names, "model": model}))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("strict", "missing a required argument: 'momentum'"),
        ("reversed_ends", "my_optimizers:reversed_ends': the range from 1.0 to 0.1 is none"),
        ("no_ends", r"search_space must be a dictionary from names to \(low, high\) or Range, got {'lr': 0.1}"),
        ("listed", "search_space must be a dictionary"),
        ("numbered", "search_space must be a dictionary"),
        ("without_parameters", "cannot be called with"),
    ],
)
def test_callables_that_cannot_serve(mine: str, name: str, message: str) -> None:
    with pytest.raises(LabError, match=message) as caught:
        resolve(f"{mine}:{name}")
    assert "\n" not in str(caught.value)


def test_a_callable_that_returns_no_optimizer(mine: str) -> None:
    with pytest.raises(LabError, match=r"returned a NoneType; it must return a torch\.optim\.Optimizer"):
        resolve(f"{mine}:nothing").build(make_model(), {"lr": 0.1}, PLAN)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (math.nan, 1.0), (0.1, math.inf), ("a", 1.0)])
def test_ranges_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(LabError, match="both ends must be finite"):
        Range(*ends)
    if ends == (-1.0, 1.0):
        assert Range(*ends, "linear").low == -1.0


def test_a_missing_package_is_named_with_its_extra_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None if name == "pytorch_optimizer" else name)
    with pytest.raises(LabError, match=r"lion needs the package pytorch_optimizer; pip install 'valleys\[lab\]'"):
        resolve("lion")
    assert resolve("adam").name == "adam"
