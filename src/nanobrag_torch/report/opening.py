"""Pages and pictures that are opened for whoever made them, where there is a desktop."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path

DESKTOP = ("DISPLAY", "WAYLAND_DISPLAY")
QUIET = "NB_NO_OPEN"
"""Environment variable that keeps pages closed."""


def has_desktop() -> bool:
    """Whether there is a screen to open a page on, and a person at a terminal who asked for it."""
    if os.environ.get(QUIET) or not sys.stdout.isatty():
        return False
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in DESKTOP)


def open_file(path: str | os.PathLike[str]) -> bool:
    """Open a file in the browser where there is a desktop; whether that was tried."""
    return has_desktop() and webbrowser.open(Path(path).resolve().as_uri())


def shown(write: Callable[[Path], object], target: str | os.PathLike[str] | None = None) -> Path:
    """Let `write` make a page, at a target or in a folder of its own that stays, and open it; its path."""
    page = Path(tempfile.mkdtemp(prefix="nb-")) / "page.html" if target is None else Path(target)
    write(page)
    open_file(page)
    return page
