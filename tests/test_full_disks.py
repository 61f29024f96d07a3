"""A disk that is full, a limit of size, no permission, a closed pipe: one line, exit code 2, and no part of a file."""

from __future__ import annotations

import contextlib
import itertools
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fault_runs
from nanobrag_torch.errors import InputError
from nanobrag_torch.io import hdf5_frames
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.geometry import write_geometry
from nanobrag_torch.io.hkl import write_hkl_file
from nanobrag_torch.io.images import write_image
from nanobrag_torch.io.mtz import write_mtz
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.reflections import Reflections
from nanobrag_torch.records.tables import ReflectionData

PIXELS = np.random.default_rng(1).integers(0, 60000, fault_runs.SIZE[::-1], dtype=np.int32)


def reflections():
    """Enough of them for several blocks."""
    hkl = np.stack(np.meshgrid(*[np.arange(1, 9)] * 3, indexing="ij"), -1).reshape(-1, 3).astype(np.int32)
    return Reflections(hkl=hkl, amplitude=np.arange(1.0, 513), cell=(30, 40, 50, 90, 90, 90), space_group="P 1")


def table():
    """The same of spots."""
    columns = {"id": np.zeros(512, np.int32), "s1": np.random.default_rng(1).random((512, 3))}
    return ReflectionData(rows=512, identifiers={0: "a"}, columns=columns)


def grid(path):
    """A list of amplitudes of every index."""
    limits = {f"{axis}_{end}": value for axis in "hkl" for end, value in (("min", 0), ("max", 7))}
    write_hkl_file(path, np.random.default_rng(1).random((8, 8, 8)), limits)


IMAGES = ("a.img", "a.cbf", "a.npy", "a.png")
WRITERS = {
    **{name: (lambda path: write_image(path, PIXELS, fault_runs.SCAN, allow_loss=True)) for name in IMAGES},
    **{name: (lambda path: write_geometry(path, fault_runs.SCAN, allow_loss=True)) for name in ("a.geom",)},
    "a.expt": lambda path: write_expt(path, [fault_runs.SCAN]),
    "a.refl": lambda path: write_refl(path, table()),
    "a.nxs": lambda path: write_nxmx(path, np.stack([PIXELS] * fault_runs.FRAMES), fault_runs.SCAN),
    "a.mtz": lambda path: write_mtz(path, reflections()),
    "a.hkl": grid,
}


@contextlib.contextmanager
def largest_file(size):
    """Files of this process may not grow further; Python turns the signal into an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_at_any_point_leaves_the_file_that_was_there(name, tmp_path):
    """At the first byte, in the middle, at the last: of a library's own files too."""
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    for size in sorted({0, 1, 511, len(whole) // 3, len(whole) // 2, len(whole) - 1} - {len(whole)}):
        if size >= len(whole):
            continue
        with largest_file(size), pytest.raises(InputError) as caught:
            WRITERS[name](path)
        assert "\n" not in str(caught.value) and name in str(caught.value)
        assert path.read_bytes() == whole and [each.name for each in tmp_path.iterdir()] == [name], size


@pytest.mark.parametrize("call", [1, 2, 4, 7])
def test_an_interrupt_while_hdf5_writes_is_one(call, tmp_path, monkeypatch):
    """It comes when Python runs, which is in the library's own call; h5py would make a RuntimeError of it."""
    calls, write = itertools.count(1), hdf5_frames._write_all

    def interrupted(file, view):
        if next(calls) == call:
            raise KeyboardInterrupt
        write(file, view)

    monkeypatch.setattr(hdf5_frames, "_write_all", interrupted)
    with pytest.raises(KeyboardInterrupt), hdf5_frames.hdf5_output(tmp_path / "a.h5") as (file, _):
        for name in "abcd":
            file[name] = np.random.default_rng(1).random((100, 100))
            file.flush()
    assert next(calls) > call and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_is_none_is_one_line(name, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / name, tmp_path / "absent" / name, tmp_path / ("x" * 300 + Path(name).suffix)):
        with pytest.raises(InputError):
            WRITERS[name](path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("output", fault_runs.OUTPUTS)
def test_frames_that_are_whole_stay_where_a_series_can_go_on(output, tmp_path):
    """The disk is full after some frames, or when they are put together: one line, and --resume makes the others."""
    expected, folder = fault_runs.whole(tmp_path, output), tmp_path / "full"
    largest = max(map(len, expected.values())) - 1
    code, said = fault_runs.ended(fault_runs.start(folder, output, largest=largest))
    errors = [line for line in said.splitlines() if "error" in line]
    assert code == 2 and len(errors) == 1 and "file too large" in errors[0] and "Traceback" not in said, said
    assert all(content == expected[name] for name, content in fault_runs.images(folder).items())
    assert fault_runs.ended(fault_runs.start(folder, output, "--resume"))[0] == 0
    assert fault_runs.images(folder) == expected and fault_runs.hidden(folder) == []


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    code = "import sys; from nanobrag_torch.cli.nb.app import main; sys.exit(main(['--help'] * 1))"
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()
    _, said = run.communicate(timeout=600)
    assert b"Traceback" not in said and b"Exception" not in said
