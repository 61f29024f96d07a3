"""The default mode held against the textbook formula (tests/textbook.py), scene by scene, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import textbook
from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.config import GroupConfig, PanelConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector

AGREEMENT = 1e-6  # of the image maximum
KERNELS = ("reference", "fused")
TRICLINIC = (41.0, 52.0, 63.0, 82.0, 97.0, 103.0)
ORTHO = (40.0, 50.0, 60.0, 90.0, 90.0, 90.0)
X, Y, Z = np.eye(3)
AXES = {
    "mosflm": (X, Z, -Y, -Z),
    "denzo": (X, Z, -Y, -Z),
    "adxv": (Z, X, -Y, -X),
    "xds": (Z, X, Y, X),
    "dials": (Z, X, Y, Y),
}
"""Of each convention: beam, fast, slow and two-theta axis."""


def plane(
    kind: str = "mosflm",
    *,
    pixels: tuple[int, int] = (14, 11),
    pixel: float = 0.5,
    distance: float = 60.0,
    rotations: tuple[float, float, float] = (0, 0, 0),
    twotheta: float = 0.0,
    curved: bool = False,
    **more: Any,
) -> tuple[DetectorConfig, textbook.Detector]:
    """The same detector twice: as a configuration, and by its vectors. The direct beam meets it at 3.1, 2.4 mm."""
    beam, fast, slow, axis = AXES[kind]
    to_fast, to_slow = 3.1, 2.4
    about_sample = kind in ("xds", "dials")
    turn = Rotation.from_rotvec(axis * twotheta, degrees=True) * Rotation.from_euler("xyz", rotations, degrees=True)
    if about_sample:
        origin = turn.apply(distance * np.cross(fast, slow) - to_fast * fast - to_slow * slow)
    else:
        origin = distance * beam - to_fast * turn.apply(fast) - to_slow * turn.apply(slow)
    centre = {
        "mosflm": (to_fast - pixel / 2, to_slow - pixel / 2), "adxv": (to_fast, pixels[0] * pixel - to_slow),
    }.get(kind, (to_fast, to_slow))  # fmt: skip
    sensor = {
        "detector_thick_um": 1000 * more.get("thick", 0.0), "detector_thicksteps": more.get("layers", 1),
        "detector_abs_um": 1000 * more["depth"],
    } if "thick" in more else {}  # fmt: skip
    config = DetectorConfig(
        detector_convention=kind,
        spixels=pixels[0],
        fpixels=pixels[1],
        pixel_size_mm=pixel,
        close_distance_mm=distance if about_sample else None,
        distance_mm=None if about_sample else distance,
        beam_center_f=centre[0],
        beam_center_s=centre[1],
        detector_rotx_deg=rotations[0],
        detector_roty_deg=rotations[1],
        detector_rotz_deg=rotations[2],
        detector_twotheta_deg=twotheta,
        curved_detector=curved,
        point_pixel=more.get("point", False),
        oversample=more.get("oversample", 1),
        oversample_omega=True,
        oversample_polar=True,
        oversample_thick="thick" in more,
        **sensor,
    )
    plain = textbook.Detector(origin, turn.apply(fast), turn.apply(slow), pixel, pixels, curved=curved, **more)
    return config, plain


def crystal(
    cell: tuple[float, ...] = ORTHO, N: tuple[float, ...] = (5, 4, 3), **more: Any
) -> tuple[Any, textbook.Crystal]:
    """The same crystal twice."""
    plain = textbook.Crystal(cell, N, **more)
    names = ("cell_a", "cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma")
    phis = list(plain.phis)
    config = CrystalConfig(
        **dict(zip(names, cell, strict=True)),
        N_cells=N,
        misset_deg=tuple(plain.misset),
        default_F=100.0,
        shape=plain.shape,
        fudge=plain.fudge,
        phi_start_deg=phis[0],
        osc_range_deg=(phis[-1] - phis[0]) / max(len(phis) - 1, 1) * len(phis),
        phi_steps=len(phis),
        spindle_axis=tuple(plain.spindle),
    )
    return config, plain


def beam(incident: np.ndarray = X, polar: np.ndarray = Z, **more: Any) -> tuple[BeamConfig, textbook.Beam]:
    """The same beam twice; along x unless told otherwise."""
    sources = more.pop("sources", None) or [(-incident, more.pop("wavelength", 1.0), 1.0)]
    plain = textbook.Beam(sources=sources, polar=polar, **more)
    config = BeamConfig(
        source_directions=[tuple(map(float, d)) for d, _, _ in sources], source_wavelengths=[w for _, w, _ in sources],
        source_weights=[w for _, _, w in sources], fluence=plain.fluence, polarization_factor=plain.kahn or 0.0,
        nopolar=plain.kahn is None, polarization_axis=tuple(map(float, polar)), dmin=plain.dmin,
    )  # fmt: skip
    return config, plain


MANY = [((-1, 0, 0), 1.0, 2.0), ((-1, 0.01, -0.02), 1.02, 0.5), ((-10, 0.05, 0.1), 0.97, 1.0)]
ROTATED = [Rotation.from_rotvec(v, degrees=True).as_matrix() for v in ([0, 0, 0], [0.4, -0.3, 0.2], [-1, 0.5, 0.7])]
TURNED = {"misset": (21, -33, 54)}
SENSOR = {"thick": 0.5, "depth": 0.3, "layers": 3}
SCENES = {
    "a block of cells": (crystal(), beam(), plane()),
    "a triclinic cell": (crystal(TRICLINIC, **TURNED), beam(), plane("denzo")),
    "phi steps": (crystal(phis=(3, 3.7, 4.4), **TURNED), beam(), plane()),
    "phi steps through zero": (crystal(phis=(-0.5, 0, 0.5, 1), spindle=(0.6, 0, 0.8), **TURNED), beam(), plane()),
    "sources with weights": (crystal(**TURNED), beam(sources=MANY, kahn=0.8), plane()),
    "a first source without weight": (
        crystal(**TURNED), beam(sources=[((-1, 0.3, 0), 1.0, 0.0), *MANY], kahn=0.9), plane()),
    "polarized": (crystal(**TURNED), beam(kahn=0.95), plane(distance=15)),
    "polarized along the beam": (crystal(**TURNED), beam(kahn=0.95, polar=X), plane(distance=15)),
    "unpolarized": (crystal(**TURNED), beam(kahn=None), plane(distance=15, point=True)),
    "a resolution limit": (crystal(**TURNED), beam(dmin=11.0), plane()),
    "sub-pixels": (crystal(**TURNED), beam(kahn=0.5), plane(oversample=3, distance=25)),
    "tilted": (crystal(**TURNED), beam(), plane(rotations=(5, -7, 11), twotheta=12, distance=40)),
    "xds": (crystal(**TURNED), beam(Z, X), plane("xds", rotations=(3, 2, 1), twotheta=-9)),
    "dials": (crystal(**TURNED), beam(Z, Y), plane("dials", twotheta=15)),
    "adxv": (crystal(**TURNED), beam(Z, X), plane("adxv")),
    "a sensor": (crystal(**TURNED), beam(), plane(distance=12, **SENSOR)),
    "a sensor with sub-pixels": (
        crystal(**TURNED), beam(sources=MANY), plane(distance=9, rotations=(8, 4, 0), oversample=2, **SENSOR)),
    "curved": (crystal(**TURNED), beam(), plane(distance=9, curved=True)),
    "curved, beam along z": (crystal(**TURNED), beam(Z, X), plane("xds", distance=9, curved=True, oversample=2)),
    "curved, with a sensor": (crystal(**TURNED), beam(Z, X), plane("adxv", distance=9, curved=True, **SENSOR)),
    "curved and turned": (crystal(**TURNED), beam(), plane(distance=9, curved=True, twotheta=20, oversample=2)),
    "a ball": (crystal(N=(5, 6, 7), shape="round", fudge=0.8, **TURNED), beam(), plane()),
    "a Gaussian": (crystal(TRICLINIC, N=(3, 2, 5), shape="gauss", fudge=0.7, **TURNED), beam(), plane()),
    "a Gaussian in hkl": (crystal(TRICLINIC, N=(3, 2, 5), shape="gauss_hkl", **TURNED), beam(), plane()),
    "a top hat": (crystal(TRICLINIC, N=(3, 2, 3), shape="tophat", fudge=0.5, **TURNED), beam(), plane(oversample=2)),
}  # fmt: skip


def simulated(scene: Any, kernel: str, table: np.ndarray | None = None, **options: Any) -> np.ndarray:
    (crystal_config, _), (beam_config, _), (detector_config, _) = scene
    if options:
        crystal_config = CrystalConfig(**{**vars(crystal_config), **options})
    model = Crystal(crystal_config, dtype=torch.float64)
    if table is not None:
        model.hkl_data = torch.from_numpy(table)
        model.hkl_metadata = {f"{axis}_min": -3 for axis in "hkl"} | {f"{axis}_max": 3 for axis in "hkl"}
    given = {"beam_config": beam_config, "dtype": torch.float64, "kernel": kernel}
    return Simulator(model, Detector(detector_config), **given).run().numpy()


def hold(got: np.ndarray, scene: Any) -> None:
    expected = textbook.image(scene[0][1], scene[1][1], scene[2][1])
    assert expected.max() > 0
    assert np.abs(got - expected).max() <= AGREEMENT * expected.max()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SCENES)
def test_the_default_mode_is_the_textbook_formula(name, kernel):
    hold(simulated(SCENES[name], kernel), SCENES[name])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("smooth", [False, True])
def test_tables_of_structure_factors(kernel, smooth):
    table = np.random.default_rng(5).uniform(10, 100, (7, 7, 7))
    F = (textbook.tricubic if smooth else textbook.nearest)(table, -3, 20.0)
    scene = (crystal(N=(2, 3, 2), F=F, **TURNED), beam(), plane(distance=50, pixel=0.8))
    hold(simulated(scene, kernel, table, interpolate=smooth, default_F=20.0), scene)


@pytest.mark.parametrize("kernel", KERNELS)
def test_mosaic_domains(kernel):
    (config, plain), light, (screen, flat) = crystal(**TURNED), beam(), plane()
    spread = {"mosaic_spread_deg": 1.5, "mosaic_domains": 4}
    model = Crystal(CrystalConfig(**{**vars(config), **spread}), dtype=torch.float64)
    plain.domains = model.mosaic_domains(model.cell()[0])[0].numpy()
    angles = Rotation.from_matrix(plain.domains).magnitude()
    assert angles[0] == 0 and angles[1:].min() > 0 and angles.max() < np.radians(1.5)
    scene = ((config, plain), light, (screen, flat))
    hold(simulated(scene, kernel, **spread), scene)


@pytest.mark.parametrize("kernel", KERNELS)
def test_several_panels_of_a_group(kernel):
    turn, shift = Rotation.from_rotvec([2, -3, 4], degrees=True), np.array([0.5, -0.4, 1.0])
    corners = [np.array([60.0, 2.4, -3.1]), np.array([61.0, -0.2, 1.4])]
    panels = [
        PanelConfig(
            origin_mm=tuple(c),
            fast_axis=(0, 0, 1),
            slow_axis=(0, -1, 0),
            fpixels=7,
            spixels=9,
            pixel_size_mm=0.4,
            detector_thick_um=400.0,
            detector_abs_um=200.0,
            group="g",
        )
        for c in corners
    ]
    group = GroupConfig(name="g", shift_mm=tuple(shift), rotation_deg=tuple(turn.as_rotvec(degrees=True)))
    config = DetectorConfig(
        panels=panels, groups=[group], oversample=2, oversample_omega=True, oversample_polar=True, oversample_thick=True
    )
    made, light = crystal(**TURNED), beam(kahn=0.3)
    got = simulated((made, light, (config, None)), kernel)
    for k, corner in enumerate(corners):
        flat = textbook.Detector(turn.apply(corner) + shift, turn.apply(Z), turn.apply(-Y), 0.4, (9, 7), 2, 2, 0.4, 0.2)
        hold(got[k], (made, light, (config, flat)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_pixel_at_the_direct_beam_sees_it_on_every_curved_detector(kernel):
    """Without a crystal's interference the brightness tells the scattering angle: (1 + cos^2) / 2."""
    for kind in ("mosflm", "denzo", "adxv", "xds", "dials"):
        incident = X if kind in ("mosflm", "denzo") else Z
        screen, flat = plane(kind, pixels=(7, 9), pixel=0.9, distance=20.0, curved=True)
        made = (crystal(N=(1, 1, 1)), beam(incident, Y if incident is Z else Z), (screen, flat))
        got = simulated(made, kernel)
        place = (np.arange(7)[:, None] + 0.5) * 0.9 - 2.4, (np.arange(9) + 0.5) * 0.9 - 3.1
        cosine = np.cos(place[0] / 20) * np.cos(place[1] / 20)
        assert np.allclose(got, 1e4 * (0.9 / 20) ** 2 * (1 + cosine**2) / 2, rtol=1e-9)
