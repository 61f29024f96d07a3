"""A fit in words: what was fitted, from where, whether it is good, and what to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from nanobrag_torch.report.charts import GREEN, ORANGE, RED
from nanobrag_torch.report.page import banner, table
from nanobrag_torch.report.shot_data import Shot

GOOD, FAIR = 1.1, 1.5
"""Sigma-Z up to which a fit is called good, and fair."""
BAD_BOX = 1.5
FAR_PIXEL = 3.0
FAR_FROM_PRIOR = 2.0
UNITS = {"A": "Å", "deg": "degrees"}
MEANINGS = {
    "rot_x": "turn about x", "rot_y": "turn about y", "rot_z": "turn about z",
    **dict.fromkeys("abc", "cell edge"),
    **dict.fromkeys(("alpha", "beta", "gamma"), "cell angle"),
    "N": "cells along an axis of the crystal", "spread": "mosaic spread", "scale": "what the crystal scatters",
    "B": "B factor", "distance": "from sample to detector", "shift": "shift of the detector",
    "tilt": "tilt of the detector", "beam": "direction of the beam", "wavelength": "mean wavelength",
    "spectrum": "form of the spectrum", "spindle": "axis of the rotation", "phi": "start of the rotation",
    "psf": "spread of light in the detector",
}  # fmt: skip


def verdict(shot: Shot) -> Any:
    """The banner at the top of a shot's page."""
    colour, headline = judgement(shot.record)
    return banner(colour, headline, list(sentences(shot)))


def judgement(record: dict[str, Any]) -> tuple[str, str]:
    """A colour and a line: whether a fit can be believed."""
    z, why = record.get("sigma_z"), record.get("reason")
    if record["status"] == "input":
        return RED, f"Not refined: {why}"
    if record["status"] == "failed":
        return RED, f"Failed: {why}"
    if record["status"] == "stalled":
        return ORANGE, f"Stalled: {why}"
    if z is None:
        return RED, "Converged, but without a measure of how well"
    if z <= GOOD:
        return GREEN, "Good: the fit converged, and the model explains the pixels down to their noise"
    if z <= FAIR:
        return ORANGE, f"Fair: the fit converged, and the model leaves {z:.2f} times the noise"
    return RED, f"Converged, but not good: the model leaves {z:.2f} times the noise"


def sentences(shot: Shot) -> Iterator[str]:
    """What a stranger needs to know, in order."""
    record, boxes = shot.record, shot.boxes
    if boxes is not None:
        spots = f"{len(boxes.worst_first)} boxes of pixels about reflections ({len(boxes.pixel)} pixels)"
        yield (
            f"Fitted: {spots}, by {len(shot.moved)} parameters of crystal, beam and detector, "
            f"with an intensity for each of {record['reflections']} reflections and a plane of background a box."
        )
    if shot.moved:
        yield f"From where: {_travel(shot)}, in {record['steps']} steps."
    if boxes is not None and record.get("sigma_z") is not None:
        beyond, alone = (100 * float((np.abs(z) > FAR_PIXEL).mean()) for z in (boxes.z, boxes.expected_z))
        yield (
            f"How good: differences between data and model are {record['sigma_z']:.3f} times the expected noise "
            f"(sigma-Z; 1 is perfect). {beyond:.2g}% of the pixels are beyond 3 sigma; counting noise alone gives "
            f"{alone:.2g}%."
        )
    found = list(warnings(shot))
    yield f"To look at: {'; '.join(found)}." if found else "Nothing calls for attention."


def warnings(shot: Shot) -> Iterator[str]:
    """What calls for attention, a phrase each."""
    if shot.boxes is not None and (bad := int((shot.boxes.sigma_z > BAD_BOX).sum())):
        yield f"{bad} of {len(shot.boxes.worst_first)} boxes have a sigma-Z above {BAD_BOX:g}"
    for p in shot.moved:
        off = _from_prior(p)
        if off is not None and off > FAR_FROM_PRIOR:
            yield f"{p['name']} ended {off:.1f} standard deviations from what was expected"
    for a, b, c in shot.record.get("correlated", ()):
        yield f"{a} and {b} are hard to tell apart (correlation {c:+.3f})"
    yield from shot.record.get("notes", ())


def _from_prior(p: dict[str, Any]) -> float | None:
    """Distance from the mean of the prior in its standard deviations; of what is above 0 those are relative."""
    if not p.get("prior") or not p["prior"][1]:
        return None
    mean, sigma = p["prior"]
    relative = p["value"] > 0 and mean > 0 and p["name"].split("@")[0].split("_")[0] in ("a", "b", "c", "N", "spread")
    return float(abs(np.log(p["value"] / mean) if relative else p["value"] - mean) / sigma)


def _travel(shot: Shot) -> str:
    """How far the fit went from its start."""
    by_name = {p["name"]: p for p in shot.moved if p["start"] is not None}
    turn = np.sqrt(sum((by_name[n]["value"] - by_name[n]["start"]) ** 2 for n in by_name if n.startswith("rot_")))
    said = [f"the orientation turned by {turn:.3g} degrees"] if turn else []
    edges = [100 * (by_name[n]["value"] / by_name[n]["start"] - 1) for n in ("a", "b", "c") if n in by_name]
    if edges:
        said.append(f"the cell changed by {max(edges, key=abs):+.2g}%")
    if "distance" in by_name:
        said.append(f"the distance by {by_name['distance']['value'] - by_name['distance']['start']:+.2g} mm")
    return "from the files given, " + (", ".join(said) if said else f"{len(by_name)} parameters moved")


def parameter_table(shot: Shot) -> Any:
    """Every parameter: start, value, standard deviation, and how far it went."""
    heads = ("parameter", "what it is", "start", "value", "sigma", "change", "unit")
    return table(heads, [_parameter_row(p) for p in shot.record["parameters"]], left=2)


def _parameter_row(p: dict[str, Any]) -> Sequence[str]:
    sigma, start = p["sigma"], p["start"]
    held = f"= {p['tied_to']}" if p["tied_to"] else "" if p["free"] else "held"
    change = "" if held or start is None else f"{p['value'] - start:+.3g}"
    stem = p["name"].rpartition(":")[2].partition("@")[0]
    meaning = MEANINGS.get(stem) or MEANINGS.get(stem.partition("_")[0], "")
    return (
        p["name"], meaning, "" if start is None else f"{start:.6g}", f"{p['value']:.7g}",
        held or ("" if sigma is None else f"{sigma:.2g}"), change, UNITS.get(p["unit"], p["unit"]),
    )  # fmt: skip


def facts(shot: Shot) -> str:
    """A small line for the end: times, versions, and where the numbers are."""
    record = shot.record
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in record.get("seconds", {}).items())
    versions = ", ".join(f"{name} {value}" for name, value in record.get("versions", {}).items())
    shapes = ", ".join(f"{n} {v:+.1f}" for n, v in record.get("shapes_loss_above_best", {}).items() if v is not None)
    said = [f"Spots have the shape {record.get('shape', '')}" + (f" (loss of each shape: {shapes})" if shapes else "")]
    said += [f"Seconds: {seconds}", f"Made by {versions}", "All numbers: parameters.json, refined.refl, boxes.npz"]
    return escape(". ".join(said)) + "."
