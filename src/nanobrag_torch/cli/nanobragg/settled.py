"""The simulator of one run, whose configurations nobody changes any more."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from nanobrag_torch.kernels.problem import Options, Scene
from nanobrag_torch.models.beam import Sources
from nanobrag_torch.models.detector import DetectorGeometry
from nanobrag_torch.simulator import Simulator


class SettledSimulator(Simulator):
    """A Simulator that works out once what the lines of a run are made of: a small image takes less time than they."""

    @cached_property
    def geometry(self) -> DetectorGeometry:
        return super().geometry

    @cached_property
    def sources(self) -> Sources:
        return super().sources

    @cached_property
    def cells(self) -> Tensor:
        return super().cells

    @cached_property
    def recommended_oversample(self) -> int:
        return super().recommended_oversample

    @cached_property
    def _whole_scene(self) -> Scene:
        return super().scene()

    @cached_property
    def _whole_options(self) -> Options:
        return super().options()

    def scene(self) -> Scene:
        return self._whole_scene

    def options(self) -> Options:
        return self._whole_options
