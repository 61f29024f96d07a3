"""What an experiment says, in words: so that a format can state what it holds, and a conversion what it would lose."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.records.experiment import BeamData, CrystalData, DetectorData, ExperimentData, Vector
from nanobrag_torch.records.symmetry import same_as_number

PANEL = frozenset({
    "sensor", "attenuation", "trusted range", "lowest trusted value", "gain", "pedestal",
})  # fmt: skip
"""Words of one panel that a complete header has."""
HEADER = PANEL | {
    "beam", "oblique beam", "polarization", "divergence", "flux", "detector", "goniometer", "fixed rotation", "scan",
    "exposure times", "epochs", "crystal", "space group setting", "mosaicity", "rotation axis not along x",
}  # fmt: skip
"""Words of a complete header of an image with one panel."""


def contents(data: ExperimentData) -> list[str]:
    """Everything that an experiment says, in words that formats name too."""
    said = {} if data.beam is None else _of_beam(data.beam)
    said |= {**_of_detector(data.detector), **_of_movement(data)}
    said |= {} if data.crystal is None else _of_crystal(data.crystal)
    return [*(name for name, is_said in said.items() if is_said), *data.not_kept]


_KNOWN_OF_BEAM = (
    ("polarization", "polarization_fraction"), ("spectrum", "spectrum_energies_eV"),
    ("wavelength range", "wavelength_range_A"), ("wavelength for each image", "frame_wavelengths_A"),
)  # fmt: skip
"""Words for what a beam may have, and the fields that are not None then."""


def _of_beam(beam: BeamData) -> dict[str, bool]:
    return {
        "beam": True,
        "oblique beam": bool(np.abs(beam.direction - [0, 0, 1]).max() > 1e-12),
        **{word: getattr(beam, field) is not None for word, field in _KNOWN_OF_BEAM},
        "divergence": beam.divergence_deg is not None or beam.sigma_divergence_deg is not None,
        "flux": beam.flux is not None,
        f"probe {beam.probe}": beam.probe != "x-ray",
        "scan-varying beam": beam.s0_at_scan_points is not None,
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
            "images that do not follow one another": scan.frames > 1 and scan.starts_deg is not None,
            "exposure times": scan.exposure_times_s is not None,
            "epochs": scan.epochs is not None,
            "time of flight": scan.time_of_flight is not None,
            **{f"{name} of each image": True for name in scan.other_properties},
        }
    return said


def _is_identity(matrix: Vector) -> bool:
    return bool(np.abs(matrix - np.eye(3)).max() < 1e-12)


def _of_crystal(crystal: CrystalData) -> dict[str, bool]:
    return {
        "crystal": True,
        "space group setting": not same_as_number(crystal.space_group_hall),
        "mosaicity": bool(crystal.mosaicity_deg),
        "mosaic blocks": bool(crystal.half_mosaicity_deg) or bool(crystal.domain_size_A),
        "uncertainties of the cell": crystal.uncertainties is not None,
        "scan-varying crystal": crystal.A_at_scan_points is not None,
    }
