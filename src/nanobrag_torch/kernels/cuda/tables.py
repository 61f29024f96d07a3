"""A scene as the Triton kernels take it: a few small tables on its device, made without a look at their values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from nanobrag_torch.kernels.problem import Options, Scene, effective_cells

NARROW_BOUND = 48.0
"""Largest number of cells times reach of a group in hkl for which float32 differences are taken (kernels.cpu too)."""
PANEL_WIDTH = SOURCE_WIDTH = LATTICE_WIDTH = SCENE_WIDTH = 16
"""Columns of the tables of gradients."""


@dataclass(frozen=True)
class Tables:
    """What a kernel reads, beside the pixels."""

    panels: Tensor  # [P, 16] origin, fast, slow, normal, pixel size, sensor
    sources: Tensor  # [S, 16] incident, wavelength, weight, polarization, 0, 0
    lattice: Tensor  # [K, 10] rows a, b, c, weight
    narrow: Tensor  # the same in the type of the image
    scene: Tensor  # [25] curvature, shape, default F, offset, reach of lattices over the bound [3, 3], dmin
    factors: Tensor  # [H, K, L] in the type of the image

    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the kernels."""
        return tuple(vars(self).values())


def tables(scene: Scene, options: Options) -> Tables:
    """The tables of a scene, detached, contiguous."""
    panels = torch.cat((scene.panels.flatten(1), scene.pixel_size, scene.sensor), 1)
    lattice = torch.cat((scene.lattice.flatten(1), scene.lattice_weights[:, None]), 1).detach()
    sources = torch.cat(
        (
            scene.incident,
            scene.wavelengths[:, None],
            scene.source_weights[:, None],
            scene.polarization.flatten(1),
        ),
        1,
    )
    return Tables(
        panels=panels.detach().contiguous(),
        sources=pad(sources.detach(), (0, SOURCE_WIDTH - sources.shape[1])),
        lattice=lattice.contiguous(),
        narrow=lattice.to(options.dtype),
        scene=_scene_numbers(scene, options),
        factors=scene.structure_factors.detach().to(options.dtype).contiguous(),
    )


def _scene_numbers(scene: Scene, options: Options) -> Tensor:
    cells = effective_cells(scene.shape, options.profile)
    longest = scene.lattice.abs().amax(0) if scene.lattice.shape[0] else scene.lattice.new_zeros((3, 3))
    reach = cells[:, None] * longest / NARROW_BOUND  # [3, 3]
    dmin = reach.new_full((1,), options.dmin)
    once = torch.stack((scene.default_F, scene.offset)).to(reach.dtype)
    return torch.cat((scene.curvature, scene.shape.flatten(), once, reach.flatten(), dmin)).detach()


@dataclass(frozen=True)
class Rows:
    """Gradients that programs have summed up: rows of 16 numbers as in Tables, without what has no gradient."""

    panels: Tensor  # [programs, P, 16]
    sources: Tensor  # [programs, S, 16]
    lattice: Tensor  # [programs a chunk of lattices, K, 16]
    scene: Tensor  # [programs, 16]

    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the kernel."""
        return tuple(vars(self).values())

    def summed(self) -> Rows:
        """The second pass: one row for all programs, added in a fixed order."""
        return Rows(*(rows.sum(0) for rows in self.arguments()))


def empty_rows(programs: int, of_lattices: int, panels: int, sources: int, lattices: int, device: torch.device) -> Rows:
    """Rows of zeros for so many programs in all, and programs that share a chunk of lattices."""
    sizes = (programs, panels), (programs, sources), (of_lattices, lattices), (programs,)
    return Rows(*(torch.zeros((*size, 16), dtype=torch.float64, device=device) for size in sizes))


def by_name(rows: Rows, scene: Scene) -> dict[str, Tensor]:
    """Gradients by the fields of a scene, from rows that are summed up; the table of structure factors has its own."""
    lattices = scene.lattice.shape[0]
    of_lattices = rows.lattice if rows.lattice.shape[0] else rows.lattice.new_zeros((lattices, 16))
    return {
        "panels": rows.panels[:, :12],
        "pixel_size": rows.panels[:, 12:14],
        "sensor": rows.panels[:, 14:16],
        "curvature": rows.scene[:4],
        "incident": rows.sources[:, :3],
        "wavelengths": rows.sources[:, 3],
        "source_weights": rows.sources[:, 4],
        "polarization": rows.sources[:, 5:14],
        "lattice": of_lattices[:, :9],
        "lattice_weights": of_lattices[:, 9],
        "shape": rows.scene[4:13],
        "default_F": rows.scene[13],
        "offset": rows.scene[14],
    }
