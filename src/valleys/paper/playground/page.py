"""Put the page together from the parts, which lie beside this file."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from valleys.paper.playground import still

__all__ = ["render", "write"]

# In this order: each uses only those before it. The first three are the arithmetic and know nothing of a page.
SCRIPTS = ("rules.js", "functions.js", "walk.js", "settings.js", "relief.js", "plot.js", "app.js")


def render() -> str:
    """Return the page as text: HTML that needs nothing else, with a picture for those without scripts.

    Raises:
        ModuleNotFoundError: without jinja2, which ``valleys[lab]`` brings.

    Example:
        >>> page = render()
        >>> page.splitlines()[0], "src=" in page
        ('<!DOCTYPE html>', False)
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style = _text("style.css")
    script = '"use strict";\n' + "\n".join(map(_text, SCRIPTS))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # The files' own text, which a template would escape.
    return environment.from_string(_text("template.html.j2")).render(
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        still=Markup(still.draw()),  # noqa: S704
        still_says=still.SAYS,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
    )


def write(path: str | Path) -> Path:
    """Write the page.

    Raises:
        OSError: if it cannot be written.
        ModuleNotFoundError: without jinja2, which ``valleys[lab]`` brings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "playground.html").name
        'playground.html'
    """
    path = Path(path)
    path.write_text(render(), encoding="utf-8", newline="\n")
    return path


def _text(name: str) -> str:
    return files("valleys.paper.playground").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the policy's name for a text: a browser runs text of this hash, and nothing else."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
