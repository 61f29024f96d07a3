"""Reads damaged files one after another and says of each, in a line, what became of it."""

from __future__ import annotations

import dataclasses
import logging
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import hdf5_trees, mutant
from fuzz_seeds import TREES, seeds

from nanobrag_torch.errors import InputError
from nanobrag_torch.io import apart
from nanobrag_torch.io.fileformat import Choice, Given
from nanobrag_torch.io.formats import find_format, reads_amplitudes, reads_experiments, reads_images
from nanobrag_torch.io.sourcefile import read_sourcefile

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

GEOMETRY = ("expt", "geom", "xparm", "mat")
IMAGES = ("smv", "cbf", "nxmx")
AMPLITUDES = ("hkl", "dump", "mtz", "cif", "pdb")
KINDS = (*GEOMETRY, "refl", *IMAGES, *AMPLITUDES, "source")
MEMORY_BYTES = 2**31
UNKNOWN = {"sigma", "phase_deg", "resolution", "structure"}
"""Fields that may be nan where a file leaves them out."""
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def read(kind: str, path: Path) -> Any:
    """Everything that the readers of a kind make of a file."""
    if kind in GEOMETRY:
        found = find_format(path, reads_experiments)
        assert found.read_experiments is not None
        return found.read_experiments(path, Given(wavelength_A=1.0))
    if kind in IMAGES:
        return _image(path)
    if kind in AMPLITUDES:
        return _amplitudes(path)
    if kind == "refl":
        found = find_format(path, lambda each: each.read_table)
        assert found.read_table is not None
        return found.read_table(path)
    return np.nan_to_num(read_sourcefile(path), posinf=np.inf, neginf=np.inf)  # nan: left out, takes a default


def _image(path: Path) -> Any:
    found = find_format(path, reads_images)
    assert found.read_image is not None
    image = found.read_image(path, 0)
    try:
        geometry = found.read_experiments(path, Given()) if found.read_experiments else []
    except InputError as error:  # pixels are good without geometry
        require_one_line(error)
        geometry = []
    return image, geometry


def _amplitudes(path: Path) -> Any:
    found = find_format(path, reads_amplitudes)
    rows = [] if found.rows is None else found.rows(path)
    assert not any("\n" in value for _, value in rows)
    if found.read_reflections is not None:
        return found.read_reflections(path, Choice())
    assert found.read_atoms is not None
    return found.read_atoms(path, "model")


def require_one_line(error: InputError) -> None:
    """Raise AssertionError for an error that is no line of less than 300 characters."""
    text = str(error)
    assert len(text) < 300 and len(text.splitlines()) == 1, f"{len(text)} characters: {text[:400]!r}"


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Names of what is nan or infinite in records, lists and arrays."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name not in UNKNOWN:
                yield from not_finite(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from not_finite(part, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for part in value:
            yield from not_finite(part, name)
    elif isinstance(value, float | np.ndarray | np.floating):
        numbers = np.asarray(value)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            yield name


def outcome(kind: str, path: Path) -> tuple[str, str]:
    """accepted, refused, not finite, memory or traceback; and for the last three what was met."""
    try:
        found = next(not_finite(read(kind, path)), None)
    except InputError as error:
        try:
            require_one_line(error)
        except AssertionError as long:
            return "traceback", str(long)
        return ("memory" if "more memory than there is" in str(error) else "refused"), str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return ("accepted", "") if found is None else ("not finite", found)


def damaged(kind: str, index: int) -> bytes:
    """The file of a number."""
    sound = seeds(kind)
    seed = sound[index % len(sound)]
    hdf5_trees.sound = seed  # type: ignore[attr-defined]
    return mutant(seed, kind, index, TREES.get(kind))


def peak_kb() -> int:
    """The most memory that this process, or the one that reads for it, has held."""
    processes: list[int | str] = ["self", *(child.pid for child in apart._CHILD if child.poll() is None)]
    return max((_peak(process) for process in processes), default=0)


def _peak(process: int | str) -> int:
    try:
        found = _PEAK.search(Path(f"/proc/{process}/status").read_text())
    except OSError:  # gone, or no Linux
        return 0
    return int(found[1]) if found else 0


def main(kind: str, first: int, count: int, say: Callable[[str], Any]) -> None:
    """Read mutants `first` to `first + count - 1`, and say number, peak memory (kB), outcome and detail of each."""
    logging.disable()
    warnings.simplefilter("ignore")  # what a library warns of is not the question
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        for index in range(first, first + count):
            path.unlink(missing_ok=True)
            path.write_bytes(damaged(kind, index))
            found, detail = outcome(kind, path)
            say(f"{index}\t{peak_kb()}\t{found}\t{' '.join(detail.replace(folder, '').split())[:300]}\n")


if __name__ == "__main__":
    out = sys.stdout

    def say(line: str) -> None:
        """To the one who counts, at once."""
        out.write(line.encode("utf-8", "replace").decode())
        out.flush()

    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), say)
