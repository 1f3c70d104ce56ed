"""The ``valleys`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra installed, say how to get it. Of several processes the first one speaks.

    Raises:
        SystemExit: always, with the command's exit code.
    """
    try:
        from valleys.lab.parallel import one_voice

        with one_voice():
            _run()
    except KeyboardInterrupt:
        sys.exit(130)  # before a command had begun


def _run() -> None:
    try:
        from valleys.lab.commands import app

        app()
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] == "valleys":
            raise
        if sys.argv[1:] in (["doctor"], ["--version"]):
            _without_the_lab(sys.argv[1])
            return
        sys.stderr.write(f"valleys: the lab needs {error.name}: pip install 'valleys[lab]'\n")
        sys.exit(2)


def _without_the_lab(asked: str) -> None:
    """What a user wants to know most when something is missing must not need it."""
    from importlib.metadata import version

    from valleys.doctor import report

    for line in report() if asked == "doctor" else [version("valleys")]:
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
