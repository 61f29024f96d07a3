"""What a kernel is given: a scene of small tensors and a frozen set of options (design: the one equation).

    I(pixel) = mean over sub-pixels of sum over [layer, source, lattice] of
               source weight * lattice weight * capture * omega * P * F(hkl)^2 * L(hkl)^2

with d = unit(position), q = (d - s) / lambda, (h, k, l) = lattice q. The kernels know tensors only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanobrag_torch.physics.lattice_factor import Profile

EXACT = (torch.float64,)
EITHER = (torch.float64, torch.float32)


def sized(*shape: int | str, dtypes: tuple[torch.dtype, ...] = EXACT) -> Any:
    """A tensor of a scene, with the shape and the types that kernels rely on: a letter stands for any length, the same
    wherever it stands."""
    return field(metadata={"shape": shape, "dtypes": dtypes})


@dataclass(frozen=True)
class Scene:
    """The differentiable inputs, lengths in metres. What kernels, operators and gradients know of them is here.

    A tensor added to the fields is an argument of the operators, and has its gradient by its name. In a batch of
    scenes any of them may have an axis more, in front, of the length of the batch; the others are those of all scenes.
    """

    panels: Tensor = sized("P", 4, 3)  # origin (outer corner of the first pixel), fast, slow, normal
    pixel_size: Tensor = sized("P", 2)  # fast, slow
    sensor: Tensor = sized("P", 2)  # thickness of a layer, attenuation (1/m); thickness 0: everything is captured
    curvature: Tensor = sized(4)  # beam direction and distance; used by a curved detector alone
    incident: Tensor = sized("S", 3)  # unit vectors along the beam
    wavelengths: Tensor = sized("S")
    source_weights: Tensor = sized("S")  # fluence and the amplitude of the lattice factor are in here
    polarization: Tensor = sized("S", 3, 3)  # M of P = (1 + d^T M d) / 2
    lattice: Tensor = sized("K", 3, 3)  # rows a, b, c; phi outermost, mosaic domain innermost
    lattice_weights: Tensor = sized("K")
    shape: Tensor = sized(3, 3)  # diag(N) or Q, see physics.lattice_factor
    structure_factors: Tensor = sized("H", "K'", "L", dtypes=EITHER)  # amplitudes, or no element at all
    default_F: Tensor = sized()  # amplitude outside the table
    offset: Tensor = sized()  # added once a pixel to the sum, before omega, P and capture (water in the C program)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the order of the fields."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def named(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of the fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def to(self, device: torch.device) -> Scene:
        """The same scene on another device; copies to a GPU do not wait for what it is doing."""
        return Scene(*(tensor.to(device, non_blocking=device.type == "cuda") for tensor in self.tensors()))

    def stacked(self) -> tuple[str, ...]:
        """Names of the tensors that have a batch axis."""
        return tuple(name for name, rank in RANKS.items() if getattr(self, name).dim() > rank)


RANKS = {entry.name: len(entry.metadata["shape"]) for entry in fields(Scene)}
"""Axes of the tensors of a scene by name, without that of a batch."""

CUTS = {torch.float32: 1e-10, torch.float64: 1e-17}
"""Shares of the peak of a spot that vanishes, a Gaussian, which an image of each type can do without.

A pixel loses at most so much of what all its steps would give on the strongest reflection of the table.
"""


@dataclass(frozen=True)
class Options:
    """What selects code, not values. Cached factors come from the first sub-pixel, layer and source (section 8)."""

    image_shape: tuple[int, int]  # slow, fast pixels of a panel
    profile: Profile
    hkl_first: tuple[int, int, int] = (0, 0, 0)  # indices of structure_factors[0, 0, 0]
    oversample: int = 1  # sub-pixels along a pixel edge
    layers: int = 1  # of the sensor
    dmin: float = 0.0  # m; sources that a pixel sees at finer resolution are skipped; 0: none
    interpolate: bool = False  # tricubic instead of nearest
    point_pixel: bool = False
    curved: bool = False
    oversample_omega: bool = False  # solid angle of every sub-pixel and layer, not of the first
    oversample_polar: bool = False  # polarization of every source, sub-pixel and layer, not of the first
    oversample_thick: bool = False  # capture of every sub-pixel, not of the first
    last_layer_capture: bool = False  # compat D4: every layer weighs as the last one does
    front_solid_angle: bool = False  # compat D61: every layer has the solid angle of the front's plane
    curved_by_lab_axes: bool = False  # compat D57: lab y and z turn the beam to the pixels of a curved one
    curved_sensor_is_flat: bool = False  # compat D58: its sensor is crossed along the normal of the flat one
    running_factors: bool = False  # compat D3: the oversample switches multiply the running sum; reference kernel only
    interpolation_latch: bool = False  # compat D5: out of range once, nearest ever after; reference kernel only
    cut: float = 0.0  # steps of a shape that vanishes are left out where L^2 is below this share of its peak; 0: none
    tolerance: float = 0.0  # photons of a pixel that may be left out of shapes that only fade; 0: none
    dtype: torch.dtype = torch.float32  # of the image
    threads: int = 0  # 0: all cores


class Pull(NamedTuple):
    """What gradients are asked for: those of sum(upstream * values), by some tensors of the scene."""

    upstream: Tensor  # [n] in options.dtype
    wanted: Collection[str]  # names of the tensors
    value: bool = False  # the values too, from the same pass


class Taken(NamedTuple):
    """Which factors are formed for each step, and which are those of the first one, as the C program caches them.

    Where there is but one sample, or one step, a factor that is formed once is that of each.
    """

    each_omega: bool  # solid angle of every sample, not of the first
    layer_omega: bool  # else that of the first sub-pixel of each layer; layers differ in it
    each_polar: bool  # polarization of every sample and source, not of the first that is seen
    each_capture: bool  # capture of every sub-pixel of a layer, not of the first
    last_capture: bool  # every layer captures as the last one does
    alone: bool  # one sample, one source, within any resolution limit


def taken(scene: Scene, options: Options) -> Taken:
    """How the factors of a scene are taken."""
    one_sample = options.oversample == 1 and options.layers == 1
    alone = one_sample and scene.incident.shape[-2] == 1 and options.dmin <= 0
    deep = options.layers > 1 and not options.front_solid_angle and not options.curved
    last = options.last_layer_capture and not options.oversample_thick and options.layers > 1
    return Taken(
        each_omega=options.oversample_omega or one_sample or (deep and options.oversample == 1),
        layer_omega=deep,
        each_polar=options.oversample_polar or alone,
        each_capture=(options.oversample_thick or options.oversample == 1) and not last,
        last_capture=last,
        alone=alone,
    )


def effective_cells(shape: Any, profile: Profile) -> Any:
    """Number of cells along each axis [..., 3], as far as a shape matrix [..., 3, 3] tells: as tensor or array."""
    diagonal = abs(shape[..., (0, 1, 2), (0, 1, 2)])
    return diagonal if profile == Profile.GRATING else diagonal**0.5


def pixel_count(pixels: Tensor | None, scene: Scene, options: Options) -> int:
    """Length of the list of pixels, None standing for all; of one scene of a batch."""
    slow, fast = options.image_shape
    return scene.panels.shape[-3] * slow * fast if pixels is None else pixels.shape[-1]


def scene_count(pixels: Tensor | None, scene: Scene) -> int | None:
    """How many scenes a batch has; None for a single one without a batch axis."""
    if pixels is not None and pixels.dim() > 1:
        return int(pixels.shape[0])
    stacked = scene.stacked()
    return int(getattr(scene, stacked[0]).shape[0]) if stacked else None


def absent(pixels: Tensor | None) -> Tensor | None:
    """Which places [B, n] of the lists of a batch, that fill up shorter ones, have no pixel; None where there are none.

    They are negative. A list of one scene has none.
    """
    return None if pixels is None or pixels.dim() == 1 else pixels < 0


def without_absent(values: Tensor, pixels: Tensor | None) -> Tensor:
    """Values [..., B, n], zero where there is no pixel."""
    nowhere = absent(pixels)
    return values if nowhere is None else torch.where(nowhere, torch.zeros_like(values), values)


def values_shape(pixels: Tensor | None, scene: Scene, options: Options) -> tuple[int, ...]:
    """[n], or [B, n] of a batch."""
    count = scene_count(pixels, scene)
    return (() if count is None else (count,)) + (pixel_count(pixels, scene, options),)


def step_count(scene: Scene, options: Options) -> int:
    """Steps of a pixel: sensor layers, sub-pixels, sources and lattices."""
    return scene.lattice.shape[-3] * scene.incident.shape[-2] * options.oversample**2 * options.layers
