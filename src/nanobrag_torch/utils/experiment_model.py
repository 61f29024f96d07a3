"""Crystal, detector and beam as a torch module: what an optimiser moves, and the image that follows.

    model = ExperimentModel(crystal_config, detector_config, beam_config, param_init="stage_a")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

Every parameter begins at zero, where the configurations are those that were given. `refinement` fits real data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.beam import Beam
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import DEFAULT_DISTANCE_MM, Detector, default_centre
from nanobrag_torch.models.tensors import as_tensor
from nanobrag_torch.simulator import Simulator
from nanobrag_torch.units import MM

LARGEST_ANGLE_DEG, LARGEST_TURN_DEG, LARGEST_SHIFT_PIXELS = 10.0, 5.0, 5.0
"""What a parameter reaches at most, by tanh: angles of the cell and misset, turns of the detector, the beam's spot."""
INITS = ("frozen", "stage_a")

Config = TypeVar("Config", CrystalConfig, DetectorConfig, BeamConfig)


class Block(nn.Module, ABC, Generic[Config]):
    """A configuration and its parameters; frozen, it has none."""

    config: Config
    free: bool

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, config: Config, free: bool, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.free = free
        for name, shape in self.shapes.items() if free else ():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))

    def build_config(self) -> Config:
        """The configuration as the parameters have it."""
        config: Config = self.config
        return replace(config, **self._moved()) if self.free else config

    @abstractmethod
    def _moved(self) -> dict[str, Any]:
        """Fields of the configuration that its parameters move, by name."""

    def _scaled(self, value: Any, name: str) -> Tensor:
        return as_tensor(value) * torch.exp(getattr(self, name).double())

    def _turned(self, value: Any, name: str, most: float) -> Tensor:
        return as_tensor(value) + most * torch.tanh(getattr(self, name).double())


class CrystalBlock(Block[CrystalConfig]):
    """Edges by exp, angles and misset within 10 degrees. Raises InputError for a crystal without a cell."""

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {
        **{f"delta_log_{edge}": () for edge in "abc"},
        **{f"delta_{angle}_raw": () for angle in ("alpha", "beta", "gamma")},
        "delta_misset_raw": (3,),
    }

    def _moved(self) -> dict[str, Any]:
        config = self.config
        if config.cell_a is None:
            raise InputError("cell_a", None, "a cell, whose edges and angles are parameters")
        edges = {f"cell_{e}": getattr(config, f"cell_{e}") for e in "abc"}
        moved = {
            name: self._scaled(config.cell_a if value is None else value, f"delta_log_{name[-1]}")
            for name, value in edges.items()
        }
        for angle in ("alpha", "beta", "gamma"):
            value = getattr(config, f"cell_{angle}")
            moved[f"cell_{angle}"] = self._turned(value, f"delta_{angle}_raw", LARGEST_ANGLE_DEG)
        moved["misset_deg"] = self._turned(config.misset_deg, "delta_misset_raw", LARGEST_ANGLE_DEG)
        return moved


class DetectorBlock(Block[DetectorConfig]):
    """Distance by exp, turns within 5 degrees, beam centre within 5 pixels. Raises InputError for given panels."""

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "delta_log_distance_mm": (),
        **{f"delta_{turn}_raw": () for turn in ("rotx", "roty", "rotz", "twotheta")},
        **{f"delta_beam_{axis}_raw": () for axis in "sf"},
    }

    def _moved(self) -> dict[str, Any]:
        config = self.config
        if config.panels:
            raise InputError("panels", len(config.panels), "none: distance, turns and centre are parameters")
        name = "distance_mm" if config.close_distance_mm is None else "close_distance_mm"
        given = getattr(config, name)
        moved = {name: self._scaled(DEFAULT_DISTANCE_MM if given is None else given, "delta_log_distance_mm")}
        for turn in ("rotx", "roty", "rotz", "twotheta"):
            field = f"detector_{turn}_deg"
            moved[field] = self._turned(getattr(config, field), f"delta_{turn}_raw", LARGEST_TURN_DEG)
        most = LARGEST_SHIFT_PIXELS * float(config.pixel_size_mm)
        for axis, middle in zip("fs", default_centre(config, torch.device("cpu")), strict=True):
            given = getattr(config, f"beam_center_{axis}")
            centre = middle / MM if given is None else given
            moved[f"beam_center_{axis}"] = self._turned(centre, f"delta_beam_{axis}_raw", most)
        return moved


class BeamBlock(Block[BeamConfig]):
    """The fluence by exp."""

    shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"delta_log_fluence": ()}

    def _moved(self) -> dict[str, Any]:
        return {"fluence": self._scaled(Beam(self.config).fluence(), "delta_log_fluence"), "flux": 0.0}


class ExperimentModel(nn.Module):
    """A module whose output is the image [slow, fast]; photons per pixel. Raises InputError for an unknown param_init.

    param_init: "frozen", no parameters, or "stage_a": those of cell, misset, detector and fluence.
    """

    def __init__(
        self,
        crystal_config: CrystalConfig,
        detector_config: DetectorConfig,
        beam_config: BeamConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        param_init: str = "frozen",
        hkl_data: Tensor | None = None,
        hkl_metadata: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        if param_init not in INITS:
            raise InputError("param_init", param_init, ", ".join(INITS))
        free, self.device, self.dtype = param_init == "stage_a", torch.device(device or "cpu"), dtype
        self.crystal_params = CrystalBlock(crystal_config, free, self.device, dtype)
        self.detector_params = DetectorBlock(detector_config, free, self.device, dtype)
        self.beam_params = BeamBlock(beam_config, free, self.device, dtype)
        self.set_structure_factors(hkl_data, hkl_metadata)

    def set_structure_factors(self, hkl_data: Tensor | None, hkl_metadata: dict[str, int] | None) -> None:
        """The table [H, K, L] of amplitudes and its limits, h_min ... l_max."""
        self.hkl_data, self.hkl_metadata = hkl_data, hkl_metadata

    def forward(self, **run: Any) -> Tensor:
        """The image. run: keywords of Simulator.run but override_a_star."""
        crystal = Crystal(
            self.crystal_params.build_config(),
            device=self.device,
            dtype=self.dtype,
            hkl_data=self.hkl_data,
            hkl_metadata=self.hkl_metadata,
        )
        detector = Detector(self.detector_params.build_config(), self.device, self.dtype)
        beam = self.beam_params.build_config()
        return Simulator(crystal, detector, beam_config=beam, device=self.device, dtype=self.dtype).run(**run)
