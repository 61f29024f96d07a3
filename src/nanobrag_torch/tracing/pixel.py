"""Intermediate values of one pixel, recorded from the reference kernel while it renders that pixel alone.

Nothing is computed a second time here: values are what the kernel used, turned into the units and names that the C
program prints. Vectors of the rotated reciprocal lattice are the dual basis of the lattice that the kernel used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from nanobrag_torch.compat import Compat
from nanobrag_torch.compat_phi import first_step
from nanobrag_torch.errors import InputError
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.kernels.reference import Record, intensity, recorded
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector, DetectorGeometry
from nanobrag_torch.physics.lattice_factor import Profile, amplitude
from nanobrag_torch.physics.unit_cell import dual
from nanobrag_torch.tracing.log import Trace, Values
from nanobrag_torch.units import ANGSTROM, DEGREES_PER_RADIAN, R_E_SQUARED

MOST_STEPS = 5_000_000
"""Steps of one pixel whose values are kept at once, some hundred bytes each."""


class Rendering(Protocol):
    """A Simulator, as far as a trace looks at it."""

    crystal: Crystal
    detector: Detector
    beam: Beam
    compat: Compat
    device: torch.device
    dtype: torch.dtype

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(slow, fast), or (panel, slow, fast)."""

    @property
    def oversample(self) -> int:
        """Sub-pixels along an edge."""

    @property
    def geometry(self) -> DetectorGeometry:
        """Panel vectors and reported distances."""

    @property
    def cells(self) -> Tensor:
        """Number of cells along a, b, c [3]."""

    @property
    def steps(self) -> int:
        """Steps of a pixel."""

    def scene(self) -> Scene:
        """The tensors that a kernel is given."""

    def options(self) -> Options:
        """What a kernel is told."""

    def wanted_pixels(self) -> Tensor:
        """Flat indices [n] in the order of rendering."""

    def water_scene(self, scene: Scene, options: Options) -> tuple[Scene, Options] | None:
        """The scene of the water alone."""


@dataclass(frozen=True)
class Step:
    """Which of several steps to show; -1 is the last, whose values the C program still holds when it prints."""

    layer: int = -1
    subpixel: int = -1
    source: int = -1
    domain: int = -1


def trace_pixel(
    simulator: Rendering,
    slow: int,
    fast: int,
    *,
    panel: int = 0,
    step: Step = Step(),  # noqa: B008  (frozen)
    rot_stars: bool = False,
) -> Trace:
    """Everything on the way to one pixel; lengths, names and signs as the C program's trace has them.

    rot_stars: reciprocal vectors of every phi step too. A pixel outside the region of interest or the mask is traced as
    if it were inside. Raises InputError for a panel, pixel or step that there is not.
    """
    slow_count, fast_count = simulator.detector.image_shape
    if not 0 <= panel < simulator.detector.panel_count:
        raise InputError("panel", panel, f"0 to {simulator.detector.panel_count - 1}")
    if not (0 <= slow < slow_count and 0 <= fast < fast_count):
        raise InputError("--pixel", (slow, fast), f"slow 0 to {slow_count - 1}, fast 0 to {fast_count - 1}")
    with torch.no_grad():
        look = _Look(simulator, (panel * slow_count + slow) * fast_count + fast, step)
        steps = [look.phi_step(tic, rot_stars) for tic in range(look.phi_count)]
        values = {name: _numbers(value) for name, value in look.values()}
    return Trace(values, steps)


class _Look:
    """One pixel rendered with a record, and the step of it that is shown."""

    def __init__(self, simulator: Rendering, pixel: int, step: Step) -> None:
        self.simulator = simulator
        self.scene, self.options = simulator.scene(), simulator.options()
        self.pixel = torch.tensor([pixel], device=simulator.device)
        self.panel = pixel // math.prod(simulator.detector.image_shape)
        _check_size(self.scene, self.options)
        fresh = _fresh_lattice(simulator, self.pixel, self.scene, self.options)
        value, self.record = recorded(self.pixel, self.scene, self.options, fresh)
        water = simulator.water_scene(self.scene, self.options)
        self.water = None if water is None else intensity(self.pixel, *water)
        self.value = value if self.water is None else value + self.water
        self.phi_count = simulator.crystal.config.phi_steps
        self.layer, self.subpixel, self.source, self.domain = self._place(step)

    def _place(self, step: Step) -> tuple[int, ...]:
        _, layers, subpixels, sources, lattices = self.record["terms"].shape
        counts = (layers, subpixels, sources, lattices // self.phi_count)
        asked = [getattr(step, item.name) for item in fields(step)]
        for item, index, count in zip(fields(step), asked, counts, strict=True):
            if not -count <= index < count:
                raise InputError(f"--{item.name}", index, f"0 to {count - 1}, or -1 for the last")
        return tuple(index % count for index, count in zip(asked, counts, strict=True))

    def of_subpixel(self, name: str) -> Tensor:
        """A recorded value of the sub-pixel that is shown."""
        return self.record[name][0, self.layer, self.subpixel]

    def of_source(self, name: str) -> Tensor:
        """A recorded value of the source that is shown."""
        return self.of_subpixel(name)[self.source]

    def of_lattice(self, name: str, tic: int = -1) -> Tensor:
        """A recorded value of the domain that is shown, at one phi step."""
        return self.of_source(name)[tic % self.phi_count * (len(self.of_source(name)) // self.phi_count) + self.domain]

    def values(self) -> Iterator[tuple[str, Tensor | float]]:
        """Names and values in the order of the computation."""
        yield from self._geometry()
        yield from self._scattering()
        yield from self._crystal()
        yield from self._intensity()

    def _geometry(self) -> Iterator[tuple[str, Tensor | float]]:
        origin, fast, slow, normal = self.scene.panels[self.panel]
        close, radius = self.record["close_distance"][0], self.of_subpixel("radius")
        yield "pix0_vector_meters", origin
        yield "fdet_vec", fast
        yield "sdet_vec", slow
        yield "odet_vec", normal
        yield "pixel_pos_meters", self.of_subpixel("position")
        yield "R_distance_meters", radius
        yield "omega_pixel_sr", self.of_subpixel("omega")
        yield "close_distance_meters", close
        yield "obliquity_factor", close / radius

    def _scattering(self) -> Iterator[tuple[str, Tensor | float]]:
        wavelength = self.scene.wavelengths[self.source]
        yield "diffracted_vec", self.of_subpixel("direction")
        yield "incident_vec", self.scene.incident[self.source]
        yield "lambda_meters", wavelength
        yield "lambda_angstroms", wavelength / ANGSTROM
        yield "scattering_vec_A_inv", self.of_source("q")

    def _crystal(self) -> Iterator[tuple[str, Tensor | float]]:
        for name, row in zip("abc", self.of_lattice("lattice"), strict=True):
            yield f"rot_{name}_angstroms", row / ANGSTROM
        _, stars, _ = self.simulator.crystal.cell(self.simulator.compat)
        for name, star in zip("abc", stars, strict=True):
            yield f"rot_{name}_star_A_inv", star
        yield "hkl_frac", self.of_lattice("hkl")
        yield "hkl_rounded", self.of_lattice("nearest")
        yield from self._lattice_factor(self.phi_count - 1)
        if "interpolated" in self.record:
            yield from self._neighbourhood()
        yield "F_cell", self.of_lattice("F_cell")

    def _lattice_factor(self, tic: int) -> Iterator[tuple[str, Tensor]]:
        """Signs as sin(pi N h) / sin(pi h) has them; the kernel takes h from the nearest integer, up to a sign."""
        factor = self.of_lattice("F_latt", tic) * amplitude(self.simulator.crystal.config.shape, self.simulator.cells)
        if self.options.profile is Profile.GRATING:
            flips = torch.remainder((self.simulator.cells - 1) * self.of_lattice("nearest", tic), 2) == 1
            sign = torch.where(flips, -1.0, 1.0)
            for name, axis in zip("abc", self.of_lattice("F_latt_axes", tic) * sign, strict=True):
                yield f"F_latt_{name}", axis
            factor = factor * sign.prod()
        yield "F_latt", factor

    def _neighbourhood(self) -> Iterator[tuple[str, Tensor]]:
        yield "interpolated", self.of_lattice("interpolated")
        yield "tricubic_first_hkl", self.of_lattice("cubic_first")
        for name, weights in zip("hkl", self.of_lattice("cubic_weights"), strict=True):
            yield f"tricubic_weights_{name}", weights
        yield "tricubic_F", self.of_lattice("cubic_values")

    def _intensity(self) -> Iterator[tuple[str, Tensor | float]]:
        detector, steps = self.simulator.detector.config, float(self.simulator.steps)
        fluence = self.simulator.beam.fluence()
        per_photon = steps / (R_E_SQUARED * fluence)
        before, after = _sums(self.record, self.scene)
        yield "I_before_scaling_pre_polar", before * per_photon
        yield "I_before_scaling_post_polar", after * per_photon
        yield "I_before_scaling", self.record.get("running_sum", before) * per_photon
        yield "r_e_meters", math.sqrt(R_E_SQUARED)
        yield "r_e_sqr", R_E_SQUARED
        yield "fluence_photons_per_m2", fluence
        yield "steps", steps
        yield "oversample_thick", float(detector.oversample_thick)
        yield "oversample_polar", float(detector.oversample_polar)
        yield "oversample_omega", float(detector.oversample_omega)
        yield "capture_fraction", self.of_subpixel("capture_used")
        yield "polar", self.of_source("polar_used")
        yield "omega_pixel", self.of_subpixel("omega_used")
        yield "cos_2theta", self.scene.incident[self.source] @ self.of_subpixel("direction")
        if self.water is not None:
            yield "I_water", self.water
        yield "I_pixel_final", self.value
        yield "floatimage_accumulated", self.value.to(torch.float32)

    def phi_step(self, tic: int, rot_stars: bool) -> dict[str, float]:
        """The table of one phi step."""
        angle = self.simulator.crystal.phi_radians()[tic] * DEGREES_PER_RADIAN
        table = {"phi_tic": float(tic), "phi_deg": float(angle)}
        if rot_stars:
            stars, _ = dual(self.of_lattice("lattice", tic) / ANGSTROM)
            table |= {
                f"{name}_star_{axis}": float(x)
                for name, star in zip("abc", stars, strict=True)
                for axis, x in zip("xyz", star, strict=True)
            }
        hkl = self.of_lattice("hkl", tic)
        table |= {f"{axis}_frac": float(x) for axis, x in zip("hkl", hkl, strict=True)}
        table |= {name: float(x) for name, x in self._lattice_factor(tic)}
        return table | {"F_cell": float(self.of_lattice("F_cell", tic))}


def _check_size(scene: Scene, options: Options) -> None:
    steps = options.layers * options.oversample**2 * scene.incident.shape[0] * scene.lattice.shape[0]
    if steps > MOST_STEPS:
        raise InputError(
            "-oversample, -mosaic_domains, -phisteps, sources",
            f"{steps} steps in one pixel",
            f"{MOST_STEPS} at most for a trace",
        )


def _fresh_lattice(simulator: Rendering, pixel: Tensor, scene: Scene, options: Options) -> Tensor | None:
    """The true lattices, for the one pixel of the image that begins with them under the C program's stale phi (D2)."""
    pixels = simulator.wanted_pixels()
    spindle = simulator.geometry.spindle
    first = first_step(simulator.crystal, spindle, simulator.compat, pixels, scene, options)
    if first is None or int(pixels[first[0]]) != int(pixel):
        return None
    return first[1]


def _sums(record: Record, scene: Scene) -> tuple[Tensor, Tensor]:
    """Weighted sum of F^2 L^2 over all steps of the pixel, and the same with each step's polarization."""
    terms = record["terms"][0].to(torch.float64) * scene.lattice_weights  # [L, J, S, K]
    terms = torch.where(record["seen"][0], terms.sum(-1), 0.0) * scene.source_weights / terms.shape[1]
    polar = record["polar_used"][0]
    return terms.sum() + scene.offset, (terms * polar).sum() + scene.offset * polar[0, 0, 0]


def _numbers(value: Tensor | float) -> Values:
    flat = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    return tuple(flat.tolist())
