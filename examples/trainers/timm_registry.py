"""timm: the optimizer by name from its registry, the schedule from its factory.

python examples/trainers/timm_registry.py --checkpoint half.pt
python examples/trainers/timm_registry.py --resume half.pt
"""

from typing import Any

import torch
from digits import accuracy, batch, network, options
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

import valleys.integrations.timm

valleys.integrations.timm.register()
OPTIONS: dict[str, dict[str, Any]] = {
    "alto": {"lr": 3e-2, "weight_decay": 1e-3},
    "eadamw": {"lr": 5e-3, "weight_decay": 1e-3, "alpha": 0.5, "beta": 0.01},
}


def main(arguments: list[str] | None = None) -> tuple[nn.Module, Optimizer]:
    args = options(arguments, steps=80)
    model = network()
    optimizer = create_optimizer_v2(model, opt=args.optimizer, **OPTIONS[args.optimizer])
    schedule = CosineLRScheduler(optimizer, t_initial=args.steps, warmup_t=args.steps // 10, warmup_lr_init=1e-3)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
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
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
        schedule.step(step + 1)

    print(f"{args.optimizer}, {args.steps} steps: {accuracy(model):.1f} % of the test images")
    return model, optimizer


if __name__ == "__main__":
    main()
