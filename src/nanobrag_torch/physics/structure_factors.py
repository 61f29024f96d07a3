"""F(hkl): the nearest reflection of a table, or tricubic interpolation in it (sections 7.5 and 7.6)."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_integers(hkl: Tensor) -> Tensor:
    """Nearest integers of hkl; a half goes down, as in the C program."""
    return torch.ceil(hkl - 0.5)


def nearest_amplitude(index: Tensor, table: Tensor, first: tuple[int, int, int], default: Tensor) -> Tensor:
    """F [...] of whole indices [..., 3]: table [H, K, L] that begins at `first`, `default` [] outside it.

    The slope in hkl is zero: only the table and the default carry gradients.
    """
    if table.numel() == 0:
        return default.expand(index.shape[:-1])
    size = torch.tensor(table.shape, device=index.device)
    place = index.long() - torch.tensor(first, device=index.device)
    inside = ((place >= 0) & (place < size)).all(-1)
    place = torch.where(inside[..., None], place, torch.zeros_like(place))
    flat = (place[..., 0] * table.shape[1] + place[..., 1]) * table.shape[2] + place[..., 2]
    return torch.where(inside, table.reshape(-1)[flat], default)


def out_of_interpolation_range(hkl: Tensor, table: Tensor, first: tuple[int, int, int]) -> Tensor:
    """True [...] where hkl [..., 3] is outside first + 2 .. last - 2 on an axis, so that tricubic nodes are missing."""
    low = torch.tensor(first, dtype=hkl.dtype, device=hkl.device)
    size = torch.tensor(table.shape, dtype=hkl.dtype, device=hkl.device)
    return ((hkl - low + 3 > size) | (hkl - 2 < low)).any(-1)


def lagrange_weights(t: Tensor) -> Tensor:
    """Weights [..., 4] of the nodes -1, 0, 1, 2 for the cubic through four points at t [...] in 0..1."""
    before, after, far = t + 1, t - 1, t - 2
    parts = (-t * after * far / 6, before * after * far / 2, -before * t * far / 2, before * t * after / 6)
    return torch.stack(parts, -1)


def tricubic_amplitude(
    hkl: Tensor, table: Tensor, first: tuple[int, int, int], record: dict[str, Tensor] | None = None
) -> Tensor:
    """F [...] interpolated at real hkl [..., 3] by 4-point Lagrange polynomials on each axis.

    Meaningful where `out_of_interpolation_range` is false; elsewhere the nodes are clamped into the table. record
    takes the first node [..., 3] of the neighbourhood, the weights [..., 3, 4] and the amplitudes [..., 4, 4, 4].
    """
    base = torch.floor(hkl)
    weights = lagrange_weights(hkl - base)  # [..., 3, 4]
    node = torch.arange(-1, 3, device=hkl.device)
    low = torch.tensor(first, device=hkl.device)
    place = (base.long() - low)[..., None] + node  # [..., 3, 4]
    h, k, l = (place[..., axis, :].clamp(0, table.shape[axis] - 1) for axis in range(3))
    flat = (h[..., :, None, None] * table.shape[1] + k[..., None, :, None]) * table.shape[2] + l[..., None, None, :]
    values = table.reshape(-1)[flat]  # [..., 4, 4, 4]
    if record is not None:
        record.update(cubic_first=base - 1, cubic_weights=weights, cubic_values=values)
    wh, wk, wl = weights.unbind(-2)
    return torch.einsum("...abc,...c,...b,...a->...", values.to(hkl.dtype), wl, wk, wh)
