"""Headless Chromium through its DevTools protocol over a pipe: the standard library is enough."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BINARY = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

SECONDS = 60.0
"""Longest wait for an answer."""


class Browser:
    """One browser process.

    Args:
        profile: an empty folder.
    """

    def __init__(self, profile: Path) -> None:
        assert BINARY is not None
        inwards, self._write = os.pipe()
        self._read, outwards = os.pipe()
        # The browser reads from descriptor 3 and writes to 4; from above 9 neither copy runs over the other.
        theirs, ours = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (inwards, outwards))
        script = f'exec 3<&{theirs} 4>&{ours} {theirs}<&- {ours}>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", BINARY, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (inwards, outwards, theirs, ours):
            os.close(end)
        os.set_blocking(self._read, False)
        self._buffer = b""
        self._number = 0
        self._deadline = time.monotonic() + SECONDS
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._number += 1
        self._deadline = time.monotonic() + SECONDS
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait(self, method: str, session: str) -> None:
        """Wait for an event that comes after now, or came since the events were last cleared."""
        while not any(event.get("method") == method and event.get("sessionId") == session for event in self.events):
            self.events.append(self._next())

    def close(self) -> None:
        """End the process and those it started."""
        os.close(self._write)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._read)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert time.monotonic() < self._deadline, "Chromium does not answer"
            assert self._process.poll() is None, "Chromium has ended"
            try:
                self._buffer += os.read(self._read, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


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
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        browser.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=page.resolve().as_uri())
        browser.wait("Page.loadEventFired", self._session)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the page's own session."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def complaints(self) -> list[Any]:
        """Console messages, errors and refusals of the page's policy since it was opened."""
        self.evaluate("1")  # what was sent before the answer has come by now
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self._events() if event["method"] in names]

    def requests(self) -> list[str]:
        """Everything that the page has asked for."""
        events = [event for event in self._events() if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in events]

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(image))

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]


@contextmanager
def running(profile: Path) -> Iterator[Browser]:
    """A browser that ends with the block."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
