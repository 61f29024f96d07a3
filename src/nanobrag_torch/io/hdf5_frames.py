"""Stacks of frames in HDF5: one chunk a frame, bitshuffle and LZ4."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike


def frame_dataset(group: Any, name: str, frames: int, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A dataset (frames, *shape) in an open HDF5 group, empty."""
    import hdf5plugin

    options = hdf5plugin.Bitshuffle(cname="lz4")
    return group.create_dataset(name, (frames, *shape), dtype, chunks=(1, *shape), **options)
