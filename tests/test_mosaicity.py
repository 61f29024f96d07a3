"""Quadrature domains: a symmetric, deterministic rule that beats random domains, and in which the loss is smooth."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from nanobrag_torch.config import CrystalConfig, MosaicSampling
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.physics.mosaicity import crystal_frame, quadrature_nodes, spread_matrix
from nanobrag_torch.testing import phi_sweep
from nanobrag_torch.validation import convergence

F64 = torch.float64
Z = torch.tensor([0.0, 0.0, 1.0], dtype=F64)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11, 64, 401])
def test_nodes_are_a_symmetric_rule(count):
    nodes, weights = quadrature_nodes(count)
    assert nodes.shape == (count, 3) and math.isclose(weights.sum(), 1, rel_tol=1e-12) and (weights > 0).all()
    opposite = {tuple(np.round(row, 12)) for row in (-nodes).tolist()}
    assert {tuple(np.round(row, 12) + 0.0) for row in nodes.tolist()} == {tuple(np.add(row, 0.0)) for row in opposite}
    assert torch.equal(nodes, quadrature_nodes.__wrapped__(count)[0])


def test_nodes_do_not_wait_for_torchs_compiler():
    """Which takes a second to be loaded, in every process that refines."""
    code = (
        "import sys; from nanobrag_torch.physics.mosaicity import quadrature_nodes; quadrature_nodes(25);"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rule_integrates_radial_moments_of_the_c_programs_distribution():
    """E[r^3] = integral of r^3 over the share 1 - sqrt(1 - r^3), which is 2/3; E[x^2] = E[r^2] / 3 on every axis."""
    nodes, weights = quadrature_nodes(100)
    radius = torch.linalg.vector_norm(nodes, dim=-1)
    assert math.isclose(weights @ radius**3, 2 / 3, abs_tol=5e-3)
    u = (np.arange(100_000) + 0.5) / 100_000
    second = np.mean((1 - u**2) ** (2 / 3))
    covariance = nodes.T @ (nodes * weights[:, None])
    assert torch.allclose(covariance, torch.eye(3, dtype=F64) * second / 3, atol=3e-3)


@pytest.mark.parametrize("title", convergence.SCENES)
def test_quadrature_has_at_most_half_the_error_of_random_domains(title):
    spread = convergence.SCENES[title]
    expected = convergence.reference(spread)
    for domains in (10, 11, 13, 20, 35, 60, 100, 171, 300):
        rule, random = convergence.errors(spread, domains, expected)
        assert rule <= 0.5 * random, f"{domains} domains: {rule:.4f} against {random:.4f}"


def test_the_spread_refines_from_far_away():
    path = convergence.refine_spread(0.2, 1.0)
    assert path[0] == 0.2 and math.isclose(path[-1], 1.0, rel_tol=0.03)


def test_the_loss_is_smooth_in_the_spread():
    """Third differences of a smooth function shrink with the cube of the step; those of a noisy one do not."""
    data = convergence.image(1.0, 4000, MosaicSampling.RANDOM)

    def loss(spread: float) -> float:
        return convergence.error(convergence.image(spread, 40, MosaicSampling.QUADRATURE), data) ** 2

    curve = np.array([loss(s) for s in np.linspace(0.6, 1.4, 17)])
    assert np.abs(np.diff(curve, 3)).max() < 0.05 * np.ptp(curve)
    assert np.argmin(curve) in (7, 8, 9)


def test_three_equal_spreads_are_one_spread():
    fields = {"cell_a": 60.0, "cell_b": 75.0, "cell_c": 90.0, "mosaic_domains": 12, "misset_deg": (3, 40, 5)}
    one = CrystalConfig(**fields, mosaic_sampling="quadrature", mosaic_spread_deg=0.7)
    three = CrystalConfig(**fields, mosaic_sampling="quadrature", mosaic_spread_deg=(0.7, 0.7, 0.7))
    full = CrystalConfig(**fields, mosaic_sampling="quadrature", mosaic_spread_deg=0.7 * torch.eye(3))
    stacks = [Crystal(config).lattice(Z)[0] for config in (one, three, full)]
    assert torch.allclose(stacks[0], stacks[1], rtol=1e-12) and torch.allclose(stacks[0], stacks[2], rtol=1e-12)


def test_a_spread_about_one_axis_leaves_that_axis_alone():
    """Rotations about a keep a; b and c move by the spread at most."""
    config = CrystalConfig(
        cell_a=60.0, cell_b=75.0, cell_c=90.0, cell_beta=100.0, misset_deg=(10, 20, 30), mosaic_domains=20,
        mosaic_spread_deg=(1.5, 0.0, 0.0), mosaic_sampling="quadrature",
    )  # fmt: skip
    lattice = Crystal(config).lattice(Z)[0]
    still = Crystal(CrystalConfig(cell_a=60.0, cell_b=75.0, cell_c=90.0, cell_beta=100.0, misset_deg=(10, 20, 30)))
    a, b, _ = still.lattice(Z)[0][0]
    assert torch.allclose(lattice[:, 0], a.expand(20, 3), atol=1e-18)
    angles = torch.rad2deg(torch.arccos((lattice[:, 1] @ b / (b @ b)).clamp(-1, 1)))
    assert 0.5 < angles.max() <= 1.5 * 1.05


def test_an_anisotropic_frame_turns_with_the_crystal():
    """After a quarter turn about z the domains differ from those at the start by just that turn."""
    fields = {"cell_a": 60.0, "cell_b": 75.0, "cell_c": 90.0, "mosaic_domains": 8, "mosaic_spread_deg": (1.0, 0.3, 0.2)}
    start = Crystal(CrystalConfig(**fields)).lattice(Z)[0]
    later = Crystal(CrystalConfig(**fields, phi_start_deg=90.0)).lattice(Z)[0]
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=F64)
    assert torch.allclose(later, start @ quarter.T, atol=1e-20)


def test_frame_and_matrix():
    rows = torch.tensor([[2.0, 0, 0], [1, 3, 0], [0.5, 0.2, 4]], dtype=F64)
    assert torch.allclose(crystal_frame(rows), torch.eye(3, dtype=F64))
    spread = torch.tensor([[1.0, 0.4, 0], [0.0, 2, 0], [0, 0, 3]], dtype=F64)
    symmetric = torch.tensor([[1.0, 0.2, 0], [0.2, 2, 0], [0, 0, 3]], dtype=F64)
    assert torch.allclose(spread_matrix(spread, crystal_frame(rows)), symmetric)
    with pytest.raises(InputError, match="mosaic_spread_deg"):
        CrystalConfig(cell_a=50.0, mosaic_spread_deg=(1.0, 2.0))


def test_quadrature_renders_through_the_command_scene_too():
    image = phi_sweep().with_fields(mosaic_sampling="quadrature", mosaic_domains=6).simulator().run()
    assert image.max() > 0
