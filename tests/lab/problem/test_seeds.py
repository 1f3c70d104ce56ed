"""Seeds: another one gives other random numbers, whatever bits it differs in."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor, nn

import lab_fakes
from valleys.lab.problem.data import Batch
from valleys.lab.problem.seeds import mixed


def test_mixed_seeds_differ_in_the_bits_that_the_generator_reads() -> None:
    numbers = (0, 1, 2, 5000, 2**31, 2**32, 2**33, 2**62)
    seeds = [mixed(*some) for some in itertools.product(numbers, repeat=3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_augmentation_differs_from_seed_to_seed_and_from_step_to_step() -> None:
    draws: list[float] = []

    def augment(inputs: Batch, generator: torch.Generator) -> Batch:
        draws.append(torch.rand(1, generator=generator).item())
        return inputs

    def constant() -> nn.Module:
        model = nn.Linear(2, 1)
        nn.init.zeros_(model.weight)
        return model

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    task = replace(lab_fakes.task(examples=8), augment=augment, build_model=constant, loss=loss)
    for seed in (0, 1, 2**31):
        lab_fakes.train_really(task, lab_fakes.spec(), {"lr": 0.1}, seed=seed, batch_size=8, epochs=3)
    assert len(draws) == len(set(draws)) == 9
