"""What scatters besides the crystal, for the images of a data set: worked out once as long as the setting stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nanobrag_torch.background.amorphous import amorphous_values
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.background.profiles import ice_rings
from nanobrag_torch.config import BeamConfig
from nanobrag_torch.datasets.plan import ImagePlan
from nanobrag_torch.datasets.recipe import BackgroundPart
from nanobrag_torch.io.stol import read_stol_file
from nanobrag_torch.kernels.problem import Scene
from nanobrag_torch.models.beam import Beam, Sources
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.units import R_E_SQUARED

Image = NDArray[np.float32]


class Backdrop:
    """Images of the background, flat over [panel, slow, fast], in photons that reach the pixels.

    reached: what shadow and point spread make of a flat image. Raises InputError for a profile that cannot be read.
    """

    def __init__(
        self,
        part: BackgroundPart,
        geometry: DetectorGeometry,
        image_shape: tuple[int, int],
        reached: Callable[[Image], Image],
    ) -> None:
        self._part, self._geometry, self._shape, self._reached = part, geometry, image_shape, reached
        self._size = geometry.panels.shape[0] * image_shape[0] * image_shape[1]
        self._profile = read_stol_file(part.profile, flag="background.profile") if part.profile else None
        self._flat: Image | None = None
        self._kept: tuple[bytes, Image] | None = None

    def image(self, plan: ImagePlan, scene: Scene) -> Image:
        """The background of an image whose detector and beam the scene has."""
        found = np.zeros(self._size, np.float32)
        if plan.constant:
            if self._flat is None:
                self._flat = self._reached(np.ones(self._size, np.float32))
            found += np.float32(plan.constant) * self._flat
        if any(plan.thicknesses_mm.values()):
            found += np.float32(R_E_SQUARED * plan.fluence) * self._scattered(plan, scene)
        return found

    def _scattered(self, plan: ImagePlan, scene: Scene) -> Image:
        """Of a fluence that makes one photon a square electron radius; kept until anything moves."""
        tensors = (scene.panels, scene.incident, scene.wavelengths, scene.source_weights / scene.source_weights.sum())
        mark = b"".join(t.numpy().tobytes() for t in tensors) + repr(sorted(plan.thicknesses_mm.items())).encode()
        if self._kept is None or self._kept[0] != mark:
            self._kept = mark, self._reached(self._rendered(plan, scene))
        return self._kept[1]

    def _rendered(self, plan: ImagePlan, scene: Scene) -> Image:
        weights = scene.source_weights / scene.source_weights.sum()
        values = amorphous_values(
            [self._material(name, thickness) for name, thickness in plan.thicknesses_mm.items() if thickness],
            None,
            beam=Beam(BeamConfig(fluence=1 / R_E_SQUARED, beamsize_mm=self._part.beam_size_mm)),
            sources=Sources(-scene.incident, scene.wavelengths, weights),
            polarization=scene.polarization,
            geometry=replace(self._geometry, panels=scene.panels),
            image_shape=self._shape,
            dtype=torch.float32,
        )
        return values.numpy()

    def _material(self, name: str, thickness_mm: float) -> MaterialConfig:
        if name != "profile":
            return MaterialConfig(name=name, thickness_mm=thickness_mm)
        assert self._profile is not None
        table = self._profile[np.argsort(self._profile[:, 0], kind="stable")]
        return MaterialConfig(
            name=self._part.profile,
            thickness_mm=thickness_mm,
            stol=table[:, 0],
            F=np.nan_to_num(table[:, 1]),
            density_g_cm3=self._part.profile_density_g_cm3,
            molecular_weight=self._part.profile_weight_g_mol,
        )


def rings_of(plan: ImagePlan, finest_A: float) -> list[float]:
    """Spacings (Angstrom) of the powder rings of an image that its detector reaches, the widest first."""
    if not plan.thicknesses_mm.get("ice"):
        return []
    spacings, _ = ice_rings()
    return [float(d) for d in np.sort(spacings)[::-1] if d >= finest_A]
