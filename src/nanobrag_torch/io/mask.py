"""Masks: which pixels are rendered. One is rendered, zero is skipped, as DetectorConfig.mask_array has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from nanobrag_torch.io.smv import parse_smv_header, read_smv

if TYPE_CHECKING:
    import torch

__all__ = ["create_circular_mask", "create_rectangle_mask", "parse_smv_header", "read_smv_mask"]


def read_smv_mask(path: str | os.PathLike[str]) -> tuple[torch.Tensor, dict[str, str]]:
    """The mask (slow, fast) of an SMV image, 1.0 where a pixel is not zero, and the entries of its header."""
    import torch

    pixels, header = read_smv(path)
    return torch.from_numpy((pixels != 0).astype(np.float32)), header


def create_circular_mask(spixels: int, fpixels: int, center_s: float, center_f: float, radius: float) -> torch.Tensor:
    """A mask (slow, fast) that is 1.0 within `radius` of a centre; pixels, pixel i at i."""
    import torch

    slow, fast = torch.meshgrid(torch.arange(spixels), torch.arange(fpixels), indexing="ij")
    return ((slow - center_s) ** 2 + (fast - center_f) ** 2 <= radius**2).float()


def create_rectangle_mask(
    spixels: int, fpixels: int, roi_xmin: int, roi_xmax: int, roi_ymin: int, roi_ymax: int
) -> torch.Tensor:
    """A mask (slow, fast) that is 1.0 in fast pixels roi_xmin to roi_xmax and slow roi_ymin to roi_ymax."""
    import torch

    mask = torch.zeros(spixels, fpixels)
    mask[max(roi_ymin, 0) : roi_ymax + 1, max(roi_xmin, 0) : roi_xmax + 1] = 1.0
    return mask
