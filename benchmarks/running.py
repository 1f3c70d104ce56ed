"""Optimizers at work behind one interface, torch's and optax's."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from stage import Stage

__all__ = ["GraphRunning", "Graphed", "OptaxRunning", "Running", "TorchRunning"]

Store = Mapping[Tensor, MutableMapping[str, Any]]


class Running(Protocol):
    """Methods that the benchmarks need of an optimizer."""

    def step(self) -> None:
        """Makes one step and waits for it, but for what a CUDA device still has to do."""

    def count(self) -> int | None:
        """Steps made, as the optimizer itself counts them; None where it does not count."""

    def sample(self) -> Tensor:
        """A few elements of every parameter that it updates, copied."""

    def stores(self) -> Sequence[Store]:
        """Its live mappings from parameter to states."""

    def state_bytes(self) -> int:
        """Memory that its states hold between two steps."""


class TorchRunning:
    """A torch optimizer over the stage's parameters."""

    def __init__(self, optimizer: Optimizer, stage: Stage) -> None:
        self.optimizer: Any = optimizer
        self._stage = stage

    def step(self) -> None:
        """Makes one step."""
        self.optimizer.step()

    def count(self) -> int | None:
        """From the state of the last parameter, or from the group."""
        entries = [entry for store in self.stores() for entry in list(store.values())[-1:]]
        counted = [int(entry["step"]) for entry in [*entries, *self.optimizer.param_groups] if "step" in entry]
        return max(counted, default=None)

    def sample(self) -> Tensor:
        """From the stage's parameters."""
        return self._stage.sample()

    def stores(self) -> list[Any]:
        """Its own state, and that of the optimizer inside the authors' E."""
        inner = getattr(self.optimizer, "opt", None)
        return [self.optimizer.state, *([] if inner is None else [inner.state])]

    def state_bytes(self) -> int:
        """Every tensor in a store or in the state dict, where ``valleys.adapt`` shows its buffer; each storage once."""
        entries = [*self.optimizer.state_dict()["state"].values()]
        entries += [entry for store in self.stores() for entry in store.values()]
        tensors = [value for entry in entries for value in entry.values() if isinstance(value, Tensor)]
        storages = {tensor.data_ptr(): tensor.untyped_storage() for tensor in tensors}
        return sum(storage.nbytes() for storage in storages.values())


class Graphed:
    """An optimizer's step as a CUDA graph over the tensors that it has now, after at least one step.

    Args:
        optimizer: one whose whole state lies on the device (``capturable=True``).
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer  # whose tensors the graph names by their addresses
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            optimizer.step()

    def replay(self) -> None:
        """Makes one step."""
        self._graph.replay()


class GraphRunning:
    """A torch optimizer whose steps are replays of a CUDA graph; it shares no states, since the graph has addresses."""

    WARM_UP = 2

    def __init__(self, optimizer: Optimizer, stage: Stage) -> None:
        self.eager = TorchRunning(optimizer, stage)
        for _ in range(self.WARM_UP):
            optimizer.step()
        self._graphed = Graphed(optimizer)

    def step(self) -> None:
        """Makes one step."""
        self._graphed.replay()

    def count(self) -> int | None:
        """Replays, as the count on the device says."""
        count = self.eager.count()
        return None if count is None else count - self.WARM_UP

    def sample(self) -> Tensor:
        """From the stage's parameters."""
        return self.eager.sample()

    def stores(self) -> list[Any]:
        """None to be shared."""
        return []

    def state_bytes(self) -> int:
        """The optimizer's own."""
        return self.eager.state_bytes()


class OptaxRunning:
    """An optax transformation, jitted, parameters and state donated.

    It has parameters of its own, and reads the stage's gradients without a copy. jax chooses its threads itself.

    Args:
        transform: the ``optax.GradientTransformation``.
        stage: parameters to copy, gradients to read.
    """

    def __init__(self, transform: Any, stage: Stage) -> None:
        import jax
        import optax

        def update(params: Any, state: Any, grads: Any) -> Any:
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self._update = jax.jit(update, donate_argnums=(0, 1))
        self._grads = [jax.dlpack.from_dlpack(grad) for grad in stage.grads]
        self._params = [jax.numpy.array(param.detach().numpy(), copy=True) for param in stage.params]
        self._state = jax.block_until_ready(transform.init(self._params))

    def step(self) -> None:
        """Makes one step and waits."""
        import jax

        self._params, self._state = jax.block_until_ready(self._update(self._params, self._state, self._grads))

    def count(self) -> int:
        """Adam's count."""
        import optax

        return int(optax.tree_utils.tree_get(self._state, "count"))

    def sample(self) -> Tensor:
        """From its own parameters."""
        import numpy

        return torch.cat([torch.from_numpy(numpy.array(param.ravel()[:64])) for param in self._params])

    def stores(self) -> list[Any]:
        """None that torch could share."""
        return []

    def state_bytes(self) -> int:
        """All leaves of the state."""
        import jax

        return sum(int(leaf.nbytes) for leaf in jax.tree_util.tree_leaves(self._state))
