"""The gradient table: the derivative of the image by every parameter, held against central differences.

A row is a parameter of a configuration, tried on the three scenes of nanobrag_torch.testing (with what it needs added:
a thickness for an attenuation, several phi steps for an oscillation). The figure is the largest difference between the
gradient and a fourth-order central difference of the reference kernel, over the largest slope of the parameter. Pixels
within EDGE of a boundary between two nearest reflections are left out: the model jumps there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.config import CrystalShape, DetectorConvention, MosaicSampling
from nanobrag_torch.kernels.reference import lattice_terms, look_at_pixels
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.testing import EXAMPLES, Example, random_table

EDGE = 1e-3
STEP = 4e-6

Values = Callable[[Example], Any]


@dataclass(frozen=True)
class Parameter:
    """A row: the fields that become tensors (one value, or one for each scene), and what the scene needs beside."""

    name: str
    value: Any  # a number, a sequence, or a function of the scene
    needs: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Example], Example] | None = None

    def scene(self, base: Example) -> Example:
        """The scene with what the parameter needs."""
        needed = base.with_fields(**self.needs)
        return needed if self.prepare is None else self.prepare(needed)

    def start(self, scene: Example) -> Tensor:
        """The value at which the gradient is taken."""
        value = self.value(scene) if callable(self.value) else self.value
        return torch.as_tensor(value, dtype=torch.float64)


def _from_matrix(scene: Example) -> Example:
    tensors = Crystal(scene.crystal, dtype=torch.float64).compute_cell_tensors()
    stars = {f"mosflm_{axis}_star": tensors[f"{axis}_star"] for axis in "abc"}
    return scene.with_fields(cell_a=None, cell_b=None, cell_c=None, misset_deg=(0.0, 0.0, 0.0), **stars)


def _with_table(scene: Example) -> Example:
    return scene if scene.table is not None else replace(scene, table=random_table(31))


def _custom(scene: Example) -> Example:
    """The same frame given by vectors of its own."""
    axes = Detector(scene.detector).axes()
    names = {"beam": "beam_vector", "fast": "fdet_vector", "slow": "sdet_vector", "normal": "odet_vector"}
    vectors = {f"custom_{name}": getattr(axes, key) for key, name in names.items()}
    centre = [float(x) * 1000 for x in Detector(scene.detector).beam_centre()]
    return scene.with_fields(
        detector_convention=DetectorConvention.CUSTOM,
        beam_center_f=centre[0],
        beam_center_s=centre[1],
        custom_polar_vector=axes.polar,
        custom_spindle_axis=axes.spindle,
        **vectors,
    )


def _field(name: str) -> Values:
    """The value that the scene's configuration has now."""

    def value(scene: Example) -> Any:
        part = next(p for p in (scene.crystal, scene.detector, scene.beam) if hasattr(p, name))
        return getattr(part, name)

    return value


def _cell_length(index: int) -> Values:
    return lambda scene: float(Crystal(scene.crystal).cell_parameters()[0][index])


def _centre(index: int) -> Values:
    """Near the middle of the detector, whatever the convention."""

    def value(scene: Example) -> float:
        config = scene.detector
        return 0.53 * float(config.pixel_size_mm) * (config.fpixels, config.spixels)[index]

    return value


def _origin_mm(scene: Example) -> Tensor:
    return Detector(scene.detector).geometry().panels[0, 0] * 1000


_GRID = {"hdiv_steps": 2, "vdiv_steps": 2, "hdiv_range_mrad": 4.0, "vdiv_range_mrad": 3.0}
_TABLE_OF_SOURCES = {
    "source_directions": ((-9.9, 0.3, 0.2), (-10.0, -0.1, 0.4), (-9.8, 0.2, -0.1)),
    "source_wavelengths": (0.99, 1.0, 1.02),
    "source_weights": (1.0, 2.0, 0.5),
}
_XDS_SOURCES = {**_TABLE_OF_SOURCES, "source_directions": ((0.3, 0.2, -9.9), (-0.1, 0.4, -10.0), (0.2, -0.1, -9.8))}
_SWEEP = {"phi_steps": 3, "osc_range_deg": 2.0, "phi_start_deg": 3.0}
_MOSAIC = {"mosaic_domains": 5, "mosaic_spread_deg": 0.8}
_RULE = {"mosaic_domains": 6, "mosaic_spread_deg": 0.8, "mosaic_sampling": MosaicSampling.QUADRATURE}
_THICK = {"detector_thick_um": 400.0, "detector_abs_um": 300.0, "detector_thicksteps": 3}
_TURNED = {"detector_rotx_deg": 3.0, "detector_roty_deg": -2.0, "detector_rotz_deg": 4.0, "detector_twotheta_deg": 6.0}
_LOOSE = {"cell_alpha": 84.0, "cell_beta": 97.0, "cell_gamma": 101.0}
_TENSOR_SPREAD = ((0.8, 0.1, -0.2), (0.1, 0.6, 0.15), (-0.2, 0.15, 0.5))


def _sources(scene: Example) -> Example:
    along_x = float(Detector(scene.detector).axes().beam[0]) > 0.5
    return scene.with_fields(**(_TABLE_OF_SOURCES if along_x else _XDS_SOURCES))


PARAMETERS: tuple[Parameter, ...] = (
    *(Parameter(f"cell_{axis}", _cell_length(i), _LOOSE) for i, axis in enumerate("abc")),
    *(Parameter(f"cell_{angle}", _field(f"cell_{angle}"), _LOOSE) for angle in ("alpha", "beta", "gamma")),
    Parameter("misset_deg", _field("misset_deg")),
    *(Parameter(f"mosflm_{a}_star", _field(f"mosflm_{a}_star"), prepare=_from_matrix) for a in "abc"),
    Parameter("orientation_vector_deg", (0.4, -0.3, 0.2)),
    Parameter("orientation_quaternion", (1.0, 0.003, -0.002, 0.004)),
    Parameter("phi_start_deg", 3.0, _SWEEP),
    Parameter("osc_range_deg", 2.0, _SWEEP),
    Parameter("spindle_axis", (0.2, 0.3, 0.9), _SWEEP),
    Parameter("mosaic_spread_deg", 0.8, _MOSAIC),
    Parameter("mosaic_spread_deg (quadrature)", 0.8, _RULE),
    Parameter("mosaic_spread_deg (three axes)", (0.8, 0.5, 0.3), _RULE),
    Parameter("mosaic_spread_deg (3 x 3)", _TENSOR_SPREAD, _MOSAIC),
    Parameter("N_cells", (4.3, 5.2, 3.4)),
    Parameter("N_cells (gauss)", (4.3, 5.2, 3.4), {"shape": CrystalShape.GAUSS, "fudge": 0.01}),
    Parameter("fudge (round)", 0.8, {"shape": CrystalShape.ROUND}),
    Parameter("fudge (gauss)", 0.01, {"shape": CrystalShape.GAUSS}),
    Parameter("fudge (gauss_hkl)", 0.9, {"shape": CrystalShape.GAUSS_HKL}),
    Parameter("fudge (gauss_star)", 0.9, {"shape": CrystalShape.GAUSS_STAR}),
    Parameter("default_F", 80.0, prepare=lambda scene: replace(scene, table=None)),
    Parameter("F_scale", 1.3),
    Parameter("B_factor_A2", 15.0, prepare=_with_table),
    Parameter("wavelength_A", _field("wavelength_A")),
    Parameter("dispersion_pct", 1.5, {"dispersion_steps": 2}),
    Parameter("hdiv_range_mrad", 4.0, _GRID),
    Parameter("vdiv_range_mrad", 3.0, _GRID),
    Parameter("source_directions", _field("source_directions"), prepare=_sources),
    Parameter("source_wavelengths", _field("source_wavelengths"), prepare=_sources),
    Parameter("source_weights", _field("source_weights"), prepare=_sources),
    Parameter("polarization_factor", 0.7),
    Parameter("polarization_axis", (0.3, 0.9, 0.4), {"polarization_factor": 0.7}),
    Parameter("fluence", 1.3e29),
    Parameter("flux", 1e12, {"beamsize_mm": 0.05}),
    Parameter("exposure", 0.7, {"flux": 1e12}),
    Parameter("beamsize_mm", 0.07, {"flux": 1e12}),
    Parameter("water_size_um", 0.02),
    Parameter("distance_mm", 92.0, {**_TURNED, "close_distance_mm": None}),
    Parameter("close_distance_mm", 88.0, _TURNED),
    Parameter("beam_center_f", _centre(0), _TURNED),
    Parameter("beam_center_s", _centre(1), _TURNED),
    *(Parameter(name, value, _TURNED) for name, value in _TURNED.items()),
    Parameter("twotheta_axis", (0.2, -0.4, 0.7), _TURNED),
    Parameter("pixel_size_mm", 0.8, _TURNED),
    Parameter("pix0_vector_mm", _origin_mm, _TURNED),
    *(
        Parameter(f"custom_{name}", _field(f"custom_{name}"), prepare=_custom)
        for name in ("fdet_vector", "sdet_vector", "beam_vector")
    ),
    Parameter("custom_odet_vector (not of unit length: unused)", (1.5, 0.2, 0.1), prepare=_custom),
    Parameter("custom_polar_vector", _field("custom_polar_vector"), {"polarization_factor": 0.7}, prepare=_custom),
    Parameter("custom_spindle_axis", (0.1, 0.2, 0.95), {**_SWEEP, "spindle_axis": None}, prepare=_custom),
    Parameter("detector_thick_um", 400.0, _THICK),
    Parameter("detector_abs_um", 300.0, _THICK),
)
"""Every real-valued field. Panels and groups have rows of their own in the tests of panels."""

TABLE_ROW = "F of every reflection"


def field_name(parameter: Parameter) -> str:
    """The field of a row: its name without the remark in brackets."""
    return parameter.name.split(" (")[0]


def smooth_weights(scene: Example, seed: int = 0) -> Tensor:
    """Random weights of the image's pixels, zero where a step is within EDGE of a boundary between reflections."""
    simulator = scene.simulator(kernel="reference")
    tensors, options, pixels = simulator.scene(), simulator.options(), simulator.wanted_pixels()
    record: dict[str, Tensor] = {}
    lattice_terms(look_at_pixels(pixels, tensors, options).q, tensors, options, record=record)
    distance = (record["hkl"] - record["nearest"]).abs()
    near = (distance > 0.5 - EDGE).flatten(1).any(1)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(pixels.numel(), generator=generator, dtype=torch.float64)
    return torch.where(near, torch.zeros_like(weights), weights).reshape(simulator.image_shape)


def gradient(scene: Example, name: str, value: Tensor, weights: Tensor, **options: Any) -> Tensor:
    """Gradient of the weighted sum of the image by the field `name` at `value`, through the kernel chosen."""
    leaf = value.clone().requires_grad_()
    image = scene.with_fields(**{name: leaf}).simulator(**options).run()
    (slope,) = torch.autograd.grad((image.double() * weights).sum(), leaf)
    return slope


def central_difference(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Fourth-order central difference of a scalar function by every element of `value`."""
    slopes = torch.zeros_like(value).flatten()
    sizes = STEP * value.abs().amax().expand(value.numel())
    for i, size in enumerate(sizes):
        unit = torch.zeros_like(slopes)
        unit[i] = size
        ends = [function(value + k * unit.reshape(value.shape)) for k in (-2, -1, 1, 2)]
        slopes[i] = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * size)
    return slopes.reshape(value.shape)


def differences(parameter: Parameter, base: Example, **options: Any) -> dict[str, float]:
    """How far the gradient of each kernel and dtype in `options` (name -> Simulator options) is from the difference."""
    scene = parameter.scene(base)
    name, value = field_name(parameter), parameter.start(scene)
    weights = smooth_weights(scene.with_fields(**{name: value}))

    def total(at: Tensor) -> Tensor:
        return (scene.with_fields(**{name: at}).simulator(kernel="reference").run() * weights).sum()

    expected = central_difference(total, value)
    found = {key: gradient(scene, name, value, weights, **chosen) for key, chosen in options.items()}
    floor = 1e-10 * float(total(value).abs() / value.abs().max())
    return {key: relative_difference(slope, expected, floor) for key, slope in found.items()}


def relative_difference(actual: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Largest difference over the largest expected value; a difference below the noise `floor` counts as none."""
    apart, top = float((actual - expected).abs().max()), float(expected.abs().max())
    return 0.0 if apart <= floor else apart / max(top, floor)


def table_differences(base: Example, **options: Any) -> dict[str, float]:
    """The same for the table of amplitudes, along random directions in it."""
    scene = _with_table(base)
    weights = smooth_weights(scene)
    assert scene.table is not None
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(scene.table.shape, generator=generator, dtype=torch.float64)

    def total(table: Tensor, **chosen: Any) -> Tensor:
        return (replace(scene, table=table).simulator(**chosen).run().double() * weights).sum()

    table = scene.table
    one = torch.ones((), dtype=torch.float64)  # the derivative at table + 1 * direction - direction
    expected = central_difference(lambda t: total(table + (t - 1) * direction, kernel="reference"), one)
    found = {}
    for key, chosen in options.items():
        leaf = table.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total(leaf, **chosen), leaf)
        found[key] = relative_difference((slope * direction).sum(), expected)
    return found


def rows() -> list[str]:
    """Names of all rows."""
    return [*(parameter.name for parameter in PARAMETERS), TABLE_ROW]


def row(name: str, **options: Any) -> dict[str, dict[str, float]]:
    """One row of the table: scene -> kernel -> difference."""
    found = {}
    for title, maker in EXAMPLES.items():
        if name == TABLE_ROW:
            found[title] = table_differences(maker(), **options)
        else:
            parameter = next(p for p in PARAMETERS if p.name == name)
            found[title] = differences(parameter, maker(), **options)
    return found
