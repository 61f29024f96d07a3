"""What a detector does to expected photons, as the user states it: frozen, validated, no physics.

A field may be a number, an array of the image's shape [panel, slow, fast] or (slow, fast), or a tensor that requires
grad where it is a Real. What is off is 0, 1 or None: the default configuration counts photons and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nanobrag_torch.config import NoiseConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.response.counters import require_number

if TYPE_CHECKING:
    from torch import Tensor

    Real = float | Tensor

SHAPES = ("gauss", "fiber", "moffat", "kernel")
COUNTERS = ("nonparalysable", "paralysable")
ROUNDINGS = ("nearest", "down", "none")
WORDS = {
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}
"""Types of recorded values and what they hold; float32 holds anything."""
CALIBRATION_SEED = 123456789


@dataclass(frozen=True, kw_only=True)
class SpreadConfig:
    """Point spread of a detector: where the photons of one pixel are recorded.

    gauss and fiber are known by fwhm_um, moffat by fwhm_um and beta, (1 + r^2 / alpha^2)^-beta; fiber is beta = 1.5.
    kernel: shares [odd, odd] along slow and fast of the pixels about the one that is hit, their sum at most 1.
    radius_pixels: where the spread is cut off and scaled to keep every photon; None: as far as anything is left.
    """

    shape: str = "gauss"
    fwhm_um: Real | None = None
    beta: Real = 2.5
    kernel: Any | None = None
    radius_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError("shape", self.shape, ", ".join(SHAPES))
        if self.shape == "kernel":
            _require_kernel(self.kernel)
        else:
            _require_range("fwhm_um", self.fwhm_um, low=0, open_low=True, needed=True)
            _require_range("beta", self.beta, low=1, open_low=True)
        if self.shape != "kernel" and self.kernel is not None:
            raise InputError("kernel", "an array", f"nothing with the shape {self.shape}")
        if self.radius_pixels is not None:
            _require_whole("radius_pixels", self.radius_pixels, 1)


@dataclass(frozen=True, kw_only=True)
class CountRateConfig:
    """Photons lost because a pixel is busy for dead_time_s after one, in frames of frame_time_s.

    nonparalysable: n / (1 + n x); paralysable: n exp(-n x), with x = dead_time_s / frame_time_s. cutoff: counts above
    are no measurement, and are recorded as overloaded.
    """

    dead_time_s: float
    frame_time_s: float
    counter: str = "nonparalysable"
    cutoff: float | None = None

    def __post_init__(self) -> None:
        if self.counter not in COUNTERS:
            raise InputError("counter", self.counter, ", ".join(COUNTERS))
        _require_range("dead_time_s", self.dead_time_s, low=0)
        _require_range("frame_time_s", self.frame_time_s, low=0, open_low=True)
        _require_range("cutoff", self.cutoff, low=0, open_low=True)

    @property
    def share(self) -> float:
        """Dead time over frame time."""
        return self.dead_time_s / self.frame_time_s


@dataclass(frozen=True, kw_only=True)
class GainModesConfig:
    """An integrating pixel that switches to a lower gain as it fills: for each mode, from the highest gain down.

    gains: ADU a photon, of either sign; pedestals and noises: ADU; switch_photons: charge above which the mode is left,
    one fewer than modes. packed: record the ADU with the mode in the bits from adc_bits up, as JUNGFRAU's raw data
    (00, 01, 11); else photons, converted back.
    """

    gains: Sequence[float]
    pedestals: Sequence[float]
    noises: Sequence[float]
    switch_photons: Sequence[float]
    adc_bits: int = 14
    packed: bool = False

    def __post_init__(self) -> None:
        counts = [len(self.gains), len(self.pedestals), len(self.noises), len(self.switch_photons) + 1]
        if len(set(counts)) != 1 or not 1 <= counts[0] <= 3:
            accepted = "as many pedestals and noises, and one switching point fewer; 1 to 3 modes"
            raise InputError("gains, pedestals, noises, switch_photons", tuple(counts), accepted)
        for gain in self.gains:
            _require_range("gains", gain)
            if gain == 0:
                raise InputError("gains", gain, "anything but 0")
        for noise in self.noises:
            _require_range("noises", noise, low=0)
        for pedestal in self.pedestals:
            _require_range("pedestals", pedestal)
        if list(self.switch_photons) != sorted(set(self.switch_photons)):
            raise InputError("switch_photons", tuple(self.switch_photons), "numbers that grow")
        _require_whole("adc_bits", self.adc_bits, 1, 14 if self.packed else 30)


@dataclass(frozen=True, kw_only=True)
class BeamStopConfig:
    """A disc before the detector, about the beam: its diameter and distance from the sample, and the edge's softness.

    penumbra_mm: distance over which the edge goes from a tenth to nine tenths. transmission: share that passes through.
    """

    diameter_mm: Real
    distance_mm: Real = 20.0
    penumbra_mm: Real = 0.1
    transmission: float = 0.0
    shift_mm: Sequence[float] = (0.0, 0.0)  # off the beam, along the detector's fast and slow axes

    def __post_init__(self) -> None:
        for name in ("diameter_mm", "distance_mm"):
            _require_range(name, getattr(self, name), low=0, open_low=True)
        _require_range("penumbra_mm", self.penumbra_mm, low=0)
        _require_range("transmission", self.transmission, low=0, high=1)
        if len(self.shift_mm) != 2:
            raise InputError("shift_mm", tuple(self.shift_mm), "2 numbers")


@dataclass(frozen=True, kw_only=True)
class ResponseConfig:
    """What happens between expected photons and a recorded image, in the order of the fields.

    Values in ADU are what the file holds: gain times photons, plus the pedestal. mask: True where a pixel records.
    """

    beamstop: BeamStopConfig | None = None
    transmission: Any = 1.0  # share of the photons that reach each pixel, 0 to 1
    flicker: float = 0.0  # rms of the source, as a fraction; one deviate an image
    spread: SpreadConfig | None = None
    calibration: float = 0.0  # rms of the sensitivity of pixels, as a fraction; fixed by the detector
    calibration_seed: int = CALIBRATION_SEED  # which detector
    counting: bool = True  # whole photons, Poisson
    count_rate: CountRateConfig | None = None
    gain: Real | Any = 1.0  # ADU a photon
    gain_modes: GainModesConfig | None = None  # replaces gain, readout_noise and pedestal
    readout_noise: Real | Any = 0.0  # ADU rms
    pedestal: Real | Any = 0.0  # ADU
    rounding: str = "nearest"  # to whole numbers: nearest, down (towards 0) or none
    dtype: str = "int32"  # of the recorded image
    lowest: float | None = None  # values below are raised to it; None: what the dtype holds
    saturation: float | None = None  # the highest value that is recorded; None: what the dtype holds
    overload: float | None = None  # recorded above it; None: the saturation itself
    mask: Any | None = None
    masked_value: float = 0.0  # of gaps
    bad_pixels: Any | None = None  # True where a pixel is broken
    bad_value: float = 0.0
    pixel_size_um: Any | None = None  # one number, or fast and slow; None: that of the detector

    def __post_init__(self) -> None:
        for name in ("flicker", "calibration"):
            _require_range(name, getattr(self, name), low=0)
        require_number("calibration_seed", self.calibration_seed)
        _require_range("transmission", self.transmission, low=0, high=1)
        _require_range("readout_noise", self.readout_noise, low=0)
        _require_range("gain", self.gain, low=0, open_low=True)
        _require_range("pedestal", self.pedestal)
        _require_range("pixel_size_um", self.pixel_size_um, low=0, open_low=True)
        if self.rounding not in ROUNDINGS:
            raise InputError("rounding", self.rounding, ", ".join(ROUNDINGS))
        self._require_values()
        if self.gain_modes is not None:
            self._require_defaults("gain", "readout_noise", "pedestal")

    @classmethod
    def of(cls, config: ResponseConfig | NoiseConfig | None) -> ResponseConfig:
        """A response as it is given, in brief or at length; the default counts photons and nothing else."""
        if not isinstance(config, NoiseConfig):
            return cls() if config is None else config
        return cls(
            readout_noise=config.readout_noise, pedestal=config.adc_offset, saturation=config.overload_value, lowest=0.0
        )

    def _require_values(self) -> None:
        if self.dtype not in (*WORDS, "float32"):
            raise InputError("dtype", self.dtype, ", ".join((*WORDS, "float32")))
        if self.rounding == "none" and self.dtype != "float32":
            raise InputError("rounding", "none", "nearest or down where whole numbers are recorded")
        low, high = WORDS.get(self.dtype, (-3.4e38, 3.4e38))
        for name in ("lowest", "saturation", "overload", "masked_value", "bad_value"):
            _require_range(name, getattr(self, name), low=low, high=high)

    def _require_defaults(self, *names: str) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in names:
            if getattr(self, name) is not defaults[name]:
                raise InputError(name, "a value", "nothing where gain_modes are given: they replace it")


def _require_kernel(kernel: Any) -> None:
    import numpy as np

    shares = np.asarray([0.0]) if kernel is None else _numbers(kernel)
    if shares.ndim != 2 or not all(size % 2 for size in shares.shape):
        raise InputError("kernel", tuple(shares.shape), "an array of odd sizes along slow and fast")
    if not np.isfinite(shares).all() or (shares < 0).any() or not 0 < shares.sum() <= 1 + 1e-9:
        raise InputError("kernel", float(shares.sum()), "shares from 0 up whose sum is at most 1")


def _require_range(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    needed: bool = False,
) -> None:
    """Raise InputError unless every number of a scalar, array or tensor is finite and within bounds."""
    import numpy as np

    if value is None and not needed:
        return
    above = "above" if open_low else "from"
    ends = [f"{above} {low:g}" if low is not None else "", f"to {high:g}" if high is not None else ""]
    accepted = " ".join(["numbers" if hasattr(value, "shape") else "a number", *filter(None, ends)])
    accepted += " up" if low is not None and high is None and not open_low else ""
    numbers = np.asarray([np.nan]) if value is None else _numbers(value)
    good = np.isfinite(numbers)
    if low is not None:
        good &= numbers > low if open_low else numbers >= low
    if high is not None:
        good &= numbers <= high
    if not good.all():
        shown = None if value is None else float(numbers[~good].reshape(-1)[0])
        raise InputError(name, shown, accepted)


def _numbers(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):  # few numbers may be those of a transformed function, which have no memory
        value = value.detach().tolist() if value.numel() < 16 else value.detach().cpu()
    return np.asarray(value, np.float64)


def _require_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and value >= low and (high is None or value <= high)):
        raise InputError(name, value, f"a whole number from {low} {'up' if high is None else f'to {high}'}")
