"""Parameter groups for layerwise optimizers: weights apart from norms, gains and biases."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from valleys.hyperparameters import check_range

__all__ = ["param_groups"]

# Found rather than listed, so that torch's next norm layer is known too; with the private bases (_NormBase),
# from which third parties derive theirs.
_TORCH_NORMS: tuple[type, ...] = tuple(
    {
        base
        for layer in vars(nn).values()
        if isinstance(layer, type) and issubclass(layer, nn.Module)
        for base in layer.__mro__
        if issubclass(base, nn.Module) and "norm" in base.__name__.lower()
    }
)

# "LayerNormalization" is a norm, "NormalPolicy" is not.
_NORM_NAME = re.compile(r"norm(?!al(?!i[sz]))", re.IGNORECASE)


def param_groups(
    model: nn.Module,
    weight_decay: float = 1e-4,
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Split a model's parameters into weights, and norms and biases without decay or layerwise ratio.

    Weights get ``weight_decay`` and ``layer_adaptation=True``; norms, gains and biases get
    ``weight_decay=0.0`` and ``layer_adaptation=False``. The latter is the option of ``ALTO`` and ``Lamb``
    that turns the trust ratio off for a group: a tensor that starts at zero has a tiny norm and would hardly
    move under it. By default these two treat all tensors of fewer than two dimensions so; here norms and biases
    of any shape are found. Other optimizers ignore the option and have the weight decay.

    In the second group is every parameter that

    * has at most one dimension: biases, norms, PReLU slopes, layer scales, scalars;
    * is a bias by name, whatever its shape: ``bias`` is a word of the name and ``weight`` is not
      (``bias_ih_l0``, ``in_proj_bias``, ``bias_k``, ``relative_position_bias_table``);
    * is the ``weight`` or ``bias`` of a torch norm layer or of a subclass of one, whatever its shape;
    * belongs directly to another layer whose class name contains "norm" and which extends no torch layer, if
      it has at most one dimension above 1, such as ``(1, C, 1, 1)``, or the layer's ``normalized_shape``.
      Matrices of such a layer are weights and its submodules are judged for themselves, so that blocks called
      ``AddNorm``, ``PreNorm`` or ``NormMLP`` do no harm;
    * is the magnitude of a weight norm (``parametrizations.weight.original0`` or the older ``weight_g``).

    All others are weights: embeddings, class tokens and position tables too. Shapes are read as they are, so
    call this before a wrapper flattens them (FSDP1, DeepSpeed ZeRO-3); FSDP2's parameters keep their shape.

    Args:
        model: The module to optimize. Tied parameters count once, frozen ones (``requires_grad=False``) not
            at all.
        weight_decay: Decay of the weights, in [0, inf), default 1e-4.
        overrides: Maps glob patterns over parameter names (case-sensitive, as in ``fnmatch``: ``"head.*"``,
            ``"*.embed*"``) to group options (``{"lr": 1e-3}``), which are laid over the two defaults above.
            Later patterns win. A tied parameter answers to each of its names, a parametrized one also to its
            plain name (``head.weight``). Default none.

    Returns:
        Groups for any optimizer of torch.optim that takes several; weights, norms and biases, then what the
        overrides set apart, by first parameter. Parameters with the same options share a group, in the order
        of ``model.named_parameters()``; there are no empty groups.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``weight_decay`` is out of range; the model has no trainable parameter, or one whose shape
            is not known yet; a pattern matches no parameter or sets ``"params"``.

    Example:
        >>> from torch import nn
        >>> from valleys.groups import param_groups
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> for group in param_groups(model, weight_decay=0.01, overrides={"2.weight": {"lr": 1e-4}}):
        ...     print(len(group.pop("params")), group)
        1 {'weight_decay': 0.01, 'layer_adaptation': True}
        4 {'weight_decay': 0.0, 'layer_adaptation': False}
        1 {'weight_decay': 0.01, 'layer_adaptation': True, 'lr': 0.0001}

    Source:
        Ours; leaving norms and biases out is common practice with LAMB and LARS.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    check_range("weight_decay", weight_decay, 0.0, remedy="0 switches it off")
    overrides = overrides or {}
    for pattern, options in overrides.items():
        if "params" in options:
            raise ValueError(f"overrides[{pattern!r}] must not set 'params': the pattern chooses the parameters")

    uses = list(_uses(model))
    parameters: dict[int, list[_Use]] = {}
    for use in uses:
        if use.param.requires_grad:
            parameters.setdefault(id(use.param), []).append(use)
    if not parameters:
        raise ValueError("model has no trainable parameters; unfreeze some with requires_grad_(True)")

    names = [name for use in uses for name in use.names]
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.0)
            raise ValueError(
                f"overrides: the pattern {pattern!r} matches no parameter; this model has, for example, "
                + ", ".join(near)
            )

    groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = [
        ({"weight_decay": weight_decay, "layer_adaptation": True}, []),
        ({"weight_decay": 0.0, "layer_adaptation": False}, []),
    ]
    weights, norms_and_biases = groups[0][0], groups[1][0]
    for tied in parameters.values():
        param = tied[0].param
        if is_lazy(param):
            raise ValueError(
                f"the parameter {tied[0].names[0]} has no shape yet; run one batch through the model first"
            )
        options = dict(norms_and_biases if any(map(_is_norm_or_bias, tied)) else weights)
        for pattern, changes in overrides.items():
            if any(fnmatchcase(name, pattern) for use in tied for name in use.names):
                options.update(changes)
        for existing, members in groups:
            if _same(existing, options):
                members.append(param)
                break
        else:
            groups.append((options, [param]))
    return [{"params": members, **options} for options, members in groups if members]


class _Use(NamedTuple):
    """One place in the model that holds a parameter; a tied parameter has several."""

    names: tuple[str, ...]  # qualified; for a parametrized tensor, the plain name too
    tensor: str  # what its owner calls it
    owner: nn.Module
    magnitude: bool  # of a weight norm
    param: nn.Parameter


def _uses(model: nn.Module) -> Iterator[_Use]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        for local, param in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{local}" if path else local
            if isinstance(module, ParametrizationList):
                prefix, _, tensor = path.rpartition("parametrizations.")
                owner = modules[prefix.removesuffix(".")]
                magnitude = local == "original0" and _is_weight_norm(module[0])
                yield _Use((name, prefix + tensor), tensor, owner, magnitude, param)
            else:
                hooks = module._forward_pre_hooks.values()
                magnitude = any(_is_weight_norm(hook) and local == f"{hook.name}_g" for hook in hooks)
                yield _Use((name,), local, module, magnitude, param)


def _is_weight_norm(mechanism: object) -> bool:
    # By name: torch's parametrization is private, and the older hook's module is shadowed by its function.
    return type(mechanism).__name__ in ("_WeightNorm", "WeightNorm")


def _is_norm_or_bias(use: _Use) -> bool:
    words = use.tensor.lower().split("_")
    return use.param.ndim <= 1 or ("bias" in words and "weight" not in words) or use.magnitude or _is_norm_gain(use)


def _is_norm_gain(use: _Use) -> bool:
    owner, shape = use.owner, tuple(use.param.shape)
    if isinstance(owner, _TORCH_NORMS):
        if use.tensor in ("weight", "bias"):
            return True
    elif not _NORM_NAME.search(type(owner).__name__) or _extends_torch_layer(owner):
        return False
    return sum(size > 1 for size in shape) <= 1 or shape == getattr(owner, "normalized_shape", None)


def _extends_torch_layer(module: nn.Module) -> bool:
    # class NormalizedLinear(nn.Linear): its (1, n) weight is a weight.
    return any(
        base.__module__.startswith("torch.nn.modules.") and base is not nn.Module for base in type(module).__mro__
    )


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    def equal(x: object, y: object) -> bool:
        # Tensors (a learning rate) only by identity: comparing them would read them from the device.
        return x is y or (not isinstance(x, Tensor) and not isinstance(y, Tensor) and bool(x == y))

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
