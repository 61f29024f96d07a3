"""NXmx HDF5: the tree that describes an experiment (NeXus, application definition NXmx), and frames below it.

Written in the McStas frame with the beam along z; an oblique beam is turned there with everything else, and its
direction is kept so that reading turns it back. Panels are modules of one array, one below the other. Each frame is one
chunk of bitshuffle and LZ4. What the definition has no field for (attenuation, polarization, cell vectors) has one of
our own.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.hdf5_frames import frame_dataset, hdf5_output
from nanobrag_torch.records import experiment as record
from nanobrag_torch.records.frames import FRAMES, beam_on_panel, rotate_experiment, turn_to_z
from nanobrag_torch.units import EV_ANGSTROM

DATA = "/entry/data/data"
DETECTOR = "/entry/instrument/detector"
SAMPLE_AXES = "/entry/sample/transformations"
SPECTRUM = "incident_wavelength_1Dspectrum"
MARK = "nanobrag_torch_series"  # attribute of a file that says which series it is
SURFACE, SURFACE_MM = "Si", 1e-6  # sensor and thickness of a detector whose sensor nobody knows
GAP, USER_MASK = 1, 256  # bits of pixel_mask: no sensor there, masked
FIXED, SETTING = "fixed_rotation", "setting_rotation"


def write_nxmx(
    path: str | os.PathLike[str], images: NDArray[Any], data: record.ExperimentData, *, flag: str = "output file"
) -> None:
    """Write images, (frames, *detector shape), with the whole experiment.

    Raises InputError for images that do not fit the detector or the scan, what NXmx has no place for, or a file that
    cannot be written. `series.py` writes long series without holding them in memory.
    """
    data.need("beam", "detector", where="NXmx")
    if data.detector is None or images.shape[1:] != data.detector.shape:
        raise InputError("images", images.shape, f"frames of shape {data.detector.shape if data.detector else None}")
    stacked = (compress_frame(data.detector.stack(image)) for image in images)
    write_nxmx_chunks(path, stacked, len(images), images.dtype, data, flag=flag)


def write_nxmx_chunks(
    path: str | os.PathLike[str],
    chunks: Iterable[bytes],
    frames: int,
    dtype: DTypeLike,
    data: record.ExperimentData,
    *,
    mark: str | None = None,
    flag: str = "output file",
) -> None:
    """Write frames that `compress_frame` has packed already, in order; `mark` says which series they are of."""
    with hdf5_output(path, flag) as (file, under):
        dataset = create_nxmx(file, data, frames, dtype)
        if mark is not None:
            file.attrs[MARK] = mark
        for index, chunk in enumerate(chunks):
            dataset.id.write_direct_chunk((index, 0, 0), chunk)
            under.require_whole()


def compress_frame(stacked: NDArray[Any]) -> bytes:
    """The chunk of one frame (slow, fast), as HDF5's own filter makes it; the interpreter is free meanwhile."""
    import threading

    import h5py
    import hdf5plugin

    name = f"frame-{threading.get_ident()}"
    with h5py.File(name, "w", driver="core", backing_store=False) as memory:
        options = hdf5plugin.Bitshuffle(cname="lz4")
        dataset = memory.create_dataset("d", stacked.shape, stacked.dtype, chunks=stacked.shape, **options)
        dataset[...] = stacked
        return bytes(dataset.id.read_direct_chunk((0, 0))[1])


def create_nxmx(file: Any, data: record.ExperimentData, frames: int, dtype: DTypeLike, *, layout: Any = None) -> Any:
    """Everything but the frames in an open HDF5 file; the dataset (frames, slow, fast) to put them in.

    layout: where the frames are, in other files (an h5py VirtualLayout); then there is nothing to put.
    """
    if data.beam is None or data.detector is None:
        raise InputError("experiment", "no beam or no detector", "both, for NXmx")
    if data.scan is not None and data.scan.frames != frames:
        raise InputError("frames", frames, f"the {data.scan.frames} images of the scan")
    turned = rotate_experiment(data, FRAMES["mcstas"].T @ turn_to_z(data.beam.direction))
    file.attrs["default"] = "entry"
    entry = _group(file, "entry", "NXentry")
    entry.attrs["default"] = "data"
    entry["definition"] = "NXmx"
    dataset = _dataset(_group(entry, "data", "NXdata"), data, frames, dtype, layout)
    instrument = _group(entry, "instrument", "NXinstrument")
    if data.source is not None:
        instrument["name"] = data.source
        _group(entry, "source", "NXsource")["name"] = data.source
    _write_beam(_group(instrument, "beam", "NXbeam"), data.beam, turned.beam)
    if turned.detector is not None:
        _write_detector(_group(instrument, "detector", "NXdetector"), turned.detector, data, np.dtype(dtype))
    _write_sample(_group(entry, "sample", "NXsample"), turned, data.scan)
    if data.scan is not None and data.scan.epochs is not None:
        moment = datetime.datetime.fromtimestamp(float(data.scan.epochs[0]), datetime.UTC)
        entry["start_time"] = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return dataset


def _group(parent: Any, name: str, kind: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = kind
    return group


def _dataset(group: Any, data: record.ExperimentData, frames: int, dtype: DTypeLike, layout: Any) -> Any:
    assert data.detector is not None
    if layout is None:
        dataset = frame_dataset(group, "data", frames, data.detector.stacked_shape, dtype)
    else:
        dataset = group.create_virtual_dataset("data", layout)
    group.attrs["signal"] = "data"
    if data.scan is not None:
        dataset.attrs["image_nr_low"], dataset.attrs["image_nr_high"] = data.scan.image_range
    return dataset


def _number(group: Any, name: str, value: Any, unit: str | None = None) -> Any:
    """A dataset with its unit; nothing for a value that is not known."""
    if value is None:
        return None
    group[name] = value
    if unit is not None:
        group[name].attrs["units"] = unit
    return group[name]


def _write_beam(group: Any, beam: record.BeamData, turned: record.BeamData | None) -> None:
    per_frame = beam.frame_wavelengths_A
    _number(group, "incident_wavelength", beam.wavelength_A if per_frame is None else per_frame, "angstrom")
    if beam.spectrum_energies_eV is not None:
        group["incident_wavelength"].attrs["variant"] = SPECTRUM
        _number(group, SPECTRUM, EV_ANGSTROM / beam.spectrum_energies_eV, "angstrom")
        _number(group, f"{SPECTRUM}_weights", beam.spectrum_weights)
    _number(group, "total_flux", beam.flux, "Hz")
    _number(group, "source_direction", beam.direction)
    _number(group, "polarization_fraction", beam.polarization_fraction)
    _number(group, "polarization_normal", None if turned is None else turned.polarization_normal)
    _number(group, "divergence", beam.divergence_deg, "deg")
    _number(group, "sigma_divergence", beam.sigma_divergence_deg, "deg")


def _write_detector(
    group: Any, detector: record.DetectorData, data: record.ExperimentData, dtype: np.dtype[Any]
) -> None:
    """Sensor, mask and geometry. `detector` is in the frame of the file."""
    import h5py

    first = _common_panel(detector)
    group["data"] = h5py.SoftLink(DATA)
    # NXmx requires a sensor, and DIALS opens no file without one of some thickness: one that nobody knows is a surface.
    _number(group, "sensor_material", first.material or SURFACE)
    _number(group, "sensor_thickness", max(first.thickness_mm or 0.0, SURFACE_MM) / 1000, "m")
    _number(group, "sensor_attenuation", first.mu_per_mm, "1/mm")
    if first.trusted_range is not None:
        _number(group, "underload_value", _limit(first.trusted_range[0]))
        _number(group, "saturation_value", _limit(first.trusted_range[1]))
    _number(group, "gain", first.gain)
    _number(group, "pedestal", first.pedestal)
    _number(group, "bit_depth_image", dtype.itemsize * 8 if dtype.kind in "iu" else None)
    if data.scan is not None and data.scan.exposure_times_s is not None:
        times = data.scan.exposure_times_s
        _number(group, "count_time", times[0] if np.all(times == times[0]) else times, "s")
    _write_mask(group, detector)
    if len(detector.panels) == 1 and data.beam is not None and data.detector is not None:
        _write_centre(group, data.detector.panels[0], data.beam)
    _write_geometry(group, detector)


def _common_panel(detector: record.DetectorData) -> record.PanelData:
    """The first panel, if the others share what NXmx says once for all."""
    first = detector.panels[0]
    for name in ("material", "thickness_mm", "mu_per_mm", "trusted_range", "gain", "pedestal"):
        values = {getattr(panel, name) for panel in detector.panels}
        if len(values) > 1:
            raise InputError(name, sorted(map(str, values))[:4], "one value for all panels, for NXmx")
    return first


def _limit(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _write_mask(group: Any, detector: record.DetectorData) -> None:
    """pixel_mask, if any pixel is masked or lies beside a narrow panel."""
    import hdf5plugin

    mask = np.full(detector.stacked_shape, GAP, np.uint32)
    for panel, start in zip(detector.panels, detector.stack_starts(), strict=True):
        slow, fast = panel.shape
        mask[start : start + slow, :fast] = np.where(panel.good_pixels(), 0, USER_MASK)
    if mask.any():
        group.create_dataset("pixel_mask", data=mask, chunks=mask.shape, **hdf5plugin.Bitshuffle(cname="lz4"))


def _write_centre(group: Any, panel: record.PanelData, beam: record.BeamData) -> None:
    """Where the beam is, for programs that do not follow the chain of axes."""
    spot = beam_on_panel(panel, beam)
    if spot is not None:
        _number(group, "beam_center_x", spot.fast_mm / panel.pixel_size_mm[0], "pixel")
        _number(group, "beam_center_y", spot.slow_mm / panel.pixel_size_mm[1], "pixel")
        _number(group, "distance", spot.distance_mm / 1000, "m")
    _number(group, "x_pixel_size", panel.pixel_size_mm[0] / 1000, "m")
    _number(group, "y_pixel_size", panel.pixel_size_mm[1] / 1000, "m")


def _write_geometry(group: Any, detector: record.DetectorData) -> None:
    """One axis along the beam, one a group of panels, then the offset and the directions of each module."""
    axes = _group(group, "transformations", "NXtransformations")
    shift = float(detector.panels[0].origin_mm[2])
    axis = np.array([0.0, 0.0, 1.0])
    _axis(axes, "detector_z", "translation", shift / 1000, "m", axis, ".")
    base = f"{DETECTOR}/transformations/detector_z"
    parents: dict[int, tuple[str, record.GroupData]] = {}
    beam_frame = record.GroupData(origin_mm=shift * axis)
    if detector.root is not None:
        _write_groups(axes, detector.root, beam_frame, base, parents)
    group["depends_on"] = base if detector.root is None else parents[detector.root.panel_indices()[0]][0]
    for index, panel in enumerate(detector.panels):
        name = "module" if len(detector.panels) == 1 else f"module_{index:04d}"
        path, frame = parents.get(index, (base, beam_frame))
        module = _group(group, name, "NXdetector_module")
        _write_module(module, panel, frame, path, f"{DETECTOR}/{name}/module_offset", detector.stack_starts()[index])


def _write_groups(
    axes: Any,
    group: record.GroupData,
    parent: record.GroupData,
    above: str,
    parents: dict[int, tuple[str, record.GroupData]],
) -> None:
    """The axis of a group and of all below it; notes in `parents` what each panel hangs in."""
    from scipy.spatial.transform import Rotation

    turn = parent.axes @ group.axes.T  # columns: the axes of the group in the frame of its parent
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-9:
        raise InputError("group", group.name, "perpendicular axes, for NXmx")
    rotvec = Rotation.from_matrix(turn).as_rotvec()
    angle = float(np.linalg.norm(rotvec))
    direction = rotvec / angle if angle > 0 else np.array([0.0, 0.0, 1.0])
    offset = parent.axes @ (group.origin_mm - parent.origin_mm)
    name = f"group_{len(axes) - 1:04d}"
    written = _axis(axes, name, "rotation", np.degrees(angle), "deg", direction, above, offset)
    written.attrs["equipment_component"] = group.name
    path = f"{DETECTOR}/transformations/{name}"
    for child in group.children:
        if isinstance(child, int):
            parents[child] = (path, group)
        else:
            _write_groups(axes, child, group, path, parents)


def _axis(
    group: Any,
    name: str,
    kind: str,
    value: Any,
    unit: str,
    direction: record.Vector,
    above: str,
    offset_mm: record.Vector | None = None,
) -> Any:
    dataset = _number(group, name, value, unit)
    dataset.attrs["transformation_type"] = kind
    dataset.attrs["vector"] = direction
    dataset.attrs["offset"] = np.zeros(3) if offset_mm is None else offset_mm / 1000
    dataset.attrs["offset_units"] = "m"
    dataset.attrs["depends_on"] = above
    return dataset


def _write_module(
    module: Any, panel: record.PanelData, frame: record.GroupData, above: str, own: str, start: int
) -> None:
    """A panel: where it lies in the array, its corner and its axes in the frame of the group it hangs in."""
    module["data_origin"] = np.array([start, 0])
    module["data_size"] = np.array(panel.shape)
    if panel.name:
        module.attrs["panel_name"] = panel.name
    offset = frame.axes @ (panel.origin_mm - frame.origin_mm)
    distance = float(np.linalg.norm(offset))
    direction = offset / distance if distance > 0 else np.array([0.0, 0.0, 1.0])
    _axis(module, "module_offset", "translation", distance / 1000, "m", direction, above)
    for name, axis, size in (
        ("fast_pixel_direction", panel.fast, panel.pixel_size_mm[0]),
        ("slow_pixel_direction", panel.slow, panel.pixel_size_mm[1]),
    ):
        _axis(module, name, "translation", size / 1000, "m", frame.axes @ axis, own)


def _write_sample(group: Any, turned: record.ExperimentData, scan: record.ScanData | None) -> None:
    if turned.goniometer is None:
        group["depends_on"] = "."
    else:
        axes = _group(group, "transformations", "NXtransformations")
        group["depends_on"] = f"{SAMPLE_AXES}/{_write_goniometer(axes, turned.goniometer, scan)}"
    if turned.crystal is not None:
        _write_crystal(group, turned.crystal)


def _write_goniometer(axes: Any, goniometer: record.GoniometerData, scan: record.ScanData | None) -> str:
    """The chain from the crystal to the base; the name of its first axis."""
    chain = goniometer_chain(goniometer)
    for place, (name, direction, angle) in enumerate(chain):
        above = f"{SAMPLE_AXES}/{chain[place + 1][0]}" if place + 1 < len(chain) else "."
        scanned = angle is None and scan is not None
        value = np.array([scan.start_deg(i) for i in range(scan.frames)]) if scanned and scan else angle
        _axis(axes, name, "rotation", 0.0 if value is None else value, "deg", direction, above)
        axes[name].attrs["scan_axis"] = angle is None
        if scanned and scan is not None:
            _number(axes, f"{name}_end", np.asarray(value) + scan.oscillation_width_deg, "deg")
            _number(axes, f"{name}_increment_set", scan.oscillation_width_deg, "deg")
    return chain[0][0]


def goniometer_chain(goniometer: record.GoniometerData) -> list[tuple[str, record.Vector, float | None]]:
    """Name, axis and angle of each turn from the crystal to the base; the angle of the scanned one is None."""
    from scipy.spatial.transform import Rotation

    if goniometer.axes is not None and goniometer.angles_deg is not None and _axes_tell_all(goniometer):
        angles = [None if i == goniometer.scan_axis else float(a) for i, a in enumerate(goniometer.angles_deg)]
        return list(zip(goniometer.names, goniometer.axes, angles, strict=True))
    chain: list[tuple[str, record.Vector, float | None]] = [("omega", goniometer.rotation_axis, None)]
    for name, matrix, place in ((FIXED, goniometer.fixed_rotation, 0), (SETTING, goniometer.setting_rotation, 2)):
        rotvec = Rotation.from_matrix(matrix).as_rotvec()
        angle = float(np.linalg.norm(rotvec))
        if angle > 1e-15:
            chain.insert(min(place, len(chain)), (name, rotvec / angle, float(np.degrees(angle))))
    return chain


def _axes_tell_all(goniometer: record.GoniometerData) -> bool:
    """Whether fixed and setting rotation are those of the axes, not refined ones."""
    if goniometer.axes is None or goniometer.angles_deg is None:
        return False
    plain = record.GoniometerData.from_axes(
        goniometer.axes, goniometer.angles_deg, goniometer.names, goniometer.scan_axis
    )
    pairs = ((getattr(plain, k), getattr(goniometer, k)) for k in (FIXED, SETTING))
    return all(np.allclose(a, b, rtol=0, atol=1e-12) for a, b in pairs)


def _write_crystal(group: Any, crystal: record.CrystalData) -> None:
    _number(group, "unit_cell", np.array(crystal.cell))
    _number(group, "real_space_vectors", crystal.real_space, "angstrom")
    _number(group, "space_group_hall", crystal.space_group_hall)
    _number(group, "mosaicity", crystal.mosaicity_deg, "deg")
