"""The detector: configuration -> panel vectors, pixel sizes and sensor (section 5), differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.checks import require_model
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import DetectorConfig, DetectorConvention, DetectorPivot
from nanobrag_torch.devices import checked_device
from nanobrag_torch.models.conventions import CONVENTIONS
from nanobrag_torch.models.detector_attributes import DetectorAttributes
from nanobrag_torch.models.panels import panel_pixel_sizes, panel_sensors, panel_vectors
from nanobrag_torch.models.remembered import remembered
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.physics.rotations import axis_rotation, unit, xyz_rotation
from nanobrag_torch.units import DEGREES_PER_RADIAN, MICRON, MM

DEFAULT_DISTANCE_MM = 100.0
SMALLEST = 2.2250738585072014e-308
READ_FOR_PIXELS = (
    "mask_array", "roi_xmin", "roi_xmax", "roi_ymin", "roi_ymax", "oversample", "oversample_omega", "oversample_polar",
    "oversample_thick", "point_pixel", "curved_detector",
)  # fmt: skip
"""Fields of a configuration that say how pixels are read, not where they are."""
READ_FOR_AXES = frozenset((
    "detector_convention", "twotheta_axis", "custom_beam_vector", "custom_fdet_vector", "custom_sdet_vector",
    "custom_odet_vector", "custom_polar_vector", "custom_spindle_axis",
))  # fmt: skip
"""Fields of a configuration that the axes before any rotation follow from."""


@dataclass(frozen=True)
class Axes:
    """Unit vectors of the frame before any rotation [3]; the two-theta axis is as long as it was given."""

    beam: Tensor
    fast: Tensor
    slow: Tensor
    normal: Tensor
    twotheta: Tensor
    polar: Tensor
    spindle: Tensor


class Axis:
    """One of the axes of a geometry."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, geometry: DetectorGeometry, owner: type | None = None) -> Tensor:
        axis: Tensor = getattr(geometry.axes, self.name)
        return axis


@dataclass(frozen=True)
class DetectorGeometry:
    """The detector in the lab frame; metres. The scalars are what headers report (section 5.3, items 4 and 5)."""

    panels: Tensor  # [P, 4, 3] origin, fast, slow, normal
    pixel_size: Tensor  # [P, 2] fast, slow
    sensor: Tensor  # [P, 2] thickness of a layer, attenuation (1/m)
    layers: int
    curvature: Tensor  # [4] beam direction, distance, for a curved detector as the C program has it
    axes: Axes
    distance: Tensor
    close_distance: Tensor
    Fbeam: Tensor
    Sbeam: Tensor
    Fclose: Tensor
    Sclose: Tensor
    image_distance: Tensor  # the distance that automatic oversampling and a curved detector of the C program go by

    def tensors(self) -> dict[str, Tensor]:
        """What a kernel's scene has of it, by name."""
        return {name: getattr(self, name) for name in ("panels", "pixel_size", "sensor", "curvature")}

    @property
    def seen_from_behind(self) -> Tensor:
        """Which panels [P] turn their back to the crystal, or lie where their normal comes from."""
        return seen_from_behind(self.panels)

    beam, polar, spindle, twotheta_axis = map(Axis, ("beam", "polar", "spindle", "twotheta"))
    """Vectors [3] of `axes`: along the incident beam, the polarization, the rotation axis, the two-theta axis."""


def seen_from_behind(panels: Tensor) -> Tensor:
    """Which panels [P, 4, 3] turn their back to the crystal, or lie where their normal comes from: [P]."""
    return (panels[:, 0] * panels[:, 3]).sum(-1) < 0


def _reported(origin: Tensor, fast: Tensor, slow: Tensor, spot: Tensor) -> dict[str, Tensor]:
    """Where the beam and the normal through the sample meet the plane; spot: from the origin to the beam's place."""
    return {"Fbeam": spot @ fast, "Sbeam": spot @ slow, "Fclose": -(origin @ fast), "Sclose": -(origin @ slow)}


class Detector(DetectorAttributes):
    """A detector built from its configuration. Geometry is float64 whatever `dtype`, which is that of attributes."""

    def __init__(
        self,
        config: DetectorConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config if config is not None else DetectorConfig()
        require_model("config", self.config, DetectorConfig)
        self.dtype, self.device = dtype, checked_device(device or "cpu")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.image_shape))
        return f"Detector({self.panel_count} x {shape} pixels, {self.config!r}, {self.device})"

    def invalidate_cache(self) -> None:
        """Nothing to do: what is kept of a detector is never that of other numbers."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """Slow and fast pixels of a panel, of the largest one where they differ."""
        shapes = [(p.spixels, p.fpixels) for p in self.config.panels or (self.config,)]
        return max(s for s, _ in shapes), max(f for _, f in shapes)

    @property
    def panel_count(self) -> int:
        """Number of panels."""
        return max(1, len(self.config.panels))

    @remembered(*(field.name for field in fields(DetectorConfig) if field.name not in READ_FOR_AXES))
    def axes(self, compat: Compat = Compat()) -> Axes:  # noqa: B008  (frozen)
        """The vectors of the convention, or the custom ones."""
        config, defaults = self.config, CONVENTIONS[self.config.detector_convention]
        custom = config.detector_convention is DetectorConvention.CUSTOM
        given = {
            "beam": config.custom_beam_vector,
            "fast": config.custom_fdet_vector,
            "slow": config.custom_sdet_vector,
            "polar": config.custom_polar_vector,
            "spindle": config.custom_spindle_axis,
        }
        vectors = {
            name: unit(self._tensor(value if custom and value is not None else getattr(defaults, name)))
            for name, value in given.items()
        }
        normal, (fast, slow) = self._tensor(defaults.normal), (vectors["fast"], vectors["slow"])
        if custom and config.custom_odet_vector is not None:
            normal = _normal(self._tensor(config.custom_odet_vector), fast, slow)
        elif custom and not compat.normal_stays:
            normal = unit(torch.linalg.cross(fast, slow, dim=-1))
            normal = normal * torch.where(normal @ vectors["beam"] < 0, -1.0, 1.0)
        axis = self._tensor(defaults.twotheta if config.twotheta_axis is None else config.twotheta_axis)
        return Axes(normal=normal, twotheta=axis if compat.raw_twotheta_axis else unit(axis), **vectors)

    @remembered(*READ_FOR_PIXELS)
    def geometry(self, compat: Compat = Compat()) -> DetectorGeometry:  # noqa: B008
        """Panel vectors and reported values, section 5.2 and 5.3."""
        if self.config.panels:
            return self._panel_geometry(compat)
        config, axes = self.config, self.axes(compat)
        turn_xyz = xyz_rotation(self._angles("detector_rotx_deg", "detector_roty_deg", "detector_rotz_deg"))
        two_theta = self._angles("detector_twotheta_deg")[0]
        turn = axis_rotation(axes.twotheta, two_theta) @ turn_xyz
        fast, slow, normal = turn @ axes.fast, turn @ axes.slow, turn @ axes.normal
        ratio = _not_zero(axes.beam @ (turn_xyz @ axes.normal))
        distance, close = self._distances(ratio)
        origin = self._origin(axes, turn, (fast, slow), distance, close)
        close = origin @ normal
        reported = ratio if compat.distance_before_twotheta else _not_zero(axes.beam @ normal)
        spot = close / reported * axes.beam - origin
        image_distance = close / ratio
        size = self._tensor(config.pixel_size_mm) * MM
        layers, sensor = self.sensor(compat)
        return DetectorGeometry(
            panels=torch.stack((origin, fast, slow, normal))[None],
            pixel_size=torch.stack((size, size))[None],
            sensor=sensor[None],
            layers=layers,
            curvature=torch.cat((axes.beam, image_distance[None])),
            axes=axes,
            distance=close / reported,
            close_distance=close,
            **_reported(origin, fast, slow, spot),
            image_distance=image_distance,
        )

    @property
    def layers(self) -> int:
        """Number of sensor layers."""
        config = self.config
        return (
            panel_sensors(config.panels, config.detector_thicksteps, self.device)[0]
            if config.panels
            else self.sensor()[0]
        )

    def sensor(self, compat: Compat = Compat()) -> tuple[int, Tensor]:  # noqa: B008
        """Number of layers and [2]: thickness of one (m) and attenuation (1/m) (section 3.4)."""
        config = self.config
        depth = config.detector_abs_um
        absorbing = depth is None or isinstance(depth, Tensor) or depth not in (0, math.inf)
        thick = self._tensor(config.detector_thick_um) * MICRON
        if not absorbing or _is_zero(config.detector_thick_um):
            return 1, torch.zeros(2, dtype=torch.float64, device=self.device)
        layers = 2 if config.detector_thicksteps is None else max(2, config.detector_thicksteps)
        overshoot = compat.layers_overshoot and config.detector_thicksteps is not None
        step = thick / (layers - 1 if overshoot else layers)
        attenuation = 1 / thick if depth is None else 1 / (self._tensor(depth) * MICRON)
        return layers, torch.stack((step, attenuation))

    def pixels(self) -> Tensor | None:
        """Flat indices [n] of the pixels inside the region of interest and the masks; None when all are."""
        config = self.config
        if config.panels:
            return self._pixels_of_panels()
        slow_count, fast_count = self.image_shape
        x, y = (
            roi_bounds(config.roi_xmin, config.roi_xmax, fast_count),
            roi_bounds(config.roi_ymin, config.roi_ymax, slow_count),
        )
        if config.mask_array is None and x == (0, fast_count - 1) and y == (0, slow_count - 1):
            return None
        wanted = torch.zeros(self.image_shape, dtype=torch.bool, device=self.device)
        wanted[y[0] : y[1] + 1, x[0] : x[1] + 1] = True
        if config.mask_array is not None:
            wanted &= torch.as_tensor(config.mask_array, device=self.device) != 0
        return wanted.flatten().nonzero().squeeze(-1)

    def _panel_geometry(self, compat: Compat) -> DetectorGeometry:
        """Geometry of given panels; the reported values are those of the first."""
        axes, config = self.axes(compat), self.config
        panels = panel_vectors(config.panels, config.groups, self.device)
        origin, fast, slow, normal = panels[0].unbind(0)
        close = origin @ normal
        distance = close / _not_zero(axes.beam @ normal)
        spot = distance * axes.beam - origin
        layers, sensor = panel_sensors(config.panels, config.detector_thicksteps, self.device)
        return DetectorGeometry(
            panels=panels,
            pixel_size=panel_pixel_sizes(config.panels, self.device),
            sensor=sensor,
            layers=layers,
            curvature=torch.cat((axes.beam, distance[None])),
            axes=axes,
            distance=distance,
            close_distance=close,
            **_reported(origin, fast, slow, spot),
            image_distance=distance,
        )

    def _pixels_of_panels(self) -> Tensor | None:
        slow_count, fast_count = self.image_shape
        alike = all((p.spixels, p.fpixels) == (slow_count, fast_count) for p in self.config.panels)
        if alike and all(panel.mask_array is None for panel in self.config.panels):
            return None
        wanted = torch.zeros((self.panel_count, slow_count, fast_count), dtype=torch.bool, device=self.device)
        for panel, inside in zip(self.config.panels, wanted, strict=True):
            inside[: panel.spixels, : panel.fpixels] = True
            if panel.mask_array is not None:
                given = torch.as_tensor(panel.mask_array, device=self.device) != 0
                inside[: panel.spixels, : panel.fpixels] &= given
        return None if bool(wanted.all()) else wanted.flatten().nonzero().squeeze(-1)

    def _tensor(self, value: Any) -> Tensor:
        return as_tensor(value, self.device)

    def _angles(self, *names: str) -> Tensor:
        return torch.stack([self._tensor(getattr(self.config, name)) for name in names]) / DEGREES_PER_RADIAN

    def _distances(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Distance along the beam and along the normal (m); a given close distance decides both."""
        config = self.config
        if config.close_distance_mm is not None:
            close = self._tensor(config.close_distance_mm) * MM
        else:
            given = DEFAULT_DISTANCE_MM if config.distance_mm is None else config.distance_mm
            close = torch.abs(ratio * self._tensor(given) * MM)
        return close / ratio, close

    def _origin(
        self, axes: Axes, turn: Tensor, in_plane: tuple[Tensor, Tensor], distance: Tensor, close: Tensor
    ) -> Tensor:
        """Outer corner of the first pixel [3] (m)."""
        if self.config.pix0_vector_mm is not None:
            return self._tensor(self.config.pix0_vector_mm) * MM
        along_fast, along_slow = self.beam_centre()
        if self.pivot is DetectorPivot.SAMPLE:
            return turn @ (close * axes.normal - along_fast * axes.fast - along_slow * axes.slow)
        return distance * axes.beam - along_fast * in_plane[0] - along_slow * in_plane[1]

    @property
    def pivot(self) -> DetectorPivot:
        """What stays where it is when the detector turns: as configured, or by convention."""
        chosen = self.config.detector_pivot
        return CONVENTIONS[self.config.detector_convention].pivot if chosen is None else chosen

    def beam_centre(self) -> tuple[Tensor, Tensor]:
        """Fast and slow coordinate (m) of the point that the pivot keeps, from the convention's own numbers."""
        config, kind = self.config, self.config.detector_convention
        pixel = self._tensor(config.pixel_size_mm) * MM
        slow_size, half = config.spixels * pixel, default_centre(config, self.device)
        fast = half[0] if config.beam_center_f is None else self._tensor(config.beam_center_f) * MM
        slow = half[1] if config.beam_center_s is None else self._tensor(config.beam_center_s) * MM
        if kind is DetectorConvention.MOSFLM:
            return fast + pixel / 2, slow + pixel / 2
        return fast, slow_size - slow if kind is DetectorConvention.ADXV else slow


def default_centre(config: DetectorConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """beam_center_f and beam_center_s (m) where none are given, in the convention's own numbers."""
    pixel = as_tensor(config.pixel_size_mm, device) * MM
    fast_size, slow_size = config.fpixels * pixel, config.spixels * pixel
    return {
        DetectorConvention.MOSFLM: ((fast_size + pixel) / 2, (slow_size + pixel) / 2),
        DetectorConvention.DENZO: ((fast_size + pixel) / 2, (slow_size + pixel) / 2),
        DetectorConvention.ADXV: ((fast_size + pixel) / 2, (slow_size - pixel) / 2),
    }.get(config.detector_convention, (fast_size / 2, slow_size / 2))


def roi_bounds(low: int | None, high: int | None, count: int) -> tuple[int, int]:
    """First and last pixel of an inclusive region; None or negative: from the start, to the end."""
    return (
        0 if low is None or low < 0 else min(low, count),
        count - 1 if high is None or high < 0 else min(high, count - 1),
    )


def _normal(given: Tensor, fast: Tensor, slow: Tensor) -> Tensor:
    """The given normal if it is exactly of unit length, otherwise fast x slow (section 5.1)."""
    exact = torch.sqrt((given * given).sum()) == 1
    return torch.where(exact, given, unit(torch.linalg.cross(fast, slow, dim=-1)))


def _not_zero(value: Tensor) -> Tensor:
    return torch.where(value == 0, torch.full_like(value, SMALLEST), value)


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0
