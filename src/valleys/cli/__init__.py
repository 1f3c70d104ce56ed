"""The ``valleys`` command: each command parses, calls the library, and prints."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra installed, say how to get it. Of several processes the first one speaks.

    Raises:
        SystemExit: always, with the command's exit code.
    """
    try:
        try:
            from valleys.lab.run.ranks import one_voice
        except ModuleNotFoundError as error:
            _without_the_lab(error)
        else:
            with one_voice():
                _run()
    except KeyboardInterrupt:
        sys.exit(130)  # before a command had begun


def _run() -> None:
    try:
        from valleys.cli.commands import app

        app()
    except ModuleNotFoundError as error:
        _without_the_lab(error)


def _without_the_lab(error: ModuleNotFoundError) -> None:
    """What a user wants to know most when something is missing must not need it."""
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
