"""Examples in memory and streamed: what is read, in which order, and that both train alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import Dataset, TensorDataset

import lab_fakes
from valleys.lab.errors import LabError
from valleys.lab.optimizers.spec import OptimizerSpec, Range
from valleys.lab.problem.data import Batch, Split, Stream
from valleys.lab.problem.task import Task
from valleys.lab.record import Record

CPU = torch.device("cpu")


class Named(Dataset[Any]):
    """Examples with two named inputs."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], int]:
        return {"x": torch.tensor([float(index)]), "mask": torch.tensor([index % 2])}, 10 * index


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.linear(batch["x"]) * batch["scale"]
        return out


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1, keepdim=True)


def task(streamed: bool = False, workers: int = 0, **changes: Any) -> Task:
    def made(count: int, seed: int) -> Split | Stream:
        x, y = points(count, seed)
        return Stream(TensorDataset(x, y), workers) if streamed else Split(x, y)

    return replace(
        Task(
            name="toy",
            train=made(30, 1),
            validation=made(9, 2),
            test=made(7, 3),
            build_model=lambda: nn.Linear(3, 1),
            loss=nn.functional.mse_loss,
            metric=nn.functional.mse_loss,
            metric_name="mse",
            maximize=False,
            target=0.1,
            epochs=2,
        ),
        **changes,
    )


def run(problem: Task, **options: Any) -> Record:
    spec = OptimizerSpec("toy", lambda model, v, plan: SGD(model.parameters(), lr=v["lr"]), {"lr": Range(1e-4, 1.0)})
    return lab_fakes.train_really(problem, spec, {"lr": 0.05}, **{"batch_size": 8, "seed": 0, "test": True, **options})


def losses(record: Record) -> list[tuple[float, float]]:
    return [(evaluation.train_loss, evaluation.validation) for evaluation in record.curve]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_trains_like_the_same_examples_in_memory(workers: int) -> None:
    assert losses(run(task())) == losses(run(task(streamed=True, workers=workers), micro_batch=None))
    assert losses(run(task(), micro_batch=3)) == losses(run(task(streamed=True), micro_batch=3))


def test_a_stream_draws_nothing_from_the_runs_generator() -> None:
    drops: dict[str, Any] = {"build_model": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))}
    assert losses(run(task(**drops))) == losses(run(task(streamed=True, **drops)))


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        raise LabError(f"example {index}: broken")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_data_is_one_line_wherever_it_is_found(workers: int) -> None:
    with pytest.raises(LabError) as caught:
        list(Stream(Broken(), workers).reader(CPU).read([torch.tensor([3])]))
    assert str(caught.value) == "example 3: broken"


def test_named_inputs_in_memory_and_streamed() -> None:
    ((inputs, targets),) = Stream(Named()).reader(CPU).read([torch.tensor([4, 1])])
    assert isinstance(inputs, dict)
    assert (inputs["x"].tolist(), inputs["mask"].tolist()) == ([[4.0], [1.0]], [[0], [1]])
    assert isinstance(targets, Tensor)
    assert targets.tolist() == [40, 10]
    x, y = points(30, 1)
    features = {"x": x, "scale": torch.full((30, 1), 1.0)}
    small = {"x": x[:9], "scale": torch.ones(9, 1)}
    split = Split(small, y[:9])
    problem = task(train=Split(features, y), validation=split, test=split, build_model=TwoInputs)
    plain = task(validation=Split(x[:9], y[:9]), test=Split(x[:9], y[:9]))
    assert losses(run(problem)) == losses(run(plain))
    assert len(split) == 9


def test_a_split_needs_as_many_targets_as_inputs() -> None:
    with pytest.raises(LabError, match="hold 3, 4 examples"):
        Split(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(LabError, match="hold 3, 4 examples"):
        Split({"a": torch.zeros(3), "b": torch.zeros(4)}, torch.zeros(4))


def test_a_metric_that_is_no_mean_is_finished_after_the_whole_split() -> None:
    """An F1 score of a classifier that is fixed, whatever the micro-batches."""

    def counts(outputs: Tensor, targets: Tensor) -> Tensor:
        guess, true = outputs > 0, targets > 0
        return torch.stack([(guess & true).float(), (guess & ~true).float(), (~guess & true).float()]).mean((1, 2))

    def f1(means: Tensor) -> float:
        tp, fp, fn = means.tolist()
        return float(100 * 2 * tp / (2 * tp + fp + fn))

    problem = task(metric=counts, finish=f1, maximize=True)
    (whole, split) = (run(problem, epochs=1, micro_batch=size) for size in (None, 2))
    assert isinstance(whole.test, float)
    assert whole.test == pytest.approx(split.test)
    model = problem.build_model()
    x, y = points(7, 3)
    prediction, true = model(x) > 0, y > 0
    tp = (prediction & true).sum().item()
    means = counts(model(x), y)
    assert problem.score(means) == pytest.approx(100 * 2 * tp / (prediction.sum().item() + true.sum().item()))


def test_a_metric_of_something_not_finite_diverges() -> None:
    record = run(task(metric=lambda outputs, targets: torch.tensor([1.0, float("nan")]), finish=lambda means: 1.0))
    assert record.diverged


def test_augmentation_sees_training_inputs_alone_and_is_the_seeds() -> None:
    sizes: list[int] = []

    def shift(inputs: Batch, generator: torch.Generator) -> Batch:
        assert isinstance(inputs, Tensor)
        sizes.append(len(inputs))
        return inputs + torch.randn(inputs.shape, generator=generator)

    first, second, other = (run(task(augment=shift), seed=seed, micro_batch=5) for seed in (0, 0, 1))
    assert losses(first) == losses(second) != losses(other)
    assert set(sizes) == {5, 3}, "validation and test batches of 5, 4 and 5, 2 were left alone"
    assert losses(first) != losses(run(task(), micro_batch=5))


def test_bfloat16_computes_forward_passes_in_bfloat16_and_keeps_float32_weights() -> None:
    dtypes: list[torch.dtype] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        dtypes.append(outputs.dtype)
        return nn.functional.mse_loss(outputs.float(), targets)

    record = run(task(loss=loss), precision="bfloat16")
    assert set(dtypes) == {torch.bfloat16}
    assert record.parameter_bytes == 4 * 4
    with pytest.raises(LabError, match="precision 'float16': choose one of float32, bfloat16"):
        run(task(), precision="float16")


def test_channels_last_lays_out_images_and_changes_no_result() -> None:
    layouts: list[bool] = []

    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            out: Tensor = self.conv(x).mean((1, 2, 3))[:, None]
            return out

    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    split = Split(images, images.mean((1, 2, 3))[:, None])
    problem = task(train=split, validation=split, test=split, build_model=Look)
    plain, laid_out = losses(run(problem)), losses(run(replace(problem, channels_last=True)))
    assert layouts.count(True) == layouts.count(False) > 0
    layouts.clear()
    assert losses(run(replace(problem, channels_last="cpu"))) == laid_out
    assert all(layouts)
    assert [loss for pair in plain for loss in pair] == pytest.approx(
        [loss for pair in laid_out for loss in pair], rel=1e-5
    )
