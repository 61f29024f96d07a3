"""How fast the image of a mosaic crystal converges with the number of domains: random ones against a quadrature rule.

Three scenes of one crystal, whose spots are wider than, as wide as and narrower than the spread. Both widths are
angles: of a spot, the range of orientations over which it stays above half its peak, 0.886 d / (N a) for the spacing d
seen in the middle of the detector; of the spread, the full range of the domains' rotations about an axis, twice
mosaic_spread_deg.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanobrag_torch.config import CrystalConfig, DetectorConfig, MosaicSampling
from nanobrag_torch.testing import Example

CELLS, EDGE_A, SPACING_A = 5, 75.0, 7.0
SPOT_WIDTH_DEG = math.degrees(0.886 * SPACING_A / (CELLS * EDGE_A))
SCENES = {
    "spots wider than the spread": SPOT_WIDTH_DEG / 4,
    "as wide": SPOT_WIDTH_DEG / 2,
    "narrower": SPOT_WIDTH_DEG * 1.5,
}
"""Title of each scene -> mosaic_spread_deg."""
REFERENCE_DOMAINS = 20_000


def scene(spread_deg: float, domains: int, sampling: MosaicSampling, seed: int = -1) -> Example:
    """The crystal with a spread, a number of domains and a way to choose them."""
    crystal = CrystalConfig(
        cell_a=60.0,
        cell_b=EDGE_A,
        cell_c=90.0,
        default_F=100.0,
        N_cells=(CELLS, CELLS, CELLS),
        misset_deg=(11.0, 22.0, 33.0),
        mosaic_spread_deg=spread_deg,
        mosaic_domains=domains,
        mosaic_seed=seed,
        mosaic_sampling=sampling,
    )
    return Example(crystal, DetectorConfig(distance_mm=100.0, pixel_size_mm=0.8, spixels=48, fpixels=48, oversample=1))


def image(spread_deg: float, domains: int, sampling: MosaicSampling, seed: int = -1) -> Tensor:
    """Its image, float64."""
    with torch.no_grad():
        return scene(spread_deg, domains, sampling, seed).simulator(dtype=torch.float32).run().double()


def reference(spread_deg: float) -> Tensor:
    """The image of REFERENCE_DOMAINS random domains, of another seed than those that are judged."""
    return image(spread_deg, REFERENCE_DOMAINS, MosaicSampling.RANDOM, seed=-987654)


def error(found: Tensor, expected: Tensor) -> float:
    """Root mean square difference over the root mean square of the expected image."""
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


def errors(spread_deg: float, domains: int, expected: Tensor, repeats: int = 8) -> tuple[float, float]:
    """Error of the quadrature rule, and root mean square error of `repeats` random sets of the same number."""
    rule = error(image(spread_deg, domains, MosaicSampling.QUADRATURE), expected)
    random = [error(image(spread_deg, domains, MosaicSampling.RANDOM, seed=-1 - i), expected) for i in range(repeats)]
    return rule, math.sqrt(sum(e * e for e in random) / repeats)


def refine_spread(start_deg: float, true_deg: float, domains: int = 40, steps: int = 15) -> list[float]:
    """Spreads on the way from a wrong start to the true one, by Newton steps on the logarithm with quadrature domains.

    The data have random domains by the thousand, so that nothing but the spread itself is shared with the model.
    """
    data = image(true_deg, 4000, MosaicSampling.RANDOM, seed=-24680)
    log = torch.tensor(math.log(start_deg), dtype=torch.float64, requires_grad=True)
    template = scene(start_deg, domains, MosaicSampling.QUADRATURE)
    optimiser = torch.optim.LBFGS([log], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-10)
    path = [start_deg]

    def loss() -> Tensor:
        optimiser.zero_grad()
        crystal = replace(template.crystal, mosaic_spread_deg=torch.exp(log))
        model = replace(template, crystal=crystal).simulator(dtype=torch.float64).run()
        value = ((model - data) ** 2).sum() / (data**2).sum()
        torch.autograd.backward(value)
        path.append(math.exp(float(log.detach())))
        return value.detach()

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return [*path, math.exp(float(log.detach()))]
