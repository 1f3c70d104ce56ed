"""The ``valleys`` command: each command parses, calls the library, and prints."""

from __future__ import annotations

import io
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra installed, say how to get it.

    Raises:
        SystemExit: always, with the command's exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal's encoding lacks must not cost a report
            stream.reconfigure(errors="backslashreplace")
    try:
        from valleys.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except ModuleNotFoundError as error:
        _without_the_lab(error)
    except KeyboardInterrupt:
        sys.exit(130)  # before a command had begun


def _without_the_lab(error: ModuleNotFoundError) -> None:
    """Run ``--version`` and ``doctor``, which work without the lab's extra; of others say what is missing."""
    if str(error.name).split(".")[0] == "valleys":
        raise error
    command, *options = sys.argv[1:] or [""]
    if command == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"{version('valleys')}\n")
    elif command == "doctor" and set(options) <= {"--compiled", "--no-compiled"}:
        from valleys.doctor import report
        from valleys.kernels.choice import FUSED

        for line in report(tuple(name for name in FUSED if "--no-compiled" not in options or name != "compiled")):
            sys.stdout.write(f"{line}\n")
    else:
        sys.stderr.write(f"valleys: the lab needs {error.name}: pip install 'valleys[lab]'\n")
        sys.exit(2)
