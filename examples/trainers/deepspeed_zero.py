"""DeepSpeed's ZeRO 1 to 3 with an adapted AdamW; ALTO refuses ZeRO's flat shards, where no layer has a norm.

deepspeed --num_gpus 2 examples/trainers/deepspeed_zero.py --checkpoint half; on a CPU: torchrun --nproc-per-node 2 ...
"""

from typing import Any

import deepspeed
import torch
from digits import accuracy, batch, network, options
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import valleys


def build(name: str, model: nn.Module) -> Optimizer:
    if name == "alto":
        return valleys.ALTO(model.parameters(), lr=3e-2)
    return valleys.adapt(torch.optim.AdamW(model.parameters(), lr=5e-3), alpha=0.5, beta=0.01)


def main(arguments: list[str] | None = None, stage: int = 2) -> tuple[nn.Module, Any, float]:
    args = options(arguments, steps=60)
    deepspeed.init_distributed()
    model = network()
    optimizer = build(args.optimizer, model)
    scheduler = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / args.steps))
    config = {
        "train_micro_batch_size_per_gpu": 32,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,  # DeepSpeed has a list of its own
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000,
    }
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model, optimizer=optimizer, lr_scheduler=scheduler, config=config
    )
    rank, ranks = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    if args.resume:
        engine.load_checkpoint(args.resume)

    while engine.global_steps < args.steps:
        if args.checkpoint and engine.global_steps == args.steps // 2:
            engine.save_checkpoint(args.checkpoint)
        inputs, classes = (part.chunk(2 * ranks) for part in batch(engine.global_steps))
        for mine in (2 * rank, 2 * rank + 1):
            engine.backward(nn.functional.cross_entropy(engine(inputs[mine]), classes[mine]))
            engine.step()

    reached = accuracy(engine)
    if rank == 0:
        print(
            f"{args.optimizer}, ZeRO-{stage}, {args.steps} steps on {ranks} ranks: {reached:.1f} % of the test images"
        )
    return engine, optimizer, reached


if __name__ == "__main__":
    main()
