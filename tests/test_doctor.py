"""The doctor tells the truth: what works, what is missing, what is broken."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from valleys import doctor
from valleys.kernels import c, foreach


def test_every_backend_and_type_has_a_line_and_native_works() -> None:
    findings = {finding.subject: finding for finding in doctor.backends(("c", "triton"))}
    assert list(findings) == [f"{name}, cpu, {dtype}" for name in ("c", "triton") for dtype in ("float32", "bfloat16")]
    native_line = findings["c, cpu, float32"]
    assert native_line.good, native_line.text
    assert native_line.text.startswith("agrees to ")
    triton_line = findings["triton, cpu, float32"]
    if not triton_line.good:
        assert "Triton kernels" in triton_line.text or "triton" in triton_line.text


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_kernel_that_computes_nonsense_is_not_called_good(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    right = c.alto_

    def wrong(tensors: Any, rule: Any, clip: Any = None, skip: Any = None) -> None:
        right(tensors, rule, clip)
        for parameter in tensors.params:
            parameter.mul_(factor)

    monkeypatch.setattr(c, "alto_", wrong)
    finding = doctor.backends(("c",))[0]
    assert finding.good is False
    assert "wrong by" in finding.text
    assert "foreach=True" in finding.text


def test_a_kernel_that_fails_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such instruction\nmore")

    monkeypatch.setattr(c, "alto_", broken)
    finding = doctor.backends(("c",))[0]
    assert (finding.good, finding.text) == (False, "its step fails: no such instruction")


def test_the_doctor_compares_with_an_independent_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreach, "alto_", lambda *_: None)
    assert not doctor.backends(("c",))[0].good


def test_what_is_missing_or_old_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    true = metadata.version
    here = {"jax": "0.7.0", "optax": "0.2.8"}

    def version(name: str) -> str:
        if name in ("jax", "optax") and name not in here:
            raise metadata.PackageNotFoundError(name)
        return here.get(name) or true(name)

    monkeypatch.setattr(metadata, "version", version)
    assert {finding.subject: finding.good for finding in doctor.extras()}["valleys[jax]"]
    del here["optax"]
    here["jax"] = "0.4.2+local9"
    findings = {finding.subject: finding for finding in doctor.extras()}
    assert findings["valleys[jax]"].good is False
    text = findings["valleys[jax]"].text
    assert text == "jax 0.4.2+local9 is older than 0.7; optax is missing: pip install 'valleys[jax]'"
    assert "valleys[test]" not in findings


def test_extras_of_the_metadata_are_all_looked_at() -> None:
    subjects = {finding.subject for finding in doctor.extras()}
    assert subjects == {
        f"valleys[{extra}]"
        for extra in metadata.metadata("valleys").get_all("Provides-Extra") or []
        if extra not in ("test", "dev", "docs")
    }
    assert all(finding.text for finding in doctor.extras())


def test_a_trainer_that_does_not_import_is_no_good_and_none_is_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speaks = "import warnings; print('here I am'); warnings.warn('old'); "
    (tmp_path / "accelerate.py").write_text(f"{speaks}raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "accelerate", raising=False)
    monkeypatch.setattr(doctor, "INTEGRATIONS", ("accelerate", "nothing-of-this-name"))
    monkeypatch.setattr(metadata, "version", {"accelerate": "1.2.3"}.__getitem__)
    monkeypatch.setattr(metadata, "PackageNotFoundError", KeyError)
    (finding,) = doctor.works_together()
    assert (finding.good, finding.text) == (False, "1.2.3 does not import: operator nms does not exist")
    assert capsys.readouterr() == ("", "")


WITHOUT_TYPER = "import sys; sys.modules['typer'] = None"
# As pip leaves it: torch does not even bring numpy.
TORCH_ALONE = "import sys; sys.modules.update(dict.fromkeys({}))".format(
    ["numpy", "scipy", "matplotlib", "typer", "rich", "optuna", "sklearn", "jinja2", "filelock", "pytorch_optimizer"]
)


def run(*arguments: str, before: str = "import sys") -> subprocess.CompletedProcess[str]:
    code = f"{before}; sys.argv = {['valleys', *arguments]}; from valleys.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "before",
    # Importing every trainer takes seconds.
    ["import sys", f"{WITHOUT_TYPER}; from valleys import doctor; doctor.INTEGRATIONS = ()", TORCH_ALONE],
    ids=["with the lab", "without typer", "torch alone"],
)
def test_the_command_works_with_and_without_the_lab(before: str) -> None:
    process = run("doctor", "--no-compiled", before=before)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("This machine")
    assert torch.__version__ in process.stdout
    assert "c, cpu, float32" in process.stdout
    assert "compiled, cpu" not in process.stdout


@pytest.mark.parametrize("before", [WITHOUT_TYPER, TORCH_ALONE], ids=["without typer", "torch alone"])
def test_without_the_lab_the_version_is_shown_and_other_commands_say_what_is_missing(before: str) -> None:
    assert run("--version", before=before).stdout == metadata.version("valleys") + "\n"
    for arguments in (["tasks"], ["doctor", "--nothing"], []):
        process = run(*arguments, before=before)
        assert process.returncode == 2
        assert process.stderr.splitlines()[-1].endswith("pip install 'valleys[lab]'")
        assert "Traceback" not in process.stderr
