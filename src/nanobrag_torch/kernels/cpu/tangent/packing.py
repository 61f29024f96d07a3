"""Directions of a scene as the compiled CPU kernel takes them: columns that match the rows of tangent.layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.kernels.cpu import layout as at
from nanobrag_torch.kernels.cpu.tangent import layout as rows
from nanobrag_torch.kernels.problem import Options, Scene, taken

EXACT = 1e-13
"""Largest share of a direction of the lattices that may be rounding when one matrix stands for all of them."""


def pack_directions(
    scene: Scene, directions: Mapping[str, Tensor], options: Options, real: np.dtype[Any], count: int
) -> list[rows.Ways]:
    """Arrays for the compiled stages, which compute in `real`, from stacks [T, *shape] of what moves: for each of so
    many scenes, all worked out at once."""
    fixed, moving = _fixed(scene, count), _filled(scene, directions, count)
    common, lattice, moves_one_by_one = _lattices(fixed, moving)
    tables, moves_table = _tables(scene, moving, real)
    panels, sources, polarizations = _panels(fixed, moving, options), _sources(fixed, moving), _polarizations(moving)
    shared = _common(moving, common)
    loose = np.concatenate([np.flatnonzero(moves_one_by_one), np.flatnonzero(moves_table)])
    moves = _moves(panels, sources, polarizations, shared, lattice)
    single = np.ascontiguousarray(lattice.astype(real))
    return [
        rows.Ways(
            moves=moves,
            panels=panels[b],
            sources=sources[b],
            polarizations=polarizations[b],
            common=shared[b],
            lattice=single[b],
            tables=tables[b if len(tables) > 1 else 0],
            owner=loose.astype(np.int64),
        )
        for b in range(count)
    ]


def tally(count: int) -> rows.Tally:
    """Room for the slopes of one block along `count` directions."""
    return rows.Tally(
        np.zeros(count * at.ROW),
        np.zeros(at.SOURCE_COLUMNS),
        np.zeros(at.PANEL_COLUMNS),
        np.zeros(at.SINGLE_COLUMNS),
    )


def _fixed(scene: Scene, count: int) -> Scene:
    """The tensors in float64 with axes of scenes and directions in front [B, 1, *shape]; the table as it is."""
    stacked = scene.stacked()
    found = {
        name: (t if name in stacked else t[None]).detach().double().expand(count, *t.shape[name in stacked :])[:, None]
        for name, t in scene.named().items()
        if name != "structure_factors"
    }
    return Scene(**found, structure_factors=scene.structure_factors)


def _filled(scene: Scene, directions: Mapping[str, Tensor], count: int) -> Scene:
    """Every direction [B, T, *shape] in float64, zeros for what stands still. The table is as given, or empty."""
    directed, stacked = max(direction.shape[0] for direction in directions.values()), scene.stacked()
    found, nothing = {}, torch.zeros((), dtype=torch.float64)
    for name, tensor in scene.named().items():
        if name == "structure_factors":
            continue
        shape = count, directed, *tensor.shape[name in stacked :]
        if name in directions:
            stack = directions[name].detach().double()
            found[name] = (stack.transpose(0, 1) if name in stacked else stack[None]).expand(shape)
        else:
            found[name] = nothing.expand(shape)
    table = directions.get("structure_factors", scene.structure_factors.new_zeros(0)).detach()
    return Scene(**found, structure_factors=table)


def _padded(columns: Sequence[Tensor], fours: int) -> at.Array:
    """Columns [..., n] side by side, filled up with zeros."""
    joined = torch.cat(tuple(columns), -1)
    lacking = 4 * fours - joined.shape[-1]
    return torch.nn.functional.pad(joined, (0, lacking)).contiguous().numpy()


def _panels(scene: Scene, moving: Scene, options: Options) -> at.Array:
    """[B, P, L, T, columns]."""
    origin, fast, slow, normal = scene.panels.unbind(-2)  # [B, 1, P, 3]
    d_origin, d_fast, d_slow, d_normal = moving.panels.unbind(-2)  # [B, T, P, 3]
    size, d_size = scene.pixel_size[..., None], moving.pixel_size[..., None]
    step, attenuation = scene.sensor[..., :1], scene.sensor[..., 1:]
    d_step, d_attenuation = moving.sensor[..., :1], moving.sensor[..., 1:]
    absorbs = (step > 0).double()
    area, close = size[..., 0, :] * size[..., 1, :], (origin * normal).sum(-1, keepdim=True)
    d_area = d_size[..., 0, :] * size[..., 1, :] + size[..., 0, :] * d_size[..., 1, :]
    d_close = (d_origin * normal + origin * d_normal).sum(-1, keepdim=True)
    layer = torch.arange(options.layers, dtype=torch.float64)[:, None, None, None, None]
    deep = layer * float(taken(scene, options).layer_omega)
    of_solid_angle = d_area * (close + deep * step) + area * (d_close + deep * d_step)  # [L, B, T, P, 1]
    curvature = moving.curvature[..., None, :].expand(*d_normal.shape[:-1], 4)
    if not options.curved_by_lab_axes:
        curvature = torch.cat((d_normal, d_close), -1)
    sphere = options.curved and not options.curved_by_lab_axes
    by_position = d_origin + layer * (not sphere) * (d_step * normal + step * d_normal)  # [L, B, T, P, 3]
    others = (
        d_fast * size[..., 0, :] + fast * d_size[..., 0, :],
        d_slow * size[..., 1, :] + slow * d_size[..., 1, :],
        d_normal * absorbs,
        of_solid_angle * (0.0 if options.point_pixel else 1.0),
        (d_step * attenuation + step * d_attenuation) * absorbs,
        torch.zeros_like(d_step).expand(*d_step.shape[:-1], 2),
        d_fast,
        d_slow,
        curvature,
    )
    columns = [by_position, *(other.expand(options.layers, *other.shape[-4:]) for other in others)]
    return _padded([column.permute(1, 3, 0, 2, 4) for column in columns], rows.BENT_FOURS)


def _sources(scene: Scene, moving: Scene) -> at.Array:
    """[B, S, T, columns]."""
    inverse = 1 / (scene.wavelengths * at.SCALE)
    by_lambda = -moving.wavelengths / scene.wavelengths
    columns = [-moving.incident * inverse[..., None], by_lambda[..., None], moving.source_weights[..., None]]
    return _padded([column.transpose(1, 2) for column in columns], rows.SOURCE_FOURS)


def _polarizations(moving: Scene) -> at.Array:
    """[B, S, T, columns]."""
    return _padded([_symmetric(moving.polarization).transpose(1, 2) / 2], rows.POLAR_FOURS)


def _symmetric(matrix: Tensor) -> Tensor:
    """What multiplies xx, xy, xz, yy, yz, zz in a quadratic form: [..., 3, 3] -> [..., 6]."""
    both = matrix + matrix.transpose(-1, -2)
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = (row.unbind(-1) for row in both.unbind(-2))
    return torch.stack([xx / 2, xy, xz, yy / 2, yz, zz / 2], -1)


def _common(moving: Scene, lattice: Tensor) -> at.Array:
    """[B, T, columns]."""
    columns = [lattice.flatten(2), _symmetric(moving.shape), moving.default_F[..., None], moving.offset[..., None]]
    return _padded(columns, rows.COMMON_FOURS)


def _lattices(scene: Scene, moving: Scene) -> tuple[Tensor, at.Array, at.Array]:
    """Directions as one matrix M [B, T, 3, 3] where they are M times the lattices, else one by one [B, K, G, 10].

    Also which of the directions [T] these are. Cell and setting matrix stand on the left of phi and mosaic rotations,
    so that slopes along any number of them cost as much as along one.
    """
    inverse, failed = torch.linalg.inv_ex(scene.lattice)
    left = (moving.lattice @ inverse).mean(2)  # [B, T, 3, 3]
    rest = (moving.lattice - left[:, :, None] @ scene.lattice).abs().flatten(2).amax(2)
    share = not bool(failed.any()) and bool(torch.isfinite(inverse).all())
    alike = (rest <= EXACT * moving.lattice.abs().flatten(2).amax(2)) & share
    left = torch.where(alike[..., None, None], left, torch.zeros_like(left))
    single = torch.where(alike[..., None, None, None], torch.zeros_like(moving.lattice), moving.lattice)
    columns = torch.cat([single.flatten(3) * at.SCALE, moving.lattice_weights[..., None]], -1)  # [B, T, K, 10]
    which = columns.abs().amax((0, 2, 3)) > 0
    return left, columns[:, which].transpose(1, 2).contiguous().numpy(), which.numpy()


def _tables(scene: Scene, moving: Scene, real: np.dtype[Any]) -> tuple[at.Array, at.Array]:
    """Directions [1 or B, H, elements] of the structure factors, and which directions they are."""
    table, size = moving.structure_factors, math.prod(scene.structure_factors.shape[-3:])
    if table.numel() == 0:
        return np.zeros((1, 0, size), real), np.zeros(0, bool)
    flat = table.flatten(-3) if table.dim() > 4 else table.flatten(1)[:, None]  # [T, 1 or B, elements]
    which = flat.abs().amax((1, 2)) > 0
    return np.ascontiguousarray(flat[which].transpose(0, 1).numpy().astype(real)), which.numpy()


def _moves(
    panels: at.Array, sources: at.Array, polarizations: at.Array, common: at.Array, lattice: at.Array
) -> at.Array:
    """What moves in any of the scenes."""
    moves = np.zeros(rows.MOVES, np.int64)
    moves[rows.GEOMETRY] = panels.any()
    moves[rows.SOURCES], moves[rows.POLARIZATIONS] = sources.any(), polarizations.any()
    moves[rows.SCATTERING] = panels.any() or sources[..., : rows.BY_WEIGHT].any()
    moves[rows.LATTICES] = common[..., : rows.BY_SHAPE].any()
    moves[rows.SHAPES] = common[..., rows.BY_SHAPE : rows.BY_DEFAULT].any()
    moves[rows.DEFAULTS], moves[rows.OFFSETS] = common[..., rows.BY_DEFAULT].any(), common[..., rows.BY_OFFSET].any()
    moves[rows.FACTORS] = panels.any() or polarizations.any() or moves[rows.OFFSETS]
    moves[rows.SLOPES] = moves[rows.SCATTERING] or moves[rows.LATTICES] or lattice[..., :9].any()
    return moves
