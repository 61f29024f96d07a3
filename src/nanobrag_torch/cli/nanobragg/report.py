"""What the C program prints, line by line in its order and formats (reference-behaviour 12.1): people scrape it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.outputs import region_of
from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.request import DRAWN
from nanobrag_torch.cli.nanobragg.structure import structure_lines
from nanobrag_torch.config import CrystalShape, DetectorPivot
from nanobrag_torch.units import AVOGADRO, DEGREES_PER_RADIAN

if TYPE_CHECKING:
    from nanobrag_torch.cli.nanobragg.outputs import Results
    from nanobrag_torch.sampling import Steps
    from nanobrag_torch.simulator import Simulator

BANNER = "nanoBragg nanocrystal diffraction simulator - James Holton and Ken Frankel 5-17-17"
PRINTED_DENSITY = 1.2e6
"""g/m^3 in the approximate molecular weight, whatever -density says."""
_SHAPE_NAMES = {
    CrystalShape.SQUARE: "parallelpiped",
    CrystalShape.ROUND: "ellipsoidal",
    CrystalShape.GAUSS: "gaussian",
    CrystalShape.TOPHAT: "tophat-spot",
    CrystalShape.GAUSS_HKL: "gaussian-hkl",
    CrystalShape.GAUSS_STAR: "gaussian-star",
}

Vector = Sequence[float]


def opening_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    """Everything that is printed before rendering."""
    yield from prepared.lines
    yield from _clipping_lines(prepared)
    yield from _frame_lines(prepared, simulator)
    yield from _cell_lines(prepared, simulator)
    yield from structure_lines(prepared.request, prepared.structure)
    yield from _scan_lines(prepared, simulator)
    yield from _source_lines(prepared, simulator)
    yield from _sample_lines(prepared, simulator)
    yield from _detector_lines(prepared, simulator)
    yield from _summary_lines(prepared, simulator)


def _clipping_lines(prepared: Prepared) -> Iterator[str]:
    request, beam = prepared.request, prepared.request.beamsize_mm
    for what, size in (("y", request.sample_y_mm), ("z", request.sample_z_mm)):
        if size is not None and size > beam >= 0:
            yield f"WARNING: clipping sample {what} ({size / 1000:g} m) with beam ({beam / 1000:g} m)"


def _frame_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    geometry, detector = simulator.geometry, prepared.detector
    given = detector.custom_odet_vector
    if given is not None and math.hypot(*(float(x) for x in given)) != 1.0:
        yield "WARNING: auto-generating odet_vector"
    yield BANNER
    if prepared.request.mosaic_deg and not prepared.request.mosaic_domains:
        yield f"WARNING: no number of mosaic domains given, using {prepared.scans.mosaic_domains}"
    yield f"{detector.detector_convention.name} convention selected."
    around = "sample" if settings.pivot_of(prepared.request) is DetectorPivot.SAMPLE else "direct beam spot"
    yield f"pivoting detector around {around}"
    fast, slow, normal = geometry.panels[0, 1:].tolist()
    beam = geometry.beam.tolist()
    yield f"XDS incident beam: {_dot(beam, fast):g} {_dot(beam, slow):g} {_dot(beam, normal):g}"
    if prepared.request.interpolate is None:
        how = "tricubic interpolation of structure factors" if simulator.crystal.interpolates() else "no interpolation"
        yield f"auto-selected {how}"


def _cell_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    request = prepared.request
    if request.matfile is not None:
        yield f"reading {request.matfile}"
    if request.misset_choice in DRAWN:
        yield "random orientation misset angles: {:f} {:f} {:f} deg".format(*simulator.crystal.config.misset_deg)
    rows, stars, volume = (part.tolist() for part in simulator.crystal.cell(simulator.compat))
    yield "Unit Cell: " + _six(rows)
    yield "Recp Cell: " + _six(stars)
    yield f"volume = {volume:g} A^3"
    yield from _vector_lines("real-space cell vectors (Angstrom):", "abc", rows)
    yield from _vector_lines("reciprocal-space cell vectors (Angstrom^-1):", ("a*", "b*", "c*"), stars)
    cells = simulator.cells.tolist()
    sizes = [n * math.hypot(*row) * 1e-10 for n, row in zip(cells, rows, strict=True)]
    yield "crystal is {:g} x {:g} x {:g} microns".format(*(1e6 * size for size in sizes))
    yield from _oversampling_lines(request.oversample, simulator)
    weight = math.prod(sizes) * PRINTED_DENSITY * AVOGADRO / math.prod(cells)
    yield f"approximate MW = {weight:g}"


def _oversampling_lines(asked: int, simulator: Simulator) -> Iterator[str]:
    recommended = simulator.recommended_oversample
    if asked <= 0:
        yield f"auto-selected {recommended}-fold oversampling"
    elif asked < recommended:
        yield f"WARNING: maximum expected spot intensity needs finer sampling than {asked} sub-pixels a pixel edge"
        yield f"WARNING: recommended: -oversample {recommended}"


def _vector_lines(title: str, names: Sequence[str], vectors: Sequence[Vector]) -> Iterator[str]:
    yield title
    yield "   " + " ".join(f"{name:>11}" for name in names)
    for axis, components in zip("XYZ", zip(*vectors, strict=True), strict=True):
        yield f"{axis}: " + " ".join(f"{component:11.8f}" for component in components)


def _six(vectors: Sequence[Vector]) -> str:
    """Lengths and angles of three vectors."""
    lengths = [math.hypot(*v) for v in vectors]
    pairs = ((1, 2), (2, 0), (0, 1))
    cosines = [_dot(vectors[i], vectors[j]) / (lengths[i] * lengths[j]) for i, j in pairs]
    angles = [math.acos(min(1.0, max(-1.0, c))) * DEGREES_PER_RADIAN for c in cosines]
    return " ".join(f"{x:g}" for x in [*lengths, *angles])


def _dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _scan_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    layers, step = simulator.geometry.layers, float(simulator.geometry.sensor[0, 0])
    for layer in range(layers if step > 0 else 0):
        yield f"thick{layer} = {layer * step * 1e6:g} um"
    for step_number, phi in enumerate(simulator.crystal.phi_radians().tolist()):
        yield f"phi{step_number} = {phi * DEGREES_PER_RADIAN:g}"
    if prepared.sources is None:
        for h, v in _divergence_points(prepared):
            yield f"divergence deviation: {h:g} {v:g}"
        for number, wavelength in enumerate(_wavelengths(prepared)):
            yield f"lambda{number} = {wavelength:.15g}"


def _divergence_points(prepared: Prepared) -> list[list[float]]:
    """Kept points of the divergence grid (4.1): horizontal and vertical angle, radians."""
    scans, lopsided = (prepared.scans.hdiv, prepared.scans.vdiv), prepared.compat.lopsided_divergence
    return _points_of(scans, repr(scans), lopsided=lopsided, in_ellipse=prepared.request.round_div)


@lru_cache(maxsize=1)
def _points_of(scans: tuple[Steps, Steps], spelled: str, *, lopsided: bool, in_ellipse: bool) -> list[list[float]]:
    """The same, kept: a run asks twice, and so does the next line of a batch. spelled: tells 0.0 from -0.0."""
    import torch

    from nanobrag_torch.physics.sources import centred_steps, inside_ellipse

    ranges, steps = (torch.tensor([getattr(x, name) for x in scans], dtype=torch.float64) for name in ("range", "step"))
    h, v = (centred_steps(ranges[i], steps[i], scans[i].count, lopsided=lopsided) for i in (0, 1))
    points = torch.cartesian_prod(h, v)
    if in_ellipse:
        points = points[inside_ellipse(h, v, (ranges[0], ranges[1]), (steps[0], steps[1])).reshape(-1)]
    kept: list[list[float]] = points.tolist()
    return kept


def _wavelengths(prepared: Prepared) -> list[float]:
    spread, centre = prepared.scans.dispersion, prepared.request.lambda_A / 1e10
    return [centre * (1.0 + spread.step * d - spread.range / 2.0) for d in range(spread.count)]


def _source_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    sources = simulator.sources
    yield f"  created a total of {sources.wavelengths.numel()} sources:"
    intensities = sources.weights.tolist() if prepared.sources is None else prepared.sources[:, 3].tolist()
    rows = zip(sources.directions.tolist(), intensities, sources.wavelengths.tolist(), strict=True)
    if prepared.sources is not None:  # in the order of the file
        rows = zip(prepared.sources[:, :3].tolist(), intensities, prepared.sources[:, 4].tolist(), strict=True)
    for (x, y, z), intensity, wavelength in rows:
        yield f"{x:g} {y:g} {z:g}   {intensity:g} {wavelength:g}"
    yield f"  created a total of {prepared.scans.mosaic_domains} mosaic domains"


def _sample_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    request, crystal = prepared.request, simulator.crystal.config
    yield f"  {prepared.structure.count} initialized hkls (all others ={request.default_F:g})"
    cells = "x".join(f"{n:g}" for n in simulator.cells.tolist())
    yield f"  {_SHAPE_NAMES[crystal.shape]} xtal: {cells} cells"
    spread = prepared.scans.dispersion
    yield f"  wave={request.lambda_A / 1e10:g} meters +/- {50.0 * spread.range:g}% in {spread.count} steps"
    if request.nopolar:
        yield "  polarization effect disabled"
    else:
        yield f"  Kahn polarization factor: {request.polar:f}"
    if request.curved:
        yield "  curved detector: all pixels same distance from origin"
    if request.point_pixel:
        yield "  pixel obliquity effect disabled"
    yield f"  incident fluence: {prepared.beam.fluence:g} photons/m^2"


def _detector_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    plane, geometry = prepared.plane, simulator.geometry
    size = f"detsize={plane.fsize:g}x{plane.ssize:g}"
    pixels = f"pixel={plane.pixel:g} meters ({plane.fpixels}x{plane.spixels} pixels)"
    yield f"  distance={float(geometry.distance):g} {size}  {pixels}"
    if float(geometry.sensor[0, 0]) > 0:
        step, attenuation = geometry.sensor[0].tolist()
        thick = step * geometry.layers
        yield f"  sensor is {thick:g} m thick in {geometry.layers} layers with mu= {attenuation:g}"
    yield f"  Xbeam={plane.Xbeam:g} Ybeam={plane.Ybeam:g}"
    yield f"  Fbeam={float(geometry.Fbeam):g} Sbeam={float(geometry.Sbeam):g}"
    yield f"  Xclose={plane.Xclose:g} Yclose={plane.Yclose:g}"
    yield f"  Fclose={float(geometry.Fclose):g} Sclose={float(geometry.Sclose):g}"
    origin, *axes = geometry.panels[0].tolist()
    for name, axis in zip("XYZ", axes, strict=True):
        yield f"  DIRECTION_OF_DETECTOR_{name}-AXIS= {_three(axis)}"
    beam, polar = geometry.beam.tolist(), geometry.polar.tolist()
    yield f"  INCIDENT_BEAM_DIRECTION= {_three(beam)}"
    yield f"  spindle ROTATION_AXIS= {_three(geometry.spindle.tolist())}"
    yield f"  POLARIZATION_PLANE_NORMAL= {_three(_unit_cross(beam, polar))}"
    yield f"  dials origin= {_three((1000 * origin[2], 1000 * origin[1], -1000 * origin[0]))}"


def _three(vector: Vector) -> str:
    return " ".join(f"{x:g}" for x in vector)


def _unit_cross(a: Vector, b: Vector) -> list[float]:
    cross = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    length = math.hypot(*cross) or 1.0
    return [x / length for x in cross]


def _summary_lines(prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    request, scans, (f0, f1, s0, s1) = prepared.request, prepared.scans, region_of(prepared)
    yield f"  roi: {f0} < x < {f1} && {s0} < y < {s1}"
    grid = prepared.sources is None
    if grid:
        yield f"  hdivrange: {scans.hdiv.range:g} hdivstep: {scans.hdiv.step:g}  radians"
        yield f"  vdivrange: {scans.vdiv.range:g} vdivstep: {scans.vdiv.step:g}  radians"
    yield f"  {len(_divergence_points(prepared)) if grid else -1} divergence steps"
    yield f"  {simulator.sources.wavelengths.numel()} sources"
    yield f"  mosaic spread: {scans.mosaic_deg:g} deg in {scans.mosaic_domains} domains"
    yield f"  phi start: {request.phi_deg:g} osc: {scans.phi.range:g} deg in {scans.phi.count} steps"
    extra = [f" +{what}" for what in ("thick", "polar", "omega") if getattr(request, f"oversample_{what}")]
    yield f"  {simulator.oversample}x{simulator.oversample} pixel oversampling steps{''.join(extra)}"
    if prepared.detector.mask_array is not None:
        yield f"  skipping zero-flagged pixels in {request.maskfile}"
    if request.write_noise:
        yield "  noise image parameters:"
        yield f"  seed: {prepared.noise_seed}"
        yield f"  water droplet size: {request.water_um * 1e-6:g} m"


def closing_lines(results: Results, prepared: Prepared, simulator: Simulator, solid_angle: float) -> Iterator[str]:
    """Everything that is printed after rendering."""
    from nanobrag_torch.records.statistics import last_subpixel_m

    request, numbers, count = prepared.request, results.statistics, results.image.size
    yield ""
    share = 100 * solid_angle / (4 * math.pi)
    yield f"solid angle subtended by detector = {solid_angle:g} steradian ( {share:g}% sphere)"
    yield f"writing {request.floatfile} as {count} 4-byte floats"
    slow, fast = numbers.max_pixel or (0, 0)
    place = [last_subpixel_m(i, prepared.plane.pixel, simulator.oversample) for i in (fast, slow)]
    x, y = place if numbers.max_pixel is not None else (0.0, 0.0)
    yield f"max_I = {numbers.max_I:g}  at {x:g} {y:g}"
    yield f"mean= {numbers.mean:g} rms= {numbers.rms:g} rmsd= {numbers.rmsd:g}"
    yield f"intfile_scale = {results.int_scale:g}"
    yield f"writing {request.intfile} as {count} 2-byte integers"
    if results.grey is not None:
        yield f"pgm_scale = {results.pgm_scale:g}"
        yield f"writing {request.pgmfile} as {count} 1-byte integers"
    if results.noise is not None:
        yield f"{results.noise.photons:.0f} photons on noise image ({results.noise.overloads} overloads)"
        yield f"writing {request.noisefile} as {count} 2-byte integers"
    if request.pngfile is not None:
        yield f"writing {request.pngfile} as a picture"


def speed_line(seconds: float, pixels: int, steps: int) -> str:
    """Time of the rendering and how many steps of how many pixels a second that makes."""
    return f"rendered {pixels} pixels x {steps} steps in {seconds:.3g} s: {pixels * steps / seconds:.3g} pixel-steps/s"
