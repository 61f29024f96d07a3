"""The solid angle of the rendered pixels, for the line that the C program prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanobrag_torch.kernels.problem import Options, Scene
    from nanobrag_torch.simulator import Simulator

CHUNK = 1 << 18


def reported_solid_angle(simulator: Simulator) -> float:
    """Steradian of the rendered pixels, seen from their centres.

    Under compat.solid_angle_over_steps the C program's number: the sum over layers and sub-pixels of the solid angle
    that each was given, divided by all steps (D36).
    """
    from dataclasses import replace

    scene, options = simulator.scene(), simulator.options()
    if not simulator.compat.solid_angle_over_steps:
        return _sum(simulator, scene, replace(options, oversample=1, layers=1))
    return _sum(simulator, scene, options) / simulator.steps


def _sum(simulator: Simulator, scene: Scene, options: Options) -> float:
    import torch

    from nanobrag_torch.kernels.reference import look_at_pixels

    wanted, (slow, fast) = simulator.detector.pixels(), simulator.detector.image_shape
    count = slow * fast if wanted is None else wanted.numel()
    step = max(1, CHUNK // (options.layers * options.oversample**2 * scene.incident.shape[0]))
    total = 0.0
    for start in range(0, count, step):
        end = min(start + step, count)
        pixels = torch.arange(start, end, device=scene.panels.device) if wanted is None else wanted[start:end]
        total += float(look_at_pixels(pixels, scene, options).omega.sum())
    return total
