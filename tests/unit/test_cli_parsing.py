"""Both passes over the command line: every flag of the table, substring matches, multi-matches, bad values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobrag_torch.cli.nanobragg.flags import FLAGS, RUN, SUBJECTS, flags_of_config
from nanobrag_torch.cli.nanobragg.parsing import apply_words, compat_of, header_files, last_value, nearest_flag
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.compat import Compat
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig
from nanobrag_torch.errors import InputError

C = Compat.c()


def parse(line: str, compat: Compat = Compat(), *, as_c: bool = False) -> Request:  # noqa: B008
    request = Request()
    apply_words(request, line.split(), compat, as_c_reads=as_c)
    return request


# spelling, values -> fields; every row of reference-behaviour 1.2, every alternative spelling of it
ROWS = [
    ("-Na 3", {"Na": 3}), ("-Nb 3", {"Nb": 3}), ("-Nc 3", {"Nc": 3}), ("-N 4", {"Na": 4, "Nb": 4, "Nc": 4}),
    ("-cell 1 2 3 70 80 90", {"cell": (1, 2, 3, 70, 80, 90)}), ("-cell 50", {"cell": (50,)}),
    ("-misset 1 2 3", {"misset_deg": (1, 2, 3), "misset_choice": "angles"}),
    ("-misset random", {"misset_choice": "random"}), ("-misset_uniform", {"misset_choice": "uniform"}),
    *((f"{f} 0.2", {"sample_x_mm": 0.2, "sample_y_mm": 0.2, "sample_z_mm": 0.2})
      for f in ("-samplesize", "-sample_size", "-xtalsize", "-xtal_size")),
    *((f"{f} 0.2", {"sample_x_mm": 0.2}) for f in ("-sample_thick", "-sample_x", "-xtal_thick", "-xtal_x")),
    *((f"{f} 0.2", {"sample_y_mm": 0.2}) for f in ("-sample_width", "-sample_y", "-xtal_width", "-xtal_y", "-width")),
    *((f"{f} 0.2", {"sample_z_mm": 0.2})
      for f in ("-sample_heigh", "-sample_height", "-sample_z", "-xtal_heigh", "-xtal_z", "-heigh", "-height")),
    ("-density 1.3", {}), ("-sample_density 1.3", {}), ("-MW 18", {}), ("-molecular_weight 18", {}),
    ("-Xbeam 5", {"Xbeam_mm": 5, "pivot": "beam"}), ("-Ybeam 5", {"Ybeam_mm": 5, "pivot": "beam"}),
    ("-Xclose 5", {"Xclose_mm": 5, "pivot": "sample"}), ("-Yclose 5", {"Yclose_mm": 5, "pivot": "sample"}),
    ("-ORGX 5", {"ORGX": 5, "pivot": "sample"}), ("-ORGY 5", {"ORGY": 5, "pivot": "sample"}),
    ("-pivot sample", {"pivot": "sample"}), ("-pivot the_beam", {"pivot": "beam"}),
    ("-xds", {"convention": "xds", "pivot": "sample"}), ("-adxv", {"convention": "adxv"}),
    ("-denzo", {"convention": "denzo"}), ("-dials", {"convention": "dials"}), ("-mosflm", {}),
    *((f"-{v} 1 0 0", {v: (1, 0, 0), "convention": "custom"})
      for v in ("fdet_vector", "sdet_vector", "odet_vector", "beam_vector", "polar_vector", "spindle_axis",
                "twotheta_axis")),
    ("-pix0_vector 1 2 3", {"convention": "custom", "pix0_given": True}),
    ("-pix0_vector_mm 1 2 3", {"convention": "custom", "pix0_given": True}),
    ("-distance 90", {"distance_mm": 90, "pivot": "beam"}),
    ("-close_distance 90", {"close_distance_mm": 90, "pivot": "sample"}),
    ("-detector_abs 250", {"abs_um": 250}), ("-detector_absorb 250", {"abs_um": 250}),
    ("-detector_abs inf", {"abs_um": float("inf"), "thick_um": 0}), ("-detector_abs 0", {"abs_um": float("inf")}),
    ("-detector_thick 300", {"thick_um": 300}), ("-detector_thicksteps 3", {"thicksteps": 3}),
    ("-thicksteps 3", {"thicksteps": 3}),
    ("-twotheta 5", {"twotheta_deg": 5, "pivot": "sample"}),
    ("-detector_rotx 5", {"rotx_deg": 5}), ("-detector_roty 5", {"roty_deg": 5}), ("-detector_rotz 5", {"rotz_deg": 5}),
    ("-detsize 50", {"detsize_f_mm": 50, "detsize_s_mm": 50}), ("-detsize_f 50", {"detsize_f_mm": 50}),
    ("-detsize_s 50", {"detsize_s_mm": 50}),
    ("-detpixels 64", {"detpixels_f": 64, "detpixels_s": 64}), ("-detpixels_f 64", {"detpixels_f": 64}),
    ("-detpixels_x 64", {"detpixels_f": 64}), ("-detpixels_s 64", {"detpixels_s": 64}),
    ("-detpixels_y 64", {"detpixels_s": 64}),
    ("-curved_det", {"curved": True}), ("-curved_detector", {"curved": True}),
    ("-pixel 0.2", {"pixel_mm": 0.2}), ("-pixelsize 0.2", {"pixel_mm": 0.2}), ("-point_pixel", {"point_pixel": True}),
    ("-polar 0.8", {"polar": 0.8, "nopolar": False}), ("-nopolar", {"nopolar": True}),
    ("-oversample_thick", {"oversample_thick": True}), ("-oversample_polar", {"oversample_polar": True}),
    ("-oversample_omega", {"oversample_omega": True}), ("-oversample 2", {"oversample": 2}),
    ("-roi 1 2 3 4", {"roi_xmin": 1, "roi_xmax": 2, "roi_ymin": 3, "roi_ymax": 4}),
    ("-lambda 1.2", {"lambda_A": 1.2}), ("-wave 1.2", {"lambda_A": 1.2}), ("-wavelength 1.2", {"lambda_A": 1.2}),
    ("-energy 12398.42", {"lambda_A": 1.0}),
    ("-fluence 1e20", {"fluence": 1e20}), ("-flux 1e12", {"flux": 1e12}), ("-exposure 0.5", {"exposure_s": 0.5}),
    ("-beamsize 0.05", {"beamsize_mm": 0.05}),
    ("-mosaic 0.5", {"mosaic_deg": 0.5}), ("-mosaici 0.5", {"mosaic_deg": 0.5}),
    ("-mosaicity 0.5", {"mosaic_deg": 0.5}),
    ("-mosaic_spread 0.5", {"mosaic_deg": 0.5}), ("-mosaic_domains 5", {"mosaic_domains": 5}),
    ("-dispersion 2", {"dispersion_pct": 2}), ("-dispsteps 3", {"dispsteps": 3}),
    ("-divergence 2", {"hdivrange_mrad": 2, "vdivrange_mrad": 2}), ("-hdivrange 2", {"hdivrange_mrad": 2}),
    ("-vdivrange 2", {"vdivrange_mrad": 2}), ("-hdivstep 2", {"hdivstep_mrad": 2}),
    ("-vdivstep 2", {"vdivstep_mrad": 2}),
    ("-hdivsteps 3", {"hdivsteps": 3}), ("-vdivsteps 3", {"vdivsteps": 3}),
    ("-divsteps 3", {"hdivsteps": 3, "vdivsteps": 3}),
    ("-round_div", {"round_div": True}), ("-square_div", {"round_div": False}),
    ("-adc 10", {"adc": 10}), ("-adcoffset 10", {"adc": 10}),
    ("-phi 3", {"phi_deg": 3}), ("-osc 2", {"osc_deg": 2}), ("-phistep 0.1", {"phistep_deg": 0.1}),
    ("-phisteps 5", {"phisteps": 5}), ("-dmin 2", {"dmin_A": 2}),
    ("-mat A.mat", {"matfile": "A.mat"}), ("-matrix A.mat", {"matfile": "A.mat"}), ("-hkl x", {"hklfile": "x"}),
    ("-default_F 5", {"default_F": 5}), ("-dump d", {"dumpfile": "d"}), ("-dumpfile d", {"dumpfile": "d"}),
    ("-img x", {"imgfile": "x"}), ("-mask x", {"maskfile": "x"}),
    ("-stol x", {"stolfiles": [("-stol", "x")]}), ("-stolout x", {"stolfiles": [("-stolout", "x")]}),
    ("-4stol x", {"stolfiles": [("-4stol", "x")]}), ("-Q x", {"stolfiles": [("-Q", "x")]}),
    ("-sourcefile x", {"sourcefile": "x"}),
    ("-floatfile x", {"floatfile": "x"}), ("-floatimage x", {"floatfile": "x"}), ("-intfile x", {"intfile": "x"}),
    ("-intimage x", {"intfile": "x"}), ("-pgmfile x", {"pgmfile": "x"}), ("-pgmimage x", {"pgmfile": "x"}),
    ("-noisefile x", {"noisefile": "x"}), ("-noiseimage x", {"noisefile": "x"}), ("-pngfile x", {"pngfile": "x"}),
    ("-nonoise", {"write_noise": False}), ("-nopgm", {"write_pgm": False}),
    ("-scale 2", {"scale": 2}), ("-pgmscale 2", {"pgmscale": 2}), ("-coherent", {}),
    ("-printout", {"printout": True}), ("-printout_pixel 3 4", {"printout": True, "printout_f": 3, "printout_s": 4}),
    ("-noprogress", {"progress": False}), ("-progress", {"progress": True}),
    ("-interpolate", {"interpolate": True}), ("-nointerpolate", {"interpolate": False}),
    ("-round_xtal", {"shape": "round"}), ("-square_xtal", {"shape": "square"}), ("-gauss_xtal", {"shape": "gauss"}),
    ("-binary_spots", {"shape": "tophat"}), ("-tophat_spots", {"shape": "tophat"}),
    ("-gauss_hkl_xtal", {"shape": "gauss_hkl"}), ("-gauss_star_xtal", {"shape": "gauss_star"}),
    ("-fudge 0.5", {"fudge": 0.5}), ("-seed 5", {"seed": 5}), ("-mosaic_seed 5", {"mosaic_seed": 5}),
    ("-misset_seed 5", {"misset_seed": 5}), ("-water 5", {"water_um": 5}),
    ("-batch x", {"batchfile": "x"}), ("-resume", {"resume": True}),
    ("-compat c", {"compat": "c"}), ("-phi_mode spec", {"phi_mode": "spec"}), ("-dtype float64", {"dtype": "float64"}),
    ("-device cuda", {"device": "cuda"}), ("-kernel reference", {"kernel": "reference"}),
    ("-threads 2", {"threads": 2}), ("-tolerance 0.5", {"tolerance": 0.5}),
    ("-trace_pixel 3 4", {"trace_s": 3, "trace_f": 4}),
    ("-show_config", {"show_config": True}), ("-echo_config", {"show_config": True}),
    ("-help", {"help": True}), ("--version", {"version": True}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), ROWS, ids=[line for line, _ in ROWS])
def test_one_flag_sets_its_fields_and_no_other(line, expected):
    request, plain = parse(line), Request()
    consequences = {"fired", "pivot_on_line", "distance_on_line", "close_distance_on_line"}
    assert request.warnings == []
    for item in dataclasses.fields(Request):
        if item.name in expected:
            assert getattr(request, item.name) == expected[item.name], item.name
        elif item.name not in consequences | ({"pivot"} if "pivot" in expected or "-dist" in line else set()):
            assert getattr(request, item.name) == getattr(plain, item.name), item.name


def test_every_spelling_of_the_table_is_tried_above():
    tried = [line.split()[0] for line, _ in ROWS]
    for flag in FLAGS:
        for name in flag.whole:
            assert name in tried or name in ("-h", "--help") or flag.special == "batch_size", name
        for name in flag.part:
            assert any(name in word for word in tried), name


def test_own_flags_fire_no_pattern_of_the_c_program():
    for own in RUN:
        for word in own.names:
            fired = [flag for flag in FLAGS if flag.matches(word)]
            assert fired[0] is own and own.stop


def test_subjects_and_configuration_fields_exist():
    known = {f.name for config in (CrystalConfig, DetectorConfig, BeamConfig) for f in dataclasses.fields(config)}
    for flag in FLAGS:
        assert flag.subject in SUBJECTS
        assert set(flag.sets) <= {f.name for f in dataclasses.fields(Request)}
        for part in flag.config.replace("Crystal.hkl_data", "").split(","):
            assert not part.strip() or part.strip().split(".")[-1] in known, flag.config
    assert "-phisteps" in [flag.names[0] for flag in flags_of_config("phi_steps")]


def test_values_are_looked_at_but_not_consumed():
    assert parse("-hkl -nopolar").nopolar
    request = parse("-misset -0.5 -1 2")
    assert request.misset_deg == (-0.5, -1.0, 2.0) and request.warnings == []


def test_the_last_flag_wins():
    request = parse("-xds -spindle_axis 0 1 1 -polar 0.5 -nopolar -polar 0.2 -nonoise -noisefile n.img -round_xtal")
    assert request.convention == "custom" and request.polar == 0.2 and not request.nopolar
    assert request.write_noise and request.shape == "round"
    assert parse("-spindle_axis 0 1 1 -xds").convention == "xds"
    assert parse("-gauss_hkl_xtal -round_xtal").shape == "round"
    assert parse("-misset random -misset 1 2 3").misset_choice == "angles"


def test_cell_reads_on_until_a_dash():
    request = parse("-cell 60 75 -N 5")
    assert request.cell == (60.0, 75.0) and request.Na == 5


def test_twotheta_axis_sets_twotheta_in_the_c_program_alone():
    line = "-twotheta 12 -twotheta_axis 0.6 0.8 0"
    assert parse(line).twotheta_deg == 12
    assert parse(line, C).twotheta_deg == 0.6
    assert parse("-distance 90 -twotheta_axis 0.6 0.8 0").pivot == "beam"
    assert parse("-distance 90 -twotheta_axis 0.6 0.8 0", C).pivot == "sample"


def test_misset_seed_reads_angles_in_the_c_program_alone():
    line = "-misset_seed 33 -N 5"
    assert parse(line).misset_choice is None and parse(line).misset_seed == 33
    in_c = parse(line, C, as_c=True)
    assert in_c.misset_deg == (33.0, 0.0, 5.0) and in_c.misset_seed == 33 and in_c.Na == 5


def test_misset_seed_does_not_take_flags_that_the_c_program_does_not_have():
    request = parse("-misset random -misset_seed 987 -compat c -dtype float64 -device cpu", C, as_c=True)
    assert request.misset_choice == "random"


def test_curved_detector_counts_as_the_last_word_too():
    assert parse("-N 5 -curved_det").curved


@pytest.mark.parametrize("flag", ["-detector_abs", "-detector_thick", "-detector_thicksteps", "-thicksteps"])
def test_thickness_flags_without_value_are_usage_errors(flag):
    with pytest.raises(InputError, match=flag):
        parse(f"-N 5 {flag}", C, as_c=True)


WITH_VALUES = sorted({name for flag in FLAGS if flag.values for name in flag.names})


@pytest.mark.parametrize("name", WITH_VALUES)
@pytest.mark.parametrize("compat", [Compat(), C], ids=["corrected", "c"])
def test_a_missing_value_names_the_flag(name, compat):
    with pytest.raises(InputError, match=name):
        parse(name, compat)


NUMERIC = sorted({n for f in FLAGS if f.values and set(f.values) <= {"real", "int"} and not f.shown for n in f.names})


@pytest.mark.parametrize("name", NUMERIC)
def test_a_value_that_is_no_number_is_refused_unless_as_in_c(name):
    with pytest.raises(InputError, match=rf"{name}: got '12x'"):
        parse(f"{name} 12x 12x 12x 12x")
    parse(f"{name} 12x 12x 12x 12x", C, as_c=True)


def test_numbers_as_the_c_library_reads_them():
    request = parse("-distance 12abc -N 2.9 -pixel 2e-1mm", C, as_c=True)
    assert (request.distance_mm, request.Na, request.pixel_mm) == (12.0, 2, 0.2)


def test_a_word_for_the_pivot_must_be_known():
    with pytest.raises(InputError, match="-pivot: got 'centre'; accepted: sample, beam"):
        parse("-pivot centre")


def test_unknown_flags_name_the_nearest_known_one():
    (warning,) = parse("-N 5 -dispstep 3").warnings
    assert "'-dispstep'" in warning and warning.endswith("-dispsteps")
    assert nearest_flag("-default_f") == "-default_F"
    assert nearest_flag("-detsize_x").startswith("-detsize")


def test_a_flag_that_only_contains_a_known_one_says_what_it_is_taken_for():
    request = parse("-phisteps_total 5 -math a.mat")
    assert request.phisteps == 5 and request.matfile == "a.mat"
    assert [warning.split("; ")[1] for warning in request.warnings] == [
        "it is taken for -phisteps, as the C program takes it",
        "it is taken for -mat, as the C program takes it",
    ]
    assert parse("-wavelength 1 -matrix a.mat -mosaic_spread 1").warnings == []


@pytest.mark.parametrize("flag", ["-pixel_batch_size", "--pixel-batch-size"])
def test_a_batch_size_is_no_edge_of_a_pixel_but_in_the_c_program(flag):
    ours, theirs = parse(f"-pixel 0.2 {flag} 64"), parse(f"-pixel 0.2 {flag} 64", C, as_c=True)
    assert ours.pixel_mm == 0.2 and theirs.pixel_mm == 64
    assert "is ignored" in ours.warnings[0] and "is read as -pixel" in theirs.warnings[0]
    assert len(ours.warnings) == len(theirs.warnings) == 1


def test_words_of_no_flag_are_named_and_numbers_with_a_dash_are_no_flags():
    (warning,) = parse("-detpixels 64 48").warnings
    assert "'48'" in warning
    assert parse("-misset -1 -2 -3e-2").warnings == []


def test_first_pass_takes_the_last_header_of_each_kind():
    assert header_files(["-img", "a", "-mask", "m", "-N", "3", "-img", "b"]) == ("m", "b")
    assert header_files(["-imgfile", "a"]) == (None, "a")
    with pytest.raises(InputError, match="-img"):
        header_files(["-N", "3", "-img"])


def test_modes_are_found_before_parsing():
    assert compat_of(["-N", "5"]) == Compat()
    assert compat_of(["-compat", "corrected", "-compat", "c"]) == C
    assert compat_of(["-compat", "c", "-phi_mode", "spec"]) == Compat.of("c", "spec")
    assert last_value(["-compat", "c"], "-dtype") is None
    with pytest.raises(InputError, match="-compat: got 'x'; accepted: corrected, c"):
        compat_of(["-compat", "x"])
    with pytest.raises(InputError, match="-phi_mode"):
        compat_of(["-phi_mode"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([line for line, _ in ROWS]), max_size=12), st.booleans())
def test_any_line_of_whole_flags_parses_without_a_warning(lines, as_c):
    request = parse(" ".join(lines), C if as_c else Compat(), as_c=as_c)
    assert request.warnings == []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=12), st.sampled_from([n for f in FLAGS for n in f.names])), max_size=10))
def test_any_words_parse_or_are_refused_in_one_line(words):
    for compat, as_c in ((Compat(), False), (C, True)):
        try:
            apply_words(Request(), words, compat, as_c_reads=as_c)
        except InputError as error:
            assert error.accepted
