"""Reading the shards of a data set back."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.datasets.store import Folder
from nanobrag_torch.errors import InputError

Array = NDArray[Any]
Columns = dict[str, Array]


class ShardReader:
    """One shard, opened when first looked at and until `close`. Raises InputError where it is not finished."""

    def __init__(self, folder: Folder, number: int) -> None:
        if folder.record(number) is None:
            raise InputError("shard", number, "one that is finished, and whole")
        self.folder, self.number = folder, number
        self.images = folder.recipe.images_of(number)

    @cached_property
    def _file(self) -> Any:
        import h5py
        import hdf5plugin

        assert hdf5plugin  # registers the filter
        return h5py.File(self.folder.shard(self.number, "h5"), "r")

    @property
    def names(self) -> list[str]:
        """What is stored of each image: recorded, expected, classes, spot_of_pixel."""
        return sorted(self._file)

    def image(self, place: int, name: str = "recorded") -> Array:
        """The image at a place of the shard, (slow, fast); panels lie one below the other."""
        if name not in self._file:
            raise InputError("image", name, ", ".join(self.names))
        return np.asarray(self._file[name][place])

    def row(self, place: int) -> dict[str, Any]:
        """What was drawn for the image at a place, and what it came to."""
        return dict(self._rows[place])

    def spots(self, image: int) -> Columns:
        """The spots of an image, by its number in the data set."""
        columns = self.spot_columns()
        first, last = np.searchsorted(columns["image"], (image, image + 1)) if columns else (0, 0)
        return {name: column[first:last] for name, column in columns.items()}

    def spot_columns(self) -> Columns:
        """The whole table of spots; without one there are no columns."""
        return self._spots

    def image_columns(self) -> Columns:
        """Those columns of the table of images that are numbers."""
        table = self._images
        kept = [name for name in table.column_names if str(table.schema.field(name).type) in ("int64", "double")]
        return {name: table.column(name).to_numpy() for name in kept}

    def close(self) -> None:
        """Close the file of images."""
        if "_file" in self.__dict__:
            self._file.close()
            del self.__dict__["_file"]

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _images(self) -> Any:
        from pyarrow import parquet

        return parquet.read_table(self.folder.shard(self.number, "images.parquet"))

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._images.to_pylist()
        return rows

    @cached_property
    def _spots(self) -> Columns:
        from pyarrow import parquet

        path = self.folder.shard(self.number, "spots.parquet")
        if not path.exists():
            return {}
        table = parquet.read_table(path)
        return {name: table.column(name).to_numpy() for name in table.column_names}
