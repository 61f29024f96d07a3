"""Building what a kernel reads is a fixed number of array operations on the device, whatever the number of domains."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from cuda_cases import DEVICE
from torch.utils._python_dispatch import TorchDispatchMode

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.config import PanelConfig
from nanobrag_torch.kernels.problem import Scene
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.models.tensors import as_tensor

PANEL = PanelConfig(
    origin_mm=(100.0, -1, -1), fast_axis=(0.0, 0.0, 1.0), slow_axis=(0.0, -1.0, 0.0), fpixels=5, spixels=6
)


class Counting(TorchDispatchMode):
    """Counts operations and those that look at a value on the host."""

    def __init__(self):
        super().__init__()
        self.calls, self.looks = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        self.looks += "_local_scalar_dense" in func.name()
        return func(*args, **(kwargs or {}))


def test_copies_to_a_gpu_do_not_wait_for_it(monkeypatch):
    copies = []

    def copied(tensor, *device, **how):
        copies.append(how.get("non_blocking", False))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", copied)
    Scene(*(torch.zeros(1) for _ in fields(Scene))).to(torch.device("cuda"))
    for value in (1.5, (1.0, 2.0), torch.tensor(1.0), [torch.tensor(1.0), 2.0]):
        as_tensor(value, "cuda:0")
    assert copies == [True] * 19


@pytest.mark.parametrize(
    ("detector", "beam"),
    [
        ({"detector_thick_um": 100.0, "detector_rotx_deg": 3.0, "detector_twotheta_deg": 5.0}, {"water_size_um": 1.0}),
        ({"oversample": 2}, {"hdiv_range_mrad": 2.0, "hdiv_steps": 3, "vdiv_range_mrad": 2.0, "vdiv_steps": 3}),
        ({"panels": [PANEL, PANEL]}, {"source_directions": [[1.0, 0.0, 0.0]], "source_weights": [2.0]}),
    ],
)
def test_no_run_waits_for_the_device(detector, beam):
    """A run on tensors that have no values: whatever looks at one fails, as it would wait for a GPU."""
    crystal = Crystal(CrystalConfig(cell_a=80.0, mosaic_spread_deg=0.4, osc_range_deg=0.2, phi_steps=3), device="meta")
    crystal.hkl_data, crystal.hkl_metadata = torch.ones(3, 3, 3), {"h_min": -1, "k_min": -1, "l_min": -1}
    sizes = {} if "panels" in detector else {"spixels": 6, "fpixels": 5}
    config = DetectorConfig(**{"oversample": 1, **sizes, **detector})
    simulator = Simulator(crystal, Detector(config, device="meta"), beam_config=BeamConfig(**beam), device="meta")
    assert simulator.run(check=False).shape[-2:] == (6, 5)
    assert simulator.scene().incident.shape[0] == (5 if "hdiv_steps" in beam else 1)


def operations(domains: int) -> tuple[int, int, Simulator]:
    config = CrystalConfig(cell_a=80.0, mosaic_spread_deg=0.4, mosaic_domains=domains, phi_steps=3, osc_range_deg=0.2)
    crystal = Crystal(config, device=DEVICE)
    detector = Detector(DetectorConfig(distance_mm=100.0, spixels=32, fpixels=32), device=DEVICE)
    beam = BeamConfig(dispersion_pct=1.0, dispersion_steps=4)
    simulator = Simulator(crystal, detector, beam_config=beam, device=DEVICE)
    simulator.scene()  # draws the domains
    with Counting() as counting:
        scene = simulator.scene()
    assert scene.lattice.shape == (3 * domains, 3, 3)
    assert all(tensor.device.type == DEVICE.type for tensor in scene.tensors())
    return counting.calls, counting.looks, simulator


def test_a_thousand_domains_take_no_more_operations_than_ten():
    few, looks, _ = operations(10)
    many, _, simulator = operations(1000)
    assert few == many
    assert looks == 0
    turned = simulator.scene().lattice
    lengths = torch.linalg.vector_norm(turned, dim=-1)
    assert torch.allclose(lengths, torch.full_like(lengths, 80e-10), rtol=1e-12)
