"""The detector of an NXmx file: a panel a module, placed by every axis that the module hangs in, with its mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.nxmx_axes import (
    Step,
    all_of,
    chain_of,
    depends_on,
    factor_of,
    frame_of,
    number_of,
    quantity,
    step_of,
    text_of,
)
from nanobrag_torch.io.unit_words import LENGTHS_MM, PIXELS
from nanobrag_torch.records.experiment import BeamData, DetectorData, GroupData, PanelData, Vector
from nanobrag_torch.records.frames import beam_on_panel

_LOG = logging.getLogger(__name__)

IGNORED_BITS = np.uint32(0xFFFF0000)  # of pixel_mask: remarks, no reason to reject a pixel
SURFACE_MM = 1.001e-6  # a sensor that is not thicker is none
STILL_MM = 1e-6  # an axis of the detector that varies by less stands still


@dataclass(frozen=True)
class Place:
    """Where a module lies in the array of a frame: first and number of pixels, slowest axis first."""

    origin: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The module's part of the array."""
        return tuple(slice(o, o + s) for o, s in zip(self.origin, self.size, strict=True))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies in an array of a shape."""
        return len(shape) == len(self.size) and all(
            o >= 0 and o + s <= n for o, s, n in zip(self.origin, self.size, shape, strict=True)
        )

    @property
    def turned(self) -> Place:
        """With fast and slow exchanged, as some writers have them."""
        return Place(self.origin[:-2] + self.origin[:-3:-1], self.size[:-2] + self.size[:-3:-1])


def read_detector(file: Any, group: Any, frame_shape: tuple[int, ...] | None, path: str) -> DetectorData:
    """The panels of an NXdetector, in the McStas frame. `frame_shape` is that of one frame, if there is any.

    Raises InputError naming the field for what is missing, contradicts itself or cannot be kept.
    """
    modules = all_of(group, "NXdetector_module")
    if not modules:
        raise InputError(f"{path}: {group.name}", "no NXdetector_module", "one module at least")
    places = _places(modules, frame_shape, path)
    chains = [_chain_of_module(file, module, path) for module in modules]
    masks = _masks(group, places, path)
    panels = tuple(
        _panel(file, group, module, place, mask, path)
        for module, place, mask in zip(modules, places, masks, strict=True)
    )
    if len(panels) == 1:
        panels = (_with_stated_centre(panels[0], group, path),)
    return DetectorData(panels=panels, root=_groups(chains))


def _places(modules: list[Any], frame_shape: tuple[int, ...] | None, path: str) -> list[Place]:
    """Where each module lies in a frame; the frames decide where data_size contradicts them."""
    places = [_stated_place(module, path) for module in modules]
    if frame_shape is None:
        return places
    if len(places) == 1 and not any(places[0].origin) and places[0].size[-2:] != frame_shape[-2:]:
        stated = " x ".join(map(str, places[0].size))
        held = " x ".join(map(str, frame_shape))
        _LOG.warning("%s: data_size says %s pixels (slow x fast), the frames have %s: they decide", path, stated, held)
        return [Place((0,) * len(frame_shape), frame_shape)]
    if len(frame_shape) == 2:
        places = [Place(place.origin[-2:], place.size[-2:]) for place in places]
    if all(place.fits(frame_shape) for place in places):
        return places
    turned = [place.turned for place in places]
    if all(place.fits(frame_shape) for place in turned):
        _LOG.warning("%s: data_origin and data_size are taken as fast before slow: only so they fit the frames", path)
        return turned
    wrong = next(place for place in places if not place.fits(frame_shape))
    stated = f"{wrong.size} pixels from {wrong.origin}"
    raise InputError(f"{path}: data_origin, data_size", stated, f"modules inside frames of {frame_shape}")


def _stated_place(module: Any, path: str) -> Place:
    origin, size = (tuple(int(x) for x in np.ravel(module[f"data_{name}"][()])) for name in ("origin", "size"))
    if len(origin) != len(size) or len(size) < 2 or min(size) < 1:
        raise InputError(f"{path}: {module.name}/data_size", (origin, size), "an origin and a size of each axis")
    stride = np.ravel(module["data_stride"][()]) if "data_stride" in module else np.ones(1)
    if (stride != 1).any():
        raise InputError(f"{path}: {module.name}/data_stride", stride.tolist(), "1: neighbouring pixels")
    return Place(origin, size)


def _chain_of_module(file: Any, module: Any, path: str) -> list[Step]:
    """The axes that a module hangs in, its own offset left out."""
    axis = module["module_offset" if "module_offset" in module else "fast_pixel_direction"]
    return chain_of(file, depends_on(axis), axis.parent, path)


def _masks(group: Any, places: list[Place], path: str) -> list[NDArray[np.bool_] | None]:
    """The pixel mask of each module, from the detector or its detectorSpecific; True = use the pixel, None = all."""
    masks = [found for where in (group, group.get("detectorSpecific")) if (found := _pixel_mask(where)) is not None]
    good: list[NDArray[np.bool_] | None] = [None] * len(places)
    for mask in masks:
        for index, place in enumerate(places):
            own = Place(place.origin[-mask.ndim :], place.size[-mask.ndim :])
            if not own.fits(mask.shape):
                raise InputError(f"{path}: pixel_mask", mask.shape, f"a mask that holds {own.size} from {own.origin}")
            part = (mask[own.slices].reshape(place.size[-2:]) & ~IGNORED_BITS) == 0
            known = good[index]
            if not part.all():
                good[index] = part if known is None else known & part
    return good


def _pixel_mask(group: Any) -> NDArray[np.uint32] | None:
    """The mask of a group; None if there is none, or only a link to a file that is not there."""
    found = None if group is None else group.get("pixel_mask")
    return None if found is None else np.asarray(found[()]).astype(np.uint32)


def _panel(file: Any, group: Any, module: Any, place: Place, mask: NDArray[np.bool_] | None, path: str) -> PanelData:
    directions = [module[f"{name}_pixel_direction"] for name in ("fast", "slow")]
    steps = [step_of(axis, axis.name, path) for axis in directions]
    turns = [frame_of(chain_of(file, depends_on(axis), axis.parent, path))[0] for axis in directions]
    thickness, material = _sensor(group, path)
    limits = number_of(group, "underload_value"), number_of(group, "saturation_value")
    return PanelData(
        name=text_of(module.attrs.get("panel_name", "")),
        origin_mm=_corner(file, module, directions[0], steps, path),
        fast=turns[0] @ steps[0].direction,
        slow=turns[1] @ steps[1].direction,
        pixel_size_mm=(float(steps[0].values[0]), float(steps[1].values[0])),
        image_size=(place.size[-1], place.size[-2]),
        raw_image_offset=(place.origin[-1], place.origin[-2]),
        thickness_mm=thickness,
        material=material,
        mu_per_mm=number_of(group, "sensor_attenuation"),
        gain=number_of(group, "gain"),
        pedestal=number_of(group, "pedestal"),
        trusted_range=None if limits[1] is None else (limits[0] or 0.0, limits[1]),
        mask=mask,
    )


def _sensor(group: Any, path: str) -> tuple[float | None, str | None]:
    """Thickness (mm) and material; a sensor as thin as an atom is a surface, whose material nobody knows."""
    found = group.get("sensor_thickness")
    thickness = None if found is None else float(quantity(found, LENGTHS_MM, path, "m")[0])
    if thickness is not None and thickness <= SURFACE_MM:
        return None, None
    return thickness, text_of(group["sensor_material"][()]) if "sensor_material" in group else None


def _corner(file: Any, module: Any, fast: Any, steps: list[Step], path: str) -> Vector:
    """The outer corner of a module's first pixel: the offset of its pixel directions, then all that they hang in."""
    chain = chain_of(file, depends_on(fast), fast.parent, path)
    own = _own_offset(steps, path)
    if "module_offset" in module and not any(step.path == module["module_offset"].name for step in chain):
        offset = module["module_offset"]
        chain = [step_of(offset, offset.name, path), *chain_of(file, depends_on(offset), offset.parent, path)]
    moving = [step for step in chain if len(step.values) > 1 and np.ptp(step.values) > STILL_MM]
    if moving:
        span = f"{moving[0].values.min():g} to {moving[0].values.max():g}"
        raise InputError(f"{path}: {moving[0].path}", span, "a detector that stands still")
    turn, shift = frame_of(chain)
    return turn @ own + shift


def _own_offset(steps: list[Step], path: str) -> Vector:
    """The offset attribute of the pixel directions: that of the one that has it; both must agree."""
    fast, slow = (step.offset_mm for step in steps)
    if fast.any() and slow.any() and np.abs(fast - slow).max() > 1e-9 * (1 + np.abs(fast).max()):
        raise InputError(f"{path}: {steps[1].path}@offset", slow.tolist(), f"that of the fast direction, {fast} mm")
    return fast if fast.any() else slow


def _with_stated_centre(panel: PanelData, group: Any, path: str) -> PanelData:
    """A panel whose axes leave its corner on the beam, put where beam_center_x, beam_center_y and distance say."""
    fast, slow = (_centre_pixels(group, name, pitch, path) for name, pitch in _centres(panel))
    if fast is None or slow is None or not _corner_is_on_the_axis(panel) or _is_at(panel, fast, slow):
        return panel
    _LOG.warning(
        "%s: the axes place the corner of the detector on the beam; beam_center_x = %g, beam_center_y = %g pixels "
        "place it instead", path, fast, slow,
    )  # fmt: skip
    step = fast * panel.pixel_size_mm[0] * panel.fast + slow * panel.pixel_size_mm[1] * panel.slow
    origin = panel.origin_mm - step
    if abs(panel.origin_mm @ panel.normal) < STILL_MM and "distance" in group:
        distance = float(quantity(group["distance"], LENGTHS_MM, path, "m")[0])
        _LOG.warning("%s: no axis places the detector along the beam; distance = %g mm does", path, distance)
        origin = origin + np.array([0.0, 0.0, distance])
    return replace(panel, origin_mm=origin)


def _corner_is_on_the_axis(panel: PanelData) -> bool:
    """Whether nothing but a distance places the corner: it is on the beam, or at the foot of the perpendicular."""
    foot = panel.origin_mm - (panel.origin_mm @ panel.normal) * panel.normal
    return bool(np.linalg.norm(panel.origin_mm[:2]) < STILL_MM or np.linalg.norm(foot) < STILL_MM)


def _is_at(panel: PanelData, fast: float, slow: float) -> bool:
    """Whether the beam, along z, meets a panel within a pixel of a stated centre anyway."""
    spot = beam_on_panel(panel, BeamData(direction=np.array([0.0, 0.0, -1.0]), wavelength_A=1.0))
    if spot is None:
        return fast == 0 and slow == 0
    found = spot.fast_mm / spot.pixel_mm[0], spot.slow_mm / spot.pixel_mm[1]
    return bool(np.hypot(found[0] - fast, found[1] - slow) < 1)


def _centres(panel: PanelData) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("beam_center_x", panel.pixel_size_mm[0]), ("beam_center_y", panel.pixel_size_mm[1])


def _centre_pixels(group: Any, name: str, pitch_mm: float, path: str) -> float | None:
    """A beam centre in pixels, whether it is stated so or as a length."""
    value = number_of(group, name)
    unit = text_of(group[name].attrs.get("units", "")) if value is not None else ""
    if value is None or unit in PIXELS:
        return value
    return value * factor_of(unit, LENGTHS_MM, f"{path}: {group.name}/{name}") / pitch_mm


def _groups(chains: list[list[Step]]) -> GroupData | None:
    """The tree of groups that shared rotation axes with a component's name make; None if there are none."""
    named = [[(i, step) for i, step in enumerate(chain) if "/group_" in step.path] for chain in chains]
    if not all(named):
        return None
    root_path = named[0][-1][1].path
    if any(chain[-1][1].path != root_path for chain in named):
        return None
    return _tree(root_path, 1, named, chains, list(range(len(chains))))


def _tree(
    path: str,
    depth: int,
    named: list[list[tuple[int, Step]]],
    chains: list[list[Step]],
    members: list[int],
) -> GroupData:
    """The group at a path, `depth` levels from the top, that holds the panels `members`."""
    index, step = named[members[0]][-depth]
    turn, shift = frame_of(chains[members[0]][index:])
    deeper: dict[str, list[int]] = {}
    children: list[GroupData | int] = []
    for member in members:
        if len(named[member]) == depth:
            children.append(member)
        else:
            deeper.setdefault(named[member][-depth - 1][1].path, []).append(member)
    children += [_tree(below, depth + 1, named, chains, held) for below, held in sorted(deeper.items())]
    return GroupData(name=step.component, origin_mm=shift, fast=turn[:, 0], slow=turn[:, 1], children=tuple(children))
