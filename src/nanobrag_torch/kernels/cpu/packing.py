"""A scene as the compiled CPU kernel takes it: a few arrays of numbers, with the columns of cpu.layout."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import TILE
from nanobrag_torch.kernels.problem import Options, Scene, effective_cells, pixel_count, step_count, taken
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile

Array = np.ndarray[Any, Any]

NARROW_BOUND = 24.0
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken: 3e-6 of the image."""
NARROW_CELLS = 40.0
"""Largest number of cells N for which N d of a float32 distance d is precise enough far from reflections too."""
BIAS_32, BIAS_64 = 1.2360679e-12, 1.2360679e-90
"""A bias that changes no result, that no distance cancels, and whose cube is not yet zero."""
FADING = (Profile.GRATING, Profile.SPHERE)
"""Shapes that never vanish."""
FULLEST = 0.2
"""Share of the space between reflections that spots may fill for looking beforehand to be worth while."""
FEWEST_STEPS = 8
MOST_FOUND = 2**22
"""Steps of a pixel for which what was found is kept; 8 bytes each and thread."""
_KEPT = threading.local()


def pack(pixels: Tensor | None, scene: Scene, options: Options) -> at.Packed:
    """Arrays for the compiled stages. A small image takes about as long, so the fewer operations the better."""
    shape = _array(scene.shape)
    cells = effective_cells(shape, options.profile)
    dtype = computed_in(cells, options)
    real = np.float32 if dtype == torch.float32 else np.float64
    lattice = np.empty((scene.lattice.shape[0], at.LATTICE_COLUMNS))
    lattice[:, : at.LATTICE_WEIGHT] = _array(scene.lattice).reshape(-1, 9)
    lattice[:, : at.LATTICE_WEIGHT] *= at.SCALE
    lattice[:, at.LATTICE_WEIGHT] = _array(scene.lattice_weights)
    table = scene.structure_factors.detach().to(dtype).contiguous().reshape(-1).numpy()
    size = scene.structure_factors.shape if table.size else (0, 0, 0)
    bias = BIAS_32 if dtype == torch.float32 else BIAS_64
    limits = limits_of(scene, options)
    sparse = limits is not None
    return at.Packed(
        pixels=np.zeros(0, np.int64) if pixels is None else pixels.detach().to(torch.int64).contiguous().numpy(),
        whole=_whole_numbers(scene, options, _places(pixels, scene, options, sparse), sparse),
        numbers=_real_numbers(scene, options, dtype, cells),
        panels=_panels(scene),
        sources=_sources(scene),
        lattice=lattice,
        narrow=lattice.astype(real),
        shape=np.array([*shape.ravel().tolist(), bias], real),
        grid=np.array([*options.hkl_first, *size], np.float64),
        table=table,
        envelope=_envelope(lattice),
        columns=np.ascontiguousarray(lattice.T) if sparse else np.empty((at.LATTICE_COLUMNS, 0)),
        limits=np.zeros(at.LIMITS) if limits is None else limits,
        ceiling=_ceiling(scene, options) if sparse and options.profile in FADING else np.zeros(0),
    )


def scratch(packed: at.Packed) -> at.Scratch:
    """Arrays for this thread to work with, which keeps them; nothing in them outlives a call of compiled code."""
    rows, lattices = _kept_rows(packed.narrow.dtype.char), len(packed.lattice)
    where = np.zeros(lattices, np.int32)
    if not packed.whole[at.SPARSE]:
        return rows._replace(where=where)
    steps = len(packed.sources) * int(packed.whole[at.LAYERS])
    found = np.empty((2, steps * lattices), np.int32)
    first, off = np.zeros(steps + 1, np.int64), np.empty(lattices)
    slots, loss = np.zeros(2 * at.GROUPS, np.int32), np.zeros(lattices * at.GROUPS if packed.whole[at.FADES] else 0)
    return rows._replace(where=where, off=off, first=first, found=found[0], groups=found[1], loss=loss, slots=slots)


def _kept_rows(kind: str) -> at.Scratch:
    kept: at.Scratch | None = getattr(_KEPT, kind, None)
    if kept is None:
        v, w = np.zeros(at.WIDE_SIZE), np.zeros(at.NARROW_SIZE, kind)
        v[at.RAMP : at.RAMP + at.LANES] = np.arange(at.LANES)
        w[at.STEPS : at.STEPS + at.GROUP] = np.arange(at.GROUP) - at.GROUP // 2
        places, place = np.zeros(at.INDEX_SIZE, np.int32), np.zeros(at.LANES, np.int32)
        none, nowhere, box, empty = np.zeros(0), np.zeros(0, np.int64), np.zeros(at.BOX_SIZE), place[:0]
        kept = at.Scratch(v, w, places, place, box, empty, none, nowhere, empty, empty, none, empty)
        setattr(_KEPT, kind, kept)
    return kept


def _array(tensor: Tensor) -> Array:
    """Its numbers, to be copied from."""
    return tensor.detach().numpy()


def _whole_numbers(scene: Scene, options: Options, places: int, sparse: bool) -> Array:
    has_table, how = scene.structure_factors.numel() > 0, taken(scene, options)
    slow, fast = options.image_shape
    found = {
        at.SPARSE: sparse,
        at.PLACES: places,
        at.FADES: options.profile in FADING,
        at.EVERYWHERE: float(scene.offset) != 0,
        at.SLOW_COUNT: slow,
        at.FAST_COUNT: fast,
        at.OVERSAMPLE: options.oversample,
        at.LAYERS: options.layers,
        at.PROFILE: options.profile,
        at.POINT_PIXEL: options.point_pixel,
        at.CURVED: options.curved * (at.BY_LAB_AXES if options.curved_by_lab_axes else at.SPHERE),
        at.LAYER_OMEGA: how.layer_omega,
        at.UPRIGHT: options.curved and not options.curved_sensor_is_flat,
        at.HAS_TABLE: has_table,
        at.CUBIC: options.interpolate and has_table,
        at.EACH_OMEGA: how.each_omega,
        at.EACH_POLAR: how.each_polar,
        at.EACH_CAPTURE: how.each_capture,
        at.LAST_CAPTURE: how.last_capture,
        at.SIMPLE: how.alone and not options.curved and float(scene.offset) == 0,
    }
    return np.array([found[place] for place in range(at.INTEGERS)], np.int64)


def _places(pixels: Tensor | None, scene: Scene, options: Options, sparse: bool) -> int:
    """Places of pixels: as many as there are, but those of whole tiles where an image is taken in tiles."""
    if pixels is not None or not sparse:
        return pixel_count(pixels, scene, options)
    slow, fast = (-(-size // TILE) for size in options.image_shape)
    return scene.panels.shape[0] * slow * fast * at.LANES


def limits_of(scene: Scene, options: Options) -> Array | None:
    """What decides which steps are left out; None where none are.

    That is so where nothing is to be left out, and where spots fill so much of the space between them that looking
    costs more than it spares. d^T Q d is at least the smallest eigenvalue of Q, scaled to a diagonal of ones, times the
    sum of Q_ii d_i^2, whichever integers d is counted from.
    """
    steps, fades = step_count(scene, options), options.profile in FADING
    wanted = options.tolerance > 0 if fades else options.cut > 0
    if not wanted or steps < FEWEST_STEPS or steps // options.oversample**2 > MOST_FOUND:
        return None
    form, limits = _array(scene.shape), np.zeros(at.LIMITS)
    widths = np.sqrt(np.abs(form.diagonal())) + 1e-300
    least = np.linalg.eigvalsh((form + form.T) / (2 * np.outer(widths, widths)))[0]
    if not np.isfinite(least) or least <= 0:
        return None
    limits[at.NEAREST : at.FARTHEST] = least * widths**2
    if fades:
        cells = np.abs(form.diagonal())
        limits[at.FLOOR : at.BUDGET] = 1 / np.where(cells >= 1, cells, np.pi / 2 * cells)  # below one cell L exceeds N
        limits[at.BUDGET], limits[at.STRONGEST] = options.tolerance, _strongest(scene, options)
        return limits
    limits[at.FARTHEST] = TOPHAT_LIMIT if options.profile == Profile.TOPHAT else -np.log(options.cut) / 2
    reach = np.sqrt(limits[at.FARTHEST] / limits[at.NEAREST : at.FARTHEST])
    return limits if np.minimum(2 * reach, 1).prod() * np.pi / 6 < FULLEST else None


def _strongest(scene: Scene, options: Options) -> float:
    """The largest F^2 that any step can have. The weights of a cubic through four points sum up to 5/4 at most."""
    table, default = _array(scene.structure_factors), abs(float(scene.default_F))
    strongest = max(float(np.abs(table).max()) if table.size else 0.0, default)
    return (strongest * (1.25**3 if options.interpolate else 1.0)) ** 2


def _ceiling(scene: Scene, options: Options) -> Array:
    """F^2 of the strongest of each reflection and its 26 neighbours, a margin of one about the table; none if cubic."""
    table = scene.structure_factors.detach()
    if table.numel() == 0 or options.interpolate:
        return np.zeros(0)
    padded = torch.nn.functional.pad(table.double().abs(), (2,) * 6, value=abs(float(scene.default_F)))
    highest: Array = torch.nn.functional.max_pool3d(padded[None], 3, stride=1)[0].reshape(-1).numpy()
    return highest**2


def computed_in(cells: Array, options: Options) -> torch.dtype:
    """The image's type, but float64 for round crystals so large that float32 would lose the phase of their fringes."""
    coarse = options.profile == Profile.SPHERE and bool((cells > NARROW_CELLS).any())
    return torch.float64 if coarse else options.dtype


def _real_numbers(scene: Scene, options: Options, dtype: torch.dtype, cells: Array) -> Array:
    single, grating = dtype == torch.float32, options.profile == Profile.GRATING
    narrow = single and not (grating and bool((cells > NARROW_CELLS).any()))
    numbers = np.empty(at.NUMBERS)
    numbers[at.CELLS : at.CELLS + 3] = cells
    numbers[at.NARROW_BOUND] = NARROW_BOUND if narrow else 0.0
    numbers[at.PHASED] = single and grating
    numbers[at.DEFAULT_F], numbers[at.OFFSET] = float(scene.default_F), float(scene.offset)
    numbers[at.DMIN] = options.dmin * at.SCALE
    numbers[at.CURVATURE : at.CURVATURE + 4] = _array(scene.curvature)
    return numbers


def _panels(scene: Scene) -> Array:
    found, vectors = np.empty((scene.panels.shape[0], at.PANEL_COLUMNS)), _array(scene.panels)
    found[:, : at.FAST_SIZE] = vectors.reshape(-1, 12)
    found[:, at.FAST_SIZE : at.AREA] = _array(scene.pixel_size)
    found[:, at.AREA] = found[:, at.FAST_SIZE] * found[:, at.SLOW_SIZE]
    found[:, at.CLOSE] = (vectors[:, 0] * vectors[:, 3]).sum(1)
    found[:, at.LAYER_STEP :] = _array(scene.sensor)
    return found


def _sources(scene: Scene) -> Array:
    found = np.empty((scene.incident.shape[0], at.SOURCE_COLUMNS))
    found[:, : at.INVERSE_LAMBDA] = _array(scene.incident)
    found[:, at.INVERSE_LAMBDA] = 1 / (_array(scene.wavelengths) * at.SCALE)
    found[:, at.SOURCE_WEIGHT] = _array(scene.source_weights)
    found[:, at.POLARIZATION :] = _array(scene.polarization).reshape(-1, 9)
    return found


def _envelope(lattice: Array) -> Array:
    """Middle and half range of the lattices' elements, and zeros."""
    low, high, found = lattice.min(0), lattice.max(0), np.zeros((3, at.LATTICE_COLUMNS))
    found[0] = (low + high) / 2
    found[1] = (high - low) / 2
    return found
