"""The library logs; the commands show its lines."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from nanobrag_torch.cli.messages import show_messages

SOURCE = Path(__file__).parents[2] / "src" / "nanobrag_torch"


def test_nothing_but_the_commands_prints():
    traced = SOURCE / "simulator.py"  # the trace that a script asks for by debug_config
    rooms = [path for path in SOURCE.rglob("*.py") if "cli" not in path.parts and path != traced]
    assert not [path for path in rooms for line in path.read_text().splitlines() if line.lstrip().startswith("print(")]


def test_commands_show_each_line_of_the_log_once(capsys):
    show_messages()
    show_messages()
    logging.getLogger("nanobrag_torch.kernels.operation").warning("the reference kernel renders")
    assert capsys.readouterr().err == "nanobrag_torch: the reference kernel renders\n"


@pytest.mark.parametrize("home", ["nanobragg", "nb.app"])
def test_both_commands_attach_the_lines(home):
    text = (
        f"import sys; from nanobrag_torch.cli.{home} import main; main(['--help']); import logging; "
        "logging.getLogger('nanobrag_torch.x').warning('said')"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == "nanobrag_torch: said\n"


def test_a_script_may_silence_the_library():
    text = (
        "import logging; logging.getLogger('nanobrag_torch').setLevel(logging.ERROR); "
        "from nanobrag_torch.kernels import operation; operation._warn_once('x')"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("library", ["triton", "gemmi"])
def test_the_end_of_a_command_says_nothing(library):
    """Libraries that count what is left of them at the end of Python, which a command does without looking for it."""
    program = (
        f"import {library}\nfrom nanobrag_torch.cli.boundary import exit_code\nraise SystemExit(exit_code('x', int))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
