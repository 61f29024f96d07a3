"""Detectors by name: pixels, modules, gaps, sensor, and the values that their files hold.

Sizes, gaps and sensors are those of the makers' data sheets and manuals. EIGER2: Donath et al., J. Synchrotron Rad. 30
(2023), 723, and DECTRIS, EIGER2 user manual (instant retrigger counts without paralysis; 1e7 photons/s a pixel). EIGER:
DECTRIS, EIGER X user manual (2e6 photons/s). PILATUS3: DECTRIS, PILATUS3 user manual (20 bits; 1e7 photons/s; -1 in
gaps, -2 in dead pixels). JUNGFRAU: Mozzanica et al., J. Instrum. 11 (2016), C02047 (noise, 1e4 photons of 12 keV),
and Redford et al., J. Instrum. 13 (2018), C01027 (41, -1.4 and -0.1 ADU a keV; 14 bits); its pedestals are typical.

Files hold rates that are corrected for lost counts, so that of the count-rate loss the cut-off is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.form_factors import HC_EV_ANGSTROM, dispersion
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.experiment import BeamData, DetectorData, PanelData
from nanobrag_torch.records.frames import incident
from nanobrag_torch.response.config import GainModesConfig, ResponseConfig

Vector = NDArray[np.float64]

ATOMS_PER_M3 = {"Si": 8 / (5.431020511e-10) ** 3}
"""Of the sensor: eight atoms in the cell of silicon."""
CLASSICAL_RADIUS_M = 2.8179403262e-15
MM, MICRON = 1e-3, 1e-6


@dataclass(frozen=True)
class DetectorPreset:
    """One detector of alike modules with gaps between; pairs are slow and fast."""

    name: str
    title: str
    pixel_um: float
    modules: tuple[int, int]
    module_pixels: tuple[int, int]
    gap_pixels: tuple[int, int]
    thickness_um: float
    highest_count: int  # of a pixel in an image
    highest_rate: float | None  # photons/s a pixel that can still be corrected; None: it integrates
    gap_value: int
    bad_value: int
    material: str = "Si"
    gain_ADU_keV: tuple[float, ...] = ()
    pedestals: tuple[float, ...] = ()
    noises: tuple[float, ...] = ()
    switch_keV: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Slow and fast pixels, gaps included."""
        slow, fast = (
            m * n + (m - 1) * gap for m, n, gap in zip(self.modules, self.module_pixels, self.gap_pixels, strict=True)
        )
        return slow, fast

    def gaps(self) -> Iterator[tuple[int, int, int, int]]:
        """Rectangles fast0, slow0, fast1, slow1 between modules; ends excluded."""
        slow, fast = self.shape
        for i in range(1, self.modules[1]):
            end = i * (self.module_pixels[1] + self.gap_pixels[1])
            yield end - self.gap_pixels[1], 0, end, slow
        for i in range(1, self.modules[0]):
            end = i * (self.module_pixels[0] + self.gap_pixels[0])
            yield 0, end - self.gap_pixels[0], fast, end

    def mask(self) -> NDArray[np.bool_]:
        """True where there is a pixel (slow, fast)."""
        good = np.ones(self.shape, bool)
        for fast0, slow0, fast1, slow1 in self.gaps():
            good[slow0:slow1, fast0:fast1] = False
        return good

    def attenuation_per_mm(self, wavelength_A: float) -> float:
        """Photoelectric absorption of the sensor, 2 r_e lambda f'' an atom (Cromer and Liberman)."""
        absorptive = float(dispersion([self.material], wavelength_A)[1][0])
        return 2 * CLASSICAL_RADIUS_M * wavelength_A * 1e-10 * absorptive * ATOMS_PER_M3[self.material] * MM

    def detector(self, beam: BeamData, distance_mm: float) -> DetectorData:
        """The detector across a beam, which hits its middle; its fast axis is along x as far as it can be."""
        if not distance_mm > 0:
            raise InputError("distance_mm", distance_mm, "a number above 0")
        along = incident(beam)
        fast = np.array([1.0, 0.0, 0.0]) - along[0] * along
        fast = fast / np.linalg.norm(fast) if np.linalg.norm(fast) > 1e-6 else np.array([0.0, 0.0, 1.0])
        slow = np.cross(along, fast)
        pixel = self.pixel_um * MICRON / MM
        corner = -0.5 * pixel * (self.shape[1] * fast + self.shape[0] * slow)
        panel = PanelData(
            origin_mm=distance_mm * along + corner,
            fast=fast,
            slow=slow,
            pixel_size_mm=(pixel, pixel),
            image_size=(self.shape[1], self.shape[0]),
            name=self.name,
            thickness_mm=self.thickness_um * MICRON / MM,
            mu_per_mm=self.attenuation_per_mm(beam.wavelength_A),
            material=self.material,
            trusted_range=(0.0, float(self.highest_count)),
            gain=1.0,
            pedestal=0.0,
            parallax=True,
            untrusted=tuple(self.gaps()),
        )
        return DetectorData(panels=(panel,))

    def response(
        self, wavelength_A: float, *, frame_time_s: float | None = None, packed: bool = False, **fields: Any
    ) -> ResponseConfig:
        """What the detector records, in photons; `fields` of ResponseConfig are added or win.

        frame_time_s: the time of an image, which the cut-off of the count rate goes by. packed: the raw words of an
        integrating detector instead of photons.
        """
        top = float(self.highest_count)
        if frame_time_s is not None and self.highest_rate is not None:
            top = min(top, float(int(self.highest_rate * frame_time_s)))
        chosen: dict[str, Any] = {
            "mask": self.mask(),
            "masked_value": self.gap_value,
            "bad_value": self.bad_value,
            "pixel_size_um": self.pixel_um,
            "saturation": top,
            "overload": top + 1,
            "dtype": "int32",
        }
        if self.gain_ADU_keV:
            chosen |= {"gain_modes": self.modes(wavelength_A, packed), "lowest": -(2.0**15) + 1}
            if packed:
                chosen |= {"saturation": None, "overload": None, "masked_value": 0, "bad_value": 0, "lowest": 0}
        return ResponseConfig(**{**chosen, **fields})

    def modes(self, wavelength_A: float, packed: bool) -> GainModesConfig:
        """Gain modes for photons of one wavelength."""
        energy_keV = HC_EV_ANGSTROM / wavelength_A / 1000
        return GainModesConfig(
            gains=[gain * energy_keV for gain in self.gain_ADU_keV],
            pedestals=self.pedestals,
            noises=self.noises,
            switch_photons=[limit / energy_keV for limit in self.switch_keV],
            packed=packed,
        )


PRESETS = {
    preset.name: preset
    for preset in (
        DetectorPreset("eiger2_16m", "EIGER2 16M", 75.0, (8, 4), (512, 1028), (38, 12), 450.0, 2**31 - 3, 1e7, -1, -2),
        DetectorPreset("eiger_4m", "EIGER 4M", 75.0, (4, 2), (514, 1030), (37, 10), 450.0, 2**31 - 3, 2e6, -1, -2),
        DetectorPreset("pilatus3_6m", "PILATUS3 6M", 172.0, (12, 5), (195, 487), (17, 7), 450.0, 1048575, 1e7, -1, -2),
        DetectorPreset(
            "jungfrau_4m", "JUNGFRAU 4M", 75.0, (4, 2), (514, 1030), (36, 8), 320.0, 32766, None, -32768, -32768,
            gain_ADU_keV=(41.0, -1.4, -0.1), pedestals=(2500.0, 15000.0, 15000.0), noises=(12.0, 3.0, 3.0),
            switch_keV=(270.0, 9000.0),
        ),
    )
}  # fmt: skip
ALIASES = {"eiger16m": "eiger2_16m", "eiger216m": "eiger2_16m", "eiger4m": "eiger_4m", "pilatus6m": "pilatus3_6m",
           "pilatus36m": "pilatus3_6m", "jungfrau4m": "jungfrau_4m"}  # fmt: skip


def detector_preset(name: str, field: str = "detector") -> DetectorPreset:
    """A detector by name, such as eiger2_16m or EIGER16M. Raises InputError that names the field."""
    plain = name.lower().replace("-", "").replace(" ", "")
    found = PRESETS.get(plain) or PRESETS.get(ALIASES.get(plain.replace("_", ""), ""))
    if found is None:
        raise InputError(field, name, ", ".join((*PRESETS, *ALIASES)))
    return found
