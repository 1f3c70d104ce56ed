"""Lightning: automatic and manual optimization, clipping, accumulation; a checkpoint resumed to the same bits."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what lightning imports
    pytest.importorskip("lightning", reason="pip install lightning")
    from integrations.examples import differences, example, snapshot, watched

    lightning_module, digits = example("lightning_module"), example("digits")

# Of Lightning 2.6 on torch 2.13, and hints about worker processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
]


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("name", ["alto", "eadamw"])
def test_trains_and_resumes_exactly(name: str, manual: bool, tmp_path: Path) -> None:
    with watched() as trace:
        model, optimizer = lightning_module.main(["--optimizer", name, "--checkpoint", str(tmp_path)], manual)
    assert {images for images, _ in trace} == {128}, "one batch, or two micro-batches of 64"
    assert max(norm for _, norm in trace) == pytest.approx(1.0, abs=1e-4), "clipped"
    assert digits.accuracy(model) >= 95
    steps = {float(state["step"]) for state in optimizer.state.values()}
    assert steps == {88.0}, "one step per update, whatever the number of micro-batches"
    again = lightning_module.main(["--optimizer", name, "--resume", str(tmp_path / "half.ckpt")], manual)
    assert differences(snapshot(model, optimizer), snapshot(*again)) == []
