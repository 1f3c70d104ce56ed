"""A plain loop: warm-up and cosine schedule, closure, clipping, checkpoint.

python examples/trainers/plain.py --optimizer alto --checkpoint half.pt
python examples/trainers/plain.py --resume half.pt
"""

from typing import Any

import torch
from digits import accuracy, batch, network, options
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import valleys


def build(name: str, model: nn.Module) -> Optimizer:
    groups = valleys.param_groups(model, weight_decay=1e-3)
    if name == "alto":
        return valleys.ALTO(groups, lr=3e-2)
    return valleys.adapt(torch.optim.AdamW(groups, lr=3e-3), alpha=0.5, beta=0.01)


def main(arguments: list[str] | None = None) -> tuple[nn.Module, Optimizer]:
    args = options(arguments, steps=100)
    model = network()
    optimizer = build(args.optimizer, model)
    warmup = args.steps // 10
    schedules: list[Any] = [
        LinearLR(optimizer, 0.1, total_iters=warmup),
        CosineAnnealingLR(optimizer, args.steps - warmup),
    ]
    scheduler = SequentialLR(optimizer, schedules, [warmup])
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
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

        def closure(inputs: Any = inputs, classes: Any = classes) -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), classes)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            return loss

        optimizer.step(closure)
        scheduler.step()

    print(f"{args.optimizer}, {args.steps} steps: {accuracy(model):.1f} % of the test images")
    return model, optimizer


if __name__ == "__main__":
    main()
