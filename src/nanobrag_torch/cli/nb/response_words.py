"""From a few words to materials and a response: what `nb simulate` and `nb record` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.background.materials import MaterialConfig
    from nanobrag_torch.records.experiment import ExperimentData
    from nanobrag_torch.response.config import ResponseConfig, SpreadConfig
    from nanobrag_torch.response.presets import DetectorPreset

BACKGROUND_HELP = "material:thickness, such as water:2.5mm, air:5mm, ice:10um or a .stol file:1mm; any number of times"
PSF_HELP = "point spread, shape:width: gauss:75um, fiber:80um, moffat:75um:3 (beta); a radius as :r8"
DETECTOR_HELP = "a detector by name in place of the file's, such as eiger16m or pilatus6m@200mm"
BEAMSTOP_HELP = "disc in the beam, diameter[@distance[/penumbra]]: 2mm, 2mm@30mm, 2mm@30mm/0.2mm"
PERCENT_HELP = "rms, such as 3% or 0.03"
SPREAD_PARTS = 4


@dataclass(frozen=True)
class ResponseWords:
    """What the command line says of a detector; None and 0 are off."""

    psf: Annotated[str | None, typer.Option(help=PSF_HELP)] = None
    detector: Annotated[str | None, typer.Option(help=DETECTOR_HELP)] = None
    beamstop: Annotated[str | None, typer.Option(help=BEAMSTOP_HELP)] = None
    gain: Annotated[float | None, typer.Option(help="ADU a photon [as the geometry says, or 1]")] = None
    pedestal: Annotated[float | None, typer.Option(help="offset (ADU) [as the geometry says, or 0]")] = None
    readout_noise: Annotated[float, typer.Option(help="rms (ADU)")] = 0.0
    flicker: Annotated[str | None, typer.Option(help=f"of the source, once an image: {PERCENT_HELP}")] = None
    calibration: Annotated[str | None, typer.Option(help=f"of the sensitivity of pixels: {PERCENT_HELP}")] = None
    detector_seed: Annotated[int | None, typer.Option(help="which detector the calibration is of")] = None
    frame_time: Annotated[float | None, typer.Option(help="time of an image (s), for the count rate")] = None

    @property
    def draws(self) -> bool:
        """Whether anything but counting is drawn at random."""
        return bool(self.readout_noise or self.flicker or self.calibration)

    @property
    def given(self) -> bool:
        """Whether anything is said at all."""
        return self != ResponseWords()

    def preset(self) -> DetectorPreset | None:
        """The detector that is named."""
        if self.detector is None:
            return None
        from nanobrag_torch.response.presets import detector_preset

        return detector_preset(self.detector.partition("@")[0], "--detector")

    def placed(self, data: ExperimentData) -> ExperimentData:
        """The experiment with the detector that is named: as far away as the file's was, unless a distance is said."""
        from dataclasses import replace

        from nanobrag_torch.background.materials import length_mm
        from nanobrag_torch.records.frames import incident

        preset = self.preset()
        if preset is None or self.detector is None:
            return data
        data.need("beam", where="--detector")
        assert data.beam is not None
        _, at, far = self.detector.partition("@")
        if at:
            distance = length_mm(far, "--detector")
        elif data.detector is not None:
            panel = data.detector.panels[0]
            distance = float(panel.origin_mm @ panel.normal / (incident(data.beam) @ panel.normal))
        else:
            raise InputError("--detector", self.detector, "a distance, such as eiger16m@200mm: the file has none")
        return replace(data, detector=preset.detector(data.beam, abs(distance)))

    def config(self, wavelength_A: float | None, *, counting: bool, dtype: str) -> ResponseConfig:
        """The response. wavelength_A: for a detector that is named. dtype: of what is recorded."""
        from nanobrag_torch.response.config import ResponseConfig

        fields: dict[str, Any] = {"counting": counting}
        fields |= {} if self.psf is None else {"spread": spread_of(self.psf)}
        fields |= {} if self.beamstop is None else {"beamstop": beamstop_of(self.beamstop)}
        for name in ("flicker", "calibration"):
            if (text := getattr(self, name)) is not None:
                fields[name] = fraction_of(text, f"--{name}")
        given = {"gain": self.gain, "pedestal": self.pedestal, "readout_noise": self.readout_noise or None,
                 "calibration_seed": self.detector_seed}  # fmt: skip
        fields |= {name: value for name, value in given.items() if value is not None}
        preset = self.preset()
        try:
            if preset is None:
                return ResponseConfig(dtype=dtype, **fields)
            if wavelength_A is None:
                raise InputError("--detector", self.detector, "an image whose header has a wavelength")
            return preset.response(wavelength_A, frame_time_s=self.frame_time, **fields)
        except InputError as error:
            flag = error.name if error.name.startswith("--") else f"--{error.name.replace('_', '-')}"
            raise InputError(flag, error.value, error.accepted) from None

    def story(self) -> str:
        """The words again, for a header."""
        said = [f"{name.replace('_', ' ')} {value}" for name, value in vars(self).items() if value not in (None, 0.0)]
        return ", ".join(said)


def materials_of(words: Sequence[str] | None) -> list[MaterialConfig]:
    """The materials of --background."""
    from nanobrag_torch.background.materials import material_of

    return [material_of(word) for word in words or ()]


def spread_of(text: str) -> SpreadConfig:
    """The point spread of --psf."""
    from nanobrag_torch.background.materials import length_mm
    from nanobrag_torch.response.config import SpreadConfig

    shape, *rest = text.split(":")
    if shape not in ("gauss", "fiber", "moffat") or not 1 <= len(rest) < SPREAD_PARTS:
        raise InputError("--psf", text, PSF_HELP)
    fields: dict[str, Any] = {"shape": shape, "fwhm_um": 1000 * length_mm(rest[0], "--psf")}
    for word in rest[1:]:
        if word[:1] == "r" and word[1:].isdigit():
            fields["radius_pixels"] = int(word[1:])
        elif shape == "moffat":
            fields["beta"] = _number(word, "--psf", text)
        else:
            raise InputError("--psf", text, PSF_HELP)
    try:
        return SpreadConfig(**fields)
    except InputError as error:
        raise InputError("--psf", text, f"{error.name}: {error.accepted}") from None


def beamstop_of(text: str) -> Any:
    """The disc of --beamstop."""
    from nanobrag_torch.background.materials import length_mm
    from nanobrag_torch.response.config import BeamStopConfig

    diameter, _, where = text.partition("@")
    distance, _, softness = where.partition("/")
    fields: dict[str, Any] = {"diameter_mm": length_mm(diameter, "--beamstop")}
    fields |= {"distance_mm": length_mm(distance, "--beamstop")} if distance else {}
    fields |= {"penumbra_mm": length_mm(softness, "--beamstop")} if softness else {}
    return BeamStopConfig(**fields)


def fraction_of(text: str, flag: str) -> float:
    """A fraction, or a percentage with its sign."""
    found = _number(text.removesuffix("%"), flag, text)
    return found / 100 if text.endswith("%") else found


def _number(word: str, flag: str, text: str) -> float:
    try:
        found = float(word)
    except ValueError:
        raise InputError(flag, text, "numbers such as 3% or 0.03") from None
    if not 0 <= found < float("inf"):
        raise InputError(flag, text, "a number from 0 up")
    return found
