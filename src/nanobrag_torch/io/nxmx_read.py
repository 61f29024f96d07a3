"""Reading NXmx HDF5: geometry through the chains of axes, and frames. `nxmx_write.py` says how we write them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import is_packed, read_input, read_start
from nanobrag_torch.io.fields import naming
from nanobrag_torch.io.nxmx_write import FIXED, SETTING, SPECTRUM
from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    GroupData,
    PanelData,
    ScanData,
    Vector,
    rotation_matrix,
)
from nanobrag_torch.records.frames import FRAMES, rotate_experiment, turn_to_z
from nanobrag_torch.units import EV_ANGSTROM

ACCEPTED = "an HDF5 file with an NXentry of definition NXmx"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
IGNORED_BITS = np.uint32(0xFFFF0000)  # of pixel_mask: remarks, no reason to reject a pixel
LENGTHS_MM = {"m": 1e3, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "cm": 10.0, "meter": 1e3, "metre": 1e3}
ANGLES_DEG = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "rad": 180 / np.pi, "radian": 180 / np.pi}
WAVELENGTHS_A = {"angstrom": 1.0, "A": 1.0, "Å": 1.0, "nm": 10.0, "m": 1e10}
TIMES_S = {"s": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Step:
    """One axis of a chain: where it is, what it does to a vector (turn, then shift), and all its values."""

    path: str
    turn: Vector  # (3, 3)
    shift_mm: Vector  # (3,)
    kind: str
    direction: Vector
    values: Vector  # degrees or mm, one or one a frame
    component: str


@contextmanager
def open_nxmx(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """The open file and its NXentry. Raises InputError if it cannot be read, is cut short, or is not NXmx."""
    import h5py
    import hdf5plugin  # noqa: F401  (registers the filters)

    source = _source(path)
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise InputError(str(path), " ".join(str(error).split())[:100], ACCEPTED) from error
    with file, naming(str(path)):
        try:
            yield file, _entry(file, str(path))
        except InputError:
            raise
        except (KeyError, IndexError, TypeError, AttributeError, OSError, ValueError, RuntimeError) as error:
            raise InputError(str(path), " ".join(str(error).split())[:120], ACCEPTED) from error


def _entry(file: Any, path: str) -> Any:
    entries = [group for group in file.values() if _class(group) == "NXentry"]
    chosen = next((e for e in entries if "definition" in e and _text(e["definition"][()]) == "NXmx"), None)
    if chosen is None:
        raise InputError(path, f"{len(entries)} NXentry, none of definition NXmx", ACCEPTED)
    return chosen


def read_nxmx_geometry(path: str | os.PathLike[str]) -> ExperimentData:
    """Beam, detector, goniometer, scan and crystal of an NXmx file; parts that it does not hold are None."""
    with open_nxmx(path) as (file, entry):
        return _experiment(file, entry, str(path))


def read_nxmx(path: str | os.PathLike[str], frame: int = 0) -> tuple[NDArray[Any], ExperimentData, int]:
    """Frame `frame` (from 0), (slow, fast) or (panel, slow, fast); the experiment; and how many frames there are.

    Raises InputError for a frame that is not there or cannot be decompressed.
    """
    with open_nxmx(path) as (file, entry):
        sets = _data_sets(entry)
        if not sets:
            raise InputError(str(path), "no frames in NXdata", "a dataset of three or four dimensions")
        starts = np.cumsum([0, *(len(data) for data in sets)])
        if not 0 <= frame < starts[-1]:
            raise InputError(f"{path}: frame", frame, f"a number from 0 to {starts[-1] - 1}")
        place = int(np.searchsorted(starts, frame, side="right")) - 1
        stacked = np.asarray(sets[place][frame - int(starts[place])])
        experiment = _experiment(file, entry, str(path))
    detector = experiment.detector
    with naming(str(path)):
        pixels = stacked if detector is None or stacked.ndim == 3 else detector.unstack(stacked)
    return pixels, experiment, int(starts[-1])


def _experiment(file: Any, entry: Any, path: str) -> ExperimentData:
    instrument, sample, source = (_find(entry, f"NX{name}") for name in ("instrument", "sample", "source"))
    if instrument is None:
        raise InputError(path, "no NXinstrument", ACCEPTED)
    beam_group = _find(instrument, "NXbeam") or (None if sample is None else _find(sample, "NXbeam"))
    detector_group = _find(instrument, "NXdetector")
    sets = _data_sets(entry)
    goniometer, scan = (None, None) if sample is None else _goniometer(file, sample, sets, path)
    if scan is not None and detector_group is not None:
        scan = _with_exposure(scan, detector_group, path)
    turned = ExperimentData(
        beam=None if beam_group is None else _beam(beam_group, path, sum(map(len, sets))),
        detector=None if detector_group is None else _detector(file, detector_group, path),
        goniometer=goniometer,
        scan=scan,
        crystal=None if sample is None else _crystal(sample),
        source=None if source is None or "name" not in source else _text(source["name"][()]),
    )
    back = FRAMES["mcstas"]
    if beam_group is not None and "source_direction" in beam_group:
        back = turn_to_z(np.asarray(beam_group["source_direction"][()])).T @ back
    return rotate_experiment(turned, back)


def is_hdf5(start: bytes) -> bool:
    """Whether a file that begins so is HDF5."""
    return start.startswith(SIGNATURE)


def _source(path: str | os.PathLike[str]) -> Any:
    """What h5py opens: the path, or the bytes of a packed file."""
    start = read_start(path, "NXmx file", ACCEPTED)
    if not is_hdf5(start):
        raise InputError(str(path), start[:8].decode("latin-1"), ACCEPTED)
    with Path(path).open("rb") as file:
        packed = is_packed(file.read(8))
    return io.BytesIO(read_input(path, "NXmx file", ACCEPTED)) if packed else path


def _class(group: Any) -> str:
    return _text(group.attrs.get("NX_class", "")) if group is not None else ""


def _text(value: Any) -> str:
    value = np.ravel(value)[0] if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def _all(group: Any, kind: str) -> list[Any]:
    return [child for child in group.values() if child is not None and _class(child) == kind]


def _find(group: Any, kind: str) -> Any:
    return next(iter(_all(group, kind)), None)


def _data_sets(entry: Any) -> list[Any]:
    """The datasets of frames: the signal of NXdata, or data_000001 and so on; none if their files are elsewhere."""
    group = _find(entry, "NXdata")
    if group is None:
        return []
    signal = _text(group.attrs.get("signal", "data"))
    names = [signal] if signal in group else sorted(name for name in group if name.startswith("data_"))
    found = [group.get(name) for name in names]
    return [dataset for dataset in found if getattr(dataset, "ndim", 0) >= 3]


def _quantity(dataset: Any, units: dict[str, float], path: str, default: str) -> Vector:
    """All values of a dataset in the unit of the table."""
    factor = _factor(dataset.attrs.get("units", default), units, f"{path}: {dataset.name}")
    return np.atleast_1d(np.asarray(dataset[()], np.float64)) * factor


def _factor(unit: Any, units: dict[str, float], place: str) -> float:
    name = _text(unit)
    if name not in units:
        raise InputError(f"{place}@units", name, ", ".join(units))
    return units[name]


def _scalar(group: Any, name: str) -> float | None:
    return float(np.ravel(group[name][()])[0]) if name in group else None


def _chain(file: Any, start: str, owner: Any, path: str) -> list[Step]:
    """The axes from `start` to the base."""
    steps: list[Step] = []
    while start and start != ".":
        where = start if start.startswith("/") else f"{owner.name}/{start}"
        if where not in file or any(step.path == where for step in steps):
            raise InputError(f"{path}: depends_on", start, "the path of an axis, without a circle")
        dataset = file[where]
        steps.append(_step(dataset, where, path))
        start, owner = _text(dataset.attrs.get("depends_on", ".")), dataset.parent
    return steps


def _step(dataset: Any, where: str, path: str) -> Step:
    kind = _text(dataset.attrs.get("transformation_type", "translation"))
    direction = np.asarray(dataset.attrs.get("vector", (0.0, 0.0, 1.0)), np.float64)
    length = float(np.linalg.norm(direction))
    direction = direction / length if length > 0 else direction
    rotation = kind == "rotation"
    values = _quantity(dataset, ANGLES_DEG if rotation else LENGTHS_MM, path, "deg" if rotation else "mm")
    offset = np.asarray(dataset.attrs.get("offset", np.zeros(3)), np.float64)
    if offset.any():
        unit = dataset.attrs.get("offset_units", dataset.attrs.get("units", "mm"))
        offset = offset * _factor(unit, LENGTHS_MM, f"{path}: {where}@offset_units")
    turn = rotation_matrix(direction, values[0]) if rotation else np.eye(3)
    shift = offset if rotation else offset + values[0] * direction
    component = _text(dataset.attrs.get("equipment_component", ""))
    return Step(where, turn, shift, kind, direction, values, component)


def _frame(steps: list[Step]) -> tuple[Vector, Vector]:
    """Turn and shift of a whole chain, the first step innermost."""
    turn, shift = np.eye(3), np.zeros(3)
    for step in steps:
        turn, shift = step.turn @ turn, step.turn @ shift + step.shift_mm
    return turn, shift


def _beam(group: Any, path: str, frames: int) -> BeamData:
    if "incident_wavelength" not in group:
        raise InputError(f"{path}: {group.name}/incident_wavelength", None, "a wavelength (it is missing)")
    dataset = group["incident_wavelength"]
    values = _quantity(dataset, WAVELENGTHS_A, path, "angstrom")
    variant = _text(dataset.attrs.get("variant", SPECTRUM))
    spectrum, weights = None, None
    if variant in group and f"{variant}_weights" in group:
        spectrum = _quantity(group[variant], WAVELENGTHS_A, path, "angstrom")
        weights = np.ravel(group[f"{variant}_weights"][()])
    elif "incident_wavelength_weights" in group:
        spectrum, weights = values, np.ravel(group["incident_wavelength_weights"][()])[: len(values)]
        values = np.array([np.average(spectrum, weights=weights)])
    normal = group.get("polarization_normal")
    return BeamData(
        direction=np.array([0.0, 0.0, -1.0]),  # McStas: the beam is along +z
        wavelength_A=float(values[0]),
        frame_wavelengths_A=values if len(values) == frames > 1 else None,
        spectrum_energies_eV=None if spectrum is None else EV_ANGSTROM / spectrum,
        spectrum_weights=weights,
        polarization_fraction=_scalar(group, "polarization_fraction"),
        polarization_normal=None if normal is None else np.asarray(normal[()]),
        flux=_scalar(group, "total_flux"),
        divergence_deg=_scalar(group, "divergence"),
        sigma_divergence_deg=_scalar(group, "sigma_divergence"),
    )


def _detector(file: Any, group: Any, path: str) -> DetectorData:
    modules = _all(group, "NXdetector_module")
    if not modules:
        raise InputError(f"{path}: {group.name}", "no NXdetector_module", "one module at least")
    chains = [_module_chain(file, module, path) for module in modules]
    panels = tuple(
        _panel(file, group, module, path, raw) for module, raw in zip(modules, _masks(group, modules), strict=True)
    )
    return DetectorData(panels=panels, root=_groups(chains))


def _module_chain(file: Any, module: Any, path: str) -> list[Step]:
    """The axes that a module hangs in, its own offset left out."""
    axis = module["module_offset" if "module_offset" in module else "fast_pixel_direction"]
    start = _text(axis.attrs.get("depends_on", "."))
    return _chain(file, start, axis.parent, path)


def _masks(group: Any, modules: list[Any]) -> list[NDArray[np.bool_] | None]:
    """The pixel mask of each module; True = use the pixel, None = all."""
    if "pixel_mask" not in group:
        return [None] * len(modules)
    mask = np.asarray(group["pixel_mask"][()]).astype(np.uint32)
    masks: list[NDArray[np.bool_] | None] = []
    for module in modules:
        origin, size = (np.ravel(module[name][()]).astype(int) for name in ("data_origin", "data_size"))
        part = mask[tuple(slice(o, o + s) for o, s in zip(origin, size, strict=True))].reshape(size[-2:])
        good = (part & ~IGNORED_BITS) == 0
        masks.append(None if good.all() else good)
    return masks


def _panel(file: Any, group: Any, module: Any, path: str, mask: NDArray[np.bool_] | None) -> PanelData:
    directions = [module[f"{name}_pixel_direction"] for name in ("fast", "slow")]
    steps = [_step(axis, axis.name, path) for axis in directions]
    turns = [
        _frame(_chain(file, _text(axis.attrs.get("depends_on", ".")), axis.parent, path))[0] for axis in directions
    ]
    corner = module["module_offset"] if "module_offset" in module else directions[0]
    chain = _chain(file, _text(corner.attrs.get("depends_on", ".")), corner.parent, path)
    own = _step(corner, corner.name, path)
    offset = own.shift_mm if "module_offset" in module else np.zeros(3)
    turn, shift = _frame(chain)
    size = np.ravel(module["data_size"][()]).astype(int)
    start = np.ravel(module["data_origin"][()]).astype(int)
    thickness = group.get("sensor_thickness")
    limits = _scalar(group, "underload_value"), _scalar(group, "saturation_value")
    return PanelData(
        name=_text(module.attrs.get("panel_name", "")),
        origin_mm=turn @ offset + shift,
        fast=turns[0] @ steps[0].direction,
        slow=turns[1] @ steps[1].direction,
        pixel_size_mm=(float(steps[0].values[0]), float(steps[1].values[0])),
        image_size=(int(size[-1]), int(size[-2])),
        raw_image_offset=(int(start[-1]), int(start[-2])),
        thickness_mm=None if thickness is None else float(_quantity(thickness, LENGTHS_MM, path, "m")[0]),
        material=_text(group["sensor_material"][()]) if "sensor_material" in group else None,
        mu_per_mm=_scalar(group, "sensor_attenuation"),
        gain=_scalar(group, "gain"),
        pedestal=_scalar(group, "pedestal"),
        trusted_range=None if limits[1] is None else (limits[0] or 0.0, limits[1]),
        mask=mask,
    )


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
    turn, shift = _frame(chains[members[0]][index:])
    deeper: dict[str, list[int]] = {}
    children: list[GroupData | int] = []
    for member in members:
        if len(named[member]) == depth:
            children.append(member)
        else:
            deeper.setdefault(named[member][-depth - 1][1].path, []).append(member)
    children += [_tree(below, depth + 1, named, chains, held) for below, held in sorted(deeper.items())]
    return GroupData(name=step.component, origin_mm=shift, fast=turn[:, 0], slow=turn[:, 1], children=tuple(children))


def _goniometer(file: Any, sample: Any, sets: list[Any], path: str) -> tuple[GoniometerData | None, ScanData | None]:
    """The rotation axes that the sample hangs in, and the scan if one of them turns."""
    start = _text(sample["depends_on"][()]) if "depends_on" in sample else "."
    steps = [step for step in _chain(file, start, sample, path) if step.kind == "rotation"]
    if not steps:
        return None, None
    names = [step.path.rsplit("/", 1)[-1] for step in steps]
    frames = sum(map(len, sets)) or max(len(step.values) for step in steps)
    scanned = _scanned(file, steps, frames)
    goniometer = _of_axes(steps, names, scanned)
    axis, name = file[steps[scanned].path], names[scanned]
    values = steps[scanned].values
    if len(values) != frames or (len(values) == 1 and f"{name}_end" not in axis.parent):
        return goniometer, None
    first = int(sets[0].attrs.get("image_nr_low", 1)) if sets else 1
    return goniometer, _scan(axis, name, values, first, path)


def _scanned(file: Any, steps: list[Step], frames: int) -> int:
    """Which axis turns: the one marked, or whose values differ, or the first."""
    marked = [i for i, step in enumerate(steps) if bool(file[step.path].attrs.get("scan_axis", False))]
    moving = [i for i, step in enumerate(steps) if len(step.values) == frames > 1 and np.ptp(step.values) > 0]
    return (marked or moving or [0])[0]


def _of_axes(steps: list[Step], names: list[str], scanned: int) -> GoniometerData:
    if set(names) <= {FIXED, SETTING, names[scanned]}:  # one axis, as we write it
        turns = dict(zip(names, (step.turn for step in steps), strict=True))
        others: dict[str, Any] = {name: turns[name] for name in (FIXED, SETTING) if name in turns}
        return GoniometerData(rotation_axis=steps[scanned].direction, **others)
    axes, angles = [step.direction for step in steps], [step.values[0] for step in steps]
    angles[scanned] = 0.0
    return GoniometerData.from_axes(axes, angles, tuple(names), scanned)


def _scan(axis: Any, name: str, values: Vector, first: int, path: str) -> ScanData:
    """The scan of the angles of one axis; its width from the next angle, or from the axis's own end."""
    if len(values) > 1:
        width = float(values[-1] - values[0]) / (len(values) - 1)
    else:
        width = float(_quantity(axis.parent[f"{name}_end"], ANGLES_DEG, path, "deg")[0] - values[0])
    if len(values) > 1 and np.abs(np.diff(values) - width).max() > 1e-6 * max(1.0, abs(width)):
        raise InputError(f"{path}: {axis.name}", values[:3].tolist(), "equal steps from image to image")
    return ScanData(
        image_range=(first, first + len(values) - 1),
        oscillation_start_deg=float(values[0]),
        oscillation_width_deg=width,
    )


def _with_exposure(scan: ScanData, group: Any, path: str) -> ScanData:
    dataset = group.get("count_time", group.get("frame_time"))
    if dataset is None:
        return scan
    times = _quantity(dataset, TIMES_S, path, "s")
    if len(times) not in (1, scan.frames):
        return scan
    return replace(scan, exposure_times_s=np.broadcast_to(times, scan.frames).copy())


def _crystal(sample: Any) -> CrystalData | None:
    if "real_space_vectors" not in sample:
        return None
    hall = _text(sample["space_group_hall"][()]) if "space_group_hall" in sample else None
    real_space = np.asarray(sample["real_space_vectors"][()])
    return CrystalData(real_space=real_space, space_group_hall=hall, mosaicity_deg=_scalar(sample, "mosaicity"))
