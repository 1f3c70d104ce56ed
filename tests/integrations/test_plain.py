"""A plain loop trains to 95 % and goes on from its checkpoint, in a new process, with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.worlds import spawn
from integrations.examples import differences, example, snapshot, watched

plain, digits = example("plain"), example("digits")


def resumed(paths: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {
        name: snapshot(*example("plain").main(["--optimizer", name, "--resume", path])) for name, path in paths.items()
    }


def test_trains_and_resumes_exactly_in_a_new_process(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("alto", "eadamw")}
    whole = {}
    for name, path in paths.items():
        with watched() as steps:
            model, optimizer = plain.main(["--optimizer", name, "--checkpoint", path])
        assert max(norm for _, norm in steps) == pytest.approx(1.0, abs=1e-4), "clipped"
        assert digits.accuracy(model) >= 95
        whole[name] = snapshot(model, optimizer)
    [again] = spawn(resumed, 1, paths)
    for name in paths:
        assert differences(whole[name], again[name]) == []
    assert differences(whole["alto"], whole["eadamw"])


@pytest.mark.parametrize("name", ["alto", "eadamw"])
def test_a_checkpoint_without_e_is_another_run(tmp_path: Path, name: str) -> None:
    """Without the memory of E, all else kept: what the comparison above must be able to see."""
    path = tmp_path / "half"
    whole = snapshot(*plain.main(["--optimizer", name, "--checkpoint", str(path), "--steps", "8"]))
    checkpoint = torch.load(path, weights_only=True)
    for state in checkpoint["optimizer"]["state"].values():
        state["explore_exp_avg"].zero_()
    torch.save(checkpoint, path)
    again = snapshot(*plain.main(["--optimizer", name, "--resume", str(path), "--steps", "8"]))
    assert any(name.startswith("model.") for name in differences(whole, again))


def test_the_closure_is_evaluated_once_and_its_loss_returned() -> None:
    for name in ("alto", "eadamw"):
        model = digits.network()
        optimizer = plain.build(name, model)
        calls: list[float] = []

        def closure(calls: list[float] = calls, model: Any = model) -> torch.Tensor:
            inputs, classes = digits.batch(0)
            loss = torch.nn.functional.cross_entropy(model(inputs), classes)
            loss.backward()
            calls.append(loss.item())
            return loss

        assert [optimizer.step(closure).item()] == calls
