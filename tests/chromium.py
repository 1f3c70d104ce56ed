"""Headless Chromium, as readers have a page: by Playwright, with the system's own browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

__all__ = ["BINARY", "Browser", "Tab", "running"]

BINARY = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Tab:
    """One page in a browser.

    Args:
        browser: the process.
        page: the HTML file.
        width, height: of the window.
        dark: whether the reader prefers dark colours.
        scripts: whether JavaScript runs.
    """

    def __init__(
        self,
        browser: Browser,
        page: Path,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        self._context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            is_mobile=width < 600,
        )
        self.page = self._context.new_page()
        self._session = self._context.new_cdp_session(self.page)
        self._complaints: list[str] = []
        self._requests: list[str] = []
        self.page.on("console", lambda message: self._complaints.append(message.text))
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("request", lambda request: self._requests.append(request.url))
        self.page.goto(page.resolve().as_uri())

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask through the DevTools protocol."""
        answer: dict[str, Any] = self._session.send(method, parameters)
        return answer

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.page.evaluate(expression)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press a key and let it go."""
        self.page.keyboard.press(key)

    def complaints(self) -> list[str]:
        """Return console messages, errors and refusals of the page's policy since it was opened."""
        self.evaluate("1")  # what was sent before the answer has come by now
        return list(self._complaints)

    def requests(self) -> list[str]:
        """Return everything that the page has asked for."""
        return list(self._requests)

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        self.page.screenshot(path=path, full_page=True)

    def close(self) -> None:
        """Close the page."""
        self._context.close()


@contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """Start a browser that ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BINARY, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
