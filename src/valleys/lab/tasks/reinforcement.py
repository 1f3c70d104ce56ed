"""Reinforcement learning: PPO of stable-baselines3 on three of MuJoCo's bodies, with Tianshou's settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from valleys.lab.errors import LabError
from valleys.lab.problem.loop import Diverged, Loop, Running
from valleys.lab.problem.schedules import Schedule

__all__ = ["load"]

COLLECT = 2048
"""Steps in the environments, all together, before each update of the policy."""

_REPEAT = 10  # passes over these steps per update
_GAMMA = 0.99
_VALUE = 0.25
_TESTS = 10
_TRAIN, _TEST = 0, 1  # what a run's seeds are for


@dataclass(frozen=True)
class Setting:
    """The length and width of a preset."""

    environments: int  # copies that are stepped side by side; they divide ``COLLECT``
    # Collections, each followed by an update, in an epoch. Each copy must make as many steps in an epoch as its longest
    # episode has, so that one ends and there is a return to report.
    rounds: int
    epochs: int

    def steps(self, batch_size: int, epochs: int) -> int:
        """Return the optimizer steps of a run; ``batch_size`` is a minibatch of PPO.

        Example:
            >>> Setting(environments=8, rounds=15, epochs=200).steps(64, 200)
            960000
        """
        if COLLECT % batch_size:
            raise LabError(
                f"batch size {batch_size}: {COLLECT} steps are collected between updates and must divide into whole "
                f"minibatches; choose a power of 2 from 1 to {COLLECT}"
            )
        return epochs * self.rounds * _REPEAT * (COLLECT // batch_size)


_SETTINGS = {"paper": Setting(environments=8, rounds=15, epochs=200), "smoke": Setting(2, 1, 16)}

# task -> environment, targets of the presets
_TASKS = {
    "ppo-swimmer": ("Swimmer-v5", {"paper": 60.0, "smoke": 15.0}),
    "ppo-ant": ("Ant-v5", {"paper": 3000.0, "smoke": 0.0}),
    "ppo-humanoid": ("Humanoid-v5", {"paper": 750.0, "smoke": 300.0}),
}


def load(name: str, preset: str = "paper") -> Loop:
    r"""Teach a body to move by PPO.

    .. math:: L = -\operatorname{mean} \min\left(\rho A, \operatorname{clip}(\rho, 0.8, 1.2) A\right)
        + 0.25 \operatorname{mean} (R - V)^2, \qquad \rho = \pi(a|s) / \pi_{\text{old}}(a|s)

    The optimizer steps on minibatches of ``batch_size`` of the 2,048 steps collected by the newest policy, ten times
    over them; its learning rate falls linearly to zero over the updates, unless it has a schedule of its own. The loss
    reported is the mean of L; the
    validation metric the mean undiscounted return of the episodes that ended in training since the evaluation
    before, with exploring policies; the test metric that of the last policy without exploration in ten new episodes.

    An epoch is 30,720 steps in the environments (15 collections from 8 copies) and there are 200, in preset ``paper``;
    in ``smoke`` it is 2,048 (one collection from 2 copies), and there are 16. Targets: for ``paper`` a little below
    what Tianshou's own benchmark reports for PPO after 1,000,000 steps (66.7, 3258.4, 787.1), for ``smoke`` about
    what it reports after the first 30,720 (14.5, 1.2, 351.0), both on versions 3 of the environments.

    As Tianshou's example has it: 2,048 steps per collection, from 8 copies; minibatches of 64, 10 passes; discount .99,
    GAE .95, clipping .2; no entropy bonus, value loss x .25, gradients clipped to a norm of .5; advantages as they
    are; observations normalised by running statistics and clipped at 10; tanh networks 64-64 for policy and value,
    a deviation apart from the state that starts at exp(-.5), orthogonal initialisation with a small last layer;
    actions clipped to [-1, 1] and scaled to the body's range; a value in place of what a time limit cut off; linear
    decay of the learning rate per update.

    What differs: rewards are divided by the running deviation of the discounted return and clipped at 10 before
    advantages are computed (Tianshou scales the value's targets only, so that its advantages have the reward's own
    unit); advantages are not computed anew before each pass; the last layers start with gains .01 and 1 (there
    .01 sqrt(2) and sqrt(2)); the curve is of training episodes (there: of separate ones); the environments are
    Gymnasium's current versions 5, which reward and observe a little differently; and the optimizer is the lab's,
    without SB3's eps = 1e-5.

    Args:
        name: ppo-swimmer, ppo-ant or ppo-humanoid.
        preset: ``paper`` or ``smoke``.

    Returns:
        The task.

    Raises:
        LabError: a package of the extra ``rl`` is not installed.

    Source: Schulman et al. 2017 (arXiv 1707.06347); Zhao et al. 2025 (arXiv 2510.27153), PPO by Tianshou with its
    defaults, learning rate 3e-4, 10 seeds; settings after Tianshou's examples/mujoco.
    """
    missing = [package for package in ("stable_baselines3", "gymnasium", "mujoco") if find_spec(package) is None]
    if missing:
        raise LabError(f"the task {name} needs {', '.join(missing)}; pip install 'valleys[rl]'")
    environment, targets = _TASKS[name]
    setting = _SETTINGS[preset]
    return Loop(
        name=name,
        variant=preset,
        metric_name="mean return",
        maximize=True,
        target=targets[preset],
        epochs=setting.epochs,
        batch_size=64,
        run=partial(_run, environment, setting),
        steps=setting.steps,
        examples=COLLECT,
    )


def _run(environment: str, setting: Setting, running: Running) -> None:
    setting.steps(running.batch_size, running.epochs)
    with _seeded(running.seed):
        bodies = _bodies(environment, setting.environments, _seed(running.seed, _TRAIN))
        try:
            model = _agent(bodies, setting, running)
            model.learn(running.epochs * setting.rounds * COLLECT, log_interval=None)
            if running.test:
                with running.evaluation():
                    running.tested(_tested(model, environment, bodies, _seed(running.seed, _TEST)))
        finally:
            bodies.close()


def _bodies(environment: str, count: int, seed: int) -> Any:
    """Make copies of an environment with normalised observations and rewards, their own returns on record."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    low, high = np.float32(-1), np.float32(1)  # Gymnasium warns of Python's doubles

    def body() -> Any:
        return Monitor(gymnasium.wrappers.RescaleAction(gymnasium.make(environment), low, high))

    bodies = VecNormalize(DummyVecEnv([body] * count), gamma=_GAMMA)
    bodies.seed(seed)
    return bodies


def _agent(bodies: Any, setting: Setting, running: Running) -> Any:
    """Make a PPO that steps the lab's optimizer and reports to the lab."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger

    class Agent(PPO):  # type: ignore[misc]
        """PPO, but for its optimizer."""

        losses: list[float]
        scheduler: torch.optim.lr_scheduler.LRScheduler

        def _update_learning_rate(self, optimizers: Any) -> None:
            """Leave it alone: PPO would write a learning rate of its own into every group before each update."""

        def collect_rollouts(self, *arguments: Any, **options: Any) -> bool:
            """Act, as in every episode that is reported, with the weights that the optimizer wants judged."""
            with running.evaluation():
                return bool(super().collect_rollouts(*arguments, **options))

        def train(self) -> None:
            """Update the policy; at the end of an epoch, report."""
            super().train()
            self.scheduler.step()
            logged = self.logger.name_to_value
            self.losses.append(logged["train/policy_gradient_loss"] + self.vf_coef * logged["train/value_loss"])
            if len(self.losses) == setting.rounds:
                episodes: Any = self.ep_info_buffer
                returns = [episode["r"] for episode in episodes]
                running.evaluated(float(sum(self.losses)) / len(self.losses), sum(returns) / len(returns))
                self.losses.clear()
                episodes.clear()

    agent = Agent(
        "MlpPolicy",
        bodies,
        learning_rate=0.0,  # of an optimizer that is never stepped: were it ever written into the lab's, nothing moves
        n_steps=COLLECT // setting.environments,
        batch_size=running.batch_size,
        n_epochs=_REPEAT,
        gamma=_GAMMA,
        gae_lambda=0.95,
        clip_range=0.2,
        normalize_advantage=False,
        ent_coef=0.0,
        vf_coef=_VALUE,
        max_grad_norm=0.5,
        stats_window_size=setting.rounds * COLLECT,  # no epoch has more episodes
        policy_kwargs={"log_std_init": -0.5, "net_arch": [64, 64], "activation_fn": nn.Tanh},
        device=running.device,
    )
    agent.set_logger(
        Logger(folder=None, output_formats=[])
    )  # the default one makes a folder in the temporary directory
    agent.losses = []
    agent.policy.action_net.register_forward_hook(_refuse(agent.policy))
    agent.policy.optimizer = running.optimizer(agent.policy)
    schedule = Schedule("constant" if running.own_schedule else "polynomial", warm_up=0.0)
    agent.scheduler = schedule.build(agent.policy.optimizer, running.epochs * setting.rounds)
    return agent


def _refuse(policy: Any) -> Callable[[nn.Module, Any, torch.Tensor], None]:
    """Make a hook that ends the run before an action that is no number reaches torch's distribution or MuJoCo."""

    def hook(module: nn.Module, inputs: Any, means: torch.Tensor) -> None:
        deviation = policy.log_std.detach().exp()
        if not bool(means.isfinite().all() & deviation.isfinite().all() & (deviation > 0).all()):
            raise Diverged

    return hook


def _tested(model: Any, environment: str, trained: Any, seed: int) -> float:
    """Return the mean return of episodes without exploration, with the statistics of the training's observations."""
    from stable_baselines3.common.evaluation import evaluate_policy

    bodies = _bodies(environment, _TESTS, seed)
    try:
        bodies.training, bodies.norm_reward, bodies.obs_rms = False, False, trained.obs_rms
        returns: Any = evaluate_policy(
            model, bodies, n_eval_episodes=_TESTS, deterministic=True, return_episode_rewards=True
        )[0]
    finally:
        bodies.close()
    return float(sum(returns) / len(returns))


def _seed(seed: int, purpose: int) -> int:
    """Return the first of consecutive seeds, one per copy: far from those of the next run and of another purpose."""
    import numpy as np

    return int(np.random.SeedSequence((seed, purpose)).generate_state(1)[0])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, from which PPO shuffles; put them back afterwards."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
