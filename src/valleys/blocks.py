"""Parameters that hold several layers: which elements belong to which, so that each layer gets a ratio of its own.

A block option is plain data, a tuple that goes through checkpoints, for the ``blocks`` option of a parameter group of
``ALTO`` and ``Lamb``. Several in a tuple divide a parameter along several dimensions.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence

from torch import Tensor, nn

from valleys._engine.block_memory import Block, check_block

__all__ = ["Block", "find", "interleaved", "sections", "stacked"]


def stacked(count: int, dim: int = 0) -> Block:
    r"""Equal layers one after the other: stacked experts, blocks to be scanned over.

    .. math:: i \text{ belongs to layer } \lfloor i \cdot count / size(dim) \rfloor

    Args:
        count: number of layers, >= 1; it must divide the dimension.
        dim: the dimension they are stacked along, negative ones from the end. Default: 0.

    Returns:
        The value of a group's ``blocks`` option.

    Raises:
        ValueError: ``count`` is no integer of at least 1.

    Example:
        >>> import torch, valleys
        >>> experts = torch.nn.Parameter(torch.randn(8, 4, 16))
        >>> optimizer = valleys.ALTO([{"params": [experts], "blocks": valleys.blocks.stacked(8)}])

    Source: ours.
    """
    return check_block(("stacked", dim, count))


def sections(sizes: Sequence[int], dim: int = 0) -> Block:
    r"""Layers of given sizes one after the other: query, key and value in one matrix.

    .. math:: i \text{ belongs to layer } l \text{ where } \sum_{j<l} sizes_j \le i < \sum_{j \le l} sizes_j

    Args:
        sizes: length of each layer along ``dim``, >= 1; together the dimension's.
        dim: the dimension, negative ones from the end. Default: 0.

    Returns:
        The value of a group's ``blocks`` option.

    Raises:
        ValueError: a size that is no integer of at least 1.

    Example:
        >>> import torch, valleys
        >>> qkv = torch.nn.Linear(32, 32 + 8 + 8, bias=False)  # grouped queries
        >>> optimizer = valleys.ALTO([{"params": qkv.parameters(), "blocks": valleys.blocks.sections([32, 8, 8])}])

    Source: ours.
    """
    return check_block(("sections", dim, tuple(sizes)))


def interleaved(sizes: Sequence[int], dim: int = 0) -> Block:
    r"""Layers that alternate: query, key and value of one head after those of another.

    .. math:: i \text{ belongs to the layer of } i \bmod \textstyle\sum_j sizes_j \text{ in } sections(sizes)

    Args:
        sizes: lengths of one round, >= 1; their sum must divide the dimension.
        dim: the dimension, negative ones from the end. Default: 0.

    Returns:
        The value of a group's ``blocks`` option.

    Raises:
        ValueError: a size that is no integer of at least 1.

    Example:
        >>> import torch, valleys
        >>> qkv = torch.nn.Linear(32, 3 * 32, bias=False)  # 4 heads of 8
        >>> optimizer = valleys.ALTO([{"params": qkv.parameters(), "blocks": valleys.blocks.interleaved([8, 8, 8])}])

    Source: ours.
    """
    return check_block(("interleaved", dim, tuple(sizes)))


def find(model: nn.Module) -> dict[str, dict[str, Block]]:
    """Blocks of the usual fused attention weights in a model, as overrides for ``param_groups``.

    Found are ``in_proj_weight`` of ``nn.MultiheadAttention`` and, in any module, a linear layer (``nn.Linear``, or a
    ``Conv1D`` as in transformers' GPT-2) that is called ``c_attn`` or ``qkv``, or whose output is three (``c_attn``: or
    two) times its input: query, key, value one after the other. Others (grouped queries, interleaved heads, stacked
    experts) look the same from outside and differ inside: say them yourself.

    Args:
        model: before or after sharding; the names are those of ``model.named_parameters()``.

    Returns:
        A mapping from names to options, empty if there is nothing of the kind.

    Example:
        >>> import torch, valleys
        >>> model = torch.nn.TransformerEncoderLayer(16, 2)
        >>> overrides = valleys.blocks.find(model)
        >>> overrides
        {'self_attn.in_proj_weight': {'blocks': ('sections', 0, (16, 16, 16))}}
        >>> optimizer = valleys.ALTO(valleys.param_groups(model, overrides=overrides))

    Source: ours.
    """
    overrides: dict[str, dict[str, Block]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        block = _fused_attention(path.rpartition(".")[2], module)
        if block is not None:
            name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
            overrides[glob.escape(f"{path}.{name}" if path else name)] = {"blocks": block}
    return overrides


def _fused_attention(name: str, module: nn.Module) -> Block | None:
    if isinstance(module, nn.MultiheadAttention):
        return None if module.in_proj_weight is None else sections([module.embed_dim] * 3)
    weight = getattr(module, "weight", None)
    if name not in ("c_attn", "qkv") or not isinstance(weight, Tensor) or weight.dim() != 2:
        return None
    # transformers' Conv1D keeps its weight transposed; by name, for it need not be installed.
    dim = 1 if type(module).__name__ == "Conv1D" else 0
    size, width = weight.shape[dim], weight.shape[1 - dim]
    count = size // width if width and size % width == 0 else 0
    allowed = (2, 3) if name == "c_attn" else (3,)
    return sections([width] * count, dim) if count in allowed else None
