"""A scene as the compiled CPU kernel takes it: a few arrays of numbers, with the columns of cpu_layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels import cpu_layout as at
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile

Array = np.ndarray[Any, Any]

NARROW_BOUND = 24.0
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken: 3e-6 of the image."""
NARROW_CELLS = 40.0
"""Largest number of cells N for which N d of a float32 distance d is precise enough far from reflections too."""


def pack(pixels: Tensor | None, scene: Scene, options: Options) -> at.Packed:
    """Arrays for the compiled stages."""
    dtype = computed_in(scene, options)
    real = np.float32 if dtype == torch.float32 else np.float64
    lattice = np.column_stack([_array(scene.lattice).reshape(-1, 9) * at.SCALE, _array(scene.lattice_weights)])
    table = scene.structure_factors.detach().to(dtype).contiguous().reshape(-1).numpy()
    size = scene.structure_factors.shape if table.size else (0, 0, 0)
    return at.Packed(
        pixels=np.zeros(0, np.int64) if pixels is None else pixels.detach().to(torch.int64).contiguous().numpy(),
        whole=_whole_numbers(scene, options),
        numbers=_real_numbers(scene, options, dtype),
        panels=_panels(scene),
        sources=_sources(scene),
        lattice=lattice,
        narrow=lattice.astype(real),
        shape=_shape(scene, dtype).astype(real),
        grid=np.array([*options.hkl_first, *size], np.float64),
        table=table,
        envelope=_envelope(lattice),
    )


def scratch(packed: at.Packed) -> at.Scratch:
    """Arrays for one thread to work with."""
    v = np.zeros(at.WIDE_SIZE)
    v[at.RAMP : at.RAMP + at.LANES] = np.arange(at.LANES)
    w = np.zeros(at.NARROW_SIZE, packed.narrow.dtype)
    w[at.STEPS : at.STEPS + at.GROUP] = np.arange(at.GROUP) - at.GROUP // 2
    return at.Scratch(
        v=v,
        w=w,
        places=np.zeros(at.INDEX_SIZE, np.int32),
        place=np.zeros(at.LANES, np.int32),
        box=np.zeros(at.BOX_SIZE),
        where=np.zeros(len(packed.lattice), np.int32),
    )


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float64)


def _whole_numbers(scene: Scene, options: Options) -> Array:
    whole = np.zeros(at.INTEGERS, np.int64)
    samples = options.oversample**2 * options.layers
    has_table = scene.structure_factors.numel() > 0
    whole[[at.SLOW_COUNT, at.FAST_COUNT]] = options.image_shape
    whole[[at.OVERSAMPLE, at.LAYERS, at.PROFILE]] = options.oversample, options.layers, options.profile
    whole[[at.POINT_PIXEL, at.CURVED, at.HAS_TABLE]] = options.point_pixel, options.curved, has_table
    whole[at.CUBIC] = options.interpolate and has_table
    # A factor that is computed once belongs to the only sample where there is but one: then it is "each".
    alone = samples == 1 and scene.incident.shape[0] == 1 and options.dmin <= 0
    whole[at.EACH_OMEGA] = options.oversample_omega or samples == 1
    whole[at.EACH_POLAR] = options.oversample_polar or alone
    whole[at.SIMPLE] = alone and not options.curved and float(scene.offset) == 0
    whole[at.LAST_CAPTURE] = options.last_layer_capture and not options.oversample_thick and options.layers > 1
    whole[at.EACH_CAPTURE] = (options.oversample_thick or options.oversample == 1) and not whole[at.LAST_CAPTURE]
    return whole


def computed_in(scene: Scene, options: Options) -> torch.dtype:
    """The image's type, but float64 for round crystals so large that float32 would lose the phase of their fringes."""
    coarse = options.profile == Profile.SPHERE and bool((_effective_cells(scene, options) > NARROW_CELLS).any())
    return torch.float64 if coarse else options.dtype


def _effective_cells(scene: Scene, options: Options) -> Array:
    diagonal: Array = np.abs(np.diagonal(_array(scene.shape)))
    return diagonal if options.profile == Profile.GRATING else np.sqrt(diagonal)


def _real_numbers(scene: Scene, options: Options, dtype: torch.dtype) -> Array:
    numbers = np.zeros(at.NUMBERS)
    cells = _effective_cells(scene, options)
    single, grating = dtype == torch.float32, options.profile == Profile.GRATING
    numbers[at.CELLS : at.CELLS + 3] = cells
    numbers[at.NARROW_BOUND] = NARROW_BOUND if single and not (grating and (cells > NARROW_CELLS).any()) else 0.0
    numbers[at.PHASED] = single and grating
    numbers[[at.DEFAULT_F, at.OFFSET]] = float(scene.default_F), float(scene.offset)
    numbers[at.DMIN] = options.dmin * at.SCALE
    numbers[at.CURVATURE : at.CURVATURE + 4] = _array(scene.curvature)
    return numbers


def _panels(scene: Scene) -> Array:
    panels, size, sensor = _array(scene.panels), _array(scene.pixel_size), _array(scene.sensor)
    close = np.einsum("pi,pi->p", panels[:, 0], panels[:, 3])
    return np.column_stack([panels.reshape(-1, 12), size, size.prod(1), close, sensor])


def _sources(scene: Scene) -> Array:
    inverse = 1 / (_array(scene.wavelengths) * at.SCALE)
    matrices = _array(scene.polarization).reshape(-1, 9)
    return np.column_stack([_array(scene.incident), inverse, _array(scene.source_weights), matrices])


def _envelope(lattice: Array) -> Array:
    """Middle and half range of the lattices' elements, and zeros."""
    low, high = lattice.min(0), lattice.max(0)
    return np.stack([(low + high) / 2, (high - low) / 2, np.zeros_like(low)])


def _shape(scene: Scene, dtype: torch.dtype) -> Array:
    """The shape matrix, and a bias that changes no result, that no distance cancels, and whose cube is not yet zero."""
    return np.append(_array(scene.shape).reshape(-1), 1.2360679e-12 if dtype == torch.float32 else 1.2360679e-90)
