"""Physical constants and conversions (reference-behaviour section 0). Inside the package: metres, radians, photons."""

from __future__ import annotations

import math

R_E_SQUARED = 7.94079248018965e-30
"""Thomson cross section, square of the classical electron radius (m^2)."""
DEFAULT_FLUENCE = 125932015286227086360700780544.0
"""Photons per m^2 that make R_E_SQUARED * fluence equal to one."""
AVOGADRO = 6.02214179e23
EV_ANGSTROM = 12398.42
"""Photon energy (eV) times wavelength (Angstrom)."""
WATER_F = 2.57
"""Forward structure factor of one water molecule (electrons), as the background uses it."""
WATER_WEIGHT = 18.0
"""Molecular weight of water (g/mol)."""
SOURCE_DISTANCE_M = 10.0

DEGREES_PER_RADIAN = 180.0 * (1.0 / math.pi)
"""Divide degrees by this, as the C program does, for its last bit."""
ANGSTROM = 1e-10
MM = 1e-3
MICRON = 1e-6
MRAD = 1e-3
