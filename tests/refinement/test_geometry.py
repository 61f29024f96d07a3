"""Misplaced panels that shots share, found from centroids and pixels."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import torch

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.crystfel import read_crystfel
from nanobrag_torch.io.expt import read_expt
from nanobrag_torch.refinement.geometry import GeometryRefinement, refine_geometry, start_panels
from nanobrag_torch.refinement.group_moves import GroupMoves
from nanobrag_torch.refinement.kept import kept_shot
from nanobrag_torch.refinement.reducers import Local
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, wrong_start
from nanobrag_torch.refinement.synthetic_shots import misplaced, misplacement, small_series, tiled
from shot_series import OPTIONS

SHOTS = 3


@pytest.fixture(scope="module")
def misplaced_shots():
    """Four panels that stand elsewhere than the files say, and shots that were refined as the files say."""
    series = small_series(fluence=4e25, mosaic_spread_deg=0.12, most_spots=60)
    data = series.base.experiments[0]
    named = tiled(data.detector, 2, 2)
    true = misplaced(named, 2.0, 0.3, 3)
    series = replace(series, base=replace(series.base, experiments=(replace(data, detector=true),)))
    kept = []
    for number, truth, exposure in series.exposures(range(SHOTS)):
        begin = wrong_start(truth, Start(rotation_deg=0.02, cell=0.0005, distance_mm=0.0), number)[0]
        begin = replace(begin, detector=named)
        result = refine_still([begin], exposure.table, exposure.counts, truth.factors, **OPTIONS)
        assert result.fit is not None, result.reason
        kept.append(kept_shot(f"shot_{number:05d}", result, OPTIONS))
    return named, true, kept


def test_misplaced_panels_are_found(misplaced_shots):
    named, true, kept = misplaced_shots
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    assert groups.count == 24 and len(groups.gauge()) == 2
    start = start_panels(kept[0].experiments[0])
    rough = refine_geometry(kept, groups, start, pixels=False)
    found = refine_geometry(kept, groups, start)
    assert found.status == "converged", found.reason
    before, centroids, pixels = (misplacement(d, true) for d in (named, placed(named, rough), placed(named, found)))
    assert before > 0.7 and centroids < 0.4 and pixels < 0.01
    sizes = [sum(row[f"rms_{word}"] ** 2 for row in found.rows) for word in ("before", "after")]
    assert sizes[1] < 0.7 * sizes[0]
    assert float((found.groups.gauge() @ groups.free_moves(found.groups.moves)).abs().max()) < 1e-9
    assert (found.sigma > 0).all() and float(found.sigma[:, :2].max()) < 0.01  # mm


def placed(detector, found):
    from nanobrag_torch.refinement.result import moved_detector

    return moved_detector(detector, found.panels.numpy())


def test_a_shot_of_another_detector_is_named_with_what_differs(misplaced_shots):
    named, _, kept = misplaced_shots
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    start = start_panels(kept[0].experiments[0])
    further = start.clone()
    further[1, 0, 2] += 2e-5
    with pytest.raises(InputError, match=r"shot_00000: detector: got 'panels 0\.02 mm and 0 rad off'.*one detector"):
        refine_geometry(kept, groups, further)
    with pytest.raises(InputError, match="4 panels, not 3"):
        refine_geometry(kept, groups, start[:3])


def test_slopes_of_the_groups_are_those_of_their_moves(misplaced_shots):
    """Sums of one shot against differences of its loss when a single group moves."""
    named, _, kept = misplaced_shots
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    run = GeometryRefinement(kept[:1], groups, start_panels(kept[0].experiments[0]), Local())
    run.by_centroids()
    run.by_pixels()
    shot = run.shots[0]
    sigma = run.solve([shot.pixel_sums(run.moves)]).covariance.diagonal().sqrt()
    off = 3 * sigma * torch.tensor([1.0, -1.0] * (groups.count // 2), dtype=torch.float64)
    run.moves = replace(run.moves, moves=run.moves.moves + run.moves.with_free(off))

    def at(change):
        """The problem and its settled state with the groups moved further, the shot's own parameters held."""
        assert shot.problem is not None and shot.state is not None
        panels = run.panels(run.moves.moves + run.moves.with_free(change))
        problem = replace(
            shot.problem, model=replace(shot.problem.model, base=replace(shot.problem.model.base, panels=panels))
        )
        state = replace(shot.state, rendered=problem.render(shot.state.raw))
        return problem, problem.settle(state, steps=20)

    still = torch.zeros(groups.count, dtype=torch.float64)
    shot.problem, shot.state = at(still)
    sums = shot.pixel_sums(run.moves)
    for place in (0, 1, 6, 7, 23):
        change = still.clone()
        change[place] = h = 0.3 / float(sums.H[place, place]) ** 0.5
        up, down = (at(sign * change)[1].objective for sign in (1, -1))
        slope, unit = (up - down) / (2 * h), float(sums.H[place, place]) ** 0.5
        assert -float(sums.h[place]) == pytest.approx(slope, abs=0.1 * unit + 0.05 * abs(slope))


def test_the_command_leaves_a_detector(misplaced_shots, tmp_path, capsys):
    from nanobrag_torch.refinement.kept import KEPT, packed

    _, true, kept = misplaced_shots
    for shot in kept:
        (tmp_path / "out" / shot.name).mkdir(parents=True)
        (tmp_path / "out" / shot.name / KEPT).write_bytes(packed(shot))
    words = ["refine-geometry", str(tmp_path / "out"), "-o", str(tmp_path / "geometry"), "--groups", "panel"]
    assert main([*words, "--free", "shift,tilt", "--centroids"]) == 0
    assert "rms residuals by panel" in capsys.readouterr().out
    place = tmp_path / "geometry"
    assert misplacement(read_expt(place / "detector.expt").detector, true) < 0.4
    assert misplacement(read_crystfel(place / "detector.geom").detector, true) < 0.4
    rows = pyarrow.parquet.read_table(place / "panels.parquet").to_pylist()
    assert len(rows) == 4 and sum(row["rms_after"] for row in rows) < sum(row["rms_before"] for row in rows)
    moves = json.loads((place / "moves.json").read_text())
    assert len(moves["groups"]) == 4 and moves["groups"][0]["shift_fast_sigma"] > 0
    assert (place / "residuals.png").stat().st_size > 5000
    assert "How good: the distance of spots" in (place / "report.html").read_text()
    assert main([*words, "--free", "bend"]) == 2 and main([*words[:-1], "quadrant"]) == 2


def test_groups_that_cannot_be_are_refused(misplaced_shots):
    named, _, _ = misplaced_shots
    with pytest.raises(InputError, match="shift, tilt, distance"):
        GroupMoves.of(named, "panel", ("bend",))
    with pytest.raises(InputError, match="frees their mean"):
        GroupMoves.of(named, "panel", ("distance",))
    assert len(GroupMoves.of(named, "panel", ("shift", "distance")).gauge()) == 1
    assert GroupMoves.of(named, "whole", ("distance",)).which == (2,)
    assert GroupMoves.of(named, {0: 0, 1: 0, 2: 1}, ("shift",)).of_panel.tolist() == [0, 0, 1, -1]


BAD = {"not a number": "not finite", "blank": "alike", "other indices": "where their indices say"}
"""Kinds of shots that are none, and what is said of each."""


def spoilt(kept, name, kind):
    """A shot whose pixels are not finite or blank, or whose spots have the indices of others."""
    boxes = kept.boxes
    if kind == "other indices":
        spots = replace(boxes.spots, hkl=np.roll(boxes.spots.hkl, 7, axis=0))
        return replace(kept, name=name, boxes=replace(boxes, spots=spots))
    data = boxes.data * np.nan if kind == "not a number" else torch.full_like(boxes.data, 3.0)
    return replace(kept, name=name, boxes=replace(boxes, data=data))


def test_bad_shots_move_no_panel(misplaced_shots):
    named, true, kept = misplaced_shots
    groups = GroupMoves.of(named, "panel", ("shift", "tilt"))
    start = start_panels(kept[0].experiments[0])
    kinds = list(BAD)
    bad = [spoilt(kept[n], f"bad_{kind}", kind) for n, kind in enumerate(kinds)]
    found = refine_geometry([*kept, *bad], groups, start)
    assert found.status == "converged" and misplacement(placed(named, found), true) < 0.01
    rows = {row["name"]: row for row in found.shots}
    for shot, kind in zip(bad, kinds, strict=True):
        row = rows[shot.name]
        assert row["weight"] == 0 and BAD[kind] in row["reason"], row
    assert [row["reason"] for row in found.shots if row["weight"]] == [""] * len(kept)
