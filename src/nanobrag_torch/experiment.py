"""A whole experiment from files: geometry, crystal and structure factors in, images out.

    experiment = Experiment.from_file("refined.expt", structure_factors="model.mtz", N_cells=(30, 30, 30))
    image = experiment.simulate(frame=3)  # [panel, slow, fast], or (slow, fast) of a single panel
    counted = experiment.counts(frame=3, seed=1)  # with counting noise

The lab frame is that of the file, imgCIF's: panels, beam and rotation axis are taken as they stand, without a
convention in between.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nanobrag_torch.config import (
    BeamConfig,
    CrystalConfig,
    DetectorConfig,
    DetectorConvention,
    GroupConfig,
    PanelConfig,
)
from nanobrag_torch.crystallography.structure_factors import attach_structure_factors, read_structure_factors
from nanobrag_torch.crystallography.symmetry import Expansion, expand_to_p1
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.geometry import read_geometry, write_geometry
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.kernels.reference import Progress
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.models.remembered import is_plain
from nanobrag_torch.records.experiment import CrystalData, ExperimentData, GroupData, PanelData, ScanData
from nanobrag_torch.records.frames import electric_axis, incident, kahn_factor
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.response.panels import panel_response
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.units import EV_ANGSTROM

DEFAULT_F = 100.0
DEFAULT_CELLS = (10, 10, 10)
PHI_STEPS = 10


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Experiment:
    """What files say of an experiment, and what they do not: size and shape of the crystal, fluence, sampling.

    `options` are fields of CrystalConfig, DetectorConfig and BeamConfig, tensors included; they win over the file.
    Without structure factors every reflection has the amplitude default_F, 100 unless given.
    """

    data: ExperimentData
    structure_factors: Reflections | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {f.name for config in (CrystalConfig, DetectorConfig, BeamConfig) for f in fields(config)}
        for name in self.options:
            if name not in known:
                raise InputError("option", name, "fields of CrystalConfig, DetectorConfig and BeamConfig")

    def __repr__(self) -> str:
        panels = 0 if self.data.detector is None else len(self.data.detector.panels)
        wave = "no beam" if self.data.beam is None else f"{self.data.beam.wavelength_A:g} Angstrom"
        crystal = "no crystal" if self.data.crystal is None else "a crystal"
        count = "no" if self.structure_factors is None else str(len(self.structure_factors))
        held = f"{panels} panels, {wave}, {self.frames} frames, {crystal}, {count} structure factors"
        return f"Experiment({held}, {self.options!r})"

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        structure_factors: str | Path | Reflections | None = None,
        index: int | None = None,
        data_file: str | Path | None = None,
        **options: Any,
    ) -> Experiment:
        """Read DIALS .expt, XDS XPARM, CrystFEL .geom, or the header of an SMV, CBF or NXmx image.

        structure_factors: a file that read_structure_factors takes, or what it returned. index: which experiment of
        several in a .expt file. data_file: images that hold the values a .geom locates. Raises InputError.
        """
        data = read_geometry(path, index=index, data_file=data_file)
        if structure_factors is not None and not isinstance(structure_factors, Reflections):
            wavelength = None if data.beam is None else data.beam.wavelength_A
            structure_factors = read_structure_factors(structure_factors, wavelength_A=wavelength)
        return cls(data=data, structure_factors=structure_factors, options=options)

    def to_file(self, path: str | Path) -> None:
        """Write the geometry in the format that the suffix names. Raises InputError for what that cannot hold."""
        write_geometry(path, self.data)

    @property
    def frames(self) -> int:
        """Images of the scan; one for a still."""
        return 1 if self.data.scan is None else self.data.scan.frames

    def simulate(self, frame: int = 0, *, progress: Progress | None = None, **simulator: Any) -> Tensor:
        """The image of a frame, counted from 0: [panel, slow, fast], (slow, fast) of a single panel.

        Photons, or gain times photons plus pedestal where panels state those, or a response is given.
        simulator: options of Simulator, such as dtype, device, kernel, background and response.
        """
        return _without_panel(self.simulator(frame, **simulator).run(progress=progress))

    def counts(self, frame: int = 0, *, seed: int, **simulator: Any) -> Tensor:
        """The image of a frame as counted: whole photons, int32, shaped as by `simulate`.

        A frame of a seed is the same whichever frames are rendered beside it, and wherever: see Simulator.counts.
        """
        return _without_panel(self.simulator(frame, **simulator).counts(seed, image=frame))

    def record(self, frame: int = 0, *, seed: int, progress: Progress | None = None, **simulator: Any) -> Tensor:
        """The image of a frame as its detector records it: by gain, pedestal, trusted range and masks of the panels.

        Shaped as by `simulate`, whole numbers; what is drawn depends on seed and frame alone: see Response.record.
        """
        return _without_panel(self.simulator(frame, **simulator).record(seed, image=frame, progress=progress))

    def simulator(self, frame: int = 0, *, kind: type[Simulator] = Simulator, **options: Any) -> Simulator:
        """The Simulator of a frame, for pixels, gradients and refinement; its detector has `panels`.

        kind: a class of Simulator to make it of.
        """
        if not 0 <= frame < self.frames:
            raise InputError("frame", frame, f"0 to {self.frames - 1}")
        device = options.get("device", "cpu")
        crystal = Crystal(self.crystal_config(frame), device=device)
        if self.structure_factors is not None:
            chosen = {"default_F": self.options.get("default_F", 0.0), "expansion": self._expansion}
            attach_structure_factors(crystal, self.structure_factors, **chosen)
        detector = Detector(self.detector_config(frame), device=device)
        assert self.data.detector is not None
        options["response"] = panel_response(self.data.detector, options.get("response"))
        return kind(crystal, detector, beam_config=self.beam_config(frame), **options)

    @cached_property
    def _expansion(self) -> Expansion:
        """Where symmetry puts the structure factors, which is the same in every frame."""
        assert self.structure_factors is not None
        return expand_to_p1(self.structure_factors)

    def crystal_config(self, frame: int = 0) -> CrystalConfig:
        """Orientation as the goniometer has it where the frame begins, and the frame's rotation in phi steps.

        Steps lie in the middle of their share of the rotation.
        """
        chosen = {"N_cells": DEFAULT_CELLS, **self._options_of(CrystalConfig)}
        if self.structure_factors is None:
            chosen.setdefault("default_F", DEFAULT_F)
        if "cell_a" not in chosen and "mosflm_a_star" not in chosen:
            chosen |= self._lattice(frame)
        scan = self.data.scan
        if scan is not None and "phi_start_deg" not in chosen:
            width = scan.oscillation_width_deg
            steps = chosen.setdefault("phi_steps", PHI_STEPS if width else 1)
            chosen |= {"phi_start_deg": _first_phi(scan, frame, steps), "osc_range_deg": width}
        if self.data.goniometer is not None:
            goniometer = self.data.goniometer
            chosen.setdefault("spindle_axis", _setting(self.data, frame) @ goniometer.rotation_axis)
        return CrystalConfig(**{k: _plain(v) for k, v in chosen.items()})

    def detector_config(self, frame: int = 0) -> DetectorConfig:
        """Panels in their groups; a group is moved by replacing its shift_mm and rotation_deg."""
        self.data.need("detector", "beam", where="an image")
        assert self.data.detector is not None and self.data.beam is not None
        beam = self.data.beam.of_frame(frame)
        owner: dict[int, str] = {}
        groups = [] if self.data.detector.root is None else _groups(self.data.detector.root, None, owner)
        panels = [_panel(panel, owner.get(i)) for i, panel in enumerate(self.data.detector.panels)]
        placed: dict[str, Any] = {
            "detector_convention": DetectorConvention.CUSTOM,
            "custom_beam_vector": _plain(incident(beam)),
            "panels": tuple(panels),
            "groups": tuple(groups),
        }
        electric = electric_axis(beam)
        if electric is not None:
            placed["custom_polar_vector"] = _plain(electric)
        return DetectorConfig(**{**placed, **self._options_of(DetectorConfig)})

    def beam_config(self, frame: int = 0) -> BeamConfig:
        """Wavelength or spectrum of a frame, and the polarization where the file has it."""
        self.data.need("beam", where="an image")
        assert self.data.beam is not None
        beam = self.data.beam.of_frame(frame)
        require_monochromatic_xrays(self.data)
        chosen: dict[str, Any] = {"wavelength_A": beam.wavelength_A}
        if beam.frame_wavelengths_A is not None:
            chosen["wavelength_A"] = float(beam.frame_wavelengths_A[min(frame, len(beam.frame_wavelengths_A) - 1)])
        if beam.polarization_fraction is not None:
            chosen["polarization_factor"] = kahn_factor(beam.polarization_fraction)
        if beam.spectrum_energies_eV is not None and beam.spectrum_weights is not None:
            chosen |= _spectrum(beam.direction, beam.spectrum_energies_eV, beam.spectrum_weights)
        return BeamConfig(**{**chosen, **self._options_of(BeamConfig)})

    def with_options(self, **options: Any) -> Experiment:
        """The same experiment with other options."""
        return replace(self, options={**self.options, **options})

    def _options_of(self, config: type) -> dict[str, Any]:
        names = {f.name for f in fields(config)}
        return {name: value for name, value in self.options.items() if name in names}

    def _lattice(self, frame: int) -> dict[str, Any]:
        self.data.need("crystal", where="an image without a cell of its own (cell_a ... or mosflm_a_star ...)")
        assert self.data.crystal is not None
        stars = _setting(self.data, frame) @ _fixed(self.data) @ _matrix_of_frame(self.data.crystal, frame)
        return {f"mosflm_{axis}_star": stars[:, i] for i, axis in enumerate("abc")}


def _first_phi(scan: ScanData, frame: int, steps: int) -> float:
    """Of the phi steps of a frame (degrees)."""
    return scan.start_deg(frame) + scan.oscillation_width_deg / steps / 2


class _Turning(Simulator):
    """A Simulator whose runs differ by phi_start_deg alone: of the scene only the lattice is made anew."""

    _kept: tuple[Scene, Options, Tensor, Tensor] | None = None  # and spindle and rows of the cell

    def _constants(self) -> tuple[Scene, Options, Tensor, Tensor]:
        if self._kept is None:
            self._kept = super().scene(), super().options(), self.geometry.spindle, self.crystal.cell(self.compat)[0]
        return self._kept

    def scene(self) -> Scene:
        scene, _, spindle, rows = self._constants()
        return replace(scene, lattice=self.crystal.lattice(spindle, self.compat, rows)[0].to(self.device))

    def options(self) -> Options:
        return self._constants()[1]


class FrameRenderer:
    """Renders frames of an experiment that does not change meanwhile: what frames share is made once.

    Images are those of Experiment.simulate and Experiment.record; simulator: options of Simulator, as there.
    """

    def __init__(self, experiment: Experiment, **simulator: Any) -> None:
        self.experiment, self._options = experiment, simulator
        self._made: Simulator | None = None
        data = experiment.data
        self._beam_varies = data.beam is not None and (
            data.beam.s0_at_scan_points is not None or data.beam.frame_wavelengths_A is not None
        )
        crystal_varies = data.crystal is not None and data.crystal.A_at_scan_points is not None
        mount_varies = data.goniometer is not None and data.goniometer.setting_at_scan_points is not None
        plain = all(map(is_plain, experiment.options.values()))
        self._turns_only = plain and not (self._beam_varies or crystal_varies or mount_varies)

    def _simulator(self, frame: int) -> Simulator:
        """The Simulator of a frame until the next; nobody else may have it, for it sees no change but that of phi."""
        made = self._made
        if made is None:
            made = self._made = self._first(frame)
        elif not 0 <= frame < self.experiment.frames:
            raise InputError("frame", frame, f"0 to {self.experiment.frames - 1}")
        made.crystal.config = self._crystal_config(made.crystal.config, frame)
        if self._beam_varies:
            made.detector.config = self.experiment.detector_config(frame)
            made.beam.config = self.experiment.beam_config(frame)
        return made

    def _crystal_config(self, before: CrystalConfig, frame: int) -> CrystalConfig:
        """That of a frame; where frames differ by phi_start_deg alone it is that of another with this changed: to make
        and check one takes a tenth of a small image."""
        if not self._turns_only:
            return self.experiment.crystal_config(frame)
        scan = self.experiment.data.scan
        if scan is None or "phi_start_deg" in self.experiment.options:
            return before
        turned = copy(before)
        object.__setattr__(turned, "phi_start_deg", _first_phi(scan, frame, before.phi_steps))
        return turned

    def _first(self, frame: int) -> Simulator:
        made = self.experiment.simulator(frame, kind=_Turning if self._turns_only else Simulator, **self._options)
        table = made.crystal.hkl_data
        made.crystal.hkl_data = None if table is None else table.to(made.dtype)
        return made

    def simulate(self, frame: int, *, progress: Progress | None = None) -> Tensor:
        """The image of a frame, counted from 0."""
        return _without_panel(self._simulator(frame).run(progress=progress))

    def record(self, frame: int, *, seed: int, progress: Progress | None = None) -> Tensor:
        """The image of a frame as its detector records it."""
        return _without_panel(self._simulator(frame).record(seed, image=frame, progress=progress))


def _plain(value: Any) -> Any:
    """An array as numbers, which nobody can change in a vector; anything else as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return tuple(value.tolist()) if value.ndim == 1 else value.tolist()


def _without_panel(image: Tensor) -> Tensor:
    """The image (slow, fast) of a single panel."""
    return image[0] if image.shape[0] == 1 and image.dim() == 3 else image


def require_monochromatic_xrays(data: ExperimentData) -> None:
    """Raise InputError naming what a file says of its beam that no image here is made of."""
    beam, scan = data.beam, data.scan
    if beam is not None and beam.probe != "x-ray":
        raise InputError("probe", beam.probe, "x-ray: images of other probes are not rendered")
    if beam is not None and beam.wavelength_range_A is not None and beam.spectrum_energies_eV is None:
        raise InputError("wavelength_range", beam.wavelength_range_A, "a wavelength or a spectrum, not a range alone")
    if scan is not None and scan.time_of_flight is not None:
        raise InputError("time_of_flight", f"{len(scan.time_of_flight)} times", "a scan of one wavelength")


def _setting(data: ExperimentData, frame: int) -> Any:
    goniometer = data.goniometer
    if goniometer is None:
        return np.eye(3)
    points = goniometer.setting_at_scan_points
    return goniometer.setting_rotation if points is None else points[min(frame, len(points) - 1)]


def _fixed(data: ExperimentData) -> Any:
    return np.eye(3) if data.goniometer is None else data.goniometer.fixed_rotation


def _matrix_of_frame(crystal: CrystalData, frame: int) -> Any:
    """Columns a*, b*, c*; of a crystal that varies through the scan, the mean over the frame."""
    points = crystal.A_at_scan_points
    if points is None:
        return crystal.A
    first = min(frame, len(points) - 1)
    return (points[first] + points[min(first + 1, len(points) - 1)]) / 2


def _spectrum(direction: Any, energies_eV: Any, weights: Any) -> dict[str, Any]:
    lit = weights > 0
    return {
        "source_directions": np.tile(direction, (int(lit.sum()), 1)).tolist(),
        "source_wavelengths": (EV_ANGSTROM / energies_eV[lit]).tolist(),
        "source_weights": weights[lit].tolist(),
    }


def _panel(panel: PanelData, group: str | None) -> PanelConfig:
    absorbs = panel.thickness_mm and panel.mu_per_mm  # a thickness alone does not say how much is absorbed
    good = panel.good_pixels()
    return PanelConfig(
        origin_mm=_plain(panel.origin_mm),
        fast_axis=_plain(panel.fast),
        slow_axis=_plain(panel.slow),
        pixel_size_mm=tuple(panel.pixel_size_mm),
        fpixels=panel.image_size[0],
        spixels=panel.image_size[1],
        detector_thick_um=1000 * panel.thickness_mm if absorbs and panel.thickness_mm else 0.0,
        detector_abs_um=1000 / panel.mu_per_mm if absorbs and panel.mu_per_mm else None,
        mask_array=None if good.all() else good,
        group=group,
        name=panel.name,
    )


def _groups(group: GroupData, parent: str | None, owner: dict[int, str]) -> list[GroupConfig]:
    """The tree as a list; fills in which group each panel belongs to. Names are paths, so that none comes twice."""
    name = f"{parent or ''}/{group.name or 'detector'}"
    own = GroupConfig(name=name, parent=parent, centre_mm=_plain(group.origin_mm))
    found = [own]
    for i, child in enumerate(group.children):
        if isinstance(child, GroupData):
            unique = replace(child, name=child.name or f"group {i}")
            found += _groups(unique, name, owner)
        else:
            owner[child] = name
    return found
