"""Pulls: how far parameters and intensities are from the truth in their own sigmas, the truth drawn from the priors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from benchmarks.refinement_cases import Case, outcome
from numpy.typing import NDArray

from nanobrag_torch.crystallography.symmetry import amplitude_table, expand_to_p1
from nanobrag_torch.records.experiment import rotation_matrix
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.refinement.result import StillResult
from nanobrag_torch.refinement.setup import LN
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.symmetry import direct_rows, nearest_turn
from nanobrag_torch.refinement.synthetic import Exposure, Truth, counted, rendered, still_truth

BELIEVED = {"N_a": 42.0, "N_c": 55.0, "spread": 0.05}
SIGMA_F = 0.1
ROTATION_DEG, CELL, DISTANCE_MM = 0.1, 0.003, 0.2
"""Standard deviations of the priors."""
DOMAINS, D_MIN = 401, 1.9
"""Domains for a spread as wide as a crystal makes its spots at this resolution (Angstrom): more than are optimised."""


def pulls(seed: int) -> Case:
    """Every true value drawn from its prior; pulls of all parameters but the scale, which the gauge fixes.

    Priors make crystals so large that spots are a few tenths of a pixel wide: 4 x 4 samples are no truth of those. They
    also make spreads of many times what the crystal's size does to a spot, where a few domains are lumps, not a spread:
    there are so many that those of a spot lie closer than it is wide.
    Of the intensities the sums over spots: their number and the squares of their pulls, of photons and of F^2.
    """
    believed = still_truth(mosaic_sampling="quadrature", oversample=8, whole_pixels=True)
    truth = smooth(drawn(believed, seed))
    exposure = counted(rendered(truth), truth, seed)
    result = refine_still(
        list(believed.experiments), exposure.table, exposure.counts, believed.factors, readout_noise=truth.readout,
        shape="gauss_hkl", boxes=150, sigma_F=SIGMA_F, start=BELIEVED,
    )  # fmt: skip
    found = outcome(truth, result)
    if result.fit is None:
        return found
    true = _true_parameters(truth, result)
    pulls_of = {n: (p.value - true[n]) / p.sigma for n in true if (p := result.parameters[n]).sigma}
    photons, squared = _photon_pulls(result, exposure), _intensity_pulls(result, truth)
    sums = {"spots": len(photons), "photons": float((photons**2).sum()), "intensities": float((squared**2).sum())}
    return {**found, **sums, "pulls": pulls_of, "notes": list(result.notes)}


def drawn(believed: Truth, seed: int) -> Truth:
    """A truth of which `believed` is what is known: rotation, cell, distance, N, spread and F drawn from the priors."""
    generator = np.random.default_rng(seed + 9000)
    (data,) = believed.experiments
    assert data.crystal is not None and data.detector is not None
    a, c = 1 + CELL * generator.normal(size=2)
    vector = ROTATION_DEG * generator.normal(size=3)
    rows = data.crystal.real_space * np.array([a, a, c])[:, None]
    turn = rotation_matrix(vector / np.linalg.norm(vector), float(np.linalg.norm(vector)))
    away = np.array([0, 0, -DISTANCE_MM * generator.normal()])
    panels = tuple(replace(p, origin_mm=p.origin_mm + away) for p in data.detector.panels)
    moved = replace(
        data,
        crystal=replace(data.crystal, real_space=rows @ turn.T),
        detector=replace(data.detector, panels=panels),
    )
    size = np.exp(LN["N"] * generator.normal(size=2))
    cells = (42.0 * size[0], 42.0 * size[0], 55.0 * size[1])
    spread = 0.05 * float(np.exp(LN["spread"] * generator.normal()))
    factors = believed.factors
    share = (1 + 2 * SIGMA_F * generator.normal(size=len(factors))).clip(0.05)
    wrong = replace(factors, amplitude=factors.amplitude * np.sqrt(share))
    options = {**believed.options, "N_cells": cells, "mosaic_spread_deg": spread}
    return replace(believed, experiments=(moved,), factors=wrong, options=options)


def smooth(truth: Truth) -> Truth:
    """The truth with as many domains as make a spread of them: DOMAINS for every crystal's width squared."""
    (data,) = truth.experiments
    assert data.crystal is not None
    longest = max(n * a for n, a in zip(truth.options["N_cells"], data.crystal.cell[:3], strict=True))
    widths = np.radians(truth.options["mosaic_spread_deg"]) * longest / D_MIN
    domains = DOMAINS * max(1, int(np.ceil(widths**2)))
    return replace(truth, options={**truth.options, "mosaic_domains": domains})


def _true_parameters(truth: Truth, result: StillResult) -> dict[str, float]:
    assert result.fit is not None
    (data,) = truth.experiments
    assert data.crystal is not None and data.detector is not None
    lattice, group = result.fit.problem.model.lattices[0], result.fit.problem.model.groups[0]
    cell = torch.tensor(data.crystal.cell, dtype=torch.float64)
    rest = (lattice.turn.T @ nearest_turn(data.crystal.real_space, cell)).numpy().T
    vector = np.degrees(_logarithm(rest))
    panel = data.detector.panels[0]
    centre = panel.positions_mm(panel.image_size[0] / 2, panel.image_size[1] / 2)
    cells = truth.options["N_cells"]
    found = dict(zip(("rot_x", "rot_y", "rot_z"), vector.tolist(), strict=True))
    found |= {"a": float(cell[0]), "c": float(cell[2]), "distance": float(centre @ group.axes[2].numpy())}
    found |= {"N_a": cells[0], "N_c": cells[2], "spread": truth.options["mosaic_spread_deg"]}
    assert np.allclose(direct_rows(cell).numpy() @ lattice.turn.numpy() @ rest.T, data.crystal.real_space)
    return {name: value for name, value in found.items() if name in result.parameters}


def _logarithm(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation vector (radians) of a small rotation."""
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine = np.linalg.norm(skew)
    return np.asarray(skew * (np.arcsin(sine) / max(sine, 1e-30)), np.float64)


def _photon_pulls(result: StillResult, exposure: Exposure) -> NDArray[np.float64]:
    assert result.fit is not None and result.intensities is not None
    boxes, found = result.fit.problem.boxes, result.intensities
    true = np.bincount(boxes.box, exposure.expected.reshape(-1)[boxes.pixels.numpy()], len(boxes))
    kept = np.bincount(boxes.box, minlength=len(boxes)) > 0
    return np.asarray((found.photons - true)[kept] / found.photons_sigma[kept])


def _intensity_pulls(result: StillResult, truth: Truth) -> NDArray[np.float64]:
    """Of F^2 with the truth in the gauge of the fit, whose weighted mean intensity is one."""
    assert result.fit is not None and result.intensities is not None
    slots, found, problem = result.fit.slots, result.intensities, result.fit.problem
    boxed = slots.spot >= 0
    true = _amplitudes(truth.factors, found.hkl) ** 2 / found.start
    weights = problem.constraint[0][slots.block[boxed], slots.column[boxed]].numpy()
    true = true / ((weights * true).sum() / weights.sum())
    kept = np.bincount(problem.boxes.box, minlength=len(problem.boxes)) > 0
    return np.asarray(((found.intensity / found.start - true) / (found.sigma / found.start))[kept])


def _amplitudes(factors: Reflections, hkl: NDArray[Any]) -> NDArray[np.float64]:
    expansion = expand_to_p1(factors)
    table = amplitude_table(expansion, torch.from_numpy(factors.amplitude)).numpy()
    first = np.array([expansion.metadata[name] for name in ("h_min", "k_min", "l_min")])
    return np.asarray(table[tuple((hkl - first).T)], np.float64)
