"""Accelerate: any number of processes, gradient accumulation, mixed precision, a prepared scheduler, save_state.

accelerate launch --cpu --num_processes 2 examples/trainers/accelerate_ddp.py --checkpoint half
"""

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from digits import accuracy, load, network, options
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import valleys


def build(name: str, model: nn.Module) -> Optimizer:
    groups = valleys.param_groups(model, weight_decay=1e-3)
    if name == "alto":
        return valleys.ALTO(groups, lr=3e-2)
    return valleys.adapt(torch.optim.AdamW(groups, lr=5e-3), alpha=0.5, beta=0.01)


def main(arguments: list[str] | None = None, precision: str = "no") -> tuple[nn.Module, Optimizer]:
    args = options(arguments, steps=88)
    shuffling = DataLoaderConfiguration(
        use_seedable_sampler=True, data_seed=0
    )  # else a resumed epoch has another order
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=2, dataloader_config=shuffling
    )
    model = network()
    optimizer = build(args.optimizer, model)
    # A prepared scheduler is stepped once per process, so it counts the steps of all of them.
    decay = LambdaLR(optimizer, lambda step: max(0.0, 1 - step / (args.steps * accelerator.num_processes)))
    loader = DataLoader(TensorDataset(*load()), batch_size=64 // accelerator.num_processes, shuffle=True)
    model, optimizer, loader, decay = accelerator.prepare(model, optimizer, loader, decay)
    count = 0
    if args.resume:
        accelerator.load_state(args.resume)
        count = args.steps // 2
    updates_per_epoch = -(-len(loader) // 2)  # at an epoch's end the accumulated gradients are used as they are

    while count < args.steps:
        epoch, inside = divmod(count, updates_per_epoch)
        loader.set_epoch(epoch)  # shuffles by seed and epoch
        for inputs, classes in accelerator.skip_first_batches(loader, 2 * inside) if inside else loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(inputs), classes))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                decay.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                count += 1
                if args.checkpoint and count == args.steps // 2:
                    accelerator.save_state(args.checkpoint)
                if count == args.steps:
                    break

    accelerator.print(f"{args.optimizer}, {count} updates: {accuracy(model):.1f} % of the test images")
    return accelerator.unwrap_model(model), optimizer


if __name__ == "__main__":
    main()
