"""The automatic choices of a run (reference-behaviour sections 3 and 5.1): Request -> configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanobrag_torch import sampling
from nanobrag_torch.cli.nanobragg.flags import FLAGS, flags_of_config
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention, DetectorPivot
from nanobrag_torch.errors import InputError
from nanobrag_torch.memory import require_memory
from nanobrag_torch.models.conventions import CONVENTIONS
from nanobrag_torch.sampling import Steps
from nanobrag_torch.units import DEFAULT_FLUENCE

MM_PER_M = 1000.0
MRAD_PER_RAD = 1000.0
ZERO_CAPTURE_UM = 1e300
"""An attenuation depth that makes a sensor of any thickness capture nothing, as mu = 0 does in the C program (D29)."""
MOST_PIXELS = 2**31 - 1
BYTES_A_PIXEL = 8
"""At least: the image, and one that is made of it."""
MOST_DISPERSION_PCT = 200.0
"""From here on the shortest wavelength is not above zero."""
CELL_EDGES = (1e-3, 1e9)
"""Angstrom; what is outside leaves the range of numbers on its way to a volume."""
DEFAULT_MOSAIC_SEED = 12345678
PARALLEL = 1e-9
"""Sine below which two axes count as parallel."""
CUSTOM = CONVENTIONS[DetectorConvention.CUSTOM]
SAMPLE_PIVOTS = (DetectorConvention.XDS, DetectorConvention.DIALS)


@dataclass(frozen=True)
class Plane:
    """The detector's pixels, its sizes and the beam centre that headers report; lengths in metres."""

    fpixels: int
    spixels: int
    pixel: float
    fsize: float
    ssize: float
    Xbeam: float
    Ybeam: float
    Xclose: float
    Yclose: float
    Fclose: float
    Sclose: float


@dataclass(frozen=True)
class Scans:
    """Every scan of a run: phi and mosaic spread in degrees, divergence in radians, dispersion as a fraction."""

    phi: Steps
    hdiv: Steps
    vdiv: Steps
    dispersion: Steps
    mosaic_domains: int
    mosaic_deg: float


def check_request(request: Request) -> None:
    """Refuse what no automatic choice can repair. Raises InputError naming the flag."""
    for name, value in vars(request).items():
        numbers = value if isinstance(value, tuple) else (value,) if isinstance(value, float) else ()
        if name != "abs_um" and not all(math.isfinite(x) for x in numbers if isinstance(x, float)):
            raise InputError(_flag_that_sets(name), value, "finite numbers")
    _above_zero(request, "pixel_mm", "lambda_A", "detsize_f_mm", "detsize_s_mm")
    for name, known in _CHOICES.items():
        if (value := getattr(request, name)) not in known:
            raise InputError(f"-{name}", value, ", ".join(known))
    if request.threads is not None and request.threads < 1:
        raise InputError("-threads", request.threads, "a whole number from 1 up")
    if request.tolerance < 0:
        raise InputError("-tolerance", request.tolerance, "photons a pixel, from 0 up")
    if request.distance_mm == 0 and request.close_distance_mm is None:
        raise InputError("-distance", 0.0, "a number other than 0")
    if request.close_distance_mm == 0:
        raise InputError("-close_distance", 0.0, "a number other than 0")
    if request.dispersion_pct >= MOST_DISPERSION_PCT:
        raise InputError("-dispersion", request.dispersion_pct, f"a spread below {MOST_DISPERSION_PCT:g} % of -lambda")
    if request.shape == "round" and request.fudge < 0:
        raise InputError("-fudge", request.fudge, "a number from 0 up with -round_xtal")


_CHOICES = {
    "dtype": ("float32", "float64"),
    "kernel": ("auto", "reference", "fused"),
}


def _flag_that_sets(field: str) -> str:
    return next((flag.names[0] for flag in FLAGS if field in flag.sets), f"-{field.removesuffix('_deg')}")


def _above_zero(request: Request, *names: str) -> None:
    for name in names:
        if not getattr(request, name) > 0:
            raise InputError(_flag_that_sets(name), getattr(request, name), "a number above 0")


def in_flags(error: InputError) -> InputError:
    """An error about a configuration field, said in terms of the flags that end in it."""
    names = [part.strip() for part in error.name.split(",")]
    flags = [next((flag.names[0] for flag in flags_of_config(name)), name) for name in names]
    return InputError(", ".join(flags), error.value, error.accepted)


def convention_of(request: Request) -> DetectorConvention:
    """The convention of the last convention-type flag."""
    return DetectorConvention(request.convention)


def pivot_of(request: Request) -> DetectorPivot:
    """The pivot that the convention forces; CUSTOM takes what the flags left."""
    convention = convention_of(request)
    if convention is DetectorConvention.CUSTOM:
        return DetectorPivot(request.pivot)
    return CONVENTIONS[convention].pivot


def beam_direction(request: Request) -> tuple[float, float, float]:
    """Unit vector along the beam."""
    convention = convention_of(request)
    custom = convention is DetectorConvention.CUSTOM and request.beam_vector is not None
    vector = request.beam_vector if custom and request.beam_vector else CONVENTIONS[convention].beam
    length = math.hypot(*vector) or 1.0
    return (vector[0] / length, vector[1] / length, vector[2] / length)


def plane_of(request: Request) -> Plane:
    """Sizes (3.1) and the centre in the convention's own terms (5.1)."""
    pixel = request.pixel_mm / MM_PER_M
    fpixels, fsize = sampling.detector_axis(request.detpixels_f, request.detsize_f_mm / MM_PER_M, pixel)
    spixels, ssize = sampling.detector_axis(request.detpixels_s, request.detsize_s_mm / MM_PER_M, pixel)
    for flag, count in (("-detpixels_f", fpixels), ("-detpixels_s", spixels)):
        if count < 1:
            raise InputError(flag, count, "at least one pixel")
    if fpixels * spixels > MOST_PIXELS:
        raise InputError("-detpixels", (fpixels, spixels), f"at most {MOST_PIXELS} pixels in all")
    require_memory("-detpixels", (fpixels, spixels), BYTES_A_PIXEL * fpixels * spixels)
    Fclose = fsize / 2 if request.ORGX is None else (request.ORGX - 0.5) * pixel
    Sclose = ssize / 2 if request.ORGY is None else (request.ORGY - 0.5) * pixel
    Xclose, Yclose = _metres(request.Xclose_mm, Fclose), _metres(request.Yclose_mm, Sclose)
    middle = {
        DetectorConvention.MOSFLM: ((ssize + pixel) / 2, (fsize + pixel) / 2),
        DetectorConvention.DENZO: ((ssize + pixel) / 2, (fsize + pixel) / 2),
        DetectorConvention.ADXV: ((fsize + pixel) / 2, (ssize - pixel) / 2),
    }.get(convention_of(request), (Xclose, Yclose))
    Xbeam, Ybeam = _metres(request.Xbeam_mm, middle[0]), _metres(request.Ybeam_mm, middle[1])
    return Plane(fpixels, spixels, pixel, fsize, ssize, Xbeam, Ybeam, Xclose, Yclose, Fclose, Sclose)


def _metres(millimetres: float | None, otherwise: float) -> float:
    return otherwise if millimetres is None else millimetres / MM_PER_M


def centre_of(request: Request, plane: Plane) -> tuple[float, float]:
    """beam_center_f and beam_center_s of DetectorConfig (mm)."""
    convention = convention_of(request)
    fast, slow = plane.Xbeam, plane.Ybeam
    if convention in (DetectorConvention.MOSFLM, DetectorConvention.DENZO):
        fast, slow = plane.Ybeam, plane.Xbeam
    elif convention is DetectorConvention.ADXV:
        # the C program counts from the far edge of a size that need not be whole pixels
        slow = plane.Ybeam - plane.ssize + plane.spixels * plane.pixel
    elif convention in SAMPLE_PIVOTS:
        fast, slow = plane.Fclose, plane.Sclose
    return fast * MM_PER_M, slow * MM_PER_M


def scans_of(request: Request, compat: Compat = Compat()) -> Scans:  # noqa: B008
    """Step counts, ranges and steps (3.2, 3.3, 3.5)."""
    up = compat.quotients_rounded_up
    domains, spread = sampling.mosaic_steps(request.mosaic_domains, request.mosaic_deg)
    phi = sampling.phi_steps(request.phisteps, request.osc_deg, request.phistep_deg, rounded_up=up)
    if phi.count < 1:
        raise InputError("-osc, -phistep", (request.osc_deg, request.phistep_deg), "a range that holds a phi step")
    return Scans(
        phi=phi,
        hdiv=_divergence(request.hdivsteps, request.hdivrange_mrad, request.hdivstep_mrad, up),
        vdiv=_divergence(request.vdivsteps, request.vdivrange_mrad, request.vdivstep_mrad, up),
        dispersion=sampling.grid_steps(request.dispsteps, request.dispersion_pct / 100.0, None),
        mosaic_domains=domains,
        mosaic_deg=spread,
    )


def _divergence(count: int | None, range_mrad: float | None, step_mrad: float | None, rounded_up: bool) -> Steps:
    range_ = None if range_mrad is None else range_mrad / MRAD_PER_RAD
    step = None if step_mrad is None else step_mrad / MRAD_PER_RAD
    return sampling.grid_steps(count, range_, step, rounded_up=rounded_up)


def cell_of(request: Request) -> dict[str, Any]:
    """The fields of CrystalConfig for the unit cell; none without -cell. Raises InputError for impossible cells."""
    if request.cell is None:
        return {}
    values = [*request.cell, *(0.0,) * (6 - len(request.cell))]
    if not values[0] > 0:
        raise InputError("-cell", values[0], "a cell edge above 0")
    lengths = [x if x > 0 else values[0] for x in values[:3]]
    angles = [x if x > 0 else 90.0 for x in values[3:]]
    if not all(CELL_EDGES[0] <= x <= CELL_EDGES[1] for x in lengths):
        raise InputError("-cell", tuple(lengths), "edges from {:g} to {:g} Angstrom".format(*CELL_EDGES))
    if not _closes(angles):
        raise InputError("-cell", tuple(angles), "angles of a cell: sum below 360, each below the sum of the other two")
    names = ("cell_a", "cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma")
    return dict(zip(names, [*lengths, *angles], strict=True))


def _closes(angles: Sequence[float]) -> bool:
    total = sum(angles)
    return total < 360 and all(2 * angle < total for angle in angles)


def sample_sizes(request: Request) -> tuple[float, float, float]:
    """Size of the crystal along a, b and c (m), 0 where -N counts; b and c are clipped to the beam."""
    x, y, z = (_metres(mm, 0.0) for mm in (request.sample_x_mm, request.sample_y_mm, request.sample_z_mm))
    beam = request.beamsize_mm / MM_PER_M
    return x, sampling.clipped(y, beam), sampling.clipped(z, beam)


def crystal_config(
    request: Request, scans: Scans, stars: Sequence[Sequence[float]] | None, misset: Sequence[float], reflections: int
) -> CrystalConfig:
    """Everything about the crystal but its structure factors. stars: a*, b*, c* of -mat (1/Angstrom)."""
    if stars is None and request.cell is None:
        raise InputError("-cell, -mat", "nothing", "a unit cell or an orientation matrix")
    matrix: dict[str, Any] = {}
    if stars is not None:
        matrix = {f"mosflm_{axis}_star": tuple(v) for axis, v in zip("abc", stars, strict=True)}
    cells = (request.Na, request.Nb, request.Nc)
    seed = DEFAULT_MOSAIC_SEED if request.mosaic_seed is None else request.mosaic_seed
    return CrystalConfig(
        **cell_of(request),
        **matrix,
        misset_deg=tuple(misset),
        phi_start_deg=request.phi_deg,
        osc_range_deg=scans.phi.range,
        phi_steps=scans.phi.count,
        phi_step_deg=scans.phi.step if scans.phi.step == request.phistep_deg else None,
        mosaic_spread_deg=scans.mosaic_deg,
        mosaic_domains=scans.mosaic_domains,
        mosaic_seed=-seed,  # the state of the generator is the negative seed
        N_cells=tuple(max(1, n) for n in cells),
        shape=request.shape,  # type: ignore[arg-type]
        fudge=request.fudge,
        default_F=request.default_F,
        interpolate=sampling.interpolates(cells, request.interpolate, reflections),
    )


_TURNS = ("rotx_deg", "roty_deg", "rotz_deg", "twotheta_deg")
_SAMPLED = ("oversample", "oversample_omega", "oversample_polar", "oversample_thick")
"""Fields that a request and a configuration of a detector both have."""


def detector_config(request: Request, plane: Plane, mask: Any) -> DetectorConfig:
    """Everything about the detector. mask: [slow, fast], zero = skip, or None."""
    fast, slow = centre_of(request, plane)
    return DetectorConfig(
        distance_mm=request.distance_mm,
        close_distance_mm=request.close_distance_mm,
        pixel_size_mm=request.pixel_mm,
        spixels=plane.spixels,
        fpixels=plane.fpixels,
        beam_center_f=fast,
        beam_center_s=slow,
        detector_convention=convention_of(request),
        detector_pivot=pivot_of(request),
        **{f"detector_{name}": getattr(request, name) for name in _TURNS},
        **_custom_vectors(request),
        **{name: getattr(request, name) for name in _SAMPLED},
        **_sensor(request),
        point_pixel=request.point_pixel,
        curved_detector=request.curved,
        **_region(request, plane),
        mask_array=mask,
    )


def _custom_vectors(request: Request) -> dict[str, Any]:
    if convention_of(request) is not DetectorConvention.CUSTOM:
        return {}
    vectors: dict[str, Any] = {"twotheta_axis": request.twotheta_axis}
    for name in ("fdet_vector", "sdet_vector", "odet_vector", "beam_vector", "polar_vector", "spindle_axis"):
        vectors[f"custom_{name}"] = getattr(request, name)
    for name, value in vectors.items():
        if value is not None and math.hypot(*value) == 0:
            raise InputError(f"-{name.removeprefix('custom_')}", value, "a vector that is not zero")
    _check_plane(request)
    _check_polarization(request)
    return vectors


def _check_plane(request: Request) -> None:
    fast, slow = request.fdet_vector or CUSTOM.fast, request.sdet_vector or CUSTOM.slow
    if _parallel(fast, slow):
        raise InputError("-fdet_vector, -sdet_vector", (fast, slow), "two directions that are not parallel")


def _check_polarization(request: Request) -> None:
    """A beam that is polarized along itself has no plane of polarization."""
    beam, polar = request.beam_vector or CUSTOM.beam, request.polar_vector or CUSTOM.polar
    if request.polar != 0 and not request.nopolar and _parallel(beam, polar):
        accepted = "two directions that are not parallel, with -polar"
        raise InputError("-beam_vector, -polar_vector", (beam, polar), accepted)


def _parallel(a: Sequence[float], b: Sequence[float]) -> bool:
    normal = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    return math.hypot(*normal) < PARALLEL * math.hypot(*a) * math.hypot(*b)


def _sensor(request: Request) -> dict[str, Any]:
    depth = request.abs_um
    if depth == math.inf and request.thick_um > 0:
        depth = ZERO_CAPTURE_UM
    counted = request.thicksteps is not None and request.thicksteps > 0
    return {
        "detector_abs_um": depth,
        "detector_thick_um": request.thick_um,
        "detector_thicksteps": request.thicksteps if counted else None,
    }


def _region(request: Request, plane: Plane) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for axis, count, names in (("x", plane.fpixels, "fast"), ("y", plane.spixels, "slow")):
        low, high = getattr(request, f"roi_{axis}min"), getattr(request, f"roi_{axis}max")
        first, last = sampling.roi(low, high, count)
        if first > last:
            raise InputError("-roi", (low, high), f"first and last {names} pixel, from 0 to {count - 1}")
        bounds |= {f"roi_{axis}min": first, f"roi_{axis}max": last}
    return bounds


def beam_config(request: Request, scans: Scans, sources: dict[str, Any]) -> BeamConfig:
    """Everything about the beam. sources: the table of -sourcefile as fields of BeamConfig, or empty."""
    return BeamConfig(
        wavelength_A=request.lambda_A,
        fluence=fluence_of(request),
        exposure=request.exposure_s,
        beamsize_mm=max(request.beamsize_mm, 0.0),
        polarization_factor=request.polar,
        nopolar=request.nopolar,
        dispersion_pct=scans.dispersion.range * 100.0,
        dispersion_steps=scans.dispersion.count,
        **_grid("hdiv", scans.hdiv),
        **_grid("vdiv", scans.vdiv),
        round_div=request.round_div,
        **sources,
        dmin=request.dmin_A,
        water_size_um=request.water_um,
    )


def fluence_of(request: Request) -> float:
    """Photons per m^2 (3.1). Raises InputError for a flux into no area."""
    if request.flux != 0 and request.exposure_s > 0 and request.beamsize_mm == 0:
        raise InputError("-beamsize", 0.0, "a number above 0 with -flux")
    if request.flux < 0:
        raise InputError("-flux", request.flux, "a number from 0 up")
    given = DEFAULT_FLUENCE if request.fluence is None else request.fluence
    return sampling.fluence(given, request.flux, request.exposure_s, request.beamsize_mm / MM_PER_M)


def _grid(name: str, steps: Steps) -> dict[str, Any]:
    return {
        f"{name}_range_mrad": steps.range * MRAD_PER_RAD,
        f"{name}_steps": steps.count,
        f"{name}_step_mrad": steps.step * MRAD_PER_RAD,
    }
