"""Origin of numbers: hardware, versions, command, date."""

from __future__ import annotations

import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["PACKAGES", "Others", "command", "peak_gigabytes", "provenance", "released"]

PACKAGES = ("torch", "valleys", "e-optimizer-adaptor", "pytorch_optimizer", "optax", "jax", "timm", "apex")

ROOT = Path(__file__).resolve().parents[1]


def provenance(device: str, threads: int, packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Conditions of a run's numbers; call it before the run starts, as the load is one of them.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: of torch.
        packages: distributions to name with their versions.

    Returns:
        Texts by label, in the order to print them.
    """
    conditions = {
        "command": f"`{command(sys.argv)}`",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, {_memory_gigabytes():.0f} GB of memory",
    }
    if device == "cuda":
        conditions["GPU"] = torch.cuda.get_device_name()
    conditions["threads"] = f"{threads} for torch; jax takes every core"
    conditions["load"] = f"{os.getloadavg()[0]:.2f} runnable processes in the minute before"
    conditions["versions"] = ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {released(name)}" for name in packages)]
    )
    conditions["commit"] = _commit()
    return conditions


class Others:
    """Share of the CPUs that other processes take between construction and :meth:`share`."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> str:
        """In words, for the report; a busy machine makes times worthless."""
        busy, own, wall = (now - start for now, start in zip(self._now(), self._start, strict=True))
        share = max(0.0, busy - own) / (wall * (os.cpu_count() or 1) or 1.0)
        warning = " - **too much: repeat on an idle machine**" if share > 0.05 else ""
        return f"{100 * share:.0f}% of the CPUs' time during the run{warning}"

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of all CPUs while busy, of this process and its finished children, of the clock."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        except OSError:
            return own, own, times.elapsed
        user, nice, system, _, _, *interrupts = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[:8])
        return user + nice + system + sum(interrupts), own, times.elapsed


def released(package: str) -> str:
    """The installed version of a distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def command(arguments: list[str]) -> str:
    """A command line that repeats the run from the repository's root, without paths of this machine.

    Args:
        arguments: ``sys.argv``.

    Example:
        >>> command(["benchmarks/step.py", "--set", "resnet50"])
        'python benchmarks/step.py --set resnet50'
    """
    script, *rest = arguments
    return shlex.join(["python", *(argument.replace(f"{ROOT}/", "") for argument in [_resolved(script), *rest])])


def peak_gigabytes() -> float:
    """The largest resident memory this process has had, in GB (10^9 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _resolved(script: str) -> str:
    path = Path(script).resolve()
    return str(path) if path.is_relative_to(ROOT) else path.name


def _cpu() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _memory_gigabytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _commit() -> str:
    call = ["git", "describe", "--always", "--dirty=, with uncommitted changes", "--abbrev=7"]
    try:
        return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
