"""Debian's Chromium without a window, spoken to over its DevTools protocol: a page as a reader's browser shows it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import websocket

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WINDOW = (1280, 800)
PATIENCE_S = 60.0


class Browser:
    """One tab; `complaints` are errors of its console, exceptions of its scripts, and requests beyond the file."""

    def __init__(self) -> None:
        assert PROGRAM is not None
        self.complaints: list[str] = []
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        size = ",".join(map(str, WINDOW))
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
        words += ["--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={self._folder.name}"]
        log = Path(self._folder.name) / "log"
        with log.open("w") as said:
            self._process = subprocess.Popen([PROGRAM, *words, "about:blank"], stderr=said, stdout=said)
        address = _wait_for(lambda: re.search(r"ws://(\S+?)/", log.read_text()))
        self._socket = websocket.create_connection(f"ws://{address[1]}{_tab(address[1])}", timeout=PATIENCE_S)
        self._number = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=WINDOW[0], height=WINDOW[1], deviceScaleFactor=1, mobile=False
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._folder.cleanup()

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer to a command; what the page reports meanwhile is kept."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, page: Path) -> float:
        """Load a page until Bokeh has drawn it; the seconds that took."""
        begun = time.perf_counter()
        self.ask("Page.navigate", url=page.as_uri())
        ready = "window.Bokeh !== undefined && Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle"
        _wait_for(lambda: self.value(ready))
        return time.perf_counter() - begun

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def point(self, x: float, y: float) -> None:
        """Move the pointer to a place of the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def wheel(self, x: float, y: float, notches: int) -> None:
        """Turn the wheel there, up to come closer."""
        for _ in range(notches):
            self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-240)

    def busy_s(self) -> float:
        """Seconds that processors spent on the browser so far: a measure that other programs do not lengthen."""
        every = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in every)

    def settle(self) -> None:
        """Wait until the page has drawn what was asked of it."""
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))"
        self.value(frame)

    def _note(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(given["exceptionDetails"])[:500])
        if method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([a.get("value", a.get("description")) for a in given["args"]])[:500])
        if method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.complaints.append(given["entry"]["text"])
        if method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(
            ("file:", "data:", "blob:")
        ):
            self.complaints.append(f"asks the network for {given['request']['url'][:200]}")


def _wait_for(found: Any) -> Any:
    end = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < end:
        answer = found()
        if answer:
            return answer
        time.sleep(0.05)
    raise TimeoutError("the browser does not answer")


def _tab(address: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://{address}/json", timeout=PATIENCE_S) as answer:
        tabs = json.load(answer)
    (page,) = [tab for tab in tabs if tab["type"] == "page"]
    return str(page["webSocketDebuggerUrl"]).split(address, 1)[1]
