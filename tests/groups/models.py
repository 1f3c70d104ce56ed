"""Modules to divide into groups, and the names of their weights and of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from valleys.groups import param_groups

WEIGHTS, REST = True, False  # the two values of layer_adaptation


def split(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the weights, and of the norms and biases; checks the options of both."""
    names = {id(p): name for name, p in model.named_parameters()}
    kinds: dict[bool, list[str]] = {WEIGHTS: [], REST: []}
    for group in param_groups(model, weight_decay=0.1):
        kind = group["layer_adaptation"]
        assert group.keys() == {"params", "weight_decay", "layer_adaptation"}
        assert group["weight_decay"] == (0.1 if kind is WEIGHTS else 0.0)
        assert not kinds[kind]
        kinds[kind] = [names[id(p)] for p in group["params"]]
    return kinds[WEIGHTS], kinds[REST]


class Owner(nn.Module):
    """A module that owns parameters of the given names and shapes."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def named(class_name: str, base: type[nn.Module] = Owner, **shapes: Any) -> nn.Module:
    module = type(class_name, (base,), {})(**shapes)
    assert isinstance(module, nn.Module)
    return module


LAYERS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "Linear": (lambda: nn.Linear(3, 4), {"weight"}),
    "Linear to one": (lambda: nn.Linear(3, 1), {"weight"}),
    "Linear 1x1": (lambda: nn.Linear(1, 1), {"weight"}),
    "Bilinear": (lambda: nn.Bilinear(3, 4, 5), {"weight"}),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 1), {"weight"}),
    "Conv2d depthwise": (lambda: nn.Conv2d(4, 4, 1, groups=4), {"weight"}),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 1), {"weight"}),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 2), {"weight"}),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2), {"weight"}),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 4, 2), {"weight"}),
    "Embedding": (lambda: nn.Embedding(5, 3), {"weight"}),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), {"weight"}),
    "PReLU": (lambda: nn.PReLU(4), set()),
    "RNNCell": (lambda: nn.RNNCell(3, 4), {"weight_ih", "weight_hh"}),
    "RNN": (lambda: nn.RNN(3, 4), {"weight_ih_l0", "weight_hh_l0"}),
    "GRU": (
        lambda: nn.GRU(3, 4, num_layers=2),
        {"weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"},
    ),
    "LSTM": (
        lambda: nn.LSTM(3, 4, bidirectional=True, proj_size=2),
        {f"weight_{kind}_l0{way}" for kind in ("ih", "hh", "hr") for way in ("", "_reverse")},
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        {"in_proj_weight", "out_proj.weight"},
    ),
    "MultiheadAttention kdim": (
        lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=5),
        {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"},
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"},
    ),
}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
