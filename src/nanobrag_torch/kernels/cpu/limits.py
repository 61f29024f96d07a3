"""What decides which steps the compiled CPU kernel leaves out, for every scene of a batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.problem import Options, Scene, step_count
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile

Array = np.ndarray[Any, Any]

FADING = (Profile.GRATING, Profile.SPHERE)
"""Shapes that never vanish."""
FULLEST = 0.2
"""Share of the space between reflections that spots may fill for looking beforehand to be worth while."""
FEWEST_STEPS = 8
MOST_FOUND = 2**22
"""Steps of a pixel for which what was found is kept; 12 bytes each and thread."""
NEAREST_ONE = 0.5 + 1e-6
"""Distance from a reflection beyond which another is nearer, in float32 too."""
OVERSHOOT = 1.25**3
"""Weights of a cubic through four points sum up to 5/4 at most."""
_KEPT = threading.local()


def limits_of(numbers: Mapping[str, Array], scene: Scene, options: Options) -> tuple[Array, Array]:
    """Limits [1 or B, LIMITS], and in which of the scenes [1 or B] steps are left out at all.

    None are where nothing is to be left out, and where spots fill so much of the space between them that looking costs
    more than it spares. d^T Q d is at least the smallest eigenvalue of Q, scaled to a diagonal of ones, times the sum
    of Q_ii d_i^2, whichever integers d is counted from.
    """
    steps, fades = step_count(scene, options), options.profile in FADING
    wanted = options.tolerance > 0 if fades else options.cut > 0
    if not wanted or steps < FEWEST_STEPS or steps // options.oversample**2 > MOST_FOUND:
        return np.zeros((1, at.LIMITS)), np.zeros(1, np.bool_)
    form = numbers["shape"]
    diagonal = np.abs(np.einsum("bii->bi", form))
    widths, limits = np.sqrt(diagonal) + 1e-300, np.zeros((len(form), at.LIMITS))
    scaled = (form + form.swapaxes(1, 2)) / (2 * widths[:, :, None] * widths[:, None])
    least = np.linalg.eigvalsh(np.where(np.isfinite(scaled), scaled, 0.0))[:, 0]
    useful = least > 0
    limits[:, at.NEAREST : at.FARTHEST] = np.where(useful, least, 0.0)[:, None] * widths**2
    if fades:
        # below one cell L exceeds N
        limits[:, at.FLOOR : at.BUDGET] = 1 / np.where(diagonal >= 1, diagonal, np.pi / 2 * diagonal + 1e-300)
        limits[:, at.BUDGET], limits[:, at.WITHIN :] = options.tolerance, NEAREST_ONE
        strongest = _strongest(numbers, scene, options)
        limits = np.repeat(limits, len(strongest), 0) if len(limits) < len(strongest) else limits
        limits[:, at.STRONGEST] = strongest
        return limits, useful
    limits[:, at.FARTHEST] = TOPHAT_LIMIT if options.profile == Profile.TOPHAT else -np.log(options.cut) / 2
    with np.errstate(divide="ignore"):
        reach = np.sqrt(limits[:, at.FARTHEST, None] / limits[:, at.NEAREST : at.FARTHEST])
    limits[:, at.STRONGEST], limits[:, at.WITHIN :] = np.inf, np.minimum(reach, NEAREST_ONE)
    return limits, useful & (np.minimum(2 * reach, 1).prod(1) * np.pi / 6 < FULLEST)


def _strongest(numbers: Mapping[str, Array], scene: Scene, options: Options) -> Array:
    """The largest F^2 [1 or B] that any step can have."""
    most = _known_of(scene.structure_factors.detach()).largest
    strongest: Array = np.maximum(most, np.abs(numbers["default_F"])) * (OVERSHOOT if options.interpolate else 1.0)
    return strongest**2


class _Known:
    """What a thread knows of the last table of structure factors: frames of one crystal have the same, and looking
    takes longer than a small image, the longer where other programs keep torch's threads from their work."""

    def __init__(self, table: Tensor) -> None:
        self.table = table.clone()
        flat = (table if table.dim() > 3 else table[None]).flatten(1)
        self.largest: Array = flat.abs().amax(1).double().numpy() if table.numel() else np.zeros(1)
        self.ceilings: tuple[Tensor, Array] | None = None  # and the F of all reflections that are not in it


def _known_of(table: Tensor) -> _Known:
    kept: _Known | None = getattr(_KEPT, "table", None)
    if kept is None or not _is_same(kept.table, table):
        kept = _KEPT.table = _Known(table)
    return kept


def ceilings(scene: Scene, options: Options) -> Array:
    """F^2 of each reflection, then of the strongest of it and its seven neighbours up, a margin of one about the table.

    [1 or B, ...] in float32, and no smaller for it. The margin stands for all that is outside. No element where F is
    interpolated, or there is no table.
    """
    given, others = scene.structure_factors.detach(), scene.default_F.detach()
    if given.numel() == 0 or options.interpolate:
        return np.zeros((1, 0), np.float32)
    known = _known_of(given)
    if known.ceilings is None or not _is_same(known.ceilings[0], others):
        known.ceilings = others.clone(), _ceilings(given, others)
    return known.ceilings[1]


def _ceilings(given: Tensor, others: Tensor) -> Array:
    table, default = given.reshape(-1, *given.shape[-3:]).double().abs(), others.abs().reshape(-1)
    count = max(len(table), len(default))
    table, default = table.expand(count, -1, -1, -1), default.expand(count)
    inside = torch.nn.functional.pad(torch.ones_like(table[0]), (1, 2) * 3)
    padded = torch.nn.functional.pad(table, (1, 2) * 3) + (1 - inside) * default[:, None, None, None]
    both = padded[:, :-1, :-1, :-1], torch.nn.functional.max_pool3d(padded, 2, stride=1)
    squares: Array = (torch.stack(both, 1).flatten(1) ** 2 * (1 + 1e-6)).float().numpy()
    return squares


def _is_same(before: Tensor, now: Tensor) -> bool:
    # several times as fast as torch.equal
    return before.dtype == now.dtype and np.array_equal(before.numpy(), now.numpy())
