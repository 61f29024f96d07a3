"""Every physics function against a formula, a published value or a brute-force sum of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobrag_torch.config import CrystalShape
from nanobrag_torch.physics import absorption, geometry, lattice_factor, polarization, rotations, sources, unit_cell
from nanobrag_torch.physics import structure_factors as sf
from nanobrag_torch.physics.lattice_factor import Profile

F64 = torch.float64


def t(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


angle = st.floats(-math.pi, math.pi)
coordinate = st.floats(-2, 2)


# rotations


def test_rodrigues_turns_x_to_y_about_z():
    turned = rotations.axis_rotation(t(0, 0, 1), t(math.pi / 2).squeeze()) @ t(1, 0, 0)
    assert torch.allclose(turned, t(0, 1, 0), atol=1e-15)


@given(coordinate, coordinate, coordinate)
def test_rotation_vector_is_the_matrix_exponential_of_its_cross_matrix(x, y, z):
    vector = t(x, y, z)
    assert torch.allclose(
        rotations.vector_rotation(vector), torch.linalg.matrix_exp(rotations.cross_matrix(vector)), atol=1e-12
    )


@given(angle, angle, angle)
def test_xyz_rotation_is_rz_ry_rx(a, b, c):
    def about(i: int, j: int, w: float) -> np.ndarray:
        m = np.eye(3)
        m[i, i] = m[j, j] = np.cos(w)
        m[i, j], m[j, i] = -np.sin(w), np.sin(w)
        return m

    expected = about(0, 1, c) @ about(2, 0, b) @ about(1, 2, a)
    assert np.allclose(rotations.xyz_rotation(t(a, b, c)).numpy(), expected, atol=1e-14)


@given(angle)
def test_quaternion_and_axis_rotation_agree(w):
    axis = rotations.unit(t(1, -2, 3))
    quaternion = torch.cat((t(math.cos(w / 2)), math.sin(w / 2) * axis)) * 1.7
    expected = rotations.axis_rotation(axis, t(w).squeeze())
    assert torch.allclose(rotations.quaternion_rotation(quaternion), expected, atol=1e-14)


def test_small_rotation_vectors_have_exact_gradients():
    vector = t(0, 0, 0).requires_grad_()
    assert torch.autograd.gradcheck(rotations.vector_rotation, vector)


# unit cell


def possible(angles: tuple[float, float, float]) -> bool:
    return sum(angles) < 350 and 2 * max(angles) < sum(angles) - 5


@given(st.tuples(*[st.floats(20, 200)] * 3), st.tuples(*[st.floats(40, 130)] * 3).filter(possible))
def test_a_cell_gets_the_lengths_and_angles_asked_for(lengths, angles):
    stars = unit_cell.reciprocal_from_cell(t(*lengths), t(*np.deg2rad(angles)))
    rows, star_volume = unit_cell.dual(stars)
    got = np.linalg.norm(rows.numpy(), axis=1)
    unit_rows = rows.numpy() / got[:, None]
    cosines = [unit_rows[1] @ unit_rows[2], unit_rows[2] @ unit_rows[0], unit_rows[0] @ unit_rows[1]]
    assert np.allclose(got, lengths, rtol=1e-9)
    assert np.allclose(np.rad2deg(np.arccos(cosines)), angles, atol=1e-6)
    assert math.isclose(1 / star_volume, unit_cell.cell_volume(t(*lengths), t(*np.deg2rad(angles))), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("asked", "obtained"),
    [
        ((85, 95, 105), (84.992, 95.008, 105.001)),
        ((60, 70, 80), (59.619, 69.717, 79.750)),
        ((60, 60, 60), (57.849, 57.849, 58.525)),
        ((110, 110, 110), (108.309, 108.309, 111.705)),
    ],
)
def test_the_skewed_cell_has_the_angles_that_the_c_program_was_seen_to_give(asked, obtained):
    stars = unit_cell.reciprocal_from_cell(t(50, 60, 70), t(*np.deg2rad(asked)), skewed=True)
    rows = unit_cell.cross_products(stars).numpy()
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    got = np.rad2deg(np.arccos([rows[1] @ rows[2], rows[2] @ rows[0], rows[0] @ rows[1]]))
    assert np.allclose(got, obtained, atol=6e-4)


# lattice factor


def brute_force_grating(h: float, cells: int) -> float:
    """Amplitude of `cells` unit scatterers in a row, |sum exp(2 pi i h n)|."""
    return abs(sum(np.exp(2j * np.pi * h * n) for n in range(cells)))


@given(st.floats(-0.5, 0.5), st.integers(1, 60))
def test_square_crystal_is_a_sum_over_its_cells(h, cells):
    factor = lattice_factor.lattice_factor(t(h, 0, 0), Profile.GRATING, torch.diag(t(cells, 1, 1)))
    assert math.isclose(abs(factor), brute_force_grating(h, cells), rel_tol=1e-8, abs_tol=1e-9 * cells)


def test_grating_at_zero_is_the_number_of_cells_and_flat():
    d = t(0, 0, 0).requires_grad_()
    value = lattice_factor.lattice_factor(d, Profile.GRATING, torch.diag(t(5, 7, 11)))
    value.backward()
    assert value == 5 * 7 * 11 and (d.grad == 0).all()


def test_derivatives_near_a_peak_keep_their_digits():
    """g(d) = N (1 - (pi d)^2 (N^2 - 1) / 6 + ...): the slope close to zero is -N (N^2 - 1) pi^2 d / 3."""
    for d in (1e-10, 1e-8, 1e-6):
        x = t(d, 0, 0).requires_grad_()
        lattice_factor.lattice_factor(x, Profile.GRATING, torch.diag(t(20, 1, 1))).backward()
        assert math.isclose(x.grad[0], -20 * (400 - 1) * math.pi**2 * d / 3, rel_tol=1e-6)


def test_ball_profile_is_the_transform_of_a_ball():
    """3 (sin x - x cos x) / x^3 equals the average of cos(x z) over the unit ball."""
    z = np.linspace(-1, 1, 200_001)
    for x in (0.01, 0.5, 0.99, 1.01, 4.0, 11.0):
        density = (1 - z**2) * np.cos(x * z)
        expected = np.trapezoid(density, z) / np.trapezoid(1 - z**2, z)
        assert math.isclose(lattice_factor.sphere(t(x * x)), expected, abs_tol=2e-9)


def test_six_shapes_by_their_formulae():
    cells, fudge = t(4, 3, 2), t(1.3).squeeze()
    stars, volume = torch.diag(t(1 / 60, 1 / 75, 1 / 90)), t(60 * 75 * 90).squeeze()
    d = t(0.01, -0.02, 0.015)
    n, f = 24.0, 1.3
    h2 = (0.04**2) + (0.06**2) + (0.03**2)
    r2 = (0.01 / 60) ** 2 + (0.02 / 75) ** 2 + (0.015 / 90) ** 2
    x = math.pi * math.sqrt(h2 * f)
    expected = {
        CrystalShape.SQUARE: math.prod(
            brute_force_grating(v, c) for v, c in zip((0.01, 0.02, 0.015), (4, 3, 2), strict=True)
        ),
        CrystalShape.ROUND: n * 0.723601254558268 * 3 * (math.sin(x) / x - math.cos(x)) / x**2,
        CrystalShape.GAUSS: n * math.exp(-math.pi / 2 * h2 * f),
        CrystalShape.TOPHAT: n if h2 * f < (3 / (4 * math.pi)) ** (2 / 3) else 0.0,
        CrystalShape.GAUSS_HKL: n * math.exp(-h2 * f / 0.63),
        CrystalShape.GAUSS_STAR: n * math.exp(-1.75 * f * r2 * (n * 60 * 75 * 90) ** (2 / 3)),
    }
    in_c = {
        CrystalShape.GAUSS: n * math.exp(-(r2 * n * n / 0.63) * f),
        CrystalShape.TOPHAT: n if r2 * n * n * f < 0.3969 else 0.0,
    }
    cases = [(shape, value, False) for shape, value in expected.items()]
    cases += [(shape, value, True) for shape, value in (expected | in_c).items()]
    for shape, value, product_widths in cases:
        matrix = lattice_factor.shape_matrix(shape, cells, fudge, stars, volume, product_widths=product_widths)
        got = lattice_factor.lattice_factor(d, lattice_factor.PROFILES[shape], matrix)
        assert math.isclose(got * lattice_factor.amplitude(shape, cells), value, rel_tol=1e-9), shape


# structure factors


def test_halves_round_down():
    assert sf.nearest_integers(t(0.5, 1.5, -0.5, -1.5, 2.4999, 2.5001)).tolist() == [0, 1, -1, -2, 2, 3]


def test_nearest_amplitude_reads_the_table_and_the_default_outside():
    table = torch.arange(24, dtype=F64).reshape(2, 3, 4)
    index = torch.tensor([[-1, 0, 5], [0, 2, 8], [1, 0, 5], [0, 3, 8], [0, 0, 4]]).to(F64)
    assert sf.nearest_amplitude(index, table, (-1, 0, 5), t(9.5).squeeze()).tolist() == [0.0, 23.0, 9.5, 9.5, 9.5]


@given(st.lists(st.floats(2.0, 4.999), min_size=3, max_size=3))
def test_tricubic_interpolation_is_exact_for_cubic_polynomials(place):
    h, k, l = np.meshgrid(*[np.arange(8.0)] * 3, indexing="ij")

    def poly(h, k, l):
        return 1 + h**3 - 2 * h * k**2 + 0.5 * l**3 * k - k**3 + 3 * l

    got = sf.tricubic_amplitude(t(*place), torch.tensor(poly(h, k, l)), (0, 0, 0))
    assert math.isclose(got, poly(*place), rel_tol=1e-10, abs_tol=1e-9)


def test_interpolation_range_is_two_inside_the_table():
    table = torch.zeros(9, 9, 9)  # -4..4
    inside, outside = t(-2.0, 0, 2.0), [t(-2.01, 0, 0), t(0, 2.01, 0), t(0, 0, 2.01)]
    assert not sf.out_of_interpolation_range(inside, table, (-4, -4, -4))
    assert all(sf.out_of_interpolation_range(x, table, (-4, -4, -4)) for x in outside)


# polarization and absorption


@given(angle, st.floats(0.05, 1.5), st.floats(-1, 1))
def test_polarization_by_its_angles(azimuth, two_theta, kahn):
    """0.5 (1 + cos^2 2theta - K cos 2psi sin^2 2theta), psi counted from the plane of E."""
    direction = t(math.cos(two_theta), math.sin(two_theta) * math.sin(azimuth), math.sin(two_theta) * math.cos(azimuth))
    matrix = polarization.polarization_matrix(t(1, 0, 0)[None], t(0, 0, 1), t(kahn).squeeze())
    got = polarization.polarization_factor(direction, matrix)[0]
    b, e = t(0, 1, 0), t(0, 0, 1)  # axis x s = y; s x B = z
    psi = -math.atan2(direction @ b, direction @ e)
    expected = 0.5 * (1 + math.cos(two_theta) ** 2 - kahn * math.cos(2 * psi) * math.sin(two_theta) ** 2)
    assert math.isclose(got, expected, rel_tol=1e-12)


def test_layers_of_a_sensor_absorb_what_the_whole_absorbs():
    cosine, thick, mu = t(0.8)[None, None], 450e-6, 1 / 250e-6
    layers = absorption.layer_capture(cosine.expand(1, 4, 1), t(thick / 4), t(mu), 4)
    assert math.isclose(layers.sum(), 1 - math.exp(-thick * mu / 0.8), rel_tol=1e-12)
    assert (layers[0, 1:, 0] < layers[0, :-1, 0]).all()


# geometry and sources


def test_solid_angles_of_a_plane_add_up_to_that_of_a_square():
    """A square of edge 2a seen at distance d: 4 asin(a^2 / (a^2 + d^2)) (a known integral)."""
    panels = torch.stack((t(-0.05, -0.05, 0.1), t(1, 0, 0), t(0, 1, 0), t(0, 0, 1)))[None]
    pixels = torch.arange(100 * 100)
    size, nothing = t(1e-3, 1e-3)[None], torch.zeros(1, dtype=F64)
    position = geometry.flat_positions(pixels, panels, size, nothing, (100, 100), 1, 1)
    radius = torch.linalg.vector_norm(position, dim=-1)
    omega = geometry.solid_angle(radius, t(1e-6).squeeze(), t(0.1).squeeze(), point_pixel=False)
    assert math.isclose(omega.sum(), 4 * math.asin(0.05**2 / (0.05**2 + 0.1**2)), rel_tol=1e-4)


def test_positions_follow_panel_slow_fast_order_with_slow_outermost_subpixels():
    panels = torch.stack((torch.eye(4, 3, dtype=F64), torch.eye(4, 3, dtype=F64) + 1))
    panels[:, 1:] = torch.eye(3, dtype=F64)  # fast x, slow y, normal z
    position = geometry.flat_positions(
        torch.tensor([7]), panels, t(2, 10)[None].expand(2, 2), t(0.5, 0.25), (2, 2), 2, 2
    )
    assert position.shape == (1, 2, 4, 3)  # pixel 7 is panel 1, slow 1, fast 1
    assert torch.allclose(position[0, 1, 1], panels[1, 0] + t(2 * 1.75, 10 * 1.25, 0.25))


def test_a_curved_detector_keeps_every_pixel_at_its_distance():
    panels = torch.stack((t(0.1, 0.02, -0.03), t(0, 0, 1), t(0, -1, 0), t(1, 0, 0)))[None]
    flat = geometry.flat_positions(torch.arange(64), panels, t(1e-3, 1e-3)[None], t(0.0), (8, 8), 2, 1)
    fast, slow, normal = (axis.expand(64, 3) for axis in (t(0, 0, 1), t(0, -1, 0), t(1, 0, 0)))
    curved = geometry.curve(flat, fast, slow, normal, t(0.1).expand(64))
    in_c = geometry.curve_by_lab_axes(flat, fast, slow, t(1, 0, 0), t(0.1).squeeze())
    for bent in (curved, in_c):
        assert torch.allclose(torch.linalg.vector_norm(bent, dim=-1), t(0.1))
    assert torch.allclose(torch.asin(curved[..., 2] / 0.1), flat[..., 2] / 0.1)  # arcs along fast
    assert torch.allclose(in_c[..., 2] / 0.1, torch.sin(flat[..., 1] / 0.1), atol=0.1)  # y and z change places


@pytest.mark.parametrize(("n", "kept"), [(2, 4), (3, 5), (4, 12), (5, 13), (6, 24)])
def test_round_divergence_keeps_as_many_points_as_the_c_program(n, kept):
    step = t(1 / (n - 1)).squeeze()
    scan = sources.centred_steps(t(1).squeeze(), step, n)
    assert sources.inside_ellipse(scan, scan, (t(1).squeeze(),) * 2, (step,) * 2).sum() == kept


@settings(max_examples=20)
@given(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))
def test_sources_stand_ten_metres_away_and_off_axis_by_their_angles(h, v):
    direction = sources.grid_directions(t(1, 0, 0), t(0, 0, 1), t(h), t(v))[0, 0]
    assert math.isclose(torch.linalg.vector_norm(direction), 10.0, rel_tol=1e-12)
    assert math.isclose(-direction[0] / 10, math.cos(h) * math.cos(v), abs_tol=1e-12)
