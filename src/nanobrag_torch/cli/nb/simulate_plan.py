"""What `nb simulate` is going to do, said before it does it: images, pixels, sub-pixels, steps, time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from nanobrag_torch.simulator import Simulator

PROBED_PIXELS = 2048
RUN = 256
"""Neighbours are rendered together, and faster than pixels far apart."""
WORTH_S = 0.1
"""Below this, what is measured is the call and not the pixels."""
LONG_S = 60.0
"""An image that takes longer, because of automatic sub-pixels, is told how to take less."""


def plan_lines(simulator: Simulator, images: int) -> Iterator[str]:
    """What is known before anything is rendered."""
    pixels, side = simulator.wanted_pixels().numel(), simulator.oversample
    asked = simulator.detector.config.oversample > 0
    why = "as asked for" if asked else "automatic: three along the narrowest spot"
    crystal, sources = simulator.crystal, simulator.sources.wavelengths.numel()
    parts = (
        f"{side} x {side} sub-pixels",
        f"{crystal.config.phi_steps} phi steps",
        f"{crystal.domain_count} mosaic domains",
        f"{sources} sources",
    )
    yield f"to render: {images} image{'s' * (images != 1)} of {pixels} pixels; sub-pixels {side} x {side} ({why})"
    yield f"{simulator.steps} steps a pixel: {' x '.join(parts)}"


def background_lines(simulator: Simulator, images: int) -> Iterator[str]:
    """What amorphous materials add, and in which beam."""
    import torch

    wanted = simulator.wanted_pixels()
    with torch.no_grad():
        photons = simulator.background_values(wanted[:: max(1, wanted.numel() // PROBED_PIXELS)])
    if photons is None:
        return
    beam = simulator.beam.config
    yield (
        f"background: {float(photons.median()):.3g} photons in a middling pixel, {float(photons.max()):.3g} in the "
        f"brightest, from {float(simulator.beam.fluence()):.3g} photons / m^2 in a beam of {beam.beamsize_mm:g} mm"
    )


def time_lines(simulator: Simulator, images: int) -> Iterator[str]:
    """How long it will take, from a few pixels all over the image; compiles what the image needs."""
    seconds = seconds_an_image(simulator)
    yield f"expected: {_duration(seconds)} an image" + (f", {_duration(seconds * images)} in all" if images > 1 else "")
    side = simulator.oversample
    if seconds > LONG_S and side > 1 and simulator.detector.config.oversample <= 0:
        yield (
            f"automatic sub-pixels make this long: --oversample 1 takes {_duration(seconds / side**2)} an image and "
            "samples narrow spots once a pixel; fewer --cells make spots wider and ask for fewer"
        )


def seconds_an_image(simulator: Simulator) -> float:
    """From the time of some rows of it: a few, to compile and to warm up, and more as long as they take no time."""
    wanted = simulator.wanted_pixels()
    _seconds(simulator, wanted, PROBED_PIXELS)
    for count in (PROBED_PIXELS, 8 * PROBED_PIXELS, 64 * PROBED_PIXELS):
        seconds = _seconds(simulator, wanted, count)
        if seconds > WORTH_S or count >= wanted.numel():
            break
    return seconds * max(1.0, wanted.numel() / count)


def _seconds(simulator: Simulator, wanted: Tensor, count: int) -> float:
    """Time of `count` pixels, in runs all over the image."""
    import torch

    runs = torch.split(wanted, RUN)
    step = max(1, len(runs) * RUN // count)
    begun = time.perf_counter()
    with torch.no_grad():
        simulator.photon_values(torch.cat(runs[step // 2 :: step])).cpu()
    return time.perf_counter() - begun


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
