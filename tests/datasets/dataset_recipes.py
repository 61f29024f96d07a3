"""Recipes that cost little: small detectors, few spots."""

from __future__ import annotations

from pathlib import Path

from nanobrag_torch.datasets.recipe import Recipe, recipe_of

STILLS = {
    "dataset": {"images": 6, "seed": 5, "shard_images": 2},
    "crystal": {
        "cell": [40.0, 50.0, 60.0, 90, 90, 90],
        "space_group": "P212121",
        "N_cells": {"uniform": [5, 9]},
        "mosaic_spread_deg": {"uniform": [0.1, 0.4]},
        "mosaic_domains": 6,
    },
    "lattices": {"number": {"choice": [1, 2]}},
    "detector": {"pixels": [80, 64], "pixel_size_mm": 0.6, "distance_mm": {"uniform": [95, 105]}},
    "beam": {"fluence": {"log_normal": [3e27, 0.3]}},
    "background": {"constant": {"uniform": [0.5, 2.0]}},
    "render": {"oversample": 2},
    "labels": {"pixels": True},
    "output": {"expected": True},
}
SCAN = {
    "dataset": {"images": 6, "seed": 2, "shard_images": 3},
    "crystal": {
        "cell": [40.0, 50.0, 60.0, 90, 90, 90],
        "N_cells": 7,
        "mosaic_spread_deg": 0.3,
        "mosaic_domains": 6,
    },
    "detector": {"pixels": [80, 64], "pixel_size_mm": 0.6, "distance_mm": 100},
    "beam": {"fluence": 3e27},
    "scan": {"frames": 6, "width_deg": 1.0, "phi_steps": 5, "start_deg": 10.0},
    "render": {"oversample": 2},
}


def changed(tree: dict, **parts: dict) -> Recipe:
    """A recipe with some keys of some tables replaced."""
    return recipe_of({**tree, **{name: {**tree.get(name, {}), **keys} for name, keys in parts.items()}}, Path.cwd())


def toml(tree: dict) -> str:
    """Plain data as TOML."""

    def value(entry: object) -> str:
        if isinstance(entry, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in entry.items()) + "}"
        if isinstance(entry, list):
            return "[" + ", ".join(map(value, entry)) + "]"
        return f'"{entry}"' if isinstance(entry, str) else str(entry).lower()

    lines = []
    for part, keys in tree.items():
        lines += [f"[{part}]", *(f"{key} = {value(entry)}" for key, entry in keys.items())]
    return "\n".join(lines) + "\n"
