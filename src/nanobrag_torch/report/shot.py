"""The page of a refined shot: the verdict in words, then everything that it rests on."""

from __future__ import annotations

from pathlib import Path

from nanobrag_torch.io.atomic import Target
from nanobrag_torch.report.charts import chart_model
from nanobrag_torch.report.page import grid, heading, words, write_page
from nanobrag_torch.report.shoeboxes import linked_views, montage
from nanobrag_torch.report.shot_charts import shot_charts
from nanobrag_torch.report.shot_data import Shot, read_shot_folder
from nanobrag_torch.report.shot_words import facts, parameter_table, verdict

PAGE = "report.html"
MONTAGE = (
    "Greys of each box go to its own highest pixel (square roots); above it: h k l and its sigma-Z. Residuals go from "
    "-5 sigma (blue: too much model) to 5 sigma (red: too little). A good fit leaves noise without a pattern."
)


def write_shot_page(folder: str | Path, target: Target | None = None) -> int:
    """Write report.html, or another target, of the folder that a refined shot left; the number of its bytes.

    Raises InputError for a folder that no refinement wrote, or a page that cannot be written.
    """
    shot = read_shot_folder(Path(folder))
    parts = [verdict(shot), *_charts(shot), heading("Parameters"), parameter_table(shot), *_boxes(shot)]
    parts.append(words(f"<span style='color:#555'>{facts(shot)}</span>"))
    return write_page(Path(folder) / PAGE if target is None else target, f"Refinement of {shot.name}", parts)


def _charts(shot: Shot) -> list[object]:
    if shot.boxes is None:
        return []
    return [heading("What the fit left over"), grid([chart_model(chart) for chart in shot_charts(shot)])]


def _boxes(shot: Shot) -> list[object]:
    if shot.boxes is None or shot.experiment is None:
        return []
    views = linked_views(shot.boxes, shot.experiment)
    return [
        heading("Data, model and residual, where they stand"), *views,
        heading("Boxes: the worst, the middle, the best"), words(MONTAGE), montage(shot.boxes),
    ]  # fmt: skip
