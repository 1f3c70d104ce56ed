"""Bad input is refused before the first run: one line on stderr, exit code 2, and no folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from valleys.cli import main

OWN = """
import torch

class Base(torch.optim.SGD):
    pass

def upside_down(params, lr): return torch.optim.SGD(params, lr=lr)
upside_down.search_space = {"lr": (1.0, 0.1)}

def negative(params, lr): return torch.optim.SGD(params, lr=lr)
negative.search_space = {"lr": (-1.0, 0.1)}

def no_pair(params, lr): return torch.optim.SGD(params, lr=lr)
no_pair.search_space = {"lr": 0.1}

def other_name(params, lr): return torch.optim.SGD(params, lr=lr)
other_name.search_space = {"rate": (1e-3, 0.1)}
"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rounds", "0"], "rounds must be a number from 1 to 5000, not 0"),
        (["--trials", "0"], "trials must be a number from 1 to 5000, not 0"),
        (["--seeds", "-1"], "seeds must be a number from 1 to 5000, not -1"),
        (["--copies", "0"], "copies must be a number from 1 to 5000, not 0"),
        (["--pairs", "lamb:lion"], "the pair 'lamb:lion' names no two optimizers of this comparison"),
        (["--optimizers", "lambda"], "unknown optimizer 'lambda'; did you mean lamb?"),
        (["--optimizers", "sgd,torch.optim:Muon"], "torch.optim:Muon cannot train digits: "),
        (["--optimizers", "torch.optim:LBFGS,sgd"], "torch.optim:LBFGS"),
        (["--optimizers", "torch.optim:SparseAdam"], "torch.optim:SparseAdam cannot train digits: "),
        (["--optimizers", "builtins:int"], "optimizer 'builtins:int'"),
        (["--optimizers", "torch.optim:Nothing"], "Nothing"),
        (["--optimizers", "own:upside_down"], "the range from 1.0 to 0.1 is none"),
        (["--optimizers", "own:negative"], "the range from -1.0 to 0.1 is none"),
        (["--optimizers", "own:no_pair"], "optimizer 'own:no_pair': search_space must be"),
        (["--optimizers", "own:other_name"], "optimizer 'own:other_name' cannot be called with"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["compare", "dry-run"])
def test_it_is_one_line_and_exit_code_2(
    options: list[str],
    named: str,
    mode: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    words = ["valleys", "compare", "digits", "--batch-size", "512", "--out", "out", *options, *mode]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capfd.readouterr()
    assert left.value.code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("valleys: ")
    assert named in err
    assert not (tmp_path / "out").exists()
