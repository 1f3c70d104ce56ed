"""The test of symmetry: no false alarm of any architecture or precision, and wrong derivatives are refused."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from landscape import curvature_cases as cases
from valleys.landscape.curvature import hvp
from valleys.landscape.curvature.density import density
from valleys.landscape.curvature.hvp import KINDS, Curvature
from valleys.landscape.curvature.layers import layerwise_curvature
from valleys.landscape.curvature.spectrum import eigenvalues
from valleys.landscape.curvature.trace import trace
from valleys.landscape.objective import Objective


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.inner, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x)[0][:, -1])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.embedding, self.inner, self.out = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.embedding(x)).mean(1))  # type: ignore[no-any-return]


def dense(activation: nn.Module, *norms: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), *norms, activation, nn.Linear(16, 16), activation, nn.Linear(16, 3))


def activated(kind: Callable[[], nn.Module]) -> nn.Module:
    return dense(kind())


def convolutions(norm: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    ).eval()  # fmt: skip


ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Mish, nn.Sigmoid, nn.PReLU, nn.Hardswish)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{kind.__name__: (partial(activated, kind), (4,)) for kind in ACTIVATIONS},
    "layer norm": (lambda: dense(nn.Tanh(), nn.LayerNorm(16)), (4,)),
    "root mean square norm": (lambda: dense(nn.Tanh(), nn.RMSNorm(16)), (4,)),
    "deep": (lambda: nn.Sequential(*deep()), (4,)),
    "batch norm": (lambda: convolutions(nn.BatchNorm2d(4)), (1, 8, 8)),
    "group norm": (lambda: convolutions(nn.GroupNorm(2, 4)), (1, 8, 8)),
    "instance norm": (lambda: convolutions(nn.InstanceNorm2d(4, affine=True)), (1, 8, 8)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (5, 4)),
    "GRU": (lambda: Recurrent(nn.GRU), (5, 4)),
    "attention": (cases.Attention, (3, 4)),
    "transformer": (Transformer, (5, 4)),
    "spectral norm": (lambda: nn.Sequential(spectral_norm(nn.Linear(4, 9)), nn.Tanh(), nn.Linear(9, 3)).eval(), (4,)),
    "orthogonal": (lambda: nn.Sequential(orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)), (4,)),
}


def deep() -> list[nn.Module]:
    widths = [4, *[24] * 9]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return [*layers, nn.Linear(24, 3)]


def classifier(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, steps: int = 0) -> Objective:
    model.to(dtype)
    x, y = torch.randn(40, *shape).to(dtype), torch.randint(0, 3, (40,))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Objective(model, functional.cross_entropy, list(zip(x.split(25), y.split(25), strict=True)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_symmetric_products_pass(name: str, dtype: torch.dtype) -> None:
    make, shape = MODELS[name]
    for seed in range(3):
        torch.manual_seed(seed)
        objective = classifier(make(), shape, dtype, (0, 20, 120)[seed])
        for kind in KINDS:
            assert all(part.isfinite().all() for part in Curvature(objective, kind).matvec(objective.parameters))


@pytest.mark.parametrize(
    ("name", "start"), [("ReLU", 0), ("batch norm", 0), ("transformer", 0), ("deep", 0), ("deep", 1)]
)
def test_rounding_where_the_loss_is_nearly_zero_passes(name: str, start: int) -> None:
    """In float32 such products are symmetric to a few digits only: here u.Hv and v.Hu differ by 1e-4 and more."""
    make, shape = MODELS[name]
    torch.manual_seed(start)
    objective = classifier(make(), shape, torch.float32, 600)
    assert objective.value() < 1e-2
    for kind in KINDS:
        for seed in range(5):
            curvature = Curvature(objective, kind)
            vector = torch.randn(curvature.numel, generator=torch.Generator().manual_seed(seed))
            assert curvature.matvec_flat(vector).isfinite().all()


class Uneven(torch.autograd.Function):
    """The square, with a second derivative that depends on which element comes first; of a given size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.error = error
        return x.square().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * (2 * x + ctx.error * (torch.roll(x, 1) - x).cumsum(0)), None


def uneven(n: int, error: float, dtype: torch.dtype) -> Objective:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.linspace(1, 2, n, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return Uneven.apply(self.theta, error)  # type: ignore[no-any-return, no-untyped-call]

    return Objective(Model(), cases.itself, [(torch.ones(1), torch.ones(1))])


@pytest.mark.parametrize(("dtype", "refused", "passed"), [(torch.float64, 1e-6, 1e-10), (torch.float32, 2e-2, 1e-6)])
@pytest.mark.parametrize("n", [4, 60, 3000])
def test_a_wrong_derivative_is_refused_down_to_the_precision(
    n: int, dtype: torch.dtype, refused: float, passed: float
) -> None:
    curvature = Curvature(uneven(n, refused, dtype))
    with pytest.raises(ValueError, match=r"the hessian is not symmetric: .* wrong second derivative.* kind='ggn'"):
        curvature.matvec_flat(torch.randn(n))
    with pytest.raises(ValueError, match="not symmetric"):  # again: nothing that failed counts as tested
        curvature.matvec_flat(torch.randn(n))
    assert Curvature(uneven(n, passed, dtype)).matvec_flat(torch.randn(n)).isfinite().all()


@pytest.mark.parametrize("n", [4, 60])
def test_every_instrument_refuses(n: int) -> None:
    objective = uneven(n, 0.1, torch.float64)
    for measure in (eigenvalues, trace, density, layerwise_curvature, lambda one: Curvature(one).dense()):
        with pytest.raises(ValueError, match="the hessian is not symmetric"):
            measure(objective)


def test_a_zero_vector_tests_nothing() -> None:
    curvature = Curvature(uneven(5, 0.1, torch.float64))
    assert not curvature.matvec_flat(torch.zeros(5)).any()
    with pytest.raises(ValueError, match="not symmetric"):
        curvature.matvec_flat(torch.ones(5))


def test_the_test_costs_one_product_once(monkeypatch: pytest.MonkeyPatch) -> None:
    products, inner = 0, Curvature.parts

    def parts(self: Curvature, vector: Any) -> Any:
        nonlocal products
        products += 1
        return inner(self, vector)

    monkeypatch.setattr(Curvature, "parts", parts)
    curvature = Curvature(cases.objective("mlp"))
    for expected in (2, 3, 4):
        curvature.matvec_flat(torch.ones(43))
        assert products == expected


class Norm(nn.Module):
    """Weight normalisation in plain tensor operations, which the error proposes."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        weight: Tensor = g * v / v.norm(dim=1, keepdim=True)
        return weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.norm(dim=1, keepdim=True), weight


def normed(kind: Callable[[nn.Linear], nn.Module], dtype: torch.dtype) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(kind(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    return classifier(model, (4,), dtype)


def top_by_differences(objective: Objective) -> float:
    columns = []
    for unit in torch.eye(objective.numel, dtype=torch.float64):
        ends = []
        for distance in (1e-5, -1e-5):
            with objective.moved(objective.unflatten(unit), distance):
                ends.append(objective.flatten(objective.gradient()))
        columns.append((ends[0] - ends[1]) / 2e-5)
    return float(torch.linalg.eigvalsh(torch.stack(columns))[-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weight_norm_is_right_or_refused_and_both_remedies_work(dtype: torch.dtype) -> None:
    torchs = normed(weight_norm, dtype)
    true = top_by_differences(normed(weight_norm, torch.float64))
    try:
        value = float(eigenvalues(torchs).values)
    except ValueError as error:
        message = str(error)
        value = math.nan
    else:
        message = ""
    assert value == pytest.approx(true, rel=1e-4) or all(
        words in message
        for words in ("the hessian is not symmetric", "weight_norm's", "'0.parametrizations.weight.0'", "kind='ggn'")
    )
    parametrized = normed(lambda layer: parametrize.register_parametrization(layer, "weight", Norm()), dtype)
    assert all(map(torch.equal, parametrized.parameters, torchs.parameters))
    assert float(eigenvalues(parametrized).values) == pytest.approx(true, rel=1e-4)
    ggn = float(eigenvalues(torchs, kind="ggn").values)
    assert ggn == pytest.approx(float(eigenvalues(parametrized, kind="ggn").values), rel=1e-4)


def test_the_ggn_proposes_no_ggn() -> None:
    class Skewed(Curvature):
        def parts(self, vector: Any) -> Any:
            for share, parts in super().parts(vector):
                yield share, tuple(part + torch.arange(part.numel()).view(part.shape) * part.sum() for part in parts)

    with pytest.raises(ValueError, match="the ggn is not symmetric") as caught:
        Skewed(cases.objective("mlp"), "ggn").dense()
    assert "use kind" not in str(caught.value)


def test_multiples_round_differently() -> None:
    assert hvp._MULTIPLES[0] == 1
    assert all(math.frexp(multiple)[0] != 0.5 for multiple in hvp._MULTIPLES[1:])
