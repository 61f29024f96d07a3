"""diffBragg's PHIL files in the words of `nb refine`: the command that does the same, and what has no equivalent."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input

Translation = Callable[[str], list[str]]
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NAME = re.compile(r"\w+(?:\.\w+)*")
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
HIDDEN = str.maketrans("{}#!;", "\x00\x01\x02\x03\x04")  # what between quotes is no mark
SHOWN = {new: old for old, new in HIDDEN.items()}
TRUE = ("true", "1", "yes")
NONE = ("none", "auto", "")
ACCEPTED = "a PHIL file: names with values, scopes in braces that close"


def read_phil(path: Path) -> dict[str, str]:
    """Every assignment of a PHIL file by its full name, scopes joined by dots; the last one wins.

    Raises InputError for a file that is no text, whose braces do not match, or that assigns nothing.
    """
    try:
        text = read_input(path, "--import-phil", ACCEPTED).decode()
    except UnicodeDecodeError as error:
        raise InputError("--import-phil", str(path), ACCEPTED) from error
    scopes: list[str] = []
    found: dict[str, str] = {}
    last = ""  # a name whose brace may follow on another line
    for number, line in enumerate(text.splitlines(), 1):
        for piece in _pieces(line):
            if piece.endswith("{"):
                scopes.append(piece[:-1].strip() or last)
            elif piece == "}":
                if not scopes:
                    raise InputError("--import-phil", f"{path}, line {number}: }}", "as many { before")
                scopes.pop()
            elif "=" in piece and not piece.startswith("."):  # .type, .help: of a definition, not of a value
                name, _, value = piece.partition("=")
                found[".".join([*scopes, name.strip()])] = value.strip().strip("\"'")
            elif NAME.fullmatch(piece):
                last = piece
    if scopes or not found:
        raise InputError("--import-phil", f"{path}, open: {' '.join(scopes)}" if scopes else str(path), ACCEPTED)
    return found


def _pieces(line: str) -> list[str]:
    """Openings, ends and assignments of a line, comments left out."""
    line = re.sub(r"(^|\s)[#!].*", "", QUOTED.sub(lambda found: found[0].translate(HIDDEN), line))
    return [piece.strip().translate(SHOWN) for piece in re.split(r"(?<=[{}])|(?=\})|;", line) if piece.strip()]


def _flag(name: str, change: Callable[[str], str] = str) -> Translation:
    return lambda value: [] if value.lower() in NONE else [name, change(value)]


def _held(word: str) -> Translation:
    """fix.x = True holds what is free by default, False frees it."""
    return lambda value: [f"--fix={word}"] if value.lower() in TRUE else [f"--free={word}"]


def _limit(value: str) -> list[str]:
    """-1 is how that program says all."""
    return [] if value.lower() in NONE or float(value) < 1 else ["--limit", str(int(float(value)))]


def _half(value: str) -> str:
    return str(max(1, int(float(value)) // 2))


def _first(value: str) -> str:
    """Labels of that program are joined with those of their sigmas and mates."""
    return value.split(",")[0].strip()


def _started(*names: str) -> Translation:
    def words(value: str) -> list[str]:
        numbers = NUMBER.findall(value)
        return [f"--start={name}={number}" for name, number in zip(names, numbers, strict=False)]

    return words


def _bare(flag: str) -> Translation:
    return lambda value: [flag] if value.lower() in TRUE else []


def _isotropic(flag: str, one: str, several: str) -> Translation:
    return lambda value: [flag, one if value.lower() in TRUE else several]


def _box_free(value: str) -> list[str]:
    return ["--intensities", "held"] if value.lower() in TRUE else []


NOISE, GAIN = "refiner.sigma_r", "refiner.adu_per_photon"
NDEF, PRODUCTS, ISOTROPIC = "fix.Ndef", "init.Ndef", "simulator.crystal.has_isotropic_ncells"
EQUIVALENTS: dict[str, Translation] = {
    "init.Nabc": _started("N_a", "N_b", "N_c"),
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
    "ucell_edge_perc": lambda value: [f"--prior=cell={value}%"],
    "ucell_ang_abs": lambda value: [f"--prior={angle}={value}" for angle in ("alpha", "beta", "gamma")],
    "roi.shoebox_size": _flag("--box", _half),
    "roi.trusted_range": lambda value: ["--trusted", *NUMBER.findall(value)[:2]],
    "roi.hotpixel_mask": _flag("--mask"),
    NOISE: _flag("--readout-noise"),
    GAIN: _flag("--gain"),
    "refiner.panel_group_file": _flag("--groups"),
    "simulator.crystal.has_isotropic_mosaicity": _isotropic("--spread", "1", "3"),
    "simulator.spectrum.filename": _flag("--spectrum"),
    "simulator.structure_factors.mtz_name": _flag("-F"),
    "simulator.structure_factors.from_pdb.name": _flag("-F"),
    "simulator.structure_factors.mtz_column": _flag("--column", _first),
    "simulator.structure_factors.dmin": _flag("--d-min"),
    "outdir": _flag("-o"),
    "max_process": _limit,
    "skip": _flag("--skip"),
    "first_n": _limit,
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
    "init.RotXYZ": "turns are on top of the file's orientation, and begin with the centroids",
    "init.detz_shift": "--start=distance=..., from the sample, mm",
    "init.spec": "--start=wavelength=..., --free=wavelength",
    "init.gonio_angle": "--start=phi=...",
    "fix.Fhkl": "an intensity a reflection is free anyway",
    "max_process": "all shots",
    "first_n": "all shots",
    "simulator.spectrum.stride": "--spectrum-channels",
    "simulator.psf": "--psf WIDTH in pixels, at half the maximum; --free=psf",
    "simulator.crystal.mosaicity_method": "domains are those of a quadrature",
    "spectrum_from_imageset": "the spectrum is that of the experiment, or of its image's file",
    "gen_gauss_spec": "--bandwidth-eV",
    "downsamp_spec": "--spectrum-channels, which keeps mean and variance",
    "roi.deltaQ": "boxes are as large as the spots say; --box",
    "roi.pad_shoebox_for_background_estimation": "boxes are larger than spots, and planes part of the fit; --box",
    "roi.reject": "boxes with more than a fifth of bad pixels are left out",
    "roi.allow_overlapping_spots": "a pixel counts once, and boxes that share some are solved together",
    "roi.strong_only": "--flag=strong",
    "roi.centroid": "boxes are about observed centres, where there are any",
}
"""Names, or the beginnings of names, that need no word, and why."""


def translated(path: Path, given: Mapping[str, Any]) -> str:
    """The command, then a comment for everything that is done without being asked, is left to say, or is not done."""
    words = [
        "nb",
        "refine",
        str(given.get("experiments") or "shots.expt"),
        str(given.get("reflections") or "shots.refl"),
    ]
    automatic: list[str] = []
    asked: list[str] = []
    lost: list[str] = []
    assigned = read_phil(path)
    for name, value in assigned.items():
        if name in (NDEF, ISOTROPIC) or (name == PRODUCTS and not _is_held(assigned, value)):
            continue  # numbers of cells come last, from all that say how many
        if name in EQUIVALENTS and (found := _words(name, value, assigned)):
            words += found
        elif reason := _reason(name):
            (asked if _is_for_the_user(reason, value) else automatic).append(f"#   {name} = {value}: {reason}")
        elif name not in EQUIVALENTS:
            lost.append(f"#   {name} = {value}")
    words += _numbers_of_cells(assigned)
    lines = [" ".join(map(shlex.quote, words))]
    lines += ["# done without being asked:", *automatic] if automatic else []
    lines += ["# say it yourself, if it is to be so:", *asked] if asked else []
    lines += ["# no equivalent:", *lost] if lost else []
    return "\n".join(lines)


def _words(name: str, value: str, assigned: Mapping[str, str]) -> list[str]:
    """The words for an assignment. Raises InputError for a word where a number belongs."""
    try:
        if name == NOISE and value.lower() not in NONE and assigned.get(GAIN, "").lower() not in NONE:
            value = f"{float(value) / float(assigned[GAIN]):.6g}"  # theirs is of counts, ours of photons
        return EQUIVALENTS[name](value)
    except (ValueError, ArithmeticError) as error:
        raise InputError("--import-phil", f"{name} = {value}", "a number") from error


def _is_for_the_user(reason: str, value: str) -> bool:
    """Whether a setting has words of ours that nobody said for it."""
    return reason.startswith("--") and value.lower() not in (*NONE, "false")


def _is_held(found: Mapping[str, str], products: str) -> bool:
    """Whether products of numbers of cells stay at something else than nothing, which nothing here does."""
    return found.get(NDEF, "true").lower() in (*TRUE, *NONE) and any(float(n) for n in NUMBER.findall(products))


def _numbers_of_cells(found: Mapping[str, str]) -> list[str]:
    """Six where the products are free, with their starts, else one or three where that is said."""
    if found.get(NDEF, "true").lower() not in (*TRUE, *NONE):
        return ["--N", "6", *_started("N_ab", "N_bc", "N_ac")(found.get(PRODUCTS, ""))]
    if found.get(ISOTROPIC, "none").lower() not in NONE:
        return ["--N", "1" if found[ISOTROPIC].lower() in TRUE else "3"]
    return []


def _reason(name: str) -> str:
    fitting = [start for start in BY_ITSELF if name == start or name.startswith((f"{start}.", f"{start}_"))]
    return BY_ITSELF[max(fitting, key=len)] if fitting else ""
