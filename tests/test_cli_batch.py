"""`nanoBragg -batch FILE`: many command lines in one process give what a process each would have given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main, structure

SCENE = "-cell 60 75 90 90 90 90 -N 3 -detpixels 16 -pixel 1 -oversample 1"
LINES = """\
# three runs, and what surrounds them

-misset 10 0 0 {out1}
nanoBragg -misset 20 0 0 -default_F 70 {out2}   # a comment at the end
  './nanoBragg' -misset 30 0 0 {out3}
"""


def outputs(number: int) -> str:
    return f"-floatfile f{number}.bin -intfile i{number}.img -pgmfile p{number}.pgm -noisefile n{number}.img"


def write(folder: Path, text: str = LINES) -> Path:
    path = folder / "runs" / "runs.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.format(out1=outputs(1), out2=outputs(2), out3=outputs(3)))
    return path


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The current folder is not that of the batch."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def batch(path: Path, *words: str) -> int:
    shared = f"{SCENE} -default_F 50 -seed 5 -noprogress".split()
    return main(["-batch", str(path), *shared, *words])


def test_every_line_gives_the_files_of_a_run_of_its_own(elsewhere, capsys, monkeypatch):
    path = write(elsewhere)
    assert batch(path) == 0
    out = capsys.readouterr().out
    assert "3 command lines of runs.txt: 3 rendered; " in out and " ms each" in out
    assert not list((elsewhere / "elsewhere").iterdir())
    (elsewhere / "alone").mkdir()
    monkeypatch.chdir(elsewhere / "alone")
    for number, own in ((1, "-misset 10 0 0"), (2, "-misset 20 0 0 -default_F 70"), (3, "-misset 30 0 0")):
        words = f"{SCENE} -default_F 50 -seed 5 -noprogress {own} {outputs(number)}"
        assert main(words.split()) == 0
        printed = capsys.readouterr().out
        for name in (f"f{number}.bin", f"i{number}.img", f"p{number}.pgm", f"n{number}.img"):
            assert (path.parent / name).read_bytes() == Path(name).read_bytes(), name
        kept = (path.parent / "runs.txt.log").read_text()
        assert all(line in kept for line in printed.splitlines() if not line.startswith("rendered"))


def test_the_last_flag_of_a_line_wins_over_those_of_all(elsewhere):
    path = write(elsewhere)
    batch(path)
    images = [np.fromfile(path.parent / f"f{n}.bin", np.float32) for n in (1, 2)]
    assert not np.allclose(images[0].max() / images[1].max(), 1.0)


def test_errors_are_by_line_and_the_rest_goes_on(elsewhere, capsys):
    text = LINES + "-lambda -3 -floatfile bad.bin\n-floatfile 'open\n-misset 1 2 3 {out1}\n-batch x\n"
    path = write(elsewhere, text)
    assert batch(path) == 2
    out, err = capsys.readouterr()
    assert "nanoBragg: line 6: error: -lambda: got -3.0; accepted: a number above 0" in err
    assert "nanoBragg: line 7: error: line: got" in err and "no closing quotation" in err
    assert "line 8: error: -floatfile: got 'f1.bin'; accepted: a file of its own, not that of line 3" in err
    assert "line 9: error: -batch: got 'within a batch'" in err
    assert "7 command lines of runs.txt: 3 rendered, 4 failed (line 6, 7, 8, 9)" in out
    assert not (path.parent / "bad.bin").exists() and (path.parent / "f3.bin").exists()


def test_resuming_does_again_what_is_not_there_whole_or_made_of_something_else(elsewhere, capsys, monkeypatch):
    path = write(elsewhere)
    assert batch(path) == 0
    before = {p.name: p.stat().st_ino for p in path.parent.glob("[fipn]*.*")}

    def done() -> tuple[str, set[str]]:
        capsys.readouterr()
        assert batch(path, "-resume") == 0
        now = {p.name: p.stat().st_ino for p in path.parent.glob("[fipn]*.*")}
        changed = {name for name in now if now[name] != before.get(name)}
        before.update(now)
        return capsys.readouterr().out, changed

    out, changed = done()
    assert "0 rendered, 3 finished before" in out and not changed
    (path.parent / "p1.pgm").unlink()
    (path.parent / "i3.img").write_bytes(b"x" * (path.parent / "i3.img").stat().st_size)  # as large, but not the same
    out, changed = done()
    assert "2 rendered, 1 finished before" in out
    assert changed == {name for n in (1, 3) for name in (f"f{n}.bin", f"i{n}.img", f"p{n}.pgm", f"n{n}.img")}
    path.write_text(path.read_text().replace("-misset 20 0 0", "-misset 21 0 0"))
    assert "1 rendered, 2 finished before" in done()[0]
    with (path.parent / ".runs.txt.batch").open("a") as journal:
        journal.write('{"made_of": "half a li')
    assert "0 rendered, 3 finished before" in done()[0]
    assert batch(path) == 0 and "3 rendered;" in capsys.readouterr().out


def test_a_file_that_is_read_counts_by_its_content(elsewhere, capsys):
    path = write(elsewhere)
    (path.parent / "a.hkl").write_text("1 1 1 100\n2 0 0 50\n")
    assert batch(path, "-hkl", "a.hkl") == 0
    assert batch(path, "-hkl", "a.hkl", "-resume") == 0
    assert "0 rendered, 3 finished before" in capsys.readouterr().out
    (path.parent / "a.hkl").write_text("1 1 1 100\n2 0 0 51\n")
    assert batch(path, "-hkl", "a.hkl", "-resume") == 0
    assert "3 rendered, 0 finished before" in capsys.readouterr().out


def test_structure_factors_are_read_once_and_again_when_they_change(elsewhere, monkeypatch):
    from nanobrag_torch.io import hkl

    read: list[str] = []
    whole = hkl.read_hkl_arrays

    def counting(path: str, *more: float, **options: bool) -> hkl.HklTable:
        read.append(str(path))
        return whole(path, *more, **options)

    monkeypatch.setattr(hkl, "read_hkl_arrays", counting)
    path = write(elsewhere)
    (path.parent / "a.hkl").write_text("1 1 1 100\n2 0 0 50\n")
    assert batch(path, "-hkl", "a.hkl") == 0 and read == ["a.hkl"] * 2  # one table for each -default_F
    assert structure._KEPT.get() is None
    with structure.tables_kept():
        structure._table(str(path.parent / "a.hkl"), 0.0, False)
        (path.parent / "a.hkl").write_text("1 1 1 100\n2 0 0 50\n3 0 0 5\n")
        assert structure._table(str(path.parent / "a.hkl"), 0.0, False).count == 3


def test_runs_without_a_seed_do_not_share_their_noise(elsewhere):
    path = write(elsewhere, "-misset 1 2 3 {out1}\n-misset 1 2 3 {out2}\n")
    assert main(["-batch", str(path), *f"{SCENE} -default_F 50 -fluence 1e28 -noprogress".split()]) == 0
    first, second, noise, other = (
        (path.parent / name).read_bytes() for name in ("f1.bin", "f2.bin", "n1.img", "n2.img")
    )
    assert first == second and noise != other


def test_a_warning_is_said_once_and_counted(elsewhere, capsys):
    path = write(elsewhere)
    assert batch(path, "-molecular_weight", "1000") == 0
    out, err = capsys.readouterr()
    assert err.count("molecular weight does not enter") == 1 and "nanoBragg: line 3: warning: " in err
    assert "as line 3, 2 more: nanoBragg: warning: " in out


@pytest.mark.parametrize(("text", "reason"), [
    ("# nothing\n\n", "a file with a command line a line"), ("", "the file is empty"), (None, "no such file"),
])  # fmt: skip
def test_a_file_without_a_line_is_refused(elsewhere, capsys, text, reason):
    path = elsewhere / "runs.txt"
    if text is not None:
        path.write_text(text)
    assert main(["-batch", str(path)]) == 2
    assert "error: -batch: got" in (err := capsys.readouterr().err) and reason in err


def test_bytes_that_are_no_text_are_refused(elsewhere, capsys):
    (elsewhere / "runs.txt").write_bytes(b"-misset \xff\n")
    assert main(["-batch", str(elsewhere / "runs.txt")]) == 2
    assert "a text file in UTF-8 (byte 8 is none)" in capsys.readouterr().err


def test_resume_alone_is_refused(elsewhere, capsys):
    assert main([*SCENE.split(), "-default_F", "1", "-resume"]) == 2
    assert "-resume: got 'no -batch'; accepted: -batch FILE beside it" in capsys.readouterr().err


def test_the_files_of_the_batch_itself_are_no_outputs(elsewhere, capsys):
    path = write(elsewhere, "-floatfile runs.txt -nopgm -nonoise\n-floatfile runs.txt.log -nopgm -nonoise\n")
    before = path.read_text()
    assert batch(path) == 2
    err = capsys.readouterr().err
    assert "not that of the batch's own runs.txt\n" in err and "not that of the batch's own runs.txt.log\n" in err
    assert path.read_text() == before


def test_an_interrupt_ends_the_batch_and_resuming_goes_on(elsewhere, capsys, monkeypatch):
    from nanobrag_torch.cli.nanobragg import outputs as writing

    path, whole, calls = write(elsewhere), writing.write_results, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(writing, "write_results", interrupted)
    assert batch(path) == 130
    out, err = capsys.readouterr()
    assert "line 4: interrupted" in err and "1 rendered, interrupted at line 4 (-resume goes on there)" in out
    assert not (path.parent / "f2.bin").exists() and not (path.parent / "f3.bin").exists()
    assert batch(path, "-resume") == 0
    assert "2 rendered, 1 finished before" in capsys.readouterr().out


def test_devices_take_any_number_of_outputs(elsewhere, capsys):
    null = "-floatfile /dev/null -intfile /dev/null -nopgm -nonoise"
    path = write(elsewhere, f"-misset 1 0 0 {null}\n-misset 2 0 0 {null}\n")
    assert batch(path) == 0
    entries = [json.loads(line) for line in (path.parent / ".runs.txt.batch").read_text().split("\n") if line]
    assert [entry["files"] for entry in entries] == [{}, {}]
    capsys.readouterr()
    assert batch(path, "-resume") == 0
    assert "2 rendered, 0 finished before" in capsys.readouterr().out


def test_progress_counts_lines(elsewhere, capsys):
    path = write(elsewhere)
    assert main(["-batch", str(path), *SCENE.split(), "-default_F", "5"]) == 0
    assert "100% done" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_rendered(elsewhere, capsys):
    path = write(elsewhere)
    (path.parent / ".runs.txt.batch").mkdir()
    assert batch(path) == 2
    assert ".runs.txt.batch" in capsys.readouterr().err and not (path.parent / "f1.bin").exists()
    shutil.rmtree(path.parent / ".runs.txt.batch")
