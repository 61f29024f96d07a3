"""Writing DIALS experiment lists; `expt.py` says what they hold and reads them.

Numbers are written in full, so that they read back as they were. What DIALS requires and is not known is the value by
which DIALS itself says "not known": zeros.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanobrag_torch.io.atomic import Target, open_output
from nanobrag_torch.records import experiment as record

Json = dict[str, Any]
_PARTS = ("beam", "detector", "goniometer", "scan", "crystal")
_NO_LIMITS = (0.0, 0.0)


def write_expt(
    target: Target, data: record.ExperimentData | Sequence[record.ExperimentData], *, flag: str = "output file"
) -> None:
    """Write a DIALS experiment list. Raises InputError if the file cannot be written."""
    text = json.dumps(experiment_list([data] if isinstance(data, record.ExperimentData) else data), indent=2)
    with open_output(target, flag) as file:
        file.write(text.encode() + b"\n")


def experiment_list(experiments: Sequence[record.ExperimentData]) -> Json:
    """The JSON tree of an experiment list; a model that experiments share is written once."""
    models = {name: all_parts(experiments, name) for name in _PARTS}
    sets = [_imageset(e) for e in experiments]
    imagesets = [entry for i, entry in enumerate(sets) if entry is not None and entry not in sets[:i]]
    return {
        "__id__": "ExperimentList",
        "experiment": [_pointers(experiment, models, imagesets) for experiment in experiments],
        "imageset": imagesets,
        "beam": [_beam(beam) for beam in models["beam"]],
        "detector": [_detector(detector) for detector in models["detector"]],
        "goniometer": [_goniometer(goniometer) for goniometer in models["goniometer"]],
        "scan": [_scan(scan) for scan in models["scan"]],
        "crystal": [_crystal(crystal) for crystal in models["crystal"]],
        "profile": [],
        "scaling_model": [],
    }


def _pointers(experiment: record.ExperimentData, models: dict[str, list[Any]], imagesets: list[Json]) -> Json:
    places = {
        name: next(i for i, model in enumerate(models[name]) if model is part)
        for name in _PARTS
        if (part := getattr(experiment, name)) is not None
    }
    if (imageset := _imageset(experiment)) is not None:
        places["imageset"] = imagesets.index(imageset)
    return {"__id__": "Experiment", "identifier": experiment.identifier, **places}


def _imageset(experiment: record.ExperimentData) -> Json | None:
    """Where the images are: a template, or a list of files; DIALS looks for the place of each in a file of several."""
    template, scan = experiment.image_template, experiment.scan
    if template is not None:
        entry: Json = {"__id__": "ImageSequence", "template": template}
        if experiment.image_numbers:
            entry["single_file_indices"] = list(experiment.image_numbers)
        elif scan is not None and "#" not in template:
            entry["single_file_indices"] = list(range(scan.image_range[0] - 1, scan.image_range[1]))
        return entry
    if not experiment.images:
        return None
    numbers = {"single_file_indices": list(experiment.image_numbers)} if experiment.image_numbers else {}
    return {"__id__": "ImageSet", "images": list(experiment.images), **numbers}


def _beam(beam: record.BeamData) -> Json:
    entry: Json = {"__id__": "monochromatic", "direction": beam.direction.tolist(), "wavelength": beam.wavelength_A}
    if beam.wavelength_range_A is not None:
        entry |= {"__id__": "polychromatic", "wavelength_range": list(beam.wavelength_range_A)}
    entry |= {"divergence": beam.divergence_deg or 0.0, "sigma_divergence": beam.sigma_divergence_deg or 0.0}
    if beam.polarization_normal is not None:
        entry["polarization_normal"] = beam.polarization_normal.tolist()
    if beam.polarization_fraction is not None:
        entry["polarization_fraction"] = beam.polarization_fraction
    entry |= {
        "flux": beam.flux or 0.0,
        "probe": beam.probe,
        "sample_to_source_distance": beam.source_distance_mm or 0.0,
    }
    if beam.transmission is not None:
        entry["transmission"] = beam.transmission
    if beam.spectrum_energies_eV is not None and beam.spectrum_weights is not None:
        energies, weights = beam.spectrum_energies_eV.tolist(), beam.spectrum_weights.tolist()
        entry["spectrum"] = {"energies_eV": energies, "weights": weights}
    if beam.s0_at_scan_points is not None:
        entry["s0_at_scan_points"] = beam.s0_at_scan_points.tolist()
    return entry


def _detector(detector: record.DetectorData) -> Json:
    """Panels and the tree of groups, each in the frame of its parent."""
    root = detector.root or record.GroupData(children=tuple(range(len(detector.panels))))
    parents = {
        child: group for group in root.groups() for child in group.children if isinstance(child, int)
    }  # the group that each panel hangs in
    panels = [_panel(panel, parents[index]) for index, panel in enumerate(detector.panels)]
    return {"panels": panels, "hierarchy": _group(root, record.GroupData())}


def _local(origin: record.Vector, fast: record.Vector, slow: record.Vector, parent: record.GroupData) -> Json:
    axes = parent.axes
    return {
        "fast_axis": (axes @ fast).tolist(),
        "slow_axis": (axes @ slow).tolist(),
        "origin": (axes @ (origin - parent.origin_mm)).tolist(),
    }


def _group(group: record.GroupData, parent: record.GroupData) -> Json:
    children = [{"panel": c} if isinstance(c, int) else _group(c, group) for c in group.children]
    frame = _local(group.origin_mm, group.fast, group.slow, parent)
    return {"name": group.name, "type": "", "identifier": "", **frame, "children": children}


def _panel(panel: record.PanelData, parent: record.GroupData) -> Json:
    corrected = panel.parallax and panel.mu_per_mm is not None and panel.thickness_mm is not None
    entry: Json = {"name": panel.name, "type": "SENSOR_PAD", "identifier": ""}
    entry |= _local(panel.origin_mm, panel.fast, panel.slow, parent)
    entry |= {
        "raw_image_offset": list(panel.raw_image_offset),
        "image_size": list(panel.image_size),
        "pixel_size": list(panel.pixel_size_mm),
        "trusted_range": list(panel.trusted_range or _NO_LIMITS),
        "thickness": panel.thickness_mm or 0.0,
        "material": panel.material or "",
        "mu": panel.mu_per_mm or 0.0,
        "mask": [list(part) for part in panel.untrusted],
        "gain": 1.0 if panel.gain is None else panel.gain,
        "pedestal": panel.pedestal or 0.0,
        "px_mm_strategy": {"type": "ParallaxCorrectedPxMmStrategy" if corrected else "SimplePxMmStrategy"},
    }
    for name in ("trusted_range", "gain", "pedestal"):  # DIALS has its own defaults for these
        if getattr(panel, name) is None:
            del entry[name]
    return entry


def _goniometer(goniometer: record.GoniometerData) -> Json:
    points = goniometer.setting_at_scan_points
    more = {} if points is None else {"setting_rotation_at_scan_points": points.reshape(-1, 9).tolist()}
    rotations = {
        "fixed_rotation": goniometer.fixed_rotation.ravel().tolist(),
        "setting_rotation": goniometer.setting_rotation.ravel().tolist(),
    }
    if goniometer.axes is None or goniometer.angles_deg is None:
        return {"rotation_axis": goniometer.rotation_axis.tolist(), **rotations, **more}
    plain = record.GoniometerData.from_axes(
        goniometer.axes, goniometer.angles_deg, goniometer.names, goniometer.scan_axis
    )  # rotations that the axes do not give have been refined
    same = all(np.allclose(getattr(plain, k), getattr(goniometer, k), atol=1e-12) for k in rotations)
    return {
        "axes": goniometer.axes.tolist(),
        "angles": goniometer.angles_deg.tolist(),
        "names": list(goniometer.names),
        "scan_axis": goniometer.scan_axis,
        **({} if same else rotations),
        **more,
    }


def _scan(scan: record.ScanData) -> Json:
    def each(values: record.Vector | None) -> list[float]:
        return [0.0] * scan.frames if values is None else [float(x) for x in values]

    common = {"image_range": list(scan.image_range), "batch_offset": scan.batch_offset, "valid_image_ranges": {}}
    if scan.time_of_flight is not None:  # the properties of newer files: nothing turns, so no oscillation
        times = {"exposure_time": each(scan.exposure_times_s), "epochs": each(scan.epochs)}
        return {**common, "properties": {**times, "time_of_flight": scan.time_of_flight.tolist()}}
    return {
        **common,
        "oscillation": [scan.oscillation_start_deg, scan.oscillation_width_deg],
        "exposure_time": each(scan.exposure_times_s),
        "epochs": each(scan.epochs),
    }


def _crystal(crystal: record.CrystalData) -> Json:
    """Of every class of crystal; DIALS tells them by their keys alone, and refuses other names."""
    entry: Json = {"__id__": "crystal"}
    entry |= {f"real_space_{name}": row.tolist() for name, row in zip("abc", crystal.real_space, strict=True)}
    entry["space_group_hall_symbol"] = f" {crystal.space_group_hall or 'P 1'}"
    if crystal.mosaicity_deg is not None:
        entry["mosaicity"] = crystal.mosaicity_deg
    if crystal.half_mosaicity_deg is not None and crystal.domain_size_A is not None:
        entry |= {"ML_half_mosaicity_deg": crystal.half_mosaicity_deg, "ML_domain_size_ang": crystal.domain_size_A}
    if crystal.A_at_scan_points is not None:
        entry["A_at_scan_points"] = crystal.A_at_scan_points.reshape(-1, 9).tolist()
    entry |= crystal.uncertainties or {}
    return entry


def all_parts(experiments: Sequence[record.ExperimentData], name: str) -> list[Any]:
    """The different models of one kind that experiments share, in order."""
    return list({id(part): part for e in experiments if (part := getattr(e, name)) is not None}.values())
