"""Optimizers that E does not adapt here: each built as its users build it, with what it needs for a fair chance.

Weight decay is decoupled (times the learning rate) in all but ``sam``, which has SGD's. The range of the momentum lies
around the value of the method's users; that of the learning rate is AdamW's unless they choose it elsewhere.
"""

from __future__ import annotations

from typing import Any

from valleys.lab.optimizers.entry import Entry
from valleys.lab.optimizers.spaces import ADAMW, SGD, Values, betas, sgd, space
from valleys.lab.optimizers.spec import Plan, Range

_LR, _DECAY = (3e-4, 3e-2), (1e-3, 1.0)  # AdamW's
_AROUND_95 = Range(0.85, 0.985, "reverse-log")

_SHAMPOO_STATE = (
    "pytorch_optimizer.optimizer.utils.preconditioner.PreConditioner",
    "pytorch_optimizer.optimizer.utils.partition.BlockPartitioner",
    "pytorch_optimizer.optimizer.utils.partition.PreConditionerType",
    "pytorch_optimizer.optimizer.utils.graft.RMSPropGraft",
)


def _ademamix(values: Values, plan: Plan) -> dict[str, Any]:
    memory = min(10_000.0, max(2 / (1 - values["momentum"]), plan.steps / 25))
    arguments = betas(0.999, 1 - 1 / memory)(values, plan)
    return {**arguments, "weight_decouple": True, "alpha": 5.0, "t_alpha_beta3": plan.steps}


RIVALS: dict[str, Entry] = {
    # Optimizers that scale each element by itself.
    "nadam": Entry(
        "Adam with Nesterov's momentum and decoupled weight decay (NAdamW).",
        "torch.optim.NAdam",
        lambda v, plan: {**betas(0.999)(v, plan), "decoupled_weight_decay": True},
        ADAMW,
        "Dozat 2016 (ICLR workshop); torch",
    ),
    "adabelief": Entry(
        "Adam with the gradient's variance in place of its square, as published: without rectification; decoupled "
        "weight decay.",
        "pytorch_optimizer.AdaBelief",
        betas(0.999),
        ADAMW,
        "Zhuang et al. 2020 (arXiv 2010.07468); pytorch_optimizer",
    ),
    "adan": Entry(
        "Adan: Nesterov's momentum from differences of gradients; betas (momentum, .92, .99), by default .98. Its "
        "weight decay is proximal, as its default is: weights are divided by 1 + lr weight_decay.",
        "pytorch_optimizer.Adan",
        betas(0.92, 0.99),
        space(_LR, _DECAY, Range(0.9, 0.995, "reverse-log")),
        "Xie et al. 2022 (arXiv 2208.06677); pytorch_optimizer",
    ),
    "mars": Entry(
        "MARS-AdamW: AdamW on gradients of reduced variance, gamma .025; betas (momentum, .99), by default .95. "
        "Vectors go to its AdamW of betas (.9, .95) with the same learning rate.",
        "pytorch_optimizer.MARS",
        lambda v, plan: {**betas(0.99)(v, plan), "lr_1d": v["lr"], "weight_decay_1d": 0.0},
        space(_LR, _DECAY, _AROUND_95),
        "Yuan et al. 2024 (arXiv 2411.10438); pytorch_optimizer",
    ),
    "lion": Entry(
        "Lion: the sign of a momentum. Its learning rate is a tenth of AdamW's and its decoupled weight decay ten "
        "times as large, as its authors advise.",
        "pytorch_optimizer.Lion",
        betas(0.99),
        space((3e-5, 3e-3), (1e-2, 10.0)),
        "Chen et al. 2023 (arXiv 2302.06675); pytorch_optimizer",
    ),
    "ademamix": Entry(
        "AdEMAMix: AdamW with a second, slow average, whose weight alpha = 5 and decay warm up over the whole run. "
        "Its memory is 1/25 of the run, from twice the fast one's to 10,000 steps, its default.",
        "pytorch_optimizer.AdEMAMix",
        _ademamix,
        ADAMW,
        "Pagliardini et al. 2024 (arXiv 2409.03137); pytorch_optimizer",
    ),
    # Optimizers that treat a weight as a matrix.
    "muon": Entry(
        "Muon for matrices, steps matched to AdamW's root mean square; AdamW of betas (.9, .95) for embeddings, "
        "tensors of other dimensions, norms and biases; one learning rate. momentum is Muon's, default .95.",
        "valleys.lab.optimizers.muon.MuonAdamW",
        lambda v, plan: dict(v),
        space(_LR, _DECAY, _AROUND_95),
        "Jordan et al. 2024; Liu et al. 2025 (arXiv 2502.16982); torch",
        parameters="model",
    ),
    "soap": Entry(
        "SOAP: AdamW in the eigenbasis of Shampoo's preconditioner, renewed every 10 steps; betas (momentum, .95), "
        "by default .95. Its first step only fills the preconditioner.",
        "pytorch_optimizer.SOAP",
        betas(0.95),
        space(_LR, _DECAY, _AROUND_95),
        "Vyas et al. 2024 (arXiv 2409.11321); pytorch_optimizer",
    ),
    "shampoo": Entry(
        "Shampoo with the step length of RMSProp (grafting): a preconditioner for each dimension of a weight, in "
        "blocks of at most 512, of averages with beta2 .99, renewed every 10 steps; decoupled weight decay.",
        "pytorch_optimizer.ScalableShampoo",
        lambda v, plan: {
            **betas(0.99)(v, plan),
            "moving_average_for_momentum": True,
            "decoupled_weight_decay": True,
            "start_preconditioning_step": 10,
            "preconditioning_compute_steps": 10,
            "shape_interpretation": False,
            "graft_type": 3,
            "use_svd": True,
        },
        ADAMW,
        "Gupta et al. 2018 (arXiv 1802.09568); Anil et al. 2020 (arXiv 2002.09018); pytorch_optimizer",
        holds=_SHAMPOO_STATE,
    ),
    # Optimizers with a schedule, a learning rate or a gradient of their own.
    "schedule-free-adamw": Entry(
        "Schedule-Free AdamW: in place of a schedule an average of the weights, which is judged. Its warm-up takes "
        "5 % of the run; the task's schedule is left out. momentum is the average's share in the point of the "
        "gradient, by default .9, up to .98 for long runs; learning rates are 1 to 10 times AdamW's.",
        "pytorch_optimizer.ScheduleFreeAdamW",
        lambda v, plan: {**betas(0.999)(v, plan), "warmup_steps": max(1, round(0.05 * plan.steps))},
        space((1e-3, 0.1), _DECAY, Range(0.8, 0.98, "reverse-log")),
        "Defazio et al. 2024 (arXiv 2405.15682); pytorch_optimizer",
        own_schedule=True,
    ),
    "prodigy": Entry(
        "Prodigy: AdamW that estimates its learning rate; lr is a factor of it, by default 1. As its authors "
        "advise where there is a warm-up, the estimate leaves that out (safeguard_warmup).",
        "pytorch_optimizer.Prodigy",
        lambda v, plan: {**betas(0.999)(v, plan), "safeguard_warmup": True},
        space((0.1, 10.0), _DECAY),
        "Mishchenko and Defazio 2023 (arXiv 2306.06101); pytorch_optimizer",
    ),
    "sam": Entry(
        "Sharpness-aware minimization on SGD with Nesterov's momentum, rho .05: steps with the gradient of a point "
        "uphill, so that a step takes two gradients.",
        "pytorch_optimizer.SAM",
        lambda v, plan: {"base_optimizer": "torch.optim.SGD", "rho": 0.05, **sgd(v, plan)},
        SGD,
        "Foret et al. 2020 (arXiv 2010.01412); pytorch_optimizer",
        closure=True,
    ),
}
"""The entries by name."""
