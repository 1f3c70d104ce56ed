"""The paper's figures, its Table 1 and its Appendix A: curves, most of them without numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from valleys.lab.problem.schedules import Schedule
from valleys.landscape.recorder import stages
from valleys.paper.tables.methods import OURS, alto, method
from valleys.paper.tables.model import Cell, Measure, Method, Setting, Table

__all__ = ["FIGURES"]

_CARDIOID, _ROSENBROCK = Setting("fig1-cardioid", None), Setting("fig1-rosenbrock", None)


_ALPHAS = (-50.0, -5.0, 0.0, 5.0)


def _figure_3() -> tuple[Cell, ...]:
    cells = []
    for base, batch_size, epochs in (("AdamW", 128, 200), ("LAMB", 16384, 400)):
        setting = Setting(
            "cifar100-resnet20",
            batch_size,
            examples=50_000,
            epochs=epochs,
            schedule=Schedule("step", gamma=0.1, drops=4),
            gpu=True,
        )
        measures: tuple[tuple[Measure, str, str], ...] = (
            ("top_eigenvalue", "top eigenvalue", "smaller for alpha < 0"),
            ("drift", "drift", "larger for alpha < 0"),
            ("test", "test accuracy %", "a curve"),
        )
        for measure, name, says in measures:
            for alpha in _ALPHAS:
                chosen = _adapted(base, alpha)
                row = f"{base}, {batch_size}: {name}"
                cells.append(Cell(row, f"alpha {alpha:g}", None, setting, chosen, measure, says=says))
    return tuple(cells)


def _adapted(base: str, alpha: float) -> Method:
    if base == "LAMB":
        return replace(alto(0.01, 16384, 0.99, "alpha", alpha=alpha), name=f"LAMB, alpha {alpha:g}")
    options = (("lr", 0.01), ("betas", (0.9, 0.999)), ("weight_decay", 0.01), ("alpha", alpha), ("beta", 0.99))
    return Method(f"AdamW, alpha {alpha:g}", "eadamw", options, "alpha, beta")


def _walkers(sgd: float, adam: float) -> dict[str, tuple[Method, str]]:
    e = (("alpha", -50.0), ("beta", 0.99))
    momentum, betas = ("momentum", 0.9), ("betas", (0.9, 0.999))
    stops, goes_on = "stops in the valley", "goes on along the valley"
    ours = "lr, alpha, beta"
    return {
        "SGD": (Method("SGD", "sgd", (("lr", sgd), momentum), "lr, momentum"), stops),
        "ESGD": (Method("ESGD", "esgd", (("lr", sgd), momentum, *e), ours), goes_on),
        "Adam": (Method("Adam", "adam", (("lr", adam), betas), "lr"), stops),
        "EAdam": (Method("EAdam", "eadam", (("lr", adam), betas, *e), ours), goes_on),
    }


def _figure_1() -> tuple[Cell, ...]:
    problems = (
        ("(cardioid)^2", _CARDIOID, _walkers(0.001, 0.01)),
        ("Rosenbrock", _ROSENBROCK, _walkers(1e-4, 0.001)),
    )
    return tuple(
        Cell(row, column, None, setting, chosen, "walk", says=says)
        for row, setting, methods in problems
        for column, (chosen, says) in methods.items()
    )


def _figure_8() -> tuple[Cell, ...]:
    cells = []
    for row, task, beta2, alpha, memory, lr in (
        ("f1", "fig8-f1", 0.95, -80.0, 0.95, 0.003),
        ("f2", "fig8-f2", 0.9, -90.0, 0.9999, 0.1),
    ):
        setting = Setting(task, None)
        rest: dict[str, Any] = {"betas": (beta2, 0.99), "weight_decay": 0.0, "layer_adaptation": True}
        explorer = alto(lr, 1, 0.99, "lr, beta3", alpha=alpha, **rest)
        control = replace(alto(lr, 1, 0.99, "all", alpha=0.0, **rest), name="ALTO at alpha 0")
        adam = method("Adam", lr, "lr, beta2", betas=(memory, 0.999))
        cells.append(Cell(row, "ALTO", None, setting, explorer, "walk", says="goes on to other minima"))
        cells.append(Cell(row, "Adam", None, setting, adam, "walk", says="stays in the first one"))
        cells.append(Cell(row, control.name, None, setting, control, "walk", says="not shown"))
    return tuple(cells)


_SMALL = Setting("sine", 256, epochs=60, smoke_epochs=40)
_LARGE = Setting("sine", 32768, epochs=6000, smoke_epochs=1500)
_SINE_METHOD = method("Adam", 0.003, "optimizer, lr")


def _ppo() -> tuple[Cell, ...]:
    methods = (
        method("Adam", 3e-4),
        method("LAMB", 3e-4),
        alto(3e-4, 64),
    )
    return tuple(
        Cell(body, chosen.name, None, Setting(f"ppo-{body.lower()}", None), chosen, says="a curve")
        for body in ("Swimmer", "Ant", "Humanoid")
        for chosen in methods
    )


FIGURES = (
    Table(
        "table-1",
        "Signs of five quantities while a minimum is passed in the negative direction, in its four stages",
        "sign",
        tuple(
            Cell(quantity, stage, {"+": 1.0, "-": -1.0}[row[stage]], measure="sign")
            for quantity, row in stages.PAPER.items()
            for stage in stages.STAGES
        ),
        notes=(
            "Measured on a walk in equal steps through 1 - exp(-x^2), from 2 to -2, by autograd in float64; the "
            "function and the walk are ours. 1 is +, -1 is -. The paper calls the last row's positive sign accelerated "
            "(it escapes), the negative one decelerated (it is captured).",
        ),
        decimals=0,
    ),
    Table(
        "figure-1",
        "Walks on (cardioid)^2 and on Rosenbrock's function: where they end",
        "f(x)",
        _figure_1(),
        notes=(
            "Start, steps, learning rates and E's alpha and beta (-50, 0.99) are ours; SGD has ESGD's momentum, 0.9. "
            "The "
            "value says little on the cardioid, where all of the valley's floor is zero: look at where a walk ends.",
            "At one learning rate and from one start. `valleys trajectories` and docs/landscape/walks.md have several, "
            "and a control: where the adapted optimizer goes on, the plain one with as long a memory mostly does, too.",
        ),
    ),
    Table(
        "figure-3",
        "Flatness and drift for several alpha, ResNet-20 on CIFAR-100",
        "top eigenvalue, distance, accuracy %",
        _figure_3(),
        contrasts=tuple((f"alpha {alpha:g}", "alpha 0") for alpha in _ALPHAS if alpha),
        notes=(
            "The paper shows curves: alpha < 0 is flatter (smaller top eigenvalue of the Hessian) and drifts further "
            "(larger |theta_k - theta_0|). Ours are of the finished runs; the Hessian is that of the loss of 256 "
            "evenly spaced training images, in evaluation mode. The orders have no number of the paper's.",
            "AdamW with E is EAdamW, LAMB with E is ALTO; the alphas are the issue's, -50 to 5; lr is Table 3's, the "
            "same for all alphas. The convergence |theta_k - theta_{k-10}| needs the whole run: "
            "`valleys.landscape.record` has it, and benchmarks/flatness.py shows it.",
            OURS,
        ),
        needs="CIFAR-100; a GPU (preset paper)",
    ),
    Table(
        "figure-8",
        "Walks on two functions of one variable: where they end",
        "f(x)",
        _figure_8(),
        notes=(
            "The paper's alpha, beta1, beta2, Adam's beta and starts (with a spread of 1 % over the seeds). Learning "
            "rates "
            "(0.003 on f1, 0.1 on f2), beta3 = 0.99 and the 2,000 steps are ours; weight decay is 0.",
            "The paper's Adam has beta 0.95 on f1 and 0.9999 on f2: taken as beta1, with beta2 = 0.999 (ours).",
            "ALTO's layerwise ratio is on, as in the paper: `valleys.param_groups` would turn it off for a vector.",
            "f1 has minima at 4.085, 5.589, 7.130 and so on, each lower than the one before; f2 at 0 (wide), -0.6 "
            "and 0.6 "
            "(narrow).",
            "`ALTO at alpha 0` is a control of ours, the same without E: where it goes on too, E is not the reason. On "
            "f2 it does, at every learning rate that we tried and at which ALTO does.",
        ),
    ),
    Table(
        "figure-ppo",
        "PPO on Swimmer, Ant and Humanoid",
        "mean return",
        _ppo(),
        contrasts=(("ALTO", "Adam"), ("ALTO", "LAMB")),
        notes=(
            "The paper shows curves of 10 seeds (ask for --seeds 10); preset paper takes hours per run. Learning "
            "rate 3e-4 "
            "for all, as in the paper; which optimizers it drew is not in our notes, and alpha and beta1 are its "
            "rule's for "
            "a batch of 64: ours.",
        ),
        needs="valleys[rl]; hours per run (preset paper)",
    ),
    Table(
        "appendix-a",
        "Noisy sine: epochs to the target at batch 32768 against 256",
        "epochs",
        (
            Cell("256", "Adam", None, _SMALL, _SINE_METHOD, "epochs", says="a curve"),
            Cell("32768", "Adam", None, _LARGE, _SINE_METHOD, "epochs", says="falls in sudden steps"),
            Cell("32768 / 256", "Adam", 100.0, _LARGE, _SINE_METHOD, "epoch ratio", against=(_SMALL, _SINE_METHOD)),
        ),
        notes=(
            "The paper says about 100 times. Ours: Adam at a constant 0.003 for both batches, noise, width, "
            "activation and "
            "the target, twice the noise's variance. A run is evaluated 20 times, so the epochs are multiples of that.",
        ),
        decimals=4,
    ),
)
"""Table 1, Figures 1, 3, 8, the one of PPO, and Appendix A."""
