"""Random experiments for the tests of files: triclinic cells, tilted panels in groups, two-theta, oblique beams."""

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nanobrag_torch.records.experiment import (
    BeamData,
    CrystalData,
    DetectorData,
    ExperimentData,
    GoniometerData,
    GroupData,
    PanelData,
    ScanData,
)


def rotation(axis, angle_deg):
    """A rotation matrix, by scipy."""
    axis = np.asarray(axis, float)
    return Rotation.from_rotvec(np.radians(angle_deg) * axis / np.linalg.norm(axis)).as_matrix()


def cell_vectors(a, b, c, alpha, beta, gamma):
    """Rows a, b, c of a cell, a along x and b in the xy plane."""
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sg = np.sin(np.radians(gamma))
    height = np.sqrt(1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg)
    return np.array([[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * (ca - cb * cg) / sg, c * height / sg]])


def real(low, high):
    """Finite numbers of a range."""
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


@st.composite
def turns(draw, limit=180.0):
    """A rotation by up to `limit` degrees about each of two axes."""
    return rotation([0.3, -0.5, 0.8], draw(real(-limit, limit))) @ rotation([1, 0.2, -0.1], draw(real(-limit, limit)))


@st.composite
def crystals(draw):
    """A triclinic crystal in any orientation."""
    lengths = [draw(real(5, 400)) for _ in range(3)]
    angles = [draw(real(70, 110)) for _ in range(3)]
    return CrystalData(real_space=cell_vectors(*lengths, *angles) @ draw(turns()).T, space_group_hall="P 1")


@st.composite
def detectors(draw, panels=None, square=True):
    """Panels on a two-theta arm, each tilted by some degrees, in two groups if there are several."""
    count = panels or draw(st.integers(1, 4))
    arm = rotation([0, 1, 0], draw(real(-60, 60))) @ rotation([1, 0, 0], draw(real(-30, 30)))
    pitch = draw(real(0.01, 0.5))
    sizes = (pitch, pitch if square else draw(real(0.01, 0.5)))
    made, attenuation = [], draw(real(0.1, 9))
    for index in range(count):
        tilt = arm @ draw(turns(limit=10))
        corner = np.array([draw(real(-300, 300)), draw(real(-300, 300)), -draw(real(50, 800))])
        size = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
        made.append(PanelData(
            name=f"p{index}", origin_mm=arm @ corner, fast=tilt[:, 0], slow=-tilt[:, 1], pixel_size_mm=sizes,
            image_size=size, thickness_mm=0.45, material="Si", mu_per_mm=attenuation,
            trusted_range=(-1.0, 65000.0),
        ))  # fmt: skip
    return DetectorData(panels=tuple(made), root=None if count == 1 else draw(groups(count, arm)))


@st.composite
def groups(draw, count, arm):
    """A tree of two groups below a root, each with a frame of its own."""

    def frame(name, children):
        turn, origin = arm @ draw(turns(limit=20)), [draw(real(-50, 50)) for _ in range(3)]
        return GroupData(name=name, origin_mm=np.array(origin), fast=turn[:, 0], slow=turn[:, 1], children=children)

    split = draw(st.integers(1, count - 1))
    lower = frame("a", tuple(range(split))), frame("b", tuple(range(split, count)))
    return frame("root", lower)


@st.composite
def experiments(draw, panels=None, square=True, frames=None):
    """Everything at once."""
    oblique = [draw(real(-0.1, 0.1)), draw(real(-0.1, 0.1)), 1.0]
    count = frames or draw(st.integers(1, 5))
    axis = [1.0, draw(real(-0.2, 0.2)), draw(real(-0.2, 0.2))]
    return ExperimentData(
        beam=BeamData(direction=oblique, wavelength_A=draw(real(0.3, 3)), polarization_fraction=0.97,
                      polarization_normal=[0, 1, 0]),
        detector=draw(detectors(panels, square)),
        goniometer=GoniometerData(
            rotation_axis=axis, fixed_rotation=draw(turns()), setting_rotation=draw(turns(limit=5))
        ),
        scan=ScanData(
            image_range=(3, 2 + count), oscillation_start_deg=draw(real(-180, 180)),
            oscillation_width_deg=draw(real(0.001, 2)), exposure_times_s=np.full(count, 0.25),
        ),
        crystal=draw(crystals()),
    )  # fmt: skip


def assert_same_detector(found, expected, close, groups=True):
    """Panels equal in place (mm), directions, size and pixel; the tree of groups too."""
    assert len(found.panels) == len(expected.panels)
    for one, other in zip(found.panels, expected.panels, strict=True):
        for name in ("origin_mm", "fast", "slow"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=close, err_msg=name)
        np.testing.assert_allclose(one.pixel_size_mm, other.pixel_size_mm, rtol=0, atol=close)
        assert one.image_size == other.image_size
    if groups:
        trees = [[] if detector.root is None else list(detector.root.groups()) for detector in (found, expected)]
        assert [g.name for g in trees[0]] == [g.name for g in trees[1]]
        for one, other in zip(*trees, strict=True):
            np.testing.assert_allclose(one.origin_mm, other.origin_mm, rtol=0, atol=close)
            np.testing.assert_allclose(one.axes, other.axes, rtol=0, atol=close)
            assert one.panel_indices() == other.panel_indices()


def assert_same_crystal(found, expected, close):
    """Crystals that are equal at several angles of their goniometers (1/Angstrom), and the same scan."""
    assert found.scan.oscillation_start_deg == expected.scan.oscillation_start_deg
    for angle in (0.0, expected.scan.start_deg(1), 123.0):
        one, other = (data.goniometer.rotation(angle) @ data.crystal.A for data in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0, atol=close * np.abs(other).max())
