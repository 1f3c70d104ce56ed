"""Hugging Face's Trainer on a tiny BERT that reads a digit as eight rows; the optimizer by instance or by class.

python examples/trainers/hf_trainer.py --checkpoint runs
python examples/trainers/hf_trainer.py --resume runs/checkpoint-60
"""

from typing import Any

import torch
from digits import load, options
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

import valleys


class Reader(nn.Module):
    """A BERT of one layer over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=1, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96
        )
        self.rows, self.bert, self.head = nn.Linear(8, 48), BertModel(config), nn.Linear(8 * 48, 10)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.bert(inputs_embeds=self.rows(images.view(-1, 8, 8))).last_hidden_state
        logits = self.head(hidden.flatten(1))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


def by_instance(name: str, model: nn.Module) -> dict[str, Any]:
    """The Trainer makes the scheduler; groups are as you made them."""
    groups = valleys.param_groups(model, weight_decay=1e-3)
    if name == "alto":
        return {"optimizers": (valleys.ALTO(groups, lr=2e-2), None)}
    return {"optimizers": (valleys.adapt(torch.optim.AdamW(groups, lr=3e-3), alpha=0.5, beta=0.01), None)}


def by_class(name: str) -> dict[str, Any]:
    """The Trainer makes the groups, decay apart from biases and norms; the learning rate is to be named here."""
    if name == "alto":
        return {"optimizer_cls_and_kwargs": (valleys.ALTO, {"lr": 2e-2})}
    return {"optimizer_cls_and_kwargs": (valleys.EAdamW, {"lr": 3e-3, "alpha": 0.5, "beta": 0.01})}


def main(arguments: list[str] | None = None, instance: bool = True) -> tuple[nn.Module, Any, float]:
    args = options(arguments, steps=120)
    torch.manual_seed(0)
    model = Reader()
    train, test = ([{"images": i, "labels": c} for i, c in zip(*load(part), strict=True)] for part in (False, True))
    settings = TrainingArguments(
        output_dir=args.checkpoint or "runs",
        max_steps=args.steps,
        per_device_train_batch_size=64,
        gradient_accumulation_steps=1,
        lr_scheduler_type="cosine",
        warmup_steps=args.steps // 10,
        save_strategy="steps" if args.checkpoint else "no",
        save_steps=args.steps // 2,
        max_grad_norm=1.0,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        logging_strategy="no",
        seed=0,
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=train,  # type: ignore[arg-type]
        eval_dataset=test,  # type: ignore[arg-type]
        compute_metrics=lambda found: {
            "accuracy": 100 * float((found.predictions.argmax(1) == found.label_ids).mean())
        },
        **(by_instance(args.optimizer, model) if instance else by_class(args.optimizer)),
    )
    trainer.train(resume_from_checkpoint=args.resume)
    reached = trainer.evaluate()["eval_accuracy"]
    print(f"{args.optimizer}, {args.steps} steps: {reached:.1f} % of the test images")
    return model, trainer.optimizer, reached


if __name__ == "__main__":
    main()
