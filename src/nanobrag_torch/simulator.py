"""Models in, image out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.background import water
from nanobrag_torch.compat import Compat
from nanobrag_torch.compat_phi import first_step, with_first_step
from nanobrag_torch.config import BeamConfig
from nanobrag_torch.devices import checked_device
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.kernels.reference import Progress
from nanobrag_torch.models.beam import Beam, Sources
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector, DetectorGeometry
from nanobrag_torch.physics.lattice_factor import PROFILES, amplitude, shape_matrix
from nanobrag_torch.response.photons import poisson_counts
from nanobrag_torch.units import ANGSTROM, R_E_SQUARED


class Simulator:
    """Renders one crystal on one detector in one beam: photons per pixel (design, the one equation).

    compat: "corrected", "c" or a Compat; phi_mode: "spec" or "c-parity" for the phi row alone; kernel: "auto",
    "reference" or "fused"; dtype: float32 or float64 of the image; threads: at most so many cores. Parameters are
    read anew at every run, so that an optimiser may change tensors in place between runs.
    """

    def __init__(
        self,
        crystal: Crystal,
        detector: Detector | None = None,
        *,
        beam_config: BeamConfig | None = None,
        compat: str | Compat = "corrected",
        phi_mode: str | None = None,
        kernel: str = "auto",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        threads: int | None = None,
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise InputError("dtype", dtype, "float32, float64")
        if kernel not in operation.KERNELS:
            raise InputError("kernel", kernel, ", ".join(operation.KERNELS))
        if threads is not None and threads < 1:
            raise InputError("threads", threads, "a whole number from 1 up")
        self.kernel, self.dtype, self.device = kernel, dtype, checked_device(device)
        self.crystal = crystal
        self.detector = detector if detector is not None else Detector(device=device)
        self.beam = Beam(beam_config, device=device)
        self.compat = Compat.of(compat, phi_mode)
        self.threads = threads or 0

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
        return self.crystal.cells(self.compat)

    @property
    def recommended_oversample(self) -> int:
        """Sub-pixels along an edge that sample the narrowest spot three times (section 3.6)."""
        geometry = self.geometry
        edges = torch.linalg.vector_norm(self.crystal.cell(self.compat)[0], dim=-1) * ANGSTROM
        wavelength = self.beam.wavelength()
        reciprocal_pixel = wavelength * geometry.image_distance / geometry.pixel_size[0, 0]
        return max(1, int(torch.ceil(3 * (edges * self.cells).max() / reciprocal_pixel)))

    @property
    def oversample(self) -> int:
        """Sub-pixels along an edge: as configured, or as recommended."""
        asked = self.detector.config.oversample
        return asked if asked > 0 else self.recommended_oversample

    @property
    def steps(self) -> int:
        """Sources times phi steps times mosaic domains times sub-pixels; sensor layers do not count (section 3.7)."""
        config = self.crystal.config
        return self.sources.wavelengths.numel() * config.phi_steps * self.crystal.domain_count * self.oversample**2

    def run(self, *, progress: Progress | None = None, check: bool = True) -> Tensor:
        """The image (slow, fast), or (panel, slow, fast) of given panels, in photons per pixel.

        Pixels outside the region of interest or the mask are zero. Raises InputError when a pixel is not finite;
        check=False does not look, and so does not wait for a GPU.
        """
        pixels, shape = self.detector.pixels(), self.image_shape
        count = math.prod(shape)
        values = self.pixel_values(pixels, progress=progress, check=False)
        if check and not bool(torch.isfinite(values).all()):
            raise InputError("image", "not finite", "parameters that give finite pixels")
        if pixels is None:
            return values.reshape(shape)
        return torch.zeros(count, dtype=self.dtype, device=self.device).index_put((pixels,), values).reshape(shape)

    def counts(self, seed: int, *, image: int = 0, progress: Progress | None = None) -> Tensor:
        """The image as counted: whole photons, int32, drawn from the Poisson distribution about `run()`.

        image: number of this image among those of the seed. What is drawn for a pixel depends on the seed, this number,
        the place of the pixel and what is expected there, and on nothing else: not on the images drawn before, the
        region of interest or how work is shared among devices. Not differentiable. Raises InputError as `run` does, and
        for a seed or number that is negative. response.photons.recorded_counts adds an offset and saturates.
        """
        with torch.no_grad():
            return poisson_counts(self.run(progress=progress)[None], seed, first_image=image)[0]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(slow, fast), or (panel, slow, fast) when panels are given."""
        shape = self.detector.image_shape
        return (self.detector.panel_count, *shape) if self.detector.config.panels else shape

    def pixel_values(self, pixels: Tensor | None, *, progress: Progress | None = None, check: bool = True) -> Tensor:
        """Values [n] of the flat pixel indices [n] over [panel, slow, fast]; None: all of them, without a list.

        A few pixels cost only their own. Raises InputError for indices that no pixel has; check=False does not look,
        and so does not wait for a GPU.
        """
        if check and pixels is not None:
            _require_pixels(pixels, self.detector.panel_count * math.prod(self.detector.image_shape))
        scene, options = self.scene(), self.options()
        values = operation.intensity(pixels, scene, options, kernel=self.kernel, progress=progress)
        if self.compat.stale_phi:
            listed = self.wanted_pixels() if pixels is None else pixels
            first = first_step(self.crystal, self.geometry.spindle, self.compat, listed, scene, options)
            values = with_first_step(values, first, listed, scene, options)
        added = self.water_values(pixels, scene, options)
        return values if added is None else values + added

    def water_values(self, pixels: Tensor | None, scene: Scene, options: Options) -> Tensor | None:
        """What water around the crystal adds to the pixels [n]; None without water, or when the offset has it (D7)."""
        alone = self.water_scene(scene, options)
        return None if alone is None else operation.intensity(pixels, *alone, kernel=self.kernel)

    def water_scene(self, scene: Scene, options: Options) -> tuple[Scene, Options] | None:
        """The scene whose image is that of the water alone; None without water, or when the offset has it (D7)."""
        if not self._has_water or self.compat.water_once:
            return None
        return water.water_scene(scene, options, self.beam)

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
        config = self.detector.config
        scene = Scene(
            panels=geometry.panels,
            pixel_size=geometry.pixel_size,
            sensor=geometry.sensor,
            curvature=geometry.curvature,
            incident=sources.incident,
            wavelengths=sources.wavelengths,
            source_weights=sources.weights * scale,
            polarization=self.beam.polarization(
                sources.incident,
                geometry.polar,
                unpolarized=self.beam.config.nopolar
                and not (config.oversample_polar and compat.oversample_polar_defeats_nopolar),
            ),
            lattice=lattice,
            lattice_weights=weights,
            shape=shape_matrix(shape, cells, crystal.fudge(), stars, volume),
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
            dmin=self.beam.config.dmin * ANGSTROM,
            interpolate=interpolate,
            point_pixel=config.point_pixel,
            curved=config.curved_detector,
            oversample_omega=config.oversample_omega,
            oversample_polar=config.oversample_polar,
            oversample_thick=config.oversample_thick,
            last_layer_capture=compat.last_layer_capture,
            running_factors=compat.running_factors and per_step,
            interpolation_latch=compat.interpolation_latch and interpolate,
            dtype=self.dtype,
            threads=self.threads,
        )

    def _sources(self, geometry: DetectorGeometry) -> Sources:
        return self.beam.sources(geometry.beam, geometry.polar, self.compat)

    @property
    def _has_water(self) -> bool:
        size = self.beam.config.water_size_um
        return isinstance(size, Tensor) or size != 0


def _require_pixels(pixels: Tensor, count: int) -> None:
    if pixels.is_floating_point() or pixels.is_complex() or pixels.dtype == torch.bool:
        raise InputError("pixels", pixels.dtype, "whole numbers")
    outside = (pixels < 0) | (pixels >= count)
    if not torch.compiler.is_compiling() and bool(outside.any()):
        raise InputError("pixels", int(pixels[outside][0]), f"flat indices from 0 to {count - 1}")
