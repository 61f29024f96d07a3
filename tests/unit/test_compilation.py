"""Compiled functions in fresh processes: when they compile, what they keep, and what makes them compile again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanobrag_torch import compilation, compiled_files, errors, units
from nanobrag_torch.compilation import compiled, deferred

HELPER = """
from nanobrag_torch.compilation import compiled

@compiled(inline="always")
def power(x):
    return x * x
"""
KERNELS = """
from helper import power
from nanobrag_torch.compilation import compiled, deferred

WEIGHT = 3.0

@deferred(plain=range)
def counted():
    import numba

    return numba.prange

@compiled(title="sums")
def total(values):
    result = 0.0
    for i in counted(len(values)):
        result += WEIGHT * power(values[i])
    return result
"""
CALL = """
import sys
import numpy as np
import kernels
assert "numba" not in sys.modules
print(kernels.total(np.arange(4.0)), sum(getattr(kernels.total.resolved, "stats", [0, {}])[1].values()))
"""


@pytest.fixture
def scratch(tmp_path):
    """Runs Python text in a process of its own beside the two modules; answers its words and what it said on stderr."""
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "kernels.py").write_text(KERNELS)

    def run(text, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        source = Path(compilation.__file__).parents[1]
        kept |= {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"}
        done = subprocess.run([sys.executable, "-c", text], env=kept | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    return run


def test_machine_code_is_kept_until_anything_it_was_made_from_changes(scratch, tmp_path):
    announcement = "compiling sums in float64, once for this version ...\n"
    assert scratch(CALL) == (["42.0", "0"], announcement)
    assert scratch(CALL) == (["42.0", "1"], "")  # one load, no compilation
    (tmp_path / "helper.py").write_text(HELPER.replace("x * x", "x * x * x"))
    assert scratch(CALL) == (["108.0", "0"], announcement)
    (tmp_path / "kernels.py").write_text(KERNELS.replace("3.0", "2.0"))
    assert scratch(CALL) == (["72.0", "0"], announcement)
    assert all((tmp_path / "cache" / "nanobrag_torch") in path.parents for path in tmp_path.rglob("*.nbc"))


def test_without_a_cache_folder_every_run_compiles_and_says_so(scratch):
    words, said = scratch(CALL, NUMBA_CACHE_DIR=os.devnull)
    assert words == ["42.0", "0"]
    assert said.splitlines() == [
        "compiled code is not kept for the next run: not a directory",
        "compiling sums in float64, anew in every run ...",
    ]


def cut(path, other):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path, other):
    path.write_bytes(b"")


def flipped(path, other):
    """One bit of the machine code: it would still be unpickled, and run."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path, other):
    path.write_bytes(other.read_bytes())


def nonsense(path, other):
    """Whole, and no pickle."""
    path.write_bytes(compiled_files.signed(path, b"nonsense"))


def open_to_others(path, other):
    path.chmod(0o666)


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_what_is_damaged_in_the_cache_is_made_again(scratch, tmp_path, ending):
    announced = "compiling sums in float64, once for this version ...\n"
    assert scratch(CALL) == (["42.0", "0"], announced)
    [path] = [path for path in tmp_path.rglob(f"*{ending}") if "total" in path.name]
    other = next(each for each in tmp_path.rglob("*.nb?") if each != path)
    for damage in (cut, flipped, nonsense, open_to_others) if ending == ".nbc" else (emptied, foreign):
        damage(path, other)
        assert scratch(CALL) == (["42.0", "0"], announced), damage.__name__
    assert scratch(CALL) == (["42.0", "1"], "")


def test_a_cache_that_others_can_write_is_not_read(scratch, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    words, said = scratch(CALL)
    assert words == ["42.0", "0"] and f"other users can write to {folder}" in said and not list(folder.rglob("*.nbc"))


def test_a_disk_without_room_costs_a_warning(scratch):
    limited = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    words, said = scratch(limited + CALL)
    assert words == ["42.0", "0"]
    assert said.count("not kept for the next run: file too large") == 1 and "Traceback" not in said


@pytest.fixture
def interruptible():
    """Ctrl-C raises, which it does not in a suite that a shell has put in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_until_what_swallows_it_is_over(interruptible):
    done = []
    with pytest.raises(KeyboardInterrupt), compiled_files.interrupts_after():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("the block")
    assert done == ["the block"]


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
        ("darwin", "", "Library/Caches"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch, platform, variable, folder):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv(variable, raising=False)
    assert compilation._user_cache() == Path.home() / folder
    if variable:
        monkeypatch.setenv(variable, "/elsewhere")
        assert compilation._user_cache() == Path("/elsewhere")


def test_plain_python_runs_where_numba_may_not(scratch):
    words, said = scratch(CALL, NUMBA_DISABLE_JIT="1")
    assert words == ["42.0", "0"]
    assert said == ("NUMBA_DISABLE_JIT is set; what it should have compiled runs as plain Python, slowly\n")


def test_plain_python_runs_where_numba_is_missing(scratch):
    missing = "import sys; sys.modules['numba'] = None; import kernels; print(kernels.total([1.0, 2.0]))\n"
    words, said = scratch(missing + "from nanobrag_torch.compilation import available; print(available().usable)")
    assert words == ["15.0", "False"]
    assert "numba cannot be imported (ModuleNotFoundError" in said


def test_importing_the_users_of_numba_does_not_import_it(scratch):
    scratch(
        "import sys, nanobrag_torch.response.serial_noise, nanobrag_torch.physics.mosaicity; "
        "assert 'numba' not in sys.modules"
    )


FACTOR = 2.0
TABLE = np.array([1.0, 2.0])


@compiled()
def doubled(x: float) -> float:
    return FACTOR * x


@compiled()
def through_a_module(x: float) -> float:
    return x if errors else 0.0


@compiled()
def function_of_a_module(x: float) -> float:
    return x if errors.InputError is None else 0.0


@compiled()
def constant_of_a_module(x: float) -> float:
    return x * units.ANGSTROM + units.ANGSTROM


@deferred(plain=abs)
def magnitude() -> Any:
    return abs


def test_settings_of_numba_are_as_before():
    from numba.core import config

    before = {name: getattr(config, name) for name in ("CACHE_DIR", "CACHE_LOCATOR_CLASSES")}
    assert doubled(4.0) == 8.0
    assert all(getattr(config, name) == value for name, value in before.items())
    assert compilation.available() == (True, "")


def test_fingerprint_follows_options_and_constants(monkeypatch):
    def fresh(**options: Any) -> str:
        return compilation.Compiled(doubled.function, options).fingerprint

    assert fresh() == fresh() != fresh(fastmath=True)
    assert fresh(fastmath={"nnan", "contract", "arcp"}) == fresh(fastmath={"arcp", "contract", "nnan"})
    before = fresh()
    for value in (3.0, TABLE, TABLE * 2, TABLE.astype(np.float32), "2.0", magnitude):
        monkeypatch.setitem(doubled.function.__globals__, "FACTOR", value)
        assert fresh() != before
        before = fresh()


def test_a_deferred_object_is_its_plain_twin_in_python():
    assert magnitude(-3) == 3


def test_what_the_cache_could_not_see_is_refused():
    outside = 2.0
    with pytest.raises(TypeError, match="module level"):
        compiled()(lambda x: outside * x)
    with pytest.raises(TypeError, match="import what it needs from nanobrag_torch.errors by name"):
        through_a_module(1.0)
    with pytest.raises(TypeError, match="numbers, strings and tuples alone are found through a module"):
        function_of_a_module(1.0)


def test_constants_are_found_through_a_module_and_change_the_fingerprint(monkeypatch):
    def fingerprint() -> str:
        return compilation.Compiled(constant_of_a_module.function, {}).fingerprint

    assert constant_of_a_module(2.0) == 3 * units.ANGSTROM
    before = fingerprint()
    monkeypatch.setattr(units, "R_E_SQUARED", 1.0)
    assert fingerprint() == before
    monkeypatch.setattr(units, "ANGSTROM", 2e-10)
    assert fingerprint() != before


def test_code_from_the_cache_runs_without_setting_up_the_compiler(tmp_path):
    """A second process takes the same result from the cache, and never imports what numba compiles arrays with."""
    program = (
        "import sys, numpy as np\n"
        "from nanobrag_torch.response.serial_noise import poisson_image\n"
        "from nanobrag_torch.c_random import Streams\n"
        "photons, _ = poisson_image(np.full((3, 5), 7.5, np.float32), Streams(), -4)\n"
        "print(photons.sum(), 'numba.np.arraymath' in sys.modules)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (first, compiled), (second, again) = (run.stdout.split() for run in runs)
    assert first == second and compiled == "True" and again == "False"


def test_parts_left_out_do_nothing_and_the_whole_is_as_it_was(tmp_path):
    """In one process and in the next, which finds both in the cache, whichever was compiled first."""
    (tmp_path / "helper.py").write_text(
        "from nanobrag_torch.compilation import compiled\n\n"
        "@compiled()\ndef shift(values, by):\n    values[0] += by\n\n"
        "@compiled()\ndef both(values):\n    shift(values, 5.0)\n    return values.sum()\n"
    )
    (tmp_path / "kernels.py").write_text(
        "from helper import both\nfrom nanobrag_torch.compilation import compiled\n\n"
        "@compiled()\ndef average(values):\n    return both(values) / 4\n"
    )
    call = (
        "import sys, numpy as np\nfrom kernels import average\nfrom helper import shift\n"
        "reduced = average.without(shift)\nassert reduced.without(shift) is not average\n"
        "kernels = [average, reduced] if sys.argv[1] == 'whole' else [reduced, average]\n"
        "print(*sorted(kernel(np.arange(4.0)) for kernel in kernels))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    for first in ("whole", "reduced", "whole"):
        words = [sys.executable, "-c", call, first]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1.5", "2.75"]


def test_a_constant_that_is_chosen_otherwise_leaves_branches_out(tmp_path):
    """In the function that reads it and in those that call this one, in one process and in the next."""
    (tmp_path / "nanobrag_torch_rooms.py").write_text("WHOLE = True\n")
    (tmp_path / "kernels.py").write_text(
        "import nanobrag_torch_rooms as at\nfrom nanobrag_torch.compilation import compiled\n\n"
        "@compiled()\ndef part(values):\n    return 1.0 if at.WHOLE and values[0] > 0 else 2.0\n\n"
        "@compiled()\ndef total(values):\n    return 10 * part(values)\n\n"
        "@compiled()\ndef apart(values):\n    return values.sum()\n"
    )
    call = (
        "import numpy as np\nfrom kernels import apart, total\n"
        "assert total.without(WHOLE=True) is total and total.without(OTHER=False) is total\n"
        "assert apart.without(WHOLE=False) is apart\n"
        "print(total(np.ones(1)), total.without(WHOLE=False)(np.ones(1)))\n"
    )
    folders = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": folders}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["10.0", "20.0"]


STAGED = """
import sys
import numpy as np
from nanobrag_torch import compilation
from nanobrag_torch.kernels.cpu.intrinsics import entry, stage

if "other" in sys.argv:
    compilation.LIGHT_VERSIONS = ()

@stage()
def add_squares(values, out):
    for i in range(values.size):
        out[0] += values[i] * values[i]

@entry()
def once(values, out):
    add_squares(values, out)

@entry()
def twice(values, out):
    add_squares(values, out)
    add_squares(values, out)
"""
STAGED_CALL = """
from staged import *
out = np.zeros(1)
(once if "once" in sys.argv else twice)(np.arange(4.0), out)
numba = add_squares.resolved
kinds = {type(one.library).__name__ for one in numba.overloads.values()}
print(out[0], sum(numba.stats.cache_hits.values()), *kinds)
"""


def test_a_stage_is_optimised_once_and_no_machine_code_is_made_of_it(tmp_path):
    """The next process takes it from the cache for another entry; numba's own way, and folder, gives the same."""
    (tmp_path / "staged.py").write_text(STAGED)
    folders = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def run(*words, folder):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / folder), "PYTHONPATH": folders}
        program = [sys.executable, "-c", STAGED_CALL, *words]
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run("once", folder="ours") == ["14.0", "0", "StageLibrary"]
    assert run("twice", folder="ours") == ["28.0", "1", "StageLibrary"]
    assert run("once", "other", folder="numba's") == ["14.0", "0", "JITCodeLibrary"]
    (tmp_path / "ours").rename(tmp_path / "mixed")  # numba reads what ours has kept, and makes machine code of it
    shutil.rmtree(next((tmp_path / "mixed").rglob("twice-*")))
    assert run("twice", "other", folder="mixed") == ["28.0", "1", "JITCodeLibrary"]
