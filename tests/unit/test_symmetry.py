"""Expansion to P1 against gemmi's own, and what a table, its gradients and the shells are made of."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobrag_torch.crystallography.completeness import (
    missing_reflections,
    possible_reflections,
    resolution_shells,
    shell_table,
    within,
)
from nanobrag_torch.crystallography.symmetry import (
    amplitude_table,
    expand_to_p1,
    merge_equivalents,
    space_group,
    table_maker,
)
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections

GROUPS = ["P 1", "P 1 21 1", "P 21 21 21", "C 1 2 1", "I 2 3", "P 31 2 1", "P 4 21 2", "R 3:H", "F d -3 m:2"]


def cell_of(group: str, a: float, b: float, c: float, tilt: float) -> tuple[float, ...]:
    """A cell of the group's crystal system out of four numbers."""
    system = gemmi.SpaceGroup(group).crystal_system_str()
    return {
        "triclinic": (a, b, c, 90 + tilt, 90 - tilt / 2, 90 + tilt / 3),
        "monoclinic": (a, b, c, 90, 90 + tilt, 90),
        "orthorhombic": (a, b, c, 90, 90, 90),
        "tetragonal": (a, a, c, 90, 90, 90),
        "trigonal": (a, a, c, 90, 90, 120),
        "cubic": (a, a, a, 90, 90, 90),
    }[system]


def unique_reflections(group: str, cell: tuple[float, ...], dmin: float, seed: int, part: float = 0.8) -> Reflections:
    """Some of the unique reflections, with random amplitudes."""
    generator = np.random.default_rng(seed)
    hkl = gemmi.make_miller_array(gemmi.UnitCell(*cell), gemmi.SpaceGroup(group), dmin)
    hkl = hkl[generator.random(len(hkl)) < part]
    return Reflections(hkl=hkl, amplitude=generator.uniform(1, 100, len(hkl)), cell=cell, space_group=group)


def gemmi_p1(reflections: Reflections) -> dict[tuple[int, int, int], float]:
    """Every reflection of P1 and its amplitude as gemmi expands them, Friedel mates added."""
    assert reflections.cell is not None
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(reflections.space_group)
    mtz.set_cell_for_all(gemmi.UnitCell(*reflections.cell))
    mtz.add_dataset("x")
    mtz.add_column("F", "F")
    mtz.set_data(np.column_stack([reflections.hkl, reflections.amplitude]).astype(np.float32))
    mtz.expand_to_p1()
    rows = [(int(h), int(k), int(l), float(value)) for h, k, l, value in mtz.array]
    return {(sign * h, sign * k, sign * l): value for h, k, l, value in rows for sign in (-1, 1)}


def as_dictionary(reflections: Reflections) -> dict[tuple[int, int, int], float]:
    """Every reflection of P1 and its amplitude as we expand them."""
    expansion = expand_to_p1(reflections)
    values = reflections.amplitude.astype(np.float32)[expansion.unique]
    return {(h, k, l): float(value) for (h, k, l), value in zip(expansion.hkl.tolist(), values, strict=True)}


@pytest.mark.parametrize("group", GROUPS)
@settings(max_examples=6, deadline=None)
@given(
    edges=st.tuples(*[st.floats(8, 25)] * 3), tilt=st.floats(0, 25), seed=st.integers(0, 2**31), dmin=st.floats(2.5, 4)
)
def test_expansion_is_gemmis(group, edges, tilt, seed, dmin):
    reflections = unique_reflections(group, cell_of(group, edges[0], edges[1], edges[2], tilt), dmin, seed)
    if len(reflections):
        assert as_dictionary(reflections) == gemmi_p1(reflections)


def test_table_holds_each_reflection_at_its_index():
    reflections = unique_reflections("P 21 21 21", (20, 30, 40, 90, 90, 90), 3.0, 1)
    expansion = expand_to_p1(reflections)
    table = amplitude_table(expansion, torch.from_numpy(reflections.amplitude))
    metadata = expansion.metadata
    low = np.array([metadata["h_min"], metadata["k_min"], metadata["l_min"]])
    assert table.shape == tuple(metadata[f"{x}_max"] - metadata[f"{x}_min"] + 1 for x in "hkl")
    for hkl, value in zip(reflections.hkl, reflections.amplitude, strict=True):
        for signs in ((1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, -1), (1, 1, -1)):
            assert table[tuple(hkl * signs - low)] == value


def test_gradients_act_on_unique_reflections():
    reflections = unique_reflections("P 4 21 2", (20, 20, 30, 90, 90, 90), 4.0, 2)
    expansion = expand_to_p1(reflections)
    amplitudes = torch.from_numpy(reflections.amplitude).requires_grad_()
    table = table_maker(expansion)(amplitudes)
    (table**2).sum().backward()
    multiplicity = np.bincount(expansion.unique, minlength=len(reflections))
    np.testing.assert_allclose(amplitudes.grad.numpy(), 2 * reflections.amplitude * multiplicity)
    assert torch.autograd.gradcheck(table_maker(expansion), amplitudes)


def test_default_fills_what_is_missing_but_not_what_is_extinct():
    reflections = unique_reflections("P 21 21 21", (20, 30, 40, 90, 90, 90), 4.0, 3, part=0.5)
    expansion = expand_to_p1(reflections)
    table = amplitude_table(expansion, torch.from_numpy(reflections.amplitude), default_F=7.0)
    h0, k0, l0 = expansion.first
    assert table[1 - h0, -k0, -l0] == 0 and table[-h0, 3 - k0, -l0] == 0  # 1 0 0 and 0 3 0: screw axes
    absent = next(h for h in missing_reflections(reflections).tolist())
    assert table[absent[0] - h0, absent[1] - k0, absent[2] - l0] == 7


def test_the_default_amplitude_has_a_gradient():
    expansion = expand_to_p1(unique_reflections("P 21 21 21", (20, 30, 40, 90, 90, 90), 4.0, 3, part=0.5))
    amplitudes = torch.from_numpy(np.ones(expansion.unique.max() + 1))
    default = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    make = table_maker(expansion, default_F=default)
    for _ in range(2):  # a table of each step of a refinement
        (slope,) = torch.autograd.grad(make(amplitudes).sum(), default)
        assert slope == (make(amplitudes) == 7).sum() > 0


def test_conditions_of_the_tables_are_extinct():
    """Reflection conditions of International Tables A for the zones that these groups extinguish."""
    conditions = {
        "P 1 21 1": lambda h, k, l: (h == 0) & (l == 0) & (k % 2 != 0),
        "C 1 2 1": lambda h, k, l: (h + k) % 2 != 0,
        "I 2 3": lambda h, k, l: (h + k + l) % 2 != 0,
        "P 31 2 1": lambda h, k, l: (h == 0) & (k == 0) & (l % 3 != 0),
        "R 3:H": lambda h, k, l: (-h + k + l) % 3 != 0,
        "P 4 21 2": lambda h, k, l: ((k == 0) & (l == 0) & (h % 2 != 0)) | ((h == 0) & (l == 0) & (k % 2 != 0)),
    }
    axes = np.arange(-4, 5)
    hkl = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)
    for group, extinct in conditions.items():
        whole = Reflections(hkl=hkl.astype(np.int32), amplitude=np.ones(len(hkl)), space_group=group, anomalous=True)
        expansion = expand_to_p1(merge_equivalents(whole))
        expected = extinct(*hkl.T)
        kept = {tuple(x) for x in expansion.hkl.tolist()}
        inside = {tuple(x) for x in hkl[~expected].tolist()}
        assert inside <= kept
        assert not kept & {tuple(x) for x in hkl[expected].tolist()}
        assert expansion.absent > 0


def test_friedel_mates_of_anomalous_data_stay_apart_and_missing_ones_are_lent():
    hkl = np.array([[1, 2, 3], [-1, -2, -3], [2, 1, 3]], np.int32)
    amplitude = np.array([10.0, 12.0, 5.0])
    reflections = Reflections(hkl=hkl, amplitude=amplitude, space_group="P 21 21 21", anomalous=True)
    found = as_dictionary(reflections)
    assert found[1, 2, 3] == found[-1, -2, 3] == 10
    assert found[-1, -2, -3] == found[1, 2, -3] == 12
    assert found[2, 1, 3] == found[-2, -1, -3] == 5


def test_a_plain_list_is_taken_as_it_is():
    hkl = np.array([[1, 2, 3], [0, 0, -4]], np.int32)
    found = as_dictionary(Reflections(hkl=hkl, amplitude=np.array([1.0, 2.0])))
    assert found == {(1, 2, 3): 1.0, (0, 0, -4): 2.0}


def test_equal_rows_are_refused_and_merged():
    hkl = np.array([[1, 2, 3], [-1, -2, 3], [1, 0, 0], [1, 1, 1]], np.int32)
    reflections = Reflections(
        hkl=hkl, amplitude=np.array([1.0, 3.0, 5.0, 6.0]), sigma=np.full(4, 2.0), space_group="P 1 1 2"
    )
    with pytest.raises(InputError, match="equal by symmetry"):
        expand_to_p1(reflections)
    merged = merge_equivalents(reflections)
    assert merged.hkl.tolist() == [[1, 2, 3], [1, 0, 0], [1, 1, 1]]
    assert merged.amplitude.tolist() == [2, 5, 6]
    np.testing.assert_allclose(merged.sigma, [np.sqrt(2), 2, 2])
    expand_to_p1(merged)


def test_shells_count_what_is_missing():
    whole = unique_reflections("P 31 2 1", (30, 30, 40, 90, 90, 120), 2.5, 5, part=1.0)
    kept = np.random.default_rng(0).random(len(whole)) < 0.7
    some = whole.rows(kept)
    shells = resolution_shells(some, 8, dmin=2.5)
    assert whole.cell is not None
    lattice = gemmi.UnitCell(*whole.cell)
    assert sum(s.possible for s in shells) == gemmi.count_reflections(lattice, gemmi.SpaceGroup("P 31 2 1"), 2.5)
    assert sum(s.present for s in shells) == kept.sum()
    for shell in shells:
        d = lattice.calculate_d_array(whole.hkl)
        inside = (d <= shell.d_max) & (d > shell.d_min)
        assert abs(shell.possible - inside.sum()) <= 1 and abs(shell.missing - (inside & ~kept).sum()) <= 1
        assert shell.mean_amplitude == pytest.approx(some.amplitude[inside[kept]].mean(), rel=0.05)
    assert sorted(missing_reflections(some, dmin=2.5).tolist()) == sorted(whole.hkl[~kept].tolist())
    text = shell_table(shells).splitlines()
    assert len(text) == 10 and text[-1].split()[1:4] == [str(len(whole)), str(kept.sum()), str((~kept).sum())]


def test_resolution_limits_keep_the_reflection_on_the_limit():
    reflections = unique_reflections("P 1", (10, 10, 10, 90, 90, 90), 1.0, 1, part=1.0)
    assert np.abs(within(reflections, 2.5, None).hkl).max() == 4
    assert {4} == set(np.abs(within(reflections, 2.5, 2.5).hkl).max(1).tolist())


def test_names_of_space_groups():
    assert space_group("P212121").xhm() == "P 21 21 21"
    assert space_group("19").xhm() == "P 21 21 21"
    assert space_group("R3", (50, 50, 70, 90, 90, 120)).xhm() == "R 3:H"
    assert space_group("R3", (50, 50, 50, 80, 80, 80)).xhm() == "R 3:R"
    with pytest.raises(InputError, match="P5"):
        space_group("P5")


def test_bad_requests_are_one_line():
    empty = Reflections(hkl=np.zeros((0, 3), np.int32), amplitude=np.zeros(0))
    with pytest.raises(InputError, match="at least one"):
        expand_to_p1(empty)
    with pytest.raises(InputError, match="unit cell"):
        within(empty, 2.0, None)
    with pytest.raises(InputError, match="dmin"):
        possible_reflections((10, 10, 10, 90, 90, 90), "P 1", 0.0)
    far = Reflections(hkl=np.array([[30000, 30000, 30000]], np.int32), amplitude=np.ones(1), space_group="P 1")
    with pytest.raises(InputError, match="cells"):
        expand_to_p1(far)
    with pytest.raises(InputError, match="hkl"):
        Reflections(hkl=np.zeros((2, 2), np.int32), amplitude=np.zeros(2))
    with pytest.raises(InputError, match="amplitude"):
        Reflections(hkl=np.zeros((2, 3), np.int32), amplitude=np.zeros(3))
