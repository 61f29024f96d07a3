"""From files to files: what `nb refine` and `nb predict` read and leave behind, and how they go on and fail."""

import json
import os
import re
import struct
from dataclasses import replace

import gemmi
import h5py
import msgpack
import numpy as np
import pytest
import torch

import fault_runs
from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.errors import InputError
from nanobrag_torch.io import ownership
from nanobrag_torch.io.expt import read_expts
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.hdf5_links import linked_files
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.ownership import owned_folder
from nanobrag_torch.io.refl import read_refl
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import ExperimentData, ScanData, part_of_scan
from nanobrag_torch.records.tables import ReflectionData
from nanobrag_torch.refinement.inputs import image_of
from nanobrag_torch.refinement.kept import KEPT, read_kept
from nanobrag_torch.refinement.model import Sampling
from nanobrag_torch.refinement.shots import Run, Task, fingerprint
from nanobrag_torch.refinement.still import refine_still
from nanobrag_torch.refinement.synthetic import Start, errors, wrong_factors, wrong_start

QUICK = ["--shape", "gauss_hkl", "--boxes", "60"]
PEDESTAL = 40


@pytest.fixture(scope="module")
def files(still, tmp_path_factory):
    """A still as an SMV image with a pedestal, a table without more than DIALS' strong spots have, and an MTZ."""
    truth, exposure = still
    folder = tmp_path_factory.mktemp("shot")
    begin = wrong_start(truth, Start(), 3)[0]
    counts = np.rint(exposure.counts + PEDESTAL).clip(0, 65535).astype("u2")
    write_image(folder / "image_001.img", counts, truth.experiments[0])
    write_expt(folder / "shot.expt", replace(begin, image_template="image_001.img"))
    write_refl(folder / "shot.refl", exposure.table)
    write_mtz(folder / "model.mtz", wrong_factors(truth.factors, 0.15, 5))
    return folder


def by_index(table, name):
    """The rows of a column by the indices of their reflections."""
    return dict(zip(map(tuple, table.columns["miller_index"].tolist()), table.columns[name], strict=True))


def run(files, output, *more):
    words = [str(files / "shot.expt"), str(files / "shot.refl"), "-F", str(files / "model.mtz"), "-o", str(output)]
    return main(["refine", *words, *QUICK, *more])


@pytest.fixture(scope="module")
def refined(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    assert run(files, output) == 0
    return output


def test_how_finely_a_shot_is_summed_can_be_said(files, tmp_path, capsys):
    """What was said is taken, the rest as by default; a note says where that is too coarse."""
    assert run(files, tmp_path / "out", "--oversample", "2", "--domains", "12", "--no-figures") == 0
    kept = read_kept(tmp_path / "out" / "shot_00000" / KEPT)
    assert kept.sampling == Sampling(domains=12, oversample=2, phi_steps=10)
    record = json.loads((tmp_path / "out" / "shot_00000" / "parameters.json").read_text())
    assert any("summed more finely still" in note for note in record["notes"])
    capsys.readouterr()
    assert run(files, tmp_path / "none", "--phi-steps", "0") == 2
    assert "--phi-steps" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_files_out_hold_the_truth(still, refined):
    truth, _ = still
    (found,) = read_expts(refined / "shot_00000" / "refined.expt")
    off = errors(truth.experiments[0], found)
    assert off.rotation_deg < 0.002 and off.cell_percent < 0.02
    record = json.loads((refined / "shot_00000" / "parameters.json").read_text())
    assert record["status"] == "converged" and record["sigma_z"] < 1.05
    assert any("40 counts" in note for note in record["notes"])  # the pedestal that nobody mentioned
    for name in ("boxes.png", "fit.png"):
        assert (refined / "shot_00000" / name).read_bytes().startswith(b"\x89PNG")


def test_shoeboxes_stand_in_for_an_image(still, tmp_path):
    truth, exposure = still
    begin = wrong_start(truth, Start(), 3)[0]
    centre = exposure.table.columns["xyzobs.px.value"].astype(int)
    rows = []
    for fast, slow, _ in centre:
        low, left = max(slow - 6, 0), max(fast - 6, 0)
        data = exposure.counts[low : slow + 7, left : fast + 7].astype("<f4")
        box = (left, left + data.shape[1], low, low + data.shape[0], 0, 1)
        rows.append(struct.pack("<I6iB", 0, *box, 2) + data.tobytes() + b"\x05" * data.size + (0 * data).tobytes())
    write_refl(tmp_path / "a.refl", exposure.table)
    tree = msgpack.unpackb((tmp_path / "a.refl").read_bytes(), strict_map_key=False)
    tree[2]["data"]["shoebox"] = ["Shoebox<>", [len(rows), b"".join(rows)]]
    (tmp_path / "a.refl").write_bytes(msgpack.packb(tree))
    write_expt(tmp_path / "a.expt", begin)
    options = {"readout_noise": 0.7, "shape": "gauss_hkl", "boxes": 60, "check_sampling": False, "half_box": 6}
    result = refine_still(tmp_path / "a.expt", tmp_path / "a.refl", None, truth.factors, **options)
    off = errors(truth.experiments[0], result.experiment)
    assert result.status == "converged" and off.rotation_deg < 0.002
    assert any("shoeboxes" in note for note in result.notes)
    with pytest.raises(InputError, match="flag"):
        refine_still(tmp_path / "a.expt", tmp_path / "a.refl", None, truth.factors, flag="shiny")
    with pytest.raises(InputError, match="integrated"):
        refine_still(tmp_path / "a.expt", tmp_path / "a.refl", None, truth.factors, flag="integrated")


def test_the_folder_holds_the_pixels_and_the_path_of_the_fit(refined):
    folder = refined / "shot_00000"
    boxes = np.load(folder / "boxes.npz")
    z = (boxes["data"] - boxes["model"]) / np.sqrt(boxes["variance"])
    record = json.loads((folder / "parameters.json").read_text())
    assert z.std() == pytest.approx(record["sigma_z"], rel=1e-4)
    squares = np.bincount(boxes["box"], z**2) / np.bincount(boxes["box"])
    assert np.allclose(np.sqrt(squares), boxes["sigma_z"], rtol=1e-4)
    _, slow, fast = np.unravel_index(boxes["pixel"], boxes["image_shape"])
    corners = boxes["corners"][boxes["box"]]
    assert ((corners[:, 0] <= fast) & (fast < corners[:, 1]) & (corners[:, 2] <= slow) & (slow < corners[:, 3])).all()
    losses = [step["objective"] for step in record["history"]]
    assert len(losses) == record["steps"] and record["history"][-1]["sigma_z"] < record["history"][0]["sigma_z"]


def test_the_page_says_that_the_fit_is_good(refined):
    page = (refined / "report.html").read_text()
    assert "Good: the fit converged" in page and "Mean spot" in page and len(page) < 8e6


def test_the_table_has_what_dials_asks_for(refined):
    table = read_refl(refined / "refined.refl")
    assert table.rows > 40 and (table.columns["intensity.prf.variance"] > 0).all()
    assert {"xyzcal.px", "xyzcal.mm", "s1", "d", "partiality", "background.mean", "delpsical.rad"} <= set(table.columns)
    off = table.columns["xyzcal.px"][:, :2] - table.columns["xyzobs.px.value"][:, :2]
    assert np.abs(np.median(off, axis=0)).max() < 0.2
    s1 = np.linalg.norm(table.columns["s1"], axis=1)
    assert np.allclose(s1, 1 / 0.9795, rtol=1e-6)


def test_the_unmerged_file_has_an_observation_a_row(refined):
    mtz = gemmi.read_mtz_file(str(refined / "unmerged.mtz"))
    assert mtz.column_labels()[:7] == ["H", "K", "L", "M/ISYM", "BATCH", "I", "SIGI"]
    assert {"PARTIAL", "FRACTIONCALC", "XDET", "YDET", "EwaldOffset"} <= set(mtz.column_labels())
    assert [dataset.wavelength for dataset in mtz.datasets] == pytest.approx([0.9795, 0.9795], rel=1e-6)
    assert len(mtz.batches) == 1 and mtz.nreflections == read_refl(refined / "refined.refl").rows
    mtz.switch_to_original_hkl()
    table = read_refl(refined / "refined.refl")
    ours = {
        tuple(h): i for h, i in zip(table.columns["miller_index"].tolist(), table.columns["nb.intensity"], strict=True)
    }
    theirs = {tuple(map(int, row[:3])): row[5] for row in mtz.array}
    assert set(ours) == set(theirs)
    assert all(theirs[h] == pytest.approx(i, rel=1e-5) for h, i in ours.items())


def test_offsets_from_the_sphere_are_lengths(refined):
    """|q + s0| - |s0| of the refined crystal, as careless takes it from other files: no angles times anything."""
    mtz = gemmi.read_mtz_file(str(refined / "unmerged.mtz"))
    mtz.switch_to_original_hkl()
    (data,) = read_expts(refined / "refined.expt")
    incident = -data.beam.direction / data.beam.wavelength_A
    q = mtz.make_miller_array() @ np.linalg.inv(data.crystal.real_space).T
    outside = np.linalg.norm(q + incident, axis=1) - 1 / data.beam.wavelength_A
    found = mtz.column_with_label("EwaldOffset").array
    assert np.abs(outside).max() > 1e-4 and found == pytest.approx(outside, abs=2e-7)


def test_what_is_done_is_kept(files, refined, capsys):
    before = (refined / "shot_00000" / "parameters.json").stat().st_mtime_ns
    assert run(files, refined, "--resume") == 0
    assert (refined / "shot_00000" / "parameters.json").stat().st_mtime_ns == before
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--free", "colour"], "rotation, cell"),
        (["--prior", "cell=-1%"], "above 0"),
        (["--prior", "cell"], "name=value"),
        (["--frames", "x"], "numbers and ranges"),
        (["--mask", "mask.pkl"], "pickle"),
        (["--shape", "cube"], "gauss_hkl"),
        (["--images", "nowhere.img"], "nowhere.img"),
    ],
)
def test_bad_words_end_with_a_line(files, tmp_path, capsys, words, says):
    assert run(files, tmp_path / "none", *words) == 2
    seen = capsys.readouterr()
    assert says in seen.err + seen.out and "Traceback" not in seen.err


def test_missing_files_are_named(files, tmp_path, capsys):
    assert main(["refine", str(files / "shot.expt"), "-o", str(tmp_path)]) == 2
    assert "reflections" in capsys.readouterr().err


def test_a_wrong_indexing_ends_with_code_4(files, tmp_path, capsys):
    table = read_refl(files / "shot.refl")
    columns = {**table.columns, "miller_index": table.columns["miller_index"] + np.array([1, 0, 0], np.int32)}
    write_refl(tmp_path / "wrong.refl", replace(table, columns=columns))
    words = [str(files / "shot.expt"), str(tmp_path / "wrong.refl"), "-F", str(files / "model.mtz")]
    assert main(["refine", *words, "-o", str(tmp_path / "out"), *QUICK]) == 4
    assert re.search(r"shot_00000: failed \(centroids", capsys.readouterr().out)
    assert not (tmp_path / "out" / "refined.expt").exists()


def test_a_shot_whose_arithmetic_breaks_down_is_named(files, tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        torch.linalg.cholesky(torch.zeros((2, 2)))

    monkeypatch.setattr("nanobrag_torch.refinement.still.refine_still", broken)
    assert run(files, tmp_path / "out") == 2
    said = capsys.readouterr().out
    assert "not refined: the fit broke down: _LinAlgError: linalg.cholesky: The factor" in said


def test_predicted_spots_are_where_the_image_has_them(still, files, tmp_path, capsys):
    truth, exposure = still
    write_expt(tmp_path / "true.expt", truth.experiments[0])
    output = tmp_path / "predicted.refl"
    words = ["--d-min", "1.9", "--N", "42", "42", "55", "--spread", "0.05"]
    assert main(["predict", str(tmp_path / "true.expt"), "-o", str(output), *words]) == 0
    table = read_refl(output)
    predicted = {
        tuple(h): xyz for h, xyz in zip(table.columns["miller_index"].tolist(), table.columns["xyzcal.px"], strict=True)
    }
    seen = exposure.table
    missing = 0
    for h, xyz in zip(seen.columns["miller_index"].tolist(), seen.columns["xyzobs.px.value"], strict=True):
        missing += tuple(h) not in predicted
        assert tuple(h) not in predicted or np.abs(predicted[tuple(h)][:2] - xyz[:2]).max() < 3
    assert missing == 0
    capsys.readouterr()


def test_tables_are_written_as_they_are_read(tmp_path):
    generator = np.random.default_rng(1)
    columns: dict[str, np.ndarray] = {
        "miller_index": generator.integers(-9, 9, (5, 3)).astype(np.int32),
        "flags": generator.integers(0, 9, 5).astype(np.uint64),
        "id": np.arange(5, dtype=np.int32),
        "bbox": generator.integers(0, 99, (5, 6)).astype(np.int32),
        "s1": generator.normal(size=(5, 3)),
        "d": generator.normal(size=5),
        "entering": generator.random(5) > 0.5,
    }
    write_refl(tmp_path / "t.refl", ReflectionData(rows=5, identifiers={0: "a"}, columns=columns))
    found = read_refl(tmp_path / "t.refl")
    assert found.identifiers == {0: "a"} and found.skipped == ()
    for name, values in columns.items():
        assert np.array_equal(found.columns[name], values) and found.columns[name].dtype == values.dtype


PHIL = """
# a comment
roi { shoebox_size = 12
  trusted_range = 0 60000
}
init.Nabc = [20,30,40]
fix { ucell = True  # held
  detz_shift = False
  Fhkl = False
}
ucell_edge_perc = 10
refiner.sigma_r = 3
refiner.adu_per_photon = 8
simulator.oversample = 2
use_diffuse_models = True
"""


def test_a_phil_file_becomes_a_command(tmp_path, capsys):
    (tmp_path / "hopper.phil").write_text(PHIL)
    assert main(["refine", "--import-phil", str(tmp_path / "hopper.phil")]) == 0
    command, *rest = capsys.readouterr().out.splitlines()
    for words in (
        "--box 6",
        "--trusted 0 60000",
        "--start=N_b=30",
        "--fix=cell",
        "--prior=cell=10%",
        "--readout-noise 0.375",  # of the counts of their noise; ours are photons
        "--gain 8",
    ):
        assert words in command
    said = "#   simulator.oversample = 2: samples are raised until they change nothing; --oversample says how many"
    assert said in rest
    assert rest[rest.index("# no equivalent:") + 1] == "#   use_diffuse_models = True"


def test_the_command_of_a_phil_file_is_understood(files, tmp_path, capsys):
    (tmp_path / "hopper.phil").write_text(
        "fix.spec=True\nucell_edge_perc=1\nroi.shoebox_size=14\ninit.eta_abc=[0.1,0.1,0.1]"
    )
    assert main(["refine", "--import-phil", str(tmp_path / "hopper.phil")]) == 0
    words = capsys.readouterr().out.splitlines()[0].split()[4:]
    assert run(files, tmp_path / "out", *words) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("text", "words", "lost"),
    [
        ("init.Ndef=[0,0,0]\nfix.Ndef=True\nmax_process=-1", [], []),
        ("init.Ndef=[1,0,0]\nfix.Ndef=True", [], ["init.Ndef = [1,0,0]"]),
        (
            "fix.Ndef=False\nsimulator.crystal.has_isotropic_ncells=False\ninit.Ndef=[.5,-2e-1,0]",
            ["--N", "6", "--start=N_ab=.5", "--start=N_bc=-2e-1", "--start=N_ac=0"],
            [],
        ),
        ("simulator.crystal.has_isotropic_ncells=True\nfirst_n=3", ["--limit", "3", "--N", "1"], []),
        ("roi.centroid=obs\ngen_gauss_spec=True", [], []),
        (
            "fix\n  .help = what stays\n{\n  ucell = True\n    .type = bool\n  B = False; G = True\n}",
            ["--fix=cell", "--free=B", "--fix=scale"],
            [],
        ),
        ("simulator.structure_factors.mtz_column='F(+),SIGF(+),F(-),SIGF(-)'", ["--column", "'F(+)'"], []),
        ("max_process = 2; tag='a;b'", ["--limit", "2"], ["tag = a;b"]),
        ("global_method=basinhopping", [], ["global_method = basinhopping"]),
    ],
)
def test_numbers_of_cells_of_a_phil_file_are_those_that_go_together(tmp_path, capsys, text, words, lost):
    """Products that are held at nothing need no word, and those that are free are not taken back by another."""
    (tmp_path / "h.phil").write_text(text)
    assert main(["refine", "--import-phil", str(tmp_path / "h.phil")]) == 0
    command, *rest = capsys.readouterr().out.splitlines()
    assert command.split()[4:] == words
    none = rest.index("# no equivalent:") if "# no equivalent:" in rest else len(rest)
    assert [line.removeprefix("#   ") for line in rest[none + 1 :]] == lost


@pytest.mark.parametrize("text", [b"a {\n b = 1", b"}", b"words and no value", b"MTZ \x00\xff\x94", b""])
def test_a_file_that_is_no_phil_file_is_refused(tmp_path, capsys, text):
    (tmp_path / "h.phil").write_bytes(text)
    assert main(["refine", "--import-phil", str(tmp_path / "h.phil")]) == 2
    seen = capsys.readouterr()
    assert not seen.out and len(seen.err.splitlines()) == 1 and "h.phil" in seen.err


def test_the_image_of_a_frame_is_where_its_list_says(tmp_path):
    """In a file of several images: its own index, else that of its number, whatever the experiment's first is."""
    scan = ScanData(image_range=(5, 8), oscillation_start_deg=0.0, oscillation_width_deg=0.5)
    (tmp_path / "all.nxs").touch()
    (tmp_path / "one_0006.cbf").touch()
    numbered = ExperimentData(scan=scan, image_template="all.nxs")
    listed = replace(numbered, image_numbers=(0, 1, 2, 3))
    assert image_of(numbered, tmp_path, 1) == (tmp_path / "all.nxs", 5)
    assert image_of(listed, tmp_path, 1) == (tmp_path / "all.nxs", 1)
    assert image_of(part_of_scan(listed, 2, 2), tmp_path, 1) == (tmp_path / "all.nxs", 3)
    assert image_of(replace(numbered, image_template="one_####.cbf"), tmp_path, 1) == (tmp_path / "one_0006.cbf", 0)


def contents(folder):
    """Of every file, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_another_job_writes_is_left_alone(files, refined, capsys):
    before = contents(refined)
    with fault_runs.owner(refined, "another", "60") as other:
        assert run(files, refined) == 2
        other.kill()
    said = capsys.readouterr().err
    assert "no other run is writing" in said and len(said.splitlines()) == 1
    assert contents(refined).items() >= before.items()


def test_the_same_job_waits_and_reads_what_the_other_has_finished(files, refined, monkeypatch, capsys):
    jobs = []

    def noted(folder, job):
        jobs.append(job)
        return owned_folder(folder, job)

    monkeypatch.setattr(ownership, "owned_folder", noted)
    assert run(files, refined, "--resume") == 0
    before, path = contents(refined), refined / "shot_00000" / "parameters.json"
    written = path.stat().st_mtime_ns
    with fault_runs.owner(refined, jobs[0], "1"):
        assert run(files, refined) == 0
    assert jobs[0] == jobs[1] and path.stat().st_mtime_ns == written
    assert contents(refined)["refined.expt"] == before["refined.expt"] and ".lock" not in contents(refined)
    assert "waiting for it" in capsys.readouterr().err


def test_a_result_is_of_the_contents_of_all_files(tmp_path):
    """Size and time of a file do not tell what is in it."""
    names = ("a.expt", "a.refl", "a.mtz", "a.img", "a.lam", "a.npy")
    for name in names:
        (tmp_path / name).write_bytes(b"before")
    expt, refl, mtz, image, spectrum, mask = (str(tmp_path / name) for name in names)
    options = {"spectrum": spectrum, "mask": mask, "boxes": 30}
    asked = Run(experiments=expt, reflections=refl, structure_factors=mtz, folder="out", options=options)
    tasks = [Task(name="s", shot=0, frame=0, image=image, folder="out/s"),
             Task(name="s", shot=0, frame=0, image=None, folder="out/s", named=image)]  # fmt: skip
    for task in tasks:
        marks = [fingerprint(asked, task), fingerprint(replace(asked, options={**options, "boxes": 31}), task)]
        for name in names:
            state = (tmp_path / name).stat()
            (tmp_path / name).write_bytes(b"after!")
            os.utime(tmp_path / name, ns=(state.st_atime_ns, state.st_mtime_ns))
            marks.append(fingerprint(asked, task))
        assert len(set(marks)) == 2 + len(names)
        for name in names:
            (tmp_path / name).write_bytes(b"before")
        assert fingerprint(asked, task) == marks[0]


def test_a_result_is_of_the_files_that_an_image_takes_its_data_from(tmp_path):
    """A master has links alone; what another series leaves in the file that they name is another image."""
    data, master = tmp_path / "data_1.h5", tmp_path / "master.nxs"
    with h5py.File(master, "w") as file:
        file["data"] = h5py.ExternalLink(data.name, "x")
        file["absent"] = h5py.ExternalLink("data_2.h5", "x")
    for name in ("a.expt", "a.refl"):
        (tmp_path / name).write_text(name)
    run = Run(
        experiments=str(tmp_path / "a.expt"), reflections=str(tmp_path / "a.refl"), structure_factors=None, folder="out"
    )
    task, marks = Task(name="s", shot=0, frame=0, image=str(master), folder="out/s"), []
    for value in (1, 2, 1):
        with h5py.File(data, "w") as file:
            file["x"] = np.full((2, 8, 8), value)
        marks.append(fingerprint(run, task))
    assert marks[0] == marks[2] != marks[1]
    assert linked_files(master) == [str(data)] and linked_files(data) == linked_files(tmp_path / "a.expt") == []
    (tmp_path / "cut.h5").write_bytes(master.read_bytes()[:100])
    assert linked_files(tmp_path / "cut.h5") == []
