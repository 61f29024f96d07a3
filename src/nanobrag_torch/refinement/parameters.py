"""Parameters of a refinement: what is free, what it starts from, what is known of it, and one raw vector for all.

A raw value is what the solver moves: the value itself, its logarithm where it must stay above zero, or the logistic
coordinate between two bounds. Priors are Gaussian in raw values, so that a prior of 0.1 on a logarithm is ten percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from nanobrag_torch.errors import InputError

NARROW = 1e-9  # of the range between bounds: how close a start may lie to one of them


class Transform(Enum):
    """How a raw value becomes a physical one."""

    IDENTITY = "identity"
    POSITIVE = "positive"  # exp
    BOUNDED = "bounded"  # logistic; a sine would lose its slope at the bounds


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number of the model.

    prior: mean (physical) and standard deviation (raw: relative for a positive parameter); None: none. scale: the
    typical size of a raw change, where there is no prior to tell it. tied_to: the name of the parameter whose value
    this one has. sigma: standard deviation (physical) after a fit.
    """

    name: str
    value: float
    unit: str = ""
    transform: Transform = Transform.IDENTITY
    bounds: tuple[float, float] | None = None
    prior: tuple[float, float] | None = None
    scale: float = 1.0
    free: bool = True
    tied_to: str | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise InputError(self.name, self.value, "a finite number")
        if self.transform is Transform.POSITIVE and self.value <= 0:
            raise InputError(self.name, self.value, "a number above 0")
        if self.transform is Transform.BOUNDED:
            low, high = self.bounds or (math.nan, math.nan)
            if not low <= self.value <= high or low == high:
                raise InputError(self.name, self.value, f"a number between its bounds {self.bounds}")
        if self.prior is not None and not self.prior[1] > 0:
            raise InputError(f"prior of {self.name}", self.prior, "a mean and a standard deviation above 0")

    def raw(self, value: float) -> float:
        """The raw value of a physical one."""
        if self.transform is Transform.POSITIVE:
            return math.log(max(value, 1e-300))
        if self.transform is Transform.BOUNDED and self.bounds is not None:
            low, high = self.bounds
            share = min(max((value - low) / (high - low), NARROW), 1 - NARROW)
            return math.log(share / (1 - share))
        return value

    def physical(self, raw: Tensor) -> Tensor:
        """The physical value [] of a raw one, differentiable."""
        if self.transform is Transform.POSITIVE:
            return torch.exp(raw.clamp(-600, 600))  # neither zero nor infinite, whatever a step tries
        if self.transform is Transform.BOUNDED and self.bounds is not None:
            low, high = self.bounds
            return low + (high - low) * torch.sigmoid(raw)
        return raw

    @property
    def step(self) -> float:
        """The raw size that steps and correlations are measured in: the prior's standard deviation, or the scale."""
        return self.scale if self.prior is None else self.prior[1]


class ParameterSet:
    """Parameters in order, and the raw vector [n] of those that are free and not tied."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = tuple(parameters)
        self._by_name = {parameter.name: parameter for parameter in self.parameters}
        if len(self._by_name) != len(self.parameters):
            raise InputError("parameters", [p.name for p in self.parameters], "each name once")
        for parameter in self.parameters:
            if parameter.tied_to is not None and parameter.tied_to not in self._by_name:
                raise InputError(f"{parameter.name}: tied_to", parameter.tied_to, ", ".join(self._by_name))
        self.free = tuple(p for p in self.parameters if p.free and p.tied_to is None)

    def __len__(self) -> int:
        """Number of free parameters."""
        return len(self.free)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        """A parameter by its name. Raises InputError naming those there are."""
        if name not in self._by_name:
            raise InputError("parameter", name, ", ".join(self._by_name))
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters, in the order of the raw vector."""
        return tuple(parameter.name for parameter in self.free)

    def pack(self) -> Tensor:
        """The raw vector [n] of the values, float64."""
        return torch.tensor([p.raw(p.value) for p in self.free], dtype=torch.float64)

    def unpack(self, raw: Tensor) -> dict[str, Tensor]:
        """Every physical value [] by name, those that are fixed or tied too; differentiable by the raw vector [n]."""
        found = {p.name: p.physical(raw[i]) for i, p in enumerate(self.free)}
        for p in self.parameters:
            if p.name not in found and p.tied_to is None:
                found[p.name] = raw.new_tensor(p.value)
        for p in self.parameters:
            if p.tied_to is not None:
                found[p.name] = found[p.tied_to]
        return {p.name: found[p.name] for p in self.parameters}

    def scales(self) -> Tensor:
        """The raw size [n] that steps are measured in."""
        return torch.tensor([p.step for p in self.free], dtype=torch.float64)

    def prior_terms(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """How far [n] every raw value is above the mean of its prior, and the precision [n]; zero without a prior."""
        means = torch.tensor([p.raw(p.prior[0]) if p.prior else 0.0 for p in self.free], dtype=torch.float64)
        precision = torch.tensor([p.prior[1] ** -2 if p.prior else 0.0 for p in self.free], dtype=torch.float64)
        return raw - means, precision

    def at(self, raw: Tensor, covariance: Tensor | None = None) -> ParameterSet:
        """The set with the values of a raw vector [n], and sigmas from a covariance [n, n] of raw values."""
        values = self.unpack(raw)
        sigmas: dict[str, float | None] = {}
        if covariance is not None:
            sigma = covariance.diagonal().clamp(min=0).sqrt() * self._slopes(raw).abs()
            sigmas = dict(zip(self.names, sigma.tolist(), strict=True))
        for p in self.parameters:
            if p.tied_to is not None:
                sigmas[p.name] = sigmas.get(p.tied_to)
        found = [replace(p, value=float(values[p.name]), sigma=sigmas.get(p.name)) for p in self.parameters]
        return ParameterSet(found)

    def _slopes(self, raw: Tensor) -> Tensor:
        """How every free value moves with its raw one [n]."""
        with torch.enable_grad():
            leaf = raw.detach().clone().requires_grad_()
            total = sum((p.physical(leaf[i]) for i, p in enumerate(self.free)), leaf.sum() * 0)
            return torch.autograd.grad(total, leaf)[0]

    def change(self, name: str, **fields: object) -> ParameterSet:
        """The set with some fields of one parameter replaced. Raises InputError for a name that is not there."""
        changed = replace(self[name], **fields)  # type: ignore[arg-type]
        return ParameterSet([changed if p.name == name else p for p in self.parameters])

    def values(self) -> Mapping[str, float]:
        """Physical values by name."""
        return {p.name: p.value for p in self.parameters}

    def table(self) -> str:
        """Name, value, standard deviation and unit of every parameter, a line each."""
        width = max(len(p.name) for p in self.parameters)
        return "\n".join(_line(p, width) for p in self.parameters)


def _line(p: Parameter, width: int) -> str:
    if p.tied_to is not None:
        note = f"= {p.tied_to}"
    elif not p.free:
        note = "fixed"
    else:
        note = "" if p.sigma is None else f"+- {p.sigma:.2g}"
    return f"{p.name:{width}s} {p.value:14.7g} {note:14s} {p.unit}".rstrip()
