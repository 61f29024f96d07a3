"""Flags that do nothing in this run, or not what they seem to: one line each (reference-behaviour 11, R rows)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.flags import FLAGS
from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.config import DetectorConvention
from nanobrag_torch.sampling import RANGE_OF_STEPS_RAD
from nanobrag_torch.units import ANGSTROM, EV_ANGSTROM

XRAYS_A = (1e-3, 1e2)
"""Wavelengths (Angstrom) that nobody will ask about."""
ORTHOGONAL = 1e-3
"""Cosine below which two detector axes count as orthogonal."""


def ineffective(prepared: Prepared) -> list[str]:
    """All warnings about flags that were given without effect."""
    request = prepared.request
    return [
        *_inert(request),
        *_size(request),
        *_convention(request),
        *_discarded(request),
        *_wavelength(prepared),
        *_centre(request),
        *_axes(prepared),
        *_header(request),
        *_sensor(request),
        *_steps(prepared),
    ]


def _inert(request: Request) -> Iterator[str]:
    for flag in FLAGS:
        if flag.inert and flag.names[0] in request.fired:
            yield f"{flag.names[0]} has no effect: {flag.inert}"


def _size(request: Request) -> Iterator[str]:
    """A crystal that nobody measured is one cell, whose spots are as wide as the space between them."""
    if not {"-N", "-Na", "-Nb", "-Nc"} & set(request.fired) and not any(settings.sample_sizes(request)):
        yield "without -N the crystal is one unit cell along each axis, as in the C program"


def _convention(request: Request) -> Iterator[str]:
    convention, forced = settings.convention_of(request), settings.pivot_of(request)
    if request.pivot_on_line and convention is not DetectorConvention.CUSTOM:
        yield f"-pivot has no effect: the {convention.name} convention pivots about the {forced.value}"
    if convention is not DetectorConvention.CUSTOM and request.fired:
        vectors = [f.names[0] for f in FLAGS if ("convention", "custom") in f.puts and f.names[0] in request.fired]
        if vectors:
            yield f"{', '.join(vectors)} has no effect: a later flag selects the {convention.name} convention"


def _discarded(request: Request) -> Iterator[str]:
    """A convention that a vector after it discards, and the vectors of another program with it."""
    if settings.convention_of(request) is not DetectorConvention.CUSTOM:
        return
    by_name = {flag.names[0]: dict(flag.puts).get("convention") for flag in FLAGS}
    chosen = [(name, by_name[name]) for name in request.fired if by_name.get(name) is not None]
    earlier = [name for name, convention in chosen if convention != DetectorConvention.CUSTOM.value]
    if earlier:
        vector = chosen[-1][0]
        yield (
            f"{vector} selects the CUSTOM convention and discards {earlier[-1]}: vectors that are not given are those "
            "of CUSTOM, which are MOSFLM's"
        )


def _wavelength(prepared: Prepared) -> Iterator[str]:
    """Wavelengths in another unit than the flag's."""
    low, high = XRAYS_A
    wavelength, sources = prepared.request.lambda_A, prepared.sources
    if not low <= wavelength <= high:
        yield f"-lambda is {wavelength:g} Angstrom, {EV_ANGSTROM / wavelength:g} eV: is it in another unit?"
    if sources is not None and not ((sources[:, 4] >= low * ANGSTROM) & (sources[:, 4] <= high * ANGSTROM)).all():
        yield "-sourcefile: the fifth column is in metres; some wavelengths are no X-rays"


def _centre(request: Request) -> Iterator[str]:
    """D12: centre flags that a convention does not look at."""
    convention = settings.convention_of(request)
    if convention in settings.SAMPLE_PIVOTS:
        useless = ("-Xbeam", "-Ybeam", "-Xclose", "-Yclose")
        instead = "-ORGX and -ORGY place the detector, these change the header alone"
    elif convention is DetectorConvention.CUSTOM:
        return
    else:
        useless, instead = ("-Xclose", "-Yclose", "-ORGX", "-ORGY"), "-Xbeam and -Ybeam place the detector"
    given = [name for name in useless if name in request.fired]
    if given:
        yield f"{', '.join(given)} has no effect on the image: with {convention.name} {instead}"


def _axes(prepared: Prepared) -> Iterator[str]:
    request = prepared.request
    if request.pix0_given:
        yield "-pix0_vector only selects the CUSTOM convention: distance, beam centre and pivot place the detector"
    if settings.convention_of(request) is not DetectorConvention.CUSTOM:
        return
    fast = request.fdet_vector or settings.CUSTOM.fast
    slow = request.sdet_vector or settings.CUSTOM.slow
    normal = request.odet_vector or settings.CUSTOM.normal
    replaced = request.odet_vector is None and not prepared.compat.normal_stays
    regenerated = replaced or (request.odet_vector is not None and math.hypot(*normal) != 1.0)
    pairs = [(fast, slow)] if regenerated else [(fast, slow), (fast, normal), (slow, normal)]
    if any(abs(_cosine(a, b)) > ORTHOGONAL for a, b in pairs):
        yield "-fdet_vector, -sdet_vector and -odet_vector are not orthogonal, and are used as they are"


def _cosine(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def _header(request: Request) -> Iterator[str]:
    if request.header_twotheta_deg != 0 and request.twotheta_deg == 0:
        yield f"TWOTHETA={request.header_twotheta_deg:g} of the header has no effect: give -twotheta"


def _sensor(request: Request) -> Iterator[str]:
    """D29."""
    if request.thick_um > 0 and request.abs_um is None:
        yield "-detector_thick without -detector_abs: the attenuation depth is taken to be the thickness"
    if request.thick_um > 0 and request.abs_um == math.inf:
        yield "-detector_thick after -detector_abs inf: the sensor captures nothing, the image is zero"


def _steps(prepared: Prepared) -> Iterator[str]:
    """D30, and counts that are discarded."""
    request, scans = prepared.request, prepared.scans
    for name, scan in (("hdiv", scans.hdiv), ("vdiv", scans.vdiv)):
        if getattr(request, f"{name}range_mrad") is None and scan.range == RANGE_OF_STEPS_RAD:
            yield f"-{name}steps without -{name}range: the range is taken to be {1000 * scan.range:g} mrad"
    if request.phisteps is not None and request.osc_deg is None:
        if scans.phi.count != max(request.phisteps, 1):
            yield f"-phisteps {request.phisteps} has no effect: -phistep without -osc makes {scans.phi.count} steps"
        else:
            yield f"-phisteps without -osc: the range is taken to be {scans.phi.range:g} deg"
    if request.mosaic_domains is not None and scans.mosaic_domains != request.mosaic_domains:
        yield "-mosaic_domains has no effect without -mosaic_spread"
    if request.dispsteps is not None and request.dispsteps > 1 and scans.dispersion.count == 1:
        yield "-dispsteps has no effect without -dispersion"
