"""What scripts read off a simulator: statistics of its image, memory, the beam as it is used."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobrag_torch.config import BeamConfig
from nanobrag_torch.models.detector import roi_bounds
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.physics.rotations import unit
from nanobrag_torch.records.images import as_array
from nanobrag_torch.records.statistics import image_statistics, last_subpixel_m
from nanobrag_torch.tracing.pixel import Rendering
from nanobrag_torch.units import ANGSTROM


class SimulatorAttributes:
    """Worked out anew when asked for, from the configurations as they are then."""

    def compute_statistics(self: Rendering, image: Tensor) -> dict[str, float | int]:
        """Largest value and its pixel, mean, RMS, RMSD and N, within the region of interest and the mask.

        max_I_subpixel_fast and _slow: in pixels, the centre of that pixel's last sub-pixel, where the C program has it.
        """
        config = self.detector.config
        x = roi_bounds(config.roi_xmin, config.roi_xmax, config.fpixels)
        y = roi_bounds(config.roi_ymin, config.roi_ymax, config.spixels)
        mask = None if config.mask_array is None else as_array(config.mask_array) != 0
        found = image_statistics(as_array(image), roi=(*x, *y), mask=mask)
        slow, fast = found.max_pixel or (0, 0)
        return {
            "max_I": found.max_I,
            "max_I_fast": fast,
            "max_I_slow": slow,
            "max_I_subpixel_fast": last_subpixel_m(fast, 1.0, self.oversample),
            "max_I_subpixel_slow": last_subpixel_m(slow, 1.0, self.oversample),
            "mean": found.mean,
            "RMS": found.rms,
            "RMSD": found.rmsd,
            "N": int(self.wanted_pixels().numel()),
        }

    def estimate_memory(self: Rendering, target_gpu_gb: float = 24.0) -> dict[str, float | int | bool]:
        """What a run holds at once: the image and the scene, whatever the number of steps (GB, all rows together)."""
        tensors = self.scene().tensors()
        size = math.prod(self.image_shape) * torch.finfo(self.dtype).bits / 8
        gigabytes = (size + sum(t.numel() * t.element_size() for t in tensors)) / 1e9
        rows = self.image_shape[-2]
        fits = gigabytes <= target_gpu_gb
        return {
            "batch_size": rows,
            "tricubic_peak_gb": gigabytes,
            "recommended_chunk_size": rows,
            "full_vectorization_ok": fits,
        }

    @property
    def beam_config(self: Rendering) -> BeamConfig:
        """What the beam was made from."""
        return self.beam.config

    @property
    def wavelength(self: Rendering) -> Tensor:
        """The configured wavelength [] (Angstrom)."""
        return (self.beam.wavelength() / ANGSTROM).to(self.dtype)

    @property
    def fluence(self: Rendering) -> Tensor:
        """Photons per square metre []."""
        return self.beam.fluence()

    @property
    def kahn_factor(self: Rendering) -> Tensor:
        """The polarization factor []."""
        return as_tensor(self.beam.config.polarization_factor, self.device).to(self.dtype)

    @property
    def polarization_axis(self: Rendering) -> Tensor:
        """Unit vector of the polarization [3]: the beam's own, or by convention."""
        given = self.beam.config.polarization_axis
        axis = self.geometry.polar if given is None else unit(as_tensor(given, self.device))
        return axis.to(self.dtype)

    @property
    def incident_beam_direction(self: Rendering) -> Tensor:
        """Unit vector along the beam [3]."""
        return self.geometry.beam.to(self.dtype)
