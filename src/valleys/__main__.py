"""``python -m valleys``, for launchers that start modules."""

from __future__ import annotations

from valleys.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
