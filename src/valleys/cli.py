"""The ``valleys`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra installed, say how to get it.

    Raises:
        SystemExit: always, with the command's exit code.
    """
    try:
        from valleys.lab.commands import app

        app()
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] == "valleys":
            raise
        sys.stderr.write(f"valleys: the lab needs {error.name}: pip install 'valleys[lab]'\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)  # before a command had begun
