"""Mathematics of E in numbers: the noisy quadratic model, stability limits, the theorems' rates.

Writes ``README.md``, ``analysis.json`` and three pictures, or with ``--mechanism`` ``mechanism.md`` and a picture.
Everything is computed exactly or seeded: a second run gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import analysis_mechanism
from analysis_figures import limit_figure, region_figure, steps_figure
from provenance import provenance
from report import listing, table
from valleys.paper.theory import (
    FAMILIES,
    GAMES,
    STRONG,
    Best,
    Family,
    NoisyQuadratic,
    Setting,
    fewest_steps,
    largest_stable_lr,
    mean_squared_gradient,
    regret,
    shortest_horizon,
    widest,
)

__all__ = ["main", "parser"]

BATCHES = (1, 10, 100, 1000, 100_000)

SGD, MOMENTUM, LARGE, SMALL, FREE, ALONE = FAMILIES
DECAYS = ("linear", "cosine", "quarters")
DECAYED = (SGD, MOMENTUM, LARGE, SMALL, FREE, ALONE, STRONG)
VARIANTS = {
    "as above": (NoisyQuadratic(), 0.01),
    "target 5%": (NoisyQuadratic(), 0.05),
    "target 0.3%": (NoisyQuadratic(), 0.003),
    "noise equal in all directions": (NoisyQuadratic(noise=np.full(60, NoisyQuadratic().h.mean())), 0.01),
    "curvatures from 1 to 1e-2": (NoisyQuadratic(curvatures=np.geomspace(1, 1e-2, 60)), 0.01),
}
HORIZONS = (250, 1000, 4000)
ROUNDS = (1000, 4000, 16000)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--out", type=Path, default=Path("benchmarks/results/analysis"), help="folder to write")
    result.add_argument("--budget", type=float, default=1.0, help="times the budget of every search")
    result.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), help="batch sizes")
    result.add_argument("--mechanism", action="store_true", help="the measurements of docs/mechanism.md instead")
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute and write."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    origin = provenance("cpu", 1, ("numpy", "scipy", "torch", "valleys"))
    began = time.process_time()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.mechanism:
        analysis_mechanism.report(out, origin)
        return
    batches: list[int] = options.batches
    constant = {family.name: [_constant(family, batch, options.budget) for batch in batches] for family in FAMILIES}
    decaying = {
        schedule: {
            family.name: [_decaying(family, schedule, batch, options.budget) for batch in batches] for family in DECAYED
        }
        for schedule in DECAYS
    }
    variants = {name: _variant(*variant, options.budget) for name, variant in VARIANTS.items()}
    origin["processor time"] = f"{(time.process_time() - began) / 60:.1f} minutes for the noisy quadratic model"
    parts = [
        "# Analysis of E",
        listing(origin),
        _model_text(),
        "## Constant learning rate: steps to 1% of the first loss",
        _constant_table(batches, constant),
        "The best settings:",
        _settings_table(batches, constant[FREE.name]),
        "## Decaying learning rate: the shortest run whose end is at 1% of the first loss",
        *(part for schedule in DECAYS for part in (f"### {schedule}", _decaying_table(batches, decaying[schedule]))),
        "The best settings of the free family with the cosine:",
        _settings_table(batches, [best for _, best in decaying["cosine"][FREE.name]]),
        "## What is left of E: steps with E over steps without, momentum tuned in both",
        _gain_table(batches, constant, decaying),
        "## Other targets, noises and curvatures, batch 10: the same ratio",
        _variant_table(variants),
        "## Stability",
        _stability_table(),
        "## Theorem 1: exponent of the mean squared gradient over T",
        _nonconvex_table(),
        "## Theorem 2: exponent of the regret over T",
        _regret_table(),
        "![steps](steps.png)\n\n![stability region](region.png)\n\n![largest stable learning rate](limits.png)",
    ]
    (out / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    numbers = {
        "batches": batches,
        "constant": {name: [asdict(best) for best in row] for name, row in constant.items()},
        "decaying": {
            schedule: {name: [{"steps": steps, **asdict(best)} for steps, best in row] for name, row in rows.items()}
            for schedule, rows in decaying.items()
        },
    }
    (out / "analysis.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    names = [SGD.name, MOMENTUM.name, FREE.name, STRONG.name]
    panels = {"constant lr": {name: [best.value for best in constant[name]] for name in names[:3]}}
    for schedule in ("linear", "cosine"):
        panels[f"{schedule} decay"] = {name: [steps for steps, _ in decaying[schedule][name]] for name in names}
    steps_figure(batches, panels).savefig(out / "steps.png", dpi=110)
    region_figure().savefig(out / "region.png", dpi=110)
    limit_figure().savefig(out / "limits.png", dpi=110)


def _constant(family: Family, batch: int, budget: float) -> Best:
    """The better of two seeds, or one where a search takes long."""
    results = [
        fewest_steps(NoisyQuadratic(), family, batch, seed=seed, budget=budget)
        for seed in ((0, 1) if batch > 1 else (0,))
    ]
    print(family.name, batch, [best.value for best in results], flush=True)
    return min(results, key=lambda best: best.value)


def _decaying(family: Family, schedule: str, batch: int, budget: float) -> tuple[int, Best]:
    """The shortest horizon; rougher where a search takes long."""
    rough = batch < 10
    steps, best = shortest_horizon(
        NoisyQuadratic(),
        family,
        batch,
        schedule,
        guess=max(25, round(1700 / batch)),
        budget=budget * (0.2 if rough else 0.5),
        precision=0.02 if rough else 0.005,
    )
    print(schedule, family.name, batch, steps, flush=True)
    return steps, best


def _variant(model: NoisyQuadratic, target: float, budget: float) -> dict[str, tuple[float, float, float]]:
    """Steps of momentum, of free E and of strong E, with a constant and a cosine learning rate."""
    rows: dict[str, tuple[float, float, float]] = {}
    for schedule in ("constant", "cosine"):
        results = [
            shortest_horizon(model, family, 10, schedule, target=target, guess=200, budget=0.4 * budget)[0]
            for family in (MOMENTUM, FREE, STRONG)
        ]
        rows[schedule] = (results[0], results[1], results[2])
    print(rows, flush=True)
    return rows


def _model_text() -> str:
    return (
        "The noisy quadratic model: 60 curvatures h at equal ratios from 1 to 1e-3, theta = 1 at the start, gradient "
        "noise of variance h / batch, E-adapted momentum SGD (Alg. 3). The expected loss is exact. Each search: 384 "
        "settings at random, then 16 rounds of 64 around the best 8, over lr, beta2, c and 1 / (1 - beta1) as far as "
        "free; a constant learning rate with two seeds (one at batch 1), a decaying one with half the budget (a fifth "
        "at batch 1) at each "
        "horizon, which is found within 0.5% (2% at batch 1). Not found is not proof that there is none."
    )


def _constant_table(batches: Sequence[int], found: dict[str, list[Best]]) -> str:
    rows = [[family.name, *(f"{best.value:.0f}" for best in found[family.name])] for family in FAMILIES]
    return table(["batch", *map(str, batches)], rows)


def _settings_table(batches: Sequence[int], found: Iterable[Best]) -> str:
    rows = [
        [
            str(batch),
            f"{best.lr:.3g}",
            f"{best.beta2:.3f}",
            f"{best.c:.2f}",
            f"{best.beta1:.4f}",
            f"{1 / (1 - best.beta1):.1f}",
        ]
        for batch, best in zip(batches, found, strict=True)
    ]
    return table(["batch", "lr", "beta2", "c", "beta1", "memory 1 / (1 - beta1), steps"], rows)


def _decaying_table(batches: Sequence[int], found: dict[str, list[tuple[int, Best]]]) -> str:
    rows = [[name, *(str(steps) for steps, _ in row)] for name, row in found.items()]
    return table(["batch", *map(str, batches)], rows)


def _gain_table(
    batches: Sequence[int], constant: dict[str, list[Best]], decaying: dict[str, dict[str, list[tuple[int, Best]]]]
) -> str:
    def ratios(over: Sequence[float], under: Sequence[float]) -> list[str]:
        return [f"{a / b:.2f}" for a, b in zip(over, under, strict=True)]

    base = [best.value for best in constant[MOMENTUM.name]]
    rows = [["constant: E free", *ratios([best.value for best in constant[FREE.name]], base)]]
    for schedule, results in decaying.items():
        base = [steps for steps, _ in results[MOMENTUM.name]]
        for name, family in (("E free", FREE), ("strong E", STRONG)):
            rows.append([f"{schedule}: {name}", *ratios([steps for steps, _ in results[family.name]], base)])
    return table(["schedule, batch", *map(str, batches)], rows)


def _variant_table(found: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    rows = [
        [
            name,
            *(
                cell
                for base, free, strong in by.values()
                for cell in (f"{base}", f"{free / base:.2f}", f"{strong / base:.2f}")
            ),
        ]
        for name, by in found.items()
    ]
    header = [
        "variant",
        *(f"{s}: {w}" for s in ("constant", "cosine") for w in ("momentum, steps", "E free", "strong E")),
    ]
    return table(header, rows)


def _stability_table() -> str:
    cs = (0.95, 0.495, 0.0, -0.05, -0.5, -0.9, -0.95, -1.0, -1.5)
    pairs = ((0.99, 0.9), (0.99, 0.0), (0.5, 0.9), (0.5, 0.0))
    rows = []
    for b1, b2 in pairs:
        best = widest(b1, b2)
        limits = (f"{float(largest_stable_lr(c / (1 - b1), b1, b2)):.4g}" for c in cs)
        rows.append([f"{b1:g}, {b2:g}", *limits, f"{best.limit:.3g} at {best.alpha * (1 - b1):.3f}"])
    return "The largest stable lr times curvature.\n\n" + table(
        ["beta1, beta2", *(f"c = {c:g}" for c in cs), "largest, at c"], rows
    )


def _nonconvex_table() -> str:
    unit = Setting(eps1=1.0, eps2=1.0)
    rows = []
    for text, noise, growing in (
        ("exact", 0.0, False),
        ("noisy, fixed batch", 1.0, False),
        ("noisy, batch T", 1.0, True),
    ):
        for name, setting in (("1", unit), ("1e-6", Setting())):
            for label, lr in (("best constant", "best"), ("1 / sqrt(T)", "root")):
                cells = []
                for alpha in (-5.0, 0.0):
                    rate = mean_squared_gradient(
                        HORIZONS, lr=lr, noise=noise, growing_batch=growing, setting=replace(setting, alpha=alpha)
                    )
                    cells.append(_exponent(rate.exponent, rate.interval))
                rows.append([text, name, label, *cells])
    note = (
        f"T = {', '.join(map(str, HORIZONS))}; 8 functions; 95% intervals over them. eps^-2 is -1, eps^-4 is -1/2.\n\n"
    )
    return note + table(["gradient", "eps1, eps2", "lr", "alpha = -5", "alpha = 0"], rows)


def _regret_table() -> str:
    rows = []
    for game in GAMES:
        cells = []
        for alpha in (-5.0, 0.0):
            rate = regret(game, ROUNDS, setting=Setting(alpha=alpha))
            cells.append(_exponent(rate.exponent, rate.interval))
        rows.append([game, *cells])
    note = f"T = {', '.join(map(str, ROUNDS))}; 8 sequences; 95% intervals over them. O(sqrt T) is at most 1/2.\n\n"
    return note + table(["losses", "alpha = -5", "alpha = 0"], rows)


def _exponent(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


if __name__ == "__main__":
    main()
