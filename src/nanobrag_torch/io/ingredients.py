"""What a series of images is made of, whole and by name, so that frames of two different series never meet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.digest import content_digest
from nanobrag_torch.io.expt_write import experiment_list
from nanobrag_torch.records.experiment import ExperimentData

Ingredients = dict[str, str]
"""Name of an option, of a file or of a part of the geometry -> its value, or the checksum of its content."""
LONGEST = 60  # letters of a value that is stored as it is


def ingredients(
    experiment: ExperimentData, frames: int, dtype: np.dtype[Any], made_of: Mapping[str, object]
) -> Ingredients:
    """Geometry part by part, number of frames, type of pixel, version of the program, and what the caller names.

    A Path stands for the content of its file. Raises InputError for a file that cannot be read.
    """
    tree = experiment_list([experiment])
    geometry = {f"geometry: {part}": tree[part] for part in ("beam", "detector", "goniometer", "scan", "crystal")}
    masks = [] if experiment.detector is None else [p.mask for p in experiment.detector.panels]
    hidden = [None if mask is None else hashlib.sha256(mask.tobytes()).hexdigest() for mask in masks]
    own = {"frames": frames, "type of pixel": dtype.str, "nanobrag_torch": version("nanobrag_torch"), "masks": hidden}
    return {name: _shown(value) for name, value in {**own, **geometry, **made_of}.items()}


def require_same(stored: Ingredients | None, wanted: Ingredients, series: str) -> None:
    """Raise InputError naming every ingredient that differs from those of the frames that are there."""
    if stored is None:
        raise InputError("--resume", series, "a series with its own record of what it is made of, or no --resume")
    changed = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
    if changed:
        shown = "; ".join(_difference(name, stored.get(name), wanted.get(name)) for name in changed)
        raise InputError("--resume", series, f"a series made of the same, or no --resume (changed: {shown})")


def _difference(name: str, old: str | None, new: str | None) -> str:
    if any(value is not None and value.startswith("sha256 ") for value in (old, new)):
        return name
    return f"{name} {'nothing' if old is None else old} to {'nothing' if new is None else new}"


def _shown(value: object) -> str:
    if isinstance(value, Path):
        return f"sha256 {content_digest(value)}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= LONGEST else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
