"""ExperimentModel and the parser of the command: the names of their parts, what parameters mean, what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from nanobrag_torch.__main__ import create_parser, parse_and_validate_args
from nanobrag_torch.config import BeamConfig, CrystalConfig, DetectorConfig, DetectorConvention, PanelConfig
from nanobrag_torch.errors import InputError
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.models.experiment import ExperimentModel
from nanobrag_torch.simulator import Simulator

WIDE = torch.float64
NAMES = {
    "crystal_params": {
        **{f"delta_log_{e}": () for e in "abc"}, **{f"delta_{a}_raw": () for a in ("alpha", "beta", "gamma")},
        "delta_misset_raw": (3,),
    },
    "detector_params": dict.fromkeys((
        "delta_log_distance_mm", "delta_rotx_raw", "delta_roty_raw", "delta_rotz_raw", "delta_twotheta_raw",
        "delta_beam_s_raw", "delta_beam_f_raw",
    ), ()),
    "beam_params": {"delta_log_fluence": ()},
}  # fmt: skip


def model(**given):
    crystal = CrystalConfig(cell_a=60.0, cell_c=70.0, N_cells=(4, 4, 4), default_F=100.0, misset_deg=(1.0, 2.0, 3.0))
    detector = DetectorConfig(pixel_size_mm=0.5, spixels=9, fpixels=8, oversample=1, **given)
    return ExperimentModel(crystal, detector, BeamConfig(flux=1e12, exposure=0.1), dtype=WIDE, param_init="stage_a")


def test_parameters_by_name_shape_and_start():
    made = model()
    found = {block: {n: tuple(p.shape) for n, p in getattr(made, block).named_parameters()} for block in NAMES}
    assert found == NAMES
    assert all(p.dtype == WIDE and not p.any() for p in made.parameters())


@pytest.mark.parametrize("given", [{}, {"detector_convention": DetectorConvention.ADXV}, {"close_distance_mm": 90.0},
                                   {"detector_convention": DetectorConvention.XDS, "beam_center_f": 1.7}])  # fmt: skip
def test_at_zero_the_image_is_that_of_the_configurations(given):
    made = model(**given)
    blocks = (made.crystal_params.config, made.detector_params.config, made.beam_params.config)
    frozen = ExperimentModel(*blocks, dtype=WIDE)
    assert not list(frozen.parameters())
    torch.testing.assert_close(made(), frozen())
    crystal, detector = Crystal(blocks[0], dtype=WIDE), Detector(blocks[1], dtype=WIDE)
    assert torch.equal(frozen(), Simulator(crystal, detector, beam_config=blocks[2], dtype=WIDE).run())


def test_what_a_parameter_means():
    made = model()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.fill_(0.1 if "log" in name else 50.0)
    crystal, detector, beam = (getattr(made, block).build_config() for block in NAMES)
    assert [crystal.cell_a.item(), crystal.cell_b.item(), crystal.cell_c.item()] == pytest.approx(
        [60 * math.exp(0.1), 60 * math.exp(0.1), 70 * math.exp(0.1)]
    )
    assert crystal.cell_beta.item() == pytest.approx(100.0) and crystal.misset_deg.tolist() == pytest.approx(
        [11, 12, 13]
    )
    assert detector.distance_mm.item() == pytest.approx(100 * math.exp(0.1))
    assert detector.detector_rotz_deg.item() == pytest.approx(5.0)
    assert detector.beam_center_f.item() == pytest.approx(0.5 * (8 + 1) / 2 + 5 * 0.5)
    assert beam.fluence.item() == pytest.approx(1e12 * 0.1 / 1e-8 * math.exp(0.1)) and beam.flux == 0


def test_structure_factors_may_be_set_and_every_parameter_has_a_gradient():
    made = model()
    before = made()
    table = torch.full((9, 9, 9), 50.0, dtype=WIDE)
    limits = {f"{axis}_{end}": sign * 4 for axis in "hkl" for end, sign in (("min", -1), ("max", 1))}
    made.set_structure_factors(table, limits)
    after = made(oversample=2, oversample_omega=True)
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in made.parameters())


@pytest.mark.parametrize(("change", "reason"), [
    ({"param_init": "stage_b"}, "param_init: got 'stage_b'; accepted: frozen, stage_a"),
])  # fmt: skip
def test_what_is_refused(change, reason):
    with pytest.raises(InputError, match=reason):
        ExperimentModel(CrystalConfig(cell_a=50.0), DetectorConfig(), BeamConfig(), **change)


def test_blocks_that_have_no_such_parameters_say_so():
    panel = PanelConfig(
        origin_mm=(-4.0, 4.0, -99.0), fast_axis=(1.0, 0, 0), slow_axis=(0, -1.0, 0), spixels=8, fpixels=8
    )
    stars = {f"mosflm_{axis}_star": torch.eye(3)[i] * 0.02 for i, axis in enumerate("abc")}
    made = ExperimentModel(CrystalConfig(**stars), DetectorConfig(panels=(panel,)), BeamConfig(), param_init="stage_a")
    with pytest.raises(InputError, match="cell_a: got None; accepted: a cell"):
        made()
    with pytest.raises(InputError, match="panels: got 1"):
        made.detector_params.build_config()


def test_the_parser_reads_as_the_command_does(capsys):
    args = create_parser().parse_args(["-lambda", "1.5", "-detpixels_x", "20", "-cell", "50", "-default_F", "3"])
    assert (args.lambda_A, args.detpixels_f, args.cell, args.words[0]) == (1.5, 20, (50.0,), "-lambda")
    run = parse_and_validate_args(args)
    assert (run.crystal.cell_a, run.detector.fpixels, run.beam.wavelength_A) == (50.0, 20, 1.5)
    assert "usage: nanoBragg" in create_parser().format_help()
    with pytest.raises(SystemExit) as left:
        create_parser().parse_args(["-lambda", "x"])
    assert left.value.code == 2 and "-lambda: got 'x'; accepted: a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="-cell, -mat"):
        parse_and_validate_args(["-default_F", "3"])


def test_without_words_those_of_the_program_are_read(monkeypatch):
    monkeypatch.setattr("sys.argv", ["nanoBragg", "-cell", "51", "-default_F", "3"])
    assert parse_and_validate_args().crystal.cell_a == 51.0
    assert create_parser().parse_args().cell == (51.0,)
