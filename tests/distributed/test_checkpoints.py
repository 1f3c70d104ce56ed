"""torch.distributed.checkpoint: what one number of ranks saved another resumes, exactly; a killed run too."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as write
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import valleys
from backends import largest_error
from distributed.worlds import spawn

OPTIMIZERS: dict[str, Any] = {
    "ALTO": lambda params: valleys.ALTO(params, lr=0.05),
    "Lamb": lambda params: valleys.Lamb(params, lr=0.05, max_grad_norm=1.0),
    "ALTO in bfloat16": lambda params: valleys.ALTO(params, lr=0.05, state_dtype=torch.bfloat16),
    "EAdamW": lambda params: valleys.EAdamW(params, lr=0.05, alpha=-5.0, beta=0.99),
    "adapted SGD": lambda params: valleys.adapt(torch.optim.SGD(params, lr=0.05, momentum=0.9), -5.0, 0.99),
    "adapted Adagrad": lambda params: valleys.adapt(torch.optim.Adagrad(params, lr=0.05), 0.5, 0.01),
    "adapted bfloat16": lambda params: valleys.adapt(
        torch.optim.RMSprop(params, lr=0.05), -5.0, 0.9, state_dtype=torch.bfloat16
    ),
}


class Run:
    """A model of awkward sizes with its optimizer, sharded or not; every rank sees the whole batch."""

    def __init__(self, name: str, shard: bool) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(7, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3), nn.Linear(3, 1)
        ).double()
        self.model.register_parameter("unused", nn.Parameter(torch.ones(3, 3, dtype=torch.float64)))
        if shard:
            for layer in self.model:
                fully_shard(layer)
            fully_shard(self.model)
        overrides = {"3.weight": {"blocks": valleys.blocks.sections([2, 1])}}
        self.optimizer = OPTIMIZERS[name](valleys.param_groups(self.model, overrides=overrides))
        self.batch = torch.randn(12, 7, dtype=torch.float64)

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            self.optimizer.zero_grad()
            (self.model(self.batch.roll(step, 0)[:6]) - 1).square().mean().backward()
            self.optimizer.step()

    def save(self, folder: str) -> None:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about the CPU and about one process
            write({"model": model, "optimizer": optimizer}, checkpoint_id=folder)

    def load(self, folder: str) -> None:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        state: Any = {"model": model, "optimizer": optimizer}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A parameter that never had a gradient has no state to load, though the probe gave the fresh one some.
            planner = DefaultLoadPlanner(allow_partial_load=True)
            load(state, checkpoint_id=folder, planner=planner)
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])

    def whole(self) -> list[torch.Tensor]:
        """Every parameter, then every state but of the parameter that has none."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        tensors: list[Any] = list(model.values())
        states: dict[str, dict[str, Any]] = optimizer["state"]  # type: ignore[assignment]
        for name in sorted(states.keys() - {"unused"}):
            tensors += [value for _, value in sorted(states[name].items()) if isinstance(value, torch.Tensor)]
        return [(t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for t in tensors]


def save(folder: str, shard: bool) -> Any:
    """Saves every optimizer after 4 steps, and before the first; how it goes on."""
    results = {}
    for name in OPTIMIZERS:
        run = Run(name, shard)
        if name == "ALTO":
            run.save(f"{folder}/fresh")
        run.train(0, 4)
        run.save(f"{folder}/{name}")
        run.train(4, 7)
        results[name] = run.whole()
    return results


def resume(folder: str, shard: bool) -> Any:
    results = {}
    for name in OPTIMIZERS:
        run = Run(name, shard)
        run.load(f"{folder}/{name}")
        dtypes = {v.dtype for v in run.whole()}
        assert (torch.bfloat16 in dtypes) == ("bfloat16" in name), (name, dtypes)
        run.train(4, 7)
        results[name] = run.whole()
    fresh = Run("ALTO", shard)
    fresh.load(f"{folder}/fresh")
    fresh.train(0, 7)
    results["fresh"] = fresh.whole()
    return results


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [((4, True), [(2, True), (1, True), (1, False)]), ((1, False), [(4, True)])],
    ids=["from 4 ranks", "from one process"],
)
def test_another_number_of_ranks_goes_on(saved: Any, loaded: Any, tmp_path: Path) -> None:
    (expected, *_) = spawn(save, saved[0], str(tmp_path), saved[1])
    expected["fresh"] = expected["ALTO"]
    for ranks, shard in loaded:
        for results in spawn(resume, ranks, str(tmp_path), shard):
            for name, tensors in expected.items():
                # A state in bfloat16 may fall on the other side of a rounding.
                tolerance = 2e-2 if "bfloat16" in name else 1e-12
                shapes = [tensor.shape for tensor in results[name]]
                assert shapes == [tensor.shape for tensor in tensors], name
                assert largest_error(results[name], tensors) < tolerance, (name, ranks, shard)


KILLED, STEPS, EVERY = 8, 12, 3


def survive(folder: str, name: str, killed: bool) -> list[torch.Tensor]:
    """Trains to the end from the last checkpoint, if there is one; a rank may be killed on the way."""
    run, latest = Run(name, shard=True), Path(folder, "latest")
    first = 0
    if latest.exists():
        first = int(latest.read_text())
        run.load(f"{folder}/{first}")
    for step in range(first, STEPS):
        if killed and step == KILLED and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        run.train(step, step + 1)
        if (step + 1) % EVERY == 0:
            run.save(f"{folder}/{step + 1}")
            distributed.barrier()
            if distributed.get_rank() == 0:
                latest.write_text(str(step + 1))
            distributed.barrier()
    return run.whole()


@pytest.mark.parametrize("name", ["ALTO", "EAdamW"])
def test_a_killed_rank(name: str, tmp_path: Path) -> None:
    """kill -9 in mid-run; the same command goes on from the last checkpoint to the same bits."""
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    expected = spawn(survive, 2, str(tmp_path / "undisturbed"), name, False)
    with pytest.raises(AssertionError, match="-9"):
        spawn(survive, 2, str(tmp_path / "killed"), name, True)
    assert (tmp_path / "killed" / "latest").read_text() == "6"
    results = spawn(survive, 2, str(tmp_path / "killed"), name, False)
    for mine, reference in zip(results, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, reference, strict=True))
