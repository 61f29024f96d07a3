"""DIALS experiment lists (`.expt`): JSON with lists of beams, detectors, goniometers, scans and crystals.

Panels are stored in the frame of the group they hang in; here they are in the lab frame. Old files have panels and no
hierarchy. Angles are degrees, lengths millimetres, cells Angstrom, as in `experiment.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.fields import Node, naming, number_or_none
from nanobrag_torch.io.fileformat import FileFormat
from nanobrag_torch.records import experiment as record
from nanobrag_torch.records.contents import HEADER

PROPERTIES = ("oscillation", "oscillation_width", "exposure_time", "epochs", "time_of_flight")
UNCERTAINTIES = (
    "B_covariance", "B_covariance_at_scan_points", "recalculated_unit_cell", "recalculated_cell_parameter_sd",
    "recalculated_cell_volume_sd",
)  # fmt: skip
LOOKUPS = {"mask": "mask file", "gain": "gain file", "pedestal": "pedestal file", "dx": "distortion file"}
"""What an imageset may name of other files -> in words."""
ACCEPTED = 'a DIALS experiment list: JSON with "__id__": "ExperimentList"'

T = TypeVar("T")


def read_expt(path: str | os.PathLike[str], index: int | None = None) -> record.ExperimentData:
    """The experiment of a `.expt` file, or experiment `index` of several.

    Raises InputError if the file cannot be read, is not such a file, or holds several and no index is given.
    """
    experiments = read_expts(path)
    if index is None and len(experiments) > 1:
        raise InputError(str(path), f"{len(experiments)} experiments", "one of them, chosen by its index from 0")
    if index is not None and not 0 <= index < len(experiments):
        raise InputError(str(path), index, f"an index from 0 to {len(experiments) - 1}")
    return experiments[index or 0]


def read_expts(path: str | os.PathLike[str]) -> list[record.ExperimentData]:
    """All experiments of a `.expt` file. Raises InputError naming the file and the place of what is wrong."""
    content = read_input(path, "experiment list", ACCEPTED)
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise InputError(str(path), str(error), ACCEPTED) from error
    return experiments_of(tree, str(path))


def experiments_of(tree: object, path: str) -> list[record.ExperimentData]:
    """All experiments of an experiment list that is read already; path: what errors call it."""
    root = Node(path, "", tree)
    if not isinstance(tree, dict) or tree.get("__id__") != "ExperimentList":
        raise InputError(str(path), "JSON of another kind", ACCEPTED)
    experiments = root["experiment"].items()
    if not experiments:
        raise InputError(f"{path}: experiment", [], "at least one experiment")
    return [_experiment(root, experiment) for experiment in experiments]


def _experiment(root: Node, chosen: Node) -> record.ExperimentData:
    identifier, template, images, numbers = chosen.get("identifier"), None, None, None
    imageset = _part(root, chosen, "imageset", lambda node: node)
    if imageset is not None:
        template, images, numbers = (imageset.get(name) for name in ("template", "images", "single_file_indices"))
    return record.ExperimentData(
        beam=_part(root, chosen, "beam", _beam),
        detector=_part(root, chosen, "detector", _detector),
        goniometer=_part(root, chosen, "goniometer", _goniometer),
        scan=_part(root, chosen, "scan", _scan),
        crystal=_part(root, chosen, "crystal", _crystal),
        identifier="" if identifier is None else identifier.text(),
        image_template=None if template is None else template.text(),
        images=() if images is None else tuple(image.text() for image in images.items()),
        image_numbers=() if numbers is None else tuple(number.whole() for number in numbers.items()),
        not_kept=_not_kept(chosen, imageset),
    )


def _not_kept(chosen: Node, imageset: Node | None) -> tuple[str, ...]:
    """What an experiment points to that has no place here."""
    models = [
        word for key, word in (("profile", "profile model"), ("scaling_model", "scaling model")) if chosen.get(key)
    ]
    named = {} if imageset is None else imageset.value
    return (*models, *(word for key, word in LOOKUPS.items() if isinstance(named, dict) and named.get(key)))


def _part(root: Node, chosen: Node, name: str, read: Callable[[Node], T]) -> T | None:
    """The model that an experiment points to; models may be absent."""
    index = chosen.get(name)
    if index is None:
        return None
    found = root[name].get(index.whole())
    if found is None:
        raise index.fail(f"the index of a member of {name}")
    with naming(f"{found.path}: {found.place}"):
        return read(found.mapping())


def _beam(node: Node) -> record.BeamData:
    kind = node.get("__id__")
    if kind is not None and kind.value not in ("monochromatic", "polychromatic"):
        raise kind.fail("monochromatic or polychromatic")
    limits, spectrum, normal = node.get("wavelength_range"), node.get("spectrum"), node.get("polarization_normal")
    if limits is None or node.get("wavelength") is not None:
        wavelength = node["wavelength"].number()
    else:
        wavelength = float(limits.numbers(2).mean())
    return record.BeamData(
        direction=node["direction"].numbers(3),
        wavelength_A=wavelength,
        wavelength_range_A=None if limits is None else limits.pair(),
        polarization_fraction=number_or_none(node.get("polarization_fraction")),
        polarization_normal=None if normal is None else normal.numbers(3),
        spectrum_energies_eV=None if spectrum is None else spectrum["energies_eV"].numbers(-1),
        spectrum_weights=None if spectrum is None else spectrum["weights"].numbers(-1),
        divergence_deg=_known(node, "divergence"),
        sigma_divergence_deg=_known(node, "sigma_divergence"),
        flux=_known(node, "flux"),
        transmission=number_or_none(node.get("transmission")),
        source_distance_mm=_known(node, "sample_to_source_distance"),
        probe="x-ray" if (probe := node.get("probe")) is None else probe.text(),
        s0_at_scan_points=None if (points := node.get("s0_at_scan_points")) is None else points.numbers(-1, 3),
    )


def _known(node: Node, key: str) -> float | None:
    """A number of which DIALS writes 0 for "not known"."""
    return number_or_none(node.get(key)) or None


def _detector(node: Node) -> record.DetectorData:
    panels = node["panels"].items()
    if (hierarchy := node.get("hierarchy")) is None:
        return record.DetectorData(panels=tuple(_panel(panel, record.GroupData()) for panel in panels))
    placed: dict[int, record.PanelData] = {}
    root = _group(hierarchy.mapping(), record.GroupData(), panels, placed)
    missing = sorted(set(range(len(panels))) - set(placed))
    if missing:
        raise hierarchy.fail(f"a hierarchy with every panel; {missing[:5]} is missing")
    trivial = len(root.children) == len(panels) and _is_plain(root)
    return record.DetectorData(panels=tuple(placed[i] for i in range(len(panels))), root=None if trivial else root)


def _is_plain(group: record.GroupData) -> bool:
    """Whether a group is only a list of panels in the lab frame."""
    identity = not np.any(group.origin_mm) and np.array_equal(group.axes, np.eye(3))
    return identity and all(isinstance(child, int) for child in group.children)


def _group(
    node: Node, parent: record.GroupData, panels: list[Node], placed: dict[int, record.PanelData]
) -> record.GroupData:
    """A group in the lab frame; fills in the panels that hang below it."""
    frame = _frame(node, parent)
    children: list[record.GroupData | int] = []
    for child in node["children"].items():
        index = child.get("panel")
        if index is None:
            children.append(_group(child.mapping(), frame, panels, placed))
            continue
        number = index.whole()
        if not 0 <= number < len(panels) or number in placed:
            raise index.fail("the index of a panel, each once")
        placed[number] = _panel(panels[number], frame)
        children.append(number)
    return record.GroupData(
        name=_name(node), origin_mm=frame.origin_mm, fast=frame.fast, slow=frame.slow, children=tuple(children)
    )


def _frame(node: Node, parent: record.GroupData) -> record.GroupData:
    """Frame of a panel or group in the lab, from its frame in its parent."""
    given = {key: node.get(key) for key in ("fast_axis", "slow_axis", "origin")}
    standard = record.GroupData()
    fast = standard.fast if given["fast_axis"] is None else given["fast_axis"].numbers(3)
    slow = standard.slow if given["slow_axis"] is None else given["slow_axis"].numbers(3)
    origin = standard.origin_mm if given["origin"] is None else given["origin"].numbers(3)
    axes = parent.axes
    return record.GroupData(origin_mm=origin @ axes + parent.origin_mm, fast=fast @ axes, slow=slow @ axes)


def _name(node: Node) -> str:
    name = node.get("name")
    return "" if name is None else name.text()


def _panel(node: Node, parent: record.GroupData) -> record.PanelData:
    for key in ("fast_axis", "slow_axis", "origin"):
        node[key].numbers(3)
    frame, limits, material = _frame(node, parent), node.get("trusted_range"), node.get("material")
    strategy, offset, mask = node.get("px_mm_strategy"), node.get("raw_image_offset"), node.get("mask")
    parallax = strategy is not None and str(strategy["type"].value).startswith("ParallaxCorrected")
    return record.PanelData(
        name=_name(node),
        origin_mm=frame.origin_mm,
        fast=frame.fast,
        slow=frame.slow,
        pixel_size_mm=node["pixel_size"].pair(),
        image_size=node["image_size"].whole_pair(),
        thickness_mm=_known(node, "thickness"),
        mu_per_mm=_known(node, "mu"),
        material=(material.text() or None) if material is not None else None,
        trusted_range=None if limits is None else limits.pair(),
        gain=number_or_none(node.get("gain")),
        pedestal=number_or_none(node.get("pedestal")),
        parallax=parallax,
        untrusted=() if mask is None else tuple(_rectangle(part) for part in mask.items()),
        raw_image_offset=(0, 0) if offset is None else offset.whole_pair(),
    )


def _rectangle(node: Node) -> tuple[int, int, int, int]:
    fast0, slow0, fast1, slow1 = (int(x) for x in node.numbers(4))
    return fast0, slow0, fast1, slow1


def _goniometer(node: Node) -> record.GoniometerData:
    rotations: dict[str, record.Vector] = {
        name: found.numbers(9).reshape(3, 3)
        for name in ("fixed_rotation", "setting_rotation")
        if (found := node.get(name)) is not None
    }
    points = node.get("setting_rotation_at_scan_points")
    more: dict[str, Any] = {
        **rotations,
        "setting_at_scan_points": None if points is None else points.numbers(-1, 9).reshape(-1, 3, 3),
    }
    if node.get("axes") is None:
        return record.GoniometerData(rotation_axis=node["rotation_axis"].numbers(3), **more)
    names = tuple(name.text() for name in node["names"].items())
    axes, angles = node["axes"].numbers(-1, 3), node["angles"].numbers(-1)
    return record.GoniometerData.from_axes(axes, angles, names, node["scan_axis"].whole(), **more)


MOST_FRAMES = 2**24
"""Images of a scan, of each of which numbers are kept."""


def _scan(node: Node) -> record.ScanData:
    first, last = node["image_range"].whole_pair()
    frames, table = last - first + 1, node.get("properties") or node
    if frames > MOST_FRAMES:
        raise node["image_range"].fail(f"a scan of {MOST_FRAMES} images at most")
    start, width = _oscillation(node, table, frames)
    offset = node.get("batch_offset")
    return record.ScanData(
        image_range=(first, last),
        oscillation_start_deg=start,
        oscillation_width_deg=width,
        exposure_times_s=_per_frame(table.get("exposure_time"), frames),
        epochs=_per_frame(table.get("epochs"), frames),
        batch_offset=0 if offset is None else offset.whole(),
        time_of_flight=None if (flight := table.get("time_of_flight")) is None else flight.numbers(frames),
        other_properties=tuple(name for name in (node.value.get("properties") or {}) if name not in PROPERTIES),
    )


def _oscillation(node: Node, table: Node, frames: int) -> tuple[float, float]:
    """Start and width, from the pair of old files or the angle of every image of new ones."""
    if (pair := node.get("oscillation")) is not None:
        return pair.pair()
    angles = table.get("oscillation")
    if angles is None:
        return 0.0, 0.0
    starts = angles.numbers(frames)
    if frames == 1:
        width = table.get("oscillation_width")
        return float(starts[0]), 0.0 if width is None else float(np.ravel(width.value)[0])
    steps = np.diff(starts)
    width_deg = float(starts[-1] - starts[0]) / (frames - 1)
    if np.abs(steps - width_deg).max() > 1e-6 * max(1.0, abs(width_deg)):
        raise angles.fail("images of equal oscillation width")
    return float(starts[0]), width_deg


def _per_frame(node: Node | None, frames: int) -> record.Vector | None:
    """A number for each image; None where DIALS writes zeros for "not known"."""
    if node is None:
        return None
    values = np.atleast_1d(node.numbers(-1) if isinstance(node.value, list) else node.numbers())
    if len(values) == 1:
        values = np.full(frames, values[0])
    if not values.any():
        return None
    if len(values) != frames:
        raise node.fail(f"one number for each of {frames} images")
    return values


def _crystal(node: Node) -> record.CrystalData:
    hall, points = node.get("space_group_hall_symbol"), node.get("A_at_scan_points")
    return record.CrystalData(
        real_space=np.stack([node[f"real_space_{axis}"].numbers(3) for axis in "abc"]),
        space_group_hall=None if hall is None else hall.text().strip(),
        mosaicity_deg=number_or_none(node.get("mosaicity")),
        half_mosaicity_deg=number_or_none(node.get("ML_half_mosaicity_deg")),
        domain_size_A=number_or_none(node.get("ML_domain_size_ang")),
        A_at_scan_points=None if points is None else points.numbers(-1, 9).reshape(-1, 3, 3),
        uncertainties={key: node.value[key] for key in UNCERTAINTIES if key in node.value} or None,
    )


FORMAT = FileFormat(
    name="expt",
    title="DIALS .expt",
    recognises=lambda file: file.start.lstrip().startswith(b"{") and b"ExperimentList" in file.content,
    suffixes=(".expt",),
    read_experiments=lambda path, _: read_expts(path),
    write_experiment=write_expt,
    holds=HEADER
    | {
        "several panels", "groups of panels", "nested groups", "group frames", "untrusted rectangles", "parallax",
        "spectrum", "wavelength range", "goniometer axes", "scan-varying setting", "several images",
        "scan-varying crystal", "mosaic blocks", "scan-varying beam", "time of flight", "uncertainties of the cell",
        "probe electron", "probe neutron",
    },
)  # fmt: skip
