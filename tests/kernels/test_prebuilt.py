"""Kernels of a wheel: every level and every combination of types, without a compiler; which level is taken, and why."""

from __future__ import annotations

import platform
import re
import shlex
import sysconfig
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import build_hook
import valleys
from backends import largest_error, problem, reference_run, run
from kernels import test_eight_bit, test_error_correction
from valleys import doctor
from valleys.kernels import Needs, c
from valleys.kernels.c import compiler, prebuilt, sources

LEVELS = sources.levels_of(platform.machine())

pytestmark = pytest.mark.skipif(not LEVELS, reason=f"no wheel serves {platform.machine()}")


# -O1 takes half the time, and loops under ``omp simd`` are in vectors, too; all other tests compile the kernels at -O3.
# The second wheel gets the objects of the first, but those of one variant are compiled again.
COMPILER = f"""#!/bin/sh
for output; do :; done
object={{objects}}/${{{{output##*/}}}}
case $output in
  *{sources.PREBUILT[0].suffix}.o) ;;
  *.o) test -f "$object" && exec cp "$object" "$output" ;;
esac
{{command}} "$@" -O1 || exit
case $output in *.o) cp "$output" "$object" ;; esac
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wheel with compiled kernels, built twice."""
    folder = tmp_path_factory.mktemp("wheels")
    script, objects = folder / "cc", folder / "objects"
    objects.mkdir()
    script.write_text(COMPILER.format(objects=shlex.quote(str(objects)), command=shlex.join(compiler.command())))
    script.chmod(0o755)
    for name in ("first", "second"):
        process = build_hook.build(folder / name, "-t", "wheel", VALLEYS_PREBUILT="1", CC=str(script))
        assert process.returncode == 0, process.stderr
    return [wheel for name in ("first", "second") for wheel in (folder / name).iterdir()]


@pytest.fixture(scope="module")
def libraries(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a wheel's libraries."""
    with zipfile.ZipFile(wheels[0]) as archive:
        installed = Path(tmp_path_factory.mktemp("installed"))
        archive.extractall(installed, [name for name in archive.namelist() if "/prebuilt/" in name])
    return installed / "valleys" / "kernels" / "c" / "prebuilt"


@pytest.fixture
def installation(fresh_choice: pytest.MonkeyPatch) -> Iterator[Callable[[Path], pytest.MonkeyPatch]]:
    """Makes a folder the one of the prebuilt libraries, on a machine without a compiler."""
    caches = prebuilt._levels.cache_clear, prebuilt._open.cache_clear

    def clear() -> None:
        for forget in caches:
            forget()

    def install(folder: Path) -> pytest.MonkeyPatch:
        clear()
        fresh_choice.setattr(prebuilt, "_FOLDER", folder)
        fresh_choice.setenv("CC", "no-such-compiler")
        fresh_choice.delenv("VALLEYS_ISA", raising=False)
        return fresh_choice

    yield install
    clear()


@pytest.fixture
def wheel(installation: Any, libraries: Path) -> pytest.MonkeyPatch:
    """The settings of a wheel's user."""
    monkeypatch: pytest.MonkeyPatch = installation(libraries)
    return monkeypatch


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, wheel: pytest.MonkeyPatch) -> str:
    """Each level that this processor has."""
    if request.param not in prebuilt._levels():
        pytest.skip(f"the processor has no {request.param}")
    wheel.setenv("VALLEYS_ISA", request.param)
    return str(request.param)


def test_a_wheel_has_a_library_for_each_level_more_and_its_platform_in_its_name(wheels: list[Path]) -> None:
    first, second = wheels
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    expected = {f"valleys/kernels/c/prebuilt/{level}.so" for level in LEVELS}
    assert build_hook.files(first) == build_hook.source_files() | expected
    system = re.sub(r"[-.]", "_", sysconfig.get_platform()).replace("universal2", platform.machine())
    assert first.name == f"valleys-{valleys.__version__}-py3-none-{system}.whl"
    with zipfile.ZipFile(first) as opened:
        description = opened.read(f"valleys-{valleys.__version__}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in description
    assert f"Tag: py3-none-{system}" in description


def test_every_level_equals_the_reference(level: str) -> None:
    for adaptation, norm in ((False, None), (True, 0.5)):
        params, grads = problem([(4097,), (3, 5), (9000,), (1,), *[(7,)] * 20], torch.float64)
        optimizer = valleys.ALTO(params, lr=0.02, layer_adaptation=adaptation, max_grad_norm=norm, fused="c")
        expected = reference_run(params, grads, optimizer.param_groups[0])
        run(optimizer, params, grads)
        assert largest_error(params, expected) < 1e-12
    assert prebuilt.status().startswith(f"prebuilt for {level}, of ")


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("state", [None, torch.bfloat16])
@pytest.mark.parametrize("cls", [valleys.ALTO, valleys.Lamb], ids=lambda cls: cls.__name__)
def test_every_level_has_the_types_that_users_have(level: str, dtype: Any, state: Any, cls: Any) -> None:
    """A kernel that were not in the library would ask for a compiler, and fused="c" raise."""
    if state and dtype == torch.float64:
        pytest.skip("no user keeps float64 parameters with bfloat16 states")
    for rounding in (False, True):
        options = {"lr": 0.02, "layer_adaptation": True, "state_dtype": state, "stochastic_rounding": rounding}
        results = []
        for backend in ({"fused": "c"}, {"foreach": True}):
            params, grads = problem([(4097,), (33, 65)], dtype)
            run(cls(params, **options, **backend), params, grads)
            results.append([param.detach() for param in params])
        assert largest_error(*results) < TOLERANCE[torch.bfloat16 if state else dtype]


@pytest.mark.parametrize("random", [False, True])
def test_every_level_rounds_alike(level: str, random: bool) -> None:
    """Codes of 8 bits and corrections, bit for bit; the lowest level has no fused multiply-add."""
    test_eight_bit.test_every_backends_code_is_the_references_bit_for_bit(c, random)
    test_eight_bit.test_a_step_is_the_references(c, random, True)
    for eight_bit in (False, True):
        test_error_correction.test_a_step_is_that_of_a_float32_parameter_rounded(c, random, eight_bit)


def test_every_variant_is_in_every_library(level: str) -> None:
    assert len(set(sources.PREBUILT)) == len(sources.PREBUILT) == 50
    for variant in sources.PREBUILT:
        library = prebuilt.load(variant)
        assert library is not None, variant
        assert sorted(vars(library)) == sorted(variant.symbols)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has versions of its functions")
def test_libraries_run_with_every_glibc_that_python_does(libraries: Path) -> None:
    """One function of a newer version would take the wheel away from older systems."""
    for path in libraries.glob("*.so"):
        versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", path.read_bytes())
        assert versions
        assert max((int(major), int(minor)) for major, minor in versions) <= (2, 17)


def test_e_alone_and_clipping_need_no_compiler(wheel: pytest.MonkeyPatch) -> None:
    for dtype in TOLERANCE:
        plain = torch.float32 if dtype.itemsize < 4 else dtype
        for buffer in (plain, torch.bfloat16) if dtype != torch.float64 else (plain,):
            grad, memory = torch.ones(5, dtype=dtype), torch.zeros(5, dtype=buffer)
            keys = [1] if buffer == torch.bfloat16 else None
            c.explore_([grad], [memory], [grad], alpha=1.0, beta=0.5, keys=keys)
            assert grad.tolist() == [1.5] * 5
            assert memory.tolist() == [0.5] * 5
        assert c.square_sum([torch.full((5,), 2.0, dtype=dtype)]) == 20


def test_other_types_are_compiled(wheel: pytest.MonkeyPatch) -> None:
    needs = Needs(torch.float32, torch.bfloat16, torch.float32)
    assert "no C compiler was found" in (c.unavailable(torch.device("cpu"), needs) or "")
    wheel.delenv("CC")
    c._library.cache_clear()
    assert c.unavailable(torch.device("cpu"), needs) is None


def test_the_highest_level_is_taken_and_a_name_takes_another(wheel: pytest.MonkeyPatch) -> None:
    levels = prebuilt._levels()
    assert levels == LEVELS[: len(levels)]
    assert prebuilt._level() == levels[-1]
    wheel.setenv("VALLEYS_ISA", levels[0])
    assert prebuilt._level() == levels[0]


@pytest.mark.skipif(len(LEVELS) != 3, reason="x86-64 alone has levels")
def test_the_processor_has_the_instructions_of_its_level(wheel: pytest.MonkeyPatch) -> None:
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        pytest.skip("no /proc/cpuinfo")
    features = [set(), {"avx2", "fma", "f16c", "bmi2"}, {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}]
    number = next((i for i in (2, 1) if set().union(*features[: i + 1]) <= set(flags)), 0)
    assert prebuilt._levels() == LEVELS[: number + 1]


@pytest.mark.skipif(len(LEVELS) != 3, reason="x86-64 alone has levels")
@pytest.mark.parametrize("number", [0, 1])
def test_a_library_beyond_the_processor_is_never_opened(wheel: pytest.MonkeyPatch, number: int) -> None:
    opened = []

    def fake(level: str) -> Any:
        opened.append(level)
        return types.SimpleNamespace(level=lambda: number)

    wheel.setattr(prebuilt, "_open", fake)
    assert prebuilt.load(sources.PREBUILT[0]) is None
    assert set(opened) == {LEVELS[0], LEVELS[number]}
    wheel.setenv("VALLEYS_ISA", LEVELS[2])
    with pytest.raises(compiler.CompileError, match=rf"VALLEYS_ISA='x86-64-v4'.*{LEVELS[number]}; unset it"):
        prebuilt.load(sources.PREBUILT[0])


def test_a_level_that_is_none_is_told(wheel: pytest.MonkeyPatch) -> None:
    wheel.setenv("VALLEYS_ISA", "avx9")
    params, grads = problem([(3,)], torch.float32, steps=1)
    with pytest.warns(UserWarning, match=f"falls back .*VALLEYS_ISA='avx9' .*have {LEVELS[0]}.*unset it"):
        run(valleys.ALTO(params), params, grads)
    with pytest.raises(RuntimeError, match="fused='c': VALLEYS_ISA='avx9'"):
        valleys.ALTO(params, fused="c")
    assert "VALLEYS_ISA='avx9'" in doctors_line()


def doctors_line() -> str:
    return {finding.subject: finding.text for finding in doctor.machine()}["C kernels"]


def test_a_source_tree_has_none_and_compiles(installation: Any) -> None:
    monkeypatch = installation(prebuilt._FOLDER)
    assert not list(prebuilt._FOLDER.glob("*")), "a source tree has no compiled files"
    assert prebuilt.load(sources.PREBUILT[0]) is None
    assert doctors_line() == "compiled when first used: this installation brings none"
    monkeypatch.setenv("VALLEYS_ISA", LEVELS[0])
    with pytest.raises(compiler.CompileError, match="this installation has none; unset it"):
        prebuilt.load(sources.PREBUILT[0])


def test_libraries_that_cannot_be_loaded_are_compiled(installation: Any, tmp_path: Path) -> None:
    for level in LEVELS:
        (tmp_path / f"{level}.so").write_text("no library")
    installation(tmp_path).delenv("CC")
    assert c.unavailable(torch.device("cpu"), Needs(torch.float32, torch.float32, torch.float32)) is None
    assert doctors_line().startswith("compiled when first used: those of this installation cannot be loaded (")


def test_the_doctor_names_the_level(wheel: pytest.MonkeyPatch) -> None:
    levels = prebuilt._levels()
    assert doctors_line() == f"prebuilt for {levels[-1]}, of {', '.join(levels)}; VALLEYS_ISA takes another"
