"""A run that is stopped and resumed in a new process ends with the same bits as one that never stopped."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import torch
from torch.optim import lr_scheduler

from engine.adapted import OURS, adapted
from optimizer_cases import CASES, parameters
from test_adapt import bits, run_adapted, same

EVERY = {**CASES, **OURS}


def resume(path: Path) -> None:
    """The new process: fresh objects, the safe loader, steps 10 to 20 of every optimizer."""
    ends = {}
    for name, checkpoint in torch.load(path / "stopped.pt", weights_only=True).items():
        params = [torch.nn.Parameter(value) for value in checkpoint["params"]]
        optimizer = adapted(EVERY[name], params)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 20)
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        for step in range(10, 20):
            run_adapted(optimizer, params, range(step, step + 1))
            scheduler.step()
        ends[name] = bits(params)
    torch.save(ends, path / "resumed.pt")


def test_resume_in_a_new_process_is_bit_for_bit(tmp_path: Path) -> None:
    stopped, ends = {}, {}
    for name, case in EVERY.items():
        params = parameters(case, torch.float32)
        optimizer = adapted(case, params)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 20)
        for step in range(20):
            if step == 10:
                states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
                stopped[name] = {"params": bits(params), **copy.deepcopy(states)}
            run_adapted(optimizer, params, range(step, step + 1))
            scheduler.step()
        ends[name] = bits(params)
    torch.save(stopped, tmp_path / "stopped.pt")
    here = str(Path(__file__).parent)
    code = f"import sys, pathlib; sys.path.insert(0, {here!r}); import test_resume_process as t; "
    code += f"t.resume(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    resumed = torch.load(tmp_path / "resumed.pt", weights_only=True)
    assert list(resumed) == list(EVERY)
    assert [name for name in EVERY if not same(ends[name], resumed[name])] == []
