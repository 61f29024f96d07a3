"""Which corrections of the C program's defects changed a run's image: one predicate a switch of Compat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.flags import FLAGS
from nanobrag_torch.cli.nanobragg.parsing import apply_words
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.cli.nanobragg.structure import StructureFactors, comments_cost_reflections
from nanobrag_torch.compat import ROWS, Compat
from nanobrag_torch.config import DetectorConvention
from nanobrag_torch.units import ANGSTROM, R_E_SQUARED

if TYPE_CHECKING:
    from torch import Tensor

    from nanobrag_torch.cli.nanobragg.prepared import Prepared
    from nanobrag_torch.simulator import Simulator

SAME = 1e-12
"""Relative difference below which two lattices count as one."""
GRID = 192
"""Points along each detector axis where the reach of the interpolation is looked at."""
EVALUATIONS = 4_000_000
"""Steps that are looked at together, and about as many as are looked at in all."""
WHERE_THE_DETECTOR_IS = (
    "negative_photons", "normal_stays", "twotheta_axis_is_twotheta", "close_distance_of_header_wins",
    "raw_twotheta_axis",
)  # fmt: skip
HEADER_ALONE = ("distance_before_twotheta",)
SWITCHES = tuple(field.name for field in fields(Compat))


@dataclass(frozen=True)
class Scene:
    """A run as the predicates see it."""

    words: Sequence[str]
    headers: Request  # what the headers said, before any flag
    request: Request
    structure: StructureFactors
    simulator: Simulator
    source_intensities: Sequence[float] = ()


def scene_of(prepared: Prepared, simulator: Simulator) -> Scene:
    """A run as the predicates see it."""
    intensities = [] if prepared.sources is None else prepared.sources[:, 3].tolist()
    return Scene(prepared.words, prepared.headers, prepared.request, prepared.structure, simulator, intensities)


def changed(scene: Scene) -> list[str]:
    """Switches of Compat whose correction changed the image or its header, in the order of the table."""
    off = [name for name in SWITCHES if not getattr(scene.simulator.compat, name)]
    if _is_blind(scene) and not scene.simulator.compat.negative_photons:
        off = [name for name in off if name in WHERE_THE_DETECTOR_IS]  # nothing else shows in a zero image
    return [name for name in off if name in PREDICATES and PREDICATES[name](scene)]


def correction_lines(scene: Scene) -> Iterator[str]:
    """One line a correction that changed this run's image."""
    for name in changed(scene):
        what = "header" if name in HEADER_ALONE else "image"
        row = next(row for row in ROWS if row.switch == name)
        yield f"correction {row.id} changed the {what}: {row.here} (the C program: {row.c_program})"


def _skewed_cell(scene: Scene) -> bool:
    config = scene.simulator.crystal.config
    if config.mosflm_a_star is None and (config.cell_alpha, config.cell_beta, config.cell_gamma) == (90, 90, 90):
        return False
    right, skewed = (_lattice_and_shape(scene, compat) for compat in (Compat(), Compat(skewed_cell=True)))
    return any(_differ(a, b) for a, b in zip(right, skewed, strict=True))


def _lattice_and_shape(scene: Scene, compat: Compat) -> tuple[Tensor, Tensor]:
    """All that the image takes from the cell; with -mat the C program's volume reaches the spot shape alone."""
    from nanobrag_torch.physics.lattice_factor import shape_matrix

    crystal = scene.simulator.crystal
    rows, stars, volume = crystal.cell(compat)
    return rows, shape_matrix(crystal.config.shape, crystal.cells(compat), crystal.fudge(), stars, volume)


def _differ(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs().max() > SAME * b.abs().max()).item())


def _stale_phi(scene: Scene) -> bool:
    crystal, spindle = scene.simulator.crystal, scene.simulator.geometry.spindle
    if crystal.config.phi_steps == 1:
        return False  # there is no other step to repeat
    return _differ(crystal.phi_rotations(spindle, Compat(stale_phi=True)), crystal.phi_rotations(spindle, Compat()))


def _running_factors(scene: Scene) -> bool:
    detector = scene.simulator.detector.config
    thick = detector.oversample_thick and _absorbs(scene)
    polar = detector.oversample_polar and not scene.request.nopolar
    return (thick or polar or detector.oversample_omega) and _evaluations(scene) > 1


def _evaluations(scene: Scene) -> int:
    return scene.simulator.steps * scene.simulator.geometry.layers


def _absorbs(scene: Scene) -> bool:
    """Whether the sensor has layers that capture anything."""
    geometry = scene.simulator.geometry
    return geometry.layers > 1 and math.exp(-float(geometry.sensor[0].prod())) != 1.0


def _last_layer_capture(scene: Scene) -> bool:
    return _absorbs(scene) and not scene.simulator.detector.config.oversample_thick


def _layers_overshoot(scene: Scene) -> bool:
    return _absorbs(scene) and scene.simulator.detector.config.detector_thicksteps is not None


def _equal_sources(scene: Scene) -> bool:
    return len(set(scene.source_intensities)) > 1


def _water_once(scene: Scene) -> bool:
    if scene.request.water_um == 0:
        return False
    fluence = float(scene.simulator.beam.fluence()) * R_E_SQUARED
    return abs(fluence - 1) > SAME or _evaluations(scene) > 1 or _cuts_a_pixel(scene.simulator)


def _cuts_a_pixel(simulator: Simulator) -> bool:
    """Whether -dmin leaves out the centre of a pixel of the region of interest; looked at on a grid."""
    finest = (simulator.beam.config.dmin or 0.0) * ANGSTROM
    if finest <= 0:
        return False
    import torch

    incident, wavelength = simulator.sources.incident[0].cpu(), float(simulator.sources.wavelengths[0])
    scattering = (_directions(simulator, GRID, inset=0.5) - incident) / wavelength
    return bool((torch.linalg.vector_norm(scattering, dim=-1) * finest > 1).any())


def _parsed_otherwise(scene: Scene, switch: str) -> Request:
    """What the words ask for when one defect of parsing is back."""
    other = replace(scene.headers, fired=[], warnings=[], stolfiles=[])
    apply_words(other, scene.words, Compat(**{switch: True}), as_c_reads=True)
    return replace(other, close_distance_mm=scene.request.close_distance_mm)  # it may have been dropped for -distance


def _is_shadowed(scene: Scene, switch: str) -> bool:
    """Whether any word could be read as another flag when this defect of parsing is back."""
    shadows = [flag.shadow for flag in FLAGS if flag.shadow_switch == switch]
    return any(shadow in word for word in scene.words for shadow in shadows)


def _misset_seed_is_misset(scene: Scene) -> bool:
    if not _is_shadowed(scene, "misset_seed_is_misset"):
        return False
    return _misset(_parsed_otherwise(scene, "misset_seed_is_misset")) != _misset(scene.request)


def _misset(request: Request) -> object:
    """The orientation asked for; None for that of the cell."""
    if request.misset_choice != "angles":
        return request.misset_choice
    return request.misset_deg if any(request.misset_deg or ()) else None


def _twotheta_axis_is_twotheta(scene: Scene) -> bool:
    if not _is_shadowed(scene, "twotheta_axis_is_twotheta"):
        return False
    return _places_otherwise(scene, _parsed_otherwise(scene, "twotheta_axis_is_twotheta"))


def _places_otherwise(scene: Scene, other: Request) -> bool:
    """Whether another request puts the detector elsewhere."""
    from nanobrag_torch.models.detector import Detector

    simulator, config = scene.simulator, settings.detector_config(other, settings.plane_of(other), None)
    here, there = simulator.geometry, Detector(config, device=simulator.device).geometry(simulator.compat)
    return _differ(there.panels, here.panels) or _differ(there.curvature, here.curvature)


def _is_blind(scene: Scene) -> bool:
    return bool(scene.simulator.geometry.close_distance < 0)


def _product_widths(scene: Scene) -> bool:
    from nanobrag_torch.physics.lattice_factor import WIDE_BY_PRODUCT, shape_matrix

    crystal = scene.simulator.crystal
    if crystal.config.shape not in WIDE_BY_PRODUCT:
        return False
    _, stars, volume = crystal.cell(scene.simulator.compat)
    given = crystal.config.shape, crystal.cells(scene.simulator.compat), crystal.fudge(), stars, volume
    return _differ(shape_matrix(*given, product_widths=True), shape_matrix(*given))


def _oversample_thick_needs_thickness(scene: Scene) -> bool:
    return scene.request.oversample_thick and float(scene.simulator.geometry.sensor[0, 0]) == 0


def _polarized_along_beam(scene: Scene) -> bool:
    from nanobrag_torch.physics.polarization import along_axis

    simulator = scene.simulator
    if scene.request.nopolar and not scene.request.oversample_polar:
        return False
    incident, polar = simulator.sources.incident, simulator.geometry.polar
    if not bool(along_axis(incident, polar).any()):
        return False
    matrices = (simulator.beam.polarization(incident, polar, Compat(polarized_along_beam=on), unpolarized=False)
                for on in (True, False))  # fmt: skip
    return _differ(*matrices)


def _quotients_rounded_up(scene: Scene) -> bool:
    up, nearest = (settings.scans_of(scene.request, Compat(quotients_rounded_up=on)) for on in (True, False))
    return up.phi != nearest.phi or (not scene.request.sourcefile and up != nearest)


def _lopsided_divergence(scene: Scene) -> bool:
    simulator, geometry = scene.simulator, scene.simulator.geometry
    beam = simulator.beam.config
    if (beam.hdiv_range_mrad, beam.hdiv_steps, beam.vdiv_range_mrad, beam.vdiv_steps) == (0, 1, 0, 1):
        return False
    aside, even = (simulator.beam.sources(geometry.beam, geometry.polar, Compat(lopsided_divergence=on)).directions
                   for on in (True, False))  # fmt: skip
    return aside.shape != even.shape or _differ(aside, even)


def _normal_stays(scene: Scene) -> bool:
    if scene.request.convention != DetectorConvention.CUSTOM.value:
        return False
    detector = scene.simulator.detector
    stays, new = (detector.geometry(replace(scene.simulator.compat, normal_stays=on)).panels for on in (True, False))
    return _differ(stays, new)


def _powder(scene: Scene) -> bool:
    return scene.simulator.crystal.is_powder and scene.simulator.crystal.domain_count > 1


def _front_solid_angle(scene: Scene) -> bool:
    return _absorbs(scene) and not scene.request.curved and not scene.request.point_pixel


def _nopolar(scene: Scene) -> bool:
    return scene.request.nopolar and scene.request.oversample_polar


def _distance_before_twotheta(scene: Scene) -> bool:
    return scene.request.twotheta_deg != 0


def _close_distance_of_header(scene: Scene) -> bool:
    given = scene.headers.close_distance_mm
    if given is None or not scene.request.distance_on_line or scene.request.close_distance_on_line:
        return False
    return _places_otherwise(scene, replace(scene.request, close_distance_mm=given))


def _raw_twotheta_axis(scene: Scene) -> bool:
    axis = scene.request.twotheta_axis
    custom = scene.request.convention == DetectorConvention.CUSTOM.value
    return custom and axis is not None and scene.request.twotheta_deg != 0 and abs(math.hypot(*axis) - 1) > SAME


def _interpolation_latch(scene: Scene) -> bool:
    """Whether any reflection index leaves the range that interpolation needs, looked at on a grid of positions."""
    limits, simulator = scene.structure.metadata, scene.simulator
    if not simulator.crystal.interpolates() or limits is None:
        return False
    import torch

    low = torch.tensor([limits[f"{axis}_min"] + 2.0 for axis in "hkl"], dtype=torch.float64)
    high = torch.tensor([limits[f"{axis}_max"] - 2.0 for axis in "hkl"], dtype=torch.float64)
    lattice = simulator.crystal.lattice(simulator.geometry.spindle, Compat())[0].cpu()
    scattering = _scattering(simulator, lattice.shape[0])  # [m, 3]
    together = max(1, EVALUATIONS // max(1, scattering.shape[0]))
    for start in range(0, lattice.shape[0], together):
        hkl = torch.einsum("kij,mj->kmi", lattice[start : start + together], scattering)
        if bool(((hkl < low) | (hkl > high)).any()):
            return True
    return False


def _scattering(simulator: Simulator, lattices: int) -> Tensor:
    """Scattering vectors [m, 3] (1/m) of all sources at a grid of positions, fewer where there are many steps."""
    import torch

    sources = simulator.sources
    per_position = sources.wavelengths.numel() * lattices
    side = min(GRID, max(8, math.isqrt(EVALUATIONS // per_position)))
    directions = _directions(simulator, side)
    vectors = (directions - sources.incident.cpu()[:, None]) / sources.wavelengths.cpu()[:, None, None]
    vectors = vectors.reshape(-1, 3)
    finest = (simulator.beam.config.dmin or 0.0) * ANGSTROM
    return vectors if finest <= 0 else vectors[torch.linalg.vector_norm(vectors, dim=-1) * finest <= 1]


def _directions(simulator: Simulator, side: int, inset: float = 0.0) -> Tensor:
    """Unit vectors [n, 3] from the sample to a grid over the region of interest, its edges less `inset` pixels."""
    import torch

    config, geometry = simulator.detector.config, simulator.geometry
    origin, fast, slow = geometry.panels[0, :3].cpu()
    spans = (
        (config.roi_xmin or 0, config.fpixels if config.roi_xmax is None else config.roi_xmax + 1),
        (config.roi_ymin or 0, config.spixels if config.roi_ymax is None else config.roi_ymax + 1),
    )
    f, s = (torch.linspace(a + inset, b - inset, side, dtype=torch.float64) for a, b in spans)
    edges = geometry.pixel_size[0].cpu()
    positions = origin + f[None, :, None] * edges[0] * fast + s[:, None, None] * edges[1] * slow
    points = positions.reshape(-1, 3)
    directions: Tensor = points / torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return directions


PREDICATES: dict[str, Callable[[Scene], bool]] = {
    "skewed_cell": _skewed_cell,
    "stale_phi": _stale_phi,
    "running_factors": _running_factors,
    "last_layer_capture": _last_layer_capture,
    "interpolation_latch": _interpolation_latch,
    "equal_sources": _equal_sources,
    "water_once": _water_once,
    "misset_seed_is_misset": _misset_seed_is_misset,
    "twotheta_axis_is_twotheta": _twotheta_axis_is_twotheta,
    "oversample_polar_defeats_nopolar": _nopolar,
    "distance_before_twotheta": _distance_before_twotheta,
    "close_distance_of_header_wins": _close_distance_of_header,
    "hkl_stops_at_text": lambda scene: comments_cost_reflections(scene.request, scene.structure),
    "layers_overshoot": _layers_overshoot,
    "product_widths": _product_widths,
    "raw_twotheta_axis": _raw_twotheta_axis,
    "oversample_thick_needs_thickness": _oversample_thick_needs_thickness,
    "polarized_along_beam": _polarized_along_beam,
    "quotients_rounded_up": _quotients_rounded_up,
    "lopsided_divergence": _lopsided_divergence,
    "curved_by_lab_axes": lambda scene: scene.request.curved,
    "curved_sensor_is_flat": lambda scene: scene.request.curved and _absorbs(scene),
    "normal_stays": _normal_stays,
    "negative_photons": _is_blind,
    "front_solid_angle": _front_solid_angle,
    "powder_of_half_a_sphere": _powder,
}
