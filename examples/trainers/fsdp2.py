"""FSDP2 as torchtitan writes it: sharded blocks, accumulation, clipping, torch.distributed.checkpoint.

torchrun --nproc-per-node 2 examples/trainers/fsdp2.py --checkpoint half
"""

from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from digits import accuracy, batch, network, options
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import valleys


class State:
    """Model, optimizer and scheduler; DCP asks for its parts and brings them back, for any number of ranks."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, scheduler: LambdaLR) -> None:
        self.parts = model, optimizer
        self.scheduler = scheduler

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(*self.parts)
        return {"model": model, "optimizer": optimizer, "scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(*self.parts, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def main(arguments: list[str] | None = None) -> tuple[nn.Module, Optimizer, float]:
    args = options(arguments, steps=60)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    model = network()
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    groups = valleys.param_groups(model, weight_decay=1e-3)  # after sharding, as every optimizer
    optimizer: Optimizer
    if args.optimizer == "alto":
        optimizer = valleys.ALTO(groups, lr=3e-2)
    else:
        optimizer = valleys.adapt(torch.optim.AdamW(groups, lr=5e-3), alpha=0.5, beta=0.01)
    scheduler = LambdaLR(optimizer, lambda step: 1 - step / args.steps)
    state = State(model, optimizer, scheduler)
    first = 0
    if args.resume:
        dcp.load({"state": state}, checkpoint_id=args.resume)
        first = scheduler.last_epoch

    for step in range(first, args.steps):
        if args.checkpoint and step == args.steps // 2:
            dcp.save({"state": state}, checkpoint_id=args.checkpoint)
        optimizer.zero_grad()
        inputs, classes = (part.chunk(2 * ranks) for part in batch(step))
        for micro in range(2):
            model.set_requires_gradient_sync(micro == 1)  # type: ignore[operator]
            mine = 2 * rank + micro
            (nn.functional.cross_entropy(model(inputs[mine]), classes[mine]) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()

    reached = accuracy(model)
    if rank == 0:
        print(f"{args.optimizer}, {args.steps} steps on {ranks} ranks: {reached:.1f} % of the test images")
    return model, optimizer, reached


if __name__ == "__main__":
    main()
