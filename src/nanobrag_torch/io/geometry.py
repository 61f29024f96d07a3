"""Geometry files of every kind: which one a file is, by its content; reading, writing, and what a format would lose."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, read_input
from nanobrag_torch.io.cbf import read_cbf_geometry
from nanobrag_torch.io.crystfel import read_crystfel
from nanobrag_torch.io.crystfel_write import write_crystfel
from nanobrag_torch.io.expt import read_expt
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.mosflm import read_mosflm_matrix, write_mosflm_matrix
from nanobrag_torch.io.nxmx_read import SIGNATURE, read_nxmx_geometry
from nanobrag_torch.io.smv_geometry import read_smv_geometry
from nanobrag_torch.io.xparm import read_xparm, write_xparm
from nanobrag_torch.records.experiment import BeamData, CrystalData, DetectorData, ExperimentData, Vector
from nanobrag_torch.records.frames import from_imgcif, to_imgcif
from nanobrag_torch.records.symmetry import same_as_number

ACCEPTED = (
    "a geometry: DIALS .expt, XDS XPARM.XDS or GXPARM.XDS, CrystFEL .geom, MOSFLM matrix, SMV, mini-CBF or NXmx image"
)
_GEOM = re.compile(rb"^\s*[^;=\s/]+/(fs|ss|corner_x|min_fs)\s*=", re.MULTILINE)
_NUMBERS = re.compile(rb"\s*(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eEdD][-+]?[0-9]+)?\s+){9}")

READERS: dict[str, Callable[[str | os.PathLike[str]], ExperimentData]] = {
    "expt": read_expt,
    "xparm": read_xparm,
    "crystfel": read_crystfel,
    "smv": read_smv_geometry,
    "cbf": read_cbf_geometry,
    "nxmx": read_nxmx_geometry,
}

_PANEL = {"several panels", "sensor", "attenuation", "trusted range", "lowest trusted value", "gain", "pedestal"}
_HEADER = (_PANEL - {"several panels"}) | {
    "beam", "oblique beam", "polarization", "divergence", "flux", "detector", "goniometer", "fixed rotation", "scan",
    "exposure times", "epochs", "crystal", "space group setting", "mosaicity", "rotation axis not along x",
}  # fmt: skip

HOLDS: dict[str, set[str]] = {
    "expt": _HEADER | {
        "several panels", "groups of panels", "nested groups", "group frames", "untrusted rectangles", "parallax",
        "spectrum", "wavelength range", "goniometer axes", "scan-varying setting", "several images",
        "scan-varying crystal", "mosaic blocks",
    },
    "xparm": {
        "beam", "oblique beam", "detector", "several panels", "goniometer", "fixed rotation", "scan", "crystal",
        "rotation axis not along x",
    },
    "crystfel": {
        "beam", "detector", "several panels", "groups of panels", "trusted range", "gain", "mask",
        "untrusted rectangles",
    },
    "mosflm": {"crystal", "space group setting"},
    "smv": _HEADER,
    "cbf": _HEADER,
    "nxmx": (_HEADER - {"epochs"}) | {
        "several panels", "groups of panels", "nested groups", "group frames", "mask", "untrusted rectangles",
        "spectrum", "wavelength for each image", "goniometer axes", "several images",
    },
}  # fmt: skip
"""Format -> what of an experiment it can say; what is missing here is lost in it."""


@dataclass(frozen=True)
class Written:
    """What a conversion left out."""

    format: str
    lost: tuple[str, ...]


def image_format(path: str | os.PathLike[str]) -> str | None:
    """The kind of an image file by its first bytes: smv, cbf, nxmx, npy; None for anything else."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(64)
    except OSError:
        start = read_input(path, "file", ACCEPTED)[:64]
    if start.startswith(SIGNATURE):
        return "nxmx"
    if start.startswith(b"{\nHEADER_BYT"):
        return "smv"
    if start.lstrip(b"# \r\n").startswith(b"CBF:"):
        return "cbf"
    return "npy" if start.startswith(b"\x93NUMPY") else None


def geometry_format(path: str | os.PathLike[str]) -> str:
    """The kind of a geometry file by its content: a key of READERS, or mosflm. Raises InputError if it is none."""
    if (kind := image_format(path)) in READERS:
        return str(kind)
    content = read_input(path, "geometry", ACCEPTED)
    first_line = content[:200].partition(b"\n")[0]
    tests: list[tuple[str, bool]] = [
        ("xparm", b"XPARM.XDS" in first_line),
        ("expt", content.lstrip().startswith(b"{") and b"ExperimentList" in content),
        ("mosflm", _NUMBERS.match(content[:2000] + b" ") is not None),
        ("crystfel", _GEOM.search(content) is not None),
    ]
    found = next((name for name, is_it in tests if is_it), None)
    if found is None:
        raise InputError(str(path), content[:20].decode("latin-1"), ACCEPTED)
    return found


def read_geometry(
    path: str | os.PathLike[str], *, index: int | None = None, wavelength_A: float | None = None
) -> ExperimentData:
    """What a geometry file says, whichever kind it is.

    `index` chooses one of several experiments of a `.expt` file; `wavelength_A` is needed for a MOSFLM matrix, which
    contains it. Raises InputError naming file, place and reason.
    """
    kind = geometry_format(path)
    if kind == "mosflm":
        if wavelength_A is None:
            raise InputError(f"{path}: wavelength", None, "a wavelength (a MOSFLM matrix contains it as a factor)")
        return read_mosflm_geometry(path, wavelength_A)
    return read_expt(path, index) if kind == "expt" else READERS[kind](path)


def read_mosflm_geometry(path: str | os.PathLike[str], wavelength_A: float) -> ExperimentData:
    """The crystal of a MOSFLM matrix, and the wavelength that was given."""
    stars = to_imgcif("mosflm", np.stack(read_mosflm_matrix(path, wavelength_A)))
    return ExperimentData(beam=BeamData(wavelength_A=wavelength_A), crystal=CrystalData.from_reciprocal(stars.T))


def write_mosflm_geometry(target: Target, data: ExperimentData, *, flag: str = "output file") -> None:
    """Write the crystal, as the goniometer holds it at angle 0, as a MOSFLM matrix."""
    data.need("beam", "crystal", where="a MOSFLM matrix")
    if data.beam is None or data.crystal is None:
        return
    held = np.eye(3) if data.goniometer is None else data.goniometer.rotation(0.0)
    a_star, b_star, c_star = from_imgcif("mosflm", (held @ data.crystal.A).T)
    write_mosflm_matrix(target, a_star, b_star, c_star, data.beam.wavelength_A, flag=flag)


WRITERS: dict[str, Callable[[Target, ExperimentData], None]] = {
    "expt": write_expt,
    "xparm": write_xparm,
    "crystfel": write_crystfel,
    "mosflm": write_mosflm_geometry,
}


def format_of_name(path: str | os.PathLike[str]) -> str | None:
    """The geometry format that a name asks for; None if it asks for none."""
    place = Path(path)
    if "XPARM" in place.name.upper():
        return "xparm"
    return {".expt": "expt", ".geom": "crystfel", ".mat": "mosflm", ".xds": "xparm"}.get(place.suffix.lower())


def write_geometry(
    path: str | os.PathLike[str], data: ExperimentData, *, to: str | None = None, allow_loss: bool = False
) -> Written:
    """Write a geometry file, of the kind that its name asks for, or `to`; says what was left out.

    Raises InputError, and writes nothing, if anything would be lost and `allow_loss` is not given.
    """
    kind = to or format_of_name(path)
    if kind not in WRITERS:
        raise InputError("output", str(path), "a name that ends in .expt, .geom or .mat, or XPARM.XDS")
    lost = refuse_losses(data, kind, allow_loss)
    WRITERS[kind](path, data)
    return Written(kind, lost)


def refuse_losses(data: ExperimentData, kind: str, allow_loss: bool) -> tuple[str, ...]:
    """What would be lost. Raises InputError listing it unless `allow_loss`."""
    lost = losses(data, kind)
    if lost and not allow_loss:
        raise InputError(f"conversion to {kind}", ", ".join(lost), "--allow-loss, to leave these out")
    return lost


def losses(data: ExperimentData, kind: str) -> tuple[str, ...]:
    """What the format would lose of an experiment, in words."""
    return tuple(name for name in contents(data) if name not in HOLDS[kind])


def contents(data: ExperimentData) -> list[str]:
    """Everything that an experiment says, in the words of HOLDS."""
    said = {**_of_beam(data), **_of_detector(data.detector), **_of_movement(data), **_of_crystal(data)}
    return [name for name, is_said in said.items() if is_said]


def _of_beam(data: ExperimentData) -> dict[str, bool]:
    beam = data.beam
    if beam is None:
        return {}
    return {
        "beam": True,
        "oblique beam": bool(np.abs(beam.direction - [0, 0, 1]).max() > 1e-12),
        "polarization": beam.polarization_fraction is not None,
        "spectrum": beam.spectrum_energies_eV is not None,
        "wavelength range": beam.wavelength_range_A is not None,
        "wavelength for each image": beam.frame_wavelengths_A is not None,
        "divergence": beam.divergence_deg is not None or beam.sigma_divergence_deg is not None,
        "flux": beam.flux is not None,
    }


def _of_detector(detector: DetectorData | None) -> dict[str, bool]:
    if detector is None:
        return {}
    panels, root = detector.panels, detector.root
    groups = [] if root is None else list(root.groups())
    return {
        "detector": True,
        "several panels": len(panels) > 1,
        "groups of panels": bool(groups),
        "nested groups": len(groups) > 1 and any(len(list(g.groups())) > 1 for g in groups[1:]),
        "group frames": any(g.origin_mm.any() or not _is_identity(g.axes) for g in groups),
        "sensor": any(p.thickness_mm is not None or p.material is not None for p in panels),
        "attenuation": any(p.mu_per_mm is not None for p in panels),
        "trusted range": any(p.trusted_range is not None for p in panels),
        "lowest trusted value": any(p.trusted_range is not None and p.trusted_range[0] != 0 for p in panels),
        "gain": any(p.gain not in (None, 1.0) for p in panels),
        "pedestal": any(p.pedestal not in (None, 0.0) for p in panels),
        "parallax": any(p.parallax for p in panels),
        "mask": any(p.mask is not None for p in panels),
        "untrusted rectangles": any(p.untrusted for p in panels),
    }


def _of_movement(data: ExperimentData) -> dict[str, bool]:
    goniometer, scan = data.goniometer, data.scan
    said: dict[str, bool] = {"goniometer": goniometer is not None, "scan": scan is not None}
    if goniometer is not None:
        turns = goniometer.fixed_rotation, goniometer.setting_rotation
        said |= {
            "rotation axis not along x": bool(np.abs(goniometer.rotation_axis - [1, 0, 0]).max() > 1e-12),
            "fixed rotation": not all(_is_identity(turn) for turn in turns),
            "goniometer axes": goniometer.axes is not None,
            "scan-varying setting": goniometer.setting_at_scan_points is not None,
        }
    if scan is not None:
        said |= {
            "several images": scan.frames > 1,
            "exposure times": scan.exposure_times_s is not None,
            "epochs": scan.epochs is not None,
        }
    return said


def _is_identity(matrix: Vector) -> bool:
    return bool(np.abs(matrix - np.eye(3)).max() < 1e-12)


def _of_crystal(data: ExperimentData) -> dict[str, bool]:
    crystal = data.crystal
    if crystal is None:
        return {}
    return {
        "crystal": True,
        "space group setting": not same_as_number(crystal.space_group_hall),
        "mosaicity": crystal.mosaicity_deg is not None,
        "mosaic blocks": crystal.half_mosaicity_deg is not None or crystal.domain_size_A is not None,
        "scan-varying crystal": crystal.A_at_scan_points is not None,
    }
