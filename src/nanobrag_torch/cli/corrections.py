"""Which corrections of the C program's defects changed a run's image: one predicate a switch of Compat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from nanobrag_torch.cli.parsing import apply_words
from nanobrag_torch.cli.request import Request, same_request
from nanobrag_torch.cli.structure import StructureFactors, comments_cost_reflections
from nanobrag_torch.compat import ROWS, Compat
from nanobrag_torch.config import DetectorConvention
from nanobrag_torch.units import ANGSTROM, R_E_SQUARED

if TYPE_CHECKING:
    from torch import Tensor

    from nanobrag_torch.cli.prepare import Prepared
    from nanobrag_torch.simulator import Simulator

SAME = 1e-12
"""Relative difference below which two lattices count as one."""
GRID = 192
"""Points along each detector axis where the reach of the interpolation is looked at."""
EVALUATIONS = 4_000_000
"""Steps that are looked at together, and about as many as are looked at in all."""
HEADER_ALONE = ("distance_before_twotheta",)


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
    off = [f.name for f in fields(Compat) if not getattr(scene.simulator.compat, f.name)]
    return [name for name in off if name in PREDICATES and PREDICATES[name](scene)]


def correction_lines(scene: Scene) -> Iterator[str]:
    """One line a correction that changed this run's image."""
    rows = {row.switch: row for row in ROWS}
    for name in changed(scene):
        what = "header" if name in HEADER_ALONE else "image"
        row = rows[name]
        yield f"correction {row.id} changed the {what}: {row.here} (the C program: {row.c_program})"


def _skewed_cell(scene: Scene) -> bool:
    crystal = scene.simulator.crystal
    right, skewed = crystal.cell(Compat()), crystal.cell(Compat(skewed_cell=True))
    return any(_differ(a, b) for a, b in zip(right, skewed, strict=True))


def _differ(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs().max() > SAME * b.abs().max()).item())


def _stale_phi(scene: Scene) -> bool:
    phi = scene.simulator.crystal.phi_radians()
    return bool((phi == 0).any().item()) and bool((phi != 0).any().item())


def _running_factors(scene: Scene) -> bool:
    detector = scene.simulator.detector.config
    per_step = detector.oversample_thick or detector.oversample_polar or detector.oversample_omega
    return per_step and (_evaluations(scene) > 1 or scene.request.water_um != 0)


def _evaluations(scene: Scene) -> int:
    return scene.simulator.steps * scene.simulator.geometry.layers


def _last_layer_capture(scene: Scene) -> bool:
    return scene.simulator.geometry.layers > 1 and not scene.simulator.detector.config.oversample_thick


def _layers_overshoot(scene: Scene) -> bool:
    detector = scene.simulator.detector.config
    return scene.simulator.geometry.layers > 1 and detector.detector_thicksteps is not None


def _equal_sources(scene: Scene) -> bool:
    return len(set(scene.source_intensities)) > 1


def _water_once(scene: Scene) -> bool:
    beam, detector = scene.simulator.beam.config, scene.simulator.detector.config
    per_step = detector.oversample_thick or detector.oversample_polar or detector.oversample_omega
    fluence = float(scene.simulator.beam.fluence()) * R_E_SQUARED
    unlike = abs(fluence - 1) > SAME or _evaluations(scene) > 1 or beam.dmin > 0 or per_step
    return scene.request.water_um != 0 and unlike


def _parses_otherwise(switch: str) -> Callable[[Scene], bool]:
    def predicate(scene: Scene) -> bool:
        other = replace(scene.headers, fired=[], warnings=[], stolfiles=[])
        apply_words(other, scene.words, Compat(**{switch: True}), as_c_reads=True)
        given = scene.request.close_distance_mm  # may have been dropped for -distance since
        return not same_request(replace(other, close_distance_mm=given), scene.request)

    return predicate


def _nopolar(scene: Scene) -> bool:
    return scene.request.nopolar and scene.request.oversample_polar


def _distance_before_twotheta(scene: Scene) -> bool:
    return scene.request.twotheta_deg != 0


def _close_distance_of_header(scene: Scene) -> bool:
    given = scene.headers.close_distance_mm
    return given is not None and scene.request.distance_on_line and not scene.request.close_distance_on_line


def _raw_twotheta_axis(scene: Scene) -> bool:
    axis = scene.request.twotheta_axis
    custom = scene.request.convention == DetectorConvention.CUSTOM.value
    return custom and axis is not None and scene.request.twotheta_deg != 0 and math.hypot(*axis) != 1.0


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
    finest = simulator.beam.config.dmin * ANGSTROM
    return vectors if finest <= 0 else vectors[torch.linalg.vector_norm(vectors, dim=-1) * finest <= 1]


def _directions(simulator: Simulator, side: int) -> Tensor:
    """Unit vectors [n, 3] from the sample to a grid of positions over the region of interest, its edges included."""
    import torch

    config, geometry = simulator.detector.config, simulator.geometry
    origin, fast, slow = geometry.panels[0, :3].cpu()
    spans = (
        (config.roi_xmin or 0, config.fpixels if config.roi_xmax is None else config.roi_xmax + 1),
        (config.roi_ymin or 0, config.spixels if config.roi_ymax is None else config.roi_ymax + 1),
    )
    f, s = (torch.linspace(a, b, side, dtype=torch.float64) for a, b in spans)
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
    "misset_seed_is_misset": _parses_otherwise("misset_seed_is_misset"),
    "twotheta_axis_is_twotheta": _parses_otherwise("twotheta_axis_is_twotheta"),
    "oversample_polar_defeats_nopolar": _nopolar,
    "distance_before_twotheta": _distance_before_twotheta,
    "close_distance_of_header_wins": _close_distance_of_header,
    "hkl_stops_at_text": lambda scene: comments_cost_reflections(scene.request, scene.structure),
    "layers_overshoot": _layers_overshoot,
    "raw_twotheta_axis": _raw_twotheta_axis,
}
