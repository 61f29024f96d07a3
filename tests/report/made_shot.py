"""A folder as `nb refine` leaves it, of round spots whose data are counts of the model."""

from __future__ import annotations

import json

import numpy as np

from nanobrag_torch.io.expt_write import write_expt
from nanobrag_torch.io.refl_write import write_refl
from nanobrag_torch.records.experiment import BeamData, DetectorData, ExperimentData, PanelData
from nanobrag_torch.records.tables import ReflectionData

DISTANCE_MM, PIXEL_MM, WAVELENGTH_A = 150.0, 0.1, 1.0
BAD = 3  # number of the box that the model does not explain


def panels(count, size):
    """Panels side by side, across the beam."""
    return tuple(
        PanelData(
            origin_mm=np.array([(i - count / 2) * (size + 10) * PIXEL_MM, size / 2 * PIXEL_MM, -DISTANCE_MM]),
            fast=np.array([1.0, 0, 0]),
            slow=np.array([0, -1.0, 0]),
            pixel_size_mm=(PIXEL_MM, PIXEL_MM),
            image_size=(size, size),
        )
        for i in range(count)
    )


def write_shot(folder, *, count=40, half=6, size=1000, panel_count=1, status="converged", name="shot_00000"):
    """Boxes on a grid; the data of one of them have a second spot that the model lacks. Returns the arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    side = int(np.ceil(np.sqrt(count / panel_count)))
    place = np.arange(count)
    panel = place % panel_count
    step = size // (side + 1)
    cell = place // panel_count
    centre = np.stack([(cell % side + 1) * step, (cell // side + 1) * step], 1) + random.random((count, 2))
    whole = np.floor(centre).astype(int)
    slow, fast = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1)
    box = np.repeat(place, len(fast))
    f, s = (whole[:, :1] + fast).ravel(), (whole[:, 1:] + slow).ravel()
    photons = np.linspace(200, 5000, count)
    away = (f + 0.5 - centre[box, 0]) ** 2 + (s + 0.5 - centre[box, 1]) ** 2
    spot = photons[box] * np.exp(-away / 2) / (2 * np.pi)
    model = spot + 5.0
    data = random.poisson(model).astype(float)
    data[(box == BAD) & (f == whole[box, 0] + 3) & (s == whole[box, 1])] += 80
    z = (data - model) / np.sqrt(model)
    square = np.bincount(box, z * z) / len(fast)
    hkl = np.stack([place + 1, place % 5, -(place % 7)], 1)
    arrays = {
        "pixel": (panel[box] * size + s) * size + f, "box": box.astype(np.int32), "data": data.astype(np.float32),
        "model": model.astype(np.float32), "spot": spot.astype(np.float32), "variance": model.astype(np.float32),
        "hkl": hkl.astype(np.int32), "crystal": np.zeros(count, np.int32), "panel": panel.astype(np.int32),
        "centre": centre, "corners": np.stack([whole[:, 0] - half, whole[:, 0] + half + 1, whole[:, 1] - half,
                                               whole[:, 1] + half + 1], 1).astype(np.int32),
        "sigma_z": np.sqrt(square), "image_shape": np.array([panel_count, size, size]),
    }  # fmt: skip
    np.savez_compressed(folder / "boxes.npz", **arrays)
    detector = DetectorData(panels=panels(panel_count, size))
    data_of_shot = ExperimentData(beam=BeamData(wavelength_A=WAVELENGTH_A), detector=detector)
    write_expt(folder / "refined.expt", [data_of_shot])
    columns = {
        "miller_index": hkl.astype(np.int32), "id": np.zeros(count, np.int32), "panel": panel.astype(np.uint64),
        "xyzcal.px": np.column_stack([centre + 0.05, np.full(count, 0.5)]),
        "xyzobs.px.value": np.column_stack([centre, np.full(count, 0.5)]), "d": np.linspace(8, 2, count),
        "intensity.prf.value": photons, "background.mean": np.full(count, 5.0),
        "nb.intensity": photons * 1.1, "nb.scale": np.full(count, 1.1), "flags": np.full(count, 4, np.uint64),
    }  # fmt: skip
    write_refl(folder / "refined.refl", ReflectionData(rows=count, identifiers={}, columns=columns))
    (folder / "parameters.json").write_text(json.dumps(record(status, float(z.std()), count, name)))
    return arrays


def record(status, sigma_z, reflections, name):
    """What parameters.json says."""
    row = {"sigma": 0.01, "free": True, "tied_to": None, "prior": None, "unit": "deg"}
    return {
        "name": name, "status": status, "reason": "" if status == "converged" else "no signal <at all>",
        "sigma_z": sigma_z, "steps": 3, "shape": "square", "reflections": reflections, "notes": ["a <note>"],
        "parameters": [
            {"name": "rot_x", "value": 0.3, "start": 0.0, **row},
            {"name": "rot_y", "value": 0.4, "start": 0.0, **row},
            {"name": "a", "value": 80.8, "start": 80.0, **row, "unit": "A", "prior": [80.0, 0.003]},
            {"name": "b", "value": 80.8, "start": 80.0, **row, "unit": "A", "tied_to": "a"},
        ],
        "history": [
            {"objective": 9.0 - i, "sigma_z": 3.0 - i, "damping": 1e-3, "largest_move": 1.0, "limited": False}
            for i in range(3)
        ],
        "correlated": [["a", "distance", 0.99]], "seconds": {"read": 0.1}, "versions": {"torch": "2"},
    }  # fmt: skip
