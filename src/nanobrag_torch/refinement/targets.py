"""What a fit makes small: minus the logarithm of a likelihood, a pixel at a time, with slope and Fisher information.

Data d are photons, the model M is what is expected, and readout adds noise of variance r. Poisson's law of d + r about
M + r has the mean and the variance of both together; its Fisher scoring is Gauss-Newton with weights 1 / (M + r), which
stays a way downhill when the model is wrong, as reweighted least squares does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

LEAST = 0.05  # photons; below it Poisson's likelihood goes on as a parabola
READOUT_SHARE = 0.2


class Terms(NamedTuple):
    """Of every pixel [n]: the loss, its slope by the model and the expected curvature."""

    loss: Tensor
    slope: Tensor
    weight: Tensor


class Target(Protocol):
    """Loss, slope and weight for data, model and readout variance [n]."""

    def terms(self, data: Tensor, model: Tensor, readout: Tensor) -> Terms:
        """The terms of every pixel."""


@dataclass(frozen=True)
class Poisson:
    """Poisson's law of d + r about M + r."""

    def terms(self, data: Tensor, model: Tensor, readout: Tensor) -> Terms:
        """The terms of every pixel; below a twentieth of a photon the loss is a parabola of the same slope."""
        shifted, expected = data + readout, model + readout
        floor = (READOUT_SHARE * readout).clamp(min=LEAST)
        inside = expected >= floor
        m = torch.where(inside, expected, floor)
        beyond = torch.where(inside, torch.zeros_like(expected), expected - floor)
        curvature = torch.maximum(shifted / m, torch.ones_like(m)) / m
        at_floor = 1 - shifted / m
        loss = m - shifted * torch.log(m) + at_floor * beyond + curvature * beyond * beyond / 2
        slope = at_floor + torch.where(inside, torch.zeros_like(m), curvature * beyond)
        weight = torch.where(inside, 1 / m, curvature)
        return Terms(loss, slope, weight)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of variance V = M + r + (kappa M)^2 with the whole gradient, that of V included."""

    kappa: float = 0.0

    def terms(self, data: Tensor, model: Tensor, readout: Tensor) -> Terms:
        """The terms of every pixel; V is at least a twentieth of a photon."""
        variance = model + readout + (self.kappa * model) ** 2
        floor = (READOUT_SHARE * readout).clamp(min=LEAST)
        held = variance < floor
        v = torch.where(held, floor, variance)
        rise = torch.where(held, torch.zeros_like(v), 1 + 2 * self.kappa**2 * model)
        u = data - model
        loss = (u * u / v + torch.log(v)) / 2
        slope = -u / v + rise / 2 * (1 / v - u * u / v**2)
        return Terms(loss, slope, 1 / v + rise * rise / (2 * v * v))


@dataclass(frozen=True)
class StudentT:
    """Student's t of nu degrees of freedom about the model, of scale sqrt(M + r): wild pixels lose their pull."""

    nu: float = 5.0

    def terms(self, data: Tensor, model: Tensor, readout: Tensor) -> Terms:
        """The terms of every pixel; the scale has its slope too."""
        floor = (READOUT_SHARE * readout).clamp(min=LEAST)
        v = torch.maximum(model + readout, floor)
        rise = torch.where(model + readout > floor, torch.ones_like(v), torch.zeros_like(v))
        u = data - model
        q = 1 + u * u / (self.nu * v)
        pull = (self.nu + 1) / self.nu / v / q
        slope = -pull * u + rise * (0.5 / v - pull * u * u / (2 * v))
        fisher = (self.nu + 1) / (self.nu + 3)
        return Terms((self.nu + 1) / 2 * torch.log(q) + torch.log(v) / 2, slope, fisher / v)


TARGETS: dict[str, Target] = {"poisson": Poisson(), "gaussian": Gaussian(), "student": StudentT()}
"""The targets by the names that the command line takes."""


def sigma_z(data: Tensor, model: Tensor, readout: Tensor) -> Tensor:
    """(d - M) / sqrt(M + r) [n], which is noise of deviation one where the model is right."""
    return (data - model) / torch.sqrt((model + readout).clamp(min=LEAST))
