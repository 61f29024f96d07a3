"""Draw docs/images/response_*.png: one picture a link of the chain, before and after, on one small scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.background.profiles import substance
from nanobrag_torch.config import CrystalShape
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector, DetectorGeometry
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.config import (
    BeamStopConfig,
    CountRateConfig,
    GainModesConfig,
    ResponseConfig,
    SpreadConfig,
)
from nanobrag_torch.response.readout import observed_rate, through_modes

FOLDER = Path(__file__).parents[1] / "docs" / "images"
WATER, AIR, ICE = (MaterialConfig(name=n, thickness_mm=t) for n, t in (("water", 0.1), ("air", 30.0), ("ice", 0.02)))
PIXELS = 256
BLOCKS = 4e10
"""Mosaic blocks of the crystal; one is rendered, with the amplitude of all."""
CLOSE = slice(20, 76)
"""Rows and columns of a close view."""


def simulator(*materials: MaterialConfig, response: ResponseConfig | None = None) -> Simulator:
    """A crystal 60 mm before a detector of 44 mm, with materials and a response."""
    crystal = CrystalConfig(
        cell_a=61.0, cell_b=74.0, cell_c=83.0, misset_deg=(11.0, 23.0, 37.0), N_cells=(16, 16, 16),
        default_F=BLOCKS**0.5 * 90.0, mosaic_spread_deg=0.4, mosaic_domains=30, shape=CrystalShape.GAUSS,
    )  # fmt: skip
    detector = DetectorConfig(distance_mm=60, pixel_size_mm=0.172, spixels=PIXELS, fpixels=PIXELS)
    beam = BeamConfig(flux=6e9, exposure=0.1, beamsize_mm=0.05, wavelength_A=1.0, polarization_factor=0.9)
    return Simulator(Crystal(crystal), Detector(detector), beam_config=beam, background=materials, response=response)


def pair(name: str, before: Tensor, after: Tensor, titles: tuple[str, str], top: float, *, close: bool = False) -> None:
    """Two images side by side on one grey scale."""
    figure = Figure(figsize=(7.2, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, image, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
        shown = image.double().numpy()
        shown = shown[CLOSE, CLOSE] if close else shown
        drawn = axes.imshow(shown, cmap="gray_r", vmin=0, vmax=top, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(drawn, ax=figure.axes, shrink=0.85, extend="max")
    save(figure, name)


def save(figure: Figure, name: str) -> None:
    """A picture among the documentation's."""
    figure.savefig(FOLDER / f"response_{name}.png", dpi=80)


def curve(name: str, draw: Callable[[Any], None]) -> None:
    """One set of axes."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    save(figure, name)


def backgrounds() -> None:
    """Profiles, and the image with and without materials."""

    def profiles(axes: Any) -> None:
        for label in ("water", "air", "ice"):
            stol, amplitude = substance(label).profile.T
            axes.plot(stol, amplitude, label=f"{label}, a molecule")
        axes.set(xlim=(0, 0.6), ylim=(0, 30), xlabel="sin θ / λ (1/Å)", ylabel="F (electrons)")
        axes.legend()

    curve("profiles", profiles)
    titles = ("crystal alone", "with water, air and ice")
    pair("background", simulator().run(), simulator(WATER, AIR, ICE).run(), titles, 25)


def links(photons: Tensor, geometry: DetectorGeometry) -> None:
    """What each link does to the photons."""

    def drawn(number: int = 0, **fields: Any) -> Tensor:
        config = ResponseConfig(pixel_size_um=172.0, dtype="float32", rounding="none", **fields)
        return Response(config, geometry=geometry).record(photons, 1, number)

    mean: dict[str, Any] = {"counting": False}
    stop = BeamStopConfig(diameter_mm=2.0, distance_mm=20.0, penumbra_mm=0.4)
    pair("shadow", photons, drawn(**mean, beamstop=stop), ("expected photons", "behind a 2 mm stop at 20 mm"), 25)
    flickers = [drawn(number, **mean, flicker=0.2) for number in (3, 5)]
    pair("flicker", flickers[0], flickers[1], ("flicker of 20 %: one image", "another"), 25)
    spread = SpreadConfig(shape="fiber", fwhm_um=300.0)
    pair("spread", photons, drawn(**mean, spread=spread), ("expected", "through fibre optics, 300 µm"), 25, close=True)
    calibrated = [drawn(number, **mean, calibration=0.1) for number in (3, 5)]
    titles = ("calibration error of 10 %: one image", "another")
    pair("calibration", calibrated[0], calibrated[1], titles, 25, close=True)
    pair("counting", photons, drawn(), ("expected", "counted"), 25, close=True)
    pair("readout", drawn(), drawn(gain=1.5, readout_noise=3.0, pedestal=5.0),
         ("counted", "1.5 ADU a photon, 3 ADU noise, 5 ADU"), 40, close=True)  # fmt: skip
    gaps = torch.ones(PIXELS, PIXELS, dtype=torch.bool)
    gaps[:, 84:92] = gaps[:, 168:176] = gaps[124:132] = False
    bad = torch.rand(PIXELS, PIXELS, generator=torch.Generator().manual_seed(1)) < 2e-3
    cut = drawn(saturation=30, overload=60, mask=gaps, masked_value=60, bad_pixels=bad, bad_value=60)
    pair("gaps", drawn(), cut, ("counted", "cut at 30; overloads, gaps, bad pixels marked"), 60)


def count_rate() -> None:
    """Seen over true counts of both kinds of counters."""

    def draw(axes: Any) -> None:
        true = torch.logspace(4, 8, 200, dtype=torch.float64)
        for counter in ("nonparalysable", "paralysable"):
            config = CountRateConfig(dead_time_s=120e-9, frame_time_s=1.0, counter=counter)
            axes.loglog(true, observed_rate(true, config), label=counter)
        axes.loglog(true, true, ":", color="0.5", label="no loss")
        axes.set(xlabel="photons / s", ylabel="counts / s", title="dead time of 120 ns")
        axes.legend()

    curve("rate", draw)


def gain_modes() -> None:
    """Words of a pixel that switches, over its charge."""

    def draw(axes: Any) -> None:
        modes = GainModesConfig(gains=(500.0, -17.0, -1.25), pedestals=(2500.0, 15000.0, 15000.0), packed=True,
                                noises=(12.0, 3.0, 3.0), switch_photons=(22, 730))  # fmt: skip
        charge = torch.logspace(-1, 4, 1500, dtype=torch.float64)
        noise = torch.from_numpy(np.random.default_rng(1).normal(size=1500))
        words = through_modes(charge, noise, modes)
        for bits, label in ((0, "high gain, bits 00"), (1, "medium, 01"), (3, "low, 11")):
            chosen = (words // 2**14) == bits
            axes.semilogx(charge[chosen], words[chosen] % 2**14, ".", ms=2, label=label)
        axes.set(xlabel="photons of 12.4 keV in a pixel", ylabel="ADU (14 bits)")
        axes.legend()

    curve("modes", draw)


def main() -> None:
    """All pictures."""
    FOLDER.mkdir(exist_ok=True)
    backgrounds()
    scene = simulator(WATER, AIR)
    links(scene.run(), scene.geometry)
    count_rate()
    gain_modes()


if __name__ == "__main__":
    main()
