"""Files that crashed, hung or confused a reader: each is one line that names the file, exit code 2, and no output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main as nanobragg
from nanobrag_torch.cli.nb.app import main as nb
from nanobrag_torch.errors import LONGEST, InputError
from nanobrag_torch.io import apart as apart_module
from nanobrag_torch.io.apart import apart
from nanobrag_torch.io.formats import find_format, reads_amplitudes

FAULTS = Path(__file__).parent / "data" / "faults"
SHOWN = sorted(path for path in FAULTS.iterdir() if path.suffix not in (".hkl", ".pdb"))


def one_line(text: str) -> str:
    """The last line, which must be the only error."""
    errors = [line for line in text.splitlines() if ": error: " in line]
    assert len(errors) == 1 and "Traceback" not in text
    assert len(errors[0]) < 300
    return errors[0]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_a_damaged_file_is_one_line(path, capfd):
    assert nb(["show", str(path)]) == 2
    assert path.name in one_line(capfd.readouterr().err)


@pytest.mark.parametrize("path", sorted(FAULTS.glob("*.hkl")), ids=lambda path: path.name)
def test_a_damaged_list_of_amplitudes_is_one_line(path, capfd, tmp_path):
    image = tmp_path / "image.bin"
    words = f"-hkl {path} -cell 78 78 38 90 90 90 -N 3 -lambda 1 -distance 100 -detpixels 16 -floatfile {image}"
    assert nanobragg(words.split()) == 2
    assert path.name in one_line(capfd.readouterr().err)
    assert not image.exists()


def test_atoms_without_a_place_give_no_amplitude_that_is_no_number(tmp_path):
    [path] = FAULTS.glob("*.pdb")
    made = tmp_path / "made.mtz"
    if nb(["fcalc", str(path), "--dmin", "6", "-o", str(made)]) == 0:
        read = find_format(made, reads_amplitudes).read_reflections
        assert read is not None
        assert np.isfinite(read(made, _choice()).amplitude).all()
    else:
        assert not made.exists()


def _choice():
    from nanobrag_torch.io.fileformat import Choice

    return Choice()


def crash():
    """What a library does on a damaged file, for the child."""
    os.kill(os.getpid(), signal.SIGSEGV)


def loop():
    """The same, without end."""
    while True:
        np.zeros(10).sum()


def swallow():
    """The same, with all the memory there is."""
    return np.ones(2**33, np.uint8).sum()


def place():
    """Where the child is."""
    return os.getpid(), Path.cwd()


@pytest.fixture
def here(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    apart_module.end_children()  # the next one knows where this file is
    yield
    apart_module.end_children()


@pytest.mark.parametrize(("name", "words"), [("crash", "crashed"), ("loop", "does not end"), ("swallow", "needs more")])
def test_a_child_that_crashes_loops_or_swallows_memory_is_an_error_of_the_file(here, name, words):
    began = time.process_time()
    with pytest.raises(InputError, match=f"some.nxs.*{words}"):
        apart("some.nxs", "a sound file", f"test_damaged_files:{name}")
    assert time.process_time() - began < 2


def test_the_child_is_kept_and_follows_the_folder(here, tmp_path, monkeypatch):
    first, _ = apart("a", "b", "test_damaged_files:place")
    monkeypatch.chdir(tmp_path)
    again, folder = apart("a", "b", "test_damaged_files:place")
    assert again == first != os.getpid() and folder == tmp_path
    (child,) = apart_module._CHILD
    os.kill(first, signal.SIGKILL)
    child.wait()  # one that ends between two calls says nothing of the file of the next
    assert apart("a", "b", "test_damaged_files:place")[0] != first
    assert child.stdin is not None and child.stdin.closed and child.stdout is not None and child.stdout.closed


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ('"wavelength": 0.9795', '"wavelength": 1e9', "wavelength_A"),
        ('"polarization_fraction": 0.999', '"polarization_fraction": 7', "polarization_fraction"),
        ('"pixel_size": [0.1, 0.1]', '"pixel_size": [1e9, 1e9]', "pixel_size_mm"),
        ('"image_size": [40, 30]', '"image_size": [600000, 600000]', "image_size"),
        ('"real_space_a": [50, 0, 0]', '"real_space_a": [1e8, 0, 0]', "cell edge a"),
        ('"slow_axis": [0, -1, 0]', '"slow_axis": [0.5, -1, 0]', "right angles"),
        ('"thickness": 0.3', '"thickness": -1', "thickness_mm"),
        ('"gain": 1.5', '"gain": -2', "gain"),
        ('"trusted_range": [0, 100]', '"trusted_range": [100, 0]', "trusted_range"),
    ],
)
def test_numbers_that_no_experiment_has_are_refused_by_name(field, value, named, tmp_path, capfd):
    assert field in EXPERIMENT
    path = tmp_path / "x.expt"
    path.write_text(EXPERIMENT)
    assert nb(["show", str(path)]) == 0
    capfd.readouterr()
    path.write_text(EXPERIMENT.replace(field, value))
    assert nb(["show", str(path)]) == 2
    assert named in one_line(capfd.readouterr().err)


EXPERIMENT = """{"__id__": "ExperimentList",
"experiment": [{"__id__": "Experiment", "beam": 0, "detector": 0, "crystal": 0}],
"beam": [{"__id__": "monochromatic", "direction": [0, 0, 1], "wavelength": 0.9795,
 "polarization_normal": [0, 1, 0], "polarization_fraction": 0.999}],
"detector": [{"panels": [{"name": "p", "type": "", "fast_axis": [1, 0, 0], "slow_axis": [0, -1, 0],
 "origin": [-2, 1.5, -100], "pixel_size": [0.1, 0.1], "image_size": [40, 30], "trusted_range": [0, 100],
 "thickness": 0.3, "material": "Si", "mu": 3.9, "gain": 1.5, "pedestal": 0, "mask": [],
 "raw_image_offset": [0, 0]}], "hierarchy": {"name": "", "type": "", "fast_axis": [1, 0, 0],
 "slow_axis": [0, 1, 0], "origin": [0, 0, 0], "raw_image_offset": [0, 0], "image_size": [0, 0],
 "pixel_size": [0, 0], "trusted_range": [0, 0], "thickness": 0, "material": "", "mu": 0, "mask": [],
 "gain": 1, "pedestal": 0, "children": [{"panel": 0}]}}],
"goniometer": [], "scan": [],
"crystal": [{"__id__": "crystal", "real_space_a": [50, 0, 0], "real_space_b": [0, 60, 0],
 "real_space_c": [0, 0, 70], "space_group_hall_symbol": " P 1"}],
"profile": [], "scaling_model": [], "imageset": []}
"""


def test_errors_stay_short_whatever_a_file_contains():
    for name, value, accepted in (
        ("a", "x" * 10**6, "y"),
        ("n" * 4000, 10**5000, "z" * 9999),
        ("a", "b\n\tc" * 500, "d"),
    ):
        text = str(InputError(name, value, accepted))
        assert len(text) <= LONGEST and "\n" not in text


SLOW = "-cell 78 78 38 90 90 90 -default_F 9 -N 10 -lambda 1 -distance 100 -detpixels 3000 -mosaic 1 -mosaic_dom 20000"


def test_sigterm_ends_a_command_as_an_interrupt_does(tmp_path):
    image = tmp_path / "image.bin"
    words = f"{SLOW} -floatfile {image}".split()
    code = f"import sys; from nanobrag_torch.cli.nanobragg import main; sys.exit(main({words!r}))"
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if "sources" in line:  # it is past the checks, and renders
            break
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=600)
    assert running.returncode == 130 and "interrupted" in said
    assert list(tmp_path.iterdir()) == []


LONG_PIXEL = "-cell 78 78 38 90 90 90 -default_F 9 -N 10 -lambda 1 -distance 100 -detpixels 2 -oversample 30000"
HELD = """
import sys
from nanobrag_torch.cli import interrupts
from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.io.ownership import owned
from nanobrag_torch.kernels.cpu import launch
from nanobrag_torch.io.atomic import open_output

def told(*given, kernel=launch._value_of_most):
    print("at work", flush=True)
    return kernel(*given)

interrupts.HEARS_SECONDS = 0.2
launch._value_of_most = told
with owned("claimed", "job"), open_output("half") as file:
    file.write(b"x" * 99999)
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_pixel_that_takes_minutes(number, tmp_path):
    """The main thread is in compiled code and hears nothing: another ends the process, and tidies up."""
    command = [sys.executable, "-c", HELD, *LONG_PIXEL.split(), "-floatfile", "image.bin"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert running.stdout is not None
    assert any("at work" in line for line in running.stdout) and len(list(tmp_path.iterdir())) > 1
    running.send_signal(number)
    _, said = running.communicate(timeout=600)
    assert running.returncode == 130 and said.splitlines()[-1] == "nanoBragg: interrupted; no file is written"
    assert list(tmp_path.iterdir()) == []
