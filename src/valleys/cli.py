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
    except ModuleNotFoundError as error:
        sys.exit(_missing(error))
    except KeyboardInterrupt:
        sys.exit(130)
    app()


def _missing(error: ModuleNotFoundError) -> int:
    sys.stderr.write(f"valleys: the command line needs {error.name}: pip install 'valleys[lab]'\n")
    return 2
