"""What -show_config prints: the configuration of a run by crystal, detector and beam."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nanobrag_torch.units import ANGSTROM, MM

if TYPE_CHECKING:
    from nanobrag_torch.simulator import Simulator

RULE = "=" * 60


def configuration_lines(simulator: Simulator) -> Iterator[str]:
    """The block, from its heading to its last rule; lengths of detectors in mm, of cells and waves in Angstrom."""
    yield from (RULE, "CONFIGURATION ECHO", RULE, "Crystal Configuration:", *_crystal(simulator))
    yield from ("Detector Configuration:", *_detector(simulator), "Beam Configuration:", *_beam(simulator), RULE)


def _crystal(simulator: Simulator) -> Iterator[str]:
    from nanobrag_torch.io.mosflm import reciprocal_to_real_cell

    config, (_, stars, volume) = simulator.crystal.config, simulator.crystal.cell(simulator.compat)
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    cell = reciprocal_to_real_cell(*stars.cpu().numpy())
    yield "  Cell: " + ", ".join(f"{name}={value:.3f}" for name, value in zip(names, cell, strict=True))
    yield f"  Volume: {float(volume):.3f} Å³"
    yield "  N cells: " + " x ".join(f"{count:g}" for count in simulator.cells.tolist())
    yield f"  Shape: {config.shape.name}"
    yield "  Misset: " + ", ".join(f"{float(angle):.3f}°" for angle in config.misset_deg)
    yield f"  Phi: start={float(config.phi_start_deg):.3f}°, osc={float(config.osc_range_deg):.3f}°"
    yield f"  Phi steps: {config.phi_steps}"
    yield f"  Mosaic: spread={config.mosaic_spread_deg}°, domains={simulator.crystal.domain_count}"
    yield f"  Structure factors: default_F={float(config.default_F):g}, table={_table(simulator)}"


def _table(simulator: Simulator) -> str:
    table = simulator.crystal.hkl_data
    return "none" if table is None else " x ".join(map(str, table.shape))


def _detector(simulator: Simulator) -> Iterator[str]:
    config, geometry = simulator.detector.config, simulator.geometry
    fast, slow = (float(x) / MM for x in simulator.detector.beam_centre())
    yield f"  Pixels: {config.spixels} x {config.fpixels}"
    yield f"  Pixel size: {float(config.pixel_size_mm):.3f} mm"
    yield f"  Distance: {float(geometry.distance) / MM:.3f} mm"
    yield f"  Close distance: {float(geometry.close_distance) / MM:.3f} mm"
    yield f"  Convention: {config.detector_convention.name}"
    yield f"  Pivot: {simulator.detector.pivot.name}"
    yield f"  Beam center: slow={slow:.3f} mm, fast={fast:.3f} mm"
    angles = [float(getattr(config, f"detector_{name}_deg")) for name in ("rotx", "roty", "rotz", "twotheta")]
    yield "  Rotations: rotx={:.3f}°, roty={:.3f}°, rotz={:.3f}°, twotheta={:.3f}°".format(*angles)
    yield f"  Oversample: {simulator.oversample}"


def _beam(simulator: Simulator) -> Iterator[str]:
    beam = simulator.beam
    yield f"  Wavelength: {float(beam.wavelength()) / ANGSTROM:.4f} Å"
    yield f"  Fluence: {float(beam.fluence()):.6e} photons/m²"
    yield f"  Polarization: {_polarization(simulator)}"
    yield f"  Sources: {simulator.sources.wavelengths.numel()} sources"
    yield f"  Resolution limit: {beam.config.dmin or 0:g} Å"


def _polarization(simulator: Simulator) -> str:
    config = simulator.beam.config
    return "off" if config.nopolar else f"{float(config.polarization_factor):g}"
