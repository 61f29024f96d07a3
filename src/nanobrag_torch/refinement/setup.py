"""From what files say to a model of one exposure and its parameters, with priors for all of them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.crystallography.symmetry import amplitude_table, expand_to_p1
from nanobrag_torch.errors import InputError
from nanobrag_torch.experiment import Experiment
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.physics.lattice_factor import Profile
from nanobrag_torch.records.experiment import CrystalData, ExperimentData, rotation_matrix
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.groups import MOVES, PanelGroup, panel_groups
from nanobrag_torch.refinement.model import Lattice, Sampling, ShotModel
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet, Transform
from nanobrag_torch.refinement.spectra import rebinned
from nanobrag_torch.refinement.symmetry import cell_parametrisation, nearest_turn
from nanobrag_torch.units import ANGSTROM, R_E_SQUARED

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
INSIDE = 0.5 - 1e-6  # of a frame, on either side of its middle
DEFAULT_CELLS = 30.0
CHANNELS = 20  # of a spectrum, unless told otherwise
DEFAULT_SPREAD_DEG = 0.05
LN = {"N": np.log(1.5), "spread": np.log(2.0), "scale": np.log(20.0)}
"""Standard deviations of the logarithms."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user wants of a refinement; every field has the default of `nb refine`.

    free, fix: names of parameters or of groups of them (FAMILIES). priors: name -> standard deviation, raw. start: name
    -> physical value. N: how many free numbers of cells (1, 2 = as the symmetry ties them, 3 or 6); spread: 1, 3 or 6.
    """

    free: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    priors: Mapping[str, float] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    N: int = 2
    spread: int = 1
    groups: str | Mapping[int, int] = "whole"
    spectrum_channels: int | None = None
    bandwidth_eV: float | None = None
    mosaic: bool | None = None  # None: as the images say
    psf: float | None = None  # full width at half maximum of the detector's spread, pixels
    psf_shape: str = "gauss"
    threads: int = 1


FAMILIES: dict[str, tuple[str, ...]] = {
    "rotation": ("rot_x", "rot_y", "rot_z"),
    "cell": ("a", "b", "c", "alpha", "beta", "gamma"),
    "N": ("N_a", "N_b", "N_c", "N_ab", "N_bc", "N_ac"),
    "spread": ("spread", "spread_a", "spread_b", "spread_c", "spread_ab", "spread_bc", "spread_ac"),
    "scale": ("scale",),
    "B": ("B",),
    "distance": ("distance",),
    "shift": ("shift_fast", "shift_slow", "shift_normal"),
    "tilt": ("tilt_fast", "tilt_slow", "tilt_normal"),
    "beam": ("beam_x", "beam_y"),
    "wavelength": ("wavelength",),
    "spectrum": ("spectrum_1", "spectrum_2", "spectrum_3"),
    "spindle": ("spindle_1", "spindle_2"),
    "phi": ("phi",),
    "psf": ("psf_width",),
    "gain": ("gain",),
}
"""Names that --free, --fix and --prior take, and the parameters that each stands for."""
ALIASES = {
    "rot": "rotation", "RotXYZ": "rotation", "ucell": "cell", "Nabc": "N", "eta": "spread", "eta_abc": "spread",
    "G": "scale", "detz_shift": "distance", "spec": "spectrum", "gonio_angle": "phi", "Ncells": "N",
}  # fmt: skip
"""Names of other programs for the same."""
ANGLES = ("alpha", "beta", "gamma")
BY_DEFAULT = ("rotation", "cell", "N", "spread", "scale", "distance")


def family(word: str) -> tuple[str, ...]:
    """The stems of parameters that a word stands for. Raises InputError naming the families."""
    word = ALIASES.get(word, word)
    if word in FAMILIES:
        return FAMILIES[word]
    if any(word.partition("@")[0].rpartition(":")[2] in stems for stems in FAMILIES.values()):
        return (word,)
    raise InputError("parameter", word, ", ".join(FAMILIES))


def shot_model(
    experiments: Sequence[ExperimentData],
    structure_factors: Sequence[Reflections],
    frame: int,
    choices: Choices,
) -> ShotModel:
    """The model of one exposure: an experiment for each crystal, all with the same beam and detector."""
    first = experiments[0]
    first.need("beam", "detector", "crystal", where="a refinement")
    assert first.detector is not None
    base = _base_scene(first, frame, choices)
    spindle, rotation, middle = exposure(first, frame)
    lattices = []
    for number, (data, factors) in enumerate(zip(experiments, structure_factors, strict=True)):
        suffix = "" if number == 0 else f"@{number + 1}"
        lattices.append(_lattice(data, factors, frame, middle, suffix))
    options = Options(image_shape=_image_shape(first), profile=Profile.GAUSS, threads=choices.threads)
    groups = tuple(panel_groups(first.detector, choices.groups))
    layers = Detector(Experiment(data=first).detector_config()).layers
    return ShotModel(
        lattices=tuple(lattices),
        base=base,
        options=replace(options, layers=layers),
        spindle=spindle,
        rotation=rotation,
        groups=groups,
        sampling=Sampling(),
    )


def _image_shape(data: ExperimentData) -> tuple[int, int]:
    assert data.detector is not None
    slow, fast = data.detector.shape[-2:]
    return slow, fast


def _base_scene(data: ExperimentData, frame: int, choices: Choices) -> Scene:
    """Detector and beam; the tensors of the crystals are put in later."""
    experiment = Experiment(data=data)
    detector = Detector(experiment.detector_config())
    beam = Beam(experiment.beam_config(frame))
    geometry = detector.geometry()
    sources = beam.sources(geometry.beam, geometry.polar)
    straight = not bool((sources.incident - sources.incident[0]).abs().max() > 1e-12)
    channels = choices.spectrum_channels or (CHANNELS if straight else None)
    incident, wavelengths, weights = rebinned(
        sources.incident, sources.wavelengths, sources.weights, channels, choices.bandwidth_eV
    )
    one = torch.ones((), dtype=torch.float64)
    return Scene(
        **geometry.tensors(),
        incident=incident,
        wavelengths=wavelengths,
        source_weights=weights,
        polarization=beam.polarization(incident, geometry.polar, unpolarized=False),
        lattice=torch.eye(3, dtype=torch.float64)[None],
        lattice_weights=one[None],
        shape=torch.eye(3, dtype=torch.float64),
        structure_factors=torch.zeros((0, 0, 0)),
        default_F=0 * one,
        offset=0 * one,
    )


def spectrum_length(data: ExperimentData) -> int:
    """Channels of the beam's spectrum that have any weight; one without."""
    weights = None if data.beam is None else data.beam.spectrum_weights
    return 1 if weights is None else int((weights > 0).sum())


def exposure(data: ExperimentData, frame: int) -> tuple[Tensor, float, float]:
    """Spindle in the lab, rotation of the exposure (radians), and the goniometer's angle at its middle (degrees)."""
    goniometer, scan = data.goniometer, data.scan
    axis = np.array([1.0, 0.0, 0.0])
    if goniometer is not None:
        points = goniometer.setting_at_scan_points
        setting = goniometer.setting_rotation if points is None else points[min(frame, len(points) - 1)]
        axis = setting @ goniometer.rotation_axis
    if scan is None or goniometer is None:
        return torch.from_numpy(axis), 0.0, 0.0
    if not 0 <= frame < scan.frames:
        raise InputError("frame", frame, f"0 to {scan.frames - 1}")
    width = scan.oscillation_width_deg
    return torch.from_numpy(axis), float(np.radians(width)), scan.start_deg(frame) + width / 2


def array_index(data: ExperimentData, frame: int) -> int:
    """What reflection tables call a frame, counted from 0 in the scan: image number less one; a still is 0."""
    return frame if data.scan is None else frame + data.scan.image_range[0] - 1


def along_scan(data: ExperimentData, frame: int, angle: Tensor) -> tuple[FloatArray, FloatArray]:
    """Places in the array of images, and the goniometer's angles (radians), of angles [n] about a frame's middle.

    As DIALS has them in the last column of positions; a place never is that of the next frame.
    """
    _, rotation, middle = exposure(data, frame)
    share = (angle / rotation).clamp(-INSIDE, INSIDE) if rotation else torch.zeros_like(angle)
    return (array_index(data, frame) + 0.5 + share).numpy(), np.radians(middle) + angle.numpy()


def held_rows(data: ExperimentData, frame: int, angle_deg: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """a, b, c (3, 3) in the lab as the goniometer holds them at an angle."""
    crystal, goniometer = data.crystal, data.goniometer
    assert crystal is not None
    rows = _rows_of_frame(crystal, frame)
    return np.asarray(rows @ held(data, frame, angle_deg).T, np.float64) if goniometer is not None else rows


def held(data: ExperimentData, frame: int, angle_deg: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The rotation (3, 3) that a goniometer gives a crystal at an angle of a frame."""
    goniometer = data.goniometer
    if goniometer is None:
        return np.eye(3)
    points = goniometer.setting_at_scan_points
    setting = goniometer.setting_rotation if points is None else points[min(frame, len(points) - 1)]
    turn = rotation_matrix(goniometer.rotation_axis, angle_deg)
    return np.asarray(setting @ turn @ goniometer.fixed_rotation, np.float64)


def _rows_of_frame(crystal: CrystalData, frame: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    points = crystal.A_at_scan_points
    if points is None:
        return crystal.real_space
    first = min(frame, len(points) - 1)
    return np.asarray(np.linalg.inv((points[first] + points[min(first + 1, len(points) - 1)]) / 2), np.float64)


def _lattice(data: ExperimentData, factors: Reflections, frame: int, angle: float, suffix: str) -> Lattice:
    if data.crystal is None:
        raise InputError("crystal", None, "an experiment with a crystal")
    rows = held_rows(data, frame, angle)
    cell = CrystalData(real_space=rows).cell
    tied = cell_parametrisation(space_group_of(data, factors))
    values = {f"{k}{suffix}": torch.tensor(v, dtype=torch.float64) for k, v in tied.start(cell).items()}
    table, first = _table(factors)
    return Lattice(nearest_turn(rows, tied.cell(values, suffix)), tied, table, first, CrystalShape.GAUSS_HKL, suffix)


def _table(factors: Reflections) -> tuple[Tensor, tuple[int, int, int]]:
    """The table in P1 and its first indices; one for all shots that have the same list."""
    known = _TABLES.get(id(factors))
    if known is None:
        expansion = expand_to_p1(factors)
        first = (expansion.metadata["h_min"], expansion.metadata["k_min"], expansion.metadata["l_min"])
        known = amplitude_table(expansion, torch.from_numpy(factors.amplitude)).float(), first
        _TABLES[id(factors)] = known
        weakref.finalize(factors, _TABLES.pop, id(factors), None)
    return known


_TABLES: dict[int, tuple[Tensor, tuple[int, int, int]]] = {}


def space_group_of(data: ExperimentData, factors: Reflections) -> str | None:
    """The space group of the crystal by the experiment, else by the structure factors."""
    hall = None if data.crystal is None else data.crystal.space_group_hall
    if hall is None:
        return factors.space_group
    import gemmi

    for group in gemmi.spacegroup_table():
        if group.hall.replace(" ", "") == hall.replace(" ", ""):
            return str(group.xhm())
    number = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    return factors.space_group if number is None else str(number.xhm())


def start_parameters(model: ShotModel, experiments: Sequence[ExperimentData], choices: Choices) -> ParameterSet:
    """Every parameter of a model, with its prior, free or fixed as chosen; where nothing is said as BY_DEFAULT."""
    found: list[Parameter] = []
    for lattice, data in zip(model.lattices, experiments, strict=True):
        found += _of_crystal(lattice, data, choices)
    found += _of_detector(model.groups) + _of_beam(model)
    if choices.psf is not None:
        if not 0 < choices.psf < 5:
            raise InputError("psf", choices.psf, "a width in pixels from above 0 to 5")
        width = {"value": choices.psf, "unit": "pixels", "transform": Transform.POSITIVE}
        found.append(Parameter(name="psf_width", prior=(choices.psf, float(LN["N"])), **width))  # type: ignore[arg-type]
    return _chosen(found, choices)


def _of_crystal(lattice: Lattice, data: ExperimentData, choices: Choices) -> list[Parameter]:
    end = lattice.suffix
    assert data.crystal is not None
    cell = data.crystal.cell
    starts = lattice.cell.start(cell)
    found = [Parameter(name=f"{axis}{end}", value=0.0, unit="deg", prior=(0.0, 0.1)) for axis in FAMILIES["rotation"]]
    for name, value in starts.items():
        edge = name in "abc"
        prior = (value, 0.003 if edge else 0.2)
        transform = Transform.POSITIVE if edge else Transform.IDENTITY
        found.append(
            Parameter(name=name + end, value=value, unit="A" if edge else "deg", prior=prior, transform=transform)
        )
    return (
        found
        + _of_size(lattice, data.crystal, choices)
        + _of_spread(data.crystal, choices, end)
        + [
            Parameter(name=f"scale{end}", value=1.0, transform=Transform.POSITIVE, scale=LN["scale"]),
            Parameter(name=f"B{end}", value=0.0, unit="A^2", prior=(0.0, 5.0)),
        ]
    )


def _of_size(lattice: Lattice, crystal: CrystalData, choices: Choices) -> list[Parameter]:
    """Numbers of cells: as many as wanted, the others tied."""
    end = lattice.suffix
    cell = crystal.cell
    names = FAMILIES["N"][:3]
    size = crystal.domain_size_A
    values = [DEFAULT_CELLS if not size else max(size / edge, 2.0) for edge in cell[:3]]
    if choices.N == 1:
        owners = ["N_a"] * 3
    elif choices.N == 2:
        owners = [names["abc".index(owner or "a")] for owner in lattice.cell.owners[:3]]
    else:
        owners = list(names)
    found = [
        _positive(name + end, value, "cells", LN["N"], tied_to=None if owner == name else owner + end)
        for name, value, owner in zip(names, values, owners, strict=True)
    ]
    if choices.N == 6:
        found += [Parameter(name=n + end, value=0.0, unit="cells", prior=(0.0, 10.0)) for n in FAMILIES["N"][3:]]
    return found


def _positive(name: str, value: float, unit: str, width: float, tied_to: str | None = None) -> Parameter:
    """A parameter that stays above zero; width: how far off its logarithm may be."""
    prior = value, float(width)
    return Parameter(name=name, value=value, unit=unit, transform=Transform.POSITIVE, prior=prior, tied_to=tied_to)


def _of_spread(crystal: CrystalData, choices: Choices, end: str) -> list[Parameter]:
    if choices.mosaic is False:
        return []
    value = crystal.half_mosaicity_deg or crystal.mosaicity_deg or DEFAULT_SPREAD_DEG
    names = {1: ("spread",), 3: FAMILIES["spread"][1:4], 6: FAMILIES["spread"][1:4]}[choices.spread]
    found = [_positive(name + end, value, "deg", LN["spread"]) for name in names]
    if choices.spread == 6:
        more = FAMILIES["spread"][4:]
        found += [Parameter(name=n + end, value=0.0, unit="deg", prior=(0.0, value)) for n in more]
    return found


def _of_detector(groups: Sequence[PanelGroup]) -> list[Parameter]:
    found = []
    for group in groups:
        for move in MOVES:
            name = group.parameter(move)
            value = group.distance_mm if name == "distance" else 0.0
            unit, sigma = ("mm", 0.2) if move.startswith("shift") else ("deg", 0.1)
            found.append(Parameter(name=name, value=value, unit=unit, prior=(value, sigma)))
    return found


def _of_beam(model: ShotModel) -> list[Parameter]:
    wavelength = float(model.mean_wavelength / ANGSTROM)
    found = [Parameter(name=name, value=0.0, unit="mrad", prior=(0.0, 0.2)) for name in FAMILIES["beam"]]
    found.append(
        Parameter(name="wavelength", value=wavelength, unit="A", transform=Transform.POSITIVE, prior=(wavelength, 1e-3))
    )
    if len(model.base.wavelengths) > 3:
        found += [Parameter(name=name, value=0.0, prior=(0.0, 0.5)) for name in FAMILIES["spectrum"]]
    if model.rotation:
        found += [Parameter(name=name, value=0.0, unit="mrad", prior=(0.0, 0.5)) for name in FAMILIES["spindle"]]
        found.append(Parameter(name="phi", value=0.0, unit="deg", prior=(0.0, 0.02)))
    return found


def _chosen(found: list[Parameter], choices: Choices) -> ParameterSet:
    """Free and fixed as wanted, with the priors and starts that were given; what is fixed where it is left out."""
    free = {stem for word in BY_DEFAULT for stem in family(word)}
    wanted = {stem for word in choices.free for stem in family(word)} - set(FAMILIES["gain"])
    fixed = {stem for word in choices.fix for stem in family(word)}
    kept = []
    for p in found:
        stem = p.name.partition("@")[0].rpartition(":")[2]
        grouped = ":" in p.name
        by_user = p.name in wanted or stem in wanted
        is_free = (stem in free and not grouped or by_user) and stem not in fixed and p.name not in fixed
        kept.append(_as_told(replace(p, free=is_free), stem, choices))
    unused = {word for word in choices.start if not any(_means(word, p) for p in kept)}
    unused |= {word for word in choices.priors if not family(word)}
    if unused:
        raise InputError("start, prior", ", ".join(sorted(unused)), ", ".join(p.name for p in kept))
    _require_there(kept, wanted)
    if "gain" in choices.free and "scale" in fixed:
        raise InputError(
            "free", "gain", "a free scale beside it: means tell nothing of a gain but the scale that goes with it"
        )
    needed = {"psf_width", *FAMILIES["rotation"], *FAMILIES["cell"], *FAMILIES["N"], *FAMILIES["spread"], "scale"}
    return ParameterSet([p for p in kept if p.free or p.name.partition("@")[0] in needed or _is_told(p, choices)])


def _require_there(parameters: Sequence[Parameter], wanted: set[str]) -> None:
    """Raise InputError for a family to be freed that this shot has none of."""
    stems = {p.name.partition("@")[0].rpartition(":")[2] for p in parameters} | {p.name for p in parameters}
    for family_name, members in FAMILIES.items():
        if set(members) <= wanted and not stems & set(members):
            raise InputError("free", family_name, WHY_NOT.get(family_name, "a parameter that this shot has"))


WHY_NOT = {
    "psf": "another, or the width of the spread (psf) as well: without it the model has none",
    "spectrum": "another: the beam has a single wavelength",
    "spindle": "another: a still has no rotation",
    "phi": "another: a still has no rotation",
}


def _means(word: str, p: Parameter) -> bool:
    stem = p.name.partition("@")[0].rpartition(":")[2]
    return word == p.name or stem in family(word) or p.name in family(word)


def _is_told(p: Parameter, choices: Choices) -> bool:
    return any(_means(word, p) for word in choices.start)


def _as_told(p: Parameter, stem: str, choices: Choices) -> Parameter:
    for word, value in choices.start.items():
        if _means(word, p):
            prior = None if p.prior is None else (value, p.prior[1])
            p = replace(p, value=value, prior=prior)
    for word, sigma in choices.priors.items():
        if _means(word, p):
            mean = p.value if p.prior is None else p.prior[0]
            p = replace(p, prior=(mean, sigma) if np.isfinite(sigma) else None)
    return p


def fluence_of(scale: float, cells: Tensor) -> float:
    """Photons per square metre that a scale means, for the matrix of numbers of cells [3, 3]."""
    return scale / R_E_SQUARED / float(torch.linalg.det(cells))
