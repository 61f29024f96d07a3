"""What DIALS finds in files: run by an interpreter that has dxtbx, one JSON object on the last line of its output.

python dials_reader.py FILE ... : experiments of .expt and images, tables of .refl.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def experiments_of(path: str) -> list[dict[str, Any]]:
    """Geometry of every experiment, and the sum of the first image where there is one to read."""
    from dxtbx.model.experiment_list import ExperimentListFactory  # type: ignore[import-not-found]

    found = (
        ExperimentListFactory.from_json_file(path)
        if path.endswith(".expt")
        else ExperimentListFactory.from_filenames([path])
    )
    return [_experiment(one) for one in found]


def _experiment(one: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "identifier": one.identifier,
        "wavelength": one.beam.get_wavelength(),
        "s0": list(one.beam.get_s0()),
        "panels": [
            {
                "origin": list(panel.get_origin()),
                "fast": list(panel.get_fast_axis()),
                "slow": list(panel.get_slow_axis()),
                "pixel": list(panel.get_pixel_size()),
                "size": list(panel.get_image_size()),
                "trusted": list(panel.get_trusted_range()),
                "thickness": panel.get_thickness(),
            }
            for panel in one.detector
        ],
    }
    if one.scan is not None:
        entry["image_range"] = list(one.scan.get_image_range())
        entry["oscillation"] = list(one.scan.get_oscillation())
    if one.goniometer is not None:
        entry["axis"] = list(one.goniometer.get_rotation_axis())
    if one.crystal is not None:
        crystal = one.crystal
        entry["A"] = list(crystal.get_A())
        entry["points"] = crystal.num_scan_points
        for name in ("mosaicity", "half_mosaicity_deg", "domain_size_ang"):
            if hasattr(crystal, f"get_{name}"):
                entry[name] = getattr(crystal, f"get_{name}")()
    if one.imageset is not None:
        entry["images"] = len(one.imageset)
        entry["indices"] = list(one.imageset.indices())
        entry["sums"] = [float(sum(sum(panel.as_double()) for panel in one.imageset.get_raw_data(0)))]
    return entry


def table_of(path: str) -> dict[str, Any]:
    """Columns of a reflection table: numbers of rows, the first rows, identifiers."""
    from dials.array_family import flex  # type: ignore[import-not-found]

    table = flex.reflection_table.from_file(path)
    return {
        "rows": len(table),
        "columns": sorted(table.keys()),
        "identifiers": dict(table.experiment_identifiers()),
        "ids": sorted(set(table["id"])),
        "first": {name: _plain(table[name][0]) for name in ("miller_index", "xyzcal.px", "bbox") if name in table},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    print(json.dumps([table_of(path) if path.endswith(".refl") else experiments_of(path) for path in sys.argv[1:]]))
