"""Rows of gradients, and of directions: one a panel, source and lattice, and one for the scene; which column is what.

One list of names serves the kernels, directions that go there, and gradients that come back. No Triton here.
"""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 16
"""Columns of a row of gradients or of a direction."""


@dataclass(frozen=True)
class Columns:
    """Names of a scene's tensors, or of what is made of them, and how many numbers of each a row holds."""

    widths: dict[str, int]

    def of(self, name: str) -> slice:
        """The columns of one name."""
        start = self.first(name)
        return slice(start, start + self.widths[name])

    def first(self, name: str) -> int:
        """The first column of one name."""
        names = list(self.widths)
        return sum(self.widths[before] for before in names[: names.index(name)])


PANEL = Columns({"panels": 12, "pixel_size": 2, "sensor": 2})
SOURCE = Columns({"incident": 3, "wavelengths": 1, "source_weights": 1, "polarization": 9})
LATTICE = Columns({"lattice": 9, "lattice_weights": 1})
MOVING = Columns({"curvature": 4, "shape": 9, "default_F": 1, "offset": 1})
"""Of the scene as a whole."""
