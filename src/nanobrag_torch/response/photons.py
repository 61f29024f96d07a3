"""Counting noise on any device, from a counter-based generator: no state, no order.

What is counted in a pixel depends on the seed, the number of the image, the index of the pixel and the mean, rounded to
float32, alone: image i of seed s is the same in any batch, on any number of devices, drawn whole or in pieces. It is
the noise of Simulator.counts, Experiment.counts, Response.record and `nb simulate --noise`. The command nanoBragg draws
the C program's, one deviate after the other: nanobrag_torch.response.serial_noise.

The functions here say what is drawn, for every device; on a CPU response.fused draws the same in machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.compilation import available
from nanobrag_torch.errors import InputError
from nanobrag_torch.response import formulas
from nanobrag_torch.response.counters import COUNTING, require_number, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

Draw = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]
"""Means, two uniform deviates each, pixels and images [n], and the seed."""
_LARGEST_RECORDED = 65535
_AT_ONCE = 2**22
"""Pixels drawn at once by the plain form: what bounds its memory to less than a gigabyte."""
_A_THREAD = 2**16


def poisson_counts(
    means: Tensor,
    seed: int,
    *,
    first_image: int = 0,
    pixels: Tensor | None = None,
    validate: bool = True,
    fused: bool | None = None,
) -> Tensor:
    """Photons counted, int32 like `means` [images, ...], where means (photons per pixel) are expected.

    The first axis runs over images first_image, first_image + 1 ...; pixels [...]: flat indices of the pixels, when not
    all of an image are there, in order. fused: None: machine code on a CPU; it changes no count. Raises InputError for
    a mean that is negative, not finite or above 2e9, unless validate is False, which spares a GPU a look at the means;
    and for a seed or image that is no whole number below 2^64.
    """
    if means.dim() < 1:
        raise InputError("means", "a single number", "photons per pixel of one image or more [images, ...]")
    if validate:
        require_countable(means, "means")
    flat = means.detach().reshape(-1).to(torch.float32)
    size = means[0].numel() if means.shape[0] else 1
    draw = _Drawing(flat, seed, first_image, size, pixels, fused)
    return draw.poisson().reshape(means.shape)


def require_countable(means: Tensor, name: str) -> None:
    """Raise InputError, with the worst value, for expected photons that cannot be counted."""
    least, most = torch.aminmax(means) if means.numel() else (torch.zeros(()),) * 2
    if 0 <= float(least) <= float(most) <= formulas.LARGEST_MEAN:  # where nothing is not a number
        return
    fine = (means >= 0) & (means <= formulas.LARGEST_MEAN)
    if bool(fine.all()):
        return
    wrong = means.detach()[~fine]
    shown = "nan" if bool(wrong.isnan().any()) else f"{float(wrong[wrong.abs().argmax()]):.4g}"
    accepted = f"expected photons per pixel from 0 to {formulas.LARGEST_MEAN:g}; the fluence sets their number"
    raise InputError(name, shown, accepted)


class Places(TypedDict, total=False):
    """Of deviates, as for poisson_counts, and where they are made."""

    first_image: int
    pixels: Tensor | None
    fused: bool | None
    device: torch.device | str


def normal_deviates(shape: tuple[int, ...], seed: int, purpose: int, **places: Unpack[Places]) -> Tensor:
    """Deviates of the standard normal distribution, float32 of shape [images, ...]; places: as for poisson_counts.

    purpose: a constant of response.counters; deviates of different purposes are independent.
    """
    return _drawing(shape, seed, **places).normal(purpose).reshape(shape)


def uniform_deviates(shape: tuple[int, ...], seed: int, purpose: int, **places: Unpack[Places]) -> Tensor:
    """Deviates that are uniform from 0 to 1, float32 of shape [images, ...]; arguments as for normal_deviates."""
    return _drawing(shape, seed, **places).uniform(purpose).reshape(shape)


def _drawing(
    shape: tuple[int, ...],
    seed: int,
    *,
    first_image: int = 0,
    pixels: Tensor | None = None,
    fused: bool | None = None,
    device: torch.device | str = "cpu",
) -> _Drawing:
    flat = torch.empty(shape, dtype=torch.float32, device=device).reshape(-1)
    size = flat.numel() // shape[0] if shape[0] else 1
    return _Drawing(flat, seed, first_image, size, pixels, fused)


def recorded_counts(photons: Tensor, adc: float = 40.0) -> Tensor:
    """What a detector records of `photons` (any shape): photons + adc, cut off to 0...65535, uint16."""
    return (photons.to(torch.float64) + adc).clamp(0, _LARGEST_RECORDED).to(torch.int32).to(torch.uint16)


class _Drawing:
    """Deviates for consecutive places [n] of images of `size` pixels, by either form."""

    def __init__(
        self, flat: Tensor, seed: int, first_image: int, size: int, pixels: Tensor | None, fused: bool | None
    ) -> None:
        require_number("seed", seed)
        require_number("image", first_image)
        self.flat, self.seed, self.first_image, self.size = flat, seed, first_image, size
        self.pixels = None if pixels is None else pixels.reshape(-1).to(torch.int64)
        self.fused = flat.device.type == "cpu" and available().usable if fused is None else fused

    def poisson(self) -> Tensor:
        """Counts [n], int32."""
        counts = torch.empty(self.flat.shape, dtype=torch.int32, device=self.flat.device)
        if self.fused:
            from nanobrag_torch.response.fused import poisson_fill

            self._in_threads(poisson_fill, counts, self.flat.contiguous().numpy())
            return counts
        for part, pixel, image in self._parts():
            mean = self.flat[part].to(torch.float64)
            counts[part] = _counts(mean, pixel, image, self.seed).to(torch.int32)
        return counts

    def normal(self, purpose: int) -> Tensor:
        """Normal deviates [n], float32."""
        from nanobrag_torch.response.fused import normal_fill

        return self._deviates(purpose, normal_fill, _normal)

    def uniform(self, purpose: int) -> Tensor:
        """Uniform deviates [n], float32."""
        from nanobrag_torch.response.fused import uniform_fill

        return self._deviates(purpose, uniform_fill, lambda u, _: u)

    def _deviates(self, purpose: int, fill: Callable[..., None], plain: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        deviates = torch.empty_like(self.flat)
        if self.fused:
            self._in_threads(fill, deviates, None, purpose)
            return deviates
        for part, pixel, image in self._parts():
            deviates[part] = plain(*uniforms(pixel, image, self.seed, 0, purpose)).to(torch.float32)
        return deviates

    def _in_threads(
        self, fill: Callable[..., None], target: Tensor, source: NDArray[np.float32] | None, *more: Any
    ) -> None:
        pixels = np.empty(0, np.int64) if self.pixels is None else self.pixels.contiguous().numpy()
        image, seed, found = np.uint64(self.first_image), np.uint64(self.seed), target.numpy()

        def fill_part(start: int) -> None:
            part = slice(start, start + _A_THREAD)
            sources = () if source is None else (source[part],)
            fill(*sources, pixels, self.size, start, image, seed, *more, found[part])

        starts = range(0, target.numel(), _A_THREAD)
        if len(starts) < 2 or torch.get_num_threads() < 2:
            for start in starts:
                fill_part(start)
            return
        fill_part(0)  # compiles once, before there are threads
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(fill_part, starts[1:]))

    def _parts(self) -> Any:
        """Slice, pixels and images of what is drawn at once."""
        device = self.flat.device
        index = torch.arange(self.size, device=device) if self.pixels is None else self.pixels
        for start in range(0, self.flat.numel(), _AT_ONCE):
            place = torch.arange(start, min(start + _AT_ONCE, self.flat.numel()), device=device)
            image = _signed(self.first_image) + torch.div(place, self.size, rounding_mode="floor")
            yield slice(start, start + _AT_ONCE), index[place % self.size], image


def _signed(number: int) -> int:
    """The same 64 bits as a signed number."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _counts(mean: Tensor, pixel: Tensor, image: Tensor, seed: int) -> Tensor:
    u, v = uniforms(pixel, image, seed, 0, COUNTING)
    counts = torch.zeros_like(pixel)
    ranges: tuple[tuple[Tensor, Callable[[Draw], Tensor]], ...] = (
        ((mean > 0) & (mean < formulas.SMALL_MEAN), _by_inversion),
        ((mean >= formulas.SMALL_MEAN) & (mean <= formulas.NORMAL_ABOVE), _by_rejection),
        (mean > formulas.NORMAL_ABOVE, _by_normal),
    )
    for chosen, method in ranges:
        place = chosen.nonzero().squeeze(1)
        if place.numel():
            counts[place] = method((mean[place], u[place], v[place], pixel[place], image[place], seed))
    return counts


def _by_inversion(draw: Draw) -> Tensor:
    """The least k with u <= P(count <= k)."""
    mean, u, _, pixel, _, _ = draw
    turns = mean * formulas.LOG2_E
    whole = torch.floor(turns + 0.5)
    none = formulas.power_of_two.function(whole - turns)
    term = (none.view(torch.int64) - (whole.to(torch.int64) << formulas.MANTISSA_BITS)).view(torch.float64)
    below, counts = term.clone(), torch.zeros_like(pixel)
    for k in range(1, formulas.MOST_BY_INVERSION + 1):
        counts += u > below
        term = term * mean * float(formulas.INVERSES[k])
        below += term
    return counts


def _by_rejection(draw: Draw) -> Tensor:
    """PTRS: a transformed uniform deviate, accepted with the probability that makes it Poisson; nine in ten are."""
    mean, u, v, pixel, image, seed = draw
    counts, place, attempt = torch.zeros_like(pixel), torch.arange(mean.numel(), device=mean.device), 0
    while place.numel():
        count, accepted = _proposal(mean[place], u, v)
        counts[place[accepted]] = count[accepted].to(torch.int64)
        place, attempt = place[~accepted], attempt + 1
        u, v = uniforms(pixel[place], image[place], seed, attempt, COUNTING)
    return counts


def _proposal(mean: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    a, b, inverse_alpha, quick = formulas.rejection_constants.function(_root(mean))
    centred = u - 0.5
    edge = 0.5 - centred.abs()
    count = torch.floor((2.0 * a / edge + b) * centred + mean + 0.43)
    share = v * inverse_alpha / (a / (edge * edge) + b)
    tail = (count < 0) | ((edge < 0.013) & (v > edge))
    return count, ((edge >= 0.07) & (v <= quick)) | (_is_accepted(mean, count, share) & ~tail)


def _is_accepted(mean: Tensor, count: Tensor, share: Tensor) -> Tensor:
    """PTRS without its short cut; share: v / alpha over the density of the proposal."""
    few = count.clamp(0, formulas.SMALL_COUNT - 1)
    factorials = torch.from_numpy(formulas.LOG_FACTORIALS).to(mean.device)[few.to(torch.int64)]
    small = _logarithm(share) <= few * _logarithm(mean) - mean - factorials
    many = count.clamp(min=formulas.SMALL_COUNT)
    excess = many - mean - many * _logarithm(many / mean) - formulas.stirling_rest.function(many)
    large = _logarithm(share * (formulas.ROOT_TWO_PI * _root(many))) <= excess
    return torch.where(count < formulas.SMALL_COUNT, small, large)


def _logarithm(x: Tensor) -> Tensor:
    """log(x) of positive numbers: a whole number of octaves, and a mantissa about one."""
    bits = x.view(torch.int64)
    exponent = (bits - formulas.ROOT_HALF_BITS) >> formulas.MANTISSA_BITS
    mantissa = (bits - (exponent << formulas.MANTISSA_BITS)).view(torch.float64)
    logarithm: Tensor = exponent.to(torch.float64) * formulas.LN_2 + formulas.log_of_mantissa.function(mantissa)
    return logarithm


def _root(x: Tensor) -> Tensor:
    """The square root, rounded as IEEE 754 has it; that of torch on a CPU is off by a last bit in one of a hundred."""
    return torch.from_numpy(np.sqrt(x.numpy())) if x.device.type == "cpu" else torch.sqrt(x)


def _normal(u: Tensor, v: Tensor) -> Tensor:
    """A normal deviate of two uniform ones (Box and Muller, Ann. Math. Stat. 29 (1958), 610)."""
    turn = 2.0 * v - 1.0
    folded = torch.where(turn.abs() > 0.5, torch.copysign(1.0 - turn.abs(), turn), turn)
    deviate: Tensor = _root(-2.0 * _logarithm(u)) * formulas.sine_of_pi.function(folded)
    return deviate


def _by_normal(draw: Draw) -> Tensor:
    mean, u, v, _, _, _ = draw
    counts = torch.floor(mean + _root(mean) * _normal(u, v) + 0.5)
    return counts.clamp(max=formulas.LARGEST_COUNT).to(torch.int64)
