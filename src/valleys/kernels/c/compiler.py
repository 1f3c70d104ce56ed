"""Compilation of a C source with the machine's compiler when first used, and a cache of the libraries on disk.

A library's name holds a hash of all that it was made from and one of its own bytes: a file that a crash or a full disk
cut short is recognised before it is loaded, when it would kill this process and all later ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# Seconds after which a compiler is taken to hang; the kernels take less than one.
TIME_LIMIT = 60.0
_COMPILERS = ("cc", "gcc", "clang")
_NO_SPACE = ("No space left on device", "Disk quota exceeded")
_REMEDY = "set VALLEYS_CACHE_DIR to a folder with space that only you can write to, not mounted noexec"


class CompileError(RuntimeError):
    """No library: no compiler, a compiler that fails, or no place for its output; one line with the remedy."""


class _UntrustedError(PermissionError):
    """Others could have filled the cache with code of their own."""


class _Job(NamedTuple):
    """One library: C source, compiler with flags, names of its functions, hash of all that decides about its bytes."""

    source: Path
    command: Sequence[str]
    symbols: Sequence[str]
    key: str


def cache_directory() -> Path:
    """The folder of compiled kernels, which need not exist: ``VALLEYS_CACHE_DIR``, else in the user's cache directory.

    Raises:
        CompileError: none is configured, and the user has no home.

    Example:
        >>> isinstance(cache_directory(), Path)
        True
    """
    configured, base = os.environ.get("VALLEYS_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if configured:
        return Path(configured)
    try:
        return Path(base or Path.home() / ".cache") / "valleys"
    except RuntimeError as error:
        # Neither HOME nor a passwd entry, as in a container with a user of its own.
        raise CompileError(f"there is no home directory for compiled kernels; {_REMEDY}") from error


def load(source: Path, flags: Sequence[str], symbols: Sequence[str]) -> ctypes.CDLL:
    """Load a shared library with these symbols, from the cache or compiled now.

    The source includes nothing but the system's headers and those beside it. Where the cache cannot be used, the
    library is compiled in a temporary folder, which is removed at once. The user hears of that, once, if the cache was
    configured or others can write to it.

    Raises:
        CompileError: there is no library, for whatever reason.
    """
    try:
        words = [*command(), *flags]
        return _load(_Job(source, words, symbols, _key(source, words)))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = f"the C kernels could not be compiled: {_line(error)}"
        raise CompileError(f"{reason}; check CC and VALLEYS_CACHE_DIR") from error


def command() -> list[str]:
    """The C compiler's command line: ``CC``, else the first of cc, gcc and clang that is installed.

    Raises:
        CompileError: there is none.
    """
    value = os.environ.get("CC", "")
    try:
        words = shlex.split(value)
    except ValueError as error:
        reason = f"CC={value!r} is no command line ({_line(error)})"
        raise CompileError(f"{reason}; quote it as for a shell, or unset CC") from error
    words = words or [next(filter(shutil.which, _COMPILERS), "")]
    if not shutil.which(words[0]):
        name = words[0] or ", ".join(_COMPILERS)
        raise CompileError(f"no C compiler was found ({name}); install one or set CC")
    return words


def _key(source: Path, command: list[str]) -> str:
    headers = [path.read_bytes() for path in sorted(source.parent.glob("*.h"))]
    parts = [source.read_bytes(), *headers, *map(os.fsencode, command), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _load(job: _Job) -> ctypes.CDLL:
    report = False
    try:
        directory = cache_directory()
    except CompileError:
        problem = "there is no home directory"
    else:
        try:
            return _load_cached(job, directory.absolute())
        except OSError as error:
            problem = f"{directory}: {_line(error)}"
            report = isinstance(error, _UntrustedError) or bool(os.environ.get("VALLEYS_CACHE_DIR"))
    try:
        with _folder(None) as folder:
            library = _open(_compile(job, folder), job)
    except OSError as error:
        reason = f"the C kernels can be neither kept ({problem}) nor loaded from a temporary folder ({_line(error)})"
        raise CompileError(f"{reason}; {_REMEDY}") from error
    if report:
        _warn_once(f"valleys compiles its kernels anew in each process, they are not kept ({problem}); {_REMEDY}")
    return library


def _load_cached(job: _Job, directory: Path) -> ctypes.CDLL:
    """The library from the cache, or compiled into it; OSError where that cannot be used."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_trust(directory)
    for path in sorted(directory.glob(f"{job.key}-*.so")):
        library = _open_cached(path, job)
        if library is not None:
            return library
    # Several processes may compile at once: each in its own folder, the last one's file stays.
    with _folder(directory) as folder:
        output = _compile(job, folder)
        with output.open("rb+") as file:
            os.fsync(file.fileno())
        path = output.replace(directory / f"{job.key}-{_digest(output)}.so")
    with contextlib.suppress(OSError):
        _sync_directory(directory)
    try:
        # By the name that it keeps, under which debuggers look for its symbols.
        return _open(path, job)
    except CompileError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _check_trust(directory: Path) -> None:
    if os.name != "posix":
        return
    status = directory.stat()
    # Root could put code into any folder; it is the owner of a cache that came with an image.
    if status.st_uid not in (0, os.geteuid()):
        raise _UntrustedError("it belongs to another user")
    if status.st_mode & 0o002:
        raise _UntrustedError("every user can write to it")


def _open_cached(path: Path, job: _Job) -> ctypes.CDLL | None:
    """Open a library of the cache; None for a damaged one, whose file is removed."""
    try:
        if path.stem.rpartition("-")[2] == _digest(path):
            return _open(path, job)
    except OSError:
        # Removed by another process or, in a shared home, made for another machine's C library: it may stay.
        return None
    except CompileError:
        pass
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _compile(job: _Job, folder: Path) -> Path:
    """The library, compiled into the folder; OSError if there is no space for it."""
    output = folder / "kernels.so"
    status, text = _run([*job.command, str(job.source), "-o", str(output), "-lm"], folder)
    name = job.command[0]
    if status:
        if any(words in text for words in _NO_SPACE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # The driver's own "ld returned 1 exit status" follows the linker's reason.
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("collect2:")]
        lines = lines or [f"exit status {status}"]
        line = next((line for line in lines if "error" in line), lines[-1])
        reason = f"{name} could not compile the kernels: {line.strip()[-300:]}"
        raise CompileError(f"{reason}; set CC to a C compiler")
    if not output.exists():
        raise CompileError(f"{name} made no library and reported no error; set CC to a C compiler")
    return output


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit status and messages of a compiler."""
    # Messages in the language in which they are looked for; temporary files that go with the folder.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise CompileError(f"{command[0]} cannot be started: {_line(error)}; set CC to a C compiler") from error
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        _kill(process)
        reason = f"{command[0]} had not compiled the kernels after {TIME_LIMIT:g} s and was stopped"
        raise CompileError(f"{reason}; set CC to another C compiler") from None
    except BaseException:
        # Ctrl-C reaches this process alone.
        _kill(process)
        raise
    return process.returncode, output.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started: a compiler's driver leaves the work, and its end of the pipe, to others."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    if process.stdout is not None:
        process.stdout.close()


def _open(path: Path, job: _Job) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        # Without the path, which is another one each time: the same is told once.
        raise OSError(str(error).replace(f"{path}: ", "")) from error
    for symbol in job.symbols:
        if not hasattr(library, symbol):
            reason = f"{job.command[0]} made a library without the function {symbol}"
            raise CompileError(f"{reason}; set CC to another C compiler")
    return library


@contextlib.contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """A new folder in ``directory`` or among the temporary ones; a library that was loaded from it outlives it."""
    with tempfile.TemporaryDirectory(prefix="valleys-", dir=directory, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _line(error: BaseException) -> str:
    """An error in one line, without the number that Python puts before an OSError's text."""
    text = getattr(error, "strerror", None) or str(error)
    line = " ".join(text.split())
    return line[:1].lower() + line[1:]


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@functools.cache
def _processor() -> str:
    """The processor's features, on which -march=native depends: a cache may be shared by machines of many kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(features)])
