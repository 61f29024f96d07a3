"""Random command lines that the C program takes, small enough to render in no time."""

from __future__ import annotations

import random

INPUTS = ("p1_small.hkl", "p1_wide.hkl", "p1_gaps.hkl")
SHAPES = ("-square_xtal", "-round_xtal", "-gauss_xtal", "-tophat_spots")
FRAMES = ("-mosflm", "-denzo", "-adxv", "-xds", "-dials")


def script(seed: int) -> str:
    """One line of flags; the same for the same seed."""
    r = random.Random(seed)
    parts = [*_crystal(r), *_beam(r), *_detector(r)]
    r.shuffle(parts)
    return " ".join(parts)


def _some(r: random.Random, chance: float, *texts: str) -> list[str]:
    return list(texts) if r.random() < chance else []


def _u(r: random.Random, low: float, high: float, digits: int = 3) -> str:
    return f"{r.uniform(low, high):.{digits}f}"


def _crystal(r: random.Random) -> list[str]:
    angles = [_u(r, 75, 105, 1) if r.random() < 0.4 else "90" for _ in range(3)]
    parts = [f"-cell {_u(r, 30, 90)} {_u(r, 30, 90)} {_u(r, 30, 90)} {' '.join(angles)}"]
    parts += [f"-N {r.randint(1, 9)}"] if r.random() < 0.5 else [f"-N{x} {r.randint(1, 9)}" for x in "abc"]
    factors = (
        f"-hkl {r.choice(INPUTS)} -default_F {r.choice((0, 3))}"
        if r.random() < 0.5
        else f"-default_F {r.randint(1, 99)}"
    )
    parts += [factors, *_some(r, 0.3, r.choice(("-interpolate", "-nointerpolate")))]
    parts += _some(r, 0.5, f"-misset {_u(r, -180, 180)} {_u(r, -180, 180)} {_u(r, -180, 180)}")
    parts += _some(
        r, 0.4, f"-phi {r.choice(('0', '-0.1', _u(r, -90, 90)))} -osc {r.choice(('0.2', '0.9', '2.1', _u(r, 0.1, 5)))}"
    )
    parts += _some(r, 0.3, r.choice((f"-phisteps {r.randint(1, 6)}", f"-phistep {r.choice(('0.1', '0.3', '0.7'))}")))
    parts += _some(r, 0.3, f"-mosaic {_u(r, 0, 3)} -mosaic_domains {r.randint(1, 5)}")
    return parts + _some(r, 0.4, r.choice(SHAPES)) + _some(r, 0.2, f"-fudge {_u(r, 0.2, 2)}")


def _beam(r: random.Random) -> list[str]:
    parts = [f"-lambda {_u(r, 0.7, 1.8)}"]
    parts += _some(r, 0.3, f"-polar {_u(r, 0, 1)}") + _some(r, 0.1, "-nopolar")
    parts += _some(r, 0.2, f"-dispersion {_u(r, 0.1, 3)} -dispsteps {r.randint(1, 3)}")
    parts += _some(r, 0.2, f"-hdivrange {_u(r, 0, 20, 1)} -hdivstep {_u(r, 1, 9, 1)}")
    parts += _some(r, 0.2, f"-divergence {_u(r, 0, 9, 1)} -vdivsteps {r.randint(1, 3)}")
    parts += _some(r, 0.1, "-square_div") + _some(r, 0.2, f"-dmin {_u(r, 1, 30)}")
    parts += _some(r, 0.1, "-sourcefile sources_full.txt") + _some(r, 0.1, f"-water {_u(r, 1, 40)}")
    return parts + _some(r, 0.2, f"-fluence {_u(r, 1, 9)}e{r.randint(24, 30)}")


def _detector(r: random.Random) -> list[str]:
    parts = [f"-detpixels_f {r.randint(6, 16)} -detpixels_s {r.randint(6, 16)}", f"-pixel {_u(r, 0.1, 1)}"]
    parts += [
        f"-distance {_u(r, 40, 300)}",
        f"-oversample {r.choice((-1, 1, 1, 2, 3))}" if r.random() < 0.7 else "-oversample 1",
    ]
    parts += _some(r, 0.7, r.choice(FRAMES)) + _some(r, 0.3, f"-twotheta {_u(r, -30, 30)}")
    parts += _some(r, 0.3, f"-Xbeam {_u(r, 0, 8)} -Ybeam {_u(r, 0, 8)}") + _some(
        r, 0.2, f"-ORGX {_u(r, 0, 20)} -ORGY {_u(r, 0, 20)}"
    )
    parts += [f"-detector_rot{x} {_u(r, -15, 15)}" for x in "xyz" if r.random() < 0.25]
    parts += _some(r, 0.3, f"-detector_abs {_u(r, 50, 500)} -detector_thick {_u(r, 50, 500)}")
    parts += _some(r, 0.2, f"-detector_thicksteps {r.randint(1, 4)}") + _some(r, 0.15, "-curved_det -nopgm")
    parts += [f"-oversample_{x}" for x in ("thick", "polar", "omega") if r.random() < 0.12]
    return parts + _some(r, 0.15, "-point_pixel") + _some(r, 0.15, "-roi 2 5 1 4")
