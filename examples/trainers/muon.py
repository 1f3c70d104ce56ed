"""Adapted Muon for the hidden matrices, adapted AdamW for the rest: two optimizers, two schedules, one checkpoint.

python examples/trainers/muon.py --checkpoint half.pt; python examples/trainers/muon.py --resume half.pt
"""

from typing import Any

import torch
from digits import accuracy, batch, network, options
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

import valleys


def build(model: nn.Module) -> dict[str, Optimizer]:
    *body, _ = (module for module in model.children() if isinstance(module, nn.Linear))
    hidden = [layer.weight for layer in body]
    rest = [p for p in model.parameters() if all(p is not matrix for matrix in hidden)]
    return {
        "muon": valleys.adapt(Muon(hidden, lr=0.05, weight_decay=0.01), alpha=-5.0, beta=0.99),
        "adamw": valleys.adapt(AdamW(rest, lr=3e-3, weight_decay=0.0), alpha=-5.0, beta=0.99),
    }


def main(arguments: list[str] | None = None) -> tuple[nn.Module, Optimizer, Optimizer]:
    args = options(arguments, steps=80)
    model = network()
    optimizers = build(model)
    schedulers = {name: LambdaLR(o, lambda step: 1 - step / args.steps) for name, o in optimizers.items()}
    parts: dict[str, Any] = {"model": model, **optimizers, **{f"{k} schedule": s for k, s in schedulers.items()}}
    first = 0
    if args.resume:
        checkpoint = torch.load(args.resume, weights_only=True)
        first = checkpoint["step"]
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])

    for step in range(first, args.steps):
        if args.checkpoint and step == args.steps // 2:
            torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, args.checkpoint)
        inputs, classes = batch(step)
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        for name, optimizer in optimizers.items():
            optimizer.step()
            schedulers[name].step()

    print(f"muon and adamw, {args.steps} steps: {accuracy(model):.1f} % of the test images")
    return model, optimizers["muon"], optimizers["adamw"]


if __name__ == "__main__":
    main()
