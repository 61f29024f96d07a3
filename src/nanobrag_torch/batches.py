"""Many crystals, beams or detectors that differ in numbers alone, rendered in one call.

    images = render_batch(simulator, {"misset_deg": missets, "cell_a": edges})      # [B, slow, fast]

What differs is a field of a configuration, with a row for each scene; everything else is the simulator's. The tensors
of all scenes are worked out together, and the kernel is called once. Differentiable by the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.checks import fields_of
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene, without_absent
from nanobrag_torch.models.crystal import INTERPOLATION_CELLS
from nanobrag_torch.models.tensors import is_finite
from nanobrag_torch.simulator import Simulator

MODELS = ("crystal", "detector", "beam")
KINDS = ("Real", "Vector", "Sequence[int] | Vector", "Real | Vector")
TABLES = ("source_directions", "source_wavelengths", "source_weights")
ALIKE = (
    "hdiv_range_mrad", "vdiv_range_mrad", "hdiv_step_mrad", "vdiv_step_mrad", "sample_size_mm",
)  # fmt: skip
"""Fields whose values decide how many steps or cells there are, which are the same in all scenes of a call."""
ANGLES = ("cell_alpha", "cell_beta", "cell_gamma")
Rows = Mapping[str, Tensor]


def render_batch(simulator: Simulator, rows: Rows, pixels: Tensor | None = None, *, check: bool = True) -> Tensor:
    """Photons of B scenes: images [B, slow, fast] or [B, panel, slow, fast], or values [B, n] of lists of pixels.

    rows: fields of the crystal's, the detector's or the beam's configuration by name, as tensors with a row of what
    each scene has there. pixels: flat indices [n] over [panel, slow, fast], or a list for each scene [B, n], filled up
    with -1, whose values are zero. Scenes for which sub-pixels or interpolation are chosen otherwise are a call of
    their own. Photons are those of `Simulator.photons`, before any response. Raises InputError as `Simulator.run` does,
    for names that are no such field, for rows that no scene could have, and under the C program's phi row (compat D2).
    check=False does not look at the pixels.
    """
    count = require_rows(simulator, rows)
    wanted = simulator.detector.pixels() if pixels is None else pixels.to(simulator.device)
    places, parts = [], []
    for chosen, alike in _calls(simulator, rows, count):
        if len(chosen) == count:
            parts = [_photons(alike, rows, wanted)]
            break
        listed = wanted[chosen] if wanted is not None and wanted.dim() > 1 else wanted
        places.append(chosen)
        parts.append(_photons(alike, {name: stack[chosen] for name, stack in rows.items()}, listed))
    values = parts[0] if len(parts) == 1 else torch.cat(parts)[torch.argsort(torch.cat(places))]
    if check and not is_finite(values):
        raise InputError("image", "not finite", "rows that give finite pixels")
    return values if pixels is not None else _as_images(values, wanted, simulator)


def scene_batch(simulator: Simulator, rows: Rows) -> tuple[Scene, Options]:
    """What a kernel is given of B scenes: tensors that the rows change have a batch axis in front.

    rows: as for `render_batch`. Raises InputError like it, and where sub-pixels or interpolation of the scenes differ.
    """
    calls = list(_calls(simulator, rows, require_rows(simulator, rows)))
    if len(calls) != 1:
        raise InputError("oversample", "automatic", "a number, where scenes would have different ones; so interpolate")
    alike = calls[0][1]
    return _scene(alike, rows), alike.options()


def _as_images(values: Tensor, wanted: Tensor | None, simulator: Simulator) -> Tensor:
    """Values [B, n] where they belong in images, zero elsewhere."""
    shape = simulator.image_shape
    if wanted is None:
        return values.reshape(-1, *shape)
    whole = values.new_zeros((len(values), math.prod(shape)))
    return whole.index_copy(1, wanted, values).reshape(-1, *shape)


def require_rows(simulator: Simulator, rows: Rows) -> int:
    """How many scenes rows are for. Raises InputError for rows that are not as `render_batch` says.

    Each field is checked where it is smallest and largest, and where vectors are shortest and angles of a cell most
    extreme: what holds there holds between.
    """
    if simulator.compat.stale_phi:
        raise InputError("compat", "c", "corrected, or phi_mode spec: stale orientations belong to one image")
    counts = {name: stack.shape[0] if stack.dim() else 0 for name, stack in rows.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise InputError("rows", counts, "fields of a configuration, with as many rows each, one at least")
    for name in rows:
        _require_field(simulator, name)
    for number in _extremes(rows):
        _with(simulator, {name: stack[number].detach().tolist() for name, stack in rows.items()}, checked=True)
    return next(iter(counts.values()))


def _require_field(simulator: Simulator, name: str) -> None:
    known = {field.name: str(field.type) for model in MODELS for field in fields(getattr(simulator, model).config)}
    usable = name in TABLES or known.get(name, "").removesuffix(" | None") in KINDS
    if not usable or name in ALIKE:
        accepted = "a field with real numbers, such as misset_deg, cell_a, wavelength_A or distance_mm"
        raise InputError(f"rows[{name!r}]", "the same in all scenes" if name in known else "no field", accepted)


def _extremes(rows: Rows) -> list[int]:
    """Numbers of the scenes in which some value is smallest or largest, or none."""
    measures = []
    for stack in rows.values():
        flat = stack.detach().reshape(len(stack), -1).double()
        measures += [*flat.unbind(1), flat.square().sum(1)]
    angles = [stack.detach().reshape(-1).double() for name, stack in rows.items() if name in ANGLES]
    if angles:
        together = torch.stack(angles)
        measures += [together.sum(0), 2 * together.amax(0) - together.sum(0)]
    every = torch.stack(measures)
    return sorted({*every.argmin(1).tolist(), *every.argmax(1).tolist()})


def _with(simulator: Simulator, values: Mapping[str, Any], *, checked: bool = False) -> Simulator:
    """The simulator with other values in its configurations."""
    other = copy(simulator)
    for name in MODELS:
        model = copy(getattr(simulator, name))
        known = fields_of(model.config)
        changed = {field: value for field, value in values.items() if field in known}
        if checked and changed:
            model.config = replace(model.config, **changed)
        elif changed:
            model.config = copy(model.config)
            for field, value in changed.items():
                object.__setattr__(model.config, field, value)
        setattr(other, name, model)
    return other


def _calls(simulator: Simulator, rows: Rows, count: int) -> Iterator[tuple[Tensor, Simulator]]:
    """Numbers of the scenes of each call, and the simulator with what is chosen for them."""
    subs = torch.full((count,), simulator.detector.config.oversample)
    if simulator.detector.config.oversample < 1:
        found = torch.func.vmap(lambda values: _with(simulator, values).spot_samples)(dict(rows))
        subs = found.detach().long().cpu()
    smooth = _interpolates(simulator, rows, count)
    for sub, cubic in sorted({*zip(subs.tolist(), smooth.tolist(), strict=True)}):
        chosen = ((subs == sub) & (smooth == cubic)).nonzero().squeeze(1).to(simulator.device)
        yield chosen, _with(simulator, {"oversample": sub, "interpolate": cubic})


def _interpolates(simulator: Simulator, rows: Rows, count: int) -> Tensor:
    """Whether amplitudes of each scene are interpolated [B]."""
    if "N_cells" not in rows or simulator.crystal.config.interpolate is not None:
        return torch.full((count,), simulator.crystal.interpolates())
    few = (rows["N_cells"].detach() <= INTERPOLATION_CELLS).any(1).cpu()
    return few & (simulator.crystal.hkl_data is not None)


def _photons(simulator: Simulator, rows: Rows, pixels: Tensor | None) -> Tensor:
    """Photons [B, n] of scenes with the same options."""
    options, count = simulator.options(), len(next(iter(rows.values())))
    values = operation.intensity(pixels, _scene(simulator, rows), options, kernel=simulator.kernel)
    values = values if values.dim() > 1 else values.expand(count, -1)
    if simulator.adds_water:
        water = _stacked(rows, lambda values: _water_of(_with(simulator, values), options)[0])
        flat = _water_of(simulator, options)[1]
        values = values + operation.intensity(pixels, water, flat, kernel=simulator.kernel)
    if simulator.background:
        values = values + _backgrounds(simulator, rows, pixels, count)
    return values


def _scene(simulator: Simulator, rows: Rows) -> Scene:
    return _stacked(rows, lambda values: _with(simulator, values).scene())


def _water_of(simulator: Simulator, options: Options) -> tuple[Scene, Options]:
    alone = simulator.water_scene(simulator.scene(), options)
    assert alone is not None
    return alone


def _stacked(rows: Rows, build: Callable[[Mapping[str, Tensor]], Scene]) -> Scene:
    """The scene of every row at once; what no row changes has no batch axis."""
    tensors = torch.func.vmap(lambda values: build(values).tensors())(dict(rows))
    # what did not depend on any row comes back as one tensor seen through a stride of zero
    return Scene(*(tensor[0] if tensor.dim() and tensor.stride(0) == 0 else tensor for tensor in tensors))


def _backgrounds(simulator: Simulator, rows: Rows, pixels: Tensor | None, count: int) -> Tensor:
    """What the materials of each scene add [B, n], one scene after the other."""
    found = []
    for number in range(count):
        listed = pixels if pixels is None or pixels.dim() == 1 else pixels[number].clamp(min=0)
        values = _with(simulator, {name: stack[number] for name, stack in rows.items()}).background_values(listed)
        assert values is not None
        found.append(values)
    return without_absent(torch.stack(found), pixels)
