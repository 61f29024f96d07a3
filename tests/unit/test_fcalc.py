"""Structure factors of atoms against published intensities, published constants and gemmi's own sums."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import torch

from nanobrag_torch.crystallography.completeness import inverse_square_spacing, possible_reflections
from nanobrag_torch.crystallography.fcalc import BulkSolvent, calculate, symmetry_sums, with_b_factors
from nanobrag_torch.crystallography.form_factors import dispersion, gaussian_coefficients, scattering_factors
from nanobrag_torch.crystallography.structure_factors import attach_structure_factors, read_structure_factors
from nanobrag_torch.crystallography.symmetry import expand_to_p1
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atoms import read_atoms

CU_K_ALPHA_1 = 1.540598

CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {b}
_cell_length_c {c}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma {gamma}
_symmetry_space_group_name_H-M '{group}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_U_iso_or_equiv
{sites}
"""

# cell and intensities: NBS Circular 539, vol. 2, p. 41 (1953), powder diffraction file 5-628;
# B(Na) = 1.72, B(Cl) = 1.41 A^2: Abrahams & Bernstein (1965), Acta Cryst. 18, 926
HALITE = CIF.format(
    name="halite", a=5.6402, b=5.6402, c=5.6402, gamma=90, group="F m -3 m",
    sites="Na1 Na1+ 0 0 0 0.0218\nCl1 Cl1- 0.5 0.5 0.5 0.0179",
)  # fmt: skip
HALITE_CARD = {
    (1, 1, 1): 13, (2, 0, 0): 100, (2, 2, 0): 55, (3, 1, 1): 2, (2, 2, 2): 15, (4, 0, 0): 6, (3, 3, 1): 1,
    (4, 2, 0): 11, (4, 2, 2): 7, (5, 1, 1): 1, (4, 4, 0): 2,
}  # fmt: skip
# Levien, Prewitt & Weidner (1980), Am. Mineral. 65, 920; intensities: powder diffraction file 33-1161
QUARTZ = CIF.format(
    name="quartz", a=4.916, b=4.916, c=5.4054, gamma=120, group="P 32 2 1",
    sites="Si1 Si 0.4697 0 0.6666667 0.0075\nO1 O 0.4135 0.2669 0.7857667 0.0145",
)  # fmt: skip
QUARTZ_CARD = {
    (1, 0, 0): 22, (1, 0, 1): 100, (1, 1, 0): 8, (1, 0, 2): 8, (1, 1, 1): 4, (2, 0, 0): 6, (2, 0, 1): 4,
    (1, 1, 2): 14, (0, 0, 3): 0.5, (2, 0, 2): 4, (1, 0, 3): 2, (2, 1, 0): 0.5, (2, 1, 1): 9, (1, 1, 3): 1,
    (3, 0, 0): 0.5, (2, 1, 2): 6, (2, 0, 3): 7, (3, 0, 1): 8,
}  # fmt: skip
SILICON = CIF.format(
    name="silicon", a=5.4310, b=5.4310, c=5.4310, gamma=90, group="F d -3 m :1", sites="Si1 Si 0 0 0 0.005867"
)


def write(folder, text: str):
    path = folder / "model.cif"
    path.write_text(text)
    return path


def powder_intensities(path, wanted) -> dict[tuple[int, int, int], float]:
    """Relative intensities of powder lines, strongest 100: sum of F^2 over the line times Lorentz and polarization."""
    reflections = read_structure_factors(path, dmin=0.95, wavelength_A=CU_K_ALPHA_1)
    expansion = expand_to_p1(reflections)
    squared = inverse_square_spacing(expansion.hkl, reflections.cell)
    power = reflections.amplitude[expansion.unique] ** 2
    found = {}
    for hkl in wanted:
        line = inverse_square_spacing(np.array([hkl], np.int32), reflections.cell)[0]
        theta = np.arcsin(CU_K_ALPHA_1 / 2 * np.sqrt(line))
        lorentz = (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
        found[hkl] = power[np.abs(squared - line) < 1e-5].sum() * lorentz
    strongest = max(found.values())
    return {hkl: 100 * value / strongest for hkl, value in found.items()}


def test_rock_salt_powder_lines(tmp_path):
    found = powder_intensities(write(tmp_path, HALITE), HALITE_CARD)
    for hkl, published in HALITE_CARD.items():
        assert found[hkl] == pytest.approx(published, abs=6.5), hkl
    order = sorted(HALITE_CARD, key=HALITE_CARD.get)[-4:]
    assert sorted(order, key=found.get)[-2:] == order[-2:]


def test_quartz_powder_lines(tmp_path):
    found = powder_intensities(write(tmp_path, QUARTZ), QUARTZ_CARD)
    for hkl, published in QUARTZ_CARD.items():
        if hkl != (3, 0, 1):  # overlaps 2 0 3 on the card's diffractometer
            assert found[hkl] == pytest.approx(published, abs=1.0 + 0.1 * published), hkl
    assert found[2, 0, 3] + found[3, 0, 1] == pytest.approx(15, abs=5)


def test_rock_salt_by_hand(tmp_path):
    """F = 4 (f(Na+) + f(Cl-)) for even indices and 4 (f(Cl-) - f(Na+)) for odd ones; 0 for mixed ones.

    f from the table in Cullity, Elements of X-ray Diffraction, 2nd ed., appendix 12, at sin(theta)/lambda 0.1 .. 0.5.
    """
    model = with_b_factors(read_atoms(write(tmp_path, HALITE)), b_iso=0.0)
    s = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    sodium, chlorine = np.array([9.5, 8.2, 6.7, 5.25, 4.05]), np.array([15.2, 11.5, 9.3, 8.05, 7.25])
    hkl = np.array([[1, 1, 1], [2, 0, 0], [2, 2, 0], [3, 1, 1], [2, 2, 2], [4, 0, 0], [3, 3, 1]], np.int32)
    stol = np.sqrt(inverse_square_spacing(hkl, model.cell)) / 2
    f_na, f_cl = np.interp(stol, s, sodium), np.interp(stol, s, chlorine)
    odd = hkl[:, 0] % 2 == 1
    by_hand = 4 * np.where(odd, f_na - f_cl, f_na + f_cl)
    found = calculate(model, hkl).plus
    assert np.abs(found.imag).max() < 1e-9
    np.testing.assert_allclose(found.real[~odd], by_hand[~odd], rtol=0.03)
    np.testing.assert_allclose(found.real[odd], by_hand[odd], atol=1.2)
    mixed = np.array([[1, 0, 0], [2, 1, 0], [3, 1, 2]], np.int32)
    assert np.abs(calculate(model, mixed).plus).max() < 1e-9


def test_silicon_on_the_absolute_scale(tmp_path):
    """Measured form factors of silicon at room temperature: Cummings & Hart (1988), Aust. J. Phys. 41, 423.

    Bonds make the real crystal differ from one of free atoms, as this is, by up to 2 percent in 1 1 1.
    """
    measured = {(1, 1, 1): 10.6025, (2, 2, 0): 8.3881, (3, 1, 1): 7.6814, (4, 0, 0): 6.9958, (3, 3, 1): 6.7264}
    model = read_atoms(write(tmp_path, SILICON))
    found = np.abs(calculate(model, np.array(list(measured), np.int32)).plus)
    atoms = np.where(np.array(list(measured))[:, 0] % 2 == 1, 4 * np.sqrt(2), 8)
    np.testing.assert_allclose(found / atoms, list(measured.values()), rtol=0.02)
    forbidden = np.array([[2, 2, 2], [2, 0, 0], [4, 4, 2]], np.int32)
    assert np.abs(calculate(model, forbidden).plus).max() < 1e-4


def test_dispersion_at_copper_k_alpha():
    """International Tables C (1992), table 4.2.6.8."""
    published = {
        "C": (0.0181, 0.0091), "O": (0.0492, 0.0322), "Na": (0.1353, 0.1239), "Si": (0.2541, 0.3302),
        "S": (0.3331, 0.5567), "Cl": (0.3639, 0.7018), "Fe": (-1.1336, 3.1974), "Se": (-0.7943, 1.1372),
    }  # fmt: skip
    real, imaginary = dispersion(list(published), 1.54184)
    np.testing.assert_allclose(real, [f for f, _ in published.values()], atol=0.012)
    np.testing.assert_allclose(imaginary, [f for _, f in published.values()], atol=0.012)
    with pytest.raises(InputError, match="wavelength"):
        dispersion(["Fe"], 0.0)


def test_form_factors_begin_at_the_number_of_electrons():
    names, charges = ["C", "Na", "Cl", "Fe", "O"], [0, 1, -1, 3, -2]
    coefficients = torch.from_numpy(gaussian_coefficients(names, charges))
    at_zero = scattering_factors(coefficients, torch.zeros(1, dtype=torch.float64))[0]
    np.testing.assert_allclose(at_zero, [6, 10, 18, 23, 10], atol=0.02)
    assert gemmi.IT92_get_ignore_charge(), "the library's global switch is left as it was"
    with pytest.raises(InputError, match="element"):
        gaussian_coefficients(["X"])


def protein(path, group="P 21 21 21", cell=(24, 27, 31, 90, 90, 90), count=60, seed=1):
    """Write a model of random atoms, some anisotropic and some half occupied, as PDB or mmCIF."""
    generator = np.random.default_rng(seed)
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    structure.cell, structure.spacegroup_hm = gemmi.UnitCell(*cell), group
    for number in range(count):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "UNL", gemmi.SeqId(str(number + 1))
        atom.element = gemmi.Element(["C", "N", "O", "S", "Se"][number % 5])
        atom.name = atom.element.name.upper()
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*generator.random(3)))
        atom.b_iso, atom.occ = float(generator.uniform(8, 30)), 0.5 if number % 7 == 0 else 1.0
        if number % 3 == 0:
            root = generator.normal(size=(3, 3)) * 0.2
            u = root @ root.T + 0.1 * np.eye(3)
            atom.aniso = gemmi.SMat33f(u[0, 0], u[1, 1], u[2, 2], u[0, 1], u[0, 2], u[1, 2])
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    if path.suffix == ".pdb":
        structure.write_pdb(str(path))
    else:
        structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.mark.parametrize(
    ("group", "cell", "suffix"),
    [
        ("P 21 21 21", (24, 27, 31, 90, 90, 90), ".pdb"),
        ("C 1 2 1", (30, 22, 27, 90, 104, 90), ".cif"),
        ("P 31 2 1", (25, 25, 30, 90, 90, 120), ".pdb"),
        ("I 2 3", (33, 33, 33, 90, 90, 90), ".cif"),
        ("P 1", (17, 19, 22, 80, 95, 107), ".cif"),
    ],
)
def test_sum_over_atoms_is_gemmis(tmp_path, group, cell, suffix):
    model = read_atoms(protein(tmp_path / f"model{suffix}", group, cell, count=25))
    hkl = possible_reflections(model.cell, model.space_group, 3.0)[::11]
    model.structure.setup_cell_images()
    theirs = gemmi.StructureFactorCalculatorX(model.structure.cell)
    expected = [theirs.calculate_sf_from_model(model.structure[0], h) for h in hkl.tolist()]
    found = calculate(model, hkl, method="direct")
    np.testing.assert_allclose(found.plus, expected, atol=2e-4)
    np.testing.assert_allclose(found.minus, np.conj(expected), atol=2e-4)


def test_small_molecule_with_anisotropic_atoms_is_gemmis(tmp_path):
    text = QUARTZ + (
        "loop_\n_atom_site_aniso_label\n_atom_site_aniso_U_11\n_atom_site_aniso_U_22\n_atom_site_aniso_U_33\n"
        "_atom_site_aniso_U_12\n_atom_site_aniso_U_13\n_atom_site_aniso_U_23\n"
        "Si1 0.0073 0.0056 0.0066 0.0028 -0.0002 -0.0004\nO1 0.0164 0.0117 0.0125 0.0092 -0.0030 -0.0048\n"
    )
    path = write(tmp_path, text)
    small = gemmi.read_small_structure(str(path))
    small.change_occupancies_to_crystallographic()
    theirs = gemmi.StructureFactorCalculatorX(small.cell)
    hkl = possible_reflections(tuple(small.cell.parameters), "P 32 2 1", 0.8)
    expected = [theirs.calculate_sf_from_small_structure(small, h) for h in hkl.tolist()]
    np.testing.assert_allclose(calculate(read_atoms(path), hkl).plus, expected, atol=1e-4)


def test_transform_of_the_density_is_the_sum(tmp_path):
    model = read_atoms(protein(tmp_path / "model.pdb"))
    hkl = possible_reflections(model.cell, model.space_group, 2.0)
    for wavelength in (None, 0.9795):
        exact = calculate(model, hkl, method="direct", wavelength_A=wavelength)
        quick = calculate(model, hkl, method="fft", wavelength_A=wavelength)
        typical = np.abs(exact.plus).mean()
        assert np.abs(quick.plus - exact.plus).max() < 2e-4 * typical
        assert np.abs(quick.minus - exact.minus).max() < 2e-4 * typical


def test_anomalous_pairs_by_hand(tmp_path):
    """One iron and two carbons in P1, the three terms of F(h) and F(-h) written out."""
    sites = {"Fe1": (0.1, 0.2, 0.3, 0.01), "C1": (0.7, 0.1, 0.4, 0.02), "C2": (0.35, 0.8, 0.9, 0.02)}
    lines = "\n".join(f"{name} {name[:-1]} {x} {y} {z} {u}" for name, (x, y, z, u) in sites.items())
    path = write(tmp_path, CIF.format(name="iron", a=9, b=10, c=11, gamma=90, group="P 1", sites=lines))
    reflections = read_structure_factors(path, dmin=2.0, wavelength_A=1.0)
    assert reflections.anomalous
    squared = (reflections.hkl**2 / np.array([81.0, 100, 121])).sum(1)
    expected = np.zeros(len(reflections), complex)
    for name, (x, y, z, u) in sites.items():
        element = gemmi.Element(name[:-1])
        real, imaginary = gemmi.cromer_liberman(z=element.atomic_number, energy=12398.41984)
        f0 = np.array([element.it92.calculate_sf(s / 4) for s in squared])
        wave = np.exp(2j * np.pi * (reflections.hkl @ np.array([x, y, z])))
        expected += (f0 + real + 1j * imaginary) * np.exp(-2 * np.pi**2 * u * squared) * wave
    np.testing.assert_allclose(reflections.amplitude, np.abs(expected), rtol=1e-5)
    np.testing.assert_allclose(np.cos(np.radians(reflections.phase_deg)), np.cos(np.angle(expected)), atol=1e-4)
    value = dict(zip(map(tuple, reflections.hkl.tolist()), reflections.amplitude, strict=True))
    differences = [abs(f - value[tuple(-x for x in h)]) for h, f in value.items()]
    assert max(differences) > 1 and len(value) == len(reflections)


def test_atom_sums_are_differentiable():
    generator = torch.Generator().manual_seed(1)
    hkl = torch.tensor([[1.0, 2, 3], [0, 2, 1]], dtype=torch.float64)
    fractional = torch.rand((3, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    u_star = (torch.eye(3, dtype=torch.float64) * 1e-3).repeat(3, 1, 1).requires_grad_()
    kinds = torch.tensor([[1.0, 0], [0, 1], [1, 0]], dtype=torch.float64)

    def power(x, w, u):
        return symmetry_sums(hkl, "P 21 21 21", x, w, u, kinds).abs() ** 2

    assert torch.autograd.gradcheck(power, (fractional, weight, u_star))


def test_bulk_solvent_lowers_low_resolution_and_leaves_high(tmp_path):
    model = read_atoms(protein(tmp_path / "model.cif", cell=(40, 45, 50, 90, 90, 90), count=400))
    hkl = possible_reflections(model.cell, model.space_group, 2.0)
    dry = calculate(model, hkl, method="fft").plus
    wet = calculate(model, hkl, method="fft", solvent=BulkSolvent()).plus
    spacing = inverse_square_spacing(hkl, model.cell) ** -0.5
    low, high = spacing > 10, spacing < 2.5
    share = np.abs(wet - dry) / np.abs(dry).mean()
    assert share[low].mean() > 0.2 and share[high].mean() < 0.01
    correlation = (dry[low] * (wet - dry)[low].conj()).real.sum()
    assert correlation < 0, "solvent is where atoms are not, so it scatters out of phase"
    np.testing.assert_allclose(calculate(model, hkl, method="fft", solvent=BulkSolvent(0.0)).plus, dry)


def test_b_factors_fall_off_as_they_should(tmp_path):
    for suffix in (".cif", ".pdb"):
        model = read_atoms(protein(tmp_path / f"model{suffix}"))
        hkl = possible_reflections(model.cell, model.space_group, 2.5)
        fall = np.exp(-10 * inverse_square_spacing(hkl, model.cell) / 4)
        base = calculate(model, hkl).plus
        colder = with_b_factors(model, b_add=10.0)
        np.testing.assert_allclose(calculate(colder, hkl).plus, base * fall, atol=1e-6)
        transformed = calculate(colder, hkl, method="fft").plus
        np.testing.assert_allclose(transformed, base * fall, atol=0.02)
        flat = with_b_factors(model, b_iso=10.0)
        still = with_b_factors(model, b_iso=0.0)
        np.testing.assert_allclose(calculate(flat, hkl).plus, calculate(still, hkl).plus * fall, atol=1e-6)


def test_a_model_becomes_the_table_of_a_crystal(tmp_path):
    from nanobrag_torch import CrystalConfig
    from nanobrag_torch.models.crystal import Crystal

    path = protein(tmp_path / "model.pdb")
    reflections = read_structure_factors(path, dmin=4.0)
    crystal = Crystal(CrystalConfig(cell_a=24.0, cell_b=27.0, cell_c=31.0))
    attach_structure_factors(crystal, reflections)
    table, first = crystal.structure_factors(torch.float64)
    h, k, l = reflections.hkl[7].tolist()
    assert table[-h - first[0], k - first[1], -l - first[2]] == pytest.approx(reflections.amplitude[7])


def test_models_that_cannot_be_used(tmp_path):
    path = write(tmp_path, HALITE)
    with pytest.raises(InputError, match="dmin"):
        read_structure_factors(path)
    with pytest.raises(InputError, match="wavelength"):
        read_structure_factors(path, dmin=1.0, anomalous=True)
    with pytest.raises(InputError, match="solvent"):
        read_structure_factors(path, dmin=1.0, solvent=BulkSolvent())
    with pytest.raises(InputError, match="column"):
        read_structure_factors(path, dmin=1.0, column="FP")
    with pytest.raises(InputError, match="cell"):
        read_structure_factors(path, dmin=1.0, space_group="P1")
    with pytest.raises(InputError, match="k_sol"):
        BulkSolvent(-1.0)
    with pytest.raises(InputError, match="method"):
        calculate(read_atoms(path), np.array([[1, 1, 1]], np.int32), method="magic")
    pdb = protein(tmp_path / "model.pdb")
    whole = pdb.read_text()
    for name, text, reason in [
        ("cut.pdb", whole[: len(whole) // 2 + 20], "cut.pdb"),
        ("nocell.pdb", "".join(x for x in whole.splitlines(True) if not x.startswith("CRYST1")), "no unit cell"),
        ("group.pdb", whole.replace("P 21 21 21", "Q 21 21 21"), "unknown space group"),
        ("noatoms.pdb", "CRYST1   24.000   27.000   31.000  90.00  90.00  90.00 P 1\n", "no atoms"),
        ("element.cif", HALITE.replace("Na1+", "Qq").replace("Na1 ", "Qq1 "), "no known element"),
        ("cut.cif", HALITE[:-20], "cut.cif"),
    ]:
        bad = tmp_path / name
        bad.write_text(text)
        with pytest.raises(InputError, match=reason) as caught:
            read_atoms(bad)
        assert "\n" not in str(caught.value) and name in str(caught.value)
