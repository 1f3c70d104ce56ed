"""Every block of docs/trainers.md and docs/distributed.md runs as written, after what a reader has by then."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import valleys
from distributed.worlds import spawn

DOCS = Path(__file__).parents[2] / "docs"


def sections(page: str) -> dict[str, str]:
    """The Python of each section of a page, all its blocks in a row."""
    parts = re.split(r"^## (.+)$", (DOCS / page).read_text(), flags=re.M)
    code = ["\n".join(re.findall(r"```python\n(.*?)```", part, flags=re.S)) for part in parts]
    return {title: block for title, block in zip(["", *parts[1::2]], code[0::2], strict=True) if block}


def run(page: str, section: str, folder: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs one in ``folder``.

    Returns:
        ``names`` and what it defined.
    """
    os.chdir(folder)
    names = {"torch": torch, "valleys": valleys, **names}
    exec(compile(sections(page)[section], f"{page}, {section}", "exec"), names)
    return names


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """Eight batches."""
    return DataLoader(TensorDataset(torch.randn(256, 8), torch.randint(4, (256,))), batch_size=32, shuffle=True)


def steps(optimizer: Any) -> set[int]:
    """Step counts of the parameters."""
    return {int(state["step"]) for state in optimizer.state.values()}


@pytest.fixture(autouse=True)
def _quiet_and_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tools' own
        yield


def test_a_section_that_no_test_here_runs_would_be_noticed() -> None:
    text = Path(__file__).read_text()
    for page in ("trainers.md", "distributed.md"):
        for section in sections(page):
            assert f'"{page}", "{section}"' in text, section


def test_plain(tmp_path: Path) -> None:
    names = run("trainers.md", "A plain loop", str(tmp_path), {})
    assert steps(names["optimizer"]) == {5}
    assert names["scheduler"].last_epoch == 5


def test_muon(tmp_path: Path) -> None:
    names = run("trainers.md", "Muon for the matrices, AdamW for the rest", str(tmp_path), {"model": network()})
    params = [p for optimizer in ("muon", "adamw") for group in names[optimizer].param_groups for p in group["params"]]
    assert {id(p) for p in params} == {id(p) for p in names["model"].parameters()}


def test_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="pip install accelerate")
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    model = network()
    context = {
        "model": model,
        "loss": nn.functional.cross_entropy,
        "global_batch_size": 128,
        "loader": loader(),
        "scheduler": torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD(model.parameters(), lr=1.0), lambda step: 1.0),
    }
    forget()  # what a Trainer of another test left
    try:
        names = run("trainers.md", "Accelerate", str(tmp_path), context)
    finally:
        forget()
    assert steps(names["optimizer"].optimizer) == {2}, "four micro-batches of 32 to an update"
    assert (tmp_path / "half").is_dir()


class Labelled(nn.Module):
    """A model as the Trainer wants it: labels in, loss out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(inputs), labels)}


def test_hugging_face(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install transformers accelerate")
    from transformers import TrainingArguments

    context = {
        "model": Labelled(),
        "args": TrainingArguments(
            str(tmp_path), max_steps=3, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
        ),
        "data": [{"inputs": torch.randn(8), "labels": 1} for _ in range(32)],
    }
    names = run("trainers.md", "Hugging Face Trainer", str(tmp_path), context)
    optimizer = names["trainer"].optimizer
    assert type(getattr(optimizer, "optimizer", optimizer)) is valleys.EAdamW
    assert steps(optimizer) == {3}


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="pip install lightning")
    names = run("trainers.md", "Lightning", str(tmp_path), {"net": network(), "loader": loader()})
    assert steps(names["trainer"].optimizers[0]) == {4}


def test_timm(tmp_path: Path) -> None:
    try:
        import timm.optim  # noqa: F401
    except ImportError as error:
        pytest.skip(f"pip install timm torchvision, on a torch that torchvision matches ({error})")
    names = run("trainers.md", "timm", str(tmp_path), {"model": network()})
    assert type(names["optimizer"]) is valleys.ALTO


def test_stable_baselines(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="pip install 'valleys[rl]'")
    names = run("trainers.md", "Stable-Baselines3", str(tmp_path), {})
    assert type(names["agent"].policy.optimizer) is valleys.EAdamW


def alone(page: str, section: str, folder: str) -> set[int]:
    """In a process group of one rank: what the section makes takes a step."""
    warnings.simplefilter("ignore")
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    model = Blocks(layers)
    names = run(page, section, folder, {"model": model})
    model(torch.randn(4, 8)).square().mean().backward()
    names["optimizer"].step()
    return steps(names["optimizer"])


class Blocks(nn.Module):
    """Blocks under the names that the pages use."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = self.blocks = layers

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = layer(inputs).relu()
        return inputs


def test_fsdp2(tmp_path: Path) -> None:
    assert spawn(alone, 1, "trainers.md", "FSDP2, torchtitan", str(tmp_path)) == [{1}]
    assert (tmp_path / "half" / ".metadata").exists()


def test_several_ranks(tmp_path: Path) -> None:
    assert spawn(alone, 1, "distributed.md", "", str(tmp_path)) == [{1}]


def test_several_layers_in_one_parameter(tmp_path: Path) -> None:
    experts = nn.Module()
    experts.w1 = nn.Parameter(torch.randn(8, 4, 4))
    layer = nn.ModuleDict({"experts": experts, "attention": nn.MultiheadAttention(12, 3)})
    model = nn.ModuleDict({"first": layer})
    names = run("distributed.md", "One parameter, several layers", str(tmp_path), {"model": model})
    assert valleys.ALTO(names["groups"], lr=1e-2)
    blocks = [group["blocks"] for group in names["groups"] if group.get("blocks")]
    assert len(blocks) == 2


def zero(folder: str) -> str:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29502")
    warnings.simplefilter("ignore")
    import deepspeed

    deepspeed.ops.__compatible_ops__.clear()
    deepspeed.init_distributed()
    names = run("trainers.md", "DeepSpeed", folder, {"model": network()})
    engine = names["engine"]
    engine.backward(engine(torch.randn(32, 8)).square().mean())
    engine.step()
    return type(names["optimizer"].optimizer).__name__


def test_deepspeed(tmp_path: Path) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DS_BUILD_OPS=0 pip install deepspeed (0.19.8 was tried)")
    assert spawn(zero, 1, str(tmp_path)) == ["EAdamW"]
