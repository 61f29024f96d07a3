"""Two pictures of a fit, by the code of its page: boxes as data, model and residual, and the charts of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nanobrag_torch.io.atomic import Target
from nanobrag_torch.refinement.outputs import box_arrays, record, reflection_table
from nanobrag_torch.report.shot_data import Boxes, Shot
from nanobrag_torch.report.shot_pictures import write_montage, write_shot_charts

if TYPE_CHECKING:
    from nanobrag_torch.refinement.result import StillResult


def draw_boxes(result: StillResult, target: Target) -> None:
    """The worst, the middle and the best boxes: data, model and (data - model) / sigma of each."""
    write_montage(target, _boxes(result), flag="-o")


def draw_fit(result: StillResult, target: Target) -> None:
    """Residuals against the normal law, by resolution and strength, the path of the fit, the mean spot, centres."""
    shot = Shot(Path(), record(result), result.experiment, reflection_table(result), _boxes(result))
    write_shot_charts(target, shot, flag="-o")


def _boxes(result: StillResult) -> Boxes:
    arrays = box_arrays(result)
    return Boxes(**{name: values for name, values in arrays.items() if name != "crystal"})
