"""Checksums of what files contain."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from nanobrag_torch.errors import InputError


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file. Raises InputError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(str(path), "a file that cannot be read", (error.strerror or str(error)).lower()) from error
