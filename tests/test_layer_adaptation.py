"""``layer_adaptation="matrices"``, the default: two groups in one, whatever updates them and however they got there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import nn

import valleys
from public_optimizers import PUBLIC, available, feed, parameters, snapshot, train

BOTH = pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb], ids=lambda cls: cls.__name__)
LAYERWISE = [name for name in PUBLIC if name.startswith(("ALTO", "Lamb"))]
MATRICES: tuple[tuple[int, ...], ...] = ((4, 3), (2, 3, 2, 2), (1, 1), (1, 7))
VECTORS: tuple[tuple[int, ...], ...] = ((5,), (), (1,), (0,), (3,))
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "much decay": {"weight_decay": 0.5},
    "bounded, Alg. 1": {"trust_clip": (0.5, 0.7), "bias_correction": False, "maximize": True},
    "capturable": {"capturable": True, "weight_decay": 0.1},
    "skipping": {"skip_nonfinite": True, "weight_decay": 0.1},
}


CASES = [
    (name, options, dtype)
    for name in LAYERWISE
    for options in OPTIONS
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    # Graphs take their time to compile, as Triton's interpreter does: few sets of options are enough for them.
    if ("compiled" not in name or (options == "much decay" and dtype != torch.bfloat16))
    and ("triton" not in name or (options, dtype) in (("much decay", torch.float32), ("skipping", torch.bfloat16)))
]


def two_groups(params: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """The two groups that the default stands for."""
    vectors = {"params": [p for p in params if p.dim() < 2], "layer_adaptation": False, "weight_decay": 0.0}
    return [{"params": [p for p in params if p.dim() >= 2], "layer_adaptation": True}, vectors]


def equal(ours: Any, theirs: Any) -> bool:
    """Parameters and states are the same, bit for bit."""
    (a, x, _), (b, y, _) = snapshot(ours), snapshot(theirs)
    states = [(x[i][name], y[i][name]) for i in x for name in x[i]]
    assert [sorted(state) for state in x.values()] == [sorted(state) for state in y.values()]
    return all(torch.equal(first, second) for first, second in [*zip(a, b, strict=True), *states])


@pytest.mark.parametrize(("name", "options", "dtype"), CASES)
def test_the_default_is_two_groups_bit_for_bit(name: str, options: str, dtype: torch.dtype) -> None:
    """In every backend; the matrices come first, so that stochastic rounding counts the parameters alike."""
    own, twins = (parameters(*MATRICES, *VECTORS, dtype=dtype) for _ in range(2))
    with available(name) as build:
        pair = build(own, **OPTIONS[options]), build(two_groups(twins), **OPTIONS[options])
        for step in range(4):
            for params, optimizer in zip((own, twins), pair, strict=True):
                feed(params, step)
                params[step].grad = params[-step - 1].grad = None
                optimizer.step()
            assert equal(*pair), step
        # The vectors are not what Alg. 2 makes of them.
        other = parameters(*MATRICES, *VECTORS, dtype=dtype)
        train(build(other, layer_adaptation=True, **OPTIONS[options]), other, 1)
        train(build(twin := parameters(*MATRICES, *VECTORS, dtype=dtype), **OPTIONS[options]), twin, 1)
    same = [torch.equal(a, b) for a, b in zip(other, twin, strict=True) if a.numel()]
    assert same[: len(MATRICES)] == [True] * len(MATRICES)
    assert not any(same[len(MATRICES) :])


@BOTH
def test_differentiable_and_clipping(cls: Any) -> None:
    """The norm that is clipped is the whole group's, and what autograd follows is the same."""
    plain, leaves, apart = (parameters(*MATRICES, *VECTORS) for _ in range(3))
    followed: Any = [leaf.clone() for leaf in leaves]
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "max_grad_norm": 0.5}
    optimizers = [cls(plain, foreach=False, **options), cls(followed, differentiable=True, **options)]
    del options["max_grad_norm"]
    optimizers.append(cls(two_groups(apart), foreach=False, **options))
    for step in range(4):
        for params, optimizer in zip((plain, followed, apart), optimizers, strict=True):
            feed(params, step)
            if params is apart:
                nn.utils.clip_grad_norm_(params, 0.5)
            optimizer.step()
    for first, second, third in zip(plain, followed, apart, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(first, third, rtol=1e-12, atol=1e-14)


@hypothesis.given(
    shapes=strategies.lists(strategies.lists(strategies.integers(0, 3), max_size=4).map(tuple), min_size=1, max_size=6),
    decay=strategies.sampled_from([0.0, 0.3]),
    explicit=strategies.booleans(),
)
@hypothesis.settings(max_examples=40)
def test_every_parameter_by_its_own_dimensions(shapes: list[tuple[int, ...]], decay: float, explicit: bool) -> None:
    """In whatever order, the run is that of one optimizer per parameter."""
    together, alone = parameters(*shapes), parameters(*shapes)
    group = {"params": together, **({"weight_decay": decay} if explicit else {})}
    optimizer = valleys.ALTO([group], lr=0.02, weight_decay=decay)
    singles = [
        valleys.ALTO([p], 0.02, weight_decay=decay * (p.dim() > 1 or explicit), layer_adaptation=p.dim() > 1)
        for p in alone
    ]
    for step in range(2):
        feed(together, step)
        feed(alone, step)
        for each in (optimizer, *singles):
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


# --- a weight decay that was asked for --------------------------------------------------------------------------------


def decayed(cls: Any, groups: Any, **options: Any) -> list[bool]:
    """Return for each parameter True if the optimizer decays it; gradients of zero, so that nothing else moves them."""
    optimizer = cls(groups, lr=0.1, alpha=0.0, **options) if cls is valleys.ALTO else cls(groups, lr=0.1, **options)
    return by_step(optimizer)


def by_step(optimizer: Any) -> list[bool]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    return [not torch.equal(param, old) for param, old in zip(params, before, strict=True)]


@BOTH
def test_a_groups_own_decay_is_for_all_its_tensors(cls: Any) -> None:
    def three() -> list[nn.Parameter]:
        return parameters((2, 3), (4,), ())

    assert decayed(cls, three(), weight_decay=0.3) == [True, False, False]
    assert decayed(cls, [{"params": three()}], weight_decay=0.3) == [True, False, False]
    assert decayed(cls, [{"params": three(), "weight_decay": 0.3}]) == [True] * 3
    assert decayed(cls, [{"params": three(), "weight_decay": 0.3}], weight_decay=0.0) == [True] * 3
    assert decayed(cls, [{"params": three(), "weight_decay": 0.0}], weight_decay=0.3) == [False] * 3
    assert decayed(cls, three(), weight_decay=0.3, layer_adaptation=False) == [True] * 3
    assert decayed(cls, three(), weight_decay=0.3, layer_adaptation=True) == [True] * 3
    optimizer = cls(three())
    optimizer.add_param_group({"params": three(), "weight_decay": 0.3})
    optimizer.add_param_group({"params": three()})
    assert by_step(optimizer) == [True, False, False, True, True, True, True, False, False]
    # There is no ratio: the vector shrinks by lr * weight_decay.
    vector = nn.Parameter(torch.ones(4))
    assert decayed(cls, [{"params": [vector], "weight_decay": 0.3}]) == [True]
    torch.testing.assert_close(vector.detach(), torch.full((4,), 1 - 0.1 * 0.3))


@BOTH
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "load", "groups of another"])
def test_it_is_remembered(cls: Any, way: str) -> None:
    """Copies, checkpoints, and groups that went through another optimizer decay the same tensors."""
    params = parameters((2, 3), (4,), (2, 2), (3,))
    optimizer = cls([{"params": params[:2], "weight_decay": 0.3}, {"params": params[2:]}], weight_decay=0.2)
    train(optimizer, params, 2)
    assert [group["decay_vectors"] for group in optimizer.param_groups] == [True, False]
    if way == "deepcopy":
        twin = copy.deepcopy(optimizer)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(optimizer))
    elif way == "load":
        fresh = [nn.Parameter(param.detach().clone()) for param in params]
        twin = cls([{"params": fresh[:2]}, {"params": fresh[2:]}])
        twin.load_state_dict(optimizer.state_dict())
    else:
        copied = copy.deepcopy(optimizer)
        twin = cls(copied.param_groups)
        twin.state.update(copied.state)
    own, twins = ([param for group in each.param_groups for param in group["params"]] for each in (optimizer, twin))
    train(optimizer, own, 3)
    train(twin, twins, 3)
    assert equal(optimizer, twin)


@BOTH
def test_checkpoints_from_before_the_option(cls: Any) -> None:
    """Their groups say True or False, and nothing of vectors: they go on as they were."""
    for choice in (True, False):
        params = parameters((2, 3), (4,))
        optimizer = cls(params, weight_decay=0.3, layer_adaptation=choice)
        train(optimizer, params, 2)
        saved = copy.deepcopy(optimizer.state_dict())
        del saved["param_groups"][0]["decay_vectors"]
        fresh = [nn.Parameter(param.detach().clone()) for param in params]
        twin = cls(fresh)
        twin.load_state_dict(saved)
        train(optimizer, params, 2)
        train(twin, fresh, 2)
        assert equal(optimizer, twin)
        assert by_step(twin) == [True, True]


def test_param_groups_are_what_they_were() -> None:
    """Explicit True and False: the same numbers under any default."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    twin = copy.deepcopy(model)
    own = valleys.ALTO(valleys.param_groups(model, weight_decay=0.1))
    weights, rest = ([p for p in twin.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False))
    reference = valleys.ALTO([{"params": weights}, {"params": rest}], weight_decay=0.1)
    assert [group["layer_adaptation"] for group in own.param_groups] == [True, False]
    for _ in range(3):
        for network, optimizer in ((model, own), (twin, reference)):
            optimizer.zero_grad()
            network(torch.ones(5, 3)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


# --- what is refused, and what may change -----------------------------------------------------------------------------

MESSAGE = r"layer_adaptation must be 'matrices', True or False, got {}; 'matrices' gives a trust ratio to"


@BOTH
@pytest.mark.parametrize("value", ["all", None, 2, torch.tensor(1)], ids=repr)
def test_other_values_are_refused_before_anything_moves(cls: Any, value: Any) -> None:
    message = MESSAGE.format(repr(value).replace("(", r"\(").replace(")", r"\)"))
    params = parameters((2, 3), (4,))
    with pytest.raises(ValueError, match=message):
        cls(params, layer_adaptation=value)
    with pytest.raises(ValueError, match=message):
        cls([{"params": params, "layer_adaptation": value}])
    optimizer = cls([{"params": params[:1]}, {"params": params[1:]}])
    train(optimizer, params, 1)
    optimizer.param_groups[1]["layer_adaptation"] = value
    before = snapshot(optimizer)
    feed(params, 1)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before[0], params, strict=True))
    assert optimizer.state[params[0]]["step"] == 1
    with pytest.raises(ValueError, match="decay_vectors must be True or False, got 'yes'"):
        cls([{"params": params, "decay_vectors": "yes"}])


@BOTH
def test_it_may_change_between_steps(cls: Any) -> None:
    params, twins = parameters((2, 3), (4,)), parameters((2, 3), (4,))
    changing, fixed = cls(params, weight_decay=0.3), cls(twins, weight_decay=0.3, layer_adaptation=True)
    for step, choice in enumerate([True, True, "matrices"]):
        changing.param_groups[0]["layer_adaptation"] = choice
        feed(params, step)
        changing.step()
        if choice is True:
            feed(twins, step)
            fixed.step()
            assert equal(changing, fixed)
    feed(twins, 2)
    fixed.step()
    assert torch.equal(params[0], twins[0])
    assert not torch.equal(params[1], twins[1])


def test_blocks_go_by_the_dimensions_of_their_parameter() -> None:
    """A stack of biases is a matrix; a vector's blocks have no ratio to divide."""
    stack, vector = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))
    blocks = valleys.blocks.stacked(2)
    optimizer = valleys.ALTO([stack, vector], blocks=blocks)
    train(optimizer, [stack, vector], 1)
    ratios = optimizer.trust_ratios()
    assert list(ratios) == [stack]
    assert ratios[stack].shape == (2,)


def test_flat_shards_are_refused() -> None:
    """A matrix that was flattened would lose its ratio without a word."""
    flat = nn.Parameter(torch.ones(6))
    flat._fsdp_flattened = True  # type: ignore[attr-defined]
    flat.grad = torch.ones(6)
    for cls in (valleys.ALTO, valleys.Lamb):
        with pytest.raises(RuntimeError, match="one of FSDP1's flat parameters; its norm is not a layer's"):
            cls([flat]).step()
        cls([flat], layer_adaptation=False).step()


def test_eight_bit_states() -> None:
    shapes = (64, 64), (4096,)
    params, twins = (parameters(*shapes, dtype=torch.float32) for _ in range(2))
    options: dict[str, Any] = {"state_dtype": "8bit", "foreach": True, "weight_decay": 0.3}
    pair = valleys.ALTO(params, **options), valleys.ALTO(two_groups(twins), **options)
    train(pair[0], params, 3)
    train(pair[1], twins, 3)
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
