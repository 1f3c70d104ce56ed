"""An adapted optimizer with E switched off is its base: the same points, seeds and numbers, in every round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from valleys.lab import ComparisonConfig, OptimizerSpec, compare
from valleys.lab.optimizers.resolve import resolve
from valleys.lab.optimizers.table import entries
from valleys.lab.record import Record

PAIRS = [("alto", "lamb"), ("eadamw", "adamw"), ("esgd", "sgd"), ("eadam", "adam")]


def switched_off(name: str) -> OptimizerSpec:
    entry = entries(1024)[name]
    off = replace(entry, arguments=lambda values, plan: {**entry.arguments(values, plan), "alpha": 0.0})
    return OptimizerSpec(name, off.build, off.space, base=entry.base)


def numbers(record: Record) -> list[object]:
    curve = [(one.step, one.train_loss, one.validation) for one in record.curve]
    return [record.hyperparameters, record.seed, record.validation, record.test, record.diverged, curve]


@pytest.mark.parametrize(("adapted", "base"), PAIRS)
def test_with_e_switched_off_every_round_equals_the_base_s_bit_for_bit(adapted: str, base: str, tmp_path: Path) -> None:
    config = ComparisonConfig(
        optimizers=[resolve(base, 512), switched_off(adapted)], batch_size=512, epochs=3, rounds=2, trials=2
    )
    comparison = compare("digits", config, out=tmp_path, progress=False)
    for runs in (comparison.trials, comparison.records):
        one, other = ([numbers(record) for record in runs[name]] for name in (adapted, base))
        assert len(one) > 1
        assert one == other
    (verdict,) = comparison.verdicts
    assert (verdict.first, verdict.second) == (adapted, base)
    assert verdict.difference == 0
    assert verdict.better is None
