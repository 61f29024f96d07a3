"""What a refinement is given: words and numbers, files that all shots share, and what is left where nothing fits."""

import gc
import json
from dataclasses import replace
from math import inf, nan

import gemmi
import numpy as np
import pytest
import torch

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.refine import summary
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.expt import read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.images import read_image, write_image
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.memory import without_collecting
from nanobrag_torch.records.experiment import ScanData
from nanobrag_torch.refinement.centroids import residuals_of_positions
from nanobrag_torch.refinement.frames import CLIP, CLIPPED, CLIPS, PATCH, Frame, frame_of, noise_of_background
from nanobrag_torch.refinement.inputs import image_of, read_shot
from nanobrag_torch.refinement.options import options_of
from nanobrag_torch.refinement.problem import Problem
from nanobrag_torch.refinement.setup import shot_model, start_parameters
from nanobrag_torch.refinement.solver import Linearised, downhill, levenberg_marquardt
from nanobrag_torch.refinement.spots import listed_spots
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, wrong_start

COARSE = ["--oversample", "2", "--domains", "12"]


@pytest.fixture(scope="module")
def folder(still, tmp_path_factory):
    """A still whose image the experiment list names by a name in its own folder."""
    truth, exposure = still
    folder = tmp_path_factory.mktemp("given")
    begin = wrong_start(truth, Start(), 3)[0]
    write_image(folder / "image_0001.img", exposure.counts.clip(0, 65535).astype("u2"), truth.experiments[0])
    write_expt(folder / "listed.expt", replace(begin, images=("image_0001.img",)))
    write_expt(folder / "bare.expt", begin)
    write_expt(folder / "named.expt", replace(begin, image_template="image_####.img"))
    write_refl(folder / "shot.refl", exposure.table)
    write_mtz(folder / "model.mtz", truth.factors)
    np.save(folder / "small.npy", np.ones((10, 10), "u1"))
    assert begin.detector is not None
    write_expt(folder / "two.expt", [begin, replace(begin, detector=replace(begin.detector))])
    cell = truth.factors.cell
    others = {"P 1": cell, "P 2 2 2": cell, "P 2 3": cell, "P 43 21 2": (*np.multiply(cell[:3], 1.2), *cell[3:])}
    for group, edges in others.items():
        name = f"{group.replace(' ', '')}.mtz"
        write_mtz(folder / name, replace(truth.factors, cell=edges, space_group=group))
    (folder / "bad.lam").write_text("0.97 1\nxx 2\n")
    return folder


def run(folder, output, *more, experiments="listed.expt", factors="model.mtz"):
    words = [str(folder / experiments), str(folder / "shot.refl"), "-F", str(folder / factors), "-o", str(output)]
    return main(["refine", *words, "--shape", "gauss_hkl", "--boxes", "40", *COARSE, "--no-figures", *more])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", 0), ("half_box", 0), ("most_steps", 0), ("frame", -1), ("spectrum_channels", 0), ("gain", 0.0),
        ("gain", nan), ("d_min", -1.0), ("bandwidth_eV", inf), ("readout_noise", -0.1), ("pedestal", nan), ("N", 4),
        ("sigma_F", nan), ("sigma_F", 0.0), ("spread", 2), ("background", "flat"), ("psf_shape", "square"),
        ("trusted_range", (5.0, 2.0)), ("trusted_range", (nan, 2.0)),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(name, value):
    with pytest.raises(InputError) as refused:
        options_of({name: value})
    assert str(refused.value).startswith(f"{name}: got") and "\n" not in str(refused.value)


def test_what_makes_sense_is_not_refused():
    chosen = options_of({"sigma_F": inf, "d_min": 2, "d_max": 30, "readout_noise": 0, "trusted_range": (-1, 9), "N": 6})
    assert chosen.N == 6
    with pytest.raises(InputError, match="d_min, d_max"):
        options_of({"d_min": 3.0, "d_max": 2.0})


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--images", "nowhere.img"], "nowhere.img"),
        (["--mask", "nowhere.npy"], "nowhere.npy"),
        (["--mask", "{folder}/small.npy"], "mask"),
        (["--spectrum", "{folder}/bad.lam"], "line 2"),
        (["--column", "XX"], "XX"),
        (["--workers", "0"], "--workers"),
        (["--skip", "-1"], "--skip"),
        (["--limit", "0"], "--limit"),
        (["--gain", "0"], "gain"),
    ],
)
def test_bad_input_leaves_no_file(folder, tmp_path, capsys, words, names):
    output = tmp_path / "out"
    assert run(folder, output, *(word.format(folder=folder) for word in words)) == 2
    seen = capsys.readouterr()
    lines = [line for line in (seen.out + seen.err).splitlines() if "the only ones in the file" not in line]
    assert len(lines) == 1 and names in lines[0]
    assert not output.exists()


@pytest.mark.parametrize(
    ("factors", "names"), [("P43212.mtz", "a cell of 94.92 94.92 45.6 90 90 90"), ("P23.mtz", "space group P 2 3")]
)
def test_structure_factors_of_another_crystal_are_refused(folder, tmp_path, capsys, factors, names):
    """A fit would hide them: its intensities are free."""
    assert run(folder, tmp_path / "out", factors=factors) == 2
    seen = capsys.readouterr()
    assert names in seen.out and len(seen.out.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("factors", ["P1.mtz", "P222.mtz"])
def test_structure_factors_of_a_subgroup_are_taken_and_said(folder, factors):
    shot = read_shot(folder / "listed.expt", folder / "shot.refl", None, folder / factors)
    (note,) = (note for note in shot.notes if "structure factors" in note)
    assert note.endswith("the crystal is of P 43 21 2")
    same = read_shot(folder / "listed.expt", folder / "shot.refl", None, folder / "model.mtz")
    assert not any("structure factors are of" in note for note in same.notes)


def test_observations_have_the_symmetry_of_the_crystal(still, folder, tmp_path, capsys):
    """Whatever that of the structure factors is: whoever merges them goes by it."""
    truth, _ = still
    operations = gemmi.SpaceGroup(truth.factors.space_group).operations()
    known = zip(truth.factors.hkl.tolist(), truth.factors.amplitude.tolist(), strict=True)
    whole = {tuple(op.apply_to_hkl(h)): f for h, f in known for op in operations}
    half = [h for h in whole if h > (0, 0, 0)]
    amplitude = np.array([whole.get(h, whole.get(tuple(-i for i in h))) for h in half])
    given = replace(truth.factors, hkl=np.array(half, np.int32), amplitude=amplitude, space_group="P 1")
    write_mtz(tmp_path / "all.mtz", given)
    assert run(folder, tmp_path / "out", factors=tmp_path / "all.mtz") == 0
    assert "structure factors are of P 1, the crystal is of P 43 21 2" in capsys.readouterr().out
    for place in ("unmerged.mtz", "shot_00000/unmerged.mtz"):
        assert gemmi.read_mtz_file(str(tmp_path / "out" / place)).spacegroup.xhm() == "P 43 21 2"


def test_reflections_are_those_of_the_experiment_of_their_identifier(still, folder):
    """A list from which experiments were left out has other places; DIALS leaves the table as it is."""
    truth, exposure = still
    given = read_expts(folder / "listed.expt")[0]
    third = {**exposure.table.columns, "id": np.full(exposure.table.rows, 2, np.int32)}
    table = replace(exposure.table, columns=third, identifiers={0: "one", 2: "three"})
    shot = read_shot(replace(given, identifier="three"), table, exposure.counts, truth.factors)
    assert shot.numbers == {2: 0} and len(listed_spots(table, shot.numbers, None).spots) == table.rows
    with pytest.raises(InputError, match="some of the experiment two"):
        read_shot(replace(given, identifier="two"), table, exposure.counts, truth.factors)


def test_one_image_is_not_that_of_several_exposures(folder, tmp_path, capsys):
    words = ["--images", str(folder / "image_0001.img")]
    assert run(folder, tmp_path / "out", *words, experiments="two.expt") == 2
    seen = capsys.readouterr()
    assert not seen.out and "one for each of 2 exposures" in seen.err and len(seen.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing_are_said_before_any_shot(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "out", factors="nowhere.mtz") == 2
    seen = capsys.readouterr()
    assert not seen.out and "nowhere.mtz" in seen.err and len(seen.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_results_name_their_image_so_that_it_is_found_from_elsewhere(folder, tmp_path, monkeypatch, capsys):
    """By the list, by the template, or by --images; a run that cannot be takes what an earlier one left with it."""
    ways = {"listed.expt": [], "named.expt": [], "bare.expt": ["--images", str(folder / "image_0001.img")]}
    for name, words in ways.items():
        output = tmp_path / name
        assert run(folder, output, *words, experiments=name) == 0
        monkeypatch.chdir(tmp_path)
        for place in (output, output / "shot_00000"):
            (data,) = read_expts(place / "refined.expt")
            found, inside = image_of(data, tmp_path / "another", 0)
            assert found == folder / "image_0001.img" and inside == 0
            assert read_image(found).pixels.shape == (1500, 1500)
    output = tmp_path / "listed.expt"
    assert json.loads((output / "summary.json").read_text())[0]["status"] == "converged"
    assert run(folder, output, "--images", "nowhere.img") == 2
    assert not any(path.is_file() and path.suffix for path in output.rglob("*"))
    capsys.readouterr()


def test_an_image_of_another_size_is_no_image_of_the_detector(still):
    truth, exposure = still
    larger = np.zeros((1600, 1600), "u2")
    larger[:1500, :1500] = exposure.counts.clip(0, 65535)
    with pytest.raises(InputError, match="image: got \\(1600, 1600\\)"):
        refine_still(truth.experiments[0], exposure.table, larger, truth.factors)
    with pytest.raises(InputError, match="mask: got \\(10, 10\\)"):
        frame_of(exposure.counts, truth.experiments[0].detector, mask=np.ones((10, 10), bool))


def test_noise_of_patches_is_that_of_one_plane_after_the_other():
    generator = np.random.default_rng(3)
    counts = generator.poisson(5 + np.arange(120) / 20, (1, 100, 120)).astype("u2")
    counts[0, 40, 50:90] = 300
    frame = Frame(counts, generator.random(counts.shape) > 0.1, 0.0, 1.0, 0.0)
    found = []
    for slow, fast in ((s, f) for s in range(0, 100 - PATCH + 1, PATCH) for f in range(0, 120 - PATCH + 1, PATCH)):
        here = np.s_[0, slow : slow + PATCH, fast : fast + PATCH]
        y, x = np.nonzero(frame.good[here])
        values, design = counts[here][y, x].astype(float), np.column_stack([np.ones(len(y)), x, y])
        kept = np.ones(len(y), bool)
        for _ in range(CLIPS):
            left = values - design @ np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
            kept = np.abs(left) < CLIP * np.sqrt((left[kept] ** 2).mean())
        found.append((values[kept].mean(), (left[kept] ** 2).sum() / (kept.sum() - 3) / CLIPPED))
    mean, variance = np.median(found, axis=0)
    noise = noise_of_background(frame)
    assert noise.patches == len(found) > 40
    assert noise.mean == pytest.approx(mean, rel=1e-9)
    assert noise.variance == pytest.approx(mean - np.median(np.subtract(*np.transpose(found))), rel=1e-9)


def test_slopes_of_positions_are_their_differences(still):
    truth, exposure = still
    chosen = options_of({"free": ("tilt", "shift")})
    model = shot_model(truth.experiments, [truth.factors], 0, chosen)
    parameters = start_parameters(model, truth.experiments, chosen)
    spots = listed_spots(exposure.table, {0: 0}, None, "indexed").spots
    raw = parameters.pack()
    value, slopes = residuals_of_positions(model, parameters, spots, raw)
    assert len(parameters) > 10 and slopes.shape == (len(raw), *value.shape)
    for place, name in enumerate(parameters.names):
        step = torch.zeros_like(raw)
        step[place] = 1e-5
        above, below = (residuals_of_positions(model, parameters, spots, raw + s)[0] for s in (step, -step))
        torch.testing.assert_close(slopes[place], (above - below) / 2e-5, rtol=1e-5, atol=1e-4, msg=name)


def test_slopes_of_the_last_state_are_made_for_who_asks(still, monkeypatch):
    """The same steps to the same end, with one Jacobian less, and the same verdict where there was another."""
    truth, exposure = still
    fit = refine_still(
        truth.experiments[0], exposure.table, exposure.counts, truth.factors, boxes=30, shape="gauss_hkl",
        check_sampling=False, neighbours=False,
    ).fit  # fmt: skip
    problem, state = fit.problem, fit.problem.settle(replace(fit.state, rendered=fit.problem.render(fit.state.raw)))
    raw = state.raw + 3 * fit.projected.covariance().diagonal().sqrt()
    start = problem.start(raw, state.linear)
    counted, own = [], Problem.jacobian

    def noted(problem, state):
        counted.append(state)
        return own(problem, state)

    monkeypatch.setattr(Problem, "jacobian", noted)
    walk = downhill(Linearised(problem, start), most_steps=1)
    assert len(counted) == 1 and len(walk.history) == 1 and walk.status == "steps"
    whole = levenberg_marquardt(problem, start, most_steps=1)
    assert len(counted) == 3 and torch.equal(whole.state.raw, walk.state.raw)
    end = walk.solution()
    assert len(counted) == 4 and end.status == whole.status and torch.equal(end.jacobian, whole.jacobian)
    at_rest = levenberg_marquardt(problem, whole.state, most_steps=30)
    assert at_rest.status == "converged" and downhill(Linearised(problem, at_rest.state), most_steps=0).is_over


def test_the_collector_is_back_after_a_shot():
    assert gc.isenabled()
    with pytest.raises(ValueError), without_collecting():
        assert not gc.isenabled()
        raise ValueError
    assert gc.isenabled()


def test_positions_of_a_scan_are_those_that_dials_has(frame, tmp_path, capsys):
    """By hand: the third frame from 10 degrees on, of images that begin with number 7; no spot is on another frame."""
    truth, _ = frame
    scan = ScanData(image_range=(7, 10), oscillation_start_deg=10.0, oscillation_width_deg=0.1)
    write_expt(tmp_path / "scan.expt", replace(truth.experiments[0], scan=scan, identifier="mine"))
    words = ["predict", str(tmp_path / "scan.expt"), "-o", str(tmp_path / "p.refl"), "--d-min", "1.8", "--frame", "2"]
    assert main(words) == 0
    table = read_refl(tmp_path / "p.refl")
    z, turned = table.columns["xyzcal.px"][:, 2], np.degrees(table.columns["xyzcal.mm"][:, 2])
    assert table.identifiers == {0: "mine"} and table.rows > 20
    assert (table.columns["bbox"][:, 4:] == [8, 9]).all() and (np.floor(z) == 8).all()
    assert np.allclose(turned, 10.2 + 0.1 * (z - 8), atol=1e-6)
    assert len(set(z.tolist())) > 5, "spots cross the sphere at different times"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "words"),
    [("box", ["--box", "0"]), ("spread", ["--spread", "-1"]), ("frame", ["--frame", "5"]),
     ("N", ["--N", "0", "3", "3"]), ("d_min", ["--d-min", "-2"])],
)  # fmt: skip
def test_a_prediction_of_nonsense_is_refused(folder, tmp_path, capsys, name, words):
    given = ["predict", str(folder / "bare.expt"), "-o", str(tmp_path / "p.refl"), "--d-min", "2"]
    assert main([*given, *words]) == 2
    seen = capsys.readouterr()
    assert not seen.out and len(seen.err.splitlines()) == 1 and f"{name}: got {words[1]}" in seen.err.replace("[", "")
    assert not (tmp_path / "p.refl").exists()


def test_a_run_ends_with_a_table_of_verdicts():
    """Medians by hand."""
    good = [
        {"status": "converged", "sigma_z": z, "steps": n, "reflections": 50, "seconds_in_all": 2.0}
        for z, n in ((0.9, 5), (1.1, 7), (1.2, 12))
    ]
    lines = summary([*good, {"status": "input", "reason": "no image", "seconds_in_all": 0.5}])
    assert [line.split() for line in lines] == [
        ["verdict", "shots", "sigma-Z", "steps", "reflections", "seconds"],
        ["converged", "3", "1.100", "7", "50", "2.0"],
        ["not", "refined", "1", "0.5"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_files_that_are_read_are_never_written_over_nor_removed(folder, tmp_path, capsys):
    """DIALS calls its files as ours are called."""
    for old, new in (("listed.expt", "refined.expt"), ("shot.refl", "refined.refl"), ("model.mtz", "unmerged.mtz")):
        (tmp_path / new).write_bytes((folder / old).read_bytes())
    (tmp_path / "report.html").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for factors in ("unmerged.mtz", str(folder / "model.mtz")):
        words = [str(tmp_path / "refined.expt"), str(tmp_path / "refined.refl"), "-F", str(tmp_path / factors)]
        assert main(["refine", *words, "-o", str(tmp_path), "--images", "nowhere.img"]) == 2
        error = capsys.readouterr().err
        assert "-o: got" in error and "another folder: refined.expt" in error
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_page_of_somebody_else_stays(folder, tmp_path, capsys):
    """Where no shot could be read and no run was here before."""
    (tmp_path / "report.html").write_text("mine")
    assert run(folder, tmp_path, "--images", "nowhere.img") == 2
    capsys.readouterr()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_panels_without_a_place_of_their_own_are_no_parts_of_one_image(still):
    """All would have the first one's pixels; and an array on its side is not one of the detector."""
    panel = still[0].experiments[0].detector.panels[0]
    small = replace(panel, image_size=(6, 4), mask=None)
    detector = replace(still[0].experiments[0].detector, panels=(small, replace(small, name="b")), root=None)
    with pytest.raises(InputError, match="no place of its own"):
        frame_of(np.arange(48.0).reshape(8, 6), detector)
    with pytest.raises(InputError, match="shape of the detector"):
        frame_of(np.zeros((2, 6, 4)), detector)
    assert frame_of(np.zeros((2, 4, 6)), detector).counts.shape == (2, 4, 6)


@pytest.mark.parametrize("line", ["max_process=abc", "roi.shoebox_size=big", "skip=1\nfirst_n=many"])
def test_a_word_where_a_number_belongs_is_refused(tmp_path, capsys, line):
    (tmp_path / "hopper.phil").write_text(f"{line}\n")
    assert main(["refine", "--import-phil", str(tmp_path / "hopper.phil")]) == 2
    assert "accepted: a number" in capsys.readouterr().err


def test_what_is_left_to_say_is_not_called_done(tmp_path, capsys):
    text = 'title = "a { b # c"\ninit.detz_shift = 0.5\nroi.strong_only = True\nfix.Ndef = None\nmax_process = 3.0\n'
    (tmp_path / "hopper.phil").write_text(text)
    assert main(["refine", "--import-phil", str(tmp_path / "hopper.phil")]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    asked = rest.index("# say it yourself, if it is to be so:")
    assert first.endswith("--limit 3") and "--N" not in first
    assert {line.split()[1] for line in rest[asked + 1 : asked + 3]} == {"init.detz_shift", "roi.strong_only"}
    assert "#   title = a { b # c" in rest
