"""Scenes as the compiled CPU kernel takes them: a few arrays of numbers each, with the columns of cpu.layout.

What the scenes of a batch have is worked out for all of them at once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.bounds import TILE
from nanobrag_torch.kernels.cpu.limits import FADING, ceilings, limits_of
from nanobrag_torch.kernels.problem import RANKS, Options, Scene, effective_cells, pixel_count, scene_count, taken
from nanobrag_torch.physics.lattice_factor import Profile

Array = np.ndarray[Any, Any]

NARROW_BOUND = 24.0
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken: 3e-6 of the image."""
NARROW_CELLS = 40.0
"""Largest number of cells N for which N d of a float32 distance d is precise enough far from reflections too."""
BIAS_32, BIAS_64 = 1.2360679e-12, 1.2360679e-90
"""A bias that changes no result, that no distance cancels, and whose cube is not yet zero."""
_KEPT = threading.local()
_NO_PIXELS, _NO_COLUMNS = np.zeros((1, 0), np.int64), np.zeros((1, at.LATTICE_COLUMNS, 0))


Numbers = dict[str, Array]
"""The tensors of a scene by name as arrays with a batch axis in front, of length one where all scenes share them."""


class Packed(NamedTuple):
    """The scenes of a batch, or the only one."""

    scenes: list[at.Packed]
    finite: Array  # [B] whether everything but the table is: vector code may not be relied on to carry NaN through
    sparse: bool  # whether steps are left out in any of them
    rare: list[bool]  # whether each needs any of the parts that most do without, so that it gives what it gives alone


def pack(pixels: Tensor | None, scene: Scene, options: Options) -> Packed:
    """Arrays for the compiled stages. A small image takes about as long, so the fewer operations the better."""
    numbers = _numbers(scene)
    cells = effective_cells(numbers["shape"], options.profile)
    wanted = computed_in(cells, options)
    if len(set(wanted)) == 1:
        return _packed(pixels, scene, options, numbers, cells, wanted[0])
    kinds = {dtype: _packed(pixels, scene, options, numbers, cells, dtype) for dtype in set(wanted)}
    each = [(b, kinds[dtype]) for b, dtype in enumerate(wanted)]
    finite = np.array([one.finite[b] for b, one in each])
    scenes, rare = [one.scenes[b] for b, one in each], [one.rare[b] for b, one in each]
    return Packed(scenes, finite, any(one.sparse for _, one in each), rare)


def _packed(
    pixels: Tensor | None, scene: Scene, options: Options, numbers: Numbers, cells: Array, dtype: torch.dtype
) -> Packed:
    count = scene_count(pixels, scene) or 1
    lists = _pixels(pixels, count)
    real = np.float32 if dtype == torch.float32 else np.float64
    table = _table(scene, dtype)
    size = scene.structure_factors.shape[-3:] if table.size else (0, 0, 0)
    lattice, (limits, sparse) = _lattice(numbers), limits_of(numbers, scene, options)
    any_sparse = bool(sparse.any())
    stacks = at.Packed(
        pixels=_NO_PIXELS,
        whole=_whole_numbers(scene, options, numbers, lists, sparse),
        numbers=_real_numbers(numbers, options, dtype, cells),
        panels=_panels(numbers),
        sources=_sources(numbers),
        lattice=lattice,
        narrow=lattice.astype(real),
        shape=_shape(numbers["shape"], real),
        grid=_grid(options, size),
        table=table,
        envelope=envelope_of(lattice),
        columns=np.ascontiguousarray(lattice.swapaxes(1, 2)) if any_sparse else _NO_COLUMNS,
        limits=limits,
        ceiling=ceilings(scene, options) if any_sparse and options.profile in FADING else np.zeros((1, 0), np.float32),
    )
    scenes = [at.Packed(*(stack[b if len(stack) > 1 else 0] for stack in stacks)) for b in range(count)]
    if pixels is not None:
        scenes = [one if own is None else one._replace(pixels=own) for one, own in zip(scenes, lists, strict=True)]
    small = stacks.panels, stacks.sources, stacks.lattice, stacks.shape, stacks.numbers
    cubic = options.interpolate and table.size > 0
    rare = cubic or options.curved or options.dmin > 0 or options.profile != Profile.GRATING
    leaves_out = sparse.tolist() * (count // len(sparse))
    return Packed(scenes, _finite_scenes(small, count), any_sparse, [rare or one for one in leaves_out])


def _finite_scenes(stacks: Sequence[Array], count: int) -> Array:
    """Which scenes [B] have finite numbers alone. A sum tells at a glance that all have."""
    finite = np.ones(count, np.bool_)
    with np.errstate(all="ignore"):
        unclear = [stack for stack in stacks if not math.isfinite(stack.sum())]
    for stack in unclear:
        finite &= np.isfinite(stack).reshape(len(stack), -1).all(1)
    return finite


def scratch(packed: at.Packed) -> at.Scratch:
    """Arrays for this thread to work with, which keeps them; nothing in them outlives a call of compiled code."""
    rows, lattices = _kept_rows(packed.narrow.dtype.char), len(packed.lattice)
    where = np.zeros(lattices, np.int32)
    if not packed.whole[at.SPARSE]:
        return rows._replace(where=where)
    steps = len(packed.sources) * int(packed.whole[at.LAYERS])
    found, groups, reach = np.empty((3, steps * lattices), np.int32)
    first, off, until = np.zeros(2 * steps, np.int64), np.empty(lattices), np.empty(lattices, np.int32)
    slots, loss = np.zeros(2 * at.GROUPS, np.int32), np.zeros(lattices if packed.whole[at.FADES] else 0)
    lists: dict[str, Array] = {"first": first, "found": found, "groups": groups, "reach": reach, "until": until}
    return rows._replace(where=where, off=off, loss=loss, slots=slots, **lists)


def _kept_rows(kind: str) -> at.Scratch:
    kept: at.Scratch | None = getattr(_KEPT, kind, None)
    if kept is None:
        v, w = np.zeros(at.WIDE_SIZE), np.zeros(at.NARROW_SIZE, kind)
        v[at.RAMP : at.RAMP + at.LANES] = np.arange(at.LANES)
        w[at.STEPS : at.STEPS + at.GROUP] = np.arange(at.GROUP) - at.GROUP // 2
        places, place = np.zeros(at.INDEX_SIZE, np.int32), np.zeros(at.LANES, np.int32)
        given = {"v": v, "w": w, "places": places, "place": place, "box": np.zeros(at.BOX_SIZE)}
        none = dict.fromkeys(at.Scratch._fields, place[:0]) | {"off": v[:0], "loss": v[:0]}
        kept = at.Scratch(**none | {"first": np.zeros(0, np.int64)} | given)
        setattr(_KEPT, kind, kept)
    return kept


def _pixels(pixels: Tensor | None, count: int) -> list[Array | None]:
    """The list of pixels of each scene, without the negative ones that fill up its end; others are any pixel."""
    if pixels is None:
        return [None] * count
    rows = pixels.detach().to(torch.int64).contiguous().numpy()
    if rows.ndim == 1:
        return [rows] * count
    there = rows >= 0
    lengths = (there * np.arange(1, rows.shape[1] + 1)).max(1)
    if not there.all():
        rows = np.maximum(rows, 0)
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _numbers(scene: Scene) -> Numbers:
    """Arrays to be copied from; the table of structure factors is not among them."""
    found = {}
    for name, rank in RANKS.items():
        if name != "structure_factors":
            array = getattr(scene, name).detach().numpy()
            found[name] = array if array.ndim > rank else array[None]
    return found


def _table(scene: Scene, dtype: torch.dtype) -> Array:
    """F [1 or B, elements] in the type that is computed in."""
    table = scene.structure_factors.detach().to(dtype).contiguous()
    flat: Array = table.reshape(table.shape[0] if table.dim() > 3 else 1, math.prod(table.shape[-3:])).numpy()
    return flat


def _grid(options: Options, size: Sequence[int]) -> Array:
    """[1, 6]."""
    grid = np.empty((1, 6))
    grid[0, :3], grid[0, 3:] = options.hkl_first, size
    return grid


def _lattice(numbers: Numbers) -> Array:
    """[1 or B, K, columns]."""
    matrices, weights = numbers["lattice"], numbers["lattice_weights"]
    lattice = np.empty((max(len(matrices), len(weights)), matrices.shape[1], at.LATTICE_COLUMNS))
    lattice[..., : at.LATTICE_WEIGHT] = matrices.reshape(*matrices.shape[:2], 9)
    lattice[..., : at.LATTICE_WEIGHT] *= at.SCALE
    lattice[..., at.LATTICE_WEIGHT] = weights
    return lattice


def _shape(form: Array, real: Any) -> Array:
    """[1 or B, elements and bias] in the image's type."""
    shape = np.empty((len(form), at.BIAS + 1), real)
    shape[:, : at.BIAS], shape[:, at.BIAS] = form.reshape(-1, 9), BIAS_32 if real is np.float32 else BIAS_64
    return shape


def _whole_numbers(
    scene: Scene, options: Options, numbers: Numbers, lists: Sequence[Array | None], sparse: Array
) -> Array:
    """[B, INTEGERS]."""
    has_table, how = scene.structure_factors.numel() > 0, taken(scene, options)
    slow, fast = options.image_shape
    found = {
        at.FADES: options.profile in FADING,
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
    }
    whole = np.empty((len(lists), at.INTEGERS), np.int64)
    whole[:] = [found.get(place, 0) for place in range(at.INTEGERS)]
    whole[:, at.EVERYWHERE] = lit = numbers["offset"] != 0
    whole[:, at.SIMPLE] = ~lit if how.alone and not options.curved else False
    whole[:, at.SUBS] = np.where(_has_equal_subpixels(numbers, scene, options), 1, options.oversample**2)
    whole[:, at.SPARSE], whole[:, at.PLACES] = sparse, _places(lists, scene, options, sparse)
    return whole


def _has_equal_subpixels(numbers: Numbers, scene: Scene, options: Options) -> Array:
    """Whether all sub-pixels of a pixel have the same [1 or B]: the same F, one cell, and factors of the first one.

    That of water is such a scene.
    """
    each = options.oversample_omega or options.oversample_polar or options.oversample_thick or options.dmin > 0
    if scene.structure_factors.numel() or options.profile != Profile.GRATING or each:
        return np.zeros(1, np.bool_)
    alike: Array = (effective_cells(numbers["shape"], options.profile) == 1).all(1)
    return alike


def _places(lists: Sequence[Array | None], scene: Scene, options: Options, sparse: Array) -> Array:
    """Places of pixels [1 or B]: as many as there are, but those of whole tiles where an image is taken in tiles."""
    if lists[0] is not None:
        return np.array([len(listed) for listed in lists if listed is not None])
    slow, fast = (-(-size // TILE) for size in options.image_shape)
    tiled = scene.panels.shape[-3] * slow * fast * at.LANES
    return np.where(sparse, tiled, pixel_count(None, scene, options))


def computed_in(cells: Array, options: Options) -> list[torch.dtype]:
    """The image's type, but float64 for round crystals so large that float32 would lose the phase of their fringes.

    Of each of the cells [1 or B, 3]: what a scene gives does not depend on the batch that it is in.
    """
    if options.profile != Profile.SPHERE:
        return [options.dtype]
    return [torch.float64 if (own > NARROW_CELLS).any() else options.dtype for own in cells]


def _real_numbers(numbers: Numbers, options: Options, dtype: torch.dtype, cells: Array) -> Array:
    """[1 or B, NUMBERS]."""
    single, grating = dtype == torch.float32, options.profile == Profile.GRATING
    given = cells, numbers["default_F"], numbers["offset"], numbers["curvature"]
    found = np.empty((max(map(len, given)), at.NUMBERS))
    found[:, at.CELLS : at.CELLS + 3] = cells
    coarse = (cells > NARROW_CELLS).any(1) & grating
    found[:, at.NARROW_BOUND] = np.where(coarse, 0.0, NARROW_BOUND) * single
    found[:, at.PHASED], found[:, at.PAIRS_BOUND] = single and grating, NARROW_BOUND * single
    found[:, at.DEFAULT_F], found[:, at.OFFSET] = numbers["default_F"], numbers["offset"]
    found[:, at.DMIN] = options.dmin * at.SCALE
    found[:, at.CURVATURE : at.CURVATURE + 4] = numbers["curvature"]
    return found


def _panels(numbers: Numbers) -> Array:
    """[1 or B, P, columns]."""
    vectors, size, sensor = numbers["panels"], numbers["pixel_size"], numbers["sensor"]
    found = np.empty((max(len(vectors), len(size), len(sensor)), vectors.shape[1], at.PANEL_COLUMNS))
    found[..., : at.FAST_SIZE] = vectors.reshape(*vectors.shape[:2], 12)
    found[..., at.FAST_SIZE : at.AREA] = size
    found[..., at.AREA] = found[..., at.FAST_SIZE] * found[..., at.SLOW_SIZE]
    found[..., at.CLOSE] = (vectors[..., 0, :] * vectors[..., 3, :]).sum(-1)
    found[..., at.LAYER_STEP :] = sensor
    return found


def _sources(numbers: Numbers) -> Array:
    """[1 or B, S, columns]."""
    given = numbers["incident"], numbers["wavelengths"], numbers["source_weights"], numbers["polarization"]
    found = np.empty((max(map(len, given)), numbers["incident"].shape[1], at.SOURCE_COLUMNS))
    found[..., : at.INVERSE_LAMBDA] = numbers["incident"]
    found[..., at.INVERSE_LAMBDA] = 1 / (numbers["wavelengths"] * at.SCALE)
    found[..., at.SOURCE_WEIGHT] = numbers["source_weights"]
    found[..., at.POLARIZATION :] = numbers["polarization"].reshape(*numbers["polarization"].shape[:2], 9)
    return found


def envelope_of(lattice: Array) -> Array:
    """Middle and half range of the lattices' elements, and zeros [1 or B, 3, columns]."""
    low, high = lattice.min(1), lattice.max(1)
    envelope = np.zeros((len(lattice), 3, at.LATTICE_COLUMNS))
    envelope[:, 0], envelope[:, 1] = (low + high) / 2, (high - low) / 2
    return envelope
