"""Public names of a package that are imported when they are first used, so that the package itself costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__`` (PEP 562).

    Args:
        package: its ``__name__``.
        modules: public names, separated by blanks, by their module below the package.

    Returns:
        The two functions. A name stays in the package once it has been used; the modules are attributes, too.

    Example:
        >>> import valleys
        >>> "ALTO" in dir(valleys), valleys.ALTO is valleys.alto.ALTO
        (True, True)
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules, *homes})
