"""Conversions of numbers and tensors."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from nanobrag_torch.units import ANGSTROM, DEGREES_PER_RADIAN, MICRON, MM, MRAD

Number = TypeVar("Number", float, Tensor)


def mm_to_angstroms(mm: Number) -> Number:
    """Millimetres to Angstrom.

    >>> mm_to_angstroms(2.0)
    20000000.0
    """
    return mm * (MM / ANGSTROM)


def meters_to_angstroms(meters: Number) -> Number:
    """Metres to Angstrom."""
    return meters / ANGSTROM


def angstroms_to_mm(angstroms: Number) -> Number:
    """Angstrom to millimetres."""
    return angstroms * (ANGSTROM / MM)


def angstroms_to_meters(angstroms: Number) -> Number:
    """Angstrom to metres."""
    return angstroms * ANGSTROM


def mm_to_meters(mm: Number) -> Number:
    """Millimetres to metres."""
    return mm * MM


def micrometers_to_meters(micrometers: Number) -> Number:
    """Micrometres to metres."""
    return micrometers * MICRON


def mrad_to_radians(mrad: Number) -> Number:
    """Milliradians to radians."""
    return mrad * MRAD


def degrees_to_radians(degrees: Number) -> Number:
    """Degrees to radians."""
    return degrees / DEGREES_PER_RADIAN


def radians_to_degrees(radians: Number) -> Number:
    """Radians to degrees."""
    return radians * DEGREES_PER_RADIAN
