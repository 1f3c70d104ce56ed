"""Stable-Baselines3: PPO balances a pole; the policy's optimizer is named by class.

python examples/trainers/stable_baselines.py --checkpoint half
python examples/trainers/stable_baselines.py --resume half
"""

import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from digits import options
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import valleys

POLICIES: dict[str, dict[str, Any]] = {
    "alto": {"optimizer_class": valleys.ALTO, "optimizer_kwargs": {"alpha": 0.5, "beta": 0.01, "betas": (0.9, 0.999)}},
    "eadamw": {"optimizer_class": valleys.EAdamW, "optimizer_kwargs": {"alpha": 0.5, "beta": 0.01}},
}
RATES = {"alto": 2e-2, "eadamw": 2e-3}
ROUND = 8 * 64  # steps of the 8 poles between two updates of the policy


class Halfway(BaseCallback):
    """Saves the agent, and what its own file leaves out: the environments and the random numbers."""

    def __init__(self, folder: str, steps: int) -> None:
        super().__init__()
        self.folder, self.steps = Path(folder), steps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.steps:
            self.model.save(self.folder / "agent")
            around = (self.training_env.envs, torch.get_rng_state(), np.random.get_state())  # type: ignore[attr-defined]
            (self.folder / "around.pkl").write_bytes(pickle.dumps(around))

    def _on_step(self) -> bool:
        return True


def main(arguments: list[str] | None = None) -> tuple[PPO, float]:
    args = options(arguments, steps=20)
    poles = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 8)
    settings: dict[str, Any] = {"n_steps": ROUND // 8, "batch_size": 128, "gae_lambda": 0.9, "seed": 0, "device": "cpu"}
    rate = RATES[args.optimizer]
    agent = PPO("MlpPolicy", poles, lambda left: rate * left, policy_kwargs=POLICIES[args.optimizer], **settings)
    if args.resume:
        agent = PPO.load(Path(args.resume) / "agent", poles, device="cpu", force_reset=False)
        envs, generator_state, numpy_drawn = pickle.loads((Path(args.resume) / "around.pkl").read_bytes())
        poles.envs = envs
        torch.set_rng_state(generator_state)
        np.random.set_state(numpy_drawn)
    callback = Halfway(args.checkpoint, args.steps // 2 * ROUND) if args.checkpoint else None
    agent.learn(args.steps * ROUND - agent.num_timesteps, callback, reset_num_timesteps=not args.resume)
    judge = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])
    judge.seed(1)
    reward, _ = evaluate_policy(agent, judge, n_eval_episodes=5, warn=False)
    print(f"{args.optimizer}, {agent.num_timesteps} steps: mean episode reward {reward:.1f}")
    return agent, float(np.mean(reward))


if __name__ == "__main__":
    main()
