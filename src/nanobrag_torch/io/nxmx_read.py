"""Reading NXmx HDF5: geometry through the chains of axes, and frames. `nxmx_write.py` says how we write them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import is_packed, read_input, read_start
from nanobrag_torch.io.fields import naming
from nanobrag_torch.io.hdf5_links import is_hdf5, require_own_folder
from nanobrag_torch.io.nxmx_axes import class_of, first_of, number_of, quantity, text_of
from nanobrag_torch.io.nxmx_detector import read_detector
from nanobrag_torch.io.nxmx_scan import read_goniometer, with_exposure
from nanobrag_torch.io.nxmx_write import SPECTRUM
from nanobrag_torch.io.unit_words import WAVELENGTHS_A
from nanobrag_torch.records.experiment import BeamData, CrystalData, ExperimentData, Vector
from nanobrag_torch.records.frames import FRAMES, rotate_experiment, turn_to_z
from nanobrag_torch.units import EV_ANGSTROM

ACCEPTED = "an HDF5 file with an NXentry of definition NXmx"
STOKES = ("incident_polarisation_stokes", "incident_polarization_stokes")


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
            require_own_folder(file, path)
            yield file, _entry(file, str(path))
        except InputError:
            raise
        except (KeyError, IndexError, TypeError, AttributeError, OSError, ValueError, RuntimeError) as error:
            raise InputError(str(path), " ".join(str(error).split())[:120], ACCEPTED) from error


def _entry(file: Any, path: str) -> Any:
    entries = [group for group in file.values() if class_of(group) == "NXentry"]
    chosen = next((e for e in entries if "definition" in e and text_of(e["definition"][()]) == "NXmx"), None)
    if chosen is None:
        raise InputError(path, f"{len(entries)} NXentry, none of definition NXmx", ACCEPTED)
    return chosen


def read_nxmx_geometry(path: str | os.PathLike[str], frame: int = 0) -> ExperimentData:
    """Beam, detector, goniometer, scan and crystal of an NXmx file; parts that it does not hold are None.

    frame: whose spectrum it is, where each has its own.
    """
    with open_nxmx(path) as (file, entry):
        return _experiment(file, entry, str(path), frame)


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
        experiment = _experiment(file, entry, str(path), frame)
    detector = experiment.detector
    with naming(str(path)):
        pixels = stacked if detector is None or stacked.ndim == 3 else detector.unstack(stacked)
    return pixels, experiment, int(starts[-1])


def _experiment(file: Any, entry: Any, path: str, frame: int) -> ExperimentData:
    instrument, sample, source = (first_of(entry, f"NX{name}") for name in ("instrument", "sample", "source"))
    if instrument is None:
        raise InputError(path, "no NXinstrument", ACCEPTED)
    beam_group = first_of(instrument, "NXbeam") or (None if sample is None else first_of(sample, "NXbeam"))
    detector_group = first_of(instrument, "NXdetector")
    sets = _data_sets(entry)
    frames, first = sum(map(len, sets)), int(sets[0].attrs.get("image_nr_low", 1)) if sets else 1
    goniometer, scan = (None, None) if sample is None else read_goniometer(file, sample, frames, first, path)
    if scan is not None and detector_group is not None:
        scan = with_exposure(scan, detector_group, path)
    frame_shape = tuple(int(n) for n in sets[0].shape[1:]) if sets else None
    turned = ExperimentData(
        beam=None if beam_group is None else _beam(beam_group, path, frames, frame),
        detector=None if detector_group is None else read_detector(file, detector_group, frame_shape, path),
        goniometer=goniometer,
        scan=scan,
        crystal=None if sample is None else _crystal(sample),
        source=None if source is None or "name" not in source else text_of(source["name"][()]),
    )
    back = FRAMES["mcstas"]
    if beam_group is not None and "source_direction" in beam_group:
        back = turn_to_z(np.asarray(beam_group["source_direction"][()])).T @ back
    return rotate_experiment(turned, back)


def _source(path: str | os.PathLike[str]) -> Any:
    """What h5py opens: the path, or the bytes of a packed file."""
    start = read_start(path, "NXmx file", ACCEPTED)
    if not is_hdf5(start):
        raise InputError(str(path), start[:8].decode("latin-1"), ACCEPTED)
    with Path(path).open("rb") as file:
        packed = is_packed(file.read(8))
    return io.BytesIO(read_input(path, "NXmx file", ACCEPTED)) if packed else path


def _of_frame(values: Vector, dataset: Any, at: tuple[int, int], path: str) -> Vector:
    """Of a dataset with a row for each frame, by its values in a row, those of one frame; else all.

    at: frame, and how many there are. A file without frames, a master whose data are elsewhere, has its first row.
    """
    if dataset.ndim != 2:
        return values
    frame, frames = at
    if dataset.shape[0] not in (1, max(frames, 1)):
        raise InputError(f"{path}: {dataset.name}", f"{dataset.shape[0]} rows", f"one, or one for each of {frames}")
    row: Vector = values.reshape(dataset.shape)[frame if dataset.shape[0] > 1 else 0]
    return row


def _weights_of(dataset: Any, spectrum: Vector, at: tuple[int, int], path: str) -> Vector:
    """Weights of a spectrum's channels, those of a frame where each has its own."""
    found = _of_frame(np.ravel(np.asarray(dataset[()], np.float64)), dataset, at, path)
    known = found.shape == spectrum.shape and np.isfinite(found).all() and (found >= 0).all() and found.any()
    if not known:
        raise InputError(f"{path}: {dataset.name}", f"shape {dataset.shape}", f"{len(spectrum)} weights from 0 up")
    return found


def _data_sets(entry: Any) -> list[Any]:
    """The datasets of frames: the signal of NXdata, or data_000001 and so on; none if their files are elsewhere."""
    group = first_of(entry, "NXdata")
    if group is None:
        return []
    signal = text_of(group.attrs.get("signal", "data"))
    names = [signal] if signal in group else sorted(name for name in group if name.startswith("data_"))
    found = [group.get(name) for name in names]
    return [dataset for dataset in found if getattr(dataset, "ndim", 0) >= 3]


def _beam(group: Any, path: str, frames: int, frame: int) -> BeamData:
    if "incident_wavelength" not in group:
        raise InputError(f"{path}: {group.name}/incident_wavelength", None, "a wavelength (it is missing)")
    dataset = group["incident_wavelength"]
    values = quantity(dataset, WAVELENGTHS_A, path, "angstrom")
    variant = text_of(dataset.attrs.get("variant", SPECTRUM))
    spectrum, weights, at = None, None, (frame, frames)
    if variant in group and f"{variant}_weights" in group:
        spectrum = _of_frame(quantity(group[variant], WAVELENGTHS_A, path, "angstrom"), group[variant], at, path)
        weights = _weights_of(group[f"{variant}_weights"], spectrum, at, path)
    elif "incident_wavelength_weights" in group:
        spectrum = _of_frame(values, dataset, at, path)
        weights = _weights_of(group["incident_wavelength_weights"], spectrum, at, path)
        values = np.array([np.average(spectrum, weights=weights)])
    if len(values) not in (1, frames) and np.ptp(values) > 0:
        raise InputError(f"{path}: {dataset.name}", f"{len(values)} values", f"one, or one for each of {frames} frames")
    fraction, normal = _polarization(group, path)
    return BeamData(
        direction=np.array([0.0, 0.0, -1.0]),  # McStas: the beam is along +z
        wavelength_A=float(values[0]),
        frame_wavelengths_A=values if len(values) == frames > 1 else None,
        spectrum_energies_eV=None if spectrum is None else EV_ANGSTROM / spectrum,
        spectrum_weights=weights,
        polarization_fraction=fraction,
        polarization_normal=normal,
        flux=number_of(group, "total_flux"),
        divergence_deg=number_of(group, "divergence"),
        sigma_divergence_deg=number_of(group, "sigma_divergence"),
    )


def _polarization(group: Any, path: str) -> tuple[float | None, Vector | None]:
    """Share of the photons that swing in the plane across a normal, and that normal; from Stokes' parameters I, Q, U, V
    where nothing else is said. Raises InputError for parameters that no beam has, or that change between images."""
    normal = group.get("polarization_normal")
    if "polarization_fraction" in group or normal is not None:
        fraction = number_of(group, "polarization_fraction")
        return fraction, None if normal is None else np.asarray(normal[()])
    name = next((name for name in STOKES if name in group), None)
    if name is None:
        return None, None
    values = np.atleast_2d(np.asarray(group[name][()], np.float64))
    accepted = "Stokes' parameters I, Q, U, V of one beam, I above 0 and not below the rest"
    if values.shape[-1] != len("IQUV") or not np.isfinite(values).all() or np.ptp(values, axis=0).any():
        raise InputError(f"{path}: {group.name}/{name}", f"shape {values.shape}", accepted)
    whole, across, diagonal = values[0, :3]
    degree = float(np.hypot(across, diagonal))
    if not 0 < whole >= degree:
        raise InputError(f"{path}: {group.name}/{name}", values[0].tolist(), accepted)
    turned = np.arctan2(diagonal, across) / 2  # of the electric vector, from x towards y of McStas
    return (1 + degree / whole) / 2, np.array([-np.sin(turned), np.cos(turned), 0.0])


def _crystal(sample: Any) -> CrystalData | None:
    if "real_space_vectors" not in sample:
        return None
    hall = text_of(sample["space_group_hall"][()]) if "space_group_hall" in sample else None
    real_space = np.asarray(sample["real_space_vectors"][()])
    return CrystalData(real_space=real_space, space_group_hall=hall, mosaicity_deg=number_of(sample, "mosaicity"))
