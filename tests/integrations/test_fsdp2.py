"""A loop over sharded parameters on two ranks: 94 %, and DCP's checkpoint resumed to the same bits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from distributed.worlds import spawn
from integrations.examples import differences, example, snapshot, watched

NAMES = ["alto", "eadamw"]


def two(folder: str) -> Any:
    from torch.distributed.tensor import DTensor

    warnings.simplefilter("ignore")  # torch's, about its checkpoints on a CPU
    module = example("fsdp2")
    results = {}
    for name in NAMES:
        path = ["--optimizer", name, "--checkpoint", f"{folder}/{name}"]
        with watched() as steps:
            model, optimizer, reached = module.main(path)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        again = module.main(["--optimizer", name, "--resume", f"{folder}/{name}"])
        results[name] = snapshot(model, optimizer), snapshot(*again[:2]), reached, steps
    return results


def test_trains_and_resumes_exactly_on_two_ranks(tmp_path: Path) -> None:
    first, second = spawn(two, 2, str(tmp_path), seconds=280)
    for name in NAMES:
        whole, again, reached, steps = first[name]
        assert {images for images, _ in steps} == {64}, "half of the batch, in two micro-batches"
        assert max(norm for _, norm in steps) == pytest.approx(1.0, abs=1e-4), "clipped"
        assert reached >= 94
        assert differences(whole, again) == []
        assert differences(whole, second[name][0]) == []
