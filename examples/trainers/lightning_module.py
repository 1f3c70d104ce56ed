"""Lightning: automatic optimization (Lightning's closure, clipping, accumulation) and manual optimization.

python examples/trainers/lightning_module.py --checkpoint runs
python examples/trainers/lightning_module.py --resume runs/half.ckpt
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from digits import accuracy, batch, network, options
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

import valleys


class Digits(lightning.LightningModule):
    def __init__(self, name: str, steps: int, manual: bool) -> None:
        super().__init__()
        self.net, self.name, self.steps = network(), name, steps
        self.automatic_optimization = not manual

    def configure_optimizers(self) -> dict[str, Any]:
        groups = valleys.param_groups(self.net, weight_decay=1e-3)
        optimizer: Optimizer
        if self.name == "alto":
            optimizer = valleys.ALTO(groups, lr=3e-2)
        else:
            optimizer = valleys.adapt(torch.optim.AdamW(groups, lr=5e-3), alpha=0.5, beta=0.01)
        schedule = {"scheduler": CosineAnnealingLR(optimizer, self.steps), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, images_and_classes: list[Tensor], index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(images_and_classes[0]), images_and_classes[1])
        if not self.automatic_optimization:  # without closure, accumulation or clipping but one's own
            optimizer: Any = self.optimizers()
            schedule: Any = self.lr_schedulers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0)
            optimizer.step()
            schedule.step()
        return loss


class Batches:
    """A loader with a state, which Lightning saves: it would begin the epoch anew with torch's own."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size, self.next = count, size, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.next < self.count:
            self.next += 1
            yield batch(self.next - 1, self.size)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Halfway(Callback):
    def __init__(self, folder: str, step: int) -> None:
        self.path, self.step = Path(folder) / "half.ckpt", step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def main(arguments: list[str] | None = None, manual: bool = False) -> tuple[nn.Module, Optimizer]:
    args = options(arguments, steps=88)
    module = Digits(args.optimizer, args.steps, manual)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=args.steps,
        max_epochs=-1,
        accumulate_grad_batches=1 if manual else 2,
        gradient_clip_val=None if manual else 1.0,
        callbacks=[Halfway(args.checkpoint, args.steps // 2)] if args.checkpoint else [],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    loader = Batches(args.steps, 128) if manual else Batches(2 * args.steps, 64)
    trainer.fit(module, loader, ckpt_path=args.resume, weights_only=bool(args.resume) or None)
    print(f"{args.optimizer}, {trainer.global_step} steps: {accuracy(module.net):.1f} % of the test images")
    return module.net, trainer.optimizers[0]


if __name__ == "__main__":
    main()
