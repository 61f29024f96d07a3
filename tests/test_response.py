"""The detector's response: spread against quadrature and its own transpose, and the moments of every noise source."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate

from nanobrag_torch import DetectorConfig
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.response.chain import Response
from nanobrag_torch.response.config import (
    BeamStopConfig,
    CountRateConfig,
    GainModesConfig,
    ResponseConfig,
    SpreadConfig,
)
from nanobrag_torch.response.shadow import beamstop_shadow
from nanobrag_torch.testing import cubic_still

PIXEL_UM = 75.0
SPREADS = {
    "gauss": SpreadConfig(fwhm_um=110.0),
    "narrow gauss": SpreadConfig(fwhm_um=20.0),
    "cut gauss": SpreadConfig(fwhm_um=110.0, radius_pixels=2),
    "fiber": SpreadConfig(shape="fiber", fwhm_um=80.0),
    "cut fiber": SpreadConfig(shape="fiber", fwhm_um=80.0, radius_pixels=7),
    "moffat": SpreadConfig(shape="moffat", fwhm_um=90.0, beta=3.2),
    "kernel": SpreadConfig(shape="kernel", kernel=[[0.0, 0.1, 0.0], [0.05, 0.6, 0.2], [0.0, 0.0, 0.05]]),
}
PROFILES = {
    "gauss": lambda r, w: math.exp(-math.log(16) * (r / w) ** 2) * math.log(16) / (math.pi * w**2),
    "fiber": lambda r, w: 0.652383013252053 * w / (2 * math.pi) * ((0.652383013252053 * w) ** 2 + r**2) ** -1.5,
    "moffat": lambda r, w: _moffat(r, w, 3.2),
}


def _moffat(r, w, beta):
    alpha = w / 2 / math.sqrt(2 ** (1 / beta) - 1)
    return (beta - 1) / (math.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -beta


def response(**fields):
    return Response(ResponseConfig(pixel_size_um=PIXEL_UM, **fields))


def spot(size=61, dtype=torch.float64):
    image = torch.zeros(size, size, dtype=dtype)
    image[size // 2, size // 2] = 1
    return image


@pytest.mark.parametrize("name", ["gauss", "fiber", "moffat"])
def test_shares_are_the_integrals_of_the_profile_over_pixels(name):
    shares = response(spread=SPREADS[name]).photons(spot())
    width = SPREADS[name].fwhm_um / PIXEL_UM
    for slow, fast in ((0, 0), (0, 1), (1, 1), (3, -2), (0, 9)):
        exact, _ = integrate.dblquad(
            lambda y, x: PROFILES[name](math.hypot(x, y), width),
            fast - 0.5, fast + 0.5, slow - 0.5, slow + 0.5, epsabs=1e-12,
        )  # fmt: skip
        assert abs(float(shares[30 + slow, 30 + fast]) - exact) < 1e-9 + 1e-7 * exact


@pytest.mark.parametrize("name", ["gauss", "narrow gauss", "cut gauss", "cut fiber"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_photons_away_from_edges_are_kept(name, dtype):
    assert abs(float(response(spread=SPREADS[name]).photons(spot(dtype=dtype)).sum()) - 1) < 1e-6


def test_a_fibre_spreads_beyond_any_detector_and_invents_nothing():
    shares = response(spread=SPREADS["fiber"]).photons(spot(201))
    g = 0.652383013252053 * 80 / PIXEL_UM
    inside = 4 * math.atan(100.5**2 / (g * math.sqrt(g**2 + 2 * 100.5**2))) / (2 * math.pi)
    assert abs(float(shares.sum()) - inside) < 1e-12


@pytest.mark.parametrize("name", list(SPREADS))
def test_nothing_wraps_around_an_edge_and_what_leaves_is_gone(name):
    image = torch.zeros(40, 30, dtype=torch.float64)
    image[20, 29] = 1
    here = response(spread=SPREADS[name])
    wide = torch.zeros(40, 90, dtype=torch.float64)
    wide[20, 59] = 1
    assert torch.allclose(here.photons(image), here.photons(wide)[:, 30:60], atol=1e-14, rtol=0)
    assert here.photons(image).sum() < 1


def test_panels_do_not_share_photons():
    image = torch.stack((torch.zeros(9, 9), torch.ones(9, 9)))
    assert response(spread=SPREADS["gauss"]).photons(image)[0].sum() == 0


@pytest.mark.parametrize("name", list(SPREADS))
def test_the_adjoint_is_the_transpose(name):
    here = response(spread=SPREADS[name])
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 21, 24, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.rand(2, 21, 24, dtype=torch.float64, generator=generator)
    there = here.photons(x)
    back = torch.autograd.grad(there, x, y)[0]
    forwards, backwards = (float(s.detach()) for s in ((there * y).sum(), (x * back).sum()))
    assert abs(forwards - backwards) < 1e-12 * forwards


@pytest.mark.parametrize("shape", ["gauss", "fiber", "moffat"])
@pytest.mark.parametrize("radius", [None, 6])
def test_gradients_of_width_gain_and_pedestal(shape, radius):
    image = torch.rand(2, 17, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 10
    weight = torch.rand_like(image)

    def total(width, beta, gain, pedestal):
        spread = SpreadConfig(shape=shape, fwhm_um=width, beta=beta, radius_pixels=radius)
        return (response(spread=spread, gain=gain, pedestal=pedestal).expected(image) * weight).sum()

    point = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (95.0, 2.7, 1.3, 4.0)]
    found = torch.autograd.grad(total(*point), point, allow_unused=True)
    for i, slope in enumerate(found):
        if slope is None:
            assert i == 1 and shape != "moffat"
            continue
        step = 1e-4 * float(point[i].detach())
        ends = [[p.detach() + (sign * step if j == i else 0) for j, p in enumerate(point)] for sign in (1, -1)]
        central = float(total(*ends[0]) - total(*ends[1])) / (2 * step)
        assert abs(float(slope) - central) < 1e-6 * max(abs(central), 1)


def test_the_tangent_of_a_width_and_of_an_image():
    image = torch.rand(12, 11, dtype=torch.float64)
    make = lambda w, x: response(spread=SpreadConfig(fwhm_um=w), gain=2.0).expected(x)  # noqa: E731
    width, direction = torch.tensor(90.0, dtype=torch.float64), torch.rand_like(image)
    slope = torch.func.jvp(make, (width, image), (torch.ones_like(width), direction))[1]
    step = 1e-3
    central = (make(width + step, image + step * direction) - make(width - step, image - step * direction)) / (2 * step)
    assert (slope - central).abs().max() < 1e-6
    linear = response(spread=SpreadConfig(fwhm_um=90.0), gain=2.0).linear(direction)
    assert torch.allclose(linear, make(width, direction))


IMAGES, PANELS = 10_000, 50
MEANS = torch.tensor([[0.7, 3.0, 20.0], [150.0, 1000.0, 4e4]])


def moments(config, means=MEANS):
    """Mean and variance of each pixel, and the fourth central moment, over many images: panels by numbers."""
    here, many = Response(config), means.expand(PANELS, *means.shape)
    drawn = torch.cat([here.record(many, 5, i) for i in range(IMAGES // PANELS)]).double()
    centred = drawn - drawn.mean(0)
    return drawn.mean(0), centred.var(0), (centred**4).mean(0)


def assert_moments(config, mean, variance):
    """Within four of their own standard errors."""
    found_mean, found_variance, fourth = moments(config)
    assert ((found_mean - mean).abs() < 4 * (found_variance / IMAGES).sqrt() + 1e-9).all()
    error = ((fourth - found_variance**2).clamp(min=0) / IMAGES).sqrt()
    assert ((found_variance - variance).abs() < 4 * error + 1e-9).all()


def test_counting():
    assert_moments(ResponseConfig(), MEANS, MEANS)


def test_gain_readout_noise_and_pedestal():
    config = ResponseConfig(gain=2.5, readout_noise=3.0, pedestal=40.0, rounding="none", dtype="float32")
    assert_moments(config, 2.5 * MEANS + 40, 2.5**2 * MEANS + 9)
    assert torch.allclose(Response(config).variance(MEANS), 2.5**2 * MEANS + 9)


def test_rounding_keeps_the_mean_and_adds_a_twelfth():
    config = ResponseConfig(counting=False, readout_noise=2.0, pedestal=10.0)
    assert_moments(config, MEANS + 10, torch.full_like(MEANS, 4 + 1 / 12))


def test_flicker_is_one_deviate_an_image_and_none_is_like_the_next():
    config = ResponseConfig(flicker=0.05, counting=False, rounding="none", dtype="float32")
    here = Response(config)
    ratio = torch.stack([here.record(MEANS, 5, i) for i in range(IMAGES)]).double() / MEANS
    assert (ratio - ratio[:, :1, :1]).abs().max() < 1e-5
    one = ratio[:, 0, 0] - 1
    assert abs(float(one.mean())) < 4 * 0.05 / IMAGES**0.5
    assert abs(float((one**2).mean()) - 0.05**2) < 4 * 0.05**2 * (2 / IMAGES) ** 0.5
    assert abs(float((one[1:] * one[:-1]).mean() / one.var())) < 4 / IMAGES**0.5


def test_calibration_is_the_detectors_and_not_the_shots():
    config = ResponseConfig(calibration=0.03, counting=False, rounding="none", dtype="float32")
    image = torch.full((100, 100), 500.0)
    one, other = (Response(config).record(image, seed, number).double() for seed, number in ((1, 0), (2, 9)))
    assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 1 - 1e-9
    assert abs(float(one.std() / 500) - 0.03) < 4 * 0.03 / math.sqrt(2e4)
    assert abs(float(one.mean() / 500) - 1) < 4 * 0.03 / 100
    elsewhere = ResponseConfig(calibration=0.03, calibration_seed=7, counting=False, rounding="none", dtype="float32")
    third = Response(elsewhere).record(image, 1).double()
    assert abs(np.corrcoef(one.flatten(), third.flatten())[0, 1]) < 0.04


@pytest.mark.parametrize("counter", ["nonparalysable", "paralysable"])
def test_count_rate_loss(counter):
    rate = CountRateConfig(dead_time_s=1e-7, frame_time_s=1e-2, counter=counter)
    x = 1e-5 * MEANS
    if counter == "nonparalysable":
        mean, variance = MEANS / (1 + x), MEANS / (1 + x) ** 3
    else:
        mean, variance = MEANS * torch.exp(-x), MEANS * torch.exp(-x) * (1 - 2 * x * torch.exp(-x))
    config = ResponseConfig(count_rate=rate)
    found_mean, found_variance, fourth = moments(config)
    assert ((found_mean - mean).abs() < 4 * (found_variance / IMAGES).sqrt()).all()
    error = ((fourth - found_variance**2) / IMAGES).sqrt()
    assert ((found_variance - variance).abs() < 4 * error + 0.25 * x.clamp(max=1)).all()  # a rounded share
    assert torch.allclose(Response(config).expected(MEANS), mean)


def test_above_the_cutoff_a_count_is_no_measurement():
    rate = CountRateConfig(dead_time_s=0.0, frame_time_s=1.0, cutoff=100)
    config = ResponseConfig(count_rate=rate, dtype="uint16", overload=65535)
    drawn = Response(config).record(torch.tensor([[20.0, 5000.0]]), 1).int()
    assert 0 < drawn[0, 0] < 60 and drawn[0, 1] == 65535


MODES = GainModesConfig(
    gains=(500.0, -17.0, -1.3), pedestals=(2500.0, 15000.0, 15200.0), noises=(35.0, 12.0, 9.0), switch_photons=(25, 800)
)


def test_gain_modes_have_the_noise_of_their_gain():
    config = ResponseConfig(counting=False, gain_modes=MODES, rounding="none", dtype="float32")
    gains = torch.tensor([500.0, 500.0, 500.0, 17.0, 1.3, 1.3]).reshape(2, 3)
    noises = torch.tensor([35.0, 35.0, 35.0, 12.0, 9.0, 9.0]).reshape(2, 3)
    means = torch.tensor([[0.7, 3.0, 20.0], [150.0, 1000.0, 9000.0]])
    mean, variance, fourth = moments(config, means)
    expected = (noises**2 + 1 / 12) / gains**2
    assert ((mean - means).abs() < 4 * (expected / IMAGES).sqrt()).all()
    assert ((variance - expected).abs() < 4 * ((fourth - variance**2) / IMAGES).sqrt()).all()


def test_packed_gain_modes_carry_their_bits():
    modes = GainModesConfig(**{**vars(MODES), "packed": True, "noises": (0.0, 0.0, 0.0)})
    config = ResponseConfig(counting=False, gain_modes=modes, dtype="uint16")
    raw = Response(config).record(torch.tensor([[2.0, 100.0, 1000.0]]), 1).int()
    assert (raw >> 14).tolist() == [[0, 1, 3]]
    assert (raw & 0x3FFF).tolist() == [[3500, 13300, 13900]]


def test_saturation_gaps_and_broken_pixels():
    mask = torch.tensor([[True, True, False, True]])
    config = ResponseConfig(
        counting=False, dtype="uint16", saturation=1000, overload=65535, mask=mask, masked_value=65534,
        bad_pixels=torch.tensor([[False, False, False, True]]), bad_value=3, pedestal=-5.0,
    )  # fmt: skip
    assert Response(config).record(torch.tensor([[2.0, 2000.0, 7.0, 8.0]]), 1).tolist() == [[0, 65535, 65534, 3]]


def test_what_is_recorded_depends_on_seed_number_and_place_alone():
    config = ResponseConfig(readout_noise=2.0, gain=1.5, calibration=0.03, flicker=0.1, spread=SPREADS["gauss"],
                            pixel_size_um=PIXEL_UM)  # fmt: skip
    image = torch.rand(20, 30) * 40
    first = Response(config).record(image, 3, 8)
    assert torch.equal(first, Response(config).record(image, 3, 8))
    assert not torch.equal(first, Response(config).record(image, 3, 9))
    assert not torch.equal(first, Response(config).record(image, 4, 8))


BAD = [
    ({"flicker": -0.1}, "flicker"), ({"calibration": float("nan")}, "calibration"), ({"gain": 0.0}, "gain"),
    ({"readout_noise": -1.0}, "readout_noise"), ({"transmission": 1.5}, "transmission"), ({"dtype": "int7"}, "dtype"),
    ({"rounding": "up"}, "rounding"), ({"rounding": "none"}, "rounding"), 
    ({"calibration_seed": -1}, "calibration_seed"),
    ({"saturation": 70000, "dtype": "uint16"}, "saturation"), ({"pixel_size_um": 0}, "pixel_size_um"),
    ({"gain": 2.0, "gain_modes": MODES}, "gain"), ({"pedestal": float("inf")}, "pedestal"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name"), BAD)
def test_a_bad_value_gets_its_line(fields, name):
    with pytest.raises(InputError, match=f"^{name}: got"):
        ResponseConfig(**fields)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SpreadConfig(shape="disc", fwhm_um=1), "shape"),
        (lambda: SpreadConfig(), "fwhm_um"),
        (lambda: SpreadConfig(fwhm_um=0.0), "fwhm_um"),
        (lambda: SpreadConfig(shape="moffat", fwhm_um=9, beta=1.0), "beta"),
        (lambda: SpreadConfig(fwhm_um=9, radius_pixels=0), "radius_pixels"),
        (lambda: SpreadConfig(shape="kernel", kernel=[[0.5, 0.5]]), "kernel"),
        (lambda: SpreadConfig(shape="kernel", kernel=[[1.5]]), "kernel"),
        (lambda: CountRateConfig(dead_time_s=-1, frame_time_s=1), "dead_time_s"),
        (lambda: CountRateConfig(dead_time_s=1, frame_time_s=1, counter="x"), "counter"),
        (lambda: GainModesConfig(gains=(1,), pedestals=(1, 2), noises=(1,), switch_photons=()), "gains"),
        (lambda: Response(ResponseConfig(spread=SpreadConfig(fwhm_um=75.0))), "pixel_size_um"),
        (lambda: Response().record(torch.tensor([[-1.0]]), 1), "image"),
        (lambda: Response().record(torch.tensor([[1.0]]), -1), "seed"),
    ],
)
def test_other_bad_values_get_theirs(make, name):
    with pytest.raises(InputError, match=f"^{name}"):
        make()


def test_a_few_pixels_have_the_values_of_the_whole_image():
    simulator = cubic_still().with_fields(spixels=40, fpixels=36, distance_mm=50.0, fluence=1e19).simulator(
        dtype=torch.float64,
        background=[MaterialConfig(thickness_mm=0.5)],
        response=ResponseConfig(
            spread=SpreadConfig(fwhm_um=150.0),
            gain=torch.rand(40, 36) + 1,
            pedestal=7.0,
            beamstop=BeamStopConfig(diameter_mm=0.3, distance_mm=10.0),
        ),
    )  # fmt: skip
    whole = simulator.run()
    some = torch.tensor([0, 35, 36, 700, 701, 1439, 20 * 36 + 18])
    assert torch.allclose(simulator.pixel_values(some), whole.reshape(-1)[some], rtol=1e-12)
    assert torch.allclose(simulator.pixel_values(None), whole.reshape(-1), rtol=1e-12)
    drawn = simulator.record(3, image=4)
    assert torch.equal(drawn, simulator.record(3, image=4)) and drawn.dtype == torch.int32
    assert simulator.photons().max() > 0 and not torch.allclose(simulator.photons(), whole)


def test_the_shadow_of_a_beamstop_is_where_lines_cross_it():
    detector = Detector(DetectorConfig(distance_mm=100, pixel_size_mm=0.1, spixels=100, fpixels=100))
    geometry = detector.geometry()
    stop = BeamStopConfig(diameter_mm=1.0, distance_mm=25.0, penumbra_mm=0.05, transmission=1e-3)
    shadow = beamstop_shadow(stop, geometry, (100, 100))[0]
    beam = np.array([float(geometry.Fbeam), float(geometry.Sbeam)]) / 1e-4
    f, s = np.meshgrid(np.arange(100) + 0.5, np.arange(100) + 0.5)
    radius = np.hypot(f - beam[0], s - beam[1]) * 0.1 / 4  # mm, at the stop
    edge = 0.5 * (1 + np.vectorize(math.erf)((radius - 0.5) / (0.05 / 2.5631031) / math.sqrt(2)))
    assert np.abs(shadow.numpy() - (1e-3 + 0.999 * edge)).max() < 1e-8
    assert shadow.min() < 1.001e-3 and shadow.max() > 1 - 1e-12
    width = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(beamstop_shadow(replace(stop, diameter_mm=width), geometry, (100, 100)).sum(), width)[0]
    ends = [float(beamstop_shadow(replace(stop, diameter_mm=d), geometry, (100, 100)).sum()) for d in (1.0001, 0.9999)]
    assert abs(float(slope) - (ends[0] - ends[1]) / 2e-4) < 1e-6 * abs(float(slope))


def test_a_refinement_sees_the_width_and_the_background_through_a_list_of_pixels():
    some = torch.tensor([100, 101, 500, 900])

    def total(width, thickness):
        config = ResponseConfig(spread=SpreadConfig(fwhm_um=width, radius_pixels=4), gain=2.0)
        return (
            cubic_still()
            .with_fields(spixels=40, fpixels=36, distance_mm=50.0, fluence=1e19)
            .simulator(dtype=torch.float64, response=config, background=[MaterialConfig(thickness_mm=thickness)])
            .pixel_values(some)
            .sum()
        )

    point = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (150.0, 0.5)]
    slopes = torch.autograd.grad(total(*point), point)
    for i, slope in enumerate(slopes):
        ends = [float(total(*(float(p.detach()) * (1 + (sign * 1e-4 if j == i else 0)) for j, p in enumerate(point))))
                for sign in (1, -1)]  # fmt: skip
        central = (ends[0] - ends[1]) / (2e-4 * float(point[i].detach()))
        assert abs(float(slope) - central) < 1e-6 * max(abs(central), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spread_in_machine_code_is_the_plain_one(dtype):
    image = torch.rand(2, 150, 37, dtype=dtype)
    here = Response(ResponseConfig(spread=SpreadConfig(fwhm_um=130.0), pixel_size_um=[75.0, 60.0]))
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    assert torch.allclose(here.photons(image, fused=True), here.photons(image), rtol=tolerance)
    tiny = torch.rand(1, 2, 3, dtype=dtype)
    assert torch.allclose(here.photons(tiny, fused=True), here.photons(tiny), rtol=tolerance)


def test_negative_photons_are_refused_with_a_spread_too():
    with pytest.raises(InputError, match="^image"):
        response(spread=SPREADS["gauss"]).record(torch.full((9, 9), -1.0), 1)


def test_tangents_of_a_list_of_pixels_are_linear_and_without_the_offset():
    here = response(spread=SpreadConfig(fwhm_um=110.0), gain=2.0, pedestal=40.0)
    image, slopes = torch.rand(30, 25, dtype=torch.float64), torch.rand(3, 30, 25, dtype=torch.float64)
    some = torch.tensor([0, 24, 25, 400, 749])
    halo = here.halo(some, (30, 25))
    at = here.expected_at(slopes.reshape(3, -1)[:, halo.pixels], halo, (30, 25), linear=True)
    assert torch.allclose(at, here.linear(slopes).reshape(3, -1)[:, some], rtol=1e-12)
    assert torch.allclose(here.linear(image), here.expected(image) - 40.0, rtol=1e-9)
    with pytest.raises(InputError, match="^radius_pixels"):
        response(spread=SPREADS["fiber"]).halo(some, (30, 25))
