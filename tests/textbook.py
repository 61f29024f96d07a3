"""The image of a crystal by the textbook formula, in numpy: kinematic scattering of N cells, written from the formula.

    I(pixel) = r_e^2 fluence * mean over [sub-pixel, phi, domain] of sum over [layer, source] of
               weight * capture * solid angle * P * |F(hkl)|^2 |L(hkl)|^2

Nothing here is shared with the program: lengths are Angstrom or millimetres, rotations scipy's, the lattice factor of a
block the sum over its cells that it is, that of a ball a spherical Bessel function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import BarycentricInterpolator
from scipy.spatial.transform import Rotation
from scipy.special import spherical_jn

R_E_SQUARED = 7.94079248018965e-30
Array = np.ndarray


@dataclass
class Crystal:
    """Cell (A, deg), orientation, scan, mosaic domains, cells along each axis and their shape, and F(hkl)."""

    cell: Sequence[float]
    N: Sequence[float]
    misset: Sequence[float] = (0, 0, 0)
    phis: Sequence[float] = (0,)
    spindle: Sequence[float] = (0, 0, 1)
    domains: Array = field(default_factory=lambda: np.eye(3)[None])
    shape: str = "square"
    fudge: float = 1.0
    F: Callable[[Array], Array] = lambda hkl: np.full(hkl.shape[:-1], 100.0)  # noqa: E731

    def lattices(self) -> Array:
        """Rows a, b, c (A) of every phi step and domain."""
        a, b, c, *angles = self.cell
        ca, cb, cg = np.cos(np.radians(angles))
        metric = np.array(
            [[a * a, a * b * cg, a * c * cb], [a * b * cg, b * b, b * c * ca], [a * c * cb, b * c * ca, c * c]]
        )
        stars = np.linalg.cholesky(np.linalg.inv(metric))  # a* along x, b* in the plane of x and y
        rows = np.linalg.inv(stars).T @ Rotation.from_euler("xyz", self.misset, degrees=True).as_matrix().T
        axis = np.array(self.spindle) / np.linalg.norm(self.spindle)
        turns = [Rotation.from_rotvec(axis * phi, degrees=True).as_matrix() for phi in self.phis]
        return np.array([rows @ turn.T @ domain.T for turn in turns for domain in self.domains])

    def L2(self, hkl: Array) -> Array:
        """Square of the lattice factor."""
        N = np.array(self.N, float)
        if self.shape == "square":
            waves = [np.exp(2j * np.pi * hkl[..., i, None] * np.arange(N[i])).sum(-1) for i in range(3)]
            return np.abs(np.prod(waves, 0)) ** 2
        d = hkl - np.round(hkl)
        r2 = ((d * N) ** 2).sum(-1) * self.fudge
        if self.shape == "round":
            x = np.pi * np.sqrt(r2)
            ball = np.where(x < 1e-4, 1 - x * x / 10, 3 * spherical_jn(1, x) / np.where(x == 0, 1, x))
            return np.prod(N) ** 2 * np.pi / 6 * ball**2
        if self.shape == "tophat":  # a ball of reciprocal space as large as one over the number of cells
            return np.where(r2 < (3 / (4 * np.pi)) ** (2 / 3), np.prod(N) ** 2, 0.0)
        width = {"gauss": np.pi, "gauss_hkl": 2 / 0.63}[self.shape]
        return np.prod(N) ** 2 * np.exp(-width * r2)


@dataclass
class Beam:
    """Directions from the sample to the sources, wavelengths (A), relative weights, polarization."""

    sources: Sequence[tuple[Sequence[float], float, float]] = (((-1, 0, 0), 1.0, 1.0),)
    fluence: float = 1 / R_E_SQUARED
    kahn: float | None = 0.0
    polar: Sequence[float] = (0, 0, 1)
    dmin: float = 0.0

    def P(self, out: Array, incident: Array) -> Array:
        """Kahn et al., J. Appl. Cryst. 15 (1982), 330: share of the light of a partly polarized beam; None: one."""
        if self.kahn is None:
            return np.ones(out.shape[:-1])
        cosine = out @ incident
        B = np.cross(self.polar, incident)
        if np.linalg.norm(B) < 1e-12:
            return (1 + cosine**2) / 2
        B = B / np.linalg.norm(B)
        E = np.cross(incident, B)
        psi = np.arctan2(out @ B, out @ E)
        return (1 + cosine**2 - self.kahn * np.cos(2 * psi) * (1 - cosine**2)) / 2


@dataclass
class Detector:
    """One panel: corner, axes, pixel (mm), pixels slow x fast; sensor; flat, or bent about the sample."""

    origin: Array
    fast: Array
    slow: Array
    pixel: float
    shape: tuple[int, int]
    oversample: int = 1
    layers: int = 1
    thick: float = 0.0  # mm
    depth: float = 1.0  # mm, 1 / mu
    curved: bool = False
    point: bool = False

    def samples(self, layer: int, i: int, j: int) -> tuple[Array, Array, Array]:
        """Unit vectors, solid angles and captured shares of a sub-pixel of a layer in every pixel."""
        s, f = np.meshgrid(*map(np.arange, self.shape), indexing="ij")
        along_fast = (f + (j + 0.5) / self.oversample) * self.pixel
        along_slow = (s + (i + 0.5) / self.oversample) * self.pixel
        normal = np.cross(self.fast, self.slow)
        normal = normal * np.sign(normal @ self.origin)
        step = self.thick / self.layers
        place = self.origin + along_fast[..., None] * self.fast + along_slow[..., None] * self.slow
        if not self.curved:
            place = place + layer * step * normal
            cosine = (place @ normal) / np.linalg.norm(place, axis=-1)
        else:
            R = self.origin @ normal
            u, v = (place @ axis / R for axis in (self.fast, self.slow))  # arcs over the radius
            place = Rotation.from_rotvec(v.reshape(-1, 1) * np.cross(normal, self.slow)).apply(R * normal)
            meridian = Rotation.from_rotvec(v.reshape(-1, 1) * np.cross(normal, self.slow)).apply(
                np.cross(normal, self.fast)
            )
            place = Rotation.from_rotvec(u.reshape(-1, 1) * meridian).apply(place).reshape(*self.shape, 3)
            cosine = np.ones(self.shape)
        R2 = (place**2).sum(-1)
        capture = np.exp(-layer * step / self.depth / cosine) - np.exp(-(layer + 1) * step / self.depth / cosine)
        omega = 1e6 / R2 if self.point else self.pixel**2 / R2 * cosine
        return place / np.sqrt(R2)[..., None], omega, capture if self.thick else np.ones(self.shape)


def image(crystal: Crystal, beam: Beam, detector: Detector) -> Array:
    """Photons per pixel [slow, fast]."""
    lattices, total = crystal.lattices(), np.zeros(detector.shape)
    weight = sum(w for _, _, w in beam.sources)
    for layer, i, j in np.ndindex(detector.layers, detector.oversample, detector.oversample):
        out, omega, capture = detector.samples(layer, i, j)
        for source, wavelength, w in beam.sources:
            incident = -np.array(source, float) / np.linalg.norm(source)
            q = (out - incident) / wavelength
            seen = np.linalg.norm(q, axis=-1) * beam.dmin <= 1
            common = seen * w / weight * omega * capture * beam.P(out, incident)
            for lattice in lattices:
                hkl = q @ lattice.T
                total += common * crystal.F(hkl) ** 2 * crystal.L2(hkl)
    return R_E_SQUARED * beam.fluence * total / len(lattices) / detector.oversample**2


def nearest(table: Array, first: int, otherwise: float) -> Callable[[Array], Array]:
    """F of the nearest reflection of a table [n, n, n] that begins at `first` on each axis."""

    def F(hkl: Array) -> Array:
        place = np.ceil(hkl - 0.5).astype(int) - first
        inside = ((place >= 0) & (place < len(table))).all(-1)
        return np.where(inside, table[tuple(np.moveaxis(np.clip(place, 0, len(table) - 1), -1, 0))], otherwise)

    return F


def tricubic(table: Array, first: int, otherwise: float) -> Callable[[Array], Array]:
    """F through the 64 reflections around hkl by cubic polynomials, the nearest one where some are missing."""
    plain = nearest(table, first, otherwise)
    cubics = BarycentricInterpolator([-1.0, 0, 1, 2], np.eye(4))

    def F(hkl: Array) -> Array:
        last = first + len(table) - 1
        inside = ((hkl >= first + 2) & (hkl <= last - 2)).all(-1)
        low = np.floor(hkl).astype(int)
        weights = cubics((hkl - low).ravel()).reshape(*hkl.shape, 4)
        at = np.clip(low[..., None] + np.arange(-1, 3) - first, 0, len(table) - 1)
        block = table[at[..., 0, :, None, None], at[..., 1, None, :, None], at[..., 2, None, None, :]]
        smooth = np.einsum("...abc,...a,...b,...c->...", block, *np.moveaxis(weights, -2, 0))
        return np.where(inside, smooth, plain(hkl))

    return F
