"""Stacks of frames in HDF5: one chunk a frame, bitshuffle and LZ4; files that are put together in memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import DTypeLike

from nanobrag_torch.io.atomic import open_output


def frame_dataset(group: Any, name: str, frames: int, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A dataset (frames, *shape) in an open HDF5 group, empty."""
    import hdf5plugin

    options = hdf5plugin.Bitshuffle(cname="lz4")
    return group.create_dataset(name, (frames, *shape), dtype, chunks=(1, *shape), **options)


@contextmanager
def memory_file(path: str | os.PathLike[str], flag: str = "output file") -> Iterator[Any]:
    """An HDF5 file that is made in memory and appears at `path`, whole, when the block ends well.

    HDF5 that meets a full disk half way crashes the process when it is closed. Raises InputError if path cannot be
    written.
    """
    import h5py

    with h5py.File(secrets.token_hex(8), "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    with open_output(path, flag) as target:
        target.write(content)
