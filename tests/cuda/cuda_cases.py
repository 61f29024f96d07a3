"""Small scenes for the GPU kernels, and what the reference kernel makes of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from nanobrag_torch.kernels import reference
from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.physics.lattice_factor import Profile
from nanobrag_torch.physics.polarization import polarization_matrix
from nanobrag_torch.physics.rotations import axis_rotation, unit

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES = [field.name for field in fields(Scene)]
WIDE = {"dtype": torch.float64}

# what each case asks for; scenes that it needs in SCENES
CASES: dict[str, dict[str, Any]] = {
    "sphere": {"profile": Profile.SPHERE},
    "gauss": {"profile": Profile.GAUSS},
    "tophat": {"profile": Profile.TOPHAT},
    "nearest": {},
    "tricubic": {"interpolate": True},
    "cached factors": {"oversample": 2},
    "factors of every sub-pixel": {
        "oversample": 2,
        "oversample_omega": True,
        "oversample_polar": True,
        "oversample_thick": True,
    },
    "layers": {"layers": 2, "oversample": 2},
    "last layer": {"layers": 2, "oversample": 2, "last_layer_capture": True},
    "resolution limit": {"dmin": 77e-10},
    "resolution limit, every source": {"dmin": 77e-10, "oversample_polar": True},
    "layers of one solid angle": {"layers": 2, "oversample": 2, "front_solid_angle": True},
    "curved": {"curved": True},
    "curved, with layers": {"curved": True, "layers": 2, "oversample": 2},
    "curved as in C": {"curved": True, "curved_by_lab_axes": True, "curved_sensor_is_flat": True},
    "point pixel": {"point_pixel": True},
    "panels": {},
    "no table": {},
}
SCENES: dict[str, dict[str, Any]] = {
    "panels": {"panels": 2},
    "no table": {"table": False, "thickness": 0.0},
    "point pixel": {"sources": 1},
    "tricubic": {"sources": 1},  # the slowest for the interpreter, like layers; "curved, with layers" has two of all
    "layers": {"sources": 1},
    "layers of one solid angle": {"sources": 1},
    "last layer": {"lattices": 1},
    "resolution limit": {"sources": 3},
    "resolution limit, every source": {"sources": 3},
}


def case(name: str, dtype: torch.dtype) -> tuple[Scene, Options]:
    options = Options(image_shape=(9, 13), hkl_first=(-4, -5, -5), dtype=dtype, **({"profile": 0} | CASES[name]))
    options = replace(options, profile=Profile(options.profile))
    return make_scene(profile=options.profile, **SCENES.get(name, {})), options


def make_scene(
    *,
    lattices: int = 2,
    sources: int = 2,
    panels: int = 1,
    table: bool = True,
    profile: Profile = Profile.GRATING,
    cells: tuple[float, float, float] = (5.0, 6.0, 7.0),
    thickness: float = 3e-4,
) -> Scene:
    """A slightly turned detector 0.1 m away, a triclinic cell of about 65 Angstrom, a table that ends in view."""
    torch.manual_seed(7)

    def spread(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, **WIDE) - 0.5

    incident = unit(torch.tensor([[1.0, 0.0, 0.0]], **WIDE) + 2e-3 * spread(sources, 3))
    rows = torch.diag(torch.tensor([60e-10, 65e-10, 70e-10], **WIDE)) + 3e-10 * spread(3, 3)
    turns = axis_rotation(unit(spread(lattices, 3)), 0.02 * spread(lattices))
    edges = torch.diag(torch.tensor(cells, **WIDE))
    skewed = edges + 0.5 * spread(3, 3)
    return Scene(
        panels=torch.stack([_panel(p) for p in range(panels)]),
        pixel_size=torch.tensor([[1e-4, 1.1e-4]], **WIDE).expand(panels, 2),
        sensor=torch.tensor([[thickness, 2000.0]], **WIDE).expand(panels, 2),
        curvature=torch.tensor([1.0, 0.0, 0.0, 0.1], **WIDE),
        incident=incident,
        wavelengths=1e-10 * (1 + 0.01 * spread(sources)),
        source_weights=1 + spread(sources),
        polarization=polarization_matrix(incident, torch.tensor([0.0, 0, 1], **WIDE), torch.tensor(0.9, **WIDE)),
        lattice=rows @ turns.transpose(-1, -2),
        lattice_weights=(1 + spread(lattices)) / lattices,
        shape=edges if profile is Profile.GRATING else skewed.T @ skewed,
        structure_factors=50 * torch.rand(8, 9, 10, **WIDE) if table else torch.zeros(0, 0, 0, **WIDE),
        default_F=torch.tensor(7.0, **WIDE),
        offset=torch.tensor(300.0, **WIDE),
    ).to(DEVICE)


def _panel(place: int) -> torch.Tensor:
    fast = unit(torch.tensor([0.02, 0.01, 1.0], **WIDE))
    slow = unit(torch.linalg.cross(fast, torch.tensor([-1.0, 0.05, 0.02], **WIDE)))
    origin = torch.tensor([0.1, 1.2e-3 + 2e-3 * place, -0.9e-3], **WIDE)
    normal = torch.linalg.cross(fast, slow)
    return torch.stack((origin, fast, slow, normal * torch.sign(normal @ origin)))


def every_pixel(scene: Scene, options: Options) -> torch.Tensor:
    slow, fast = options.image_shape
    return torch.arange(scene.panels.shape[0] * slow * fast, device=DEVICE)


def true_values(pixels: torch.Tensor | None, scene: Scene, options: Options) -> torch.Tensor:
    listed = every_pixel(scene, options) if pixels is None else pixels
    return reference.intensity(listed, scene, replace(options, dtype=torch.float64))


def true_gradients(
    upstream: torch.Tensor, pixels: torch.Tensor | None, scene: Scene, options: Options
) -> dict[str, torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in scene.tensors()]
    values = true_values(pixels, Scene(*leaves), options)
    found = torch.autograd.grad(values, leaves, upstream.double(), allow_unused=True)
    return {n: torch.zeros_like(t) if g is None else g for n, t, g in zip(NAMES, leaves, found, strict=True)}


def upstream_of(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(3), **WIDE).to(DEVICE, dtype)


def relative(found: torch.Tensor, true: torch.Tensor) -> float:
    """Largest difference as a share of the largest true value."""
    scale = float(true.abs().max()) if true.numel() else 0.0
    gap = float((found.double() - true).abs().max()) if true.numel() else 0.0
    return gap / scale if scale > 0 else gap
