"""A function in a process of its own, with its own environment variables."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["in_fresh_process"]

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(variables: Mapping[str, str], function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a new interpreter.

    Args:
        variables: environment variables that it starts with, besides this process's.
        function: a function at the top of a module.
        args: its arguments.
        kwargs: its keyword arguments.

    Returns:
        Its result.

    Raises:
        Exception: whatever it raised; BrokenProcessPool if its process died.
    """
    with _environment(variables), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
