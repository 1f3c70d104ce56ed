"""Examples under each command's ``--help``: what a manual page ends with."""

from __future__ import annotations

__all__ = ["EXAMPLES", "examples"]

EXAMPLES = {
    "compare": (
        "valleys compare digits --batch-size 1024 --optimizers lamb,alto --trials 4 --seeds 3 --out runs/digits",
        "valleys compare my_task.py:task --batch-size 8192 --optimizers adamw,eadamw-tuned --out runs/mine",
        "valleys compare fashion-mnist --data FOLDER --out runs/fashion --storage postgresql://user@host/optuna",
        "torchrun --nproc-per-node 2 -m valleys compare digits --batch-size 1024 --out runs/two",
    ),
    "suggest": (
        "valleys suggest --batch-size 8192",
        "valleys suggest --batch-size 8192 --task my_task.py:task",
    ),
    "optimizers": ("valleys optimizers --batch-size 128",),
    "demo": ("valleys demo --out runs/demo",),
    "report": ("valleys report runs/digits runs/mine --out report.html",),
    "doctor": ("valleys doctor --no-compiled",),
    "landscape": (
        "valleys landscape runs/digits",
        "valleys landscape runs/digits --measures top_eigenvalue,drift",
    ),
    "trajectories": ("valleys trajectories rosenbrock f1 --alpha -50 --out pictures",),
    "playground": ("valleys playground --open",),
    "reproduce": (
        "valleys reproduce table-3 --data FOLDER --only CIFAR-10",
        "valleys reproduce figure-8",
    ),
}
"""Command lines by command."""


def examples(command: str) -> str:
    r"""The end of a command's help.

    Args:
        command: its name.

    Returns:
        Text in which click keeps the lines as they are.

    Example:
        >>> examples("playground").splitlines()[1:]
        ['Examples:', '  valleys playground --open']
    """
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[command])])
