"""An image put together from the shoeboxes of a reflection table, where the images themselves are not at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import DetectorData
from nanobrag_torch.records.tables import VALID_PIXEL, ReflectionData

Floats = NDArray[np.float64]


def image_of_shoeboxes(table: ReflectionData, detector: DetectorData, frame: int, numbers: dict[int, int]) -> Floats:
    """Counts [panel, slow, fast] of a frame of the array of images, NaN where no box has a valid pixel.

    numbers: the experiments of the table that are meant. Raises InputError where no box has pixels of that frame.
    """
    image = np.full((len(detector.panels), *detector.shape[-2:]), np.nan)
    identity = table.columns.get("id", np.zeros(table.rows, np.int64))
    filled = 0
    for number, box in zip(identity.tolist(), table.shoeboxes, strict=True):
        fast0, fast1, slow0, slow1, first, end = box.bbox.tolist()
        if number not in numbers or box.data is None or box.mask is None or not first <= frame < end:
            continue
        if not 0 <= box.panel < len(image):
            raise InputError("shoebox: panel", box.panel, f"0 to {len(image) - 1}")
        panel = image[box.panel]
        low, left = max(slow0, 0), max(fast0, 0)
        inside = slice(low - slow0, panel.shape[0] - slow0), slice(left - fast0, panel.shape[1] - fast0)
        data, mask = box.data[frame - first][inside], box.mask[frame - first][inside]
        place = panel[low : min(slow1, panel.shape[0]), left : min(fast1, panel.shape[1])]
        valid = (mask & VALID_PIXEL) != 0
        place[valid] = data[valid]
        filled += int(valid.sum())
    if not filled:
        raise InputError("image", None, f"an image, or shoeboxes with data of frame {frame} in the reflection table")
    return image
