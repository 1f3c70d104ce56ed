"""PPO as a loop of the lab: its optimizer and its rate are the lab's, its numbers are returns, its seeds its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

np = pytest.importorskip("numpy")
gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("stable_baselines3")
pytest.importorskip("mujoco")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from valleys.lab.errors import LabError  # noqa: E402
from valleys.lab.problem.loop import Diverged, Running  # noqa: E402
from valleys.lab.tasks import reinforcement  # noqa: E402
from valleys.lab.tasks.table import ENTRIES  # noqa: E402

LIMIT = 100
Build = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass
class Run:
    """A run, and what it made on the way."""

    running: Running
    agents: list[Any] = field(default_factory=list)
    bodies: list[tuple[int, Any]] = field(default_factory=list)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-4)


def run(build: Build, seed: int, epochs: int = 1, batch_size: int = 128, test: bool = False) -> Run:
    """A smoke run of Swimmer, an eighth as long; its parts are kept by replacing what makes them."""
    running = Running(
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        device=torch.device("cpu"),
        test=test,
        _build=build,
        _progress=lambda steps: None,
    )
    result = Run(running)
    make, make_bodies, make_agent = gymnasium.make, reinforcement._bodies, reinforcement._agent

    def bodies(environment: str, count: int, seed: int) -> Any:
        result.bodies.append((seed, make_bodies(environment, count, seed)))
        return result.bodies[-1][1]

    def agent(*args: Any) -> Any:
        result.agents.append(make_agent(*args))
        return result.agents[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcement, "_bodies", bodies)
        patch.setattr(reinforcement, "_agent", agent)
        patch.setattr(reinforcement, "_TESTS", 1)
        patch.setattr(reinforcement, "COLLECT", 256)
        patch.setattr(gymnasium, "make", lambda name: make(name, max_episode_steps=LIMIT))
        torch.manual_seed(seed)
        reinforcement.load("ppo-swimmer", "smoke").run(running)
    return result


@pytest.fixture(scope="module")
def two_epochs() -> Run:
    random.seed(1)
    np.random.seed(1)
    return run(adam, seed=0, epochs=2, test=True)


@pytest.fixture(scope="module")
def standstill() -> Run:
    """One epoch at learning rate 0, in which the policy stays what it was."""
    return run(lambda model: torch.optim.SGD(model.parameters(), lr=0.0), seed=1)


def returns(made: Run) -> list[list[float]]:
    """Undiscounted returns of the training episodes, by copy, as the environments' own monitors have them."""
    return [list(rewards) for rewards in made.bodies[0][1].env_method("get_episode_rewards")]


def test_a_run_repeats_itself_and_leaves_the_callers_generators_alone(two_epochs: Run) -> None:
    random.seed(2)
    np.random.seed(2)
    expected = random.Random(2).random(), np.random.RandomState(2).random()
    again = run(adam, seed=0, epochs=2, test=True).running
    assert (random.random(), np.random.random()) == expected

    first = two_epochs.running
    assert [(e.step, e.train_loss, e.validation) for e in again.curve] == [
        (e.step, e.train_loss, e.validation) for e in first.curve
    ]
    assert again.result == first.result is not None
    assert again.model is not None
    assert first.model is not None
    for one, other in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_optimizer_is_the_labs(two_epochs: Run) -> None:
    agent, running = two_epochs.agents[0], two_epochs.running
    parameters = list(agent.policy.parameters())
    assert agent.policy.optimizer is running.made
    assert agent.policy is running.model
    assert running.steps == reinforcement.load("ppo-swimmer", "smoke").plan(1024, 2).steps == 40  # of 2,048, as of 256
    assert [e.step for e in running.curve] == [20, 40]
    assert running.made is not None
    assert len(running.made.state) == len(parameters)


def test_the_tuned_learning_rate_stays_but_for_its_linear_decay() -> None:
    rates: list[tuple[float, ...]] = []

    def build(model: nn.Module) -> torch.optim.Optimizer:
        first, *others = model.parameters()
        optimizer = torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others, "lr": 0.01}])
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(tuple(group["lr"] for group in o.param_groups)))
        return optimizer

    run(build, seed=0, epochs=2, batch_size=256)
    assert rates == 10 * [(0.5, 0.01)] + 10 * [pytest.approx((0.25, 0.005))]


def test_validation_is_the_mean_return_of_the_episodes_since_the_last(two_epochs: Run) -> None:
    by_copy = returns(two_epochs)
    assert [len(rewards) for rewards in by_copy] == [2, 2]  # 256 steps each, of episodes of 100
    for epoch, evaluation in enumerate(two_epochs.running.curve):
        assert evaluation.validation == pytest.approx(sum(rewards[epoch] for rewards in by_copy) / 2)


def test_the_loss_is_ppos_mean(standstill: Run) -> None:
    advantages = standstill.agents[0].rollout_buffer.advantages  # value targets are values + advantages
    expected = -advantages.mean() + 0.25 * np.square(advantages).mean()
    assert standstill.running.curve[0].train_loss == pytest.approx(expected, rel=1e-4)
    assert standstill.running.result is None


def test_another_seed_is_another_run(two_epochs: Run, standstill: Run) -> None:
    assert set(returns(two_epochs)[0]).isdisjoint(returns(standstill)[0])
    starts = {reinforcement._seed(seed, purpose) for seed in range(20) for purpose in (0, 1)}
    assert len(starts) == 40
    assert min(abs(one - other) for one in starts for other in starts if one != other) > 10


def test_the_test_metric_is_played_without_exploration_on_frozen_statistics(two_epochs: Run) -> None:
    (seed, trained), (test_seed, tested) = two_epochs.bodies
    assert (seed, test_seed) == (reinforcement._seed(0, 0), reinforcement._seed(0, 1))
    statistics = trained.obs_rms
    assert tested.obs_rms is statistics
    assert statistics.count == pytest.approx(2 * (2 * 128 + 1), abs=0.1)

    policy = two_epochs.agents[0].policy
    body = gymnasium.make("Swimmer-v5", max_episode_steps=LIMIT)
    observation, _ = body.reset(seed=test_seed)
    total, over = 0.0, False
    while not over:
        scaled = ((observation - statistics.mean) / np.sqrt(statistics.var + 1e-8)).clip(-10, 10)
        inputs = torch.as_tensor(scaled, dtype=torch.float32).unsqueeze(0)
        with torch.no_grad():
            action = policy.action_net(policy.mlp_extractor.forward_actor(inputs))[0].numpy()
        observation, reward, ended, cut, _ = body.step(action.clip(-1, 1))
        total, over = total + float(reward), ended or cut
    body.close()
    assert two_epochs.running.result == pytest.approx(total, rel=1e-3)


def test_settings_are_those_of_the_docstring(standstill: Run) -> None:
    agent = standstill.agents[0]
    assert (agent.n_steps, agent.batch_size, agent.n_epochs) == (128, 128, 10)
    assert (agent.gamma, agent.gae_lambda, agent.clip_range(1.0)) == (0.99, 0.95, 0.2)
    assert (agent.ent_coef, agent.vf_coef, agent.max_grad_norm) == (0.0, 0.25, 0.5)
    assert (agent.normalize_advantage, agent.clip_range_vf, agent.target_kl) == (False, None, None)
    assert torch.equal(agent.policy.log_std, torch.full((2,), -0.5))
    assert [tuple(layer.weight.shape) for layer in agent.policy.mlp_extractor.policy_net[::2]] == [(64, 8), (64, 64)]
    bodies = standstill.bodies[0][1]
    assert (bodies.norm_obs, bodies.norm_reward, bodies.clip_obs, bodies.gamma) == (True, True, 10.0, 0.99)


def test_actions_are_scaled_to_the_body() -> None:
    bodies = reinforcement._bodies("Humanoid-v5", 1, 0)
    assert bodies.action_space.high.tolist() == [1.0] * 17
    bodies.reset()
    bodies.step(np.full((1, 17), 0.5, dtype=np.float32))
    np.testing.assert_allclose(bodies.venv.envs[0].unwrapped.data.ctrl, 0.2, rtol=1e-6)
    bodies.close()


@pytest.mark.parametrize(("what", "value"), [("weight", torch.nan), ("log_std", torch.nan), ("log_std", -1e6)])
def test_a_policy_that_is_no_number_ends_the_run(what: str, value: float) -> None:
    state = random.getstate()

    def build(model: nn.Module) -> torch.optim.Optimizer:
        model.get_parameter("log_std" if what == "log_std" else "action_net.weight").data.fill_(value)
        return adam(model)

    with pytest.raises(Diverged):
        run(build, seed=0)
    assert random.getstate() == state


def test_minibatches_must_be_whole() -> None:
    loop = reinforcement.load("ppo-ant", "paper")
    assert loop.examples == 2048
    assert loop.plan(64, 200).steps == 200 * 15 * 10 * 32
    with pytest.raises(LabError, match="batch size 100: 2048 steps"):
        loop.plan(100, 1)


@pytest.mark.parametrize("name", reinforcement._TASKS)
def test_entries(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[name]
    assert entry.presets == ("paper", "smoke")
    paper, smoke = (entry.load(None, preset) for preset in entry.presets)
    assert (paper.name, paper.variant, paper.batch_size, paper.epochs) == (name, "paper", 64, 200)
    assert (smoke.name, smoke.variant, smoke.epochs) == (name, "smoke", 16)
    assert paper.reached(smoke.target) is False
    assert gymnasium.spec(reinforcement._TASKS[name][0]).max_episode_steps == 1000  # at least one ends in each epoch
    for setting in reinforcement._SETTINGS.values():
        assert setting.rounds * reinforcement.COLLECT // setting.environments >= 1000

    monkeypatch.setattr(reinforcement, "find_spec", lambda package: None if package == "mujoco" else package)
    with pytest.raises(LabError, match=r"needs mujoco; pip install 'valleys\[rl\]'"):
        entry.load(None, "smoke")
