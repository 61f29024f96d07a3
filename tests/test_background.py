"""Amorphous scatter against sums over pixels in numpy, textbook values and central differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.background.amorphous import amorphous_values, slab_transmission, smooth_interpolation, view_of
from nanobrag_torch.background.materials import MaterialConfig, length_mm, material_of
from nanobrag_torch.background.measured import measure_profile
from nanobrag_torch.background.profiles import ice_rings, molecule_squared, substance
from nanobrag_torch.background.radial import last_sine, radial_image
from nanobrag_torch.config import PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

BEAM = {"flux": 1e12, "exposure": 0.1, "beamsize_mm": 0.05, "polarization_factor": 0.9, "wavelength_A": 0.98}
DETECTOR = {"distance_mm": 90, "pixel_size_mm": 0.9, "spixels": 110, "fpixels": 120, "detector_rotx_deg": 8,
            "detector_twotheta_deg": 15}  # fmt: skip
R_E_SQUARED, AVOGADRO = 7.94079248018965e-30, 6.02214179e23


def scene(beam=BEAM, detector=DETECTOR):
    there = Beam(BeamConfig(**beam))
    here = Detector(DetectorConfig(**detector))
    geometry = here.geometry()
    sources = there.sources(geometry.beam, geometry.polar)
    polarization = there.polarization(sources.incident, geometry.polar, unpolarized=False)
    return {"beam": there, "sources": sources, "polarization": polarization, "geometry": geometry,
            "image_shape": here.image_shape, "dtype": torch.float64}  # fmt: skip


def image(materials, pixels=None, **options):
    return amorphous_values(materials, pixels, **{**scene(), **options})


def hermite(x, y, at):
    """The interpolation in its own words: cubics with the slopes of parabolas through three points."""
    d = np.zeros(len(x))
    for i in range(1, len(x) - 1):
        d[i] = np.polyfit(x[i - 1 : i + 2] - x[i], y[i - 1 : i + 2], 2)[1]
    from scipy.interpolate import CubicHermiteSpline

    return CubicHermiteSpline(x, y, d)(np.clip(at, x[0], x[-1]))


def by_hand(name, thickness_mm, density, weight, mu_per_mm, curved=False):
    """Photons of every pixel, in numpy, from the formulas; curved: the detector is a sphere of its close distance."""
    s = scene()
    (origin, fast, slow, normal), wavelength = s["geometry"].panels[0].numpy(), 0.98
    f, g = np.meshgrid(np.arange(120) + 0.5, np.arange(110) + 0.5)
    position = origin + 0.9e-3 * (f[..., None] * fast + g[..., None] * slow)
    close = origin @ normal
    if curved:  # what lay along fast or slow from the foot of the normal is an arc
        east, north = position @ fast / close, position @ slow / close
        upright = np.cos(north)[..., None] * normal + np.sin(north)[..., None] * slow
        position = close * (np.sin(east)[..., None] * fast + np.cos(east)[..., None] * upright)
    radius = np.linalg.norm(position, axis=-1)
    d = position / radius[..., None]
    beam, polar = s["geometry"].beam.numpy(), s["geometry"].polar.numpy()
    cosine = d @ beam
    stol = np.sqrt((1 - cosine) / 2) / wavelength
    b = np.cross(polar, beam)
    e = np.cross(beam, b)
    psi = -np.arctan2(d @ b, d @ e)
    kahn = (1 + cosine**2 - 0.9 * np.cos(2 * psi) * (1 - cosine**2)) / 2
    omega = 0.9e-3**2 / radius**2 * close / radius
    table = substance(name).profile
    squares = hermite(table[:, 0], table[:, 1], stol) ** 2
    a = mu_per_mm * thickness_mm
    absorbed = (np.exp(-a) - np.exp(-a / cosine)) / (a / cosine - a)
    molecules = thickness_mm * 1e-3 * (0.05e-3) ** 2 * density * 1e6 * AVOGADRO / weight
    fluence = 1e12 * 0.1 / 0.05e-3**2
    return R_E_SQUARED * fluence * molecules * squares * kahn * omega * absorbed


@pytest.mark.parametrize(("name", "thickness"), [("water", 2.5), ("air", 5.0), ("ice", 0.3)])
def test_materials_agree_with_a_sum_over_pixels(name, thickness):
    known = substance(name)
    mu = known.attenuation_per_mm(0.98)
    expected = by_hand(name, thickness, known.density, known.weight, mu)
    found = image([MaterialConfig(name=name, thickness_mm=thickness)]).reshape(110, 120).numpy()
    bound = 1e-6 if name != "ice" else 1e-5  # rings are narrower than the steps of the table are fine
    assert np.abs(found - expected).max() <= bound * expected.max()


def test_a_curved_detector_sees_what_its_places_scatter():
    known = substance("water")
    expected = by_hand("water", 2.5, known.density, known.weight, known.attenuation_per_mm(0.98), curved=True)
    found = image([MaterialConfig(thickness_mm=2.5)], curved=True).reshape(110, 120).numpy()
    assert np.abs(found - expected).max() <= 1e-6 * expected.max()
    beam, detector = BeamConfig(**BEAM), DetectorConfig(**DETECTOR, curved_detector=True)
    crystal = CrystalConfig(cell_a=50, cell_b=50, cell_c=50, default_F=0)
    rendered = Simulator(
        Crystal(crystal), Detector(detector), beam_config=beam, background=[MaterialConfig(thickness_mm=2.5)],
        dtype=torch.float64,
    ).run()  # fmt: skip
    assert np.abs(rendered.numpy() - expected).max() <= 1e-6 * expected.max()


def test_materials_add_and_machine_code_is_the_plain_form():
    water, air = MaterialConfig(thickness_mm=1.0), MaterialConfig(name="air", thickness_mm=30.0)
    both = image([water, air])
    assert torch.allclose(both, image([water]) + image([air]), rtol=1e-14)
    for options in ({}, {"oversample": 3}, {"point_pixel": True}):
        assert torch.allclose(image([water], **options), image([water], fused=False, **options), rtol=1e-12)


def test_a_few_pixels_several_panels_and_many_sources():
    panels = [
        PanelConfig(origin_mm=(100.0, y, -30.0), fast_axis=(0, 0, 1), slow_axis=(0, -1, 0), fpixels=30, spixels=25,
                    pixel_size_mm=1.0, detector_thick_um=400.0 + y, detector_abs_um=300.0)
        for y in (40.0, -10.0)
    ]  # fmt: skip
    there = scene({**BEAM, "hdiv_range_mrad": 40, "hdiv_steps": 3, "dispersion_pct": 6, "dispersion_steps": 4},
                  {"panels": panels, "detector_convention": "custom"})  # fmt: skip
    water = [MaterialConfig(thickness_mm=1.0, mu_per_mm=0.0)]  # else its absorption is that of the mean wavelength
    whole = amorphous_values(water, None, **there)
    assert torch.allclose(whole, amorphous_values(water, None, **there, fused=False), rtol=1e-10)
    some = torch.tensor([3, 1400, 749, 750, 751, 12])
    assert torch.equal(amorphous_values(water, some, **there), whole[some])
    sources, matrices = there.pop("sources"), there.pop("polarization")
    one = [
        amorphous_values(water, None, sources=_only(sources, i), polarization=matrices[i : i + 1], **there)
        for i in range(12)
    ]
    assert torch.allclose(whole, torch.stack(one).mean(0), rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("low", [-10.0, -2.0, 3.0])
def test_a_panel_behind_the_sample_is_seen_up_to_straight_backwards(low, fused):
    """The largest angle is inside the panel, or on an edge between two corners."""
    panel = PanelConfig(origin_mm=(-60.0, low, low), fast_axis=(0, 1, 0), slow_axis=(0, 0, 1), fpixels=21, spixels=21)
    there = scene(detector={"panels": [panel], "detector_convention": "custom"})
    view, _ = view_of(there["sources"], there["polarization"], there["geometry"], there["image_shape"])
    last = last_sine(view)
    ramp = torch.linspace(0, last, 1000, dtype=torch.float64)[None]
    flat = torch.ones_like(ramp)
    sines, ones = (radial_image(None, view, t, last / 999, torch.float64, fused=fused) for t in (ramp, flat))
    y, z = np.meshgrid(low + 0.1 * (np.arange(21) + 0.5), low + 0.1 * (np.arange(21) + 0.5))
    cosine = -60 / np.sqrt(60**2 + y**2 + z**2)
    assert np.abs((sines / ones).numpy() - np.sqrt((1 - cosine) / 2).ravel()).max() < 2e-6


def _only(sources, i):
    return type(sources)(sources.directions[i : i + 1], sources.wavelengths[i : i + 1], torch.ones(1).double())


def test_air_scatters_what_the_textbook_says():
    """N2 at sin(theta)/lambda of 0, 0.2 and 0.4: f of nitrogen from International Tables C 6.1.1.1."""
    f = np.array([7.0, 4.563, 2.397])
    qd = 4 * np.pi * np.array([0.0, 0.2, 0.4]) * 1.0977
    debye = 2 * f**2 * (1 + np.sinc(qd / np.pi))
    assert np.allclose(molecule_squared("N2", np.array([0.0, 0.2, 0.4])), debye, rtol=0.01)
    per_metre = 1.2041e3 / 28.965 * AVOGADRO * R_E_SQUARED * substance("air").profile[0, 1] ** 2
    assert abs(per_metre / (2.504e25 * R_E_SQUARED * (0.7808 * 14**2 + 0.2095 * 16**2 + 0.0097 * 18**2)) - 1) < 0.01


def test_water_scatters_forwards_as_its_compressibility_says():
    kt, chi, number = 1.380649e-23 * 298.15, 4.52e-10, 1e6 * AVOGADRO / 18.015
    assert abs(substance("water").profile[0, 1] / (10 * math.sqrt(number * kt * chi)) - 1) < 0.04
    assert abs(substance("water").attenuation_per_mm(1.5418) / 0.98 - 1) < 0.05  # photoelectric, at Cu K alpha


def test_rings_of_ice_are_where_they_are_published():
    published = [3.897, 3.669, 3.441, 2.671, 2.249, 2.072, 1.948, 1.918, 1.883]
    spacings, strengths = ice_rings()
    assert np.allclose(spacings[:9], published, rtol=3e-3)
    assert (strengths > 0).all() and strengths[:3].min() > strengths[6:9].max()


def test_absorption_of_a_slab_is_the_mean_over_its_depth():
    depth = (np.arange(20000) + 0.5) / 20000 * 2.0
    for cosine in (0.9, 0.3, 1 - 1e-9, -0.4):
        way = (2.0 - depth) / cosine if cosine > 0 else depth / -cosine
        mean = np.exp(-0.7 * (depth + way)).mean()
        found = slab_transmission(*(torch.tensor(v, dtype=torch.float64) for v in (0.7, 2.0, cosine)))
        assert abs(float(found) - mean) < 1e-7


def test_gradients_of_amount_density_absorption_and_profile():
    stol = [0.0, 0.1, 0.2, 0.35, 0.6]
    weight = torch.rand(110 * 120, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def total(thickness, density, mu, scale, amplitudes):
        material = MaterialConfig(name="mine", thickness_mm=thickness, density_g_cm3=density, molecular_weight=18.0,
                                  mu_per_mm=mu, scale=scale, stol=stol, F=amplitudes)  # fmt: skip
        return (image([material]) * weight).sum() * 1e-3

    start = [1.3, 1.1, 0.4, 0.8, [2.6, 4.0, 7.0, 4.0, 2.0]]
    point = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in start]
    slopes = torch.autograd.grad(total(*point), point)
    for i, slope in enumerate(slopes):
        for k in range(slope.numel()):
            ends = []
            for sign in (1, -1):
                moved = [p.detach().clone() for p in point]
                moved[i].view(-1)[k] += sign * 1e-4
                ends.append(float(total(*moved)))
            central = (ends[0] - ends[1]) / 2e-4
            assert abs(float(slope.reshape(-1)[k]) - central) < 1e-6 * max(abs(central), 1)


def test_tangent_and_adjoint_of_the_table_are_each_others_transpose():
    s = scene()
    view, _ = view_of(s["sources"], s["polarization"], s["geometry"], s["image_shape"])
    table = torch.rand(1, 5000, dtype=torch.float64, requires_grad=True)
    slopes = torch.rand(110 * 120, dtype=torch.float64)
    found = radial_image(None, view, table, 2e-4, torch.float64)
    back = torch.autograd.grad(found, table, slopes)[0]
    forwards = float((found.detach() * slopes).sum())
    assert abs(forwards - float((table.detach() * back).sum())) < 1e-12 * forwards


def test_a_gradient_by_the_geometry_goes_through_the_plain_form():
    distance = torch.tensor(90.0, dtype=torch.float64, requires_grad=True)
    water = [MaterialConfig(thickness_mm=1.0)]

    def total(d):
        return amorphous_values(water, None, **scene(detector={**DETECTOR, "distance_mm": d})).sum()

    slope = torch.autograd.grad(total(distance), distance)[0]
    central = float(total(90.01) - total(89.99)) / 0.02
    assert abs(float(slope) - central) < 1e-4 * abs(central)


def test_interpolation_is_smooth_and_goes_through_its_points():
    x, y = torch.tensor([0.0, 0.1, 0.15, 0.4]).double(), torch.tensor([1.0, 3.0, 2.0, 5.0]).double()
    assert torch.allclose(smooth_interpolation(x, y, x), y)
    at = np.linspace(-0.1, 0.6, 300)
    assert np.allclose(smooth_interpolation(x, y, torch.from_numpy(at)), hermite(x.numpy(), y.numpy(), at), atol=1e-12)


def test_a_profile_is_measured_through_spots_and_masks():
    s = scene()
    view, _ = view_of(s["sources"], s["polarization"], s["geometry"], s["image_shape"])
    clean = image([MaterialConfig(thickness_mm=0.02)]).reshape(110, 120)
    generator = torch.Generator().manual_seed(5)
    seen = torch.poisson(clean, generator=generator)
    spots = torch.rand(110, 120, generator=generator) < 0.02
    seen[spots] += 50 * clean[spots]
    mask = torch.ones(110, 120, dtype=torch.bool)
    mask[40:50] = False
    seen[40:50] = 1e9
    profile = measure_profile(seen, view, mask=mask, bins=40)
    again = profile.image(None, view).reshape(110, 120)
    inner = clean > 0.2 * clean.max()
    assert float(((again / clean)[inner] - 1).abs().median()) < 0.02
    plain = measure_profile(seen, view, mask=mask, bins=40, robust=False)
    assert plain.value.sum() > 1.3 * profile.value.sum()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: MaterialConfig(name="honey", thickness_mm=1), "name"),
        (lambda: MaterialConfig(thickness_mm=-1), "thickness_mm"),
        (lambda: MaterialConfig(thickness_mm=1, density_g_cm3=float("nan")), "density_g_cm3"),
        (lambda: MaterialConfig(thickness_mm=1, stol=[0, 0.1]), "stol, F"),
        (lambda: MaterialConfig(thickness_mm=1, stol=[0.1, 0.1], F=[1, 2]), "stol"),
        (lambda: MaterialConfig(thickness_mm=1, stol=[0.0, 0.1], F=[1, -2]), "F"),
        (lambda: material_of("water"), "--background"), (lambda: material_of("water:2.5"), "--background"),
        (lambda: material_of("water:2mm:3mm"), "--background"), (lambda: material_of("honey:2mm"), "--background"),
        (lambda: material_of("none.stol:2mm"), "--background"), (lambda: length_mm("2", "--beamstop"), "--beamstop"),
    ],
)  # fmt: skip
def test_bad_materials_get_a_line(make, name):
    with pytest.raises(InputError, match=f"^{name}: got"):
        make()


def test_materials_in_words():
    assert material_of("water:2.5mm") == MaterialConfig(thickness_mm=2.5)
    air = material_of("air:5cm:1.1e-3g/cm3")
    assert (air.thickness_mm, air.density_g_cm3) == (50.0, 1.1e-3)
