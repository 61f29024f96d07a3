"""Jacobian-vector products of the fused CPU kernel: slopes of pixels along many directions of the scene in one pass.

Will hold: the loops of cpu_value with, per step, the slopes of F^2 L^2 by hkl, contracted with the directions of
lattice, sources, panels and factors. Memory is O(directions x block) beside the result.
"""

from __future__ import annotations
