"""The environment of a comparison: versions, processor, device."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch


def environment(device: str, ranks: int = 1) -> dict[str, Any]:
    """Versions and hardware, for the report and for a warning when they change between two sessions.

    Example:
        >>> sorted(environment("cpu"))
        ['cpus', 'device', 'python', 'ranks', 'threads', 'torch', 'valleys']
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "valleys": version("valleys"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine(),
        "ranks": ranks,
    }
