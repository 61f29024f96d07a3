"""diffBragg's PHIL files in the words of `nb refine`: the command that does the same, and what has no equivalent."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanobrag_torch.io.atomic import read_input

Translation = Callable[[str], list[str]]
TRUE = ("true", "1", "yes")
NONE = ("none", "auto", "")


def read_phil(path: Path) -> dict[str, str]:
    """Every assignment of a PHIL file by its full name, scopes joined by dots; the last one wins."""
    text = read_input(path, "--import-phil", "a PHIL file").decode(errors="replace")
    scopes: list[str] = []
    found: dict[str, str] = {}
    for line in text.splitlines():
        for piece in _pieces(line):
            if piece.endswith("{"):
                scopes.append(piece[:-1].strip())
            elif piece == "}":
                del scopes[-1:]
            elif "=" in piece:
                name, _, value = piece.partition("=")
                found[".".join([*scopes, name.strip()])] = value.strip().strip("\"'")
    return found


def _pieces(line: str) -> list[str]:
    """Openings, ends and assignments of a line, comments left out."""
    line = re.sub(r"(^|\s)[#!].*", "", line)
    return [piece.strip() for piece in re.split(r"(?<=[{}])|(?=\})", line) if piece.strip()]


def _flag(name: str, change: Callable[[str], str] = str) -> Translation:
    return lambda value: [] if value.lower() in NONE else [name, change(value)]


def _held(word: str) -> Translation:
    """fix.x = True holds what is free by default, False frees it."""
    return lambda value: [f"--fix={word}"] if value.lower() in TRUE else [f"--free={word}"]


def _half(value: str) -> str:
    return str(max(1, int(float(value)) // 2))


def _started(*names: str) -> Translation:
    def words(value: str) -> list[str]:
        numbers = re.findall(r"[-+.\deE]+", value)
        return [f"--start={name}={number}" for name, number in zip(names, numbers, strict=False)]

    return words


def _bare(flag: str) -> Translation:
    return lambda value: [flag] if value.lower() in TRUE else []


def _isotropic(flag: str, one: str, several: str) -> Translation:
    return lambda value: [flag, one if value.lower() in TRUE else several]


def _box_free(value: str) -> list[str]:
    return ["--intensities", "held"] if value.lower() in TRUE else []


EQUIVALENTS: dict[str, Translation] = {
    "init.Nabc": _started("N_a", "N_b", "N_c"),
    "init.Ndef": _started("N_ab", "N_bc", "N_ac"),
    "init.eta_abc": _started("spread"),
    "fix.RotXYZ": _held("rotation"),
    "fix.ucell": _held("cell"),
    "fix.Nabc": _held("N"),
    "fix.eta_abc": _held("spread"),
    "fix.G": _held("scale"),
    "fix.detz_shift": _held("distance"),
    "fix.B": _held("B"),
    "fix.spec": _held("spectrum"),
    "fix.Fhkl": _box_free,
    "fix.Ndef": lambda value: [] if value.lower() in TRUE else ["--N", "6"],
    "ucell_edge_perc": lambda value: [f"--prior=cell={value}%"],
    "ucell_ang_abs": lambda value: [f"--prior={angle}={value}" for angle in ("alpha", "beta", "gamma")],
    "roi.shoebox_size": _flag("--box", _half),
    "roi.trusted_range": lambda value: ["--trusted", *re.findall(r"[-+.\deE]+", value)[:2]],
    "roi.hotpixel_mask": _flag("--mask"),
    "refiner.sigma_r": _flag("--readout-noise"),
    "refiner.adu_per_photon": _flag("--gain"),
    "refiner.panel_group_file": _flag("--groups"),
    "simulator.crystal.has_isotropic_ncells": _isotropic("--N", "1", "3"),
    "simulator.crystal.has_isotropic_mosaicity": _isotropic("--spread", "1", "3"),
    "simulator.spectrum.filename": _flag("--spectrum"),
    "simulator.structure_factors.mtz_name": _flag("-F"),
    "simulator.structure_factors.from_pdb.name": _flag("-F"),
    "simulator.structure_factors.mtz_column": _flag("--column"),
    "simulator.structure_factors.dmin": _flag("--d-min"),
    "outdir": _flag("-o"),
    "max_process": _flag("--limit"),
    "skip": _flag("--skip"),
    "first_n": _flag("--limit"),
    "lbfgs_maxiter": lambda value: [],
}
"""Name in a PHIL file -> words of the command."""
BY_ITSELF: dict[str, str] = {
    "simulator.oversample": "samples are raised until they change nothing; --oversample says how many",
    "simulator.crystal.num_mosaicity_samples": "domains are raised until they change nothing; --domains says how many",
    "simulator.gonio": "from the experiment",
    "simulator.beam": "from the experiment",
    "use_restraints": "priors are on; --prior changes them",
    "betas": "variances: the square of what --prior takes",
    "centers": "priors are about the start; --start moves it",
    "sigmas": "not needed: the steps know their own scale",
    "mins": "priors take the place of bounds",
    "maxs": "priors take the place of bounds",
    "method": "Levenberg and Marquardt",
    "ftol": "ends when no step would move a parameter by 0.02 of its sigma",
    "lbfgs_maxiter": "--max-steps, of another kind",
    "fix.perRoiScale": "an intensity a reflection is free anyway",
    "fix.perRoi": "an intensity a reflection is free anyway",
    "roi.fit_tilt": "planes are part of the fit",
    "filter_during_refinement": "boxes that fit much worse than the others are left out once",
    "filter_after_refinement": "boxes that fit much worse than the others are left out once",
    "init.G": "the scale follows from the image",
    "init.B": "--start=B=...",
}
"""Names, or the beginnings of names, that need no word, and why."""


def translated(path: Path, given: Mapping[str, Any]) -> str:
    """The command, then a comment for everything that is done without being asked, or not at all."""
    words = [
        "nb",
        "refine",
        str(given.get("experiments") or "shots.expt"),
        str(given.get("reflections") or "shots.refl"),
    ]
    automatic, lost = [], []
    for name, value in read_phil(path).items():
        if name in EQUIVALENTS and (found := EQUIVALENTS[name](value)):
            words += found
        elif reason := _reason(name):
            automatic.append(f"#   {name} = {value}: {reason}")
        elif name not in EQUIVALENTS:
            lost.append(f"#   {name} = {value}")
    lines = [" ".join(map(shlex.quote, words))]
    lines += ["# done without being asked:", *automatic] if automatic else []
    lines += ["# no equivalent:", *lost] if lost else []
    return "\n".join(lines)


def _reason(name: str) -> str:
    fitting = [start for start in BY_ITSELF if name == start or name.startswith((f"{start}.", f"{start}_"))]
    return BY_ITSELF[max(fitting, key=len)] if fitting else ""
