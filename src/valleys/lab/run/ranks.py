"""Several processes as one: who is here, which part of a batch is whose, and what rank 0 decides for all.

Each rank runs the same program on its share of every batch; DistributedDataParallel sums the gradients. A launcher
(torchrun, ``accelerate launch``) says in the environment how many ranks there are. One process is a single rank, for
which everything here costs nothing.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from valleys.lab.errors import LabError

T = TypeVar("T")


class _SharedError(LabError):
    """A mistake that all ranks know of: all raise it at the same place."""


@dataclass(frozen=True)
class Layout:
    """Distribution of a batch over ranks and backward passes."""

    batch_size: int  # examples per optimizer step, of all ranks together
    micro_batch: int  # the most examples of one backward pass on one rank
    ranks: int  # how many share the batch

    @property
    def per_rank(self) -> int:
        """Examples of the largest backward pass on one rank."""
        return min(self.micro_batch, self._share)

    @property
    def accumulation_steps(self) -> int:
        """Backward passes per optimizer step of the rank that makes most."""
        return -(-self._share // self.micro_batch)

    @property
    def _share(self) -> int:
        return -(-self.batch_size // self.ranks)

    def __str__(self) -> str:
        r"""The product that makes the batch.

        Example:
            >>> print(Layout(1024, 4096, 2))
            global batch 1024 = 512 per rank x 2 ranks x 1 accumulation step
            >>> print(Layout(7, 1, 4))
            global batch 7: at most 1 per rank x 4 ranks x 2 accumulation steps
        """
        exact = self.per_rank * self.ranks * self.accumulation_steps == self.batch_size
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        steps = f"{self.accumulation_steps} accumulation step{'s' * (self.accumulation_steps > 1)}"
        product = f"{self.per_rank} per rank x {ranks} x {steps}"
        return f"global batch {self.batch_size}{' =' if exact else ': at most'} {product}"


@dataclass(frozen=True)
class Ranks:
    """The processes that work together, seen from one of them.

    Every method is called by all ranks in the same order.
    """

    rank: int = 0
    size: int = 1
    _wrappers: WeakSet[nn.Module] = field(default_factory=WeakSet, init=False, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Return whether this is the rank that writes, prints and decides."""
        return self.rank == 0

    def device(self, name: torch.device | str) -> torch.device:
        """Return this rank's device: with several ranks, ``cuda`` is its own of the machine's, if one is left."""
        device = torch.device(name)
        if self.size == 1:
            return device
        if device.type == "cuda" and device.index is None:
            local, count = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())), torch.cuda.device_count()
            if local >= count:
                raise LabError(
                    f"no CUDA device is left for process {local} of this machine, which has {count}; start at most "
                    f"{count} here, or use --device cpu"
                )
            device = torch.device("cuda", local)
        if f"{device.type}:" not in (config := distributed.get_backend_config()):
            raise LabError(
                f"the process group that is already there ({config}) has no backend for the device {device.type}; "
                "start it without naming a backend, or choose another device"
            )
        return device

    def parts(self, batch: Tensor, micro_batch: int) -> list[tuple[Tensor, float]]:
        r"""This rank's micro-batches of a batch, each with its share of the batch's mean.

        .. math:: \sum_{\text{ranks}} \sum_j w_j = 1, \quad w_j = n_j / n

        A rank without a share gets the first examples with weight 0: the sum of the gradients needs a backward pass of
        every rank.

        Example:
            >>> [(part.tolist(), weight) for part, weight in Ranks(0, 2).parts(torch.arange(8), 3)]
            [([0, 1, 2], 0.375), ([3], 0.125)]
        """
        share = batch.tensor_split(self.size)[self.rank]
        if not len(share):
            return [(batch[:micro_batch], 0.0)]
        return [(part, len(part) / len(batch)) for part in share.split(micro_batch)]

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the model or, with several ranks, its wrapper, which averages the gradients; see ``held_back``."""
        if self.size == 1:
            return model
        wrapper = DistributedDataParallel(model)
        self._wrappers.add(wrapper)
        return wrapper

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the ranks."""
        total = value.clone()
        if self.size > 1:
            distributed.all_reduce(total)
        return total

    def decide(self, work: Callable[[], T]) -> T:
        """Return the result of work that rank 0 does alone, by pickle, or raise its LabError, on all ranks."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.main:
            outcome[:] = _attempt(work)
        distributed.broadcast_object_list(outcome, src=0)
        result, error = outcome
        if error is not None:
            raise _SharedError(str(error)) from error
        answer: T = result
        return answer

    def agree(self, work: Callable[[], T]) -> T:
        """Let every rank do work that may fail on some: rank 0 first, whose downloads are then there for the others.

        A LabError of any is raised on all.
        """
        if self.size == 1:
            return work()
        result: Any = None
        for turn in (self.main, not self.main):
            result, error = _attempt(work) if turn else (result, None)
            errors: list[LabError | None] = [None] * self.size
            distributed.all_gather_object(errors, error)
            for rank, raised in enumerate(errors):
                if raised is not None:
                    raise _SharedError(f"rank {rank}: {raised}" if rank else str(raised)) from error
        answer: T = result
        return answer


def check_averaged(model: nn.Module) -> None:
    """Raise LabError for a parameter without a gradient: with several ranks the wrapper waits for those of all."""
    if not isinstance(model, DistributedDataParallel):
        return
    if any(p.requires_grad and p.grad is None for p in model.module.parameters()):
        missing = [name for name, p in model.module.named_parameters() if p.requires_grad and p.grad is None]
        raise LabError(
            f"the model's {', '.join(missing)} got no gradient; with several processes every parameter must take part "
            "in the loss: set its requires_grad to False, or use one process"
        )


def held_back(model: nn.Module) -> AbstractContextManager[None]:
    """Forward and backward passes whose gradients stay on this rank until a later backward pass takes them along."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes of this launch, or raise LabError if the environment does not say where they meet.

    A process group that is already there is used and left as it is. Otherwise one is made, and taken down at the end.
    """
    has_group = distributed.is_available() and distributed.is_initialized()
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size()) if has_group else Ranks(*_launched())
    if ranks.size == 1:
        yield ranks
        return
    if not has_group:
        _meet(ranks)
    shared = False
    try:
        yield ranks
        shared = True
    except _SharedError:
        shared = True
        raise
    finally:
        # A wrapper holds the group, and may be part of a cycle of references (the first one of a process is). A group
        # that outlives destroy_process_group in this way may hang or crash the process when it is collected at last.
        if ranks._wrappers:
            gc.collect()
        # After an error of one rank the others wait in the group: its end would raise errors there that hide the first
        # one, and NCCL's would wait for them in turn. The end of the process takes the group along.
        if shared and not has_group:
            distributed.destroy_process_group()


def _meet(ranks: Ranks) -> None:
    """Make the process group of all that were launched."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise LabError(
            f"WORLD_SIZE={ranks.size} announces {ranks.size} processes but {' and '.join(missing)} is not set; start "
            "them with torchrun, or unset WORLD_SIZE"
        )
    # Groups may follow one another in one launch: the keys of an earlier one must not be read as this one's.
    number = _store().add(f"valleys/groups/{ranks.rank}", 1)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.PrefixStore(f"valleys/group/{number}", _store()),  # type: ignore[attr-defined]
        rank=ranks.rank,
        world_size=ranks.size,
    )


def _launched() -> tuple[int, int]:
    """This process's rank and their number, as the launcher says."""
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))


@cache
def _store() -> Any:
    """Return the ranks' rendezvous store: torchrun's, or rank 0's for as long as its process lives."""
    store, _, _ = next(rendezvous("env://"))
    return store


def _attempt(work: Callable[[], T]) -> tuple[T | None, LabError | None]:
    try:
        return work(), None
    except LabError as error:
        return None, error
