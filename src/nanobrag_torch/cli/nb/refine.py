"""`nb refine`: exposures against their pixels, from files to files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.refinement.model import Sampling

UNSAID_DOMAINS, UNSAID_SAMPLES, UNSAID_STEPS = 50, 4, 10
"""Of sums of which only some was said; samples are extrapolated then to the integral over a pixel."""
Words = Annotated[list[str] | None, typer.Option()]


def refine(
    experiments: Annotated[Path | None, typer.Argument(help="DIALS experiment list, or another geometry file.")] = None,
    reflections: Annotated[Path | None, typer.Argument(help="DIALS reflection table with indices.")] = None,
    structure_factors: Annotated[
        Path | None, typer.Option("-F", "--structure-factors", help="MTZ, CIF, PDB or text; none: all F alike.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results.")] = None,
    images: Annotated[list[Path] | None, typer.Option("--images", help="Images in place of the experiments'.")] = None,
    frames: Annotated[str | None, typer.Option(help="Frames of a scan, from 0: 0,3-5. Default: all.")] = None,
    free: Annotated[list[str] | None, typer.Option(help="Also refine these: B, shift, tilt, beam, ...")] = None,
    fix: Annotated[list[str] | None, typer.Option(help="Hold these: cell, distance, spread, ...")] = None,
    prior: Annotated[
        list[str] | None, typer.Option(help="Standard deviations: cell=0.2%, N=1.5x, distance=0.1, B=none.")
    ] = None,
    start: Annotated[list[str] | None, typer.Option(help="Where to start: N_a=40, spread=0.05, ...")] = None,
    cells: Annotated[int, typer.Option("--N", help="Free numbers of cells: 1, 2 (as symmetry ties them), 3, 6.")] = 2,
    spread: Annotated[int, typer.Option(help="Free mosaic spreads: 1, 3, 6.")] = 1,
    mosaic: Annotated[bool | None, typer.Option(help="Whether there is a spread; default: by the images.")] = None,
    shape: Annotated[str, typer.Option(help="Shape of the crystals: auto, square, round, gauss_hkl, ...")] = "auto",
    intensities: Annotated[str, typer.Option(help="free, or held at the structure factors.")] = "free",
    sigma_f: Annotated[float, typer.Option("--sigma-F", help="How wrong F may be, relative; inf: no prior.")] = 0.2,
    column: Annotated[str | None, typer.Option(help="Column of the structure factors.")] = None,
    groups: Annotated[str, typer.Option(help="Panels that move together: whole, panel, a level, or a file.")] = "whole",
    spectrum: Annotated[Path | None, typer.Option(help="Wavelengths and weights, two columns (.lam).")] = None,
    spectrum_channels: Annotated[int | None, typer.Option(help="Rebin a spectrum to so many channels.")] = None,
    bandwidth_ev: Annotated[float | None, typer.Option("--bandwidth-eV", help="FWHM of a Gaussian spectrum.")] = None,
    psf: Annotated[float | None, typer.Option(help="FWHM of the detector's spread (pixels).")] = None,
    psf_shape: Annotated[str, typer.Option(help="gauss, fiber.")] = "gauss",
    flag: Annotated[str, typer.Option(help="Reflections that are: indexed, integrated, strong, ...")] = "indexed",
    boxes: Annotated[int, typer.Option(help="At most so many reflections a shot, the strongest.")] = 400,
    box: Annotated[int | None, typer.Option(help="Half the size of a box (pixels); default: from the spots.")] = None,
    d_min: Annotated[float | None, typer.Option(help="Resolution limit (Angstrom).")] = None,
    d_max: Annotated[float | None, typer.Option(help="Lowest resolution (Angstrom).")] = None,
    background: Annotated[str, typer.Option(help="planes, constant, none.")] = "planes",
    target: Annotated[str, typer.Option(help="poisson, gaussian, student.")] = "poisson",
    gain: Annotated[float | None, typer.Option(help="Counts a photon.")] = None,
    pedestal: Annotated[float | None, typer.Option(help="Counts added to every pixel; default: estimated.")] = None,
    readout_noise: Annotated[float | None, typer.Option(help="Standard deviation (photons).")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of pixels to use: not 0.")] = None,
    trusted: Annotated[tuple[float, float] | None, typer.Option(help="Lowest and highest count to trust.")] = None,
    oversample: Annotated[int | None, typer.Option(help="Samples along a pixel's edge; default: as it takes.")] = None,
    domains: Annotated[int | None, typer.Option(help="Mosaic domains; default: as it takes.")] = None,
    phi_steps: Annotated[int | None, typer.Option(help="Steps of a rotation; default: as it takes.")] = None,
    most_steps: Annotated[int, typer.Option("--max-steps", help="Of each fit.")] = 30,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: keep shots that are done.")] = False,
    skip: Annotated[int, typer.Option(help="Leave out the first shots.")] = 0,
    limit: Annotated[int | None, typer.Option(help="At most so many shots.")] = None,
    figures: Annotated[bool, typer.Option(help="Draw pictures of every shot.")] = True,
    import_phil: Annotated[
        Path | None, typer.Option("--import-phil", help="Print the command that does what a diffBragg file asks for.")
    ] = None,
) -> None:
    """Refine crystals, detector and intensities of exposures against their pixels."""
    given = dict(locals())
    if import_phil is not None:
        from nanobrag_torch.cli.nb.phil import translated

        print(translated(import_phil, given))
        return
    _require(experiments=experiments, reflections=reflections, output=output)
    assert output is not None
    from nanobrag_torch.cli.nb.flags import numbers
    from nanobrag_torch.refinement.shots import Run, exit_code, tasks_of

    run = Run(
        experiments=str(experiments),
        reflections=str(reflections),
        structure_factors=None if structure_factors is None else str(structure_factors),
        folder=str(output),
        options=options_of(given),
        figures=figures,
    )
    tasks = tasks_of(
        run,
        images=[str(i) for i in images or ()],
        frames=None if frames is None else numbers(frames),
        skip=skip,
        limit=limit,
    )
    if workers < 1:
        raise InputError("--workers", workers, "1 or more")
    known = output.is_dir()
    try:
        records = _run(run, tasks, workers, resume)
    finally:
        if not known:
            with suppress(OSError):  # of a folder that holds something
                output.rmdir()
    code = exit_code(records)
    if code:
        raise typer.Exit(code)


def _require(**given: Path | None) -> None:
    for name, value in given.items():
        if value is None:
            raise InputError(name, None, "shots.expt shots.refl -F model.mtz -o folder (see nb refine --help)")


def options_of(given: dict[str, Any]) -> dict[str, Any]:
    """Options of refine_still from those of the command line. Raises InputError for words that are no parameters."""
    from nanobrag_torch.refinement.setup import family

    free, fix = words_of(given["free"]), words_of(given["fix"])
    for word in (*free, *fix):
        family(word)
    return {
        "free": free,
        "fix": fix,
        "priors": _priors(words_of(given["prior"])),
        "start": {name: _number(name, value) for name, value in map(_pair, words_of(given["start"]))},
        "N": given["cells"],
        "spread": given["spread"],
        "mosaic": given["mosaic"],
        "shape": given["shape"],
        "intensities": given["intensities"],
        "sigma_F": given["sigma_f"],
        "column": given["column"],
        "groups": groups_of(given["groups"]),
        "spectrum": None if given["spectrum"] is None else str(given["spectrum"]),
        "spectrum_channels": given["spectrum_channels"],
        "bandwidth_eV": given["bandwidth_ev"],
        "psf": given["psf"],
        "psf_shape": given["psf_shape"],
        "flag": given["flag"],
        "boxes": given["boxes"],
        "half_box": given["box"],
        "d_min": given["d_min"],
        "d_max": given["d_max"],
        "background": given["background"],
        "target": given["target"],
        "gain": given["gain"],
        "pedestal": given["pedestal"],
        "readout_noise": given["readout_noise"],
        "mask": _mask(given["mask"]),
        "trusted_range": given["trusted"],
        "most_steps": given["most_steps"],
        "sampling": _sampling(given["oversample"], given["domains"], given["phi_steps"]),
    }


def _sampling(oversample: int | None, domains: int | None, phi_steps: int | None) -> Sampling | None:
    """Sums of this fineness, with what was not said as it is by default; None where nothing was said.

    Raises InputError for numbers below one.
    """
    from nanobrag_torch.refinement.model import Sampling

    said = {"oversample": oversample, "domains": domains, "phi_steps": phi_steps}
    for name, value in said.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')}", value, "1 or more")
    if oversample is None and domains is None and phi_steps is None:
        return None
    return Sampling(
        domains=UNSAID_DOMAINS if domains is None else domains,
        oversample=UNSAID_SAMPLES if oversample is None else oversample,
        phi_steps=UNSAID_STEPS if phi_steps is None else phi_steps,
        extrapolated=oversample is None,
    )


def words_of(given: Sequence[str] | None) -> tuple[str, ...]:
    """Words that may be given one by one or with commas."""
    return tuple(word.strip() for part in given or () for word in part.split(",") if word.strip())


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not value:
        raise InputError("--prior, --start", word, "name=value")
    return name, value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(name, text, "a number") from None


def _priors(words: Sequence[str]) -> dict[str, float]:
    """Standard deviations of raw values: 0.2% of lengths, 1.5x a factor, none, or in the parameter's own unit."""
    from math import inf, log

    from nanobrag_torch.refinement.setup import ANGLES, family

    found: dict[str, float] = {}
    for name, value in map(_pair, words):
        stems = [stem for stem in family(name) if not (value[-1] in "%x" and stem in ANGLES)]
        if value == "none":
            sigma = inf
        elif value.endswith("%"):
            sigma = _number(name, value[:-1]) / 100
        elif value.endswith("x"):
            sigma = log(max(_number(name, value[:-1]), 1e-9))
        else:
            sigma = _number(name, value)
        if not sigma > 0:
            raise InputError("--prior", f"{name}={value}", "a standard deviation above 0 (a factor above 1)")
        found |= dict.fromkeys(stems, sigma)
    return found


def groups_of(text: str) -> str | dict[int, int]:
    """whole, panel, a level; or a file with the number of a panel and of its group in every line."""
    path = Path(text)
    if text in ("whole", "panel") or text.isdigit() or not path.is_file():
        return text
    import numpy as np

    try:
        table = np.loadtxt(path, dtype=np.int64, ndmin=2, delimiter=None)
    except ValueError as error:
        raise InputError("--groups", text, f"a panel and its group in every line ({error})") from error
    if table.shape[1] != 2:
        raise InputError("--groups", text, "a panel and its group in every line")
    return {int(panel): int(group) for panel, group in table}


def _mask(path: Path | None) -> str | None:
    if path is not None and path.suffix in (".pkl", ".pickle", ".mask"):
        accepted = "an image (npy, cbf, ...): a pickle can run anything; save the array with numpy"
        raise InputError("--mask", str(path), accepted)
    return None if path is None else str(path)


def _run(run: Any, tasks: Sequence[Any], workers: int, resume: bool) -> list[dict[str, Any]]:
    """Refine with a meter and a line a shot, then put the files of all together and say what was done."""
    import sys

    from nanobrag_torch.cli.progress import progress_meter
    from nanobrag_torch.io.ownership import owned_folder
    from nanobrag_torch.refinement.shots import SUMMARY, check_shared, job_of, refine_many, require_apart

    require_apart(run, tasks)
    with owned_folder(Path(run.folder), job_of(run, tasks)) as waited:
        check_shared(run)
        earlier = (Path(run.folder) / SUMMARY).is_file()
        with progress_meter(len(tasks) > 1, stream=sys.stderr, what="refining") as meter:

            def report(record: dict[str, Any], done: int) -> None:
                print(line(record), flush=True)
                if meter is not None:
                    meter(done / len(tasks))

            records = refine_many(run, tasks, workers=workers, resume=resume or waited, report=report)
        if any(record["status"] != "input" for record in records):
            _collected(run, records)
        elif earlier:
            _leave_nothing(Path(run.folder))
    return records


def _leave_nothing(folder: Path) -> None:
    """Without what an earlier run put together: none of its shots is there any more."""
    from nanobrag_torch.refinement.collected import FILES_OF_ALL
    from nanobrag_torch.report.shot import PAGE

    for name in (*FILES_OF_ALL, PAGE):
        (folder / name).unlink(missing_ok=True)


def _collected(run: Any, records: list[dict[str, Any]]) -> None:
    from nanobrag_torch.refinement.collected import collect
    from nanobrag_torch.report.shots import write_pages

    group = next((r["space_group"] for r in records if r.get("space_group")), None)
    files, names = collect(run.folder, records, group)
    if len(records) == 1:
        print_one(records[0])
    else:
        print("\n".join(summary(records)))
    files.append(write_pages(run.folder))
    print(f"{run.folder}: {', '.join(files)} of {len(names)} of {len(records)} shots")


def line(record: dict[str, Any]) -> str:
    """A shot in a line."""
    status = record["status"]
    if status == "input":
        return f"{record['name']}: not refined: {record['reason']}"
    why = f" ({record['reason']})" if record.get("reason") else ""
    z = record.get("sigma_z")
    fit = "" if z is None else f", sigma-Z {z:.3f}, {record['steps']} steps, {record['reflections']} reflections"
    return f"{record['name']}: {status}{why}{fit}, {record['shape']}, {record['seconds_in_all']:.1f} s"


def summary(records: Sequence[dict[str, Any]]) -> list[str]:
    """A table of how shots ended: a row a verdict, with medians of those that have a fit."""
    from statistics import median

    rows: list[tuple[str, ...]] = [("verdict", "shots", "sigma-Z", "steps", "reflections", "seconds")]
    for status in dict.fromkeys(("converged", "stalled", "failed", *(r["status"] for r in records))):
        mine = [r for r in records if r["status"] == status]
        cells = []
        for name, form in (("sigma_z", ".3f"), ("steps", ".0f"), ("reflections", ".0f"), ("seconds_in_all", ".1f")):
            known = [r[name] for r in mine if r.get(name) is not None]
            cells.append(format(median(known), form) if known else "")
        if mine:
            rows.append(("not refined" if status == "input" else status, str(len(mine)), *cells))
    return [f"{row[0]:12s}" + "".join(f"{cell:>13s}" for cell in row[1:]) for row in rows]


def print_one(record: dict[str, Any]) -> None:
    """The parameters of a single shot, and what was noted."""
    for p in record.get("parameters", ()):
        note = f"= {p['tied_to']}" if p["tied_to"] else "" if p["sigma"] is None else f"+- {p['sigma']:.2g}"
        note = note if p["free"] or p["tied_to"] else "fixed"
        print(f"{p['name']:14s} {p['value']:14.7g} {note:14s} {p['unit']}".rstrip())
    for note in record.get("notes", ()):
        print(f"note: {note}")
