"""nanobrag_torch: X-ray diffraction images of small crystals, fast and differentiable.

>>> from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
>>> from nanobrag_torch.models.crystal import Crystal
>>> from nanobrag_torch.models.detector import Detector
>>> crystal = Crystal(CrystalConfig(cell_a=78.0, cell_c=38.0, N_cells=(5, 5, 5), default_F=100.0))
>>> detector = Detector(DetectorConfig(distance_mm=100.0, pixel_size_mm=0.4, spixels=16, fpixels=16))
>>> image = Simulator(crystal, detector, beam_config=BeamConfig(wavelength_A=1.0), kernel="reference").run()
>>> tuple(image.shape), bool((image > 0).any())
((16, 16), True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanobrag_torch.lazy import lazily

if TYPE_CHECKING:
    from nanobrag_torch.batches import render_batch
    from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
    from nanobrag_torch.experiment import Experiment
    from nanobrag_torch.refinement.losses import loss_and_gradient
    from nanobrag_torch.refinement.normal_equations import normal_equations
    from nanobrag_torch.simulator import Simulator

__version__ = "0.1.0"
__all__ = [
    "BeamConfig",
    "CrystalConfig",
    "DetectorConfig",
    "Experiment",
    "Simulator",
    "__version__",
    "loss_and_gradient",
    "normal_equations",
    "render_batch",
]

_HOMES = {
    "batches": ("render_batch",),
    "config": ("BeamConfig", "CrystalConfig", "DetectorConfig"),
    "experiment": ("Experiment",),
    "refinement.losses": ("loss_and_gradient",),
    "refinement.normal_equations": ("normal_equations",),
    "simulator": ("Simulator",),
}
__getattr__ = lazily(__name__, _HOMES)
