"""Report on this installation: packages, kernels that work here, and reasons of those that do not."""

from __future__ import annotations

import io
import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata

import torch

from valleys.alto import ALTO
from valleys.kernels import Needs
from valleys.kernels.c import openmp, prebuilt
from valleys.kernels.c.compiler import CompileError, cache_directory
from valleys.kernels.choice import FUSED, fused_backend

__all__ = ["report"]

DTYPES = (torch.float32, torch.bfloat16)
"""Of the parameters that the kernels are tried on."""

INTEGRATIONS = ("accelerate", "transformers", "lightning", "deepspeed", "timm", "stable-baselines3", "torchvision")
"""Trainers, and what is known to stop them."""

_AGREES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative difference from the multi-tensor backend: rounding of the parameters' type."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: good if it works, None where there is nothing to judge."""

    subject: str
    good: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "no", None: "--"}[self.good]
        return f"  {mark:2}  {self.subject:24} {self.text}"


def machine() -> list[Finding]:
    """Return findings on Python, torch and the devices, none of which is bad.

    Example:
        >>> [finding.subject for finding in machine()][:3]
        ['valleys', 'Python', 'torch']
    """
    cpu = f"{os.cpu_count()} processors, torch uses {torch.get_num_threads()} threads"
    findings = [
        Finding("valleys", None, metadata.version("valleys")),
        Finding("Python", None, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("torch", None, torch.__version__),
        Finding("CPU", None, cpu),
    ]
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        text = f"{torch.cuda.get_device_name(number)}, compute capability {major}.{minor}"
        findings.append(Finding(f"cuda:{number}", None, text))
    if not torch.cuda.is_available():
        findings.append(Finding("CUDA", None, "no device, or a build of torch without CUDA"))
    threads = "" if openmp.runtime()[0] else "; one thread, for torch has loaded no OpenMP runtime that they know"
    findings.append(Finding("C kernels", None, prebuilt.status() + threads))
    try:
        text = f"kept in {cache_directory()}; VALLEYS_CACHE_DIR moves them"
    except CompileError as error:
        text = str(error)
    findings.append(Finding("compiled C kernels", None, text))
    return findings


def backends(names: tuple[str, ...] = FUSED) -> list[Finding]:
    """Make a step of ALTO with each backend, on each device, in each of ``DTYPES``, and compare it with foreach's.

    Example:
        >>> [finding.subject for finding in backends(("c",))]
        ['c, cpu, float32', 'c, cpu, bfloat16']
    """
    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [_try(name, torch.device(device), dtype) for device in devices for name in names for dtype in DTYPES]


def extras() -> list[Finding]:
    """List the installed optional dependencies, extra by extra; good if nothing is missing or too old.

    Example:
        >>> "valleys[lab]" in [finding.subject for finding in extras()]
        True
    """
    findings = []
    for extra in metadata.metadata("valleys").get_all("Provides-Extra") or []:
        if extra in ("test", "dev", "docs"):
            continue
        states = [_installed(name, requirement) for name, requirement in _required(extra)]
        lacking = [text for good, text in states if not good]
        if not lacking:
            text = ", ".join(text for _, text in states)
        else:
            text = f"{'; '.join(lacking)}: pip install 'valleys[{extra}]'"
        findings.append(Finding(f"valleys[{extra}]", not lacking, text))
    return findings


def works_together() -> list[Finding]:
    """Return a finding for each of ``INTEGRATIONS`` that is installed: good if it imports beside this torch.

    Example:
        >>> all(finding.subject in INTEGRATIONS for finding in works_together())
        True
    """
    findings = []
    for name in INTEGRATIONS:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        output = io.StringIO()  # some speak when they are imported
        try:
            with redirect_stdout(output), redirect_stderr(output), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                __import__(name.replace("-", "_"))
        except Exception as error:  # whatever a foreign package raises is the answer
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            findings.append(Finding(name, False, f"{version} does not import: {reason}"))
        else:
            findings.append(Finding(name, True, version))
    return findings


def report(names: tuple[str, ...] = FUSED) -> Iterator[str]:
    """The whole report, line by line as it is found.

    Args:
        names: of the backends to try. Default: all.

    Returns:
        Lines of text.

    Example:
        >>> next(report())
        'This machine'
    """
    parts = (
        ("This machine", machine),
        ("Kernels: a step of ALTO beside the multi-tensor backend's, which always works", lambda: backends(names)),
        ("Extras", extras),
        ("Trainers", works_together),
    )
    for title, look in parts:
        yield title
        yield from map(str, look() or [Finding("none", None, "is installed")])
        yield ""


def _try(name: str, device: torch.device, dtype: torch.dtype) -> Finding:
    subject = f"{name}, {device}, {str(dtype).removeprefix('torch.')}"
    _, problem = fused_backend(name, device, Needs(dtype, dtype, dtype))
    if problem is not None:
        return Finding(subject, False, problem)
    try:
        result, expected = _step({"fused": name}, device, dtype), _step({"foreach": True}, device, dtype)
    except Exception as error:  # a kernel that compiles may still not run
        return Finding(subject, False, f"its step fails: {str(error).strip().splitlines()[0]}")
    apart = float((result - expected).abs().max() / expected.abs().max())
    if not apart <= _AGREES[dtype]:  # NaN is not
        return Finding(subject, False, f"its step is wrong by {apart:.1e}; use foreach=True, and please report it")
    return Finding(subject, True, f"agrees to {apart:.0e}")


def _step(options: dict[str, object], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(33, 65, generator=generator).to(device, dtype).requires_grad_()
    # Without stochastic rounding, which would give each backend its own last bits.
    optimizer = ALTO([parameter], stochastic_rounding=False, **options)  # type: ignore[arg-type]
    for _ in range(2):
        parameter.grad = torch.randn(33, 65, generator=generator).to(device, dtype)
        optimizer.step()
    return parameter.detach().double().cpu()


def _required(extra: str) -> Iterator[tuple[str, str]]:
    """Names and version bounds of an extra's own packages."""
    for line in metadata.requires("valleys") or []:
        requirement, _, marker = line.partition(";")
        if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
            assert name is not None
            bound = re.search(r">=\s*([0-9.]+)", requirement)
            yield name[0], bound[1] if bound else ""


def _installed(name: str, least: str) -> tuple[bool, str]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, f"{name} is missing"
    if _numbers(version) < _numbers(least):
        return False, f"{name} {version} is older than {least}"
    return True, f"{name} {version}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
