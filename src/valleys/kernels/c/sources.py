"""C sources, compiler flags, and the combinations of types that a wheel brings: data for run time and build alike.

A build of a wheel loads this file by its path, without torch: it imports Python's own library alone.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

# No -ffast-math: NaN must stay NaN, and it would switch denormals off in the whole process.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC")
"""Flags of every compilation."""

NATIVE = "-march=native"
"""Flag of a compilation for this processor alone."""

LEVELS = {"x86_64": ("x86-64", "x86-64-v3", "x86-64-v4"), "aarch64": ("armv8-a",)}
"""Instruction-set levels by machine, in GCC's names, the one that every such machine has first; see ``level.c``."""


def levels_of(machine: str) -> tuple[str, ...]:
    """The levels of a machine by the name that ``platform.machine`` gives it; none for one that wheels do not serve."""
    return LEVELS.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine), ())


class Source(NamedTuple):
    """Flags of its own and the functions of a C source."""

    flags: tuple[str, ...]
    symbols: tuple[str, ...]


_SYMBOLS = ("use_runtime", "alto", "alto_first", "alto_second", "explore", "explore_into")
SOURCES = {
    "update.c": Source((), (*_SYMBOLS, "alto_begin", "alto_part", "alto_end", "square_sum")),
    # A fused multiply-add would round some codes otherwise than the other backends.
    "quantized.c": Source(("-ffp-contract=off",), _SYMBOLS),
}
"""Sources by file name, in this folder."""


class Variant(NamedTuple):
    """A source with its element types of parameters, gradients and states.

    Args:
        source: a key of ``SOURCES``.
        param, grad, state: double, float, bfloat16 or float16; states in 8 bits are int8_t.
        random: whether bfloat16 values and codes are rounded stochastically.
        explores: whether E's buffer is among the states.
        corrects: whether bfloat16 parameters have 8 bits more.
    """

    source: str
    param: str
    grad: str
    state: str
    random: bool
    explores: bool
    corrects: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of the compiler, all but the processor's."""
        return (
            *FLAGS,
            *SOURCES[self.source].flags,
            f"-DP={self.param}",
            f"-DG={self.grad}",
            f"-DS={self.state}",
            f"-DWIDE={'double' if self.param == 'double' else 'float'}",
            f"-DRANDOM={int(self.random)}",
            f"-DEXPLORES={int(self.explores)}",
            f"-DCORRECTS={int(self.corrects)}",
            *(["-DHALF"] if "float16" in self[1:4] else []),
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the functions."""
        return SOURCES[self.source].symbols

    @property
    def suffix(self) -> str:
        """The end of each function's name in a library of many variants."""
        switches = "r" * self.random + "e" * self.explores + "c" * self.corrects
        return "_".join(["", self.source.removesuffix(".c"), *self[1:4], switches])


_BOTH = (False, True)
_EXACT = (("float",) * 3, ("double",) * 3, ("float16", "float16", "float"))
_ROUNDED = (
    *((value, value, "bfloat16") for value in ("float", "float16")),
    *(("bfloat16", grad, state) for grad in ("bfloat16", "float") for state in ("bfloat16", "float")),
)

PREBUILT = (
    *(Variant("update.c", *types, False, explores) for types in _EXACT for explores in _BOTH),
    *(Variant("update.c", *types, *switches) for types in _ROUNDED for switches in itertools.product(_BOTH, _BOTH)),
    *(
        Variant("quantized.c", param, param, "int8_t", *switches)
        for param in ("float", "bfloat16")
        for switches in itertools.product(_BOTH, _BOTH)
    ),
    *(
        Variant("quantized.c" if state == "int8_t" else "update.c", "bfloat16", "bfloat16", state, *switches, True)
        for state in ("float", "bfloat16", "int8_t")
        for switches in itertools.product(_BOTH, _BOTH)
    ),
)
"""Variants that a wheel has; all others are compiled at run time."""
