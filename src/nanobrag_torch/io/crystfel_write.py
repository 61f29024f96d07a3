"""Writing CrystFEL geometries; `crystfel.py` reads them and says what they hold."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.records.experiment import DetectorData, ExperimentData, PanelData, Vector
from nanobrag_torch.records.frames import from_imgcif, turn_detector, turn_to_z

MM_PER_M = 1000.0


def write_crystfel(target: Target, data: ExperimentData, *, flag: str = "output file") -> None:
    """Write a CrystFEL geometry: panels one below the other in the data array, rigid groups, the wavelength.

    A beam that is not along z is turned there, and the detector with it. Raises InputError if there is no detector, or
    a panel has a name that CrystFEL would misread.
    """
    data.need("detector", where="a CrystFEL geometry")
    with open_output(target, flag) as file:
        file.write(crystfel_text(data).encode())


def crystfel_text(data: ExperimentData) -> str:
    """The text of a CrystFEL geometry."""
    detector, beam = data.detector, data.beam
    if detector is None:
        raise InputError("detector", None, "an experiment with a detector")
    lines = []
    if beam is not None:
        lines.append(f"wavelength = {beam.wavelength_A!r} A")
        detector = turn_detector(detector, turn_to_z(beam.direction))
    names = panel_names(detector)
    lines += _group_lines(detector, names)
    for panel, name, start in zip(detector.panels, names, detector.stack_starts(), strict=True):
        lines += ["", *(f"{name}/{key} = {value}" for key, value in _entries(panel, start).items())]
    for panel, name, start in zip(detector.panels, names, detector.stack_starts(), strict=True):
        lines += _bad_lines(panel, name, start)
    return "\n".join(lines) + "\n"


def panel_names(detector: DetectorData) -> list[str]:
    """Names of panels, or p0, p1, ... where they have none or share one. Raises InputError for unusable names."""
    given = [panel.name.replace(" ", "_") for panel in detector.panels]
    if "" in given or len(set(given)) < len(given):
        return [f"p{index}" for index in range(len(given))]
    for name in given:
        if name.startswith(("bad", "rigid_group", "group", "mask", "dim")) or set(name) & set("/=;,"):
            raise InputError("panel name", name, "a name that CrystFEL does not take for a keyword")
    return given


def _entries(panel: PanelData, start: int) -> dict[str, str]:
    corner = from_imgcif("crystfel", panel.origin_mm)
    pixel_fast, pixel_slow = panel.pixel_size_mm
    slow, fast = panel.shape
    entries = {
        "min_fs": "0",
        "max_fs": str(fast - 1),
        "min_ss": str(start),
        "max_ss": str(start + slow - 1),
        "res": repr(MM_PER_M / pixel_fast),
        "corner_x": repr(float(corner[0] / pixel_fast)),
        "corner_y": repr(float(corner[1] / pixel_fast)),
        "clen": f"{float(corner[2]) / MM_PER_M!r} m",
        "fs": _sum(from_imgcif("crystfel", panel.fast)),
        "ss": _sum(from_imgcif("crystfel", panel.slow) * (pixel_slow / pixel_fast)),
    }
    if panel.gain is not None:
        entries["adu_per_photon"] = repr(panel.gain)
    if panel.trusted_range is not None:
        entries["max_adu"] = repr(float(panel.trusted_range[1]))
    return entries


def _sum(direction: Vector) -> str:
    return " ".join(f"{float(x):+.17f}{axis}" for x, axis in zip(direction, "xyz", strict=True))


def _group_lines(detector: DetectorData, names: list[str]) -> list[str]:
    """The lowest groups as rigid groups."""
    if detector.root is None:
        return []
    lowest = [g for g in detector.root.groups() if any(isinstance(child, int) for child in g.children)]
    labels = [group.name.replace(" ", "_") for group in lowest]
    if "" in labels or len(set(labels)) < len(labels):
        labels = [f"g{index}" for index in range(len(lowest))]
    members = [", ".join(names[i] for i in group.children if isinstance(i, int)) for group in lowest]
    return [
        *(f"rigid_group_{label} = {member}" for label, member in zip(labels, members, strict=True)),
        f"rigid_group_collection_all = {', '.join(labels)}",
    ]


def _bad_lines(panel: PanelData, name: str, start: int) -> list[str]:
    """Bad regions: one a run of rows with the same bad stretch of pixels."""
    lines: list[str] = []
    for number, (f0, s0, f1, s1) in enumerate(bad_rectangles(~panel.good_pixels())):
        region = f"bad_{name}_{number}"
        limits = {"min_fs": f0, "max_fs": f1 - 1, "min_ss": start + s0, "max_ss": start + s1 - 1}
        lines += ["", f"{region}/panel = {name}", *(f"{region}/{key} = {value}" for key, value in limits.items())]
    return lines


def bad_rectangles(bad: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Rectangles fast0, slow0, fast1, slow1 (ends excluded) that together are the True pixels (slow, fast)."""
    if not bad.any():
        return []
    edges = np.diff(np.pad(bad.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, begins = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    order = np.lexsort((rows, ends, begins))
    rows, begins, ends = rows[order], begins[order], ends[order]
    new = np.ones(len(rows), np.bool_)
    new[1:] = (begins[1:] != begins[:-1]) | (ends[1:] != ends[:-1]) | (rows[1:] != rows[:-1] + 1)
    first = np.nonzero(new)[0]
    last = np.append(first[1:], len(rows)) - 1
    table = np.stack((begins[first], rows[first], ends[first], rows[last] + 1), axis=1)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in table]
