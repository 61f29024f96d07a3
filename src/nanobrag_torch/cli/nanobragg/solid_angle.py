"""The solid angle of the rendered pixels, for the line that the C program prints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanobrag_torch.kernels.problem import Options, Scene
    from nanobrag_torch.simulator import Simulator

CHUNK = 1 << 18
_KNOWN: dict[object, float] = {}
"""Sums over whole detectors, by all that they depend on: the lines of a batch often have the same one."""
MOST_KNOWN = 64


def reported_solid_angle(simulator: Simulator) -> float:
    """Steradian of the rendered pixels, seen from their centres.

    Under compat.solid_angle_over_steps the C program's number: the sum over layers and sub-pixels of the solid angle
    that each was given, divided by all steps (D36).
    """
    scene, options = simulator.scene(), simulator.options()
    if not simulator.compat.solid_angle_over_steps:
        return _sum(simulator, scene, replace(options, oversample=1, layers=1))
    return _sum(simulator, scene, options) * options.oversample**2 / simulator.steps


def _sum(simulator: Simulator, scene: Scene, options: Options) -> float:
    """Sum over pixels of the mean solid angle of their sub-pixels: the image of what scatters one everywhere."""
    if options.oversample_omega and options.layers > 1:
        return _sum_in_depth(simulator, scene, options)
    known = _key(simulator, scene, options)
    if known in _KNOWN:
        return _KNOWN[known]
    found = _total(simulator, *_scattering_one(scene, options))
    if known is not None:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[known] = found
    return found


def _key(simulator: Simulator, scene: Scene, options: Options) -> object:
    """What the sum over a whole detector depends on; None where it is over some of the pixels."""
    if simulator.detector.pixels() is not None:
        return None
    detector = scene.panels, scene.pixel_size, scene.curvature
    return options, simulator.kernel, *(tensor.detach().cpu().numpy().tobytes() for tensor in detector)


def _scattering_one(scene: Scene, options: Options) -> tuple[Scene, Options]:
    """The same detector about what scatters one everywhere."""
    import torch

    from nanobrag_torch.physics.lattice_factor import Profile

    one, identity = torch.ones_like(scene.wavelengths[:1]), torch.eye(3).to(scene.panels)
    flat = replace(
        scene,
        sensor=torch.zeros_like(scene.sensor),  # captures all
        incident=scene.incident[:1],
        wavelengths=scene.wavelengths[:1],
        source_weights=one,
        polarization=identity[None],
        lattice=torch.zeros_like(scene.lattice[:1]),  # every step is on the reflection 0 0 0
        lattice_weights=one,
        shape=identity,
        structure_factors=scene.structure_factors.new_zeros((0, 0, 0)),
        default_F=one[0],
        offset=torch.zeros_like(one[0]),
    )
    plain = replace(
        options, profile=Profile.GRATING, dmin=0.0, interpolate=False, running_factors=False, interpolation_latch=False
    )
    return flat, plain


def _total(simulator: Simulator, flat: Scene, plain: Options) -> float:
    """The sum over the rendered pixels."""
    import torch

    from nanobrag_torch.kernels.operation import intensity

    with torch.no_grad():
        found = intensity(simulator.detector.pixels(), flat, plain, kernel=simulator.kernel).sum(dtype=torch.float64)
    return float(found)


def _sum_in_depth(simulator: Simulator, scene: Scene, options: Options) -> float:
    """The same where each layer of the sensor has a solid angle of its own."""
    from nanobrag_torch.kernels.reference import look_at_pixels

    pixels = simulator.wanted_pixels()
    step = max(1, CHUNK // (options.layers * options.oversample**2 * scene.incident.shape[0]))
    parts = [pixels[start : start + step] for start in range(0, pixels.numel(), step)]
    return sum(float(look_at_pixels(part, scene, options).omega.sum()) for part in parts) / options.oversample**2
