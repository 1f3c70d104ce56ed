"""State dictionaries damaged at random, and how loading each of them ends.

python tests/damage.py 2000     # a table of the outcomes for every public optimizer
"""

from __future__ import annotations

import copy
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from public_optimizers import PUBLIC, feed, parameters, snapshot, train

__all__ = ["NAMES", "damaged", "outcome"]

# Backends share the code that loads; Triton's and the compiler's would only be slower.
FOREIGN = "AdamW's into ALTO"
NAMES = [name for name in PUBLIC if not any(word in name for word in ("triton", "compiled", "loop"))] + [FOREIGN]

SHAPES = (3,), (4, 6), ()

State = dict[str, Any]


def damaged(state: State, chance: random.Random) -> tuple[State, str]:
    """A copy with one to three changes, and their names."""
    state = copy.deepcopy(state)
    names = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(list(DAMAGES))
        try:
            DAMAGES[name](state, chance)
        except Exception:
            continue  # an earlier damage took what this one is about
        names.append(name)
    return state, ", ".join(names)


def _entry(state: State, chance: random.Random) -> dict[str, Any]:
    entry: dict[str, Any] = state["state"][chance.choice(sorted(state["state"]))]
    return entry


def _value(state: State, chance: random.Random, change: Callable[[Any], Any]) -> None:
    entry = _entry(state, chance)
    name = chance.choice(sorted(entry))
    entry[name] = change(entry[name])


def _drop_key(state: State, chance: random.Random) -> None:
    entry = _entry(state, chance)
    del entry[chance.choice(sorted(entry))]


def _rename_key(state: State, chance: random.Random) -> None:
    entry = _entry(state, chance)
    name = chance.choice(sorted(entry))
    entry[f"{name}_"] = entry.pop(name)


def _swap(state: State, chance: random.Random) -> None:
    one, other = chance.sample(sorted(state["state"]), 2)
    state["state"][one], state["state"][other] = state["state"][other], state["state"][one]


def _replace_entry(state: State, chance: random.Random) -> None:
    state["state"][chance.choice(sorted(state["state"]))] = chance.choice([None, [], "x", 3, {"foo": torch.ones(3)}])


def _option(state: State, chance: random.Random) -> None:
    group = chance.choice(state["param_groups"])
    name = chance.choice(sorted(set(group) - {"params"}))
    group[name] = chance.choice([None, "x", -1.0, float("nan"), 2.0, [], (0.9, 1.5), True, torch.ones(3)])


def _drop_option(state: State, chance: random.Random) -> None:
    group = chance.choice(state["param_groups"])
    del group[chance.choice(sorted(set(group) - {"params"}))]


def _numbers(state: State, chance: random.Random) -> None:
    numbers = chance.choice(state["param_groups"])["params"]
    chance.choice((numbers.pop, lambda: numbers.append(99), lambda: numbers.__setitem__(0, numbers[-1])))()


def _groups(state: State, chance: random.Random) -> None:
    groups = state["param_groups"]
    chance.choice((groups.pop, lambda: groups.append(copy.deepcopy(groups[0])), lambda: groups[0].pop("params")))()


def _top(state: State, chance: random.Random) -> None:
    name = chance.choice(["state", "param_groups"])
    if chance.random() < 0.5:
        del state[name]
    else:
        state[name] = chance.choice([None, [], {}, "x"])


def _tensor(change: Callable[[Tensor], Any]) -> Callable[[State, random.Random], None]:
    def damage(state: State, chance: random.Random) -> None:
        _value(state, chance, lambda value: change(torch.as_tensor(value)))

    return damage


def _constant(*values: Any) -> Callable[[State, random.Random], None]:
    return lambda state, chance: _value(state, chance, lambda _: chance.choice(values))


DAMAGES: dict[str, Callable[[State, random.Random], None]] = {
    "a state is missing": _drop_key,
    "a state has another name": _rename_key,
    "two parameters' states are exchanged": _swap,
    "a parameter's states are no dictionary": _replace_entry,
    "a state is no number": _constant(None, "x", [], {}, b"x", True),
    "a state is a number": _constant(3, 2.0),
    "a state is no count": _constant(float("nan"), -1, -2.5, float("inf"), torch.tensor(-3.0), torch.tensor(2.5)),
    "shorter": _tensor(lambda x: x.reshape(-1)[:-1].clone()),
    "longer": _tensor(lambda x: torch.cat([x.reshape(-1), x.reshape(-1), torch.ones(9).to(x)])),
    "of another shape": _tensor(lambda x: x.reshape(*reversed(x.shape), 1)),
    "transposed": _tensor(lambda x: x.t().clone() if x.dim() == 2 else x.reshape(-1, 1)),
    "of integers": _tensor(lambda x: x.to(torch.int64)),
    "of booleans": _tensor(lambda x: x != 0),
    "complex": _tensor(lambda x: x.to(torch.complex128)),
    "sparse": _tensor(lambda x: x.to_sparse()),
    "an option is wrong": _option,
    "an option is missing": _drop_option,
    "numbers of parameters": _numbers,
    "groups": _groups,
    "top": _top,
}


def same(one: Any, other: Any) -> bool:
    """Return True where two snapshots are equal, states of any type included."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def outcome(name: str, seed: int) -> tuple[str, str]:
    """Return how loading one damaged state dictionary ends, and what was damaged.

    "refused": a ValueError of one line before anything changed. "warned" and "loaded": the next steps work and all is
    finite. Everything else is a fault.
    """
    chance = random.Random(seed)
    sources, params = parameters(*SHAPES), parameters(*SHAPES)
    make, build = (torch.optim.AdamW, PUBLIC["ALTO c"]) if name == FOREIGN else (PUBLIC[name], PUBLIC[name])
    source = make([{"params": sources[:2]}, {"params": sources[2:]}])
    optimizer = build([{"params": params[:2]}, {"params": params[2:]}])
    train(source, sources, 3)
    train(optimizer, params, 2)
    state, names = damaged(source.state_dict(), chance)
    before = snapshot(optimizer)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            clear = len(str(error).splitlines()) == 1 and len(str(error)) > 30
            intact = same(before, snapshot(optimizer))
            return "refused" if clear and intact and steps(optimizer, params) else f"FAULT: {error!r}, {intact=}", names
        except Exception as error:
            return f"FAULT: {type(error).__name__}: {error}", names
    promised = any("starts empty" in str(warning.message) for warning in messages)
    try:
        return ("warned" if promised else "loaded") if steps(optimizer, params) else "FAULT: not finite", names
    except Exception as error:
        return f"FAULT: the next step raises {type(error).__name__}: {error}", names


def steps(optimizer: Optimizer, params: list[torch.nn.Parameter]) -> bool:
    """Return True where two more steps leave finite parameters."""
    for step in range(3, 5):
        feed(params, step)
        optimizer.step()
    return all(bool(param.isfinite().all()) for param in params)


if __name__ == "__main__":
    count = int(sys.argv[1])
    for name in NAMES:
        results = [outcome(name, seed) for seed in range(count)]
        table = Counter(result.split(":")[0] for result, _ in results)
        sys.stdout.write(f"{name:32} {dict(table)}\n")
        for (result, damage), times in Counter(r for r in results if r[0].startswith("FAULT")).most_common(8):
            sys.stdout.write(f"    {times} x {damage}: {result[:150]}\n")
