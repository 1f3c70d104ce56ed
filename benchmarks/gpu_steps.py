"""Time of a step on a GPU, beside torch's fused AdamW in the same rounds and beside a plain copy."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

import valleys
from gpu_results import Results
from resident import transient
from rivals import FUSED, Contender, reason
from running import GraphRunning, Running, TorchRunning
from shapes import Shape, gpt2
from stage import Stage
from timing import COPY, Timing, interleave, launches, quartiles

__all__ = ["BASE", "contenders", "least_bytes", "measure", "moved", "run"]

BASE = "AdamW fused"
ROUNDS, FEW = 15, 2  # the latter in a dry run
SETS: dict[str, list[Shape]] = {"gpt2-124m": gpt2(), "gpt2-345m": gpt2(1024, 24)}
TINY: dict[str, list[Shape]] = {"tiny": gpt2(16, 1, 50, 20)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LR = 1e-2  # parameters in bfloat16 would not move by much less

METHOD = f"""\
CUDA events around one step, from an idle device; before it the gradients are set, and a copy larger than the caches
empties them. n rounds in shuffled order, each with one step of the optimizer, one of {BASE} and one copy; ratios are
taken round by round; medians and quartiles. bytes_per_step is what the algorithm must move with the dtypes of these
tensors; share_of_copy is those bytes a second over a copy's bytes a second."""


def run(results: Results, options: argparse.Namespace) -> None:
    """Measure every optimizer on every set of shapes, in every dtype, eagerly and as a CUDA graph."""
    device = "cpu" if options.dry_run else "cuda"
    rounds = FEW if options.dry_run else ROUNDS
    results.document["method"] = METHOD
    for set_name in TINY if options.dry_run else SETS:
        for dtype in DTYPES:
            for mode in ("eager",) if options.dry_run else ("eager", "CUDA graph"):
                base, *rows = contenders(device, mode != "eager")
                for row, beside in ((base, None), *((row, base) for row in rows)):
                    make = partial(_stage, set_name, dtype, device)
                    results.measure(
                        f"{set_name}, {dtype}, {mode}, {row.name}", partial(measure, row, beside, make, rounds)
                    )


@functools.lru_cache(maxsize=1)
def _stage(set_name: str, dtype: str, device: str) -> Stage:
    copied = 1 << (30 if device == "cuda" else 16)
    return Stage({**SETS, **TINY}[set_name], device, copied=copied, dtype=DTYPES[dtype])


def contenders(device: str, graphed: bool) -> list[Contender]:
    """The base, then its rivals, ours last: an error in one of them could break the CUDA context."""
    fused = FUSED[device]
    adapt: Callable[..., Any] = valleys.adapt
    layerwise = {"layer_adaptation": True, "fused": fused}
    ways: list[tuple[str, str, Callable[..., Optimizer], dict[str, Any]]] = [
        (BASE, "torch", AdamW, {"fused": True}),
        ("AdamW foreach", "torch", AdamW, {"foreach": True}),
        ("timm Lamb", "timm", _timm_lamb, {}),
        ("ALTO foreach", "valleys", valleys.ALTO, {"layer_adaptation": True, "foreach": True, "fused": False}),
        ("adapt(AdamW foreach)", "valleys", lambda *a, **o: adapt(AdamW(*a, **o)), {"foreach": True}),
        ("EAdamW fused", "valleys", valleys.EAdamW, {"fused": True}),
        (f"Lamb {fused}", "valleys", valleys.Lamb, layerwise),
        (f"ALTO {fused}", "valleys", valleys.ALTO, layerwise),
        *(
            (f"ALTO {fused}, {states} states", "valleys", valleys.ALTO, {**layerwise, "state_dtype": dtype})
            for states, dtype in (("bfloat16", torch.bfloat16), ("8-bit", "8bit"))
        ),
    ]
    rows = []
    for name, package, cls, options in ways:
        if graphed:
            options = {**options, "capturable": True}
        if graphed and package == "timm":
            continue  # it counts its steps in Python, and a graph would repeat one of them
        build = partial(_build, cls, options, GraphRunning if graphed else TorchRunning)
        rows.append(Contender(name, package, 0, build, scratch=package == "timm"))
    return rows


def measure(row: Contender, base: Contender | None, make: Callable[[], Stage], rounds: int) -> dict[str, Any]:
    """Measure an optimizer's step: bytes, launches and peak alone, then the time in rounds with the base and a copy.

    Args:
        row: the optimizer.
        base: the one beside it; None for the base itself.
        make: returns parameters and gradients.
        rounds: how many.
    """
    stage = make()
    entry = _alone(row, stage)
    both = [row] if base is None else [row, base]
    with contextlib.redirect_stderr(io.StringIO()):  # a line for each round
        timings = {timing.name: timing for timing in interleave(both, stage, rounds, profiled=False)}
    for timing in timings.values():
        if timing.failure is not None:
            raise RuntimeError(f"{timing.name}: {timing.failure}")
    own, copy, size = timings[row.name], timings[COPY], entry["bytes_per_step"]
    entry |= {
        "n": rounds,
        "milliseconds": _spread([1e3 * value for value in own.seconds]),
        "copy_gigabytes_per_second": _spread([stage.copied / value / 1e9 for value in copy.seconds]),
        "share_of_copy": _spread(_ratios(copy, own, size / stage.copied)),
        "first_step_seconds": own.first,
    }
    if base is not None:
        beside = timings[base.name]
        entry["beside"] = base.name
        entry["milliseconds_beside"] = _spread([1e3 * value for value in beside.seconds])
        entry["ratio"] = _spread(_ratios(own, beside))
    return entry


def least_bytes(params: int, grads: int, moments: int, buffers: int, layerwise: bool) -> int:
    """Return the bytes that a step must move, from the bytes of all tensors of a role.

    A pass reads gradients, and reads and writes states; parameters are read and written. The ratio of LAMB and ALTO
    needs a second pass, over parameters and moments.

    Args:
        params: of the parameters.
        grads: of their gradients.
        moments: of the first and second moments.
        buffers: of all other states but the counts of steps, such as E's.
        layerwise: whether the step has the second pass.

    Example:
        >>> least_bytes(4, 4, 8, 0, False), least_bytes(4, 4, 8, 0, True), least_bytes(4, 4, 8, 4, True)
        (28, 40, 48)
    """
    return grads + 2 * (params + moments + buffers) + layerwise * (params + moments)


def moved(optimizer: Optimizer, layerwise: bool) -> int:
    """Return ``least_bytes`` of an optimizer that has made a step, of parameters that all have a gradient."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    moments = buffers = 0
    for entry in optimizer.state_dict()["state"].values():
        for name, value in entry.items():
            if name.removesuffix("_code").removesuffix("_scale") in ("exp_avg", "exp_avg_sq"):
                moments += value.nbytes
            elif isinstance(value, Tensor) and value.dim() > 0:  # others are counts, and keys of random bits
                buffers += value.nbytes
    return least_bytes(_bytes(params), _bytes([param.grad for param in params]), moments, buffers, layerwise)


def _alone(row: Contender, stage: Stage) -> dict[str, Any]:
    """Bytes, launches and peak of a step of an optimizer with states of its own."""
    stage.serve(row.scratch)
    running: Any = row.build(stage)
    running.step()
    graphed = isinstance(running, GraphRunning)
    optimizer = (running.eager if graphed else running).optimizer
    layerwise = row.name.startswith(("ALTO", "Lamb", "timm"))
    entry: dict[str, Any] = {
        "optimizer": row.name,
        "parameters": stage.numel,
        "bytes_per_step": moved(optimizer, layerwise),
        "state_bytes": running.state_bytes(),
        "kernel_launches": None,
    }
    stage.serve(row.scratch)
    if not graphed:  # whose temporaries lie in a pool of their own
        entry["peak_transient_bytes"] = transient(running.step, stage.device)
    if stage.device == "cuda":
        stage.serve(row.scratch)
        try:
            entry["kernel_launches"] = launches(running.step)
        except Exception as error:  # a profiler that is not allowed here costs no time of a step
            entry["kernel_launches_error"] = reason(error)
    return entry


def _build(cls: Callable[..., Optimizer], options: dict[str, Any], kind: Callable[..., Running], stage: Stage) -> Any:
    return kind(cls(stage.params, lr=LR, weight_decay=0.01, **options), stage)


def _timm_lamb(params: Sequence[Tensor], **options: Any) -> Optimizer:
    from timm.optim import Lamb  # type: ignore[import-not-found]

    optimizer: Optimizer = Lamb(params, **options)
    return optimizer


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _ratios(above: Timing, below: Timing, factor: float = 1.0) -> list[float]:
    """Ratios of the times, round by round."""
    return [factor * a / b for a, b in zip(above.seconds, below.seconds, strict=True)]


def _spread(values: Sequence[float]) -> Mapping[str, Any]:
    low, high = quartiles(values)
    return {"median": statistics.median(values), "quartiles": [low, high]}
