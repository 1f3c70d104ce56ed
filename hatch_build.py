"""Compilation of the C kernels into a wheel, for ``VALLEYS_PREBUILT=1 python -m hatchling build -t wheel``.

Without that variable a wheel has no compiled file: it installs everywhere and compiles at run time. An editable
installation never compiles.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = Path(__file__).parent / "src" / "valleys" / "kernels" / "c"


class PrebuiltKernels(BuildHookInterface):  # type: ignore[type-arg]
    """A library for each instruction-set level in the wheel, whose name then has the platform."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and add the libraries to the wheel."""
        if version == "editable" or os.environ.get("VALLEYS_PREBUILT", "0") == "0":
            return
        self._folder = tempfile.TemporaryDirectory(prefix="valleys-wheel-")
        try:
            libraries = compile_libraries(Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        for library in libraries:
            build_data["force_include"][str(library)] = f"valleys/kernels/c/prebuilt/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what the wheel has a copy of."""
        if self._folder is not None:
            self._folder.cleanup()


def platform_tag() -> str:
    """The platform in a wheel's name; libraries are for one machine even where Python is for two."""
    tag = re.sub(r"[-.]", "_", sysconfig.get_platform())
    return tag.replace("universal2", platform.machine())


def compile_libraries(folder: Path) -> list[Path]:
    """The library of each level of this machine with all variants, compiled into the folder."""
    sources, compiler = _module("sources"), _module("compiler")
    levels = sources.levels_of(platform.machine())
    if not levels:
        raise RuntimeError(
            f"VALLEYS_PREBUILT: kernels/c/sources.py has no instruction-set level for {platform.machine()}; add one to "
            "LEVELS, or build without the variable"
        )
    command = compiler.command()
    libraries, jobs, links = [], [], []
    for level in levels:
        objects = []
        for variant in sources.PREBUILT:
            # All variants lie in one library: the preprocessor gives their functions names of their own.
            names = [f"-D{name}={name}{variant.suffix}" for name in variant.symbols]
            objects.append(str(folder / f"{level}{variant.suffix}.o"))
            source = str(_SOURCES / variant.source)
            jobs.append([*command, *variant.flags, f"-march={level}", *names, "-c", source, "-o", objects[-1]])
        libraries.append(folder / f"{level}.so")
        last = [str(_SOURCES / "level.c"), "-o", str(libraries[-1]), "-lm", *_link_flags()]
        links.append([*command, *sources.FLAGS, "-shared", *objects, *last])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, jobs))
        list(pool.map(_run, links))
    return libraries


def _link_flags() -> list[str]:
    return {"darwin": [], "win32": ["-s", "-static-libgcc"]}.get(sys.platform, ["-s"])


def _run(command: list[str]) -> None:
    # The oldest system that the wheel's name promises; elsewhere nothing reads it.
    target = sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET")
    environment = {**({"MACOSX_DEPLOYMENT_TARGET": target} if target else {}), **os.environ}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if process.returncode:
        raise RuntimeError(
            f"VALLEYS_PREBUILT: {' '.join(command)} failed; set CC to another C compiler:\n{process.stderr}"
        )


def _module(name: str) -> ModuleType:
    """A module of the kernels by its path: the package itself needs torch, which a build has not."""
    spec = importlib.util.spec_from_file_location(f"valleys_build_{name}", _SOURCES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
