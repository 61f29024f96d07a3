"""Several panels: the same pixels whether a detector is one panel or many, and groups that move as rigid bodies."""

from __future__ import annotations

import pytest
import torch

from nanobrag_torch.config import CrystalConfig, DetectorConfig, GroupConfig, PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.simulator import Simulator

CRYSTAL = CrystalConfig(cell_a=60.0, cell_b=75.0, cell_c=90.0, default_F=50.0, N_cells=(5, 5, 5), misset_deg=(3, 2, 1))
WHOLE = DetectorConfig(
    distance_mm=100.0, pixel_size_mm=0.4, spixels=24, fpixels=32, oversample=2, detector_convention="xds"
)


def render(detector: DetectorConfig) -> torch.Tensor:
    crystal = Crystal(CRYSTAL, dtype=torch.float64)
    return Simulator(crystal, Detector(detector), dtype=torch.float64).run()


def tile(origin: torch.Tensor, slow: int, fast: int, shape: tuple[int, int], **more) -> PanelConfig:
    """A piece of the whole detector that begins at a pixel."""
    corner = origin * 1000 + torch.tensor([fast * 0.4, slow * 0.4, 0.0], dtype=torch.float64)
    return PanelConfig(
        origin_mm=corner,
        fast_axis=(1, 0, 0),
        slow_axis=(0, 1, 0),
        spixels=shape[0],
        fpixels=shape[1],
        pixel_size_mm=0.4,
        **more,
    )


@pytest.fixture
def origin() -> torch.Tensor:
    return Detector(WHOLE).geometry().panels[0, 0]


def test_four_tiles_make_the_whole_image(origin):
    tiles = [tile(origin, s, f, (12, 16)) for s in (0, 12) for f in (0, 16)]
    parts = render(DetectorConfig(panels=tiles, oversample=2, detector_convention="xds"))
    assert parts.shape == (4, 12, 16)
    rows = [torch.cat(tuple(parts[i : i + 2]), dim=1) for i in (0, 2)]
    assert torch.allclose(torch.cat(rows), render(WHOLE), rtol=1e-9, atol=0)


def test_panels_of_different_size_and_masks_leave_the_rest_zero(origin):
    mask = torch.ones(12, 16)
    mask[3] = 0
    tiles = [tile(origin, 0, 0, (12, 16), mask_array=mask), tile(origin, 0, 16, (24, 8))]
    parts = render(DetectorConfig(panels=tiles, oversample=2, detector_convention="xds"))
    whole = render(WHOLE)
    assert parts.shape == (2, 24, 16)
    assert torch.allclose(parts[1, :, :8], whole[:, 16:24], rtol=1e-9)
    assert parts[1, :, 8:].abs().max() == 0 and parts[0, 12:].abs().max() == 0 and parts[0, 3].abs().max() == 0
    assert torch.allclose(parts[0, 4:12], whole[4:12, :16], rtol=1e-9)


def test_a_group_moves_its_panels_and_those_of_the_groups_inside_it(origin):
    """Turning the outer group about z by 90 degrees takes the x axis to y, after the inner group's own shift."""
    groups = [
        GroupConfig(name="inner", shift_mm=(1.0, 0.0, 0.0), parent="outer"),
        GroupConfig(name="outer", rotation_deg=(0.0, 0.0, 90.0)),
    ]
    still, moved = tile(origin, 0, 0, (4, 4)), tile(origin, 0, 0, (4, 4), group="inner")
    vectors = Detector(DetectorConfig(panels=[still, moved], groups=groups)).geometry().panels
    x, y, z = vectors[0, 0]
    assert torch.allclose(vectors[1, 0], torch.stack((-y, x + 1e-3, z)), atol=1e-15)
    assert torch.allclose(vectors[1, 1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), atol=1e-15)


def test_the_image_is_differentiable_by_a_group_and_a_panel(origin):
    shift = torch.tensor([0.01, -0.02, 0.3], dtype=torch.float64, requires_grad=True)
    turn = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64, requires_grad=True)

    def total(shift: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        group = GroupConfig(name="all", shift_mm=shift, rotation_deg=turn, centre_mm=(0, 0, 100))
        tiles = [tile(origin, 0, 0, (4, 4), group="all"), tile(origin, 0, 16, (4, 4), group="all")]
        image = render(DetectorConfig(panels=tiles, groups=[group], oversample=1, detector_convention="xds"))
        return (image * torch.linspace(1, 2, image.numel(), dtype=torch.float64).reshape(image.shape)).sum() * 1e3

    assert torch.autograd.gradcheck(total, (shift, turn), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_bad_panels_are_refused(origin):
    with pytest.raises(InputError, match="group"):
        DetectorConfig(panels=[tile(origin, 0, 0, (4, 4), group="nowhere")])
    with pytest.raises(InputError, match="contain themselves"):
        DetectorConfig(groups=[GroupConfig(name="a", parent="b"), GroupConfig(name="b", parent="a")])
    with pytest.raises(InputError, match="distance_mm.*panels are given"):
        DetectorConfig(panels=[tile(origin, 0, 0, (4, 4))], distance_mm=torch.tensor(100.0, requires_grad=True))
    with pytest.raises(InputError, match="roi_xmax.*panels are given"):
        DetectorConfig(panels=[tile(origin, 0, 0, (4, 4))], roi_xmax=2)
    with pytest.raises(InputError, match="every panel, or none"):
        tiles = [tile(origin, 0, 0, (4, 4), detector_thick_um=300.0), tile(origin, 0, 0, (4, 4))]
        Detector(DetectorConfig(panels=tiles)).geometry()
