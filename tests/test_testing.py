"""The public comparator and its tolerances: what they let pass, what they catch, and what the kernels hold."""

from __future__ import annotations

import pytest
import torch

from nanobrag_torch.testing import (
    EXAMPLES,
    FUSED,
    FUSED_SINGLE,
    PARITY,
    PARITY_ROUND,
    SINGLE,
    Tolerance,
    assert_close,
    largest_difference,
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_fused_kernel_renders_the_examples_as_the_reference_kernel_does(name):
    true = EXAMPLES[name]().simulator(kernel="reference").run()
    assert_close(EXAMPLES[name]().simulator(kernel="fused").run(), true, FUSED, name)
    assert_close(EXAMPLES[name]().simulator(kernel="fused", dtype=torch.float32).run(), true, FUSED_SINGLE, name)
    assert_close(EXAMPLES[name]().simulator(kernel="reference", dtype=torch.float32).run(), true, SINGLE, name)


@pytest.mark.parametrize("tolerance", [PARITY, PARITY_ROUND, SINGLE, FUSED, FUSED_SINGLE])
def test_every_tolerance_has_an_edge(tolerance):
    """A hundred pixels at once are no flips: just within passes, just beyond does not."""
    image = torch.linspace(1.0, 5.0, 10_000, dtype=torch.float64).reshape(100, 100)
    for share, passes in ((0.9, True), (1.1, False)):
        other = image.clone()
        other[3] += share * tolerance.of_maximum * 5.0
        if passes:
            assert_close(other, image, tolerance)
        else:
            with pytest.raises(AssertionError, match="image: off by .* of the maximum"):
                assert_close(other, image, tolerance)


def test_a_declared_share_of_pixels_may_flip():
    image = torch.ones(10, 10)
    other = image.clone()
    other[0, :2] = 9.0
    assert largest_difference(other, image) == 8.0
    assert largest_difference(other, image, flips=0.02) == 0.0
    assert_close(other, image, Tolerance(1e-6, flips=0.02))
    with pytest.raises(AssertionError, match="spots: off by 8"):
        assert_close(other, image, Tolerance(1e-6, flips=0.01), "spots")


@pytest.mark.parametrize(("bad", "words"), [(torch.ones(2, 3), "shape"), (torch.full((3, 3), torch.nan), "not finite")])
def test_images_that_cannot_be_compared_are_told_apart(bad, words):
    with pytest.raises(AssertionError, match=words):
        assert_close(bad, torch.ones(3, 3), SINGLE)
