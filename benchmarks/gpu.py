"""One call on a machine with a CUDA device: are the kernels right, how fast is a step, the headline's four arms.

    python benchmarks/gpu.py --minutes 10 --out DIR --data cifar10-jpeg.npz

It needs torch, numpy, scipy and pytest, for the headline Pillow unless the images are a folder, for one rival timm;
neither an installed valleys nor a network. Three parts share the minutes, and what one leaves over the next has:

* ``kernels``: every kernel against ``valleys.reference`` in float64, and the tests that are marked ``gpu``;
* ``steps``: a step of ALTO, Lamb and E against torch's AdamW and timm's Lamb, by CUDA events, eager and as CUDA graph;
* ``headline``: the four arms of ``valleys reproduce headline --exclude-norms --clip 1`` at 32x32 pixels, on a tenth of
  CIFAR-10 and then (``full``) on all of it; arms take turns, so that a summary has equally many runs of each.

``--data`` is a folder of cifar-10-batches-bin or, for a machine to which files of that size cannot be copied, an .npz
of encoded images: ``blob_train`` (uint8, JPEG files one after the other), ``off_train`` (where each begins, and the
end) and ``y_train`` (classes), and the same for ``test``. CIFAR-10 in JPEG takes about 20 MB; its pixels are not quite
the originals, so results call it CIFAR-10 (JPEG).

Each part writes ``DIR/PART.json`` after every measurement, whole at any moment, and ``DIR/run.json`` says what became
of the parts: four files. A part is a process of its own; one that dies, or whose CUDA context an error has broken, is
started again behind that measurement. Ten minutes may be too few for ``full``, whose runs are begun only where four fit
into what is left. A second call has more time for it, and a forward pass in bfloat16 takes less. Leave a minute between
the minutes and any time limit around a call:

    python benchmarks/gpu.py --minutes 10 --out DIR2 --data ... --parts headline --stages full --precision bfloat16

``--dry-run`` walks through everything on a CPU, with tiny tensors and images, into files that are named and marked so.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]
sys.path.append(str(ROOT / "tests"))  # what the tests compare with serves here, too

import torch  # noqa: E402

from gpu_results import Results, Terminated, on_termination, write_json  # noqa: E402
from provenance import provenance, released  # noqa: E402

__all__ = ["main", "parser"]

SHARES = {"kernels": 0.2, "steps": 0.3, "headline": 0.5}
"""The parts in their order, and their shares of the minutes."""

STAGES = ("tenth", "full")
GRACE = 20.0  # seconds that a process may overrun or take to leave
DRY = "dry run on a CPU: says nothing about any GPU"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--minutes", type=float, default=10.0, help="for everything (default: 10)")
    add("--out", type=Path, required=True, help="folder of the results, without any of an earlier call")
    add("--data", type=Path, help="CIFAR-10: folder of cifar-10-batches-bin, or .npz; default: no headline")
    add("--data-name", help="what results call it; default: CIFAR-10, and for an .npz CIFAR-10 (JPEG)")
    add("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="default: all")
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="of the headline (default: both)")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of the headline's forward passes")
    add("--dry-run", action="store_true", help="tiny, on the CPU")
    add("--child", choices=SHARES, help=argparse.SUPPRESS)
    add("--until", type=float, help=argparse.SUPPRESS)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, or one of them as their child process; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    if not options.dry_run and not torch.cuda.is_available():
        print("gpu.py: torch finds no CUDA device here; --dry-run tries everything on the CPU", file=sys.stderr)
        return 2
    on_termination()
    if options.child is not None:
        return _child(options)
    options.out.mkdir(parents=True, exist_ok=True)
    before = [path.name for name in (*SHARES, "run") if (path := _path(options, name)).exists()]
    if before:
        print(f"gpu.py: {options.out} has {', '.join(before)} of an earlier call; name another folder", file=sys.stderr)
        return 2
    return _parent(options, words)


def _parent(options: argparse.Namespace, words: list[str]) -> int:
    """Run the parts one after the other, each until its share of the time is over."""
    parts: dict[str, Any] = {}
    document = {**_head(options, "run"), "minutes": options.minutes, "status": "running", "parts": parts}
    path, end = _path(options, "run"), time.time()
    write_json(path, document)
    names = [name for name in SHARES if name in options.parts]
    whole, code = sum(SHARES[name] for name in names), 0
    try:
        for name in names:
            end += 60 * options.minutes * SHARES[name] / whole
            parts[name] = {"status": "running", "until": end}
            write_json(path, document)
            parts[name] = _part(options, [*words, "--child", name, "--until", str(end)], name, end)
        document["status"] = "finished"
    except Terminated:
        document["status"], code = "stopped by SIGTERM", 143
        parts[name]["status"] = document["status"]
    write_json(path, document)
    return code


def _part(options: argparse.Namespace, words: list[str], name: str, end: float) -> dict[str, Any]:
    """Run a part's process, and again from behind the measurement in which it died; return its status."""
    start, starts, path, count = time.time(), 0, _path(options, name), 0
    while True:
        starts += 1
        child = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), *words])
        try:
            code = child.wait(max(0.0, end - time.time()) + GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            status, code = "killed: it overran its time", child.wait()
            break
        except Terminated:
            child.terminate()
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
        status = "finished" if code == 0 else f"died with exit code {code}"
        before, count = count, len(json.loads(path.read_text("utf-8"))["measurements"]) if path.exists() else 0
        if code == 0 or count <= before or time.time() >= end:
            break
    return {"status": status, "starts": starts, "seconds": round(time.time() - start, 1)}


def _child(options: argparse.Namespace) -> int:
    """Measure one part."""
    name: str = options.child
    head = _head(options, name)
    mark = {"dry_run": True, "on": DRY} if options.dry_run else {"on": _device()}
    results = Results(_path(options, name), head, options.until, mark)
    try:
        part = import_module(f"gpu_{name}")
        import_module("torch._dynamo")  # which the first optimizer imports
        gc.freeze()  # modules stay: without, each collection between two measurements goes through them all
        part.run(results, options)
    except Terminated:
        results.close("stopped by SIGTERM")
        return 143
    except Exception as error:  # outside of any measurement
        results.close(f"{type(error).__name__}: {error}")
        raise
    finally:
        gc.unfreeze()
    results.close("out of time" if results.document["not_started"] else "finished")
    return 0


def _path(options: argparse.Namespace, name: str) -> Path:
    folder: Path = options.out
    return folder / (f"dry-run-{name}.json" if options.dry_run else f"{name}.json")


def _head(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Conditions of a file's figures, without paths of this machine."""
    device = "cpu" if options.dry_run else "cuda"
    environment = provenance(device, torch.get_num_threads(), ("torch", "triton", "timm", "numpy", "pytest"))
    data = "" if options.data is None else " --data FOLDER" if options.data.is_dir() else " --data FILE.npz"
    words = f"python benchmarks/gpu.py --minutes {options.minutes:g} --out DIR{data}"
    words += f" --parts {' '.join(options.parts)} --stages {' '.join(options.stages)} --precision {options.precision}"
    environment["command"] = f"`{words}{' --dry-run' * options.dry_run}`"
    if not options.dry_run:
        environment["device"] = _device()
    return {"part": name, "dry_run": options.dry_run, **({"about": DRY} if options.dry_run else {})} | {
        "environment": environment
    }


def _device() -> str:
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return (
        f"{torch.cuda.get_device_name()} (compute capability {capability}), torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, triton {released('triton')}"
    )


if __name__ == "__main__":
    sys.exit(main())
