"""Is alpha < 0 flatter, and does it drift further? The paper's Fig. 3 at a scale that two cores can do.

A small CNN and a ResNet-20 on Fashion-MNIST; AdamW with E at batch 128, LAMB with E (that is ALTO) at a large batch.
For each alpha and seed: the top Hessian eigenvalue, the drift |theta_k - theta_0|, the convergence
|theta_k - theta_{k-10}| and the test accuracy. The learning rate is the best of the optimizer without E (one seed that
is not among the others), and the same for all alphas, as in the paper. Several processes may share the runs:

    python benchmarks/flatness.py --fashion FOLDER --share 0/2 &
    python benchmarks/flatness.py --fashion FOLDER --share 1/2

Finished runs are kept in --runs; once all are there, the report is written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import valleys
from provenance import provenance
from report import listing, table
from valleys.lab import OptimizerSpec, Plan, Schedule, Split, Task
from valleys.lab.atomic_write import write_whole
from valleys.lab.flatness.table import Flatness, tabulate
from valleys.lab.record import Evaluation
from valleys.lab.run import trainer
from valleys.lab.run.config import RunConfig
from valleys.lab.statistics import format_mean, mean_interval
from valleys.lab.tasks.fashion_mnist import load
from valleys.lab.tasks.networks import cifar_resnet
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.objective import Objective
from valleys.landscape.recorder.recorder import Recorder, record

RESULTS = Path(__file__).parent / "results" / "flatness"
SEEDS = range(1000, 1005)
TUNING_SEED = 0
MEASURES = {
    "top": "top eigenvalue",
    "drift": "drift",
    "window_drift": "convergence over the last 10 steps",
    "test_error": "test error %",
}

Build = Callable[[nn.Module, float, float, float], Optimizer]


@dataclass(frozen=True)
class Case:
    """One panel of the figure.

    Args:
        what: in words.
        task: what is learnt.
        batch_size: examples per step.
        build: ``(model, lr, alpha, beta1) -> optimizer``.
        rates: learning rates tried at alpha 0.
        es: alpha and beta1 of E; (0, 0.99) is the base.
        examples: training examples whose loss has the Hessian.
        looks: at how many of the 20 evaluations the eigenvalue is measured.
    """

    what: str
    task: Task
    batch_size: int
    build: Build
    rates: tuple[float, ...]
    es: tuple[tuple[float, float], ...]
    examples: int
    looks: int


BASE = (0.0, 0.99)
LARGE_SET = ((-50.0, 0.99), (-5.0, 0.99), BASE, (5.0, 0.99))
SMALL_SET = ((-1.0, 0.1), (-0.5, 0.1), (0.5, 0.1), (1.0, 0.1))
RATES = (0.003, 0.01, 0.03, 0.1)


def adamw(model: nn.Module, lr: float, alpha: float, beta1: float) -> Optimizer:
    """AdamW with E."""
    groups = valleys.param_groups(model, weight_decay=0.01)
    return valleys.EAdamW(groups, lr=lr, alpha=alpha, beta=beta1)


def lamb(model: nn.Module, lr: float, alpha: float, beta1: float) -> Optimizer:
    """LAMB with E."""
    groups = valleys.param_groups(model, weight_decay=1e-4)
    return valleys.ALTO(groups, lr=lr, alpha=alpha, beta=beta1)


class Gray(nn.Module):
    """A network for three channels, fed with one."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cifar_resnet(20, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores."""
        scores: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return scores


def cases(folder: Path) -> dict[str, Case]:
    """All panels."""
    whole = replace(load(folder, "half"), schedule=Schedule("step"))
    small = replace(
        whole,
        train=_first(whole.train, 4096),
        validation=_first(whole.validation, 2000),
        test=_first(whole.test, 4000),
        build_model=Gray,
        micro_batch=256,
    )
    adam_rates = tuple(rate / 10 for rate in RATES)
    return {
        "cnn-adamw": Case(
            "small CNN (54,000 images of 14 x 14, 5 epochs), AdamW at batch 128",
            replace(whole, epochs=5),
            128,
            adamw,
            adam_rates,
            (*LARGE_SET, *SMALL_SET),
            1024,
            4,
        ),
        "cnn-lamb": Case(
            "small CNN (54,000 images of 14 x 14, 20 epochs), LAMB at batch 16,384",
            replace(whole, epochs=20, micro_batch=1024),
            16384,
            lamb,
            RATES,
            LARGE_SET,
            1024,
            4,
        ),
        "resnet20-adamw": Case(
            "ResNet-20 (4,096 images of 14 x 14, 8 epochs), AdamW at batch 128",
            replace(small, epochs=8),
            128,
            adamw,
            adam_rates,
            LARGE_SET,
            256,
            1,
        ),
        "resnet20-lamb": Case(
            "ResNet-20 (4,096 images of 14 x 14, 8 epochs), LAMB at batch 512",
            replace(small, epochs=8),
            512,
            lamb,
            RATES,
            LARGE_SET,
            256,
            1,
        ),
    }


def _first(split: Any, count: int) -> Split:
    return Split(split.inputs[:count], split.targets[:count])


def name_of(e: tuple[float, float]) -> str:
    """Name of a setting of E in the tables.

    Args:
        e: alpha and beta1.
    """
    return "alpha 0" if e[0] == 0 else f"alpha {e[0]:g}" + (f", beta1 {e[1]:g}" if e[1] != BASE[1] else "")


def run(case: Case, lr: float, e: tuple[float, float], seed: int, measured: bool) -> dict[str, Any]:
    """Train once.

    Args:
        case: the panel.
        lr: learning rate.
        e: alpha and beta1.
        seed: of the run.
        measured: whether to record the trajectory and the eigenvalues, which tuning does not need.

    Returns:
        Plain numbers.
    """
    models: list[tuple[nn.Module, Recorder | None]] = []
    tops: list[tuple[int, float, float]] = []

    def build(model: nn.Module, values: Mapping[str, float], plan: Plan) -> Optimizer:
        optimizer = case.build(model, lr, *e)
        every = max(1, plan.steps // 200)
        window = 10 if 10 % every == 0 else every * max(1, 10 // every)
        models.append((model, record(optimizer, every=every, window=window, per_layer=False) if measured else None))
        return optimizer

    def observe(evaluation: Evaluation) -> None:
        evaluations.append(evaluation)
        if measured and len(evaluations) % (20 // case.looks) == 0:
            tops.append((evaluation.step, *_top(case, models[0][0])))

    evaluations: list[Evaluation] = []
    start = time.process_time()
    measurement = trainer.train(
        case.task,
        OptimizerSpec("adapted", build, {}),
        {},
        RunConfig(batch_size=case.batch_size),
        seed=seed,
        test=measured,
        hooks=trainer.Hooks(observe=observe),
    )
    result: dict[str, Any] = {
        "lr": lr,
        "alpha": e[0],
        "beta1": e[1],
        "seed": seed,
        "diverged": measurement.diverged,
        "validation": measurement.validation,
        "test": measurement.test,
        "train_loss": measurement.curve[-1].train_loss if measurement.curve else None,
        "steps": measurement.steps,
        "cpu_seconds": time.process_time() - start,
    }
    recorder = models[0][1]
    if recorder is not None and not measurement.diverged:
        rows = [row for row in recorder.rows if row["window_drift"] is not None]
        result |= {
            "tops": tops,
            "window": recorder.window,
            "drift": rows[-1]["drift"],
            "window_drift": rows[-1]["window_drift"],
            "curve": [[row[key] for key in ("step", "drift", "window_drift")] for row in rows],
        }
    return result


def _top(case: Case, model: nn.Module) -> tuple[float, float]:
    split = case.task.train
    assert isinstance(split, Split)
    indices = (torch.arange(case.examples) * len(split)) // case.examples
    batches = [(split.inputs[part], split.targets[part]) for part in indices.split(256)]  # type: ignore[index]
    model.eval()
    try:
        result = eigenvalues(Objective(model, case.task.loss, batches), 1, tolerance=1e-2)
    finally:
        model.train()
    return float(result.values[0]), float(result.residuals[0])


def jobs(all_cases: Mapping[str, Case], runs: Path) -> Iterator[tuple[Path, Callable[[], dict[str, Any]]]]:
    """The runs that can be made now: tuning first, then each alpha and seed."""
    for name, case in all_cases.items():
        for rate in case.rates:
            path = runs / name / f"tune-{rate:g}.json"
            yield path, partial(run, case, rate, BASE, TUNING_SEED, measured=False)
        lr = chosen_rate(case, runs / name)
        if lr is None:
            continue
        for seed in SEEDS:
            for e in case.es:
                path = runs / name / f"{e[0]:g}-{e[1]:g}-{seed}.json"
                yield path, partial(run, case, lr, e, seed, measured=True)


def chosen_rate(case: Case, folder: Path) -> float | None:
    """The learning rate with the best validation metric at alpha 0; None while one is missing."""
    paths = [folder / f"tune-{rate:g}.json" for rate in case.rates]
    if not all(path.exists() for path in paths):
        return None
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    sound = [one for one in records if not one["diverged"]]
    return float(max(sound, key=lambda one: one["validation"])["lr"])


def flatness(case: Case, folder: Path) -> tuple[Flatness, dict[tuple[float, float], list[dict[str, Any]]]] | None:
    """The measurements of a panel, averaged and compared; None while a run is missing."""
    records: dict[tuple[float, float], list[dict[str, Any]]] = {e: [] for e in case.es}
    for e in case.es:
        for seed in SEEDS:
            path = folder / f"{e[0]:g}-{e[1]:g}-{seed}.json"
            if not path.exists():
                return None
            one = json.loads(path.read_text(encoding="utf-8"))
            if not one["diverged"]:
                records[e].append({**one, "top": one["tops"][-1][1], "test_error": 100 - one["test"], "examples": 0})
    measured = {name_of(e): {one["seed"]: [one] for one in ones} for e, ones in records.items()}
    pairs = [(name_of(e), name_of(BASE)) for e in case.es if e != BASE]
    tabulated = tabulate(measured, pairs, MEASURES)
    return None if tabulated is None else (tabulated, records)


def write(all_cases: Mapping[str, Case], runs: Path, texts: Mapping[str, str]) -> None:
    """Write the report of all panels that are finished."""
    title, method = (__doc__ or "").strip().split("\n\n", 1)
    parts = [f"# {title}", method, listing(texts)]
    for name, case in all_cases.items():
        result = flatness(case, runs / name)
        if result is None:
            parts.append(f"## {name}\n\nNot finished.")
            continue
        tabulated, records = result
        lr = chosen_rate(case, runs / name)
        means = [
            [
                row.optimizer,
                str(row.units),
                *(
                    format_mean(one.estimate, None if one.high is None else one.high - one.estimate)
                    for one in row.means.values()
                ),
                format_mean(*mean_interval([one["train_loss"] for one in records[e]])),
            ]
            for e in case.es
            for row in tabulated.rows
            if row.optimizer == name_of(e)
        ]
        ratios = [
            [
                entry.first,
                MEASURES[entry.measure],
                f"{ratio.estimate:.3g}",
                "-" if ratio.low is None else f"{ratio.low:.3g} to {ratio.high:.3g}",
                "-" if ratio.low is None or ratio.high is None else _says(ratio.low, ratio.high),
            ]
            for entry in tabulated.contrasts
            for ratio in [entry.ratio]
        ]
        steps = max(one["steps"] for ones in records.values() for one in ones)
        parts += [
            f"## {name}: {case.what}",
            f"{steps} updates, learning rate {lr:g} (best of {', '.join(f'{rate:g}' for rate in case.rates)} at alpha "
            f"0), times 0.1 after each quarter. Hessian of {case.examples} training examples, evaluation mode. Means "
            "with 95 % intervals over the seeds that did not diverge:",
            table(["", "runs", *MEASURES.values(), "train loss"], means),
            "As multiples of alpha 0, paired by seed (geometric means, 95 % intervals, each test by itself):",
            table(["", "measure", "ratio", "95 % interval", "so"], ratios),
        ]
        (RESULTS / f"{name}.json").write_text(
            json.dumps([one for ones in records.values() for one in ones], separators=(",", ":")) + "\n",
            encoding="utf-8",
        )
    write_whole(RESULTS / "README.md", "\n\n".join(parts) + "\n")


def _says(low: float, high: float) -> str:
    return "smaller" if high < 1 else "larger" if low > 1 else "no measurable difference"


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/flatness"), help="folder of the finished runs")
    parser.add_argument("--share", default="0/1", help="this process's share of the runs, as number/processes")
    parser.add_argument("--only", nargs="+", help="panels to run; all that are finished are reported")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    number, processes = map(int, arguments.share.split("/"))
    texts = provenance("cpu", 1, ("torch", "valleys"))
    texts = {name: text.replace(str(arguments.fashion), "FOLDER") for name, text in texts.items()}
    every = cases(arguments.fashion)
    selection = {name: case for name, case in every.items() if not arguments.only or name in arguments.only}
    while True:
        rest = [(path, job) for path, job in jobs(selection, arguments.runs) if not path.exists()]
        mine = [(path, job) for path, job in rest if sum(map(ord, path.stem)) % processes == number]
        if not mine:
            if not rest and all(chosen_rate(case, arguments.runs / name) for name, case in selection.items()):
                break
            time.sleep(5)
            continue
        path, job = mine[0]
        record = job()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(record) + "\n")
        print(path, f"{record['cpu_seconds']:.0f} s", record["test"], record.get("tops", [None])[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    write(every, arguments.runs, texts)


if __name__ == "__main__":
    main()
