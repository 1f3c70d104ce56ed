"""The LSTM tagger: padding changes nothing, unknown words are one, and it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from valleys.lab.errors import LabError
from valleys.lab.problem.task import Split, Task
from valleys.lab.tasks.bilstm_ner import load
from valleys.lab.tasks.networks.bilstm import PADDING, BiLSTM
from valleys.lab.tasks.shared.metrics import IGNORED
from valleys.lab.tasks.table import ENTRIES

PEOPLE, PLACES = ("Ann", "Bob", "Cem"), ("Rome", "Oslo", "Bonn")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sentences = [f"{a} I-PER\nsaw O\n{p} I-LOC\n" for a in PEOPLE for p in PLACES] + ["once O\n"]
    for name in ("eng.train", "eng.testa", "eng.testb"):
        text = "\n".join(["-DOCSTART- O\n", *sentences])
        (tmp_path / name).write_text(text if name == "eng.train" else text + "\nnever O\n", encoding="utf-8")
    return tmp_path


def tensors(split: object) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(split, Split)
    assert isinstance(split.inputs, torch.Tensor)
    assert isinstance(split.targets, torch.Tensor)
    return split.inputs, split.targets


def model(dropout: float = 0.5) -> BiLSTM:
    torch.manual_seed(0)
    return BiLSTM(vocabulary=7, tags=5, embedding=6, hidden=4, layers=2, dropout=dropout)


@pytest.mark.parametrize("training", [False, True])
def test_neither_outputs_nor_dropout_see_the_padding(training: bool) -> None:
    words = torch.tensor([[1, 2, 3], [4, PADDING, PADDING], [5, 6, PADDING]])
    network = model().train(training)
    outputs = []
    for extra in (0, 5):
        torch.manual_seed(1)
        outputs.append(network(torch.nn.functional.pad(words, (0, extra), value=PADDING)))
    assert torch.equal(outputs[1][:, :3], outputs[0])
    assert not outputs[1][:, 3:].any()
    assert not outputs[0][words == PADDING].any()


def test_a_sentence_is_tagged_alone_as_among_others() -> None:
    words = torch.tensor([[4, PADDING, PADDING], [1, 2, 3]])
    network = model().eval()
    together = network(words)
    assert torch.allclose(together[0, :1], network(words[:1, :1])[0], atol=1e-6)
    assert torch.allclose(together[1], network(words[1:])[0], atol=1e-6)


def test_the_network_reads_in_both_directions() -> None:
    network = model().eval()
    first, second = network(torch.tensor([[1, 2, 3], [1, 2, 4]]))
    assert not torch.allclose(first[0], second[0])
    first, second = network(torch.tensor([[3, 2, 1], [4, 2, 1]]))
    assert not torch.allclose(first[2], second[2])


def test_paper_is_the_papers_problem(folder: Path) -> None:
    task = load(folder)
    assert (task.name, task.variant, task.epochs, task.batch_size) == ("bilstm-ner", "paper", 400, 10)
    assert (task.schedule.kind, task.schedule.drops, task.schedule.gamma) == ("step", 4, 0.1)
    network = task.build_model()
    assert isinstance(network, BiLSTM)
    lstm = network.lstm
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bidirectional) == (100, 128, 2, True)
    assert (lstm.dropout, network.dropout.p) == (0.5, 0.5)
    inputs, targets = tensors(task.train)
    assert inputs.shape == targets.shape == (10, 3)
    assert torch.equal(inputs == PADDING, targets == IGNORED)
    assert targets[0].tolist() == [3, 0, 1]


def test_a_word_that_training_has_once_or_never_is_unknown(folder: Path) -> None:
    task = load(folder)
    trained, held_out = tensors(task.train)[0], tensors(task.validation)[0]
    assert trained[-1, 0] == held_out[-2, 0] == held_out[-1, 0] == 1
    assert (trained[:-1] > 1).all()
    assert len(trained[:-1].unique()) == 7
    network = task.build_model()
    assert isinstance(network, BiLSTM)
    assert network.embedding.num_embeddings == 9


def test_smoke_learns(folder: Path) -> None:
    task = load(folder, "smoke")
    assert (task.variant, task.batch_size) == ("smoke", 10)
    torch.manual_seed(0)
    network = task.build_model()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    inputs, targets = tensors(task.train)
    for _ in range(25):
        optimizer.zero_grad()
        task.loss(network(inputs), targets).backward()
        optimizer.step()
    assert score(task, network) > 90


def score(task: Task, network: torch.nn.Module) -> float:
    inputs, targets = tensors(task.validation)
    with torch.no_grad():
        network.eval()
        parts = [
            task.metric(network(inputs[part]), targets[part]) * len(targets[part]) for part in (slice(4), slice(4, 99))
        ]
        whole = task.metric(network(inputs), targets)
    assert torch.allclose(sum(parts, torch.zeros(3)) / len(targets), whole)
    return task.score(whole)


def test_the_entry_loads_what_it_says(folder: Path) -> None:
    entry = ENTRIES["bilstm-ner"]
    assert [entry.load(folder, preset).variant for preset in entry.presets] == ["paper", "smoke"]
    with pytest.raises(LabError, match="lacks"):
        entry.load(folder / "nowhere", "paper")
