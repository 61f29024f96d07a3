"""The text of `nanoBragg -h`, made from the table of flags."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from nanobrag_torch.cli.nanobragg.flags import FLAGS, SUBJECTS, Flag

WIDTH = 110
LEFT = 36
_PLACEHOLDERS = {"real": "X", "int": "N", "word": "WORD", "file": "FILE"}

INTRODUCTION = """\
usage: nanoBragg -cell a b c alpha beta gamma | -mat A.mat   -hkl FILE | -default_F F   [flags]

Renders the X-ray diffraction image of a small crystal, in photons per pixel.

  nanoBragg -cell 78 78 38 90 90 90 -default_F 100 -N 10 -lambda 1 -distance 100
  nanoBragg -mat A.mat -hkl P1.hkl -N 20 -osc 0.1 -phisteps 10 -pngfile picture.png
  nanoBragg -batch runs.txt -resume
"""

NOTES = """\
The last flag on the line wins. A flag may be spelt longer than here (-wavelength, -matrix) wherever the C program
takes that. -compat c gives the C program's image, defects included; without it they are corrected, and each
correction that changed an image is named in one line. Exit code 2: bad input, one line on stderr, no file written.
"""


def help_text() -> str:
    """All flags of nanoBragg."""
    return help_of(INTRODUCTION, FLAGS, SUBJECTS, NOTES)


def help_of(introduction: str, table: Sequence[Flag], subjects: Sequence[str], notes: str) -> str:
    """All flags of a table grouped by subject, with values, units and defaults, between two texts."""
    lines = [introduction, *(line for subject in subjects for line in _group(subject, table)), notes]
    return "\n".join(lines).rstrip() + "\n"


def _group(subject: str, table: Sequence[Flag]) -> Iterator[str]:
    yield f"{subject}:"
    for flag in table:
        if flag.subject == subject:
            yield from _entry(flag)
    yield ""


def _entry(flag: Flag) -> Iterator[str]:
    left = f"  {', '.join(flag.names[:2])} {values_of(flag)}".rstrip()
    note = "; ".join(part for part in (flag.unit, f"default {flag.default}" if flag.default else "") if part)
    right = textwrap.wrap(f"{flag.text} [{note}]" if note else flag.text, WIDTH - LEFT)
    if len(left) >= LEFT:
        yield left
        left = ""
    for line in right:
        yield f"{left:<{LEFT}}{line}"
        left = ""


def values_of(flag: Flag) -> str:
    """The values of a flag as the help writes them."""
    return flag.shown or " ".join(_PLACEHOLDERS[kind] for kind in flag.values)


def version_text(name: str = "nanoBragg") -> str:
    """A command and the version that runs."""
    from nanobrag_torch import __version__

    return f"{name} (nanobrag-torch {__version__})"
