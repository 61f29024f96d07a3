"""The image of a shot as photons: which pixels are measurements, and what was added to the counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import DetectorData

SMALLEST_PEDESTAL = 3.0
"""Counts; a lower offset cannot be told from the noise of the background, and matters as little."""
ROUND_NUMBER = 1.5
PATCH, PATCHES, LEAST_PATCHES = 16, 400, 10
CLIP, CLIPS = 4.0, 6
CLIPPED = 0.9989
"""Variance of the normal law within four standard deviations."""
MAD = 1.4826


@dataclass(frozen=True, eq=False)
class Frame:
    """Counts [panel, slow, fast] in their own type, where they are measurements, and the readout noise (photons).

    An image of many pixels is never copied as a whole: photons are those of the places that are asked for.
    """

    counts: NDArray[Any]
    good: NDArray[np.bool_]
    readout_noise: float
    gain: float
    pedestal: float
    notes: tuple[str, ...] = ()

    def photons(self, place: Any) -> NDArray[np.float64]:
        """Photons at some places of the image, an index of `counts`."""
        return np.asarray((self.counts[place].astype(np.float64) - self.pedestal) / self.gain, np.float64)


def frame_of(
    image: NDArray[Any],
    detector: DetectorData,
    *,
    gain: float | None = None,
    pedestal: float | None = None,
    readout_noise: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    trusted_range: tuple[float, float] | None = None,
) -> Frame:
    """An image [panel, slow, fast] or (slow, fast) in counts -> photons.

    gain (counts a photon), pedestal (counts) and trusted_range (counts) are those of the detector unless given; mask:
    True = use the pixel. Raises InputError for an image or a mask of another shape.
    """
    shape = (len(detector.panels), *detector.shape[-2:])
    counts = _by_panel(image, detector, shape, "image")
    good = np.isfinite(counts) if counts.dtype.kind == "f" else np.ones(shape, bool)
    if counts.dtype.kind == "i":
        good &= counts >= 0  # counters mark gaps and dead pixels by negative numbers
    if counts.dtype.kind in "iu":
        good &= counts < np.iinfo(counts.dtype).max
    for number, panel in enumerate(detector.panels):
        slow, fast = panel.shape
        inside = np.zeros(shape[1:], bool)
        inside[:slow, :fast] = panel.good_pixels()
        limits = trusted_range or panel.trusted_range
        if limits is not None and limits[1] > limits[0]:
            inside &= (counts[number] >= limits[0]) & (counts[number] <= limits[1])
        good[number] &= inside
    if mask is not None:
        good &= _by_panel(mask, detector, shape, "mask") != 0
    first = detector.panels[0]
    used_gain = first.gain if gain is None else gain
    offset = first.pedestal if pedestal is None else pedestal
    return Frame(counts, good, readout_noise or 0.0, used_gain or 1.0, offset or 0.0)


def _by_panel(array: NDArray[Any], detector: DetectorData, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """An array as [panel, slow, fast]. A single panel is no corner of a larger image unless it says which."""
    first = detector.panels[0]
    if array.ndim == 2:
        if len(detector.panels) == 1 and not any(first.raw_image_offset) and array.shape != first.shape:
            raise InputError(name, array.shape, f"the shape of the detector, {first.shape}")
        array = detector.unstack(array, name)
    if array.size != int(np.prod(shape)) or (array.ndim == 3 and array.shape != shape):
        raise InputError(name, array.shape, f"the shape of the detector, {shape}")
    return array.reshape(shape)


@dataclass(frozen=True)
class Noise:
    """What patches of the image say: mean and variance of the background, photons."""

    mean: float
    variance: float
    error: float  # standard error of the difference of the two
    patches: int


def noise_of_background(frame: Frame) -> Noise | None:
    """Median mean and variance of patches all over the image, spots and planes left out; None for too few patches."""
    panels, slow_size, fast_size = frame.counts.shape
    step = max(PATCH, int(np.sqrt(panels * slow_size * fast_size / PATCHES)))
    corners = [np.arange(panels), *(np.arange(0, size - PATCH + 1, step) for size in (slow_size, fast_size))]
    panel, slow, fast = (at.reshape(-1, 1, 1) for at in np.meshgrid(*corners, indexing="ij"))
    within = np.arange(PATCH)
    place = panel, slow + within[:, None], fast + within
    known = _noise_of_patches(frame.photons(place).reshape(-1, PATCH**2), frame.good[place].reshape(-1, PATCH**2))
    if len(known) < LEAST_PATCHES:
        return None
    mean, variance = float(np.median(known[:, 0])), float(np.median(known[:, 1]))
    lacking = known[:, 0] - known[:, 1]
    error = 1.25 * MAD * float(np.median(np.abs(lacking - np.median(lacking)))) / np.sqrt(len(known))
    return Noise(mean, mean - float(np.median(lacking)), max(error, 1e-3 * variance), len(known))


def _noise_of_patches(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean and variance [q, 2] of pixels [p, n] of patches, clipped at four standard deviations about planes.

    Patches of which less than half is left do not count.
    """
    half = PATCH * PATCH // 2
    known = good.sum(1) >= half
    good, values = good[known], np.where(good, values, 0.0)[known]
    slow, fast = np.indices((PATCH, PATCH)).reshape(2, -1) / PATCH
    design = np.stack((np.ones(PATCH**2), fast, slow), 1)
    kept, left = good, np.zeros_like(values)
    for _ in range(CLIPS):
        normal = np.einsum("pn,ni,nj->pij", kept, design, design, optimize=True)
        planes = np.linalg.solve(normal, ((kept * values) @ design)[..., None])[..., 0]
        left = values - planes @ design.T
        limit = CLIP * np.maximum(np.sqrt(_mean(left**2, kept)), 1e-6)
        kept = good & (np.abs(left) < limit[:, None])
    count = kept.sum(1)
    variance = _mean(left**2, kept) * count / (count - 3) / CLIPPED
    found: NDArray[np.float64] = np.stack((_mean(values, kept), variance), 1)[count >= half]
    return found


def _mean(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the kept ones of each row."""
    return np.asarray(np.where(kept, values, 0.0).sum(1) / kept.sum(1))


def with_offset(frame: Frame, noise: Noise | None) -> Frame:
    """Take away a pedestal that nobody mentioned: counts whose background varies much less than Poisson's law says.

    A background that varies more is put down to readout noise. Neither is looked for where the user or the file gave
    one; what was found is said in a note.
    """
    if noise is None or frame.pedestal or frame.readout_noise:
        return frame
    lacking = noise.mean - noise.variance
    if lacking > max(SMALLEST_PEDESTAL, 5 * noise.error, 0.3 * noise.mean):
        tens = 10 * np.round(lacking / 10)  # what programs add is a round number; readout noise takes a little off
        offset = float(tens if abs(tens - lacking) < ROUND_NUMBER else np.round(lacking))
        note = f"the background varies as if {offset:.0f} counts were added to every pixel: taken away (pedestal)"
        good = frame.good & (frame.counts > 0)
        sigma = float(np.sqrt(offset - lacking)) if offset - lacking > 3 * noise.error else 0.0
        return Frame(frame.counts, good, sigma, frame.gain, offset * frame.gain, (*frame.notes, note))
    if -lacking > max(5 * noise.error, 0.1 * noise.mean):
        sigma = float(np.sqrt(-lacking))
        note = f"the background varies more than its counts do: readout noise of {sigma:.2f} photons assumed"
        return replace(frame, readout_noise=sigma, notes=(*frame.notes, note))
    return frame
