"""timm's registry: what is entered, and a run through timm itself where it imports."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import valleys
import valleys.integrations.timm
from integrations.examples import differences, example, snapshot

digits = example("digits")


@dataclass
class Info:
    """timm's OptimInfo, by its fields."""

    name: str
    opt_class: Any
    description: str = ""
    has_eps: bool = True
    has_momentum: bool = False
    has_betas: bool = False
    num_betas: int = 2


class Registry:
    def __init__(self) -> None:
        self.entries: dict[str, Info] = {}
        self.registered: list[str] = []

    def register(self, info: Info) -> None:
        self.registered.append(info.name)
        self.entries[info.name] = info

    def list_optimizers(self) -> list[str]:
        return sorted(self.entries)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Modules of timm's names with no more than its registry in them."""
    result = Registry()
    timm, optim, factory = (types.ModuleType(n) for n in ("timm", "timm.optim", "timm.optim._optim_factory"))
    optim.OptimInfo, factory.default_registry = Info, result  # type: ignore[attr-defined]
    for module in (timm, optim, factory):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return result


def test_entries(registry: Registry) -> None:
    assert valleys.integrations.timm.register() == valleys.integrations.timm.NAMES == tuple(registry.registered)
    assert not any("_" in name for name in registry.entries), "timm reads what follows the last underscore"
    assert {i.name: i.num_betas for i in registry.entries.values()}["alto"] == 2
    valleys.integrations.timm.register()
    assert len(registry.registered) == 5, "the second time adds nothing"


def test_every_entry_makes_its_optimizer_of_the_groups_that_timm_makes(registry: Registry) -> None:
    valleys.integrations.timm.register()
    classes: tuple[Any, ...] = (valleys.ALTO, valleys.Lamb, valleys.ESGD, valleys.EAdam, valleys.EAdamW)
    for (name, info), cls in zip(registry.entries.items(), classes, strict=True):
        model = digits.network()
        flat = [p for p in model.parameters() if p.ndim <= 1]
        weights = [p for p in model.parameters() if p.ndim > 1]
        groups = [{"params": flat, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.05}]
        betas = {"betas": (0.9,) * info.num_betas} if info.has_betas else {}
        momentum = {"momentum": 0.9} if info.has_momentum else {}
        optimizer: Any = info.opt_class(groups, lr=0.01, **betas, **momentum, **({"eps": 1e-7} if info.has_eps else {}))
        assert type(optimizer) is cls
        for option in ("betas", "momentum", "eps"):
            assert getattr(info, f"has_{option}") == (option in optimizer.defaults), "timm keeps to itself what has not"
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.05]
        if name in ("alto", "valleyslamb"):
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            optimizer.step()
            assert list(optimizer.trust_ratios()) == weights
            plain = info.opt_class([{"params": flat, "layer_adaptation": True}])
            assert plain.param_groups[0]["layer_adaptation"] is True


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "timm.optim", raising=False)
    with pytest.raises(ImportError, match="pip install timm torchvision"):
        valleys.integrations.timm.register()


@pytest.mark.parametrize("name", ["alto", "eadamw"])
def test_timm_itself_trains_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    try:
        import timm.optim  # noqa: F401
    except ImportError as error:
        pytest.skip(f"pip install timm torchvision, on a torch that torchvision matches ({error})")
    timm_registry = example("timm_registry")
    model, optimizer = timm_registry.main(["--optimizer", name, "--checkpoint", str(tmp_path / "half")])
    assert type(optimizer) is {"alto": valleys.ALTO, "eadamw": valleys.EAdamW}[name]
    assert digits.accuracy(model) >= 95
    again = timm_registry.main(["--optimizer", name, "--resume", str(tmp_path / "half")])
    assert differences(snapshot(model, optimizer), snapshot(*again)) == []
    assert torch.is_grad_enabled()
