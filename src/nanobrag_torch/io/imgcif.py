"""Full imgCIF headers of CBF images: detector, goniometer and scan by named axes, each hanging in another.

The frame is the one used here; lengths are millimetres, angles degrees. What places the detector must be stated; what
is missing is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.records import experiment as record

if TYPE_CHECKING:
    import gemmi

ACCEPTED = "a value (an imgCIF header states it)"
Row = dict[str, str]


@dataclass(frozen=True)
class Axis:
    """One axis: how it moves what hangs in it, by its setting, and what it hangs in itself."""

    name: str
    rotates: bool
    above: str  # "." for the laboratory
    direction: record.Vector
    offset_mm: record.Vector
    setting: float = 0.0  # degrees or mm

    def place(self, point: record.Vector, setting: float | None = None) -> record.Vector:
        """A point of what hangs in the axis, one step closer to the laboratory."""
        by = self.setting if setting is None else setting
        moved = record.rotation_matrix(self.direction, by) @ point if self.rotates else point + by * self.direction
        return np.asarray(moved + self.offset_mm, np.float64)

    def turn(self, direction: record.Vector) -> record.Vector:
        """As `place`, for a direction."""
        turned = record.rotation_matrix(self.direction, self.setting) @ direction if self.rotates else direction
        return np.asarray(turned, np.float64)


class Tables:
    """The categories of a header, row by row."""

    def __init__(self, text: str, path: str) -> None:
        import gemmi

        self.path = path
        try:
            document = gemmi.cif.read_string(text)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(path, reason, "mini-CBF (_array_data.header_convention), or an imgCIF header") from error
        self._block: gemmi.cif.Block = document[0]

    def rows(self, category: str) -> list[Row]:
        """Rows of a category, by the names of their items, "" for an unknown value; none if it is not there."""
        import gemmi

        table = self._block.find_mmcif_category(f"_{category}.")
        names = [tag.split(".", 1)[1] for tag in table.tags]
        return [dict(zip(names, map(gemmi.cif.as_string, row), strict=True)) for row in table]

    def needed(self, category: str) -> list[Row]:
        """As `rows`. Raises InputError naming the category if it is not there."""
        found = self.rows(category)
        if not found:
            raise InputError(f"{self.path}: _{category}", None, ACCEPTED)
        return found

    def word(self, row: Row, category: str, item: str) -> str:
        """A word of a row. Raises InputError naming the item if it is missing or unknown."""
        value = row.get(item, "")
        if value == "":
            raise InputError(f"{self.path}: _{category}.{item}", value or None, ACCEPTED)
        return value

    def number(self, row: Row, category: str, item: str, default: float | None = None) -> float:
        """A number of a row; `default` where it is missing, without which it raises InputError."""
        value = row.get(item, "").split("(")[0]
        if default is not None and value == "":
            return default
        try:
            number = float(self.word(row, category, item).split("(")[0])
        except ValueError as error:
            raise InputError(f"{self.path}: _{category}.{item}", value, "a number") from error
        if not np.isfinite(number):
            raise InputError(f"{self.path}: _{category}.{item}", value, "a finite number")
        return number


def experiment_of_imgcif(text: str, path: str) -> record.ExperimentData:
    """Beam, detector, goniometer and scan of a full imgCIF header; `text` ends where the binary section begins.

    Raises InputError naming the item that is missing or cannot be followed.
    """
    tables = Tables(text + "\n;\n", path)
    axes = _axes(tables)
    goniometer, scan = _goniometer(tables, axes)
    panel = _panel(tables, axes)
    return record.ExperimentData(
        beam=_beam(tables), detector=record.DetectorData(panels=(panel,)), goniometer=goniometer, scan=scan
    )


def _axes(tables: Tables) -> dict[str, Axis]:
    """The axes by name, at the setting of this frame, else that where the scan begins."""
    settings: dict[str, float] = {}
    for category, suffix in (("diffrn_scan_axis", "_start"), ("diffrn_scan_frame_axis", "")):
        for row in tables.rows(category):
            angle, shift = (tables.number(row, category, f"{word}{suffix}", 0.0) for word in ("angle", "displacement"))
            settings[tables.word(row, category, "axis_id")] = angle + shift  # the one that is not the axis's own is 0
    axes: dict[str, Axis] = {}
    for row in tables.needed("axis"):
        name, kind = tables.word(row, "axis", "id"), row.get("type") or "general"
        if kind not in ("rotation", "translation", "general"):
            raise InputError(f"{tables.path}: _axis.type", kind, "rotation or translation")
        direction = _vector(tables, row, "vector")
        moves = kind in ("rotation", "translation")
        if moves and not direction.any():
            raise InputError(f"{tables.path}: _axis.vector of {name}", direction.tolist(), "a direction")
        length = float(np.linalg.norm(direction)) or 1.0
        setting = settings.get(name, 0.0) if moves else 0.0
        above = row.get("depends_on") or "."
        offset = _vector(tables, row, "offset")
        axes[name] = Axis(name, kind == "rotation", above, direction / length, offset, setting)
    return axes


def _vector(tables: Tables, row: Row, item: str) -> record.Vector:
    return np.array([tables.number(row, "axis", f"{item}[{place}]", 0.0) for place in (1, 2, 3)])


def _chain(axes: dict[str, Axis], name: str, path: str) -> list[Axis]:
    """An axis and all that it hangs in. Raises InputError for one that is not there, or a circle."""
    chain: list[Axis] = []
    while name != ".":
        if name not in axes or any(axis.name == name for axis in chain):
            raise InputError(f"{path}: _axis.depends_on", name, "the id of an axis, without a circle")
        chain.append(axes[name])
        name = axes[name].above
    return chain


def _beam(tables: Tables) -> record.BeamData:
    rows = tables.rows("diffrn_radiation_wavelength")
    if not rows:
        raise InputError(f"{tables.path}: _diffrn_radiation_wavelength.wavelength", None, ACCEPTED)
    wavelength = tables.number(rows[0], "diffrn_radiation_wavelength", "wavelength")
    radiation = tables.rows("diffrn_radiation")
    ratio = tables.number(radiation[0], "diffrn_radiation", "polarizn_source_ratio", np.inf) if radiation else np.inf
    if not np.isfinite(ratio):
        return record.BeamData(wavelength_A=wavelength)
    angle = np.radians(tables.number(radiation[0], "diffrn_radiation", "polarizn_source_norm", 0.0))
    normal = np.array([-np.sin(angle), np.cos(angle), 0.0])
    return record.BeamData(wavelength_A=wavelength, polarization_fraction=(1 + ratio) / 2, polarization_normal=normal)


def _panel(tables: Tables, axes: dict[str, Axis]) -> record.PanelData:
    """The panel of the array: its two pixel axes, their first pixel and the step between pixels."""
    category, own = "array_structure_list", "array_structure_list_axis"
    lists = sorted(tables.needed(category), key=lambda row: tables.number(row, category, "precedence"))[:2]
    if len(lists) < 2:
        raise InputError(f"{tables.path}: _{category}", f"{len(lists)} rows", "two: the fast and the slow index")
    steps = {tables.word(row, own, "axis_set_id"): row for row in tables.needed(own)}
    names, firsts, pitches, sizes = [], [], [], []
    for row in lists:
        name_of_set = tables.word(row, category, "axis_set_id")
        if name_of_set not in steps:
            raise InputError(f"{tables.path}: _{own}.axis_set_id", None, f"the axis of {name_of_set}")
        step = steps[name_of_set]
        pitch = tables.number(step, own, "displacement_increment")
        if row.get("direction") == "decreasing":
            raise InputError(f"{tables.path}: _{category}.direction", "decreasing", "increasing")
        names.append(step.get("axis_id") or name_of_set)
        firsts.append(tables.number(step, own, "displacement", 0.0) - pitch / 2)  # stated for the pixel's centre
        pitches.append(pitch)
        sizes.append(int(tables.number(row, category, "dimension")))
    origin, fast, slow = _placed(axes, (names[0], names[1]), (firsts[0], firsts[1]), tables.path)
    overload = [tables.number(r, "array_intensities", "overload", np.inf) for r in tables.rows("array_intensities")]
    limit = overload[0] if overload else np.inf
    return record.PanelData(
        origin_mm=origin,
        fast=fast * np.sign(pitches[0]),
        slow=slow * np.sign(pitches[1]),
        pixel_size_mm=(abs(pitches[0]), abs(pitches[1])),
        image_size=(sizes[0], sizes[1]),
        trusted_range=(0.0, limit) if np.isfinite(limit) else None,
    )


def _placed(
    axes: dict[str, Axis], names: tuple[str, str], firsts: tuple[float, float], path: str
) -> tuple[record.Vector, record.Vector, record.Vector]:
    """Corner and unit vectors along fast and slow, in the laboratory."""
    chains = [_chain(axes, name, path) for name in names]
    inner = chains[0] if names[1] in [axis.name for axis in chains[0]] else chains[1]
    held = [axis.name for axis in inner]
    if not set(names) <= set(held):
        raise InputError(f"{path}: _axis.depends_on", names, "one pixel axis that hangs in the other")
    point = np.zeros(3)
    for axis in inner:
        point = axis.place(point, firsts[names.index(axis.name)] if axis.name in names else None)
    directions = []
    for name in names:
        along = axes[name].direction
        for axis in inner[held.index(name) + 1 :]:
            along = axis.turn(along)
        directions.append(along)
    return point, directions[0], directions[1]


def _goniometer(tables: Tables, axes: dict[str, Axis]) -> tuple[record.GoniometerData | None, record.ScanData | None]:
    """The rotation axes of the goniometer from the crystal to the base, and the one that turns."""
    rows = [row for row in tables.needed("axis") if row.get("equipment") == "goniometer"]
    names = [tables.word(row, "axis", "id") for row in rows]
    inner = [name for name in names if all(axes[other].above != name for other in names)]
    if not inner:
        return None, None
    if len(inner) > 1:
        raise InputError(f"{tables.path}: _axis.depends_on", inner, "goniometer axes in one chain")
    chain = [axis for axis in _chain(axes, inner[0], tables.path) if axis.rotates]
    if not chain:
        return None, None
    turning = {name: width for name in names if (width := _width(tables, name)) != 0}
    if len(turning) > 1:
        raise InputError(f"{tables.path}: _diffrn_scan_axis.angle_increment", sorted(turning), "one axis that turns")
    scanned = next((i for i, axis in enumerate(chain) if axis.name in turning), 0)
    angles = [0.0 if i == scanned else axis.setting for i, axis in enumerate(chain)]
    directions = [axis.direction for axis in chain]
    goniometer = record.GoniometerData.from_axes(directions, angles, tuple(axis.name for axis in chain), scanned)
    if len(chain) == 1:
        goniometer = record.GoniometerData(rotation_axis=chain[0].direction)
    if chain[scanned].name not in turning:
        return goniometer, None
    frames = tables.rows("diffrn_scan_frame")
    number = int(tables.number(frames[0], "diffrn_scan_frame", "frame_number", 1.0)) if frames else 1
    time = tables.number(frames[0], "diffrn_scan_frame", "integration_time", 0.0) if frames else 0.0
    scan = record.ScanData(
        image_range=(number, number),
        oscillation_start_deg=chain[scanned].setting,
        oscillation_width_deg=turning[chain[scanned].name],
        exposure_times_s=np.array([time]) if time > 0 else None,
    )
    return goniometer, scan


def _width(tables: Tables, name: str) -> float:
    """Degrees an image about an axis; 0 if it stands still."""
    places = (("diffrn_scan_frame_axis", "angle_increment"), ("diffrn_scan_axis", "angle_increment"),
              ("diffrn_scan_axis", "angle_range"))  # fmt: skip
    widths = [
        tables.number(row, category, item, 0.0)
        for category, item in places
        for row in tables.rows(category)
        if row.get("axis_id") == name
    ]
    return next((width for width in widths if width != 0), 0.0)
