"""`nanoBragg -tolerance`: off unless asked for, in photons a pixel, said at the end."""

from __future__ import annotations

import numpy as np

from nanobrag_torch.cli.nanobragg import main

CRYSTAL = "-cell 60 70 80 90 90 90 -default_F 100 -N 25 -misset 10 20 30 -mosaic 0.4 -mosaic_domains 20"
WORDS = f"{CRYSTAL} -lambda 1 -distance 100 -detpixels 90 -oversample 1 -floatfile".split()  # noqa: SIM905


def image(name: str, *more: str) -> np.ndarray:
    assert main([*WORDS, name, *more]) == 0
    return np.fromfile(name, np.float32)


def test_what_a_pixel_loses_is_within_the_tolerance(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    full = image("full.bin")
    assert "left out" not in capsys.readouterr().out
    photons = 0.01 * float(full.max())
    quick = image("quick.bin", "-tolerance", str(photons))
    assert f"at most {photons:g} photons" in capsys.readouterr().out
    lost = float((full - quick).max())
    assert 0 < lost <= photons * 1.001 + 1e-6 * float(full.max())


def test_sub_pixels_that_only_spots_have_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "sub-pixels: 3 x 3 where a spot may be, one sample elsewhere"
    image("full.bin", "-oversample", "3")
    assert "sub-pixels: 3" not in capsys.readouterr().out
    image("quick.bin", "-oversample", "3", "-tolerance", "1")
    assert line in capsys.readouterr().out
    image("gauss.bin", "-oversample", "3", "-gauss_xtal")
    assert line in capsys.readouterr().out
    image("one.bin", "-gauss_xtal")
    assert "where a spot may be" not in capsys.readouterr().out


def test_a_negative_tolerance_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "full.bin", "-tolerance", "-1"]) == 2
    assert "-tolerance" in capsys.readouterr().err
    assert not (tmp_path / "full.bin").exists()
