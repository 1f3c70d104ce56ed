"""Everything an optimizer remembers lies in ``optimizer.state``: whoever resets, counts, moves or drops it finds it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import valleys
from optimizer_cases import CASES, Case, set_gradients
from optimizer_cases import parameters as case_parameters
from public_optimizers import PUBLIC, available, feed, parameters, snapshot, train


@pytest.fixture(params=PUBLIC)
def build(request: pytest.FixtureRequest) -> Iterator[Any]:
    with available(request.param) as function:
        yield function


@pytest.mark.parametrize("how", ["clear", "replace", "delete"])
def test_a_reset_state_is_a_fresh_optimizer(build: Any, how: str) -> None:
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 5)
    if how == "clear":
        optimizer.state.clear()
    elif how == "replace":
        optimizer.state = defaultdict(dict)
    else:
        for param in params:
            del optimizer.state[param]
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    fresh = build(twins)
    for step in range(5, 9):
        for own, values in ((optimizer, params), (fresh, twins)):
            feed(values, step)
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_a_removed_parameter_dies(build: Any) -> None:
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 3)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    feed(params, 3)
    optimizer.step()
    removed = weakref.ref(params[1])
    memories = [weakref.ref(value) for value in optimizer.state[params[1]].values() if isinstance(value, Tensor)]
    optimizer.state.pop(params[1])
    optimizer.param_groups[0]["params"].pop()
    del params[1]
    feed(params, 4)
    optimizer.step()
    gc.collect()
    assert removed() is None
    assert not any(memory() is not None for memory in memories)


def test_every_tensor_it_keeps_is_in_the_state(build: Any) -> None:
    """Tensors that offloading tools count and move: all that the optimizer alone keeps alive."""
    params = parameters((30, 40))
    optimizer = build(params)
    train(optimizer, params, 2)
    params[0].grad = None
    ids = {id(v) for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)}
    gc.collect()
    own = [x for x in referents(optimizer) if isinstance(x, Tensor) and x is not params[0] and x.numel() >= 1200]
    assert {id(x) for x in own} <= ids
    count = sum(v.numel() for entry in optimizer.state.values() for v in entry.values() if v.dim())
    saved = sum(v.numel() for entry in optimizer.state_dict()["state"].values() for v in entry.values() if v.dim())
    assert count == saved == 1200 * len([1 for v in optimizer.state[params[0]].values() if v.dim()]) > 0


def referents(thing: Any) -> list[Any]:
    """All that an object leads to, but for classes, modules and functions."""
    objects: dict[int, Any] = {}
    waiting = [vars(thing)]
    while waiting:
        one = waiting.pop()
        if id(one) in objects or isinstance(one, (type, type(pytest))) or callable(one):
            continue
        objects[id(one)] = one
        waiting.extend(gc.get_referents(one))
    return list(objects.values())


def test_moving_the_states_away_and_back_changes_nothing(build: Any) -> None:
    """As offloading does: every tensor of ``state`` is replaced by a copy."""
    runs = []
    for offloads in (False, True):
        params = parameters((3,), (4, 6))
        optimizer = build(params)
        for step in range(4):
            feed(params, step)
            optimizer.step()
            if offloads:
                for entry in optimizer.state.values():
                    for name, value in entry.items():
                        entry[name] = value.clone() if isinstance(value, Tensor) else value
        runs.append([param.detach().clone() for param in params])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


ADAPTED = [name for name in CASES if "Lamb" not in name]


@pytest.mark.parametrize("name", ADAPTED)
def test_the_base_finds_its_own_state_alone(name: str) -> None:
    """At every step, after copies, loads and resets: bit for bit the entries of a base that was never adapted."""
    case: Case = CASES[name]
    params = case_parameters(case)
    optimizer = case.build(params)
    entries: list[dict[int, set[str]]] = []
    base = type(optimizer)

    class Watched(base):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> Any:
            entries.append({id(p): set(entry) for p, entry in self.state.items()})
            return super().step(closure)

    optimizer.__class__ = Watched
    valleys.adapt(optimizer, -5.0, 0.9)
    plain = case.build(case_parameters(case))
    for step in range(6):
        twins = [p for group in plain.param_groups for p in group["params"]]
        names = {position: set(plain.state[p]) for position, p in enumerate(twins) if p in plain.state}
        set_gradients(params, step)
        set_gradients(twins, step)
        optimizer.step()
        plain.step()
        views = {position: entries[-1][id(p)] for position, p in enumerate(params) if id(p) in entries[-1]}
        assert views == names
        if step == 3:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_copies_of_an_optimizer_whose_base_has_not_begun() -> None:
    """E's buffer may be all there is: a base's own ``__setstate__`` must not take it for its state."""
    params = parameters((3,))

    class Failing(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            raise OSError("interrupted")

    optimizer = valleys.adapt(Failing(params, lr=0.1))
    feed(params, 0)
    with pytest.raises(OSError, match="interrupted"):
        optimizer.step()
    assert set(optimizer.state[params[0]]) == {"explore_exp_avg"}
    twin = copy.deepcopy(optimizer)
    (entry,) = twin.state.values()
    assert torch.equal(entry["explore_exp_avg"], optimizer.state[params[0]]["explore_exp_avg"])


def test_a_pickle_holds_the_whole_state(build: Any) -> None:
    params = parameters((3,), (4, 6))
    optimizer = build(params)
    train(optimizer, params, 3)
    twins, twin = pickle.loads(pickle.dumps((params, optimizer)))
    (_, states, _), (_, others, _) = snapshot(optimizer), snapshot(twin)
    assert states.keys() == others.keys()
    for index, entry in states.items():
        assert entry.keys() == others[index].keys()
    feed(params, 3)
    feed(twins, 3)
    optimizer.step()
    twin.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
