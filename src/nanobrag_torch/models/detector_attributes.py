"""What scripts read off a placed detector: vectors, distances, positions and solid angles of pixels.

Everything is worked out anew when asked for, from the configuration as it is then, and carries gradients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from nanobrag_torch.compat import Compat
from nanobrag_torch.config import DetectorConfig
from nanobrag_torch.devices import checked_device
from nanobrag_torch.physics.geometry import curve, flat_positions, solid_angle

if TYPE_CHECKING:
    from nanobrag_torch.models.detector import DetectorGeometry

TOLERANCE_M = 1e-6


class PanelVector:
    """One of the vectors of the first panel."""

    def __init__(self, which: int) -> None:
        self.which = which

    def __get__(self, detector: DetectorAttributes, owner: type | None = None) -> Tensor:
        return detector.geometry().panels[0, self.which].to(detector.dtype)


class DetectorAttributes(ABC):
    """Tensors of the detector's dtype; metres. Of several panels, those of the first where nothing else is said."""

    config: DetectorConfig
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def geometry(self, compat: Compat = Compat()) -> DetectorGeometry:  # noqa: B008
        """Panel vectors and reported values."""

    @abstractmethod
    def beam_centre(self) -> tuple[Tensor, Tensor]:
        """Fast and slow coordinate (m) of the point that the pivot keeps."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Slow and fast pixels of a panel."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device, change the dtype of what is returned; in place."""
        self.device = self.device if device is None else checked_device(device)
        self.dtype = self.dtype if dtype is None else dtype
        return self

    pix0_vector, fdet_vec, sdet_vec, odet_vec = map(PanelVector, range(4))
    """Outer corner of pixel (0, 0), unit vectors of the fast and the slow axis, and normal [3], after all rotations."""

    @property
    def beam_vector(self) -> Tensor:
        """Unit vector along the incident beam [3]."""
        return self.geometry().beam.to(self.dtype)

    @property
    def distance(self) -> Tensor:
        """From the sample along the beam []."""
        return self.geometry().distance.to(self.dtype)

    @property
    def close_distance(self) -> Tensor:
        """From the sample along the normal []."""
        return self.geometry().close_distance.to(self.dtype)

    @property
    def pixel_size(self) -> Tensor:
        """Edge of a pixel, along fast []."""
        return self.geometry().pixel_size[0, 0].to(self.dtype)

    @property
    def spixels(self) -> int:
        """Pixels along slow."""
        return self.image_shape[0]

    @property
    def fpixels(self) -> int:
        """Pixels along fast."""
        return self.image_shape[1]

    @property
    def beam_center_f(self) -> Tensor:
        """Fast coordinate, in pixels from the corner, of the point that the pivot keeps []."""
        return (self.beam_centre()[0] / self.geometry().pixel_size[0, 0]).to(self.dtype)

    @property
    def beam_center_s(self) -> Tensor:
        """Slow coordinate, in pixels from the corner, of the point that the pivot keeps []."""
        return (self.beam_centre()[1] / self.geometry().pixel_size[0, 1]).to(self.dtype)

    @property
    def r_factor(self) -> Tensor:
        """Cosine between the beam and the normal [], after all rotations."""
        geometry = self.geometry()
        return (geometry.beam @ geometry.panels[0, 3]).to(self.dtype)

    def get_r_factor(self) -> Tensor:
        """Cosine between the beam and the normal []."""
        return self.r_factor

    @property
    def distance_corrected(self) -> Tensor:
        """Close distance over r_factor []: the distance along the beam."""
        return self.distance

    def get_corrected_distance(self) -> Tensor:
        """Close distance over r_factor []."""
        return self.distance

    def get_pixel_coords(self) -> Tensor:
        """Centres of all pixels (slow, fast, 3), or (panel, slow, fast, 3) of several panels; curved as configured."""
        geometry, shape = self.geometry(), self.image_shape
        count = geometry.panels.shape[0]
        pixels = torch.arange(count * math.prod(shape), device=self.device)
        flat = torch.zeros(count, dtype=torch.float64, device=self.device)
        positions = flat_positions(pixels, geometry.panels, geometry.pixel_size, flat, shape, 1, 1)
        if self.config.curved_detector:
            origin, fast, slow, normal = geometry.panels[pixels // math.prod(shape)].unbind(1)
            positions = curve(positions, fast, slow, normal, (origin * normal).sum(-1))
        whole = positions.reshape(count, *shape, 3).to(self.dtype)
        return whole if count > 1 else whole[0]

    def get_solid_angle(self, pixel_coords: Tensor | None = None) -> Tensor:
        """Solid angle (sr) of pixels at [..., 3], all of them unless given: area close / R^3, or 1 / R^2 of points."""
        positions = self.get_pixel_coords() if pixel_coords is None else pixel_coords
        geometry, several = self.geometry(), positions.dim() > 3
        panels = slice(None) if several else slice(1)
        close = (geometry.panels[panels, 0] * geometry.panels[panels, 3]).sum(-1)
        area = geometry.pixel_size[panels].prod(-1)
        close, area = (x[:, None, None] if several else x[0] for x in (close, area))
        radius = torch.linalg.vector_norm(positions.to(torch.float64), dim=-1)
        return solid_angle(radius, area, close, point_pixel=self.config.point_pixel).to(positions.dtype)

    def verify_beam_center_preservation(self, tolerance: float = TOLERANCE_M) -> tuple[bool, dict[str, float]]:
        """Whether the beam hits the placed detector where the configuration says, and by how much it misses (m)."""
        geometry = self.geometry()
        asked, found = self.beam_centre(), (geometry.Fbeam, geometry.Sbeam)
        told: dict[str, float] = {}
        for name, wanted, is_at in zip("fs", asked, found, strict=True):
            told |= {f"original_beam_{name}": float(wanted), f"computed_beam_{name}": float(is_at)}
            told[f"error_{name}"] = abs(float(is_at) - float(wanted))
        told["max_error"] = max(told["error_f"], told["error_s"])
        return told["max_error"] <= tolerance, told
