"""What a kernel is given: a scene of small tensors and a frozen set of options (design: the one equation).

    I(pixel) = mean over sub-pixels of sum over [layer, source, lattice] of
               source weight * lattice weight * capture * omega * P * F(hkl)^2 * L(hkl)^2

with d = unit(position), q = (d - s) / lambda, (h, k, l) = lattice q. The kernels know tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nanobrag_torch.physics.lattice_factor import Profile


@dataclass(frozen=True)
class Scene:
    """The differentiable inputs; all float64 but for the table, which may be float32. Lengths in metres."""

    panels: Tensor  # [P, 4, 3] origin (outer corner of the first pixel), fast, slow, normal
    pixel_size: Tensor  # [P, 2] fast, slow
    sensor: Tensor  # [P, 2] thickness of a layer, attenuation (1/m); thickness 0: everything is captured
    curvature: Tensor  # [4] beam direction and distance; used by a curved detector alone
    incident: Tensor  # [S, 3] unit vectors along the beam
    wavelengths: Tensor  # [S]
    source_weights: Tensor  # [S] fluence and the amplitude of the lattice factor are in here
    polarization: Tensor  # [S, 3, 3] M of P = (1 + d^T M d) / 2
    lattice: Tensor  # [K, 3, 3] rows a, b, c; phi outermost, mosaic domain innermost
    lattice_weights: Tensor  # [K]
    shape: Tensor  # [3, 3] diag(N) or Q, see physics.lattice_factor
    structure_factors: Tensor  # [H, K, L] amplitudes, or no element at all
    default_F: Tensor  # [] amplitude outside the table
    offset: Tensor  # [] added once a pixel to the sum, before omega, P and capture (water in the C program)

    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def to(self, device: torch.device) -> Scene:
        """The same scene on another device; copies to a GPU do not wait for what it is doing."""
        return Scene(*(tensor.to(device, non_blocking=device.type == "cuda") for tensor in self.tensors()))


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
    running_factors: bool = False  # compat D3: the oversample switches multiply the running sum; reference kernel only
    interpolation_latch: bool = False  # compat D5: out of range once, nearest ever after; reference kernel only
    dtype: torch.dtype = torch.float32  # of the image
    threads: int = 0  # 0: all cores
