"""HDF5 files that take data from other files: only from those in their own folder.

A link, a virtual dataset or raw storage can name any file that the user may read. Links and virtual sources are
followed within the folder of the file (by name; what is linked there by the file system is the user's own), raw storage
is not.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.apart import apart

ACCEPTED = "data in the file itself, or in files of its folder"
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def require_own_folder(file: Any, path: str | os.PathLike[str]) -> None:
    """Raise InputError naming the place in an open HDF5 file, or in one it names, that takes data from elsewhere."""
    folder = Path(os.path.normpath(Path(path).absolute().parent))
    for place, target in _taken_from(file):
        if target is None:
            raise InputError(f"{path}: {place}", "raw data in another file", ACCEPTED)
        other = Path(os.path.normpath(folder / target))
        if folder not in other.parents:
            raise InputError(f"{path}: {place}", target, ACCEPTED)
        with suppress(OSError):  # it is not there: whoever reads will say so
            state = other.stat()
            _require_other(other, state.st_mtime_ns, state.st_size)


def linked_files(path: str | os.PathLike[str]) -> list[str]:
    """The files beside an HDF5 file that it takes data from, and that are there; none of what cannot be read so."""
    found: list[str] = []
    with suppress(OSError, InputError, ValueError):  # whoever reads it will say what is wrong
        with Path(path).open("rb") as file:
            start = file.read(len(SIGNATURE))
        if is_hdf5(start):
            found = apart(path, ACCEPTED, "nanobrag_torch.io.hdf5_links:linked_within", str(path))
    return found


def linked_within(path: str) -> list[str]:
    """The same, in the process that opens other people's files."""
    import h5py

    folder = Path(os.path.normpath(Path(path).absolute().parent))
    with h5py.File(path, "r") as file:
        targets = {target for _, target in _taken_from(file) if target is not None}
    places = {Path(os.path.normpath(folder / target)) for target in targets}
    inside = [place.relative_to(folder) for place in places if folder in place.parents]
    blocks = "%b"  # stands for a number in the names of a virtual dataset
    found = [folder.glob(str(each).replace(blocks, "*")) if blocks in each.name else [folder / each] for each in inside]
    return sorted(str(each) for each in itertools.chain.from_iterable(found) if each.is_file())


def is_hdf5(start: bytes) -> bool:
    """Whether a file that begins so is HDF5."""
    return start.startswith(SIGNATURE)


@functools.lru_cache(maxsize=4096)
def _require_other(path: Path, changed: int, size: int) -> None:
    """The same of a file that another one names, once for each of its versions."""
    import h5py

    if path.is_file():
        with h5py.File(path, "r") as file:
            for place, target in _taken_from(file):
                raise InputError(f"{path}: {place}", target or "raw data in another file", ACCEPTED.partition(",")[0])


def _taken_from(root: Any) -> Iterator[tuple[str, str | None]]:
    """Places of a file that are elsewhere, and the name of the file there; None for raw storage."""
    import h5py

    groups, seen = [root["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            place = f"{group.name.rstrip('/')}/{name}"
            with suppress(KeyError, OSError, RuntimeError, ValueError, TypeError):  # damaged: nobody can read it
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    yield place, link.filename
                elif isinstance(link, h5py.HardLink):
                    item = group[name]
                    if isinstance(item, h5py.Group):
                        groups.append(item)
                    yield from ((place, target) for target in _sources(item))


def _sources(item: Any) -> Iterator[str | None]:
    if getattr(item, "external", None):
        yield None
    if getattr(item, "is_virtual", False):
        yield from (source.file_name for source in item.virtual_sources() if source.file_name != ".")
