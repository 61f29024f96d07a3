"""Write the pages that are made from tables of the program; with --check, say which are not as they would be written.

docs/development/c_to_pytorch_config_map.md   from nanobrag_torch.cli.nanobragg.flags.FLAGS
docs/bugs/verified_c_bugs.md                  from nanobrag_torch.compat.ROWS
docs/response.md                              from response_page.py, with the tables of detectors and corrections
docs/recipe-keys.md                           from nanobrag_torch.datasets.recipe
docs/gallery.md                               from gallery.py, which draws its images too
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from gallery import gallery  # type: ignore[import-not-found]
from response_page import response_page  # type: ignore[import-not-found]

from nanobrag_torch.cli.nanobragg.flags import FLAGS, SUBJECTS, Flag
from nanobrag_torch.cli.nanobragg.help import values_of
from nanobrag_torch.compat import ROWS, Row
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.datasets.keys import recipe_keys

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTICE = "<!-- written by scripts/generate_docs.py; do not edit -->"
PREFIX = "-lambda 1 -distance 100 -detpixels 64 -pixel 0.4 -nonoise -nopgm"
"""What every example of a defect begins with: a small picture."""


def config_map() -> Iterator[str]:
    """The page of flags and the configuration fields that they end in."""
    yield from (NOTICE, "# Flags and configuration fields", "", MAP_INTRODUCTION)
    for subject in SUBJECTS:
        yield from ("", f"## {subject.capitalize()}", "")
        yield "| flag | values | unit | configuration field | default | also sets | meaning |"
        yield "|---|---|---|---|---|---|---|"
        yield from (_flag_row(flag) for flag in FLAGS if flag.subject == subject)
    yield from ("", "## Fields that no flag sets", "", "Reached from Python alone; what they mean stands beside them in"
                " `nanobrag_torch/config.py`.", "")  # fmt: skip
    for config in (CrystalConfig, DetectorConfig, BeamConfig):
        named = _named_fields(config.__name__)
        free = [f"`{field.name}`" for field in fields(config) if field.name not in named]
        yield f"* `{config.__name__}`: {', '.join(free)}"


MAP_INTRODUCTION = """\
Every flag of the command `nanoBragg`, in the groups of `nanoBragg -h`, and the field of `CrystalConfig`,
`DetectorConfig` or `BeamConfig` that its value ends in. The unit is that of the flag's value; configuration fields
have the same unit unless their name says otherwise (`_mm`, `_deg`, `_mrad`, `_um`, `_A`, `_pct`). Flags without a
field steer the run (files, random numbers, printing) and have no counterpart in Python.

How words are matched, which a table cannot show:

* A spelling marked *whole* must be the whole word. Any other spelling matches every word that contains it, as in
  the C program: `-mat` is also `-matrix`, `-lambda` is also `-lambda0`, `-adc` is also `-adcoffset`.
* Values are looked at, not consumed, and the last flag on the line wins. `-img` and `-mask` are read first,
  whatever their place, so that any flag overrides their headers.
* "Also sets" lists what a flag changes beside its own value. The pivot matters in the CUSTOM convention alone;
  every other convention forces its own. A vector flag, or `-pix0_vector`, selects CUSTOM, and the last convention
  flag on the line decides.
* Automatic defaults (steps of scans, oversampling, beam centres, interpolation) are chosen after parsing:
  `docs/specs/spec-a-core.md`, section 2."""


def _flag_row(flag: Flag) -> str:
    names = [f"`{name}` (whole)" for name in flag.whole] + [f"`{name}`" for name in flag.part]
    also = [f"{name} = {value}" for name, value in flag.puts] if flag.values or flag.subject.startswith("conv") else []
    config = ", ".join(f"`{part.strip()}`" for part in flag.config.split(",")) if flag.config else ""
    text = flag.text + (f" ({flag.inert})" if flag.inert else "")
    cells = (", ".join(names), values_of(flag), flag.unit, config, flag.default, ", ".join(also), text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


COMPANIONS = {
    "cell_a": ("cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma"),
    "mosflm_a_star": ("mosflm_b_star", "mosflm_c_star"),
    "custom_polar_vector": ("custom_spindle_axis",),
}
"""Fields that the flag of another one sets as well."""


def _named_fields(config: str) -> set[str]:
    """Fields of a configuration that some flag sets."""
    named = {companion for companions in COMPANIONS.values() for companion in companions}
    for flag in FLAGS:
        owner = ""
        for part in flag.config.split(","):
            head, _, name = part.strip().rpartition(".")
            owner = head or owner
            if owner == config:
                named.add(name)
    return named


def verified_bugs() -> Iterator[str]:
    """The page of the C program's defects."""
    yield from (NOTICE, "# Defects of the C program", "", BUGS_INTRODUCTION, "")
    yield "| | switch | the C program | here |"
    yield "|---|---|---|---|"
    for row in ROWS:
        switch = f"`{row.switch}`" if row.switch else "always fixed"
        yield f"| [{row.id}](#{row.id.lower()}) | {switch} | {row.c_program} | {row.here} |"
    for row in ROWS:
        yield from _bug(row)


BUGS_INTRODUCTION = """\
What the C program nanoBragg (edition bl831 of 8-10-25) gets wrong and this one does not. Rows come from reading
that program and, wherever it leaves an image or a line of text, from running it. Numbers are those of
`nanobrag_torch.compat.ROWS`, from which this page is made.

* A row with a switch is corrected by default. `-compat c` on the command line, or `Simulator(..., compat="c")`,
  gives the C program's image with all of them; `Compat(stale_phi=True)` and the like give single ones. `-phi_mode
  c-parity` switches D2 alone. A run prints a line `correction D... changed the image` for each that mattered.
* A row that is always fixed has no switch, because the C program crashes there, or writes what nobody can use.

The commands run in `tests/data/inputs`. Add `-compat c` to see the C program's image, and hold the two float images
against each other with `nb compare`, or give `nb compare --c-bin ./nanoBragg -- FLAGS` a compiled C program."""


def _bug(row: Row) -> Iterator[str]:
    yield from ("", f"## {row.id}", "")
    yield f"The C program: {row.c_program}."
    yield ""
    yield f"Here: {row.here}." + ("" if row.switch is None else f" Switch: `Compat.{row.switch}`.")
    yield from ("", "```sh", command(row), "```")


def command(row: Row) -> str:
    """The command that shows a defect."""
    return row.example if row.example.startswith("nb ") else f"nanoBragg {PREFIX} {row.example}"


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "development/c_to_pytorch_config_map.md": config_map,
    "bugs/verified_c_bugs.md": verified_bugs,
    "response.md": response_page,
    "gallery.md": gallery,
    "recipe-keys.md": lambda: iter((NOTICE, *recipe_keys())),
}


def main(words: list[str]) -> int:
    """Write the pages, or check them; 1 when one is not as it would be written."""
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, "\n".join(page()) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in words:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in stale:
        print(f"{'stale' if '--check' in words else 'wrote'} docs/{name}")
    return int("--check" in words and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
