"""valleys optimizers NAME: what it is, its space, and a Python line that works when it is copied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from valleys.cli import main
from valleys.lab.optimizers.resolve import names, resolve
from valleys.lab.optimizers.spec import Plan


def explain(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["valleys", "optimizers", *words])
    with pytest.raises(SystemExit) as left:
        main()
    captured = capfd.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


@pytest.mark.parametrize("name", [*names(), "torch.optim:RMSprop"])
def test_the_lines_build_the_optimizer_when_they_are_copied(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code, out, err = explain(capfd, monkeypatch, name, "--batch-size", "128", "--values", "lr=0.0125", "--steps", "77")
    assert (code, err) == (0, "")
    spec = resolve(name, 128)
    for key, ranges in spec.space.items():
        (row,) = [line for line in out.splitlines() if line.split()[:1] == [key]]
        assert f"{ranges.low:g} to {ranges.high:g}" in row
        assert ranges.shape in row
    assert spec.about in out
    assert spec.source in out
    assert (f"base, which it adapts by E: {spec.base}" in out) is (spec.base is not None)
    scope = {"model": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))}
    exec("\n".join(out.splitlines()[-2:]), scope)
    optimizer = scope["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    values = {key: float(f"{ranges.middle:.3g}") for key, ranges in spec.space.items()} | {"lr": 0.0125}
    expected = spec.build(scope["model"], values, Plan(128, 77))
    assert type(optimizer) is type(expected)
    for one, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != "params"} == {k: v for k, v in other.items() if k != "params"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("adamwe",), "unknown optimizer 'adamwe'; did you mean adamw?"),
        (("builtins:int",), "'builtins:int' is a class, but no torch.optim.Optimizer"),
        (("sgd", "--values", "rate=1"), "unknown hyperparameter 'rate'"),
        (("sgd", "--values", "lr=high"), "values: lr='high' is no number; write lr=0.01"),
        (("sgd", "--values", "lr"), "values: lr='' is no number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    code, out, err = explain(capfd, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
