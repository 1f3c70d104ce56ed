"""DeepSpeed's ZeRO 1 to 3 on two ranks: adapted AdamW trains and resumes exactly, ALTO refuses."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from distributed.worlds import spawn
from integrations.examples import differences, example, watched

if importlib.util.find_spec("deepspeed") is None:  # not imported here: it speaks, and warns
    pytest.skip("DS_BUILD_OPS=0 pip install deepspeed (0.19.8 was tried)", allow_module_level=True)


def two(folder: str, port: int) -> Any:
    """ALTO's error in each stage; parameters and states of the whole run and of the resumed one."""
    from torch import distributed

    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    import deepspeed

    deepspeed.ops.__compatible_ops__.clear()  # its shared-memory all-reduce would be compiled for minutes
    module = example("deepspeed_zero")
    results = {}
    for stage in (1, 2, 3):
        try:
            module.main(["--optimizer", "alto", "--steps", "2"], stage)
            message = ""
        except RuntimeError as error:
            message = str(error)
        path = f"{folder}/{stage}"
        with watched() as steps:
            whole = module.main(["--optimizer", "eadamw", "--checkpoint", path], stage)
        again = module.main(["--optimizer", "eadamw", "--resume", path], stage)
        results[stage] = message, parts(*whole[:2]), parts(*again[:2]), whole[2], steps
    return results


def parts(engine: Any, optimizer: Any) -> dict[str, Any]:
    """All parameters, whole, and this rank's states of the adapted AdamW."""
    from deepspeed.utils import safe_get_full_fp32_param

    assert type(optimizer.optimizer).__name__ == "EAdamW"
    tensors = {name: safe_get_full_fp32_param(p).clone() for name, p in engine.module.named_parameters()}
    if hasattr(optimizer, "_set_fp32_optimizer_param_groups"):
        optimizer._set_fp32_optimizer_param_groups()  # ZeRO-3 lends its partitions for the time of a step or a save
    for index, state in optimizer.optimizer.state_dict()["state"].items():
        assert "explore_exp_avg" in state
        tensors |= {f"{index}, {name}": value.clone() for name, value in state.items()}
    return tensors


def test_adapted_adamw_trains_and_resumes_and_alto_refuses(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = spawn(two, 2, str(tmp_path), port, seconds=280)
    for rank in results:
        for stage, (message, whole, again, reached, steps) in rank.items():
            assert ("ZeRO-3" if stage == 3 else "flat partition") in message
            assert "fully_shard" in message, "the remedy"
            assert [images for images, _ in steps] == [64] * 60, "half of the batch, in two micro-batches"
            assert reached >= 94
            assert differences(whole, again) == []
    for stage in results[0]:
        norms = [
            math.hypot(first, second) for (_, first), (_, second) in zip(*(r[stage][4] for r in results), strict=True)
        ]
        assert max(norms) == pytest.approx(1.0, abs=1e-4), "clipped"
