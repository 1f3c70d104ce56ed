"""Adapted Muon beside adapted AdamW trains to 97 % and resumes exactly."""

from __future__ import annotations

from pathlib import Path

import torch

from integrations.examples import differences, example, snapshot

muon, digits = example("muon"), example("digits")


def test_trains_and_resumes_exactly(tmp_path: Path) -> None:
    path = str(tmp_path / "half")
    model, *optimizers = muon.main(["--checkpoint", path])
    assert digits.accuracy(model) >= 97
    again = muon.main(["--resume", path])
    assert differences(snapshot(model, *optimizers), snapshot(*again)) == []


def test_each_parameter_has_one_optimizer_and_muon_the_hidden_matrices() -> None:
    model = digits.network()
    optimizers = muon.build(model)
    params = {name: [p for group in o.param_groups for p in group["params"]] for name, o in optimizers.items()}
    assert [id(p) for p in params["muon"]] == [id(model[0].weight), id(model[3].weight)]
    assert sorted(map(id, params["muon"] + params["adamw"])) == sorted(map(id, model.parameters()))
    assert isinstance(optimizers["muon"], torch.optim.Muon)
