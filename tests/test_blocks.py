"""Several layers in one parameter: where they lie, also in a shard; one ratio each; which models have them."""

from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import valleys
from backends import BACKENDS, largest_error, symbols
from valleys import reference
from valleys._engine.block_memory import parts, patterns
from valleys.blocks import find, interleaved, sections, stacked

FORMS: list[tuple[Any, tuple[int, ...]]] = [
    (stacked(3), (6, 5)),
    (stacked(5, 1), (6, 5)),
    (stacked(1), (4,)),
    (sections([1, 2, 3]), (6, 5)),
    (sections([2, 3], -1), (6, 5)),
    (interleaved([1, 2]), (6, 4)),
    (interleaved([2, 1, 1], 1), (3, 8, 2)),
    ((stacked(2), sections([3, 4], 1)), (4, 7, 3)),
    ((stacked(2, 1), interleaved([1, 1], 2)), (3, 4, 6, 2)),
    ((stacked(2), interleaved([1, 1], 1), stacked(2, 2)), (4, 6, 2)),
]


def owners(blocks: Any, shape: tuple[int, ...]) -> Tensor:
    """The number of every element's layer, from the definitions in the docstrings."""
    number = torch.zeros(shape, dtype=torch.long)
    for kind, dim, value in blocks if isinstance(blocks[0], tuple) else (blocks,):
        index = torch.arange(shape[dim])
        if kind == "stacked":
            count, layer = value, index * value // shape[dim]
        else:
            count, ends = len(value), torch.tensor(value).cumsum(0)
            layer = torch.bucketize(index % sum(value) if kind == "interleaved" else index, ends, right=True)
        view = [1] * len(shape)
        view[dim] = shape[dim]
        number = number * count + layer.view(view)
    return number


@pytest.mark.parametrize(("blocks", "shape"), FORMS, ids=str)
def test_parts_cover_every_rectangle_once(blocks: Any, shape: tuple[int, ...]) -> None:
    """Any rectangle, as a rank may hold, in any order in memory."""
    whole = owners(blocks, shape)
    spans = [[(0, size), (0, size // 2), (size // 2, size), (1, size), (size, size)] for size in shape]
    for span in itertools.product(*spans) if len(shape) < 4 else zip(*spans, strict=True):
        cut = whole[tuple(slice(low, high) for low, high in span)]
        for order in itertools.islice(itertools.permutations(range(len(shape))), 6):
            memory = cut.permute(order).clone(memory_format=torch.contiguous_format).view(-1)
            counts = torch.zeros_like(memory)
            first = tuple(low for low, _ in span)
            for part in parts(patterns(blocks, shape), tuple(cut.shape), first, order):
                place = (part.rows, part.length), (part.stride, 1), part.offset
                assert bool((memory.as_strided(*place) == part.layer).all())
                counts.as_strided(*place).add_(1)
            assert bool((counts == 1).all())


def test_parts_are_few() -> None:
    """Whole rows come together: a kernel gets as few entries as can be."""
    assert len(parts(patterns(stacked(8), (8, 64, 64)), (8, 64, 64), (0, 0, 0), (0, 1, 2))) == 8
    assert len(parts(patterns(sections([64] * 3, 1), (64, 192)), (64, 192), (0, 0), (0, 1))) == 3
    assert len(parts(patterns(interleaved([8] * 3), (96, 64)), (96, 64), (0, 0), (0, 1))) == 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["", "channels_last"])
def test_every_block_is_a_layer(backend: str, cls: Any, memory_format: torch.memory_format) -> None:
    """The same as parameters of their own; beside ordinary parameters, in channels_last too."""
    generator = torch.Generator().manual_seed(0)
    groups, wholes, expected = [], [], []
    states: list[dict[int, Any]] = []
    for blocks, shape in [*FORMS, (sections([3, 5], 1), (4, 8, 3, 3)), (None, (5, 3))]:
        theta = torch.randn(shape, dtype=torch.float64, generator=generator)
        if theta.dim() == 4:
            theta = theta.to(memory_format=memory_format)
        param = nn.Parameter(theta.clone(memory_format=torch.preserve_format))
        groups.append({"params": [param], "blocks": blocks})
        wholes.append(param)
        number = torch.zeros(shape, dtype=torch.long) if blocks is None else owners(blocks, shape)
        expected.append((number, theta.clone()))
        states.append({})
    optimizer = cls(groups, lr=0.05, layer_adaptation=True, max_grad_norm=10.0, **BACKENDS[backend])
    for _ in range(5):
        for param in wholes:
            param.grad = torch.randn(param.shape, dtype=torch.float64, generator=generator)
        optimizer.step()
        for param, (number, theta), state in zip(wholes, expected, states, strict=True):
            (grad,) = reference.clip([param.grad], 10.0)  # type: ignore[list-item]
            for layer in range(int(number.max()) + 1):
                where = number == layer
                zero = torch.zeros(int(where.sum()), dtype=torch.float64)
                memory, moments = state.get(layer, (reference.TwoBuffer(zero, zero), reference.zeros(zero)))
                theta[where], memory, moments = reference.alto(
                    theta[where], grad[where], memory, moments, **symbols(optimizer.param_groups[0])
                )
                state[layer] = memory, moments
    assert largest_error(wholes, [theta for _, theta in expected]) < 1e-13


def test_a_complex_parameter_and_one_with_gaps() -> None:
    """Blocks count in the user's dimensions."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(6, 4, dtype=torch.complex128, generator=generator)
    whole, halves = nn.Parameter(theta.clone()), [nn.Parameter(half.clone()) for half in theta.split(2, dim=1)]
    spaced = nn.Parameter(torch.zeros(6, 8, dtype=torch.complex128)[:, ::2].copy_(theta))
    assert not spaced.is_contiguous()
    options: dict[str, Any] = {"lr": 0.1, "blocks": stacked(2, 1)}
    optimizers = [valleys.ALTO([whole], **options), valleys.ALTO([spaced], **options), valleys.ALTO(halves, lr=0.1)]
    for _ in range(3):
        whole.grad = torch.randn(6, 4, dtype=torch.complex128, generator=generator)
        spaced.grad = whole.grad.clone()
        for half, grad in zip(halves, whole.grad.split(2, dim=1), strict=True):
            half.grad = grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    real = [torch.view_as_real(p.detach()) for p in (whole, spaced, torch.cat([*halves], dim=1))]
    assert largest_error(real[:2], [real[2], real[2]]) < 1e-13


@pytest.mark.parametrize("backend", ["loop", "foreach", "c"])
def test_blocks_round_each_element_by_bits_of_its_own(backend: str) -> None:
    """Equal elements of a bfloat16 parameter must not be rounded alike because they lie in different blocks."""
    param = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = valleys.Lamb([param], lr=1e-3, weight_decay=0.0, blocks=stacked(64), **BACKENDS[backend])
    param.grad = torch.ones_like(param)
    optimizer.step()
    rows = {tuple(row) for row in param.tolist()}
    assert len(rows) > 32
    shift = float((1 - param.detach().float()).mean())
    assert 0.8e-3 < shift < 1.2e-3


def test_blocks_survive_a_checkpoint(tmp_path: Any) -> None:
    options: dict[str, Any] = {"blocks": (stacked(2), sections([1, 2], 1))}
    param = nn.Parameter(torch.ones(4, 3))
    param.grad = torch.ones(4, 3)
    optimizer = valleys.ALTO([{"params": [param], **options}])
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = valleys.ALTO([nn.Parameter(torch.ones(4, 3))])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.param_groups[0]["blocks"] == options["blocks"]
    assert copy.deepcopy(optimizer).param_groups[0]["blocks"] == options["blocks"]


@pytest.mark.parametrize(
    ("blocks", "shape", "message"),
    [
        (("stacked", 0, 4), (6, 5), "a multiple of 4"),
        (("sections", 0, (1, 2)), (6, 5), "exactly 3"),
        (("interleaved", 1, (1, 2)), (6, 5), "a multiple of 3"),
        (("stacked", 2, 2), (6, 5), "no dimension 2"),
        ((("stacked", 0, 2), ("stacked", -2, 3)), (6, 5), "divides a dimension twice"),
        (("tiled", 0, 2), (6, 5), "valleys.blocks.stacked"),
        (("stacked", 0, 0), (6, 5), "integers of at least 1"),
        (("sections", 0, (3, -1, 4)), (6, 5), "integers of at least 1"),
        (("sections", 0, ()), (6, 5), "integers of at least 1"),
        ((), (6, 5), "valleys.blocks.stacked"),
        ("stacked", (6, 5), "valleys.blocks.stacked"),
        (3, (6, 5), "valleys.blocks.stacked"),
        (("sections", 0, 6), (6, 5), "integers of at least 1"),
    ],
    ids=str,
)
def test_blocks_that_do_not_fit(blocks: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        valleys.ALTO([nn.Parameter(torch.ones(shape))], blocks=blocks)


def test_blocks_exclude_differentiable_steps() -> None:
    with pytest.raises(RuntimeError, match="blocks exclude"):
        valleys.ALTO([nn.Parameter(torch.ones(4, 4))], blocks=stacked(2), differentiable=True)


class Conv1D(nn.Module):
    """As in transformers: the weight is transposed."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, out))


def test_find() -> None:
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "apart": nn.MultiheadAttention(8, 2, kdim=4, vdim=4),
            "gpt": nn.ModuleDict({"c_attn": Conv1D(24, 8), "c_proj": Conv1D(8, 8)}),
            "cross": nn.ModuleDict({"c_attn": Conv1D(16, 8)}),
            "nano": nn.ModuleDict({"c_attn": nn.Linear(8, 24)}),
            "vit": nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)}),
            "grouped": nn.ModuleDict({"qkv": nn.Linear(8, 12)}),
            "mlp": nn.ModuleDict({"fc": nn.Linear(8, 24)}),
        }
    )
    overrides = find(model)
    assert overrides == {
        "attention.in_proj_weight": {"blocks": ("sections", 0, (8, 8, 8))},
        "gpt.c_attn.weight": {"blocks": ("sections", 1, (8, 8, 8))},
        "cross.c_attn.weight": {"blocks": ("sections", 1, (8, 8))},
        "nano.c_attn.weight": {"blocks": ("sections", 0, (8, 8, 8))},
        "vit.qkv.weight": {"blocks": ("sections", 0, (8, 8, 8))},
    }
    groups = valleys.param_groups(model, overrides=overrides)
    optimizer = valleys.ALTO(groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups if group["blocks"] is not None) == len(
        overrides
    )


def test_find_in_transformers_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=12, n_head=2, vocab_size=16, n_positions=8)
    overrides = find(transformers.GPT2Model(config))
    assert overrides == {f"h.{i}.attn.c_attn.weight": {"blocks": ("sections", 1, (12, 12, 12))} for i in range(2)}
