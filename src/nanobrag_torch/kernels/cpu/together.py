"""Which sources lattices are held against together: stages of the compiled CPU kernel."""

from __future__ import annotations

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.intrinsics import stage
from nanobrag_torch.kernels.cpu.layout import Array, Packed

MOST_BLUR = 0.25
"""How much hkl may differ between sources that are taken together, in half widths of a spot."""


@stage()
def take_together(box: Array, scene: Packed, first: int) -> int:
    """Their middle and how far they are from it, into the box, from source `first` on; the source behind the last one.

    As many follow each other as blur a spot by little, anywhere in the block that was measured last.
    """
    sources, last = scene.sources, first + 1
    low_x = high_x = sources[first, at.INCIDENT]
    low_y = high_y = sources[first, at.INCIDENT + 1]
    low_z = high_z = sources[first, at.INCIDENT + 2]
    low = high = sources[first, at.INVERSE_LAMBDA]
    _set_middle(box, low_x, high_x, low_y, high_y, low_z, high_z, low, high)
    while last < sources.shape[0]:
        x, y, z = sources[last, at.INCIDENT], sources[last, at.INCIDENT + 1], sources[last, at.INCIDENT + 2]
        inverse = sources[last, at.INVERSE_LAMBDA]
        before = low_x, high_x, low_y, high_y, low_z, high_z, low, high
        low_x, high_x, low_y, high_y = min(x, low_x), max(x, high_x), min(y, low_y), max(y, high_y)
        low_z, high_z, low, high = min(z, low_z), max(z, high_z), min(inverse, low), max(inverse, high)
        _set_middle(box, low_x, high_x, low_y, high_y, low_z, high_z, low, high)
        if not _is_sharp(box, scene.envelope, scene.limits):
            _set_middle(box, before[0], before[1], before[2], before[3], before[4], before[5], before[6], before[7])
            break
        last += 1
    return last


@stage()
def _set_middle(
    box: Array,
    low_x: float,
    high_x: float,
    low_y: float,
    high_y: float,
    low_z: float,
    high_z: float,
    low: float,
    high: float,
) -> None:
    """TOGETHER, SHARE and APART of sources within these limits on direction and one over the wavelength."""
    box[at.TOGETHER], box[at.APART] = (low_x + high_x) / 2, (high_x - low_x) / 2 * high
    box[at.TOGETHER + 1], box[at.APART + 1] = (low_y + high_y) / 2, (high_y - low_y) / 2 * high
    box[at.TOGETHER + 2], box[at.APART + 2] = (low_z + high_z) / 2, (high_z - low_z) / 2 * high
    box[at.TOGETHER + 3], box[at.SHARE] = (low + high) / 2, (high - low) / (high + low)


@stage()
def _is_sharp(box: Array, envelope: Array, limits: Array) -> bool:
    """Whether hkl differs between them by less than MOST_BLUR of a spot, for any lattice."""
    for axis in range(3):
        blur = 0.0
        for i in range(3):
            element = abs(envelope[0, 3 * axis + i]) + envelope[1, 3 * axis + i]
            length = abs(box[at.MIDDLE + i] - box[at.TOGETHER + i]) * box[at.TOGETHER + 3]
            blur += element * (box[at.APART + i] + box[at.SHARE] * length)
        if not blur <= MOST_BLUR * limits[at.WITHIN + axis]:
            return False
    return True
