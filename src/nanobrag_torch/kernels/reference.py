"""The reference kernel: the physics of section 8 in plain torch. It defines the result; fused kernels are held to it.

Readable first: every step of a chunk of pixels stands in one array [n, L, J, S, K] of pixels, sensor layers,
sub-pixels, sources and lattices. Chunks keep that within MEMORY_BYTES, and are recomputed in the backward pass, so
memory does not grow with the number of pixels or steps. Autograd does the derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from nanobrag_torch.kernels.batch import by_scene
from nanobrag_torch.kernels.empty import dark_image, is_dark, with_a_lattice
from nanobrag_torch.kernels.problem import Options, Scene, scene_count, taken, values_shape
from nanobrag_torch.physics.absorption import layer_capture
from nanobrag_torch.physics.geometry import curve, curve_by_lab_axes, decompose_pixels, flat_positions, solid_angle
from nanobrag_torch.physics.lattice_factor import Profile, lattice_factor
from nanobrag_torch.physics.polarization import polarization_factor
from nanobrag_torch.physics.structure_factors import (
    nearest_amplitude,
    nearest_integers,
    out_of_interpolation_range,
    tricubic_amplitude,
)

MEMORY_BYTES = 256 * 2**20
"""Bound on the intermediate arrays of a call, beside the result; a single pixel and lattice may need more."""
BYTES_PER_STEP = 640
BYTES_PER_INTERPOLATED_STEP = 4000

Record = dict[str, Tensor]
"""Values that a trace shows, as the kernel used them; see `recorded`."""
Progress = Callable[[float], None]


@dataclass(frozen=True)
class _Pixels:
    """What a chunk of pixels needs before any crystal is looked at."""

    direction: Tensor  # [n, L, J, 3] unit vectors to the sub-pixels
    q: Tensor  # [n, L, J, S, 3] scattering vectors (1/m)
    seen: Tensor  # [n, L, J, S] sources within the resolution limit
    omega: Tensor  # [n, L, J]
    capture: Tensor  # [n, L, J]
    polar: Tensor  # [n, L, J, S]


def intensity(pixels: Tensor, scene: Scene, options: Options, *, progress: Progress | None = None) -> Tensor:
    """Image values [n] of the flat pixel indices [n] over [panel, slow, fast], in options.dtype.

    Differentiable by every tensor of the scene. With running_factors or interpolation_latch (both compat) pixels are
    taken in the order given, as the C program scans them. Of a batch of scenes [B, n], one after the other.
    """
    shape, count = values_shape(pixels, scene, options), scene_count(pixels, scene)
    if is_dark(shape, scene):
        return dark_image(shape, scene, options.dtype)
    if count is not None:
        return by_scene(lambda listed, one, b: _in_turn(listed, one, options, b / count, progress), pixels, scene)
    scene = with_a_lattice(scene)
    step = pixels_per_chunk(scene, options)
    latch = torch.zeros((), dtype=torch.bool, device=pixels.device)
    parts = []
    for start in range(0, pixels.numel(), step):
        part, latch = _recomputed(_chunk, pixels[start : start + step], latch, options, *scene.tensors())
        parts.append(part)
        if progress is not None:
            progress(min(1.0, (start + step) / pixels.numel()))
    return torch.cat(parts)


def _in_turn(pixels: Tensor | None, scene: Scene, options: Options, done: float, progress: Progress | None) -> Tensor:
    """One scene of a batch, of which a share is done."""
    assert pixels is not None
    if progress is not None:
        progress(done)
    return intensity(pixels, scene, options)


def tangents(pixels: Tensor, scene: Scene, directions: Mapping[str, Tensor], options: Options) -> Tensor:
    """Jacobian-vector products [T, n]: the slope of the pixels [n] along T directions at once; [T, B, n] of a batch.

    directions: by the names of the tensors that move, stacks [T, *shape].
    """
    count = max(direction.shape[0] for direction in directions.values())
    fixed = {name: tensor.detach() for name, tensor in scene.named().items()}
    slopes = []
    for t in range(count):
        with forward_ad.dual_level(), torch.no_grad():
            moving = {name: _dual(fixed[name], stack[t].to(fixed[name].dtype)) for name, stack in directions.items()}
            slope = _tangent(intensity(pixels, Scene(**fixed | moving), options))
        slopes.append(
            torch.zeros(values_shape(pixels, scene, options), dtype=options.dtype, device=pixels.device)
            if slope is None
            else slope
        )
    return torch.stack(slopes)


def _dual(value: Tensor, slope: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, slope)  # type: ignore[no-untyped-call]
    return dual


def _tangent(dual: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]
    return tangent


def pixels_per_chunk(scene: Scene, options: Options) -> int:
    """Pixels whose steps fit in MEMORY_BYTES; at least one."""
    lattices = scene.lattice.shape[0]
    if not _in_order(options):
        lattices = min(lattices, _lattices_at_once(scene, options))
    return max(1, int(MEMORY_BYTES / (_bytes_per_step(options) * _samples(scene, options) * lattices)))


def _samples(scene: Scene, options: Options) -> int:
    return options.layers * options.oversample**2 * scene.incident.shape[0]


def _lattices_at_once(scene: Scene, options: Options) -> int:
    return max(1, int(MEMORY_BYTES / (_bytes_per_step(options) * _samples(scene, options))))


def _bytes_per_step(options: Options) -> int:
    return BYTES_PER_INTERPOLATED_STEP if options.interpolate else BYTES_PER_STEP


def _in_order(options: Options) -> bool:
    return options.running_factors or options.interpolation_latch


def _recomputed(function: Callable[..., tuple[Tensor, Tensor]], *inputs: object) -> tuple[Tensor, Tensor]:
    """The function's value; its intermediates are dropped and made again in the backward pass."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        value: tuple[Tensor, Tensor] = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return value
    return function(*inputs)


def _chunk(pixels: Tensor, latch: Tensor, options: Options, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    scene = Scene(*tensors)
    chunk = look_at_pixels(pixels, scene, options)
    if _in_order(options):
        steps, latch = _steps_in_scan_order(chunk, scene, options, latch)
        return _summed_in_scan_order(steps, chunk, scene, options), latch
    sums = _sum_over_lattices(chunk, scene, options)  # [n, L, J, S]
    return combine(sums, chunk, scene, options), latch


def look_at_pixels(pixels: Tensor, scene: Scene, options: Options, record: Record | None = None) -> _Pixels:
    """Geometry and factors of a chunk of pixels [n]; `record` takes the values that a trace shows."""
    panel, _, _ = decompose_pixels(pixels, options.image_shape)
    position = _positions(pixels, panel, scene, options)  # [n, L, J, 3]
    radius = torch.linalg.vector_norm(position, dim=-1)
    direction = position / radius[..., None]
    q = (direction[..., None, :] - scene.incident) / scene.wavelengths[:, None]  # [n, L, J, S, 3]
    area, close = scene.pixel_size[panel].prod(-1), _plane_distance(panel, scene, options)
    omega = solid_angle(radius, area[:, None, None], close[..., None], point_pixel=options.point_pixel)
    cosine = (direction * scene.panels[panel, 3][:, None, None]).sum(-1)
    if options.curved and not options.curved_sensor_is_flat:
        cosine = torch.ones_like(cosine)
    capture = layer_capture(cosine, scene.sensor[panel, 0], scene.sensor[panel, 1], options.layers)
    polar = polarization_factor(direction, scene.polarization)
    chunk = _Pixels(direction, q, _within_resolution(q, options.dmin), omega, capture, polar)
    if record is not None:
        record.update(position=position, radius=radius, close_distance=close[:, 0], cosine=cosine, **vars(chunk))
    used = _with_cached_factors(chunk, scene, options)
    if record is not None:
        record.update(omega_used=used.omega, capture_used=used.capture, polar_used=used.polar)
    return used


def _plane_distance(panel: Tensor, scene: Scene, options: Options) -> Tensor:
    """Distance (m) from the sample to the plane of each layer of a pixel's panel [n, L]."""
    front = (scene.panels[panel, 0] * scene.panels[panel, 3]).sum(-1)[:, None]
    if not taken(scene, options).layer_omega:
        return front.expand(-1, options.layers)
    depth = torch.arange(options.layers, dtype=front.dtype, device=front.device) * scene.sensor[panel, 0, None]
    return front + depth


def _positions(pixels: Tensor, panel: Tensor, scene: Scene, options: Options) -> Tensor:
    sphere = options.curved and not options.curved_by_lab_axes  # on which layers lie in the same direction
    step = scene.sensor[:, 0]
    flat = flat_positions(
        pixels,
        scene.panels,
        scene.pixel_size,
        torch.zeros_like(step) if sphere else step,
        options.image_shape,
        options.oversample,
        options.layers,
    )
    if not options.curved:
        return flat
    origin, fast, slow, normal = scene.panels[panel].unbind(1)
    if not sphere:
        return curve_by_lab_axes(flat, fast, slow, scene.curvature[:3], scene.curvature[3])
    return curve(flat, fast, slow, normal, (origin * normal).sum(-1))


def _within_resolution(q: Tensor, dmin: float) -> Tensor:
    """Which sources [n, L, J, S] a sub-pixel sees at a resolution 1 / |q| no finer than dmin (m)."""
    length = torch.linalg.vector_norm(q, dim=-1)
    return ~((length > 0) & (dmin * length > 1)) if dmin > 0 else torch.ones_like(length, dtype=torch.bool)


def _with_cached_factors(chunk: _Pixels, scene: Scene, options: Options) -> _Pixels:
    """Factors as the C program reuses them: of the first sub-pixel, layer and visible source, unless told otherwise."""
    omega, capture, polar, how = chunk.omega, chunk.capture, chunk.polar, taken(scene, options)
    if not how.each_omega:
        omega = omega[:, : None if how.layer_omega else 1, :1].expand_as(omega)
    if not how.each_capture:
        capture = capture[:, :, :1].expand_as(capture)
    if how.last_capture:
        capture = capture[:, -1:].expand_as(capture)
    if not how.each_polar:
        flat = chunk.seen.flatten(1)
        first = polar.flatten(1).gather(1, flat.to(torch.uint8).argmax(1, keepdim=True))
        value = torch.where(flat.any(1, keepdim=True), first, torch.zeros_like(first))
        polar = value[:, :, None, None].expand_as(polar)
    return replace(chunk, omega=omega, capture=capture, polar=polar)


def _sum_over_lattices(chunk: _Pixels, scene: Scene, options: Options) -> Tensor:
    """Weighted sum of F^2 L^2 over the lattices [n, L, J, S], a bounded number of lattices at a time."""
    step = _lattices_at_once(scene, options)
    total = torch.zeros(chunk.seen.shape, dtype=options.dtype, device=chunk.q.device)
    for start in range(0, scene.lattice.shape[0], step):
        part = replace(scene, lattice=scene.lattice[start : start + step])
        weights = scene.lattice_weights[start : start + step].to(options.dtype)
        terms = lattice_terms(chunk.q, part, options)
        if options.tolerance > 0:
            terms = _without_the_least(terms, weights, chunk, scene, options)
        total = total + terms @ weights
    return torch.where(chunk.seen, total, torch.zeros_like(total))


def _without_the_least(terms: Tensor, weights: Tensor, chunk: _Pixels, scene: Scene, options: Options) -> Tensor:
    """The terms [n, L, J, S, K], zero where a step adds no more than its share of the photons that a pixel may lose."""
    factors = (chunk.omega * chunk.capture)[..., None] * chunk.polar * scene.source_weights
    photons = terms.detach() * weights.abs() * factors.detach().abs()[..., None].to(terms.dtype)
    share = options.tolerance / (options.layers * terms.shape[3] * scene.lattice.shape[0])
    return torch.where(photons <= share, torch.zeros_like(terms), terms)


def lattice_terms(
    q: Tensor, scene: Scene, options: Options, cubic: Tensor | None = None, record: Record | None = None
) -> Tensor:
    """F^2 L^2 [..., K] at the scattering vectors [..., 3] (1/m), without weights and without the amplitude of L.

    hkl and its distance to the nearest integers are float64, the rest options.dtype. cubic [..., K]: where to
    interpolate, when not wherever the table allows it.
    """
    hkl = torch.einsum("kij,...j->...ki", scene.lattice, q)  # [..., K, 3]
    nearest = nearest_integers(hkl)
    distance = (hkl - nearest).to(options.dtype)
    factor = lattice_factor(distance, options.profile, scene.shape.to(options.dtype), record)
    if options.cut > 0 and options.profile is Profile.GAUSS:
        factor = torch.where(factor**2 < options.cut, torch.zeros_like(factor), factor)
    amplitude = _amplitude(hkl, nearest, scene, options, cubic, record)
    terms = (amplitude * factor) ** 2
    if record is not None:
        lattice = scene.lattice.expand(*hkl.shape, 3)
        record.update(lattice=lattice, hkl=hkl, nearest=nearest, F_latt=factor, F_cell=amplitude, terms=terms)
    return terms


def _amplitude(
    hkl: Tensor, nearest: Tensor, scene: Scene, options: Options, cubic: Tensor | None, record: Record | None
) -> Tensor:
    table, first = scene.structure_factors.to(options.dtype), options.hkl_first
    plain = nearest_amplitude(nearest, table, first, scene.default_F.to(options.dtype))
    if not options.interpolate or table.numel() == 0:
        return plain
    allowed = ~out_of_interpolation_range(hkl, table, first)
    smooth = tricubic_amplitude(hkl, table.to(hkl.dtype), first, record).to(options.dtype)
    interpolated = allowed if cubic is None else allowed & cubic
    if record is not None:
        record.update(interpolated=interpolated)
    return torch.where(interpolated, smooth, plain)


def combine(sums: Tensor, chunk: _Pixels, scene: Scene, options: Options) -> Tensor:
    """Pixel values [n] from the lattice sums [n, L, J, S] and the factors of a chunk."""
    weights = scene.source_weights.to(options.dtype)
    factors = (chunk.omega * chunk.capture)[..., None] * chunk.polar  # [n, L, J, S] float64
    mean = (sums * weights * factors.to(options.dtype)).sum((1, 2, 3)) / sums.shape[2]
    once = chunk.omega[:, 0, 0] * chunk.capture[:, -1, 0] * chunk.polar[:, 0, 0, 0]
    return mean + (scene.offset * once).to(options.dtype)


def first_visible(pixels: Tensor, scene: Scene, options: Options) -> int:
    """Place in `pixels` of the first one that sees any source within the resolution limit, or their number."""
    step = max(1, MEMORY_BYTES // (BYTES_PER_STEP * _samples(scene, options)))
    for start in range(0, pixels.numel(), step):
        seen = look_at_pixels(pixels[start : start + step], scene, options).seen.flatten(1).any(1)
        if bool(seen.any()):
            return start + int(seen.to(torch.uint8).argmax())
    return pixels.numel()


def recorded(pixel: Tensor, scene: Scene, options: Options, fresh: Tensor | None = None) -> tuple[Tensor, Record]:
    """Value [1] of a pixel [1] and every value on the way to it, each step kept apart.

    [1, L, J, ...]: position radius direction cosine q seen, omega capture polar of each step and, with `_used`, as
    cached. [1, L, J, S, K, ...]: lattice hkl nearest F_latt F_latt_axes F_cell terms, cubic_ and interpolated.
    running_sum [1] under compat D3. The interpolation latch (D5) starts afresh. fresh [K, 3, 3]: what the first visible
    layer, sub-pixel and source sees instead of the scene's lattices (D2).
    """
    record: Record = {}
    chunk = look_at_pixels(pixel, scene, options, record)
    latch = torch.zeros((), dtype=torch.bool, device=pixel.device)
    steps, _ = _steps_in_scan_order(chunk, scene, options, latch)
    if fresh is not None:
        steps = _with_first_step(steps, chunk, replace(scene, lattice=fresh), options)
    record.update(steps)
    return _summed_in_scan_order(steps, chunk, scene, options, record), record


def _counted(chunk: _Pixels, scene: Scene) -> Tensor:
    """Which steps [n, L, J, S, K] are within the resolution limit."""
    return chunk.seen[..., None].expand(*chunk.seen.shape, scene.lattice.shape[0])


def _steps_in_scan_order(chunk: _Pixels, scene: Scene, options: Options, latch: Tensor) -> tuple[Record, Tensor]:
    """What each step gives, and the latch of D5 behind the last one: interpolation that stays off."""
    cubic = None
    if options.interpolation_latch:
        cubic, latch = _still_interpolating(chunk, _counted(chunk, scene), scene, options, latch)
    steps: Record = {}
    lattice_terms(chunk.q, scene, options, cubic, steps)
    return steps, latch


def _summed_in_scan_order(
    steps: Record, chunk: _Pixels, scene: Scene, options: Options, record: Record | None = None
) -> Tensor:
    """Values [n] of steps, by the factors of each, or by running ones (D3)."""
    counted = _counted(chunk, scene)
    weighted = steps["terms"] * scene.lattice_weights.to(options.dtype)
    terms = torch.where(counted, weighted, torch.zeros_like(steps["terms"]))
    if not options.running_factors:
        return combine(terms.sum(-1), chunk, scene, options)
    counted = counted & ((steps["F_latt"] != 0) | (scene.offset != 0))
    return _running(terms, counted, chunk, scene, options, record)


def _with_first_step(steps: Record, chunk: _Pixels, scene: Scene, options: Options) -> Record:
    """The values of all steps, those of the first visible layer, sub-pixel and source made anew with another scene."""
    first = chunk.seen.flatten().to(torch.uint8).argmax()
    anew: Record = {}
    lattice_terms(chunk.q.reshape(-1, 3)[first], scene, options, record=anew)
    return {
        name: values.flatten(0, 3).index_copy(0, first[None], anew[name][None]).reshape(values.shape)
        for name, values in steps.items()
    }


def _still_interpolating(
    chunk: _Pixels, counted: Tensor, scene: Scene, options: Options, latch: Tensor
) -> tuple[Tensor, Tensor]:
    """Which steps come before the first one out of range, and whether the latch has fallen by the end of the chunk."""
    hkl = torch.einsum("kij,...j->...ki", scene.lattice, chunk.q)
    distance = (hkl - nearest_integers(hkl)).to(options.dtype)
    evaluated = counted & (lattice_factor(distance, options.profile, scene.shape.to(options.dtype)) != 0)
    out = evaluated & out_of_interpolation_range(hkl, scene.structure_factors, options.hkl_first)
    fallen = (out.flatten().cumsum(0) > 0) | latch
    return ~fallen.reshape(out.shape), fallen[-1]


def _running(
    terms: Tensor, counted: Tensor, chunk: _Pixels, scene: Scene, options: Options, record: Record | None
) -> Tensor:
    """D3: after each step the whole sum so far is multiplied by the factors that are taken per step."""
    per_step, at_end = torch.ones_like(chunk.polar), torch.ones_like(chunk.polar[:, 0, 0, 0])
    for each, factor in (
        (options.oversample_thick, chunk.capture[..., None].expand_as(chunk.polar)),
        (options.oversample_polar, chunk.polar),
        (options.oversample_omega, chunk.omega[..., None].expand_as(chunk.polar)),
    ):
        if each:
            per_step = per_step * factor
        else:
            at_end = at_end * factor[:, -1, 0, 0]
    factors = torch.where(counted, per_step[..., None].expand_as(terms), torch.ones_like(terms, dtype=per_step.dtype))
    later = torch.flip(
        torch.cumprod(torch.flip(factors.flatten(1), (1,)), 1), (1,)
    )  # product from this step to the last
    weighted = terms * scene.source_weights.to(terms.dtype)[:, None] / terms.shape[2]
    total = (weighted.flatten(1) * later).sum(1) + scene.offset * later[:, 0]
    if record is not None:
        record.update(running_sum=total)
    return (total * at_end).to(options.dtype)
