"""Parameter sets: the shapes of real models, and even sets for scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["SETS", "Shape", "bert_base", "even", "gpt2", "numel", "resnet50"]

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """ResNet-50 for 1,000 classes: 25,557,032 parameters in 161 tensors.

    Source: He et al. 2016 (arXiv 1512.03385), with the stride in the 3x3 convolution, which changes no shape.
    """
    shapes = [*_convolution(64, 3, 7)]
    inputs = 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += _convolution(planes, inputs, 1)
            shapes += _convolution(planes, planes, 3)
            shapes += _convolution(4 * planes, planes, 1)
            if block == 0:
                shapes += _convolution(4 * planes, inputs, 1)
            inputs = 4 * planes
    return [*shapes, (1000, inputs), (1000,)]


def bert_base() -> list[Shape]:
    """BERT-base, uncased, with embeddings and pooler: 109,482,240 parameters in 199 tensors.

    Source: Devlin et al. 2019 (arXiv 1810.04805).
    """
    width = 768
    norm: list[Shape] = [(width,), (width,)]
    shapes: list[Shape] = [(30522, width), (512, width), (2, width), *norm]
    for _ in range(12):
        shapes += 4 * [(width, width), (width,)]
        shapes += norm
        shapes += [(4 * width, width), (4 * width,), (width, 4 * width), (width,), *norm]
    return [*shapes, (width, width), (width,)]


def gpt2(width: int = 768, blocks: int = 12, vocabulary: int = 50257, context: int = 1024) -> list[Shape]:
    """GPT-2, the head tied to the embedding; by default the 124M one: 124,439,808 parameters in 148 tensors.

    Args:
        width: of the hidden states.
        blocks: how many.
        vocabulary: tokens.
        context: positions.

    Example:
        >>> numel(gpt2(1024, 24)), len(gpt2(1024, 24))  # the 345M one
        (354823168, 292)

    Source: Radford et al. 2019; matrices stored inputs first, as the original does.
    """
    norm: list[Shape] = [(width,), (width,)]
    shapes: list[Shape] = [(vocabulary, width), (context, width)]
    for _ in range(blocks):
        shapes += [*norm, (width, 3 * width), (3 * width,), (width, width), (width,)]
        shapes += [*norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [*shapes, *norm]


def even(total: int, tensors: int) -> list[Shape]:
    """About ``total`` parameters in ``tensors`` equal matrices.

    Args:
        total: parameters wanted.
        tensors: how many tensors share them.

    Returns:
        The shapes; each tensor has at least one element and rows of 250 where it is large enough.

    Example:
        >>> even(10_000, 4)
        [(10, 250), (10, 250), (10, 250), (10, 250)]
    """
    size = max(1, total // tensors)
    return [(size // 250, 250) if size >= 250 else (size,)] * tensors


def numel(shapes: Sequence[Shape]) -> int:
    """The number of parameters."""
    return sum(math.prod(shape) for shape in shapes)


def _convolution(outputs: int, inputs: int, kernel: int) -> list[Shape]:
    """A convolution without bias and its BatchNorm."""
    return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]


SETS: dict[str, Callable[[], list[Shape]]] = {"resnet50": resnet50, "bert-base": bert_base, "gpt2-124m": gpt2}
