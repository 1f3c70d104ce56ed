"""Products with the Hessian and the GGN against dense matrices, closed forms and finite differences."""

import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape import curvature_cases as cases
from valleys.landscape.curvature import hvp
from valleys.landscape.curvature.hvp import Curvature
from valleys.landscape.objective import Objective
from valleys.landscape.progress import reporter


def close(found: Tensor, true: Tensor, tolerance: float = 1e-12) -> None:
    assert found.dtype == true.dtype
    assert float((found - true).abs().max()) <= tolerance * float(true.abs().max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", cases.MODELS)
def test_hessian_is_the_dense_one(name: str, reduction: str) -> None:
    curvature = Curvature(cases.objective(name, reduction))
    true = cases.dense_hessian(name, reduction)
    rows = torch.stack([curvature.matvec_flat(unit) for unit in torch.eye(curvature.numel, dtype=torch.float64)])
    close(rows, true)
    close(curvature.dense(), true)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", cases.MODELS)
def test_ggn_is_the_dense_one(name: str, reduction: str) -> None:
    product = Curvature(cases.objective(name, reduction), "ggn").dense()
    close(product, cases.dense_ggn(name, reduction))
    assert float(torch.linalg.eigvalsh(product)[0]) > -1e-14 * sum(cases.SIZES)


def test_sum_is_the_mean_times_the_examples() -> None:
    mean, total = (Curvature(cases.objective("mlp", reduction)).dense() for reduction in ("mean", "sum"))
    close(total, mean * sum(cases.SIZES))


@pytest.mark.parametrize("kind", hvp.KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_how_the_examples_are_cut_into_batches_does_not_matter(reduction: str, kind: str) -> None:
    whole, parts, single = (
        Curvature(cases.objective("mlp", reduction, sizes), kind).dense() for sizes in ((12,), (1, 9, 2), (1,) * 12)
    )
    close(parts, whole)
    close(single, whole)


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_linear_regression(kind: str) -> None:
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    batches = list(zip(x.split(3), y.split(3), strict=True))
    close(Curvature(Objective(model, functional.mse_loss, batches), kind).dense(), 2 / 7 * x.T @ x)


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_logistic_regression(kind: str) -> None:
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.rand(9, 1, dtype=torch.float64).round()
    model = nn.Linear(4, 1, bias=False).double()
    p = model(x).sigmoid().detach()
    objective = Objective(
        model, functional.binary_cross_entropy_with_logits, list(zip(x.split(4), y.split(4), strict=True))
    )
    close(Curvature(objective, kind).dense(), x.T @ (p * (1 - p) * x) / 9)


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_recurrent_layers_against_differences_of_gradients(kind: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.lstm(x)[0][:, -1]
            return output

    data = [(torch.randn(4, 5, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64))]
    objective = Objective(Last().double(), functional.mse_loss, data)
    if kind == "ggn":  # with outputs as targets the residuals vanish, and with them all that the GGN leaves out
        objective = Objective(
            objective.model, functional.mse_loss, [(data[0][0], objective.model(data[0][0]).detach())]
        )
    vector = objective.unflatten(torch.randn(objective.numel, dtype=torch.float64))
    ends = []
    for distance in (1e-5, -1e-5):
        with objective.moved(vector, distance):
            ends.append(objective.flatten(objective.gradient()))
    product = objective.flatten(Curvature(objective, kind).matvec(vector))
    close(product, (ends[0] - ends[1]) / 2e-5, 1e-7)


def test_a_choice_of_parameters_is_a_block_of_the_whole() -> None:
    whole = cases.objective("mlp")
    bias, weight = list(whole.model.parameters())[1:3]
    block = Objective(whole.model, whole.loss, cases.batches((4,)), parameters=[weight, bias])
    places = [*range(25, 40), *range(20, 25)]
    for kind, true in (("hessian", cases.dense_hessian("mlp")), ("ggn", cases.dense_ggn("mlp"))):
        close(Curvature(block, kind).dense(), true[places][:, places])


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_parameters_that_the_loss_does_not_depend_on_give_zeros(kind: str) -> None:
    model = cases.mlp().double()
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    objective = Objective(model, cases.cross_entropy("mean"), cases.batches((4,)))
    product = Curvature(objective, kind).dense()
    assert model.idle is objective.parameters[0]
    assert not product[:2].any()
    assert product[2:, 2:].any()
    nothing = Objective(model, cases.cross_entropy("mean"), cases.batches((4,)), parameters=[objective.parameters[0]])
    assert not Curvature(nothing, kind).dense().any()


def test_a_loss_that_is_linear_in_the_parameters_has_no_hessian() -> None:
    model = nn.Linear(2, 1)
    objective = Objective(model, lambda z, y: (z - y).mean(), [(torch.ones(3, 2), torch.zeros(3, 1))])
    assert not Curvature(objective).dense().any()


def test_a_loss_without_a_gradient_has_no_curvature() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return x

    objective = Objective(Constant(), functional.mse_loss, [(torch.ones(3, 2), torch.zeros(3, 2))])
    for kind in hvp.KINDS:
        assert not Curvature(objective, kind).dense().any()


def test_outputs_that_depend_on_each_other_count_once() -> None:
    class Both(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> dict[str, Any]:
            assert isinstance(self.inner, nn.Sequential)
            hidden = self.inner[:2](x)
            return {"hidden": hidden, "more": [self.inner[2](hidden), None], "name": "both"}

    objective = Objective(
        Both(cases.objective("mlp").model),
        lambda out, y: functional.cross_entropy(out["more"][0], y),
        cases.batches((4,)),
    )
    close(Curvature(objective, "ggn").dense(), cases.dense_ggn("mlp"))
    close(Curvature(objective).dense(), cases.dense_hessian("mlp"))


def test_a_loss_linear_in_the_outputs_is_refused_and_the_remedy_works() -> None:
    inner = cases.objective("mlp").model
    objective = Objective(nn.Sequential(inner, nn.LogSoftmax(-1)), functional.nll_loss, cases.batches((4,)))
    with pytest.raises(ValueError, match="linear in the model's outputs"):
        Curvature(objective, "ggn").dense()
    close(Curvature(objective).dense(), cases.dense_hessian("mlp"))
    # Log-probabilities are logits as well.
    close(Curvature(objective, "ggn", outputs_loss=functional.cross_entropy).dense(), cases.dense_ggn("mlp"))


def test_a_model_that_returns_its_own_loss_is_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cases.mlp().double()

        def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return functional.cross_entropy(self.inner(batch[0]), batch[1])

    objective = Objective(Own(), cases.itself, [(batch, batch[1]) for batch in cases.batches((4,))])
    with pytest.raises(ValueError, match="linear in the model's outputs"):
        Curvature(objective, "ggn").dense()


def test_a_saturated_loss_is_not_taken_for_a_linear_one() -> None:
    model = nn.Linear(2, 2)
    batch = (torch.ones(1, 2), torch.tensor([0]))
    model.bias.data += torch.tensor([300.0, 0.0])
    assert not Curvature(Objective(model, functional.cross_entropy, [batch]), "ggn").dense().any()


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_nothing_is_touched(kind: str) -> None:
    objective = cases.objective("conv")
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    first = objective.parameters[0]
    first.grad = torch.full_like(first, 7)
    vector = torch.randn(objective.numel, dtype=torch.float64)
    copy_of_vector = vector.clone()
    with torch.no_grad():
        product = Curvature(objective, kind).matvec_flat(vector)
        assert not torch.is_grad_enabled()
    assert not product.requires_grad
    assert bool(product.any())
    assert torch.equal(product, Curvature(objective, kind).matvec_flat(vector))
    assert torch.equal(vector, copy_of_vector)
    assert bool((first.grad == 7).all())
    assert all(parameter.grad is None for parameter in objective.parameters[1:])
    assert all(torch.equal(value, before[name]) for name, value in objective.model.state_dict().items())
    assert not objective.model.training


def test_a_product_that_is_the_vector_itself_is_a_copy() -> None:
    theta = nn.Linear(3, 1, bias=False).double()
    objective = Objective(
        theta, lambda z, y: theta.weight.square().sum() / 2, [(torch.ones(2, 3).double(), torch.ones(2))] * 2
    )
    vector = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    curvature = Curvature(objective)
    assert curvature.matvec_flat(vector).tolist() == [1, 2, 3]
    assert [part[0].tolist() for _, part in curvature.parts(objective.unflatten(vector))] == [[[0.5, 1, 1.5]]] * 2
    assert vector.tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", hvp.KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_add_up_and_shares_are_those_of_the_examples(kind: str, reduction: str) -> None:
    curvature = Curvature(cases.objective("mlp", reduction), kind)
    vector = curvature.objective.unflatten(torch.randn(curvature.numel, dtype=torch.float64))
    shares, parts = zip(*curvature.parts(vector), strict=True)
    assert shares == (5 / 12, 3 / 12, 4 / 12)
    for number, total in enumerate(curvature.matvec(vector)):
        close(sum(part[number] for part in parts), total)


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_one_graph_is_alive_at_a_time(kind: str) -> None:
    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    saved: weakref.WeakSet[Saved] = weakref.WeakSet()
    at_start, most = [], 0

    def pack(tensor: Tensor) -> Saved:
        nonlocal most
        holder = Saved(tensor.detach())  # else an output and its node would hold each other
        saved.add(holder)
        most = max(most, len(saved))
        return holder

    objective = cases.objective("mlp")
    objective.model.register_forward_pre_hook(lambda *_: at_start.append(len(saved)))
    vector = torch.ones(objective.numel, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        Curvature(objective, kind).matvec_flat(vector)
    assert at_start == [0] * 6  # the second product is the test of symmetry
    assert most > 3


@pytest.mark.parametrize("kind", hvp.KINDS)
def test_float32_is_float64_to_its_precision(kind: str) -> None:
    true = (cases.dense_hessian if kind == "hessian" else cases.dense_ggn)("attention")
    objective = cases.objective("attention")
    batches = [(inputs.float(), targets) for inputs, targets, _ in objective.batches()]
    curvature = Curvature(Objective(objective.model.float(), objective.loss, batches), kind)
    assert curvature.dtype == torch.float32
    assert curvature.matvec_flat(torch.ones(curvature.numel)).dtype == torch.float32
    close(curvature.dense(), true, 1e-5)


def test_mixed_types_use_the_widest() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.a * self.b

    curvature = Curvature(
        Objective(Mixed(), functional.mse_loss, [(torch.ones(1), torch.zeros(1, dtype=torch.float64))])
    )
    assert curvature.dtype == torch.float64
    assert curvature.dense().tolist() == [[2, 4], [4, 2]]
    assert [part.dtype for part in curvature.matvec(curvature.objective.parameters)] == [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    model = nn.Linear(2, 1).to(dtype)
    batch = (torch.ones(1, 2, dtype=dtype), torch.zeros(1, 1, dtype=dtype))
    with pytest.raises(ValueError, match=r"model.float\(\)"):
        Curvature(Objective(model, functional.mse_loss, [batch]))


def test_what_cannot_be_differentiated_is_refused() -> None:
    objective = cases.objective("mlp")
    with pytest.raises(ValueError, match=r"kind 'fisher': choose one of hessian, ggn"):
        Curvature(objective, "fisher")
    with pytest.raises(ValueError, match="choose kind='ggn'"):
        Curvature(objective, outputs_loss=functional.cross_entropy)
    with pytest.raises(ValueError, match=r"vector: 1 tensors"):
        Curvature(objective).matvec([torch.ones(44)])
    with pytest.raises(ValueError, match=r"vector: 4 tensors"):
        Curvature(objective).matvec([torch.ones(1)] * 4)
    objective.parameters[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"shape \(5,\) requires no gradient"):
        Curvature(objective)


def test_a_compiled_model_is_refused() -> None:
    objective = cases.objective("mlp")
    compiled = torch.compile(objective.model, backend="eager")
    assert isinstance(compiled, nn.Module)
    with pytest.raises(ValueError, match="compiled"):
        Curvature(Objective(compiled, objective.loss, cases.batches((4,)), check=False))


def test_a_point_without_second_derivative_is_refused() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    objective = Objective(model, lambda z, y: (z - y).norm(), [(torch.ones(1, 2), torch.zeros(1, 1))])
    with pytest.raises(RuntimeError, match="not finite"):
        Curvature(objective).matvec_flat(torch.ones(2))


def test_a_dense_matrix_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    curvature = Curvature(cases.objective("mlp"))
    vectors = 3 * curvature.numel
    monkeypatch.setattr(hvp, "_memory", lambda device: vectors * curvature.numel * 8.0)
    curvature.dense()
    monkeypatch.setattr(hvp, "_memory", lambda device: vectors * curvature.numel * 8.0 - 1)
    with pytest.raises(ValueError, match=r"129 vectors of 43 parameters take .* small models"):
        curvature.dense()


def test_memory_of_this_machine_is_known() -> None:
    assert hvp._memory(torch.device("cpu")) > 2**28
    if sys.platform == "linux":
        assert hvp._memory(torch.device("cpu")) < 2**50


def test_progress_goes_to_a_function_or_a_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    reporter(lambda done, total: calls.append((done, total)), "x")(1, 2)
    assert calls == [(1, 2)]
    reporter(True, "x")(1, 2)
    reporter(None, "x")(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    report = reporter(True, "trace")
    report(1, 2)
    report(2, 2)
    reporter(False, "x")(1, 2)
    assert capsys.readouterr().err == "\rtrace: 1 of 2 products\rtrace: 2 of 2 products\n"
