"""Before any pixel is looked at: the parameters that bring the predicted spots to the observed centroids.

Robust Gauss-Newton on positions and excitation errors, on the same raw vector as the fit to the pixels. It takes a
crystal that is off by a degree to a few thousandths in milliseconds, and it is where a wrong indexing shows first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobrag_torch.refinement.equations import solve_symmetric
from nanobrag_torch.refinement.model import ROTATION, ShotModel
from nanobrag_torch.refinement.normal_equations import directions_of
from nanobrag_torch.refinement.parameters import Parameter, ParameterSet
from nanobrag_torch.refinement.prediction import Prediction, predict
from nanobrag_torch.refinement.shoeboxes import Spots

ROUNDS = 25
LEAST_PIXELS, LEAST_RADIANS = 0.1, 1e-4
MAD = 1.4826
FAR = 4.0
MOST_PIXELS = 3.0
LEAST_INLIERS = 20
LONGEST_STEP = 5.0  # in the raw sizes of the parameters
WIDE = 100.0
"""How much wider than for the pixels the prior of the rotation is: the indexing may be off by degrees."""
SHARED = ("distance", "shift_fast", "shift_slow")


@dataclass(frozen=True, eq=False)
class Centroids:
    """The parameters that fit the centroids, and how well."""

    parameters: ParameterSet
    residual_pixels: Tensor  # [b] distance of observed and predicted spot
    excitation: Tensor  # [b] radians
    inliers: Tensor  # [b] bool
    median_pixels: float
    reason: str  # why this is a failure; empty if it is none


def refine_centroids(model: ShotModel, parameters: ParameterSet, spots: Spots) -> Centroids:
    """Fit rotation, cell and the distance, as far as they are free, to the centres of spots.

    The result has a reason to fail where fewer than 20 spots (of fewer than 33: six in ten) agree, or half of them are
    off by more than 3 pixels.
    """
    loose = _with_wide_rotation(parameters)
    which = [place for place, name in enumerate(loose.names) if _is_seen(name)]
    raw, scales = loose.pack(), loose.scales()
    observed = torch.from_numpy(spots.centre)
    for _ in range(ROUNDS if which else 0):
        matrix, right = _equations(model, loose, spots, raw)
        step = torch.zeros_like(raw)
        step[which] = solve_symmetric(matrix[which][:, which], right[which])
        longest = float((step / scales).abs().max())
        raw = raw + step * min(1.0, LONGEST_STEP * WIDE / max(longest, 1e-12))
        if longest < 1e-5:
            break
    return _judged(model, parameters.at(raw), spots, observed)


def predicted(model: ShotModel, values: dict[str, Tensor], spots: Spots) -> Prediction:
    """Where the model puts spots, a prediction each."""
    found: Prediction | None = None
    panels, size = model.panels(values)[spots.panel], model.base.pixel_size[spots.panel]
    incident, wavelength = model.incident(values), model.wavelengths(values)
    weights = model.base.source_weights / model.base.source_weights.sum()
    for number in range(len(model.lattices)):
        one = predict(
            torch.from_numpy(spots.hkl),
            model.rows(values, number),
            (incident * weights[:, None]).sum(0) / torch.linalg.vector_norm((incident * weights[:, None]).sum(0)),
            (wavelength * weights).sum(),
            panels,
            size,
            spindle=model.spindle,
            rotation=model.rotation,
        )
        mine = torch.from_numpy(spots.crystal) == number
        found = one if found is None else Prediction(*(_chosen(mine, n, f) for n, f in zip(one, found, strict=True)))
    assert found is not None
    return found


def _chosen(mine: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mine.reshape(-1, *[1] * (new.dim() - 1)), new, old)


def _is_seen(name: str) -> bool:
    stem = name.partition("@")[0]
    return stem in (*ROTATION, "a", "b", "c", "alpha", "beta", "gamma", *SHARED)


def _with_wide_rotation(parameters: ParameterSet) -> ParameterSet:
    def wide(p: Parameter) -> Parameter:
        from dataclasses import replace

        turns = p.name.partition("@")[0] in ROTATION and p.prior is not None
        return replace(p, prior=(p.prior[0], p.prior[1] * WIDE)) if turns and p.prior else p

    return ParameterSet([wide(p) for p in parameters])


def residuals_of_positions(
    model: ShotModel, parameters: ParameterSet, spots: Spots, raw: Tensor
) -> tuple[Tensor, Tensor]:
    """Predicted less observed positions and excitation errors [b, 3], and their slopes [T, b, 3] by the raw vector."""
    with torch.enable_grad():
        leaf = raw.detach().clone().requires_grad_()
        found = predicted(model, parameters.unpack(leaf), spots)
        value = torch.cat((found.centre - torch.from_numpy(spots.centre), found.excitation[:, None]), 1)
        none = value.new_zeros((len(raw), *value.shape))
        slopes = directions_of({"value": value}, [leaf])[0]["value"] if value.requires_grad else none
    return value.detach(), slopes


def _equations(model: ShotModel, parameters: ParameterSet, spots: Spots, raw: Tensor) -> tuple[Tensor, Tensor]:
    value, slopes = residuals_of_positions(model, parameters, spots, raw)
    off = torch.stack((torch.linalg.vector_norm(value[:, :2], dim=1), value[:, 2].abs()), 1)
    scale = torch.stack((_scale(off[:, 0], LEAST_PIXELS), _scale(off[:, 1], LEAST_RADIANS)))
    trust = 1 / (1 + (off / scale / FAR) ** 2) ** 2
    # a spot that only its tails show is where it should be, and far from the Ewald sphere
    weights = (trust * trust[:, :1] ** torch.tensor([0, 1]) / scale**2)[:, [0, 0, 1]]
    above, precision = parameters.prior_terms(raw)
    matrix = torch.einsum("sbi,bi,tbi->st", slopes, weights, slopes) + torch.diag(precision)
    return matrix, -torch.einsum("tbi,bi,bi->t", slopes, weights, value) - precision * above


def _scale(sizes: Tensor, least: float) -> Tensor:
    return (MAD * sizes.median()).clamp(min=least)


def _judged(model: ShotModel, parameters: ParameterSet, spots: Spots, observed: Tensor) -> Centroids:
    found = predicted(model, parameters.unpack(parameters.pack()), spots)
    off = torch.linalg.vector_norm(found.centre - observed, dim=1)
    median = float(off.median())
    inliers = (off < max(MOST_PIXELS, FAR * MAD * median)) & found.forward
    needed = min(LEAST_INLIERS, -(-6 * len(spots) // 10))
    agreeing = int((off < MOST_PIXELS).sum())
    reason = ""
    if median > MOST_PIXELS:
        reason = f"centroids: half of the spots are predicted more than {median:.1f} pixels away"
    elif agreeing < needed:
        reason = f"centroids: only {agreeing} of {len(spots)} spots are predicted within {MOST_PIXELS:.0f} pixels"
    return Centroids(parameters, off, found.excitation, inliers, median, reason)
