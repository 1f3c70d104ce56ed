"""Four host devices: sharded arrays under jit, shard_map and pmap make the step of one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from transformations.cases import COMPILER

FLAGS = [f"--{name}={str(value).lower()}" for name, value in COMPILER.items()]
HERE = Path(__file__).parent


def test_four_devices_make_the_step_of_one() -> None:
    # A process of its own: XLA reads the number of devices once.
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join(["--xla_force_host_platform_device_count=4", *FLAGS]),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.run(
        [sys.executable, str(HERE / "sharded.py")], env=environment, capture_output=True, text=True, timeout=240
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    assert results["devices"] == 4
    for kind in ("Explicit", "Auto"):
        error, compilations, sharding_kept = results[f"jit, {kind}"]
        assert error < 1e-6, results
        # jax writes P("x") out as P("x", None) on explicit meshes, and takes it for another one.
        assert compilations <= (2 if kind == "Explicit" else 1)
        assert sharding_kept
    names = [f"shard_map over ('x', 'y'), check_vma={check}" for check in (True, False)]
    for key in ("pmap", *names):
        assert results[key] < 1e-6, (key, results)
    # The comparison can fail: without the names of the axes, norms are those of parts.
    assert results["shard_map over None, check_vma=False"] > 1e-3, results
    assert results["valleys imports"] == []
