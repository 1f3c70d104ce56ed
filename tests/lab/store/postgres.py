"""A real PostgreSQL server on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def server() -> Iterator[str]:
    """The URL of a fresh, empty database; the server goes with the context."""
    psycopg = pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'valleys[postgresql]'")
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    # Not in pytest's folders: only their owner may enter, and the server refuses to be root.
    folder = Path(tempfile.mkdtemp(prefix="valleys-postgres-"))
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            account = pwd.getpwnam("nobody")
        os.chown(folder, account.pw_uid, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": folder}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    create: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-A",
        "trust",
        "-U",
        "valleys",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, **identity)
    start: list[str | Path] = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder]
    start += ["-c", "fsync=off"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(start, stdout=log, stderr=log, **identity)
    url = f"postgresql://valleys@127.0.0.1:{port}/postgres"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of the server's programs, which Debian keeps off the PATH."""
    program = shutil.which("initdb")
    places = [Path(program).resolve().parent] if program else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "postgres").exists()), None)
