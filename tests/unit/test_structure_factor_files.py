"""Files of structure factors: written by gemmi and read by us, written by us and read by gemmi, and damaged ones."""

from __future__ import annotations

import gzip
import time

import gemmi
import numpy as np
import pytest

from nanobrag_torch.crystallography.completeness import possible_reflections
from nanobrag_torch.crystallography.structure_factors import read_structure_factors
from nanobrag_torch.crystallography.symmetry import expand_to_p1
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.amplitudes import amplitude_format, read_reflections, reflection_output
from nanobrag_torch.io.atoms import read_atoms
from nanobrag_torch.io.dump import write_dump_file
from nanobrag_torch.io.hkl import read_hkl_file
from nanobrag_torch.io.mtz import read_mtz, write_mtz
from nanobrag_torch.io.plain_reflections import write_hkl_lines
from nanobrag_torch.records.reflections import Reflections, require_cell
from small_cif import LOOP

CELL = (40.0, 50.0, 60.0, 90.0, 90.0, 90.0)
GROUP = "P 21 21 21"


def make_mtz(path, columns, *, dmin=4.0, group=GROUP, cell=CELL, batches=False):
    """Write an MTZ file with gemmi: columns are (label, type, function of hkl [n, 3])."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(group)
    mtz.add_dataset("native")
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    hkl = gemmi.make_miller_array(mtz.cell, mtz.spacegroup, dmin)
    values = []
    for label, kind, function in columns:
        mtz.add_column(label, kind)
        values.append(function(hkl))
    mtz.set_data(np.column_stack([hkl, *values]).astype(np.float32))
    if batches:
        mtz.batches.append(gemmi.Mtz.Batch())
    mtz.write_to_file(str(path))
    return hkl


def hundred(hkl):
    return np.abs(100.0 + hkl @ np.array([1, 2, 3]))


def tenth(hkl):
    return hundred(hkl) / 10


F, SIGF = ("FP", "F", hundred), ("SIGFP", "Q", tenth)


def test_amplitudes_of_an_mtz_file(tmp_path):
    path = tmp_path / "a.mtz"
    hkl = make_mtz(path, [F, SIGF, ("PHI", "P", tenth), ("FOM", "W", tenth)])
    found = read_mtz(path)
    assert (found.hkl == hkl).all() and found.hkl.dtype == np.int32
    np.testing.assert_allclose(found.amplitude, hundred(hkl))
    np.testing.assert_allclose(found.sigma, tenth(hkl), rtol=1e-6)
    assert found.cell == pytest.approx(CELL) and found.space_group == GROUP and not found.anomalous
    assert found.source == f"FP of {path}"
    packed = tmp_path / "a.mtz.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert (read_structure_factors(packed).amplitude == found.amplitude).all()


def test_intensities_become_amplitudes(tmp_path):
    path = tmp_path / "i.mtz"

    def intensity(hkl):
        return np.where(hkl[:, 2] % 5 == 0, -3.0, hundred(hkl))

    hkl = make_mtz(path, [("IMEAN", "J", intensity), ("SIGIMEAN", "Q", lambda h: np.full(len(h), 8.0))])
    found = read_structure_factors(path)
    expected = np.where(intensity(hkl) > 0, np.sqrt(np.abs(intensity(hkl))), 0)
    np.testing.assert_allclose(found.amplitude, expected, rtol=1e-6)
    strong = expected > 0
    np.testing.assert_allclose(found.sigma[strong], 8 / (2 * expected[strong]), rtol=1e-6)
    np.testing.assert_allclose(found.sigma[~strong], 8 / (2 * np.sqrt(8)), rtol=1e-6)


@pytest.mark.parametrize(("kind", "sigma", "names"), [("G", "L", ("F(+)", "F(-)")), ("K", "M", ("I(+)", "I(-)"))])
def test_anomalous_pairs(tmp_path, kind, sigma, names):
    path = tmp_path / "pair.mtz"

    def minus(hkl):  # some mates are missing, and some reflections have nothing but the mate
        return np.where(hkl[:, 0] % 3 == 0, np.nan, hundred(hkl) + 7)

    def plus(hkl):
        return np.where(hkl[:, 0] % 4 == 1, np.nan, hundred(hkl))

    columns = [(names[0], kind, plus), (f"SIG{names[0]}", sigma, tenth), (names[1], kind, minus)]
    hkl = make_mtz(path, [*columns, (f"SIG{names[1]}", sigma, tenth), ("FMEAN", "F", hundred)])
    found = read_structure_factors(path, column=names[0])
    assert found.anomalous
    value = dict(zip(map(tuple, found.hkl.tolist()), found.amplitude, strict=True))
    power = 1 if kind == "G" else 0.5
    centric = (hkl == 0).any(1)
    for (h, k, l), p, m, c in zip(hkl.tolist(), plus(hkl) ** power, minus(hkl) ** power, centric, strict=True):
        mate = value.get((-h, -k, -l))
        if c:
            both = np.array([p, m])
            known = both[np.isfinite(both)]
            assert mate is None
            assert value.get((h, k, l)) == (pytest.approx(known.mean(), rel=1e-6) if known.size else None)
        else:
            assert value.get((h, k, l)) == (pytest.approx(p, rel=1e-6) if np.isfinite(p) else None)
            assert mate == (pytest.approx(m, rel=1e-6) if np.isfinite(m) else None)
    mean = read_structure_factors(path, column=names[1], anomalous=False)
    assert not mean.anomalous and len(mean) == (np.isfinite(plus(hkl)) | np.isfinite(minus(hkl))).sum()


def test_the_choice_of_columns(tmp_path):
    path = tmp_path / "many.mtz"
    extra = [("FC", "F", tenth), ("FWT", "F", tenth), ("PHWT", "P", tenth), ("IMEAN", "J", hundred)]
    make_mtz(path, [*extra, F, SIGF])
    assert read_mtz(path).source.startswith("FP ")
    assert read_mtz(path, column="fc").source.startswith("FC ")
    np.testing.assert_allclose(read_mtz(path, column="IMEAN").amplitude ** 2, hundred(read_mtz(path).hkl), rtol=1e-6)
    with pytest.raises(InputError, match=r"FQ of .*one of FC, FWT, IMEAN, FP"):
        read_mtz(path, column="FQ")
    make_mtz(path, [("F_low", "F", hundred), ("F_high", "F", hundred), *extra])
    with pytest.raises(InputError, match="one of F_low, F_high: the file has several alike"):
        read_mtz(path)
    make_mtz(path, extra)
    assert read_mtz(path).source.startswith("IMEAN "), "measured before calculated"
    make_mtz(path, extra[:3])
    assert read_mtz(path).source.startswith("FC ")
    make_mtz(path, extra[1:3])
    with pytest.raises(InputError, match="the file has: FWT"):
        read_mtz(path)
    make_mtz(path, [("FOM", "W", tenth)])
    with pytest.raises(InputError, match="the file has: none"):
        read_mtz(path)


def test_missing_values_are_left_out(tmp_path):
    path = tmp_path / "gaps.mtz"
    hkl = make_mtz(path, [("F", "F", lambda h: np.where(h[:, 1] == 2, np.nan, hundred(h)))])
    found = read_structure_factors(path, dmin=5.0, dmax=20.0)
    assert (found.hkl[:, 1] != 2).all()
    spacing = gemmi.UnitCell(*CELL).calculate_d_array(hkl)
    assert len(found) == ((spacing >= 5) & (spacing <= 20) & (hkl[:, 1] != 2)).sum()


def test_what_we_write_gemmi_reads(tmp_path):
    generator = np.random.default_rng(1)
    hkl = possible_reflections(CELL, GROUP, 4.0)
    wanted = Reflections(
        hkl=hkl,
        amplitude=generator.uniform(1, 1000, len(hkl)),
        sigma=generator.uniform(1, 9, len(hkl)),
        phase_deg=generator.uniform(-180, 180, len(hkl)),
        cell=CELL,
        space_group=GROUP,
    )
    path = tmp_path / "out.mtz"
    write_mtz(path, wanted, label="FC")
    mtz = gemmi.read_mtz_file(str(path))
    assert [(c.label, c.type) for c in mtz.columns][3:] == [("FC", "F"), ("SIGFC", "Q"), ("PHIFC", "P")]
    assert mtz.spacegroup.xhm() == GROUP and mtz.cell.parameters == pytest.approx(CELL)
    assert (mtz.array[:, :3] == hkl).all()
    np.testing.assert_allclose(mtz.column_with_label("FC").array, wanted.amplitude, rtol=1e-6)
    np.testing.assert_allclose(mtz.column_with_label("PHIFC").array, wanted.phase_deg, rtol=1e-5)
    again = read_mtz(path)
    assert (again.amplitude == wanted.amplitude.astype(np.float32)).all()
    assert (again.sigma == wanted.sigma.astype(np.float32)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mtz"]


def test_anomalous_pairs_return_from_mtz(tmp_path):
    generator = np.random.default_rng(2)
    for group, cell in ((GROUP, CELL), ("P 31 2 1", (40, 40, 50, 90, 90, 120)), ("P 1", (20, 21, 22, 80, 90, 100))):
        unique = possible_reflections(cell, group, 4.0)
        mates = -unique[~gemmi.SpaceGroup(group).operations().centric_flag_array(unique)]
        hkl = np.concatenate([unique, mates])[generator.permutation(len(unique) + len(mates))[:-9]]
        wanted = Reflections(
            hkl=hkl, amplitude=generator.uniform(1, 9, len(hkl)), cell=cell, space_group=group, anomalous=True
        )
        path = tmp_path / "pair.mtz"
        write_mtz(path, wanted, label="F")
        assert [c.label for c in gemmi.read_mtz_file(str(path)).columns] == ["H", "K", "L", "F(+)", "F(-)"]
        found = read_mtz(path)
        back = dict(zip(map(tuple, found.hkl.tolist()), found.amplitude.tolist(), strict=True))
        sent = dict(zip(map(tuple, hkl.tolist()), wanted.amplitude.astype(np.float32).tolist(), strict=True))
        assert back == sent


SF = (
    "data_r1abcsf\n"
    + LOOP
    + """\
_refln.status
{tags}
{rows}
"""
)


def test_structure_factor_mmcif(tmp_path):
    path = tmp_path / "r1abcsf.ent"
    rows = "1 2 3 o 10.5 0.5\n2 2 3 f 20.5 0.25\n3 1 1 x 99 1\n4 1 1 o ? ?\n0 0 5 - 3 1"
    path.write_text(SF.format(tags="_refln.F_meas_au\n_refln.F_meas_sigma_au", rows=rows))
    found = read_structure_factors(path)
    assert found.hkl.tolist() == [[1, 2, 3], [2, 2, 3]]
    assert found.amplitude.tolist() == [10.5, 20.5] and found.sigma.tolist() == [0.5, 0.25]
    assert found.cell == CELL and found.space_group == GROUP
    tags = "_refln.pdbx_I_plus\n_refln.pdbx_I_minus\n_refln.F_calc"
    path.write_text(SF.format(tags=tags, rows="1 2 3 o 25 36 7\n2 2 3 o 49 ? 8\n0 2 3 o 81 81 9"))
    found = read_structure_factors(path)
    assert found.anomalous and found.hkl.tolist() == [[1, 2, 3], [2, 2, 3], [0, 2, 3], [-1, -2, -3]]
    assert found.amplitude.tolist() == [5, 7, 9, 6]
    assert read_structure_factors(path, column="F_calc").amplitude.tolist() == [7, 8, 9]
    packed = tmp_path / "r.cif.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_structure_factors(packed, anomalous=False).amplitude.tolist() == [5.5, 7, 9]


def test_the_block_that_is_read_of_several_is_named(tmp_path, caplog):
    path = tmp_path / "two.cif"
    one, other = (SF.format(tags="_refln.F_meas_au", rows=f"1 2 3 o {value}") for value in (10, 30))
    path.write_text(one + other.replace("data_", "data_second_", 1))
    found = read_structure_factors(path)
    assert found.amplitude.tolist() == [10.0]
    assert "second_" in caplog.text and "others hold some too" in caplog.text


def test_reflections_of_a_small_molecule(tmp_path):
    path = tmp_path / "quartz.fcf"
    path.write_text(
        "data_quartz\nloop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-y, x-y, z+2/3'\n'-x+y, -x, z+1/3'\n'y, x, -z'\n"
        "'x-y, -y, -z+1/3'\n'-x, -x+y, -z+2/3'\n_cell_length_a 4.916\n_cell_length_b 4.916\n_cell_length_c 5.405\n"
        "_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma 120\nloop_\n_refln_index_h\n_refln_index_k\n"
        "_refln_index_l\n_refln_F_squared_calc\n_refln_F_squared_meas\n_refln_F_squared_sigma\n"
        "_refln_observed_status\n1 0 0 9 16 2 o\n1 0 1 100 81 3 o\n"
    )
    found = read_structure_factors(path)
    assert found.space_group == "P 32 2 1" and found.amplitude.tolist() == [4, 9]
    assert found.sigma.tolist() == [0.25, 3 / 18]


def test_text_and_dump_files_are_whole_lists(tmp_path):
    text = tmp_path / "a.hkl"
    text.write_text("1 2 3 10\n-1 2 3 11.5 # a comment\n0 0 0 5\n")
    dump = tmp_path / "Fdump.bin"
    grid, metadata = read_hkl_file(text)
    write_dump_file(dump, grid.numpy(), metadata)
    found = read_structure_factors(text)
    assert found.space_group is None and sorted(found.amplitude) == [5, 10, 11.5]
    expansion = expand_to_p1(found)
    assert expansion.metadata == metadata and len(expansion.flat) == 3
    assert len(read_structure_factors(dump)) == grid.numel()
    with pytest.raises(InputError, match="unit cell"):
        read_structure_factors(text, dmin=3.0)
    with pytest.raises(InputError, match="only one"):
        read_structure_factors(text, column="F")
    symmetric = read_structure_factors(text, space_group="P2", cell=(10, 10, 10, 90, 90, 90), dmin=2.0)
    assert len(expand_to_p1(symmetric).flat) == 9  # 1 2 3 and -1 2 3, each with a twofold mate and theirs; 0 0 0
    assert len(read_structure_factors(text, cell=(10, 10, 10, 90, 90, 90), dmin=4.0)) == 1


def test_lines_that_we_write_are_read_by_us(tmp_path):
    hkl = np.array([[1, -2, 3], [0, 4, -5]], np.int32)
    write_hkl_lines(tmp_path / "x.hkl", hkl, np.array([np.float32(1 / 3), 1e4]).astype(float))
    found = read_reflections(tmp_path / "x.hkl")
    value = dict(zip(map(tuple, found.hkl.tolist()), found.amplitude.astype(np.float32), strict=True))
    assert value == {(1, -2, 3): np.float32(1 / 3), (0, 4, -5): np.float32(1e4)}


def test_an_mtz_file_renders_as_its_expansion_in_text_does(tmp_path):
    import torch

    from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
    from nanobrag_torch.crystallography.structure_factors import attach_structure_factors
    from nanobrag_torch.crystallography.symmetry import table_maker
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector

    path, text = tmp_path / "a.mtz", tmp_path / "a.hkl"
    make_mtz(path, [F], dmin=3.0)
    unique = read_structure_factors(path)
    crystal = Crystal(CrystalConfig(cell_a=40.0, cell_b=50.0, cell_c=60.0, N_cells=(5, 5, 5)), dtype=torch.float64)
    detector = Detector(DetectorConfig(spixels=24, fpixels=24, pixel_size_mm=1.0, distance_mm=40.0, oversample=1))
    simulator = Simulator(crystal, detector, beam_config=BeamConfig(wavelength_A=1.0), dtype=torch.float64)
    expansion = attach_structure_factors(crystal, unique)
    image = simulator.run()
    assert image.max() > 0
    write_hkl_lines(text, expansion.hkl, unique.amplitude[expansion.unique])
    crystal.hkl_data, crystal.hkl_metadata = read_hkl_file(text)
    torch.testing.assert_close(simulator.run(), image, rtol=1e-7, atol=1e-7 * float(image.max()))
    amplitudes = torch.from_numpy(unique.amplitude).requires_grad_()
    crystal.hkl_data, crystal.hkl_metadata = table_maker(expansion)(amplitudes), expansion.metadata
    simulator.run().sum().backward()
    # every term goes with F squared, so that the sum of F dI/dF is twice the image (Euler)
    assert float((amplitudes.grad * amplitudes.detach()).sum()) == pytest.approx(2 * float(image.sum()), rel=1e-6)


def test_half_a_million_reflections_are_read_in_a_second(tmp_path):
    path = tmp_path / "large.mtz"
    hkl = make_mtz(path, [F, SIGF, ("FREE", "I", tenth)], dmin=1.5, group="P 31 2 1", cell=(200, 200, 150, 90, 90, 120))
    assert len(hkl) > 500_000
    times = []
    for _ in range(3):
        begun = time.process_time()
        found = read_structure_factors(path)
        times.append(time.process_time() - begun)
    assert len(found) == len(hkl)
    assert min(times) < 1.0, times
    begun = time.process_time()
    assert len(expand_to_p1(found).flat) > 6 * len(hkl)
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize("length", [10, 60, 300, 2000, -900, -100, -70])
def test_truncated_mtz_files(tmp_path, length):
    path = tmp_path / "cut.mtz"
    make_mtz(path, [F, SIGF])
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(InputError, match=r"cut\.mtz") as caught:
        read_structure_factors(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "bad"

    def refuses(reason, **options):
        with pytest.raises(InputError, match=reason) as caught:
            read_structure_factors(path, **options)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    with pytest.raises(InputError, match="no such file"):
        read_structure_factors(path)
    path.write_bytes(b"")
    refuses("empty")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refuses("accepted: MTZ file, Fdump file, CIF of reflections")
    path.write_bytes(gzip.compress(b"data_x\n" * 100)[:-10])
    refuses("damaged gzip")
    path.write_text("data_x\n_cell.length_a 40\n")
    refuses("_refln")
    path.write_text(SF.format(tags="_refln.F_meas_au", rows="1 2 3 o 10\n1 2 4 o"))
    refuses("loop|values")
    path.write_text(SF.format(tags="_refln.F_meas_au", rows="1 2 3 o 10").replace("'P 21 21 21'", "'P 5'"))
    refuses("space group")
    path.write_text(SF.format(tags="_refln.F_meas_au", rows="1 2 3 o 10").replace("_cell.length_a 40\n", ""))
    refuses("unit cell")
    path.write_text(SF.format(tags="_refln.fom", rows="1 2 3 o 10"))
    refuses("column of amplitudes")
    path.write_text(SF.format(tags="_refln.F_meas_au", rows="1 2 3 o ?"))
    refuses("reflections inside")
    path.write_text("data_u\nloop_\n_diffrn_refln.index_h\n_diffrn_refln.index_k\n_diffrn_refln.index_l\n1 2 3\n")
    refuses("merged")
    path.write_text("1 2 3 4\n1 2 x 4\n")
    refuses("line 2")
    make_mtz(path, [F], batches=True)
    refuses("unmerged")
    make_mtz(path, [F, ("BATCH", "B", tenth)])
    refuses("unmerged")
    make_mtz(path, [F])
    refuses("resolution", dmax=1.0)
    with pytest.raises(InputError, match="space group"):
        read_structure_factors(path, space_group="P 5")
    with pytest.raises(InputError, match="dmin"):
        read_structure_factors(path, dmin=-1.0)


def test_kinds_are_told_by_content_not_by_name(tmp_path):
    path = tmp_path / "x.pdb"
    make_mtz(path, [F])
    assert amplitude_format(path).name == "mtz"
    path.write_text("# made by hand\n1 2 3 4.5\n")
    assert amplitude_format(path).name == "hkl"
    path.write_text("# a comment\n\ndata_x\nloop_\n_atom_site.id\n1\n")
    assert amplitude_format(path).name == "model"
    path.write_text("CRYST1   24.000\n")
    assert amplitude_format(path).name == "model"
    with pytest.raises(InputError, match="not of atoms"):
        read_reflections(path)
    with pytest.raises(InputError, match="no atoms"):
        read_atoms(path)


def test_writers_refuse(tmp_path):
    plain = Reflections(hkl=np.array([[1, 1, 1]], np.int32), amplitude=np.ones(1))
    with pytest.raises(InputError, match="cell"):
        write_mtz(tmp_path / "x.mtz", plain)
    with pytest.raises(InputError, match=r"\.mtz, \.bin, \.hkl"):
        reflection_output("x.cif")
    for bad in ((1, 2), (1, 2, 3, 90, 90, 0), (1, 2, 3, 90, 90, 179, 4), (5, 5, 5, 10, 90, 150), (1, 2, float("nan"))):
        with pytest.raises(InputError, match="cell"):
            require_cell(bad)
    assert require_cell((5, 6, 7)) == (5, 6, 7, 90, 90, 90)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", [-999.0, 0.0, -1e30])
def test_the_number_of_the_header_that_means_missing_counts_in_every_column(tmp_path, missing):
    """VALM by an editor of the header, for gemmi writes NaN; in columns of F, sigma and the pair, not in indices."""
    path = tmp_path / "valm.mtz"

    def holed(hkl):
        return np.where(hkl[:, 0] == 1, missing, hundred(hkl))

    hkl = make_mtz(path, [("F", "F", holed), ("SIGF", "Q", tenth), ("F(+)", "G", hundred), ("F(-)", "G", holed)])
    content = path.read_bytes()
    assert content.count(b"VALM NAN") == 1
    path.write_bytes(content.replace(b"VALM NAN".ljust(30), f"VALM {missing}".encode().ljust(30)))
    found = read_reflections(path, column="F")
    assert len(found) == (hkl[:, 0] != 1).sum() and found.amplitude.min() >= 100 and (found.hkl[:, 0] == 0).any()
    pair = read_reflections(path, column="F(+)")
    assert not ((pair.hkl[:, 0] == -1) & (pair.amplitude == missing)).any()


def test_what_is_read_is_said_and_why(tmp_path, caplog):
    path = tmp_path / "i.mtz"
    make_mtz(path, [("IMEAN", "J", hundred), ("SIGIMEAN", "Q", tenth)])
    found = read_structure_factors(path)
    np.testing.assert_allclose(found.amplitude**2, hundred(found.hkl), rtol=1e-6)
    assert "intensities IMEAN, the only ones in the file; F = sqrt(I), 0 where I is not positive" in caplog.text
    caplog.clear()
    make_mtz(path, [("FC", "F", hundred), ("FP", "F", hundred), ("I", "J", hundred)])
    read_structure_factors(path)
    assert "amplitudes FP, taken because they are measured, before FC, I" in caplog.text
    caplog.clear()
    read_structure_factors(path, column="FC")
    assert "amplitudes FC, the column asked for" in caplog.text


def test_index_columns_of_another_type_are_refused(tmp_path):
    path = tmp_path / "no.mtz"
    make_mtz(path, [F])
    mtz = gemmi.read_mtz_file(str(path))
    mtz.columns[2].type = "I"
    mtz.write_to_file(str(path))
    with pytest.raises(InputError, match="three index columns of type H"):
        read_reflections(path)
