"""Stable-Baselines3's PPO balances a pole and goes on from its file with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="pip install 'valleys[rl]'")

import valleys
from integrations.examples import differences, example, snapshot

stable_baselines = example("stable_baselines")


@pytest.mark.parametrize(("name", "cls"), [("alto", valleys.ALTO), ("eadamw", valleys.EAdamW)])
def test_trains_and_resumes_exactly(name: str, cls: type, tmp_path: Path) -> None:
    agent, reward = stable_baselines.main(["--optimizer", name, "--checkpoint", str(tmp_path)])
    assert type(agent.policy.optimizer) is cls
    assert reward >= 150
    again, reached = stable_baselines.main(["--optimizer", name, "--resume", str(tmp_path)])
    assert again.num_timesteps == agent.num_timesteps
    assert reached == reward
    snapshots = [snapshot(a.policy, a.policy.optimizer) for a in (agent, again)]
    assert differences(*snapshots) == []
