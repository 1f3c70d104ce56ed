"""Opening the database in which a comparison lives, and the two things that Optuna leaves to its users."""

from __future__ import annotations

import logging
import os
import random
import socket
import sqlite3
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valleys.lab.errors import UNPRINTABLE, LabError

if TYPE_CHECKING:
    import optuna
    from sqlalchemy.engine import URL

HEARTBEAT = 30
"""Seconds between two signs of life of a worker."""

GRACE = 4
"""A worker that has been silent for so many heartbeats is taken for dead."""

_TRIES = 8


def open_storage(place: str | Path, heartbeat: int) -> optuna.storages.RDBStorage:
    """Open an Optuna storage: an URL, or the file of an SQLite database, whose name may have any characters."""
    try:
        import optuna
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
        from sqlalchemy.pool import NullPool
    except ModuleNotFoundError as error:
        raise LabError("the lab needs its extra: pip install 'valleys[lab]'") from error
    # Its warnings would stand before the one line of an error.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    address = URL.create("sqlite") if isinstance(place, Path) else parsed(place)
    engine: dict[str, Any] = {"pool_pre_ping": True}  # a run may take longer than a server keeps a silent connection
    if address.get_backend_name() == "sqlite":
        engine["connect_args"] = {"timeout": 60}  # workers wait for each other's short writes instead of failing
        if isinstance(place, Path) or address.database not in (None, "", ":memory:"):
            engine["poolclass"] = NullPool  # nobody could close the pool of a storage that Optuna failed to make
    if isinstance(place, Path):  # no URL, in which ? and % have meanings
        engine["creator"] = partial(sqlite3.connect, place, timeout=60)

    def attempt() -> optuna.storages.RDBStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # its heartbeat is experimental
            return optuna.storages.RDBStorage(
                address.render_as_string(hide_password=False),
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=GRACE * heartbeat,
            )

    try:
        # Workers that start together on a new database make its tables together, and all but one fail at some of them.
        for _ in range(_TRIES):
            try:
                return attempt()
            except SQLAlchemyError as error:
                if not (isinstance(error, (IntegrityError, ProgrammingError)) or "already exists" in str(error)):
                    raise
                time.sleep(random.uniform(0.1, 0.5))  # noqa: S311 - no secret
        return attempt()
    except Exception as error:  # drivers have exceptions of many kinds
        text = ("".join(str(getattr(error, "orig", None) or error).splitlines()[:1])) or type(error).__name__
        hint = ""
        if isinstance(error, ImportError):
            server = address.get_backend_name() == "postgresql"
            hint = "; pip install 'valleys[postgresql]'" if server else "; install its driver, or use PostgreSQL"
        raise LabError(f"cannot open the storage {shown(place)}: {text}{hint}") from error


def parsed(url: str) -> URL:
    """Return a storage's address; a LabError does not show what is none, as it may hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        address = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise LabError("--storage is no database URL such as postgresql://user@host/name") from error
    if address.drivername == "postgresql" and find_spec("psycopg") is not None:
        return address.set(drivername="postgresql+psycopg")  # SQLAlchemy before 2.1 wants psycopg2
    return address


def shown(place: str | Path) -> str:
    """Return a storage's file, or its address without user, password and options, which may be a password, too."""
    if isinstance(place, Path):
        return str(place)
    return parsed(place).set(username=None, password=None, query={}).render_as_string()


def is_of_database(error: BaseException) -> bool:
    """Return True for an exception of a database, or about content of it that is none of this package's."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, (SQLAlchemyError, StorageInternalError)):
        return True
    paths = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    reader = next((path for path in reversed(paths) if path.parent.name != "json"), Path())
    own = reader.parent == Path(__file__).parent or reader.name == "record.py"
    return isinstance(error, (KeyError, TypeError, ValueError)) and (own or "optuna" in reader.parts)


def check_folder(folder: Path) -> None:
    """Raise LabError for a folder that cannot be made or written, before anything is."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        problem = "" if os.access(nearest, os.W_OK | os.X_OK) else "is not writable"
        problem = problem if nearest.is_dir() else "is no folder"
    except OSError as error:
        nearest, problem = folder, f"cannot be made: {error.strerror}"
    if UNPRINTABLE.search(str(folder)):
        nearest, problem = Path(ascii(str(folder))), "has control characters, or no characters at all"
    if problem:
        raise LabError(f"cannot write in {folder}: {nearest} {problem}; choose another --out")


def exclusive(place: str | Path) -> AbstractContextManager[Any]:
    """Return the context of work that only one worker does at a time.

    Servers lock rows where Optuna asks them to. SQLite cannot: two processes could both read that a trial waits and
    both take it. There a lock on a file beside the database does it, which the kernel drops when its holder dies.
    """
    from filelock import FileLock

    if isinstance(place, Path):
        return FileLock(f"{place}.lock")
    url = parsed(place)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return nullcontext()
    return FileLock(f"{url.database}.lock")


@contextmanager
def beating(storage: optuna.storages.RDBStorage, trial: int, heartbeat: int) -> Iterator[None]:
    """Give signs of life for a trial while its run goes on."""
    from optuna.exceptions import StorageInternalError

    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(heartbeat):
            try:
                storage.record_heartbeat(trial)
            except (StorageInternalError, KeyError):
                continue  # the database is away for a moment; if it stays away, the run's end will say so
        storage.remove_session()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def worker() -> dict[str, Any]:
    """Return host and process: enough to see on the same machine whether the process still lives."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "space": _pid_space()}


def alive(other: dict[str, Any] | None) -> bool:
    """Return False only for a process of this machine that is gone; others are given up when their heartbeat stops."""
    if other is None or (other.get("host"), other.get("space")) != (socket.gethostname(), _pid_space()):
        return True
    try:
        os.kill(other["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{other['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no such file system here, or the process has just gone: its heartbeat will tell
        return True
    return state not in "ZX"  # a zombie has ended; its parent has not asked for its exit code yet


def _pid_space() -> str:
    """Containers may share a host's name, but not its process numbers."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - a magic link: Path.readlink gives the same text
    except OSError:
        return Path.home().anchor
