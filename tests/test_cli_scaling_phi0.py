"""The supervisor case at pixel (685, 1039), held against what the C program printed for its last phi step.

The C values of the other phi steps follow from that one: the same lattice, turned back about the spindle.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nanobrag_torch.cli.nb.app import main
from nanobrag_torch.cli.nb.flags import simulator_of
from nanobrag_torch.tracing.log import read_trace
from nanobrag_torch.validation.scenes import scene_folder

CELLS = np.array([36, 47, 29])
SPINDLE = np.array([-1.0, 0.0, 0.0])
STEP_DEG = 0.01
LAST = 9


@pytest.fixture(scope="module")
def c(data):
    return json.loads((data / "supervisor" / "trace_pixel_685_1039.json").read_text())


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    words = ["trace", "--config", "supervisor", "--pixel", "685", "1039", "--dtype", "float64", "--emit-rot-stars"]
    for mode in ("c-parity", "spec"):
        assert main([*words, "--phi-mode", mode, "--out", str(folder / f"{mode}.log")]) == 0
    return {mode: read_trace(folder / f"{mode}.log", "--py") for mode in ("c-parity", "spec")}


@pytest.fixture(scope="module")
def parity(traces):
    return traces["c-parity"]


def turned(vectors, degrees):
    """Rows turned about the spindle, by Rodrigues' formula."""
    t = math.radians(degrees)
    along = np.outer(vectors @ SPINDLE, SPINDLE)
    return along * (1 - math.cos(t)) + vectors * math.cos(t) + np.cross(SPINDLE, vectors) * math.sin(t)


@pytest.fixture(scope="module")
def c_hkl(c):
    """h, k, l of every phi step of the C program [10, 3]; its step at phi = 0 still holds the last step's lattice."""
    last = np.array([c[f"rot_{name}_angstroms"] for name in "abc"]) * 1e-10
    back = [0 if tic == 0 else STEP_DEG * (tic - LAST) for tic in range(LAST + 1)]
    return np.array([turned(last, degrees) @ np.array(c["scattering_vec_A_inv"]) for degrees in back])


def c_factors(hkl):
    return np.sin(math.pi * CELLS * hkl) / np.sin(math.pi * hkl)


def table_value(h, k, l):
    """The formula that the structure factors were written by."""
    return float(f"{5 + (((h * 73856093) ^ (k * 19349663) ^ (l * 83492791)) % 1000) / 4:.2f}")


class TestScalingParity:
    def test_I_before_scaling_matches_c(self, c, parity, c_hkl):
        nearest = np.ceil(c_hkl - 0.5).astype(int)
        amplitudes = np.array([table_value(*map(int, row)) for row in nearest])
        assert c["F_cell"] == amplitudes[LAST]
        expected = ((amplitudes * c_factors(c_hkl).prod(-1)) ** 2).sum()
        assert expected == pytest.approx(c["I_before_scaling"], rel=1e-9)
        assert [step["F_cell"] for step in parity.phi_steps] == amplitudes.tolist()
        assert parity.scalar("I_before_scaling") / c["I_before_scaling"] == pytest.approx(1, abs=1e-9)
        assert parity.scalar("I_before_scaling_pre_polar") == parity.scalar("I_before_scaling")
        after = c["I_before_scaling"] * c["polar"]
        assert parity.scalar("I_before_scaling_post_polar") == pytest.approx(after, rel=1e-9)

    def test_hkl_of_every_phi_step(self, parity, c_hkl, c):
        ours = np.array([[step[f"{axis}_frac"] for axis in "hkl"] for step in parity.phi_steps])
        assert np.abs(ours[:, 1] - c_hkl[:, 1]).max() <= 1e-9
        assert np.abs(ours - c_hkl).max() <= 1e-9
        assert abs(parity.phi_steps[0]["k_frac"] - c["hkl_frac"][1]) <= 1e-9, "phi = 0 keeps the last lattice"

    def test_lattice_factor(self, c, parity, c_hkl):
        assert abs(parity.scalar("F_latt") - c["F_latt"]) <= 1e-9 * abs(c["F_latt"])
        for axis in "abc":
            assert parity.scalar(f"F_latt_{axis}") == pytest.approx(c[f"F_latt_{axis}"], rel=1e-9)
        ours = np.array([[step[f"F_latt_{axis}"] for axis in "abc"] for step in parity.phi_steps])
        assert np.allclose(ours, c_factors(c_hkl), rtol=1e-9, atol=1e-10), "signs too"

    def test_scattering_vector(self, c, parity):
        assert np.allclose(parity["scattering_vec_A_inv"], c["scattering_vec_A_inv"], rtol=1e-9, atol=0)

    def test_every_stored_value(self, c, parity):
        for name, value in c.items():
            wanted = np.atleast_1d(value)
            assert np.allclose(parity[name], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max()), name

    def test_reciprocal_vectors_are_dual_at_every_phi_step(self, parity):
        with scene_folder("supervisor") as (words, _):
            lattice = simulator_of(words, phi_mode="c-parity").scene().lattice.numpy() * 1e10
        for rows, step in zip(lattice, parity.phi_steps, strict=True):
            stars = np.array([[step[f"{name}_star_{axis}"] for axis in "xyz"] for name in "abc"])
            assert np.abs(rows @ stars.T - np.eye(3)).max() <= 1e-12
        direct = np.array([parity[f"rot_{name}_angstroms"] for name in "abc"])
        assert np.abs(direct @ stars.T - np.eye(3)).max() <= 1e-12

    def test_spec_differs_at_phi_step_0_alone(self, traces, c):
        spec, parity = traces["spec"].phi_steps, traces["c-parity"].phi_steps
        assert [i for i, (a, b) in enumerate(zip(spec, parity, strict=True)) if a != b] == [0]
        fresh = turned(np.array([c[f"rot_{name}_angstroms"] for name in "abc"]) * 1e-10, -STEP_DEG * LAST)
        k = float(fresh[1] @ np.array(c["scattering_vec_A_inv"]))
        assert spec[0]["k_frac"] == pytest.approx(k, abs=1e-9)
        assert abs(spec[0]["k_frac"] - parity[0]["k_frac"]) > 1e-3
