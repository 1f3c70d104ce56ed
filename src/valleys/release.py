"""The step inside backward: each parameter moves as soon as its gradient is complete, and the gradient is let go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from valleys._engine.dtensor import is_sharded, local
from valleys._engine.layer_norms import stepping

__all__ = ["Released", "release_gradients"]

_TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


class Released:
    """Handle of ``release_gradients``.

    Args:
        handles: of the hooks.
    """

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Ends it: gradients stay, and ``optimizer.step`` makes the step again."""
        for handle in self._handles:
            handle.remove()


def release_gradients(optimizer: Optimizer) -> Released:
    r"""Let every backward pass make the optimizer's step, one parameter at a time, and free each gradient after it.

    .. math:: \theta^{(i)}_k = step(\theta^{(i)}_{k-1}, g^{(i)}) \text{ as soon as } g^{(i)} \text{ is known}

    The same update as ``backward`` and then ``step``, bit for bit, for any optimizer that looks at one parameter at a
    time: ALTO's and LAMB's ratio needs no more than its own layer. Instead of all gradients only the largest ones are
    in memory. After it ``optimizer.step`` and ``zero_grad`` find nothing to do, and may stay. Every ``backward`` is a
    step: no clipping or unscaling of gradients in between. The optimizer's step hooks run once per parameter.

    Under ``fully_shard`` (FSDP2) a parameter moves when its gradient has been averaged over the ranks, and those of
    one unit are in memory (under HSDP all: torch keeps them until backward ends). Call this on all ranks, after
    sharding. Elementwise optimizers, E's included, send nothing; ALTO and Lamb send four numbers a layer, in one
    all-reduce per parameter, whose sums over more than two ranks may differ in the last bit of float64. Passes with
    ``set_requires_gradient_sync(False)`` only add to the gradient, and the next pass with True makes the step; on that
    one ``set_is_last_backward`` has to be True, the default, or the next forward may read parameters too early.

    Args:
        optimizer: ALTO, Lamb, an adapted optimizer or another of torch.optim, with parameters that are whole and on one
            rank, or DTensors.

    Returns:
        A handle whose ``remove`` ends it.

    Raises:
        RuntimeError: the step needs the gradients of several parameters (``max_grad_norm``, ``skip_nonfinite``), or an
            average over ranks that is not there in backward (DDP; any parameter that is no DTensor, with several
            ranks); parameters on several devices; gradients that are there already; an ``AlphaSchedule`` that is
            automatic; a GradScaler. The conditions that may change later are checked at each step again.

    Example:
        >>> import torch, valleys
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = valleys.ALTO(model.parameters(), lr=1e-2)
        >>> released = valleys.release_gradients(optimizer)
        >>> model(torch.ones(4, 2)).square().mean().backward()  # the step is made here
        >>> model.weight.grad is None
        True

    Source: ours; after LOMO (Lv et al. 2023, arXiv 2306.09782) and torch's post-accumulate hooks, which FSDP2 runs too.
    """
    params = list(_parameters(optimizer))
    if any(param.grad is not None for param in params):
        raise RuntimeError("release_gradients: there are gradients of an earlier backward; call zero_grad() first")
    # Autograd has a thread per device, and one must not see the gradients of another's parameters.
    if len({param.device for param in params}) > 1:
        raise RuntimeError("release_gradients: the parameters lie on several devices; call optimizer.step() as usual")
    _check_options(optimizer)
    trained = [param for param in params if param.requires_grad]
    for param in trained:
        _check_ranks(param)
    hook = _hook(weakref.ref(optimizer))
    handles = [param.register_post_accumulate_grad_hook(hook) for param in trained]
    return Released([*handles, optimizer.register_step_pre_hook(_refuse_scaler)])


def _parameters(optimizer: Optimizer) -> Iterator[Any]:
    return (param for group in optimizer.param_groups for param in group["params"])


def _check_options(optimizer: Optimizer) -> None:
    """Raise for options about more than one parameter."""
    for group in optimizer.param_groups:
        if group.get("max_grad_norm") is not None:
            raise RuntimeError(
                f"release_gradients: max_grad_norm={group['max_grad_norm']} needs all gradients at once; leave it None"
            )
        if group.get("skip_nonfinite"):
            raise RuntimeError(
                "release_gradients: skip_nonfinite=True leaves a group as it is where any of its gradients is not "
                "finite, and others have moved by then; leave it False, or call optimizer.step() as usual"
            )
        if "alpha_epoch" in group:
            raise RuntimeError(
                "release_gradients: AlphaSchedule(automatic=True) counts the optimizer's steps, and each parameter now "
                "has one of its own; build the schedule without automatic, and call its step"
            )


def _check_ranks(param: Any) -> None:
    """Raise for a parameter whose gradient is not complete, or not readable, when the hooks of backward run."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not is_sharded(param):
        if distributed and torch.distributed.get_world_size() > 1:
            raise RuntimeError(
                f"release_gradients: a parameter of shape {tuple(param.shape)} is no DTensor, and with several ranks "
                "its gradient is complete only after backward, when it has been averaged (DDP does so in buckets of "
                "parameters); shard it with fully_shard (FSDP2), or call optimizer.step() as usual"
            )
    elif param.device.type != param.device_mesh.device_type and _TORCH < (2, 13):
        # Without pull request 180666 of pytorch hooks ran before the gradient had arrived in pinned memory.
        raise RuntimeError(
            f"release_gradients: a parameter of shape {tuple(param.shape)} is offloaded to the {param.device.type}, "
            f"and torch {torch.__version__} runs hooks before its gradient is there; use torch 2.13 or newer, "
            "fully_shard without CPUOffloadPolicy, or optimizer.step() as usual"
        )


def _refuse_scaler(optimizer: Any, *_: Any) -> None:
    """Raise where a GradScaler calls an optimizer that unscales by itself: backward's steps knew no scale."""
    if getattr(optimizer, "grad_scale", None) is not None or getattr(optimizer, "found_inf", None) is not None:
        raise RuntimeError(
            "release_gradients: a GradScaler's gradients are scaled, and backward has made the step with them already; "
            "start again without a scaler (bfloat16 needs none), or call optimizer.step() as usual"
        )


def _hook(reference: Callable[[], Any]) -> Callable[[Tensor], None]:
    def step(param: Tensor) -> None:
        optimizer = reference()
        if optimizer is None:
            return
        _check_options(optimizer)
        # The step takes every parameter that has a gradient.
        for other in _parameters(optimizer):
            if other.grad is not None and other is not param:
                raise RuntimeError(
                    f"release_gradients: beside the parameter whose gradient backward has just made, one of shape "
                    f"{tuple(other.shape)} has a gradient, which would be used more than once: it was frozen or not in "
                    "the optimizer when release_gradients was called, or an earlier backward failed; call zero_grad(), "
                    "remove() and release_gradients again"
                )
        shard = local(param.grad)
        with stepping(param):
            optimizer.step()
        if is_sharded(param) and shard.is_cuda:
            # After an all-reduce FSDP2 runs hooks on another stream than the one that allocated the gradient, which
            # must not reuse the memory before the step has read it.
            shard.record_stream(torch.cuda.current_stream(shard.device))
        param.grad = None

    return step
