"""Random scenes for kernels; the fused kernel held against the reference kernel: value and every gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from nanobrag_torch.kernels import operation, reference
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import TOPHAT_LIMIT, Profile

D = torch.float64
IMAGE = (9, 13)
FIRST = (-4, -5, -6)
LATTICE = 8


@dataclass(frozen=True)
class Draw:
    """What a random scene has."""

    profile: Profile = Profile.GRATING
    panels: int = 2
    sources: int = 3
    lattices: int = 4
    layers: int = 1
    thick: bool = True
    table: bool = True
    offset: float = 0.0
    cells: tuple[float, float, float] = (5.0, 7.0, 4.0)
    pixel: float = 2e-3
    seed: int = 0


def draw_scene(draw: Draw) -> Scene:
    """Tilted panels, a few sources, a triclinic lattice turned about a little, polarization matrices of no symmetry."""
    generator = torch.Generator().manual_seed(draw.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=D)

    def turns(spread: float, count: int) -> Tensor:
        a = normal(count, 3, 3) * spread
        return torch.linalg.matrix_exp(a - a.transpose(-1, -2))

    plane = torch.tensor([[0.1, -4e-3, -3e-3], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=D)
    panels = torch.stack([plane @ turn for turn in turns(0.05, draw.panels)])
    panels[:, 0] += normal(draw.panels, 3) * 2e-3
    size = draw.pixel * (1 + 0.1 * normal(draw.panels, 2).abs())
    sensor = torch.tensor([3e-4 / draw.layers, 2000.0], dtype=D).repeat(draw.panels, 1) * (1.0 if draw.thick else 0.0)
    incident = torch.nn.functional.normalize(torch.tensor([1.0, 0, 0], dtype=D) + normal(draw.sources, 3) * 1e-3, dim=1)
    cell = (torch.diag(torch.tensor([9.0, 11.0, 13.0], dtype=D)) + normal(3, 3)) * 1e-10
    matrix = torch.diag(torch.tensor(draw.cells, dtype=D))
    if draw.profile is not Profile.GRATING:
        root = matrix * 0.5 + normal(3, 3) * 0.3
        matrix = root.T @ root
    table = normal(9, 11, 13) * 50 + 100 if draw.table else torch.zeros((0, 0, 0), dtype=D)
    return Scene(
        panels=panels,
        pixel_size=size,
        sensor=sensor,
        curvature=torch.tensor([1.0, 0.01, 0.02, 0.11], dtype=D),
        incident=incident,
        wavelengths=1e-10 * (1 + 0.01 * normal(draw.sources)),
        source_weights=normal(draw.sources).abs() + 0.5,
        polarization=normal(draw.sources, 3, 3) * 0.3,
        lattice=cell @ turns(0.02, draw.lattices) @ turns(0.5, 1)[0],
        lattice_weights=normal(draw.lattices).abs() + 0.5,
        shape=matrix,
        structure_factors=table,
        default_F=torch.tensor(37.0, dtype=D),
        offset=torch.tensor(draw.offset, dtype=D),
    )


def options_of(draw: Draw, **more: object) -> Options:
    """Options of a small image that fit the scene."""
    plain = Options(image_shape=IMAGE, profile=draw.profile, hkl_first=FIRST, layers=draw.layers, dtype=D)
    return replace(plain, **more)


def onto_reflection(scene: Scene, pixel: int, options: Options) -> Scene:
    """The same scene, its lattices bent a little so that a pixel lies on a reflection of the first source."""
    q = reference.look_at_pixels(torch.tensor([pixel]), scene, options).q[0, 0, 0, 0]
    hkl = scene.lattice @ q
    return replace(scene, lattice=scene.lattice + ((hkl.round() - hkl) / (q @ q))[..., None] * q)


def true_value_and_gradients(
    pixels: Tensor, upstream: Tensor, scene: Scene, options: Options
) -> tuple[Tensor, list[Tensor]]:
    """The reference kernel's, in float64; a zero gradient where autograd sees no dependence."""
    leaves = [tensor.clone().requires_grad_() for tensor in scene.tensors()]
    value = reference.intensity(pixels, Scene(*leaves), replace(options, dtype=D))
    found = torch.autograd.grad((value * upstream).sum(), leaves, allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def fused_value_and_gradients(
    pixels: Tensor | None, upstream: Tensor, scene: Scene, options: Options
) -> tuple[Tensor, list[Tensor]]:
    """The same by the fused kernel through autograd, in the type of the options."""
    table = scene.structure_factors.to(options.dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in replace(scene, structure_factors=table).tensors()]
    value = operation.intensity(pixels, Scene(*leaves), options, kernel="fused")
    return value.detach(), list(torch.autograd.grad((value * upstream.to(value.dtype)).sum(), leaves))


def deviations(pixels: Tensor | None, scene: Scene, options: Options) -> dict[str, float]:
    """Largest difference of fused and reference kernel over the largest magnitude: of the value and every gradient.

    Pixels count with weights of one sign: sums in which they cancel would be compared with their own rounding. Those
    that may flip from one reflection to the next do not count.
    """
    slow, fast = options.image_shape
    listed = torch.arange(scene.panels.shape[0] * slow * fast) if pixels is None else pixels
    firm = steady(listed, scene, options)
    upstream = firm * (0.5 + torch.rand(listed.numel(), generator=torch.Generator().manual_seed(1), dtype=D))
    true_value, true_gradients = true_value_and_gradients(listed, upstream, scene, options)
    value, gradients = fused_value_and_gradients(pixels, upstream, scene, options)
    names = [field.name for field in fields(Scene)]
    pairs = zip(names, gradients, true_gradients, strict=True)
    found = {"value": deviation(value * firm.to(value.dtype), true_value * firm)}
    found |= {name: deviation(got, true) for name, got, true in pairs}
    # one wavelength: a single number, the small difference of the slopes on either side of spots
    by = dict(zip(names, true_gradients, strict=True))
    size = float(by["incident"].abs().max() / scene.wavelengths.max()) / 10
    found["wavelengths"] *= min(1.0, float(by["wavelengths"].abs().max()) / size) if size > 0 else 1.0
    return found


def steady(pixels: Tensor, scene: Scene, options: Options) -> Tensor:
    """Which pixels [n] (0. or 1.) keep their reflections when hkl is off by the rounding of the options' type.

    The model jumps at half-integers, at the edge of top-hat spots, at the resolution limit and where the nodes of an
    interpolation leave the table. At most a tenth of the pixels may be near enough to a jump.
    """
    near = 1e-11 if options.dtype is D else 4e-6
    q = reference.look_at_pixels(pixels, scene, options).q
    hkl = torch.einsum("kij,nltsj->nltski", scene.lattice, q)
    distance = hkl - torch.ceil(hkl - 0.5)
    edge = (distance.abs() - 0.5).abs().amin(-1)
    if options.profile is Profile.TOPHAT:
        form = torch.einsum("...i,ij,...j->...", distance, scene.shape, distance)
        edge = torch.minimum(edge, (form - TOPHAT_LIMIT).abs() / 10)
    if options.interpolate:
        edge = torch.minimum(edge, (hkl - hkl.round()).abs().amin(-1))
    if options.dmin > 0:
        edge = torch.minimum(edge, (q.norm(dim=-1) * options.dmin - 1).abs()[..., None])
    firm = edge.flatten(1).amin(1) > near
    assert int((~firm).sum()) <= max(1, firm.numel() // 10)
    return firm.to(D)


def deviation(got: Tensor, true: Tensor) -> float:
    """Largest difference over the largest true magnitude; plain where the truth is zero."""
    if true.numel() == 0:
        return float(got.numel())
    assert got.shape == true.shape
    difference, most = float((got.double() - true).abs().max()), float(true.abs().max())
    return difference / most if most > 0 else difference
