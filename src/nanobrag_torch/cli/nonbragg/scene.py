"""What a run of nonBragg renders: the molecules in the beam, the profile, the detector and the sources."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nanobrag_torch import sampling
from nanobrag_torch.background.as_nonbragg import Source, padded_table, render
from nanobrag_torch.cli.dropin import smv_text
from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.prepare import source_fields, source_table
from nanobrag_torch.config import DetectorPivot
from nanobrag_torch.io.stol import read_stol_file
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.units import AVOGADRO, R_E_SQUARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanobrag_torch.cli.nanobragg.settings import Plane
    from nanobrag_torch.cli.nonbragg.flags import NonBraggRequest
    from nanobrag_torch.compat import Compat

GRAMS_PER_CUBIC_METRE = 1e6
MM_PER_M = 1000.0
TWOTHETA_AXIS = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """A run whose input is read and whose geometry stands."""

    request: NonBraggRequest
    compat: Compat
    plane: Plane
    detector: Detector
    beam: Beam
    source: Source
    table: NDArray[np.float64] | None  # as the file has it, sin(theta)/lambda (1/A) and F
    fluence: float
    size: tuple[float, float, float]  # of the sample in the beam, m

    @property
    def molecules(self) -> float:
        """Molecules in the beam."""
        if self.request.molecules > 0:
            return self.request.molecules
        grams = math.prod(self.size) * self.request.density * GRAMS_PER_CUBIC_METRE
        return grams * AVOGADRO / self.request.molecular_weight

    @property
    def unsorted(self) -> bool:
        """Whether rows of the profile are out of order."""
        return self.table is not None and bool((np.diff(self.table[:, 0]) < 0).any())

    @property
    def photons_per_electron_squared(self) -> float:
        """What turns the sum of F^2 into photons."""
        return R_E_SQUARED * self.fluence * self.molecules


def prepare(request: NonBraggRequest, compat: Compat) -> Scene:
    """Everything but the image. Raises InputError."""
    request = replace(request, **_centre(request))
    plane = _plane(request)
    scans = settings.scans_of(request)
    sources = source_table(request)
    config = settings.detector_config(request, plane, None)
    if settings.pivot_of(request) is DetectorPivot.SAMPLE:
        close: dict[str, Any] = {"beam_center_f": plane.Xclose * MM_PER_M, "beam_center_s": plane.Yclose * MM_PER_M}
        config = replace(config, **close)
    if request.twotheta_axis is None:
        config = replace(config, twotheta_axis=TWOTHETA_AXIS)
    beam = Beam(settings.beam_config(request, scans, source_fields(sources)))
    detector = Detector(config)
    table = None if request.stolfile is None else read_stol_file(request.stolfile)
    if table is not None:
        table[:, 0] *= request.stol_factor
    return Scene(
        request=request,
        compat=compat,
        plane=plane,
        detector=detector,
        beam=beam,
        source=_source(detector, beam, compat, sources),
        table=table,
        fluence=settings.fluence_of(request),
        size=_size(request),
    )


def _centre(request: NonBraggRequest) -> dict[str, Any]:
    """Where the beam and the closest point are when nobody says: half a pixel before and behind the middle."""
    pixel = request.pixel_mm
    fast = request.detpixels_f * pixel or request.detsize_f_mm
    slow = request.detpixels_s * pixel or request.detsize_s_mm
    x, y = (fast - pixel) / 2, (slow + pixel) / 2
    close_x = request.Xclose_mm if request.ORGX is None else request.ORGX * pixel
    close_y = request.Yclose_mm if request.ORGY is None else request.ORGY * pixel
    given = {"Xbeam_mm": request.Xbeam_mm, "Ybeam_mm": request.Ybeam_mm, "Xclose_mm": close_x, "Yclose_mm": close_y}
    defaults = {"Xbeam_mm": x, "Ybeam_mm": y, "Xclose_mm": x, "Yclose_mm": y}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def _plane(request: NonBraggRequest) -> Plane:
    """Sizes and centres; where -detsize decides, the C program counts a part of a pixel as one."""
    plane = settings.plane_of(request)
    if request.compat != "c":
        return plane
    fast = request.detpixels_f or math.ceil(plane.fsize / plane.pixel)
    slow = request.detpixels_s or math.ceil(plane.ssize / plane.pixel)
    return replace(plane, fpixels=fast, spixels=slow)


def _size(request: NonBraggRequest) -> tuple[float, float, float]:
    """The sample in the beam (m)."""
    beam = request.beamsize_mm
    x, y, z = (
        request.sample_x_mm,
        sampling.clipped(request.sample_y_mm, beam),
        sampling.clipped(request.sample_z_mm, beam),
    )
    return x / MM_PER_M, y / MM_PER_M, z / MM_PER_M


def _source(detector: Detector, beam: Beam, compat: Compat, given: NDArray[np.float64] | None) -> Source:
    geometry = detector.geometry(compat)
    sources = beam.sources(geometry.beam, geometry.polar, replace(compat, equal_sources=False))
    import torch

    intensities = torch.ones_like(sources.wavelengths) if given is None else torch.from_numpy(given[:, 3].copy())
    polarization = beam.polarization(sources.incident, geometry.polar, unpolarized=beam.config.nopolar)
    return Source(sources.incident, sources.wavelengths, intensities, polarization)


def rendered(scene: Scene) -> NDArray[np.float32]:
    """The image [slow, fast]: photons, or F; 0 outside the region of interest."""
    import torch

    assert scene.table is not None
    request, shape = scene.request, scene.detector.image_shape
    pixels = scene.detector.pixels()
    pixels = torch.arange(math.prod(shape)) if pixels is None else pixels
    values = render(
        pixels,
        scene.detector.geometry(scene.compat),
        shape,
        scene.source,
        padded_table(scene.table, sort=request.compat != "c"),
        oversample=request.oversample,
        point_pixel=request.point_pixel,
        curved=request.curved,
        amplitude_alone=request.amplitude_alone,
    )
    if not request.amplitude_alone:
        values = values * scene.photons_per_electron_squared
    image = np.zeros(shape, np.float32)
    image.reshape(-1)[pixels.numpy()] = values.astype(np.float32)
    return image


def header(scene: Scene) -> str:
    """The header of both images: the placed detector, the beam counted from the far edge along slow."""
    geometry, plane, request = scene.detector.geometry(scene.compat), scene.plane, scene.request
    entries = [
        ("PIXEL_SIZE", request.pixel_mm),
        ("DISTANCE", float(geometry.distance) * MM_PER_M),
        ("WAVELENGTH", request.lambda_A),
        ("BEAM_CENTER_X", float(geometry.Fbeam) * MM_PER_M),
        ("BEAM_CENTER_Y", (plane.ssize - float(geometry.Sbeam)) * MM_PER_M),
        ("ORGX", plane.Xclose / plane.pixel),
        ("ORGY", plane.Yclose / plane.pixel),
        ("CLOSE_DISTANCE", float(geometry.close_distance) * MM_PER_M),
        ("PHI", request.phi_deg),
        ("OSC_START", request.phi_deg),
        ("OSC_RANGE", request.osc_deg or 0.0),
        ("TWOTHETA", request.twotheta_deg),
    ]
    return smv_text("unsigned_short", scene.detector.image_shape, entries)
