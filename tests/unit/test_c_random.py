"""The random streams against the published check value, the C program's images, formulae and statistics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nanobrag_torch import c_random
from nanobrag_torch.c_random import (
    Streams,
    misset_angles,
    random_axes,
    random_domains,
    random_rotations,
    uniform_misset_angles,
)
from nanobrag_torch.compilation import Compiled
from nanobrag_torch.physics.mosaicity import domain_angles, domain_rotations
from nanobrag_torch.physics.rotations import xyz_rotation

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
RADIANS_PER_DEGREE = 1 / (180 * (1 / math.pi))


def test_generator_has_the_check_value_of_park_and_miller():
    state = 1
    for _ in range(10000):
        state = c_random._next.function(state)
    assert state == 1043618065
    assert c_random._next(16807) == 282475249  # the third number of the sequence that they print


def draws(streams, state, count):
    values = []
    for _ in range(count):
        value, state = streams.draw(state)
        values.append(value)
    return np.array(values), state


def shuffled_minimal_standard(seed, count):
    """Bays-Durham shuffle of the minimal standard generator, written as its description in plain integers."""
    numbers = [seed]
    for _ in range(40 + count):
        numbers.append(16807 * numbers[-1] % 2147483647)
    table = numbers[9:41][::-1]
    last, result = table[0], []
    for fresh in numbers[41:]:
        entry = last // 2**26
        last, table[entry] = table[entry], fresh
        result.append(last)
    return result


@pytest.mark.parametrize("seed", [1, 42, 12345678])
def test_uniform_deviates_are_the_shuffled_generator(seed):
    values, _ = draws(Streams(), -seed, 500)
    exact = np.array(shuffled_minimal_standard(seed, 500)) / 2147483647
    assert np.array_equal(values, exact.astype(np.float32))
    assert np.array_equal(values, values.astype(np.float32))


def test_uniform_deviates_stay_below_one():
    streams = Streams()
    streams.table[:] = 2147483646
    assert streams.draw(5)[0] == np.float32(1 - 1.2e-7) < 1


def test_a_positive_state_becomes_one_on_a_fresh_table():
    assert np.array_equal(draws(Streams(), 777, 20)[0], draws(Streams(), -1, 20)[0])


def test_a_positive_state_goes_on_with_the_table_and_a_negative_one_fills_it_anew():
    streams = Streams()
    draws(streams, -4242, 36)
    follow_on, _ = draws(streams, 5, 20)
    assert not np.array_equal(follow_on, draws(Streams(), 5, 20)[0])
    anew, _ = draws(streams, -11, 20)
    assert np.array_equal(anew, draws(Streams(), -11, 20)[0])


def test_streams_share_the_table():
    together, apart = Streams(), Streams()
    draws(together, -1, 3)
    draws(apart, -1, 3)
    draws(together, 99, 1)  # another stream's draw in between
    assert not np.array_equal(draws(together, 7, 50)[0], draws(apart, 7, 50)[0])


def test_uniform_deviates_are_uniform():
    values, _ = draws(Streams(), -3, 20000)
    counts, _ = np.histogram(values, 20, (0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi squared, 19 degrees of freedom, 0.1 per cent


def test_normal_deviates_come_in_pairs_of_the_polar_method():
    streams = Streams()
    first, state = streams.gaussian(-8)
    second, after = streams.gaussian(state)
    assert after == state  # the spare costs no draw
    points = 2 * draws(Streams(), -8, 20)[0].reshape(10, 2) - 1
    x, y = next(point for point in points if point @ point < 1)
    factor = math.sqrt(-2 * math.log(x * x + y * y) / (x * x + y * y))
    assert (second, first) == pytest.approx((x * factor, y * factor), rel=1e-6)


def test_normal_deviates_have_normal_moments():
    streams, state, values = Streams(), -5, []
    for _ in range(20000):
        value, state = streams.gaussian(state)
        values.append(value)
    moments = [np.mean(np.array(values) ** n) for n in (1, 2, 3, 4)]
    assert np.allclose(moments, [0, 1, 0, 3], atol=[0.03, 0.04, 0.1, 0.3])


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.7, 5.0, 11.9, 12.1, 80.0, 4000.0, 3e6])
def test_poisson_deviates_have_mean_and_variance_alike(mean):
    count = 200_000
    deviates, _ = Streams().poisson(np.full(count, mean, np.float32), -17)
    values = deviates.astype(np.float64)
    assert abs(values.mean() - mean) <= 4 * math.sqrt(mean / count)
    assert abs(values.var() - mean) <= 4 * math.sqrt((mean + 2 * mean**2) / count)
    assert mean > 1e6 or np.array_equal(values, np.floor(values))


def test_poisson_deviates_follow_the_distribution():
    from scipy.stats import poisson

    for mean in (3.0, 20.0):
        deviates, _ = Streams().poisson(np.full(100_000, mean, np.float32), -23)
        low, high = int(poisson.ppf(0.001, mean)), int(poisson.ppf(0.999, mean))
        found = np.array([(deviates == k).sum() for k in range(low, high + 1)])
        expected = 100_000 * poisson.pmf(np.arange(low, high + 1), mean)
        assert ((found - expected) ** 2 / expected).sum() < 3 * len(found)


def test_a_mean_of_zero_takes_one_draw():
    used, drawn = Streams(), Streams()
    counts, state = used.poisson(np.zeros(5, np.float32), -9)
    assert not counts.any()
    assert state == draws(drawn, -9, 5)[1]
    assert np.array_equal(used.table, drawn.table)


def test_plain_python_gives_the_same_bits(monkeypatch):
    means = np.array([0.0, 0.3, 5.0, 14.5, 1000.0, 2e6, 3e6, 0.1], np.float32)
    streams, plain = Streams(), Streams()
    counts, state = streams.poisson(means, -31)
    axes, factors, _ = random_axes(streams, -77, 9)
    for value in vars(c_random).values():
        if isinstance(value, Compiled):
            monkeypatch.setattr(value, "_dispatcher", value.function)
    plain_counts, plain_state = plain.poisson(means, -31)
    plain_axes, plain_factors, _ = random_axes(plain, -77, 9)
    assert (state, counts.tobytes()) == (plain_state, plain_counts.tobytes())
    assert (axes.tobytes(), factors.tobytes()) == (plain_axes.tobytes(), plain_factors.tobytes())
    assert np.array_equal(streams.table, plain.table) and np.array_equal(streams.spare, plain.spare)


def test_axes_and_angles_follow_their_formula():
    values, state = draws(Streams(), -4242, 30)
    axes, angles, next_state = random_axes(Streams(), -4242, 10)
    turn, height, depth = 2 * values.reshape(10, 3).T - 1
    azimuth = np.arctan2(axes[:, 0], axes[:, 1])
    assert np.allclose(axes[:, 2], height, atol=0) and np.allclose(azimuth, np.pi * turn, atol=1e-12)
    assert np.allclose(np.linalg.norm(axes, axis=1), 1, atol=1e-15)
    assert np.allclose(angles, np.cbrt(1 - depth**2), rtol=1e-6) and angles.dtype == np.float32
    assert next_state == state


def test_rotations_are_proper_and_turn_by_their_angle_about_their_axis():
    axes, factors, _ = random_axes(Streams(), -6, 200)
    rotations, _ = random_rotations(Streams(), -6, 0.3, 200)
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-14)
    assert np.allclose(np.linalg.det(rotations), 1, atol=1e-14)
    assert np.allclose(np.trace(rotations, axis1=1, axis2=2), 1 + 2 * np.cos(0.3 * factors), atol=1e-7)
    aside = np.cross(axes, [0.0, 0.0, 1.0])
    turned = np.einsum("nij,nj->ni", rotations, aside)
    assert (np.einsum("ni,ni->n", np.cross(aside, turned), axes) > 0).all()


def test_mosaic_domains_are_the_rotations_with_the_first_one_unturned():
    domains = random_domains(Streams(), -4242, 12)
    rotations = domain_rotations(domains.axes, domain_angles(0.02, domains.angles))
    expected, state = random_rotations(Streams(), -4242, 0.02, 12)
    assert torch.equal(rotations[0], torch.eye(3, dtype=torch.float64))
    assert np.array_equal(rotations[1:].numpy(), expected[1:])
    assert domains.next_state == state


def test_mosaic_domains_are_differentiable_by_the_spread_and_keep_their_value():
    domains = random_domains(Streams(), -5, 6)
    spread = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)

    def render(spread):
        return domain_rotations(domains.axes, domain_angles(spread, domains.angles))

    assert torch.autograd.gradcheck(render, spread)
    assert torch.allclose(render(spread), render(0.01), rtol=0, atol=1e-9)


def test_misset_angles_rebuild_the_random_rotation():
    for seed in range(1, 20):
        angles = misset_angles(Streams(), -seed)
        rotation = xyz_rotation(torch.tensor(angles, dtype=torch.float64)).numpy()
        assert np.allclose(rotation, random_rotations(Streams(), -seed, 90.0, 1)[0][0], atol=1e-12)


def test_misset_angles_where_x_turns_onto_z():
    rotation = np.array([[0.0, 0.6, 0.8], [0.0, -0.8, 0.6], [1.0, 0.0, 0.0]])
    assert c_random.angles_about_xyz(rotation) == (math.pi, math.pi / 2, math.atan2(0.6, 0.8))


def test_uniform_missets_are_uniform_over_orientations():
    angles = torch.tensor([uniform_misset_angles(-seed) for seed in range(1, 3001)], dtype=torch.float64)
    rotations = torch.stack([xyz_rotation(a) for a in angles])
    # Over all orientations every element has mean 0, and mean square 1/3; the squared trace averages to 1.
    assert rotations.mean(0).abs().max() < 4 / math.sqrt(3 * 3000)
    assert ((rotations**2).mean(0) - 1 / 3).abs().max() < 0.03
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.mean()) < 0.08 and abs((trace**2).mean() - 1) < 0.15


def c_image_of(rotations):
    """-cell 60 75 90 -default_F 50 -N 5 on the 64 x 64 pixels of the reference, over lattice rotations, in numpy."""
    pixel, distance, wavelength, size = 4e-4, 0.1, 1e-10, 64
    offset = pixel * (np.arange(size) + 0.5) - (size / 2 + 1) * pixel  # the beam one pixel beyond the middle
    slow, fast = np.meshgrid(offset, offset, indexing="ij")
    position = np.stack([np.full_like(fast, distance), -slow, fast], -1)
    far = np.linalg.norm(position, axis=-1)
    direction = position / far[..., None]
    scattering = (direction - [1.0, 0, 0]) / wavelength
    total = np.zeros_like(far)
    for rotation in rotations:
        hkl = scattering @ (rotation * [60e-10, 75e-10, 90e-10])
        away = hkl - np.round(hkl)
        safe = np.where(away == 0, 0.25, away)
        lattice = np.where(away == 0, 5.0, np.sin(5 * np.pi * safe) / np.sin(np.pi * safe))
        total += 2500 * lattice.prod(-1) ** 2
    polarization = 0.5 * (1 + direction[..., 0] ** 2)
    return total / len(rotations) * polarization * pixel**2 / far**2 * distance / far


@pytest.mark.parametrize(
    ("case", "misset_state", "mosaic_state", "spread_deg", "count"),
    [
        ("mosaic_seeded", None, -4242, 1.2, 12),
        ("mosaic_auto_10_domains", None, -12345678, 0.5, 10),
        ("misset_random_seeded", -987, -12345678, 0.3, 4),
    ],
)
def test_the_c_program_drew_the_same_orientations(case, misset_state, mosaic_state, spread_deg, count):
    streams, orientation = Streams(), np.eye(3)
    if misset_state is not None:
        orientation = xyz_rotation(torch.tensor(misset_angles(streams, misset_state), dtype=torch.float64)).numpy()
    domains = random_domains(streams, mosaic_state, count)
    spread = spread_deg * RADIANS_PER_DEGREE
    rotations = domain_rotations(domains.axes, domain_angles(spread, domains.angles)).numpy()
    with np.load(REFERENCE / f"{case}.npz") as reference:
        expected = reference["float"].reshape(64, 64)
    assert np.abs(c_image_of(rotations @ orientation) - expected).max() < 1e-6 * expected.max()


def test_machine_code_computes_in_double_precision_where_the_c_program_does():
    """The plain functions run under numpy's rules, which are C's; a last bit that differs shows in a noise image."""
    compiled, plain = ((np.zeros(33, np.int64), np.zeros(2, np.float32)) for _ in range(2))
    here = there = -5
    for _ in range(3000):
        here, found = c_random.gaussian_deviate(here, *compiled)
        there, expected = _plain_gaussian(there, *plain)
        assert (int(here), np.float32(found)) == (int(there), np.float32(expected))


def _plain_gaussian(state, table, spare):
    """A polar normal deviate: float32 where the C program stores a float, double in between."""
    if spare[0]:
        spare[0] = 0
        return state, spare[1]
    square = np.float32(0)
    while square == 0 or square >= 1:
        state, u = c_random._draw(state, table)
        state, v = c_random._draw(state, table)
        first, second = np.float32(2.0 * float(u) - 1.0), np.float32(2.0 * float(v) - 1.0)
        square = first * first + second * second
    factor = np.float32(np.sqrt(-2.0 * np.log(np.float64(square)) / np.float64(square)))
    spare[0], spare[1] = 1, first * factor
    return state, second * factor
