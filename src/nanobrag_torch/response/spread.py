"""Point spread: photons of a pixel, recorded in the pixels about it.

Shares are integrals of the profile over pixels, seen from the centre of the pixel that was hit. What falls beyond the
edge of a panel is gone; nothing is invented. The whole is linear in the image, and differentiable by it, by the width
and by beta; the adjoint is the transposed spread.

Gauss: products of error functions. Fibre optics, g / (2 pi) (g^2 + r^2)^(-3/2) (Holton, Nielsen, Frankel,
J. Synchrotron Rad. 19 (2012), 1006): an arctangent. Moffat (A&A 3 (1969), 455): Gaussians whose inverse widths follow
a gamma law, summed over that law by the trapezoidal rule in its logarithm, which converges exponentially.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from nanobrag_torch.compilation import available
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.response.config import SpreadConfig
from nanobrag_torch.response.spread_fused import spread_along_lines
from nanobrag_torch.units import MICRON

FIBRE_G = 0.652383013252053
"""g over the full width at half maximum."""
GAUSS_REACH = 3.5
"""Full widths beyond which a Gaussian keeps 2e-15 of its photons."""
DIRECT_RADIUS = 5
"""Kernels that do not factorise go through Fourier space from here on."""
_GAMMA_STEP, _GAMMA_LOW, _GAMMA_HIGH = 0.25, -37.0, 4.0


class Spread:
    """The point spread of a configuration on pixels of one size (m), fast and slow."""

    def __init__(
        self, config: SpreadConfig, pixel_size: tuple[float, float], device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.pixel_size, self.device = config, pixel_size, torch.device(device)

    def __call__(self, image: Tensor, *, fused: bool = False) -> Tensor:
        """The image [..., slow, fast] after the spread, in its dtype; panels are spread each on its own.

        fused: in machine code where that can be, which nothing can be differentiated through.
        """
        radii = self.radii((int(image.shape[-2]), int(image.shape[-1])))
        if self.config.shape == "gauss" and self.config.radius_pixels is None:
            if fused and image.device.type == "cpu" and available().usable:
                return spread_along_lines(image, self.line(radii[0], 1), self.line(radii[1], 0))
            return _along(_along(image, self.line(radii[1], 0), -1), self.line(radii[0], 1), -2)
        kernel = self.kernel(radii)
        return _direct(image, kernel) if max(radii) <= DIRECT_RADIUS else _through_fourier(image, kernel)

    def radii(self, image_shape: tuple[int, int]) -> tuple[int, int]:
        """Pixels along slow and fast that the spread reaches on an image of some shape."""
        config = self.config
        if config.shape == "kernel":
            slow, fast = as_tensor(config.kernel, self.device).shape
            return int(slow // 2), int(fast // 2)
        whole = (image_shape[0] - 1, image_shape[1] - 1)
        if config.radius_pixels is not None:
            return min(config.radius_pixels, whole[0]), min(config.radius_pixels, whole[1])
        if config.shape == "gauss":
            reach = [math.ceil(GAUSS_REACH * float(self._width(i).detach())) for i in (1, 0)]
            return min(reach[0], whole[0]), min(reach[1], whole[1])
        return whole

    def halo_radius(self) -> int:
        """How far from a pixel photons come that it records. Raises InputError where the spread has no end."""
        if self.config.shape in ("fiber", "moffat") and self.config.radius_pixels is None:
            raise InputError("radius_pixels", None, "a radius: a spread without one reaches every pixel of the image")
        return max(self.radii((1 << 30, 1 << 30)))

    def kernel(self, radii: tuple[int, int]) -> Tensor:
        """Shares [2 slow radius + 1, 2 fast radius + 1] of the pixels about the one that is hit, float64."""
        config = self.config
        if config.shape == "kernel":
            return as_tensor(config.kernel, self.device)
        if config.shape == "gauss":
            kernel = self.line(radii[0], 1)[:, None] * self.line(radii[1], 0)
        else:
            kernel = self._fibre(radii) if config.shape == "fiber" else self._moffat(radii)
        if config.radius_pixels is None:
            return kernel
        round_ = _distance(radii, self.device) <= config.radius_pixels
        kernel = kernel * round_
        return kernel / kernel.sum()

    def line(self, radius: int, axis: int) -> Tensor:
        """Shares [2 radius + 1] of a Gaussian along fast (0) or slow (1)."""
        edges = torch.arange(-radius, radius + 2, dtype=torch.float64, device=self.device) - 0.5
        return torch.diff(torch.erf(edges * (2 * math.sqrt(math.log(2))) / self._width(axis))) / 2

    def _width(self, axis: int) -> Tensor:
        """Full width at half maximum in pixels []."""
        assert self.config.fwhm_um is not None
        return as_tensor(self.config.fwhm_um, self.device) * (MICRON / self.pixel_size[axis])

    def _corners(self, radii: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Slow and fast coordinate (in full widths) of the corners of pixels in one quadrant, from the centre out."""
        steps = [torch.arange(radius + 2, dtype=torch.float64, device=self.device) - 0.5 for radius in radii]
        return steps[0][:, None] / self._width(1), steps[1][None, :] / self._width(0)

    def _fibre(self, radii: tuple[int, int]) -> Tensor:
        y, x = self._corners(radii)
        integral = torch.atan(x * y / (FIBRE_G * torch.sqrt(FIBRE_G**2 + x * x + y * y))) / (2 * math.pi)
        return _whole(torch.diff(torch.diff(integral, dim=0), dim=1))

    def _moffat(self, radii: tuple[int, int]) -> Tensor:
        """Sum over n of weight_n times a Gaussian exp(-t_n r^2 / alpha^2)."""
        beta = as_tensor(self.config.beta, self.device)
        alpha = 0.5 / torch.sqrt(torch.expm1(math.log(2) / beta))  # in full widths
        low = _GAMMA_LOW / min(1.0, float(beta.detach()) - 1)
        s = torch.arange(low, _GAMMA_HIGH, _GAMMA_STEP, dtype=torch.float64, device=self.device)
        weights = _GAMMA_STEP * torch.exp(s * (beta - 1) - torch.exp(s) - torch.lgamma(beta - 1))
        root = torch.exp(s / 2) / alpha
        y, x = self._corners(radii)
        slow, fast = (torch.diff(torch.erf(edge.reshape(-1, 1) * root), dim=0) / 2 for edge in (y, x))
        return _whole((slow * weights) @ fast.T)


def _whole(quadrant: Tensor) -> Tensor:
    """All four quadrants [2n-1, 2m-1] of one [n, m] that begins in the middle."""
    right = torch.cat((quadrant.flip(1)[:, :-1], quadrant), dim=1)
    return torch.cat((right.flip(0)[:-1], right))


def _distance(radii: tuple[int, int], device: torch.device) -> Tensor:
    slow, fast = (torch.arange(-r, r + 1, dtype=torch.float64, device=device) for r in radii)
    return torch.hypot(slow[:, None], fast[None, :])


def _along(image: Tensor, line: Tensor, dim: int) -> Tensor:
    """The image with its last axis (-1) or the one before (-2) convolved with a symmetric line."""
    radius = line.numel() // 2
    stack = image.reshape(-1, 1, *image.shape[-2:])
    weight = line.to(image.dtype)
    weight = weight.reshape(1, 1, 1, -1) if dim == -1 else weight.reshape(1, 1, -1, 1)
    padding = (0, radius) if dim == -1 else (radius, 0)
    return conv2d(stack, weight, padding=padding).reshape(image.shape)


def _direct(image: Tensor, kernel: Tensor) -> Tensor:
    stack = image.reshape(-1, 1, *image.shape[-2:])
    weight = kernel.flip(0, 1).to(image.dtype)[None, None]
    padding = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    return conv2d(stack, weight, padding=padding).reshape(image.shape)


def _through_fourier(image: Tensor, kernel: Tensor) -> Tensor:
    """In float64 whatever the image: the rounding of a bright spot must not show in a dark corner."""
    radii = kernel.shape[0] // 2, kernel.shape[1] // 2
    size = [_good_size(max(n + r, 2 * r + 1)) for n, r in zip(image.shape[-2:], radii, strict=True)]
    wrapped = torch.roll(_padded(kernel, size), (-radii[0], -radii[1]), (0, 1))
    spectrum = torch.fft.rfft2(image.to(torch.float64), s=size) * torch.fft.rfft2(wrapped)
    whole: Tensor = torch.fft.irfft2(spectrum, s=size)
    return whole[..., : image.shape[-2], : image.shape[-1]].to(image.dtype)


def _padded(kernel: Tensor, size: list[int]) -> Tensor:
    missing = size[1] - kernel.shape[1], size[0] - kernel.shape[0]
    return torch.nn.functional.pad(kernel, (0, missing[0], 0, missing[1]))


def _good_size(least: int) -> int:
    """The next length that a Fourier transform likes."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(least, real=True))
