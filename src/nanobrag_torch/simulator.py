"""Models in, image out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.background import water
from nanobrag_torch.background.amorphous import amorphous_values
from nanobrag_torch.background.materials import MaterialConfig, names_of
from nanobrag_torch.checks import require_model
from nanobrag_torch.compat import Compat
from nanobrag_torch.compat_phi import first_step, with_first_step
from nanobrag_torch.config import MOST_SUBPIXELS, BeamConfig, CrystalConfig
from nanobrag_torch.devices import checked_device
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import CUTS, Options, Scene
from nanobrag_torch.kernels.reference import Progress
from nanobrag_torch.models import departures
from nanobrag_torch.models.beam import Beam, Sources
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector, DetectorGeometry, seen_from_behind
from nanobrag_torch.models.tensors import is_finite
from nanobrag_torch.physics.absorption import blinded
from nanobrag_torch.physics.lattice_factor import PROFILES, Profile, amplitude, shape_matrix
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.config import ResponseConfig
from nanobrag_torch.response.photons import poisson_counts
from nanobrag_torch.tracing.attributes import SimulatorAttributes
from nanobrag_torch.tracing.log import log_lines
from nanobrag_torch.tracing.pixel import trace_pixel
from nanobrag_torch.tracing.showing import SimulatorShown
from nanobrag_torch.units import ANGSTROM, R_E_SQUARED

EDGE_ON = 1e-12
SAMPLED_PIXELS, SAMPLED_STEPS = 2**16, 2**28
"""Of the sample that tells how bright an image is, at most: pixels, and steps of more than a thousand pixels."""
"""Cosine between the normal and the way to the panel below which no pixel can be seen."""
_LOG = logging.getLogger(__name__)


class Simulator(SimulatorAttributes, SimulatorShown):
    """Renders one crystal on one detector in one beam: photons per pixel (design, the one equation).

    background: amorphous materials that scatter besides the crystal. response: what the detector makes of the photons;
    images are then what it is expected to record, and `record` draws one.

    compat: "corrected", "c" or a Compat; phi_mode: "spec" or "c-parity" for the phi row alone; kernel: "auto",
    "reference" or "fused"; dtype: float32 or float64 of the image; threads: at most so many cores. cut: share of its
    peak below which a Gaussian spot is left out, by default less than the last digit of dtype; 0 for the full sum,
    which the reference kernel takes unless told otherwise. tolerance: photons a pixel that may be left out of spots
    that only fade. crystal_config: rotation and mosaicity, in place of the
    crystal's own; beam_config: the crystal's unless given. debug_config: a pixel whose trace every run prints,
    trace_pixel (slow, fast) or printout_pixel (fast, slow). Parameters are read anew at every run, so that an optimiser
    may change tensors in place between runs, and a script configurations.
    """

    def __init__(
        self,
        crystal: Crystal,
        detector: Detector | None = None,
        crystal_config: CrystalConfig | None = None,
        beam_config: BeamConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        debug_config: Mapping[str, Any] | None = None,
        *,
        compat: str | Compat = "corrected",
        phi_mode: str | None = None,
        kernel: str = "auto",
        threads: int | None = None,
        background: Sequence[MaterialConfig] = (),
        response: ResponseConfig | None = None,
        cut: float | None = None,
        tolerance: float = 0.0,
    ) -> None:
        require_model("crystal", crystal, Crystal)
        if detector is not None:
            require_model("detector", detector, Detector)
        if dtype not in (torch.float32, torch.float64):
            raise InputError("dtype", dtype, "float32, float64")
        if kernel not in operation.KERNELS:
            raise InputError("kernel", kernel, ", ".join(operation.KERNELS))
        if threads is not None and not (isinstance(threads, int) and threads >= 1):
            raise InputError("threads", threads, "a whole number from 1 up")
        self.kernel, self.dtype, self.device = kernel, dtype, checked_device(device or "cpu")
        self.crystal = crystal
        if crystal_config is not None and crystal_config is not crystal.config:
            crystal.config = crystal.turning_as(crystal_config).config
        self.detector = detector if detector is not None else Detector(device=device)
        if beam_config is not None:
            require_model("beam_config", beam_config, BeamConfig)
        self.beam = Beam(crystal.beam_config if beam_config is None else beam_config, device=self.device)
        self.debug_config = dict(debug_config or {})
        departures.say(departures.given_otherwise(self.detector.config, self.beam.config))
        if crystal_config is not None:
            configs = crystal.config, self.detector.config, self.beam.config
            departures.say(departures.default_otherwise(*configs))
        self.compat = Compat.of(compat, phi_mode)
        self.threads = threads or 0
        self.background, self.response_config = tuple(background), response
        if self.background and self.detector.config.curved_detector and self.compat.curved_by_lab_axes:
            accepted = "nothing on a curved detector as the C program has it"
            raise InputError("background", names_of(self.background), accepted)
        if cut is not None and not 0 <= cut < 1:
            raise InputError("cut", cut, "a share of a spot's peak from 0 up, below 1")
        if not 0 <= tolerance < math.inf:
            raise InputError("tolerance", tolerance, "photons a pixel, from 0 up")
        self.cut, self.tolerance = cut, tolerance

    @property
    def geometry(self) -> DetectorGeometry:
        """Panel vectors and reported distances."""
        return self.detector.geometry(self.compat)

    @property
    def sources(self) -> Sources:
        """The table of sources."""
        return self._sources(self.geometry)

    @property
    def cells(self) -> Tensor:
        """Number of cells along a, b, c [3]."""
        cells = self.crystal.cells(self.compat)
        return cells if cells.dim() == 1 else cells.diagonal()

    @property
    def recommended_oversample(self) -> int:
        """Sub-pixels along an edge that sample the narrowest spot three times (3.6); one of an edge-on detector."""
        return int(self.spot_samples)

    @property
    def spot_samples(self) -> Tensor:
        """The same as a tensor []."""
        geometry = self.geometry
        edges = torch.linalg.vector_norm(self.crystal.cell(self.compat)[0], dim=-1) * ANGSTROM
        reciprocal_pixel = self.beam.wavelength() * geometry.image_distance / geometry.pixel_size[0, 0]
        samples = torch.ceil(3 * (edges * self.cells).max() / reciprocal_pixel).clamp(min=1)
        return torch.where(_is_edge_on(geometry), torch.ones_like(samples), samples)

    @property
    def oversample(self) -> int:
        """Sub-pixels along an edge: as configured, or as recommended, up to what some time would be enough for."""
        asked = self.detector.config.oversample
        if asked > 0:
            return asked
        found = self.recommended_oversample
        if found > MOST_SUBPIXELS:
            said = f"{found}, three across a spot of {float(self.cells.detach().max()):g} cells"
            raise InputError("oversample", said, f"numbers up to {MOST_SUBPIXELS}")
        return found

    @property
    def steps(self) -> int:
        """Sources times phi steps times mosaic domains times sub-pixels; sensor layers do not count (section 3.7)."""
        config = self.crystal.config
        return self.sources.wavelengths.numel() * config.phi_steps * self.crystal.domain_count * self.oversample**2

    @property
    def response(self) -> Response | None:
        """What the detector makes of photons; None: it counts them all."""
        return None if self.response_config is None else Response(self.response_config, geometry=self.geometry)

    def run(
        self,
        pixel_batch_size: int | None = None,
        override_a_star: Tensor | None = None,
        oversample: int | None = None,
        oversample_omega: bool | None = None,
        oversample_polar: bool | None = None,
        oversample_thick: bool | None = None,
        *,
        progress: Progress | None = None,
        check: bool = True,
    ) -> Tensor:
        """The image (slow, fast), or (panel, slow, fast) of given panels, photons or what the response has.

        Pixels outside the region of interest or the mask expect no photons. Raises InputError when a pixel is not
        finite; check=False does not look, and so does not wait for a GPU. oversample and its companions replace those
        of the detector for this run; override_a_star [3] (1/Angstrom): one still orientation, with this a*.
        pixel_batch_size is accepted and changes nothing: memory is bounded without it.
        """
        asked = {
            "oversample": oversample,
            "oversample_omega": oversample_omega,
            "oversample_polar": oversample_polar,
            "oversample_thick": oversample_thick,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        if given or override_a_star is not None:
            return self._with(override_a_star, given).run(progress=progress, check=check)
        for slow, fast in _traced_pixels(self.debug_config):
            print("\n".join(log_lines(trace_pixel(self, slow, fast))), flush=True)
        photons, response = self.photons(progress=progress, check=check), self.response
        return photons if response is None else response.expected(photons)

    def photons(self, *, progress: Progress | None = None, check: bool = True) -> Tensor:
        """The image in photons per pixel before the response; shape and errors as for `run`."""
        pixels, shape = self.detector.pixels(), self.image_shape
        count = math.prod(shape)
        scene = self.scene()
        values = self._photons_of(scene, pixels, progress)
        if check:
            _require_finite(values)
            self._warn_of_blind_pixels(scene.panels)
        if pixels is None:
            return values.reshape(shape)
        return torch.zeros(count, dtype=self.dtype, device=self.device).index_put((pixels,), values).reshape(shape)

    def _with(self, a_star: Tensor | None, sampling: Mapping[str, Any]) -> Simulator:
        """This simulator with another a* [3], if any, and other sampling of pixels."""
        other = copy(self)
        other.detector = copy(self.detector)
        other.detector.config = replace(self.detector.config, **sampling)
        if a_star is not None:
            other.crystal = self.crystal.still_with(a_star)
        return other

    def counts(self, seed: int, *, image: int = 0, progress: Progress | None = None) -> Tensor:
        """The image as counted: whole photons, int32, drawn from the Poisson distribution about `photons()`.

        image: number of this image among those of the seed. What is drawn for a pixel depends on the seed, this number,
        the place of the pixel and what is expected there, and on nothing else: not on the images drawn before, the
        region of interest or how work is shared among devices. Not differentiable. Raises InputError as `run` does, and
        for a seed or number that is negative. response.photons.recorded_counts adds an offset and saturates.
        """
        with torch.no_grad():
            return poisson_counts(self.photons(progress=progress)[None], seed, first_image=image)[0]

    def record(self, seed: int, *, image: int = 0, progress: Progress | None = None) -> Tensor:
        """One image as the response records it (Response.record); photons counted where there is no response."""
        response = self.response
        if response is None:
            return self.counts(seed, image=image, progress=progress)
        with torch.no_grad():
            return response.record(self.photons(progress=progress), seed, image)

    def __repr__(self) -> str:
        image = " x ".join(map(str, self.image_shape))
        return f"Simulator({image} pixels, {self.crystal!r}, {self.detector!r}, {self.beam!r}, {self.dtype})"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(slow, fast), or (panel, slow, fast) when panels are given."""
        shape = self.detector.image_shape
        return (self.detector.panel_count, *shape) if self.detector.config.panels else shape

    def pixel_values(self, pixels: Tensor | None, *, progress: Progress | None = None, check: bool = True) -> Tensor:
        """Values [n] of the flat pixel indices [n] over [panel, slow, fast]; None: all of them, without a list.

        Photons, or what the response expects of them: a few pixels cost their own and the halo of the spread. Raises
        InputError for indices that no pixel has; check=False does not look, and so does not wait for a GPU.
        """
        if check and pixels is not None:
            require_pixels(pixels, self.detector.panel_count * math.prod(self.detector.image_shape))
        response, shape = self.response, self.detector.image_shape
        if response is None:
            return self.photon_values(pixels, progress=progress, check=False)
        if pixels is None:
            whole = self.photon_values(None, progress=progress, check=False)
            return response.expected(whole.reshape(-1, *shape)).reshape(-1)
        halo = response.halo(pixels, shape)
        return response.expected_at(self.photon_values(halo.pixels, progress=progress, check=False), halo, shape)

    def photon_values(self, pixels: Tensor | None, *, progress: Progress | None = None, check: bool = True) -> Tensor:
        """Photons [n] of pixels before the response; arguments and errors as for `pixel_values`."""
        if check and pixels is not None:
            require_pixels(pixels, self.detector.panel_count * math.prod(self.detector.image_shape))
        return self._photons_of(self.scene(), pixels, progress)

    def _photons_of(self, scene: Scene, pixels: Tensor | None, progress: Progress | None) -> Tensor:
        options = self.options()
        values = operation.intensity(pixels, scene, options, kernel=self.kernel, progress=progress)
        if self.compat.stale_phi:
            listed = self.wanted_pixels() if pixels is None else pixels
            first = first_step(self.crystal, self.geometry.spindle, self.compat, listed, scene, options)
            values = with_first_step(values, first, listed, scene, options)
        for added in (self.water_values(pixels, scene, options), self.background_values(pixels)):
            values = values if added is None else values + added
        return values

    def background_values(self, pixels: Tensor | None, *, fused: bool | None = None) -> Tensor | None:
        """What the amorphous materials add to the pixels [n]; None without any. fused: as for radial_image."""
        if not self.background:
            return None
        geometry, config = self.geometry, self.detector.config
        sources = self._sources(geometry)
        return amorphous_values(
            self.background,
            pixels,
            beam=self.beam,
            sources=sources,
            polarization=self.beam.polarization(sources.incident, geometry.polar, unpolarized=self.beam.config.nopolar),
            geometry=geometry,
            image_shape=self.detector.image_shape,
            dtype=self.dtype,
            point_pixel=config.point_pixel,
            curved=config.curved_detector,
            fused=fused,
        )

    def water_values(self, pixels: Tensor | None, scene: Scene, options: Options) -> Tensor | None:
        """What water around the crystal adds to the pixels [n]; None without water, or when the offset has it (D7)."""
        alone = self.water_scene(scene, options)
        return None if alone is None else operation.intensity(pixels, *alone, kernel=self.kernel)

    def water_scene(self, scene: Scene, options: Options) -> tuple[Scene, Options] | None:
        """The scene whose image is that of the water alone; None without water, or when the offset has it (D7)."""
        if not self.adds_water:
            return None
        return water.water_scene(scene, options, self.beam)

    @property
    def adds_water(self) -> bool:
        """Whether water is an image of its own beside the crystal's."""
        return self._has_water and not self.compat.water_once

    def wanted_pixels(self) -> Tensor:
        """Flat indices [n] over [panel, slow, fast] of the pixels that are rendered, in the order of rendering."""
        wanted = self.detector.pixels()
        return torch.arange(math.prod(self.image_shape), device=self.device) if wanted is None else wanted

    def scene(self) -> Scene:
        """The tensors that a kernel is given."""
        geometry, crystal, compat = self.geometry, self.crystal, self.compat
        sources = self._sources(geometry)
        rows, stars, volume = crystal.cell(compat)
        cells = crystal.cells(compat)
        shape = crystal.config.shape
        lattice, weights = crystal.lattice(geometry.spindle, compat, rows)
        table, _ = crystal.structure_factors(self.dtype)
        scale = R_E_SQUARED * self.beam.fluence() * amplitude(shape, cells) ** 2
        if self.detector.panel_count == 1:
            scale = torch.where(_is_edge_on(geometry), 0.0, scale)
        config = self.detector.config
        scene = Scene(
            **{**geometry.tensors(), "sensor": self._sensor(geometry)},
            incident=sources.incident,
            wavelengths=sources.wavelengths,
            source_weights=sources.weights * scale,
            polarization=self.beam.polarization(
                sources.incident,
                geometry.polar,
                compat,
                unpolarized=self.beam.config.nopolar
                and not (config.oversample_polar and compat.oversample_polar_defeats_nopolar),
            ),
            lattice=lattice,
            lattice_weights=weights,
            shape=shape_matrix(shape, cells, crystal.fudge(), stars, volume, product_widths=compat.product_widths),
            structure_factors=table,
            default_F=crystal.default_amplitude(),
            offset=torch.zeros((), dtype=torch.float64, device=self.device),
        )
        if self._has_water and compat.water_once:
            scene = replace(scene, offset=water.water_once(self.beam, self.steps))
        return scene.to(self.device)

    def options(self) -> Options:
        """What a kernel is told."""
        config, compat = self.detector.config, self.compat
        per_step = config.oversample_omega or config.oversample_polar or config.oversample_thick
        interpolate = self.crystal.interpolates()
        return Options(
            image_shape=self.detector.image_shape,
            profile=PROFILES[self.crystal.config.shape],
            hkl_first=self.crystal.hkl_first,
            oversample=self.oversample,
            layers=self.detector.layers,
            dmin=(self.beam.config.dmin or 0.0) * ANGSTROM,
            interpolate=interpolate,
            point_pixel=config.point_pixel,
            curved=config.curved_detector,
            oversample_omega=config.oversample_omega,
            oversample_polar=config.oversample_polar,
            oversample_thick=config.oversample_thick,
            last_layer_capture=compat.last_layer_capture,
            front_solid_angle=compat.front_solid_angle,
            curved_by_lab_axes=compat.curved_by_lab_axes,
            curved_sensor_is_flat=compat.curved_sensor_is_flat,
            running_factors=compat.running_factors and per_step,
            interpolation_latch=compat.interpolation_latch and interpolate,
            cut=self._cut(),
            tolerance=self.tolerance,
            dtype=self.dtype,
            threads=self.threads,
        )

    def brightest(self) -> float:
        """The most photons among runs of pixels spread evenly over the whole detector, whatever region or mask.

        What a tolerance may be a share of: no more than the image's maximum, and the same for every part of it.
        """
        count, run = self.detector.panel_count * math.prod(self.detector.image_shape), 64
        steps = max(1, self.steps * self.detector.layers)
        wanted = min(max(SAMPLED_STEPS // steps, 2**10), SAMPLED_PIXELS)
        starts = torch.arange(0, count, run * max(1, count // wanted), device=self.device)
        pixels = (starts[:, None] + torch.arange(run, device=self.device)).flatten()
        options = replace(self.options(), tolerance=0.0)
        with torch.no_grad():
            values = operation.intensity(pixels[pixels < count], self.scene(), options, kernel=self.kernel)
        return float(values.max()) if values.numel() else 0.0

    def fewer_samples_line(self) -> str:
        """What to say where one sample serves, within bounds, wherever no spot is; empty where none does."""
        fades = PROFILES[self.crystal.config.shape] in (Profile.GRATING, Profile.SPHERE)
        bound, over = self.tolerance if fades else self._cut(), self.oversample
        if self.kernel == "reference" or bound <= 0 or over == 1:
            return ""
        return f"sub-pixels: {over} x {over} where a spot may be, one sample elsewhere"

    def _cut(self) -> float:
        if self.cut is None:
            return 0.0 if self.kernel == "reference" else CUTS[self.dtype]
        return self.cut

    def _sources(self, geometry: DetectorGeometry) -> Sources:
        return self.beam.sources(geometry.beam, geometry.polar, self.compat)

    def _sensor(self, geometry: DetectorGeometry) -> Tensor:
        """Thickness and attenuation [P, 2] of panels that record; the others capture nothing (D53, D60)."""
        behind = geometry.seen_from_behind
        blind = torch.zeros_like(behind) if self.compat.negative_photons else behind
        if self.detector.config.oversample_thick and self.compat.oversample_thick_needs_thickness:
            blind = blind | (geometry.sensor[:, 0] == 0)
        return blinded(geometry.sensor, blind)

    def _warn_of_blind_pixels(self, panels: Tensor) -> None:
        behind = seen_from_behind(panels)
        if bool(behind.any()):
            wanted, size = self.wanted_pixels(), math.prod(self.detector.image_shape)
            count = int(behind[torch.div(wanted, size, rounding_mode="floor")].sum())
            what = "count negative photons, as in the C program" if self.compat.negative_photons else "record nothing"
            _LOG.warning(f"{count} of {wanted.numel()} pixels see the crystal from behind their sensor: they {what}")

    @property
    def _has_water(self) -> bool:
        size = self.beam.config.water_size_um
        return isinstance(size, Tensor) or size != 0


def _is_edge_on(geometry: DetectorGeometry) -> Tensor:
    """Whether the first panel lies in a plane through the sample []: what is left of its close distance is rounding."""
    edge_on: Tensor = geometry.close_distance.abs() <= EDGE_ON * torch.linalg.vector_norm(geometry.panels[0, 0])
    return edge_on


def _traced_pixels(debug_config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Slow and fast index of the pixels whose trace is wanted. Raises InputError for what is no pixel."""
    found = []
    for name in ("trace_pixel", "printout_pixel"):
        pixel = debug_config.get(name)
        if pixel is not None and len(pixel) != 2:
            raise InputError(f"debug_config: {name}", pixel, "two whole numbers")
        if pixel is not None:
            first, second = map(int, pixel)
            found.append((first, second) if name == "trace_pixel" else (second, first))
    return found


def _require_finite(values: Tensor) -> None:
    if not is_finite(values):
        raise InputError("image", "not finite", "parameters that give finite pixels")


def require_pixels(pixels: Tensor, count: int) -> None:
    """Raise InputError for flat indices that no pixel has: a kernel looks at the memory that they say."""
    if pixels.is_floating_point() or pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError("pixels", pixels.dtype, "whole numbers")
    outside = (pixels < 0) | (pixels >= count)
    if not torch.compiler.is_compiling() and bool(outside.any()):
        raise InputError("pixels", int(pixels[outside][0]), f"flat indices from 0 to {count - 1}")
