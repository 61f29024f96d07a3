"""A small scan for tests of files: one panel, one axis, one crystal, and all that a header can hold."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    PanelData,
    ScanData,
)


def small_scan(size: tuple[int, int], frames: int, distance_mm: float) -> ExperimentData:
    """Images of some pixels (fast, slow), whose middle the beam hits."""
    panel = PanelData(
        name="p", origin_mm=np.array([-size[0] / 20, size[1] / 20, -distance_mm]), fast=np.array([1.0, 0, 0]),
        slow=np.array([0, -1.0, 0]), pixel_size_mm=(0.1, 0.1), image_size=size, thickness_mm=0.45, material="Si",
        mu_per_mm=3.9, trusted_range=(-1.0, 65000.0),
    )  # fmt: skip
    scan = ScanData(
        image_range=(1, frames), oscillation_start_deg=0, oscillation_width_deg=0.1,
        exposure_times_s=np.full(frames, 0.25),
    )  # fmt: skip
    return ExperimentData(
        beam=BeamData(wavelength_A=1.0, polarization_fraction=0.97, polarization_normal=np.array([0, 1.0, 0])),
        detector=DetectorData(panels=(panel,)),
        goniometer=GoniometerData(rotation_axis=np.array([1.0, 0, 0])),
        scan=scan,
        crystal=CrystalData(real_space=np.diag([30.0, 40, 50]), space_group_hall="P 1"),
    )
