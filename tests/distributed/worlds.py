"""Runs a function on several ranks: processes with gloo on this machine, bounded in time."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

__all__ = ["OLD_DTENSOR", "SINCE_2_13", "spawn"]

OLD_DTENSOR = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)
"""True for a torch older than the oldest whose DTensor passed all tests here."""

SINCE_2_13 = pytest.mark.skipif(
    OLD_DTENSOR,
    reason="torch 2.9's own DTensor raises: on a view of a sharded sequence, or on empty shards of two dimensions",
)

# Children are forks of a server that has imported torch but never used it: no import, no threads to lose.
_context = multiprocessing.get_context("forkserver")
# "valleys" alone imports nothing: its names are lazy.
_context.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.tensor.parallel",
        "valleys.adaptor",
        "valleys.alto",
        "valleys.groups",
        "valleys.release",
    ]
)


def spawn(function: Callable[..., Any], ranks: int, *args: Any, seconds: float = 120.0) -> list[Any]:
    """Calls ``function(*args)`` on every rank of a world.

    Args:
        function: of a module's top level; finds the default process group made.
        ranks: size of the world.
        args: for the function, picklable.
        seconds: after which all are killed.

    Returns:
        What each rank returned.

    Raises:
        AssertionError: a rank raised, died or took too long; with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            _context.Process(target=_child, args=(function, rank, ranks, folder, args), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + seconds
        try:
            while any(process.exitcode is None for process in processes):
                running = [process.sentinel for process in processes if process.exitcode is None]
                multiprocessing.connection.wait(running, timeout=max(0.0, deadline - time.monotonic()))
                # One that failed leaves the others waiting for it.
                if any(process.exitcode for process in processes) or time.monotonic() > deadline:
                    break
            codes = [process.exitcode for process in processes]
            errors = [path.read_text() for path in sorted(Path(folder).glob("error*"))]
            assert codes == [0] * ranks, f"exit codes {codes} after at most {seconds:g} s\n" + "\n".join(errors)
            return [torch.load(f"{folder}/result{rank}", weights_only=False) for rank in range(ranks)]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _child(function: Callable[..., Any], rank: int, ranks: int, folder: str, args: tuple[Any, ...]) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    code = 0
    try:
        torch.save(function(*args), f"{folder}/result{rank}")
        distributed.barrier()  # nobody leaves while another still needs it
    except BaseException:
        Path(f"{folder}/error{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        code = 1
    # A gloo group may hang or abort when DDP lets go of it last, and there is nothing to take down here.
    os._exit(code)
