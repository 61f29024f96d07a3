"""A data set for crystallographers: NXmx masters over the shards, and the truth as DIALS's .expt and .refl.

Stills: one master; a .expt and a .refl a shard, one experiment a lattice of an image. Scans: a master, a .expt and a
.refl a scan, one experiment a lattice; a reflection's row gathers what consecutive frames have of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.crystallography.symmetry import space_group
from nanobrag_torch.datasets.labels import Columns
from nanobrag_torch.datasets.plan import ImagePlan, LatticePlan
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.store import FLAG, Folder
from nanobrag_torch.datasets.turning import turns_of
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.expt_write import experiment_list
from nanobrag_torch.io.hdf5_frames import hdf5_output
from nanobrag_torch.io.nxmx_write import create_nxmx
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import CrystalData, DetectorData, ExperimentData, GroupData, ScanData
from nanobrag_torch.records.frames import turn_detector
from nanobrag_torch.records.reflections import Cell
from nanobrag_torch.records.tables import ReflectionData

Reals = NDArray[np.float64]

PREDICTED, OBSERVED, INDEXED, SUMMED = 1, 2, 4, 1 << 8
"""Flags of DIALS that are true of every spot of the truth."""


def experiment_of(renderer: Renderer, plan: ImagePlan, lattice: LatticePlan | None = None) -> ExperimentData:
    """Where beam, detector and crystal of an image are."""
    data = renderer.data
    assert data.beam is not None and data.detector is not None
    direction = plan.beam_turn @ data.beam.direction
    return replace(
        data,
        beam=replace(data.beam, direction=direction, wavelength_A=plan.wavelength_A),
        detector=moved_detector(renderer, plan),
        crystal=None if lattice is None else crystal_of(renderer, lattice),
        identifier=identifier(plan, lattice) if lattice is not None else "",
    )


def identifier(plan: ImagePlan, lattice: LatticePlan) -> str:
    """A name for a lattice of an image, or of a scan."""
    return f"series-{plan.series}-lattice-{lattice.number}-piece-{lattice.piece}"


def moved_detector(renderer: Renderer, plan: ImagePlan) -> DetectorData:
    """The detector as the image was made with, and what its values mean."""
    assert renderer.data.detector is not None
    response, shift = renderer.recipe.response, plan.shift_mm
    values: dict[str, Any] = {
        "gain": response.gain,
        "pedestal": response.pedestal,
        "trusted_range": (0.0, renderer.saturation),
    }
    given = renderer.data.detector
    panels = tuple(replace(panel, origin_mm=panel.origin_mm + shift, **values) for panel in given.panels)
    root = None if given.root is None else _shifted(given.root, shift)
    moved = DetectorData(panels=panels, root=root)
    if not plan.tilt_deg.any():
        return moved
    return turn_detector(moved, turns_of(np.radians(plan.tilt_deg)))


def _shifted(group: GroupData, shift: Reals) -> GroupData:
    children = tuple(child if isinstance(child, int) else _shifted(child, shift) for child in group.children)
    return replace(group, origin_mm=group.origin_mm + shift, children=children)


def crystal_of(renderer: Renderer, lattice: LatticePlan) -> CrystalData:
    """Cell, orientation, symmetry and mosaicity of a lattice."""
    hall = _hall_symbol(renderer.materials[lattice.crystal].space_group, lattice.cell)
    return CrystalData(real_space=lattice.rows, space_group_hall=hall, mosaicity_deg=lattice.spread_deg or None)


@lru_cache(maxsize=256)
def _hall_symbol(name: str, cell: Cell) -> str:
    return str(space_group(name, cell).hall)


def _write_scan(path: Path, experiments: Sequence[ExperimentData], master: str) -> None:
    """A DIALS experiment list of a scan, which is one sequence."""
    tree = experiment_list(experiments)
    frames = experiments[0].scan.frames if experiments and experiments[0].scan is not None else 0
    tree["imageset"] = [image_set("ImageSequence", master, frames)] if experiments else []
    for entry in tree["experiment"]:
        entry["imageset"] = 0
    with open_output(path, FLAG) as file:
        file.write(json.dumps(tree).encode() + b"\n")


def image_set(kind: str, master: str, number: int) -> dict[str, Any]:
    """Where images are: the one of that number in the master, or of a sequence the first so many."""
    files = dict.fromkeys(("mask", "gain", "pedestal", "dx", "dy"), "")
    if kind == "ImageSet":
        return {"__id__": kind, "images": [master], "single_file_indices": [number], **files, "params": {}}
    return {"__id__": kind, "template": master, "single_file_indices": list(range(number)), **files, "params": {}}


def reflection_columns(
    spots: Columns, own: NDArray[np.int32], z: Reals, positions: Reals, sizes: Reals, wavelength_A: float | Reals
) -> Columns:
    """The columns of a DIALS table for labelled spots. own [n]: their experiments, z [n]: their frames.

    positions [n, 3] in the lab and sizes [n, 2] of pixels in mm; wavelengths one, or [n].
    """
    count = len(own)
    fast, slow, panel = (spots[name] for name in ("fast", "slow", "panel"))
    mm = np.column_stack((fast * sizes[:, 0], slow * sizes[:, 1], np.radians(spots["angle_deg"])))
    ray = positions / np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-30)
    frames = np.floor(z).astype(np.int32)
    edges = [spots[name] for name in ("fast0", "fast1", "slow0", "slow1")] + [frames, frames + 1]
    photons = spots["photons"].astype(np.float64)
    return {
        "miller_index": np.stack([spots[axis] for axis in "hkl"], 1).astype(np.int32),
        "id": own,
        "imageset_id": np.zeros_like(own),
        "panel": panel.astype(np.uint64),
        "flags": np.full(count, PREDICTED | OBSERVED | INDEXED | SUMMED, np.uint64),
        "s1": ray / np.reshape(wavelength_A, (-1, 1)),
        "xyzcal.px": np.stack((fast, slow, z), 1).astype(np.float64),
        "xyzcal.mm": mm,
        "xyzobs.px.value": np.stack((spots["centroid_fast"], spots["centroid_slow"], z), 1).astype(np.float64),
        "bbox": np.stack(edges, 1).astype(np.int32),
        "d": spots["d_A"].astype(np.float64),
        "partiality": spots["partiality"].astype(np.float64),
        "intensity.sum.value": photons,
        "intensity.sum.variance": photons + spots["background"].astype(np.float64),
    }


def write_masters(folder: Folder, renderer: Renderer) -> list[Path]:
    """The NXmx files over all shards, and for scans their .expt and .refl. Raises InputError for a full disk."""
    recipe = folder.recipe
    if not recipe.output.recorded:
        return []
    if not recipe.is_scan:
        return [_write_master(folder, renderer, folder.path / "master.nxs", range(recipe.dataset.images))]
    scans = recipe.dataset.images // recipe.scan.frames
    written = []
    for scan in range(scans):
        name = "master" if scans == 1 else f"master_{scan:04d}"
        images = range(scan * recipe.scan.frames, (scan + 1) * recipe.scan.frames)
        written.append(_write_master(folder, renderer, folder.path / f"{name}.nxs", images))
        if recipe.labels.spots:
            _write_scan_truth(folder, renderer, name, images)
    return written


def _write_master(folder: Folder, renderer: Renderer, path: Path, images: range) -> Path:
    import h5py

    recipe, detector = folder.recipe, renderer.data.detector
    assert detector is not None and renderer.data.beam is not None
    shape, kind = detector.stacked_shape, recipe.output.pixel_type
    layout = h5py.VirtualLayout((len(images), *shape), kind)
    size = recipe.dataset.shard_images
    for shard in range(images.start // size, (images.stop - 1) // size + 1):
        own = recipe.images_of(shard)
        source = h5py.VirtualSource(f"shards/{shard:05d}.h5", "recorded", (len(own), *shape), kind)
        first, last = max(own.start, images.start), min(own.stop, images.stop)
        layout[first - images.start : last - images.start] = source[first - own.start : last - own.start]
    with hdf5_output(path, FLAG) as (file, _):
        create_nxmx(file, _master_experiment(renderer, images), len(images), kind, layout=layout)
    return path


def _master_experiment(renderer: Renderer, images: range) -> ExperimentData:
    """A scan as it was made; stills by the detector in the middle of its distributions, and a wavelength an image."""
    plan = renderer.plan.image(images.start)
    if renderer.recipe.is_scan:
        return replace(_scan_experiment(renderer, plan, plan.lattices[0] if plan.lattices else None), identifier="")
    nominal = replace(plan, shift_mm=np.zeros(3), tilt_deg=np.zeros(3), beam_turn=np.eye(3))
    data = experiment_of(renderer, nominal)
    assert data.beam is not None
    each = np.array([renderer.plan.image(image).wavelength_A for image in images])
    return replace(data, beam=replace(data.beam, wavelength_A=float(each.mean()), frame_wavelengths_A=each))


def _scan_experiment(renderer: Renderer, plan: ImagePlan, lattice: LatticePlan | None) -> ExperimentData:
    scan = renderer.recipe.scan
    start = float(plan.phi_deg.mean()) - scan.width_deg / 2
    turning = ScanData(image_range=(1, scan.frames), oscillation_start_deg=start, oscillation_width_deg=scan.width_deg)
    return replace(experiment_of(renderer, plan, lattice), scan=turning)


def _write_scan_truth(folder: Folder, renderer: Renderer, name: str, images: range) -> None:
    plan = renderer.plan.image(images.start)
    experiments = [_scan_experiment(renderer, plan, lattice) for lattice in plan.lattices]
    _write_scan(folder.path / f"{name}.expt", experiments, f"{name}.nxs")
    spots = gathered(_spots_of(folder, images), images.start)
    places = {(lattice.number, lattice.piece): i for i, lattice in enumerate(plan.lattices)}
    own = [places[key] for key in zip(spots["lattice"].tolist(), spots["piece"].tolist(), strict=True)]
    start = float(plan.phi_deg.mean()) - renderer.recipe.scan.width_deg / 2
    z = (spots["angle_deg"].astype(np.float64) - start) / renderer.recipe.scan.width_deg
    data = experiments[0] if experiments else _scan_experiment(renderer, plan, None)
    columns = reflection_columns(spots, np.array(own, np.int32), z, *_places(data, spots), plan.wavelength_A)
    columns["xyzobs.px.value"][:, 2] = spots["frame_centroid"]
    columns["bbox"][:, 4], columns["bbox"][:, 5] = spots["frame0"], spots["frame1"]
    names = {i: experiment.identifier for i, experiment in enumerate(experiments)}
    table = ReflectionData(rows=len(own), identifiers=names, columns=columns)
    write_refl(folder.path / f"{name}.refl", table, flag=FLAG)


def _places(data: ExperimentData, spots: Columns) -> tuple[Reals, Reals]:
    """Where spots [n, 3] are in the lab, and the size of their pixels [n, 2] (mm)."""
    assert data.detector is not None
    panel, panels = spots["panel"], data.detector.panels
    positions = np.zeros((len(panel), 3))
    for index, one in enumerate(panels):
        here = panel == index
        positions[here] = one.positions_mm(spots["fast"][here], spots["slow"][here])
    return positions, np.array([one.pixel_size_mm for one in panels])[panel]


def _spots_of(folder: Folder, images: range) -> Columns:
    from pyarrow import concat_tables, parquet

    size = folder.recipe.dataset.shard_images
    shards = range(images.start // size, (images.stop - 1) // size + 1)
    table = concat_tables([parquet.read_table(folder.shard(shard, "spots.parquet")) for shard in shards])
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    inside = (columns["image"] >= images.start) & (columns["image"] < images.stop)
    return {name: column[inside] for name, column in columns.items()}


def gathered(spots: Columns, first_image: int) -> Columns:
    """One row a reflection of what consecutive frames have of it: photons added, positions and angles weighted by them,
    the partiality of the frame that has most of it.

    A reflection that is not seen for two frames, and then again, is another one.
    """
    keys = ("lattice", "piece", "panel", "h", "k", "l")
    frame = (spots["image"] - first_image).astype(np.int64)
    order = np.lexsort((frame, *(spots[key] for key in keys[::-1])))
    sorted_ = {name: column[order] for name, column in spots.items()}
    frame = frame[order]
    new = np.ones(len(frame), np.bool_)
    if len(frame):
        same = np.all([sorted_[key][1:] == sorted_[key][:-1] for key in keys], axis=0)
        new[1:] = ~(same & (np.diff(frame) <= 2))
    starts = np.flatnonzero(new)
    photons = sorted_["photons"].astype(np.float64)
    weight = np.maximum(photons, np.finfo(np.float64).tiny)
    total = _reduced(np.add, weight, starts)
    found: Columns = {key: sorted_[key][starts] for key in (*keys, "d_A")}
    for name in ("fast", "slow", "centroid_fast", "centroid_slow", "angle_deg"):
        found[name] = _reduced(np.add, weight * sorted_[name].astype(np.float64), starts) / total
    for name in ("photons", "photons_total", "background"):
        found[name] = _reduced(np.add, sorted_[name].astype(np.float64), starts)
    found["partiality"] = _reduced(np.maximum, sorted_["partiality"].astype(np.float64), starts)
    for name, join in (("fast0", np.minimum), ("slow0", np.minimum), ("fast1", np.maximum), ("slow1", np.maximum)):
        found[name] = _reduced(join, sorted_[name], starts)
    found["frame0"], found["frame1"] = _reduced(np.minimum, frame, starts), _reduced(np.maximum, frame, starts) + 1
    found["frame_centroid"] = _reduced(np.add, weight * (frame + 0.5), starts) / total
    return found


def _reduced(join: np.ufunc, column: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[Any]:
    return join.reduceat(column, starts) if len(starts) else column[:0]
