"""What amorphous materials around the crystal scatter, in photons per pixel.

    photons = r_e^2 fluence area sum over materials of n thickness absorption F^2(sin theta / lambda)
              times polarization, solid angle and capture of each pixel, averaged over the sources

n: molecules per volume. The sum over materials and wavelengths is one table over sin(theta), made afresh from the
parameters, and differentiable by all of them; background.radial puts it on the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.background.radial import View, last_sine, radial_image
from nanobrag_torch.models.beam import Beam, Sources
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.units import ANGSTROM, AVOGADRO, MM, R_E_SQUARED

ENTRIES = 1 << 16
"""Steps of the table: linear interpolation is then good to 1e-7 of a profile's maximum."""
GRAMS_PER_CUBIC_METRE = 1e6


def amorphous_values(
    materials: Sequence[MaterialConfig],
    pixels: Tensor | None,
    *,
    beam: Beam,
    sources: Sources,
    polarization: Tensor,
    geometry: DetectorGeometry,
    image_shape: tuple[int, int],
    dtype: torch.dtype,
    oversample: int = 1,
    point_pixel: bool = False,
    curved: bool = False,
    fused: bool | None = None,
) -> Tensor:
    """Photons [n] of flat pixel indices [n] over [panel, slow, fast], all for None.

    polarization: M [S, 3, 3] of the sources. Differentiable by every Real of the materials, F, fluence and wavelengths.
    """
    view, weights = view_of(sources, polarization, geometry, image_shape, oversample, point_pixel, curved)
    step = last_sine(view) * (1 + 1e-9) / (ENTRIES - 4)
    sine = step * torch.arange(ENTRIES, dtype=torch.float64, device=view.panels.device)
    table = scattering_table(materials, sine, beam, sources.wavelengths, weights)
    return radial_image(pixels, view, table, step, dtype, fused=fused)


def scattering_table(
    materials: Sequence[MaterialConfig], sine: Tensor, beam: Beam, wavelengths: Tensor, weights: Tensor
) -> Tensor:
    """Photons per solid angle [D, m] before polarization at sin(theta) [m].

    wavelengths [S] (m); weights [D, S]: share of the photons that each has in each direction.
    """
    area = (as_tensor(beam.config.beamsize_mm, sine.device) * MM) ** 2
    photons = R_E_SQUARED * beam.fluence().to(sine.device) * area
    mean_wavelength = float((weights.sum(0) * wavelengths).sum().detach() / weights.sum().detach() / ANGSTROM)
    total = torch.zeros((weights.shape[0], sine.numel()), dtype=torch.float64, device=sine.device)
    for material in materials:
        stol, amplitude = material.profile(sine.device)
        at = sine / (wavelengths[:, None] / ANGSTROM)  # [S, m]
        squares = smooth_interpolation(stol, amplitude, at) ** 2
        number = molecules_per_area(material, sine.device)
        absorbed = slab_transmission(
            as_tensor(material.attenuation(mean_wavelength), sine.device),
            as_tensor(material.thickness_mm, sine.device),
            1 - 2 * sine * sine,
        )
        scale = as_tensor(material.scale, sine.device) * number * photons
        total = total + scale * absorbed * (weights @ squares)
    return total


def molecules_per_area(material: MaterialConfig, device: torch.device | str = "cpu") -> Tensor:
    """Molecules per square metre of the beam []."""
    grams = as_tensor(material.density(), device) * GRAMS_PER_CUBIC_METRE
    return grams * as_tensor(material.thickness_mm, device) * (MM * AVOGADRO / material.weight())


def slab_transmission(mu_per_mm: Tensor, thickness_mm: Tensor, cosine: Tensor) -> Tensor:
    """Share of what a slab across the beam scatters at an angle [m] that leaves it; cosine of twice theta.

    Averaged over the depth where photons scatter: forwards (e^-a - e^-b) / (b - a) with a = mu t, b = a / cosine;
    backwards (1 - e^-(a + b)) / (a + b) with b = a / |cosine|.
    """
    a = mu_per_mm * thickness_mm
    b = a / cosine.abs().clamp(min=1e-6)
    forwards = torch.exp(-a) * _mean_exponential(b - a)
    return torch.where(cosine > 0, forwards, _mean_exponential(a + b))


def _mean_exponential(x: Tensor) -> Tensor:
    """(1 - e^-x) / x, smooth through 0."""
    small = x.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 1 - x / 2 + x * x / 6, -torch.expm1(-safe) / safe)


def smooth_interpolation(places: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Values [n] at places [n] that grow, interpolated at any points; constant beyond both ends.

    A cubic between two places with the slopes of parabolas through three: continuous with its slope, linear in values.
    """
    width = torch.diff(places)
    chord = torch.diff(values) / width
    inner = (chord[:-1] * width[1:] + chord[1:] * width[:-1]) / (width[1:] + width[:-1])
    flat = torch.zeros(1, dtype=values.dtype, device=values.device)
    slopes = torch.cat((flat, inner, flat))
    inside = at.clamp(float(places[0]), float(places[-1]))
    low = (
        torch.searchsorted(places.detach().contiguous(), inside.detach().contiguous(), right=True).clamp(
            1, places.numel() - 1
        )
        - 1
    )
    t = (inside - places[low]) / width[low]
    start, end = values[low], values[low + 1]
    return (
        start * (1 + 2 * t) * (1 - t) ** 2
        + end * t * t * (3 - 2 * t)
        + width[low] * t * (1 - t) * (slopes[low] * (1 - t) - slopes[low + 1] * t)
    )


def view_of(
    sources: Sources,
    polarization: Tensor,
    geometry: DetectorGeometry,
    image_shape: tuple[int, int],
    oversample: int = 1,
    point_pixel: bool = False,
    curved: bool = False,
) -> tuple[View, Tensor]:
    """What the pixels see: directions of the beam, each once, and the share [D, S] that each source has in each."""
    incident, device = sources.incident, geometry.panels.device
    _, member = torch.unique(incident.detach(), dim=0, return_inverse=True)
    count = int(member.max()) + 1
    first = torch.full((count,), len(member), device=device).scatter_reduce(
        0, member, torch.arange(len(member), device=device), "amin"
    )
    shares = torch.zeros((count, len(member)), dtype=torch.float64, device=device)
    shares = shares.index_put((member, torch.arange(len(member), device=device)), sources.weights)
    sensor = geometry.sensor
    view = View(
        panels=geometry.panels,
        pixel_size=geometry.pixel_size,
        depth=sensor[:, 0] * geometry.layers * sensor[:, 1],
        close_distance=(geometry.panels[:, 0] * geometry.panels[:, 3]).sum(-1),
        incident=incident[first],
        polarization=polarization[first],
        image_shape=image_shape,
        oversample=oversample,
        point_pixel=point_pixel,
        curved=curved,
    )
    return view, shares
