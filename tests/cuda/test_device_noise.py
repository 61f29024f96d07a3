"""Counting noise from a counter-based generator: known words, the distribution, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from cuda_cases import DEVICE
from scipy import stats

from nanobrag_torch.errors import InputError
from nanobrag_torch.response.counters import philox, uniforms
from nanobrag_torch.response.photons import poisson_counts, recorded_counts

# counter, key, output of Philox 4x32-10: the known answers that its authors publish with Random123
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_its_published_words(counter, key, words):
    found = philox(tuple(torch.tensor([word], device=DEVICE) for word in counter), key)
    assert tuple(int(word) for word in found) == words


def test_uniforms_are_uniform_and_uncorrelated():
    pixel = torch.arange(30_000, device=DEVICE)
    u, v = (x.cpu().numpy() for x in uniforms(pixel, torch.zeros_like(pixel), 11, 0))
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(v, "uniform").pvalue > 1e-3
    for one, other in ((u, v), (u[1:], u[:-1])):
        assert abs(stats.pearsonr(one, other).statistic) < 4 / 30_000**0.5


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 9.99, 10.0, 11.5, 40.0, 1000.0])
def test_counts_are_poisson(mean):
    """Chi-square of the histogram against the Poisson distribution; cells of at least twenty expected."""
    draws = 30_000
    counts = poisson_counts(torch.full((1, draws), mean, device=DEVICE), 3)[0].cpu()
    law = stats.poisson(float(torch.tensor(mean)))
    edges = [k for k in range(int(law.ppf(1e-4)), int(law.ppf(1 - 1e-4)) + 1) if law.pmf(k) * draws >= 20]
    observed = [int((counts < edges[0]).sum())] + [int((counts == k).sum()) for k in edges]
    expected = [law.cdf(edges[0] - 1) * draws] + [law.pmf(k) * draws for k in edges]
    observed.append(draws - sum(observed))
    expected.append(draws - sum(expected))
    kept = [(o, e) for o, e in zip(observed, expected, strict=True) if e > 1e-6]
    chi_square = sum((o - e) ** 2 / e for o, e in kept)
    assert stats.chi2(max(len(kept) - 1, 1)).sf(chi_square) > 1e-3


@pytest.mark.parametrize("mean", [0.3, 20.0, 5e4, 3e7, 1.5e9])
def test_mean_variance_and_skew(mean):
    draws = 30_000
    counts = poisson_counts(torch.full((1, draws), mean, dtype=torch.float64, device=DEVICE), 5)[0].cpu().double()
    z = (counts - mean) / mean**0.5
    assert abs(float(z.mean())) < 4 / draws**0.5
    assert abs(float((z**2).mean()) - 1) < 4 * ((2 + 1 / mean) / draws) ** 0.5
    assert abs(float((z**3).mean()) - mean**-0.5) < 4 * ((15 + 50 / mean + 50 / mean**2) / draws) ** 0.5


def test_an_image_is_the_same_in_any_batch_and_in_pieces():
    scale = torch.tensor([1.0, 30.0, 4e8])[:, None, None]
    means = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * scale).to(DEVICE)
    whole = poisson_counts(means, 9, first_image=4)
    assert torch.equal(poisson_counts(means[1:2], 9, first_image=5)[0], whole[1])
    some = torch.tensor([7, 200, 31], device=DEVICE)
    piece = poisson_counts(means[2].reshape(1, -1)[:, some], 9, first_image=6, pixels=some)
    assert torch.equal(piece[0], whole[2].reshape(-1)[some])


def test_seeds_images_and_pixels_differ():
    means = torch.full((2, 1000), 100.0, device=DEVICE)
    one, other = poisson_counts(means, 1), poisson_counts(means, 2)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, other)
    large = poisson_counts(means[:1, :10], 1, pixels=torch.arange(10, device=DEVICE) + 2**32)
    assert not torch.equal(large[0], one[0, :10])


def test_nothing_is_counted_where_nothing_is_expected():
    assert poisson_counts(torch.zeros(1, 50, device=DEVICE), 1).sum() == 0


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_means_are_refused(bad):
    with pytest.raises(InputError, match="means"):
        poisson_counts(torch.tensor([[1.0, bad]], device=DEVICE), 1)


def test_a_detector_adds_its_offset_and_saturates():
    assert recorded_counts(torch.tensor([0, 10, 70_000], device=DEVICE)).tolist() == [40, 50, 65535]
