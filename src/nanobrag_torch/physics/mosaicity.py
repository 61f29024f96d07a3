"""Mosaic domains as rotations of the lattice, from axes and angles that were drawn or from a quadrature rule."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.physics.rotations import axis_rotation, unit

QUADRATURE_LIMIT = 400
QUADRATURE_TARGET = 2048
QUADRATURE_WIDTH = 0.5
BISECTIONS = 60
SPIRAL_ROOT = 1.533751168755204288118041
"""The root of x^4 = x + 4."""


def domain_angles(spread: float | Tensor, unit_angles: Tensor) -> Tensor:
    """Angles [M] in radians, float64, from a spread in radians.

    A number gives the C program's angles, rounded to float32. A tensor gives them unrounded, 6e-8 apart and
    differentiable: rounded, they would climb in steps, which finite differences see and gradients do not.
    """
    if isinstance(spread, Tensor):
        return spread.to(torch.float64) * unit_angles.to(spread.device, torch.float64)
    rounded: Tensor = torch.tensor(spread, dtype=torch.float32) * unit_angles
    return rounded.to(torch.float64)


def domain_rotations(axes: Tensor, angles: Tensor) -> Tensor:
    """Rotation matrices [M, 3, 3], applied to column vectors, by angles [M] about unit axes [M, 3]."""
    return axis_rotation(axes.to(angles), angles)


def powder_angles(unit_angles: Tensor) -> Tensor:
    """Angles [M] (radians) about uniform axes that make rotations uniform, from those drawn for a spread of one [M].

    Those are (1 - u^2)^(1/3) of a u that is uniform in 0..1, and a uniform rotation turns by t with probability below t
    of (t - sin t) / pi. The first domain, which was drawn as zero, stays where it is.
    """
    wanted = math.pi * torch.sqrt(1 - unit_angles**3)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, math.pi)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = middle - torch.sin(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    first = torch.arange(wanted.numel(), device=wanted.device) == 0
    return torch.where(first, torch.zeros_like(wanted), (low + high) / 2)


def rotation_spiral(count: int) -> Tensor:
    """Rotations [count, 3, 3] spread evenly over all of them.

    Super-Fibonacci spirals: M. Alexa, Proc. IEEE/CVF Conf. on Computer Vision and Pattern Recognition (2022), 8281.
    """
    index = torch.arange(count, dtype=torch.float64) + 0.5
    near, far = torch.sqrt(index / count), torch.sqrt(1 - index / count)
    first, second = 2 * math.pi * index / math.sqrt(2), 2 * math.pi * index / SPIRAL_ROOT
    vector = torch.stack((near * torch.sin(first), near * torch.cos(first), far * torch.sin(second)), -1)
    return axis_rotation(unit(vector), 2 * torch.atan2(vector.norm(dim=-1), far * torch.cos(second)))


def spread_matrix(spread: Tensor, frame: Tensor) -> Tensor:
    """Symmetric W [3, 3] of an anisotropic spread, in the lab frame; domains turn by W x for x in the unit ball.

    spread: [3], about the axes of `frame` [3, 3] (orthonormal rows), or [3, 3], symmetric, in that frame; radians.
    """
    inner = torch.diag(spread) if spread.dim() == 1 else (spread + spread.T) / 2
    return frame.T @ inner @ frame


def crystal_frame(rows: Tensor) -> Tensor:
    """Orthonormal rows [3, 3] fixed to the crystal, as in the PDB: x along a, z along c*, for direct rows [3, 3]."""
    x, z = unit(rows[0]), unit(torch.linalg.cross(rows[0], rows[1], dim=-1))
    return torch.stack((x, torch.linalg.cross(z, x, dim=-1), z))


def ball_spiral(count: int) -> Tensor:
    """[count, 3] points that with their opposites cover the unit ball with the density of the C program's domains.

    Directions follow a Fibonacci spiral over half a sphere; radii follow the distribution of (1 - r^2)^(1/3), whose
    cumulative is 1 - sqrt(1 - radius^3), in the order of multiples of the square root of two.
    """
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z, azimuth = index / count, 2 * math.pi * torch.remainder(index * (math.sqrt(5) - 1) / 2, 1)
    share = torch.remainder(index * math.sqrt(2), 1)
    radius, sine = (1 - (1 - share) ** 2) ** (1 / 3), torch.sqrt(1 - z * z)
    return radius[:, None] * torch.stack((sine * torch.cos(azimuth), sine * torch.sin(azimuth), z), -1)


@functools.cache
def quadrature_nodes(count: int) -> tuple[Tensor, Tensor]:
    """Deterministic domains: rotation vectors for a spread of one [M, 3] and weights [M]; opposites come in pairs.

    Nodes and weights minimise the maximum mean discrepancy to the distribution of the C program's domains under a
    Gaussian kernel of half the spread, a quadrature rule whose worst error over all smooth images is least (A. O'Hagan,
    J. Stat. Plan. Inference 29, 1991, 245; A. Gretton et al., J. Mach. Learn. Res. 13, 2012, 723). They begin on
    a spiral, and stay there for more than QUADRATURE_LIMIT domains, where it is as good.
    """
    half, odd = count // 2, count % 2
    nodes, logs = ball_spiral(half), torch.zeros(half + odd, dtype=torch.float64)
    if half and count <= QUADRATURE_LIMIT:
        nodes, logs = _least_discrepancy(nodes, logs)
    weights = _multiplicity(half, odd) * torch.exp(logs)
    weights = weights / weights.sum()
    vectors = torch.cat((nodes, -nodes, torch.zeros((odd, 3), dtype=torch.float64)))
    return vectors, torch.cat((weights[:half] / 2, weights[:half] / 2, weights[half:]))


def _multiplicity(half: int, odd: int) -> Tensor:
    return torch.cat((torch.full((half,), 2.0, dtype=torch.float64), torch.ones(odd, dtype=torch.float64)))


def _least_discrepancy(nodes: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes [n, 3] and logarithms of weights after a fixed number of quasi-Newton steps from those given."""
    half, odd = nodes.shape[0], logs.shape[0] - nodes.shape[0]
    target, centre = ball_spiral(QUADRATURE_TARGET), torch.zeros((odd, 3), dtype=torch.float64)
    nodes, logs = nodes.clone().requires_grad_(), logs.clone().requires_grad_()
    optimiser = _quasi_newton([nodes, logs], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def discrepancy() -> Tensor:
        nodes.grad = logs.grad = None
        points = torch.cat((nodes, centre))
        weights = _multiplicity(half, odd) * torch.exp(logs)
        weights = weights / weights.sum()
        loss = weights @ _even_kernel(points, points) @ weights - 2 * weights @ _even_kernel(points, target).mean(1)
        torch.autograd.backward(loss)
        return loss.detach()

    with torch.inference_mode(False), torch.enable_grad():
        optimiser.step(discrepancy)  # type: ignore[no-untyped-call]
    return nodes.detach(), logs.detach()


def _quasi_newton(numbers: list[Tensor], **options: Any) -> torch.optim.LBFGS:
    """L-BFGS of a few numbers, whose bookkeeping torch would load its compiler for: that takes longer than a shot."""
    plain = {"add_param_group": inspect.unwrap(torch.optim.Optimizer.add_param_group)}
    kind: Any = type("LBFGS", (torch.optim.LBFGS,), plain)
    found: torch.optim.LBFGS = kind(numbers, **options)
    return found


def _even_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Gaussian kernel [n, m] between points and between a point and the other's opposite."""

    def gauss(other: Tensor) -> Tensor:
        squared = ((first[:, None] - other) ** 2).sum(-1)
        return torch.exp(-squared / (2 * QUADRATURE_WIDTH**2))

    return gauss(second) + gauss(-second)
