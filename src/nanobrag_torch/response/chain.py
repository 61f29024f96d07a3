"""The response of a detector: expected photons in, what is expected in the file, or one recorded image, out.

response = Response(ResponseConfig(spread=SpreadConfig(fwhm_um=75), gain=2, readout_noise=3, pixel_size_um=75))
expected = response.expected(image)  # linear, differentiable
recorded = response.record(image, seed=1, image_number=7)  # whole numbers, drawn

crystal + backgrounds -> shadow -> source flicker (once an image) -> spread -> sensitivity -> Poisson
-> count-rate loss -> gain or gain mode -> readout noise -> pedestal -> whole numbers, saturation -> gaps
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.config import NoiseConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.response import readout
from nanobrag_torch.response.config import ResponseConfig
from nanobrag_torch.response.counters import FLICKER, MODE_NOISE, READOUT, SENSITIVITY, THINNING
from nanobrag_torch.response.halo import Halo, halo_of
from nanobrag_torch.response.photons import normal_deviates, poisson_counts, require_countable, uniform_deviates
from nanobrag_torch.response.shadow import beamstop_shadow
from nanobrag_torch.response.spread import Spread
from nanobrag_torch.units import MICRON


class Response:
    """A detector's response to images [panel, slow, fast] or (slow, fast), of any float dtype, on any device.

    geometry: where the detector is, for a beam stop and, unless the configuration has it, the size of a pixel.
    Parameters are read anew at every call, so that an optimiser may change tensors in place.
    """

    def __init__(
        self, config: ResponseConfig | NoiseConfig | None = None, *, geometry: DetectorGeometry | None = None
    ) -> None:
        self.config = ResponseConfig.of(config)
        self.geometry = geometry
        if self.config.spread is not None and self.config.spread.shape != "kernel":
            self._pixel_size()
        if self.config.beamstop is not None and geometry is None:
            raise InputError("beamstop", self.config.beamstop, "nothing without the geometry of a detector")

    def photons(self, image: Tensor, *, fused: bool = False) -> Tensor:
        """Photons expected in each pixel after the shadow and the spread, in the dtype of the image.

        fused: faster where nothing is differentiated.
        """
        reached = self._reached(image)
        return reached if self.config.spread is None else self.spread(image.device)(reached, fused=fused)

    def expected(self, image: Tensor) -> Tensor:
        """What the file is expected to hold: gain times photons plus pedestal, before saturation and gaps.

        Linear in the image but for count-rate loss, where that is configured. Flicker and calibration are errors that
        nobody knows, and are left out. Differentiable by the image and every Real of the configuration.
        """
        return self._recordable(self.photons(image))

    def linear(self, image: Tensor) -> Tensor:
        """`expected` without the pedestal and the count-rate loss: what it does to tangents [..., slow, fast]."""
        return self._recordable(self.photons(image), linear=True)

    def halo(self, pixels: Tensor, image_shape: tuple[int, int]) -> Halo:
        """The pixels that send photons to some flat indices [n]; image_shape: slow and fast of a panel.

        Raises InputError for a spread without an end.
        """
        return halo_of(pixels, image_shape, 0 if self.config.spread is None else self.spread().halo_radius())

    def expected_at(self, values: Tensor, halo: Halo, image_shape: tuple[int, int], *, linear: bool = False) -> Tensor:
        """`expected` [..., n] of a few pixels, of photons [..., m] at the pixels of their halo; linear: without offset.

        The same numbers as of the whole image, at the cost of the halo alone; differentiable alike.
        """
        reached = self._reached_at(values, halo.pixels, image_shape)
        if self.config.spread is None:
            photons = reached[..., halo.places[:, 0]]
        else:
            photons = halo.spread(reached, self.spread(values.device).kernel((halo.radius, halo.radius)))
        return self._recordable(photons, linear=linear, pixels=halo.wanted)

    def _reached_at(self, values: Tensor, pixels: Tensor, image_shape: tuple[int, int]) -> Tensor:
        transmission = self._map("transmission", values, pixels=pixels)
        if self.config.beamstop is not None:
            assert self.geometry is not None
            shadow = beamstop_shadow(self.config.beamstop, self.geometry, image_shape, pixels)
            transmission = transmission * shadow.to(values)
        return values * transmission

    def _recordable(self, photons: Tensor, *, linear: bool = False, pixels: Tensor | None = None) -> Tensor:
        """Photons as the file holds them on average; linear: what is linear in them alone."""
        if self.config.count_rate is not None and not linear:
            photons = readout.observed_rate(photons, self.config.count_rate)
        plain = _is_one(self.config.gain) and (linear or _is_zero(self.config.pedestal))
        if self.config.gain_modes is not None or plain:
            return photons
        recordable = self._map("gain", photons, pixels=pixels) * photons
        return recordable if linear else recordable + self._map("pedestal", photons, pixels=pixels)

    def variance(self, image: Tensor) -> Tensor:
        """Variance of what is recorded about `expected`: counting through the gain, and readout noise."""
        photons = self.photons(image)
        counting = photons if self.config.counting else torch.zeros_like(photons)
        if self.config.count_rate is not None:
            counting = readout.rate_variance(photons, self.config.count_rate)
        if self.config.gain_modes is not None:
            gains, noises = self.config.gain_modes.gains, self.config.gain_modes.noises
            rounding = 0.0 if self.config.rounding == "none" else 1 / 12
            mode = readout.chosen_mode(photons, self.config.gain_modes)
            in_photons = torch.tensor([n / g for n, g in zip(noises, gains, strict=True)], dtype=photons.dtype)
            return counting + in_photons.to(photons.device)[mode] ** 2 + rounding
        return self._map("gain", photons) ** 2 * counting + self._map("readout_noise", photons) ** 2

    def sensitivity(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
        """Relative sensitivity of every pixel, float32: 1 with the calibration error; the same for every image."""
        config = self.config
        deviates = normal_deviates((1, *shape), config.calibration_seed, SENSITIVITY, device=device)[0]
        return (1 + config.calibration * deviates).clamp(min=0)

    def brightness(self, seed: int, image_number: int = 0) -> float:
        """The source in one image, relative to its mean: 1 with the flicker."""
        deviate = normal_deviates((1, 1), seed, FLICKER, first_image=image_number)
        return max(0.0, 1 + self.config.flicker * float(deviate))

    def record(self, image: Tensor, seed: int, image_number: int = 0) -> Tensor:
        """One recorded image of expected photons, in the configuration's dtype; not differentiable.

        What is drawn depends on seed, image_number, the pixel and what is expected there alone. Raises InputError for
        expected photons that are negative, not finite or above 2e9.
        """
        with torch.no_grad():
            photons = self.photons(image, fused=True)
            if self.config.spread is not None:
                photons = self._without_undershoot(photons, image)
            if self.config.flicker:
                photons = photons * self.brightness(seed, image_number)
            if self.config.calibration:
                photons = photons * self.sensitivity(tuple(photons.shape), photons.device)
            counts = self._counted(photons, seed, image_number)
            return self._finished(self._in_adu(counts, seed, image_number))

    def spread(self, device: torch.device | str = "cpu") -> Spread:
        """The point spread on this detector's pixels. Raises InputError without one."""
        if self.config.spread is None:
            raise InputError("spread", None, "a SpreadConfig")
        size = (1.0, 1.0) if self.config.spread.shape == "kernel" else self._pixel_size()
        return Spread(self.config.spread, size, device)

    def _without_undershoot(self, photons: Tensor, image: Tensor) -> Tensor:
        """A transform leaves a few 1e-16 of the brightest pixel below zero; what was negative before is an error."""
        return photons.clamp(min=0) if bool((image >= 0).all()) else photons

    def _reached(self, image: Tensor) -> Tensor:
        transmission = self.config.transmission
        if isinstance(transmission, Tensor) or not isinstance(transmission, (int, float)) or transmission != 1:
            image = image * self._map("transmission", image)
        if self.config.beamstop is None:
            return image
        assert self.geometry is not None
        shadow = beamstop_shadow(self.config.beamstop, self.geometry, (int(image.shape[-2]), int(image.shape[-1])))
        return image * shadow.reshape(image.shape).to(image)

    def _counted(self, photons: Tensor, seed: int, image_number: int) -> Tensor:
        require_countable(photons, "image")
        if not self.config.counting:
            rate = self.config.count_rate
            return photons if rate is None else readout.observed_rate(photons, rate)
        counts = poisson_counts(photons[None], seed, first_image=image_number, validate=False)[0]
        if self.config.count_rate is None:
            return counts
        shape = (1, *counts.shape)
        dice = uniform_deviates(shape, seed, THINNING, first_image=image_number, device=counts.device)[0]
        return readout.lose_counts(counts, photons, self.config.count_rate, dice)

    def _in_adu(self, counts: Tensor, seed: int, image_number: int) -> Tensor:
        config = self.config
        if config.gain_modes is not None:
            normal = normal_deviates(
                (1, *counts.shape), seed, MODE_NOISE, first_image=image_number, device=counts.device
            )[0]
            return readout.through_modes(counts.to(torch.float64), normal, config.gain_modes)
        if config.count_rate is not None and config.count_rate.cutoff is not None:
            top = torch.tensor(torch.inf, dtype=torch.float64, device=counts.device)
            counts = torch.where(counts > config.count_rate.cutoff, top, counts.to(torch.float64))
        if _is_one(config.gain) and _is_zero(config.pedestal) and _is_zero(config.readout_noise):
            return counts
        adu = counts.to(torch.float64) * self._map("gain", counts, torch.float64)
        if not _is_zero(config.readout_noise):
            shape = (1, *counts.shape)
            normal = normal_deviates(shape, seed, READOUT, first_image=image_number, device=counts.device)[0]
            adu = adu + self._map("readout_noise", counts, torch.float64) * normal
        return adu + self._map("pedestal", counts, torch.float64)

    def _finished(self, adu: Tensor) -> Tensor:
        config = self.config
        values = readout.whole_numbers(adu, config.rounding) if adu.is_floating_point() else adu
        values = readout.cut_off(values, config.dtype, config.lowest, config.saturation, config.overload)
        for chosen, value in ((_bad(config.mask, invert=True), config.masked_value),
                              (_bad(config.bad_pixels), config.bad_value)):  # fmt: skip
            if chosen is not None:
                values = values.masked_fill(chosen.to(values.device), value)
        return values.to(getattr(torch, config.dtype))

    def _map(self, name: str, like: Tensor, dtype: torch.dtype | None = None, pixels: Tensor | None = None) -> Tensor:
        """A field of the configuration on the pixels of an image, or on some of them."""
        given = as_tensor(getattr(self.config, name), like.device).to(dtype or like.dtype)
        return given if pixels is None or given.dim() == 0 else given.reshape(-1)[pixels]

    def _pixel_size(self) -> tuple[float, float]:
        """Fast and slow size (m). Raises InputError where nobody states it, or panels differ."""
        given = self.config.pixel_size_um
        if given is not None:
            sizes = as_tensor(given, "cpu").expand(2) * MICRON
        elif self.geometry is not None:
            sizes = self.geometry.pixel_size[0].detach().cpu()
            if not bool((self.geometry.pixel_size.detach().cpu() == sizes).all()):
                raise InputError("pixel_size_um", "panels that differ", "one pixel size for a spread")
        else:
            raise InputError("pixel_size_um", None, "the size of a pixel, which a spread in micrometres needs")
        return float(sizes[0]), float(sizes[1])


def _bad(mask: Any | None, *, invert: bool = False) -> Tensor | None:
    if mask is None:
        return None
    chosen = torch.as_tensor(mask) != 0
    return ~chosen if invert else chosen


def _is_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 1


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0
