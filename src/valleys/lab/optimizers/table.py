"""The optimizers that the lab knows by name, each with the space it is tuned in.

Spaces are nested: all members of a family share the ranges of learning rate, momentum and weight decay, and an
adapted optimizer has exactly its base's space, with E by the paper's rule for the batch size. ``alto-tuned`` and
``eadamw-tuned`` add E's mixing share c and its memory. What is not tuned is at the default of the method's users.
Weight decay is on weights only (norms and biases have none), except in ``lamb-paper``.
"""

from __future__ import annotations

from typing import Any

from valleys.hyperparameters import suggest
from valleys.lab.optimizers.entry import Entry
from valleys.lab.optimizers.rivals import RIVALS
from valleys.lab.optimizers.spaces import ADAM, ADAMW, LAMB, SGD, TUNED, Values, betas, sgd

_ZHAO = "Zhao et al. 2025 (arXiv 2510.27153)"

# Optimizers that E adapts, and LAMB as published.
_BASES: dict[str, Entry] = {
    "sgd": Entry(
        "SGD with Nesterov's momentum; its weight decay is part of the gradient.",
        "torch.optim.SGD",
        sgd,
        SGD,
        "Sutskever et al. 2013 (ICML); torch",
    ),
    "adam": Entry(
        "Adam; its weight decay is part of the gradient.",
        "torch.optim.Adam",
        betas(0.999),
        ADAM,
        "Kingma and Ba 2014 (arXiv 1412.6980); torch",
    ),
    "adamw": Entry(
        "Adam with decoupled weight decay.",
        "torch.optim.AdamW",
        betas(0.999),
        ADAMW,
        "Loshchilov and Hutter 2017 (arXiv 1711.05101); torch",
    ),
    "lamb": Entry(
        "LAMB with ALTO's settings, that is ALTO without E: beta3 .99, bias correction, no ratio for vectors.",
        "valleys.Lamb",
        betas(0.99),
        LAMB,
        f"You et al. 2019 (arXiv 1904.00962), phi as in {_ZHAO}",
    ),
    "lamb-paper": Entry(
        "LAMB as published: beta3 .999, bias correction, eps 1e-6, no phi, ratio and decay for all tensors.",
        "valleys.Lamb",
        lambda v, plan: {
            **betas(0.999)(v, plan),
            "eps": 1e-6,
            "weight_decay": v["weight_decay"],
            "trust_eps": 0.0,
            "norm_eps": 0.0,
            "layer_adaptation": True,
        },
        LAMB,
        "You et al. 2019 (arXiv 1904.00962), Alg. 2",
        parameters="all",
    ),
}


def entries(batch_size: int) -> dict[str, Entry]:
    """Return all entries by name, for a batch size: the paper's rule for E turns at 1,024.

    Example:
        >>> table = entries(128)
        >>> table["alto"].space == table["lamb"].space
        True
        >>> print(table["esgd"].space["lr"])
        0.01 to 1 (log)
    """
    return {**_BASES, **_adapted(batch_size), **RIVALS}


def _adapted(batch_size: int) -> dict[str, Entry]:
    """Optimizers with E: by the paper's rule, and tuned."""
    rule = suggest(batch_size)
    words = f"E by the paper's rule for batch {batch_size}: alpha {rule['alpha']:g}, beta {rule['beta']:g}."

    def by_rule(base: str, constructor: str, about: str, source: str = _ZHAO, **more: Any) -> Entry:
        plain = _BASES[base]
        return Entry(
            f"{about} with {words}",
            constructor,
            lambda v, plan: {**plain.arguments(v, plan), **rule},
            plain.space,
            source,
            base=base,
            **more,
        )

    return {
        "alto": by_rule("lamb", "valleys.ALTO", "ALTO: LAMB", f"{_ZHAO}, Alg. 2"),
        "alto-sqrt": by_rule(
            "lamb",
            "valleys.ALTO",
            "ALTO whose alpha falls as 1 / sqrt(k), k the step: LAMB",
            f"{_ZHAO}, Alg. 2 and Theorem 2",
            alpha_schedule="sqrt",
        ),
        "alto-tuned": Entry(
            "ALTO with E's mixing share c and memory tuned: beta = 1 - 1 / memory, alpha = c memory.",
            "valleys.ALTO",
            lambda v, plan: {**betas(0.99)(v, plan), **_explore(v)},
            {**LAMB, **TUNED},
            f"{_ZHAO}, Alg. 2",
            base="lamb",
        ),
        "esgd": by_rule("sgd", "valleys.ESGD", "SGD"),
        "eadam": by_rule("adam", "valleys.EAdam", "Adam"),
        "eadamw": by_rule("adamw", "valleys.EAdamW", "AdamW"),
        "eadamw-tuned": Entry(
            "AdamW with E, whose mixing share c and memory are tuned: beta = 1 - 1 / memory, alpha = c memory.",
            "valleys.EAdamW",
            lambda v, plan: {**betas(0.999)(v, plan), **_explore(v)},
            {**ADAMW, **TUNED},
            _ZHAO,
            base="adamw",
        ),
    }


def _explore(values: Values) -> dict[str, float]:
    """Alpha and beta of a mixing share and a memory."""
    return {"alpha": values["c"] * values["memory"], "beta": 1 - 1 / values["memory"]}
