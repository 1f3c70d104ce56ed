"""The seven small problems of the evidence: data, model, batch and number of updates of each.

Sizes are such that a run takes a few seconds of a core, because every question needs hundreds of runs. E and ALTO were
developed on none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from valleys.lab import Split, Task
from valleys.lab.problem.schedules import Schedule
from valleys.lab.tasks import digits, fashion_mnist, shakespeare, sine
from valleys.lab.tasks.cifar import _model as normalizing
from valleys.lab.tasks.cifar import load as load_cifar
from valleys.lab.tasks.data.cifar_files import CIFAR10
from valleys.lab.tasks.networks import cifar_resnet
from valleys.lab.tasks.shared.splits import SEED, spread, spread_by_class

__all__ = ["PROBLEMS", "Problem"]

WRONG_LABELS = 0.2
WORDS = 2047  # the most frequent ones; one more stands for all others
CONTEXT = 4
TRAIN_WORDS, HELD_OUT_WORDS = 65_536, 2_048


@dataclass(frozen=True)
class Problem:
    """A problem at its batch size.

    Args:
        load: makes the task from the folder of all data.
        batch_size: examples per update.
        updates: of a run.
        what: one line for the reader.
    """

    load: Callable[[Path], Task]
    batch_size: int
    updates: int
    what: str


def noisy_digits(folder: Path) -> Task:
    """Digits with 20 % of the training labels replaced by random ones: who memorizes them tests worse."""
    task = digits.load()
    generator = torch.Generator().manual_seed(SEED)
    labels = task.train.targets
    replaced = torch.rand(len(labels), generator=generator) < WRONG_LABELS
    train = Split(
        task.train.inputs, torch.where(replaced, torch.randint(10, labels.shape, generator=generator), labels)
    )
    build = partial(_mlp, 8 * 8, 64)
    return replace(task, name="noisy-digits", train=train, build_model=build, target=90.0, epochs=1000)


def fashion(folder: Path, name: str, images: int, epochs: int, hidden: int | None) -> Task:
    """Some images of Fashion-MNIST at 14x14 pixels, for an MLP with so many hidden units or for the lab's CNN."""
    task = fashion_mnist.load(folder / "fashion-mnist", "half")
    indices = spread_by_class(task.train.targets, images)
    train = Split(task.train.inputs[indices], task.train.targets[indices])
    build = task.build_model if hidden is None else partial(_mlp, 14 * 14, hidden)
    return replace(task, name=name, train=train, build_model=build, target=80.0, epochs=epochs)


def _mlp(pixels: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def sine_points(folder: Path) -> Task:
    """The lab's noisy sine (the paper's Appendix A), at a constant learning rate as there."""
    return replace(sine.load(), epochs=125)


def small_cifar(folder: Path) -> Task:
    """CIFAR-10 at 16x16 pixels, 1,250 training images, ResNet-8 with batch normalization, random crops and flips."""
    task = load_cifar(CIFAR10, "resnet20", folder, "fortieth-16px")
    validation, test = (
        spread_by_class(part.targets, count) for part, count in ((task.validation, 1000), (task.test, 2000))
    )
    return replace(
        task,
        name="small-cifar",
        validation=Split(task.validation.inputs[validation], task.validation.targets[validation]),
        test=Split(task.test.inputs[test], task.test.targets[test]),
        resolution=100 / len(test),
        build_model=partial(normalizing, CIFAR10, partial(cifar_resnet, 8)),
        target=30.0,
        epochs=20,
        batch_size=None,
        micro_batch=128,
        schedule=Schedule("cosine"),
    )


def characters(folder: Path) -> Task:
    """The lab's small character GPT on 4,096 pieces of Shakespeare of 32 characters."""
    task = shakespeare.load(folder / "shakespeare", "small")
    train, validation, test = (
        Split(split.inputs[:, :32].contiguous(), split.targets[:, :32].contiguous())
        for split in (task.train, task.validation, task.test)
    )
    indices = spread(len(train), 4096)
    train = Split(train.inputs[indices], train.targets[indices])
    return replace(task, name="characters", train=train, validation=validation, test=test, epochs=2)


def words(folder: Path) -> Task:
    """Shakespeare's next word after four: most rows of the embedding get a gradient from few batches.

    The model is the one of Bengio et al. 2003 (JMLR 3): embedded words, a hidden layer, a softmax over 2,048 words.
    Words of the last 5 % and the 5 % before them, of each work, test and validate.
    """
    texts = [_words(path) for path in shakespeare._paths(folder / "shakespeare")]
    frequent = [word for word, _ in Counter(chain(*texts)).most_common(WORDS)]
    numbers = {word: index for index, word in enumerate(frequent)}
    parts: list[list[Tensor]] = [[], [], []]
    for text in texts:
        codes = torch.tensor([numbers.get(word, WORDS) for word in text])
        first, second = int(0.90 * len(codes)), int(0.95 * len(codes))
        for part, piece in zip(parts, codes.tensor_split([first, second]), strict=True):
            part.append(piece.unfold(0, CONTEXT + 1, 1))
    limits = (TRAIN_WORDS, HELD_OUT_WORDS, HELD_OUT_WORDS)
    windows = [torch.cat(part) for part in parts]
    windows = [window[spread(len(window), limit)] for window, limit in zip(windows, limits, strict=True)]
    train, validation, test = (Split(window[:, :-1].contiguous(), window[:, -1].contiguous()) for window in windows)
    return Task(
        name="words",
        train=train,
        validation=validation,
        test=test,
        build_model=_word_model,
        loss=nn.functional.cross_entropy,
        metric=nn.functional.cross_entropy,
        metric_name="nats per word",
        maximize=False,
        resolution=0.0,
        target=5.5,
        epochs=2,
    )


def _words(path: Path) -> list[str]:
    return re.findall(r"[a-z']+|[.,;:!?]", shakespeare._text(path).lower())


def _word_model() -> nn.Module:
    width, hidden = 32, 64
    return nn.Sequential(
        nn.Embedding(WORDS + 1, width),
        nn.Flatten(),
        nn.Linear(CONTEXT * width, hidden),
        nn.Tanh(),
        nn.Linear(hidden, WORDS + 1),
    )


PROBLEMS = {
    "noisy-digits": Problem(noisy_digits, 1024, 1000, "digits, a fifth of the labels wrong, MLP, 95 % of the data"),
    "fashion-1024": Problem(
        partial(fashion, name="fashion-1024", images=2048, epochs=500, hidden=64),
        1024,
        1000,
        "Fashion-MNIST, 2,048 images, MLP, half of the data",
    ),
    "sine": Problem(sine_points, 4096, 1000, "noisy sine, MLP, an eighth of the data, squared error on a log scale"),
    "small-cifar": Problem(small_cifar, 128, 180, "CIFAR-10, 1,250 images, ResNet-8 with BatchNorm, crop and flip"),
    "characters": Problem(characters, 32, 256, "Shakespeare's characters, GPT of 2 layers"),
    "words": Problem(words, 256, 512, "Shakespeare's words, embedding of 2,048 words"),
    "fashion-32": Problem(
        partial(fashion, name="fashion-32", images=16384, epochs=2, hidden=None),
        32,
        1024,
        "Fashion-MNIST, 16,384 images, CNN, small batch",
    ),
}
