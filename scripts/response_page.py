"""The page docs/response.md: what a detector records, link by link; tables are those of the program."""

from __future__ import annotations

from collections.abc import Iterator

from nanobrag_torch.compat import RESPONSE_ROWS
from nanobrag_torch.response.presets import PRESETS

NOTICE = "<!-- written by scripts/generate_docs.py; do not edit -->"

CHAIN = """\
# What a detector records

An image of this program is what is expected: photons per pixel, fractions and all. A detector makes whole numbers of
it, through a chain whose every link is off until it is asked for:

    crystal + backgrounds -> beam stop -> source flicker -> spread -> sensitivity -> counting -> count-rate loss
    -> gain or gain modes -> readout noise -> pedestal -> whole numbers, saturation -> gaps, bad pixels

Three ways to it, all the same:

```sh
nb simulate refined.expt --structure-factors model.mtz --background water:0.1mm --background air:30mm \\
    --detector eiger16m --psf gauss:75um --beamstop 2mm --noise --seed 1
nb record expected.npy --geometry refined.expt --psf gauss:75um --count 100 -o shot_####.cbf
```

```python
import torch
from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator
from nanobrag_torch.background.materials import MaterialConfig
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.response.config import BeamStopConfig, ResponseConfig, SpreadConfig

width = torch.tensor(110.0, dtype=torch.float64, requires_grad=True)  # micrometres
simulator = Simulator(
    Crystal(CrystalConfig(cell_a=60.0, default_F=1e6, N_cells=(9, 9, 9))),
    Detector(DetectorConfig(distance_mm=60, pixel_size_mm=0.172, spixels=80, fpixels=90)),
    beam_config=BeamConfig(flux=6e9, exposure=0.1, beamsize_mm=0.05),
    background=[MaterialConfig(name="water", thickness_mm=0.1), MaterialConfig(name="air", thickness_mm=30.0)],
    response=ResponseConfig(
        spread=SpreadConfig(fwhm_um=width),
        beamstop=BeamStopConfig(diameter_mm=1.0),
        gain=1.5,
        readout_noise=3.0,
        pedestal=40.0,
        dtype="uint16",
    ),
)
expected = simulator.run()  # linear in the photons, differentiable
slope = torch.autograd.grad(expected.sum(), width)[0]
some = simulator.pixel_values(torch.tensor([100, 101, 5000]))  # costs these pixels and their halo
recorded = simulator.record(seed=1, image=7)  # whole numbers
assert recorded.dtype == torch.uint16 and torch.equal(recorded, simulator.record(seed=1, image=7))
```

`Response(config)` does the same to any image: `.expected(image)`, `.variance(image)`, `.record(image, seed, number)`.
Fields of `ResponseConfig` are numbers, arrays of the image's shape, or tensors that require grad. Where a geometry
file states gain, pedestal, trusted range or masks of its panels, these act on every image of an `Experiment`, and are
written to the files that other programs read.

**Random numbers have no state.** What is drawn for a pixel follows from the seed, the number of the image, the pixel
and the purpose (Philox 4x32-10, Salmon et al. 2011), and counts from the mean rounded to float32: the same in any
batch, order, region or shard, on any device. Flicker follows the number of the image, sensitivity follows
`calibration_seed` alone."""

LINKS: tuple[tuple[str, str, str], ...] = (
    (
        "Backgrounds",
        "profiles background",
        """\
Photons of a pixel: r_e² Φ A Σ n t T(2θ) F²(sin θ/λ) · P Ω C, with the beam's area A, molecules per volume n, path t,
polarization P, solid angle Ω and capture C of the sensor. The sum over materials and wavelengths is one table over
sin θ of 65536 steps, put on the pixels in some 8 ns each. T is the mean transmission of a slab over the depth where
photons scatter, (e^-a - e^-b)/(b - a) with a = μt and b = a/cos 2θ.

* Water: as measured, Compton scattering included; its forward value is 10 √(n k T χ), with the compressibility χ.
* Air: N₂ and O₂ by Debye's formula, F² = 2f²(1 + sin(qd)/(qd)), and argon. Coherent scattering alone.
* Ice Ih: powder rings, Σ|F|² δ(s - 1/d)/(4π s² V), from the published cell and atoms; d agree with those published to
  0.3 %.
* Any other: `profile.stol:1mm:1.2g/cm3:18g/mol`, or `MaterialConfig(stol=..., F=...)`. F is interpolated by cubics with
  a continuous slope. Absorption of built-in materials is 2 r_e λ f'' an atom.
* `background.measured.measure_profile` reads a profile off an image, through spots and masks.

Amounts, densities, absorption and every F may be tensors that require grad. Air absorbs as a material does; the path
behind the sample is a `transmission`.""",
    ),
    (
        "Beam stop",
        "shadow",
        """\
A disc across the beam: a pixel is dark where the line from the sample to its centre crosses the disc. The edge is an
error function; `penumbra_mm` is what lies between a tenth and nine tenths.""",
    ),
    (
        "Source flicker",
        "flicker",
        """\
One normal deviate an image multiplies every pixel of it.""",
    ),
    (
        "Spread",
        "spread",
        """\
The share of a photon that a pixel gets is the integral of the profile over that pixel, seen from the centre of the one
that was hit. What crosses the edge of a panel is gone; nothing is invented, so far from edges a Gaussian keeps all
photons to 1e-12.

* `gauss`: products of error functions.
* `fiber`: g/2π (g² + r²)^-3/2 with g = 0.6524 FWHM (Holton, Nielsen, Frankel 2012); corners are
  arctan(xy / (g √(g² + x² + y²))) / 2π.
* `moffat`: (1 + r²/α²)^-β, an integral over Gaussians.
* `kernel`: any shares.

Without `radius_pixels` fiber and moffat reach as far as the image, through Fourier space in double precision; with it
they are cut off and scaled to keep every photon, and lists of pixels are possible. The adjoint is the transpose.""",
    ),
    (
        "Sensitivity",
        "calibration",
        """\
Pixels differ by `calibration`, the same in every image of a detector; `calibration_seed` is the detector.""",
    ),
    (
        "Counting",
        "counting",
        """\
Poisson: inversion below a mean of 12, transformed rejection above (Hörmann 1993), in machine code, about as fast as
`torch.poisson`. Logarithm and exponential are polynomials of our own, so that every device counts the same.""",
    ),
    (
        "Count-rate loss",
        "rate",
        """\
With x = dead time over frame time: n/(1 + nx) of a counter that is busy after what it counts, n e^-nx of one that every
photon keeps busy (Knoll, ch. 4). The variance falls as well: n/(1 + nx)³, and n e^-nx (1 - 2nx e^-nx). Counts above
`cutoff` are recorded as overloads.""",
    ),
    (
        "Gain, and gain modes",
        "modes",
        """\
ADU are gain times photons plus pedestal. An integrating pixel switches to a lower gain as it fills; it records photons,
converted back, or its raw word: 14 bits, and the mode in two more.""",
    ),
    (
        "Readout noise and pedestal",
        "readout",
        """\
A normal deviate a pixel, then the offset. Values are rounded to the nearest whole number, or towards 0.""",
    ),
    (
        "Saturation, gaps, bad pixels",
        "gaps",
        """\
Values above `saturation` are recorded as `overload`; pixels outside `mask` as `masked_value`, broken ones as
`bad_value`.""",
    ),
)

PRESET_TEXT = """\
## Detectors by name

`--detector`, or `detector_preset(name).response(wavelength_A)` and `.detector(beam, distance_mm)`. Sources stand in
`nanobrag_torch/response/presets.py`. Files of counting detectors hold corrected rates, so what is left of the
count-rate loss is its cut-off: give `frame_time_s`. -1 is what 2³² - 1 reads as in 32 signed bits.
"""

COMPARISON = """\
## What the others do

| | this program | noisify | nonBragg | simtbx | mx_simulate |
|---|---|---|---|---|---|
| flicker | once an image | once a pixel | - | as noisify | ? |
| calibration error | the detector's | changes with the seed | - | the detector's, after counting | ? |
| spread | before counting, no wrap | after counting, wraps, adds back lost photons | - | as noisify, in double | ? |
| counting | by counters, any device | one stream | one stream | one stream | ? |
| count-rate loss, gain modes | yes | - | - | - | ? |
| gain and offset | a number, or one a pixel | a number | offset alone | a number | ? |
| saturation | any, 8 to 32 bits | 16 bits, or 31 | 16 bits | none | ? |
| whole numbers | nearest, or towards 0 | towards 0 | towards 0 | fractions | ? |
| gaps, bad pixels | as in the detectors' files | - | - | a mask | ? |
| profiles | files, water, air, ice, measured | - | a file | a table | water and air |
| materials | any number, each with absorption | - | one | one a call | 2.5 mm of water, 5 mm of air |
| beam stop | a soft disc | - | - | - | ? |

Columns of noisify, nonBragg and simtbx are their behaviour as it was measured; - is what they do not have. Of
mx_simulate nothing was run: the two materials are its published defaults, and ? is not known here.

The commands `noisify` and `nonBragg` of this package take the flags of the C programs. With `-compat c` they write the
C programs' images: noisify bit for bit, nonBragg within 1e-6 of the maximum. Without it they correct:
"""


def response_page() -> Iterator[str]:
    """The lines of the page."""
    yield from (NOTICE, CHAIN, "")
    for title, pictures, text in LINKS:
        yield from (f"## {title}", "", text, "")
        for picture in pictures.split():
            yield from (f"![{title.lower()}: {picture}](images/response_{picture}.png)", "")
    yield PRESET_TEXT
    yield "| name | detector | slow x fast | pixel | modules | gaps | sensor | highest count | rate | gap, bad |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for preset in PRESETS.values():
        rate = "integrates" if preset.highest_rate is None else f"{preset.highest_rate:.0e}/s"
        cells = (
            f"`{preset.name}`", preset.title, "{} x {}".format(*preset.shape), f"{preset.pixel_um:g} µm",
            "{} x {} of".format(*preset.modules) + " {} x {}".format(*preset.module_pixels),
            "{}, {}".format(*preset.gap_pixels), f"{preset.material} {preset.thickness_um:g} µm",
            str(preset.highest_count), rate, f"{preset.gap_value}, {preset.bad_value}",
        )  # fmt: skip
        yield "| " + " | ".join(cells) + " |"
    yield from ("", COMPARISON, "| | the C program | here |", "|---|---|---|")
    yield from (f"| {row.id} | {row.c_program} | {row.here} |" for row in RESPONSE_ROWS)
    yield from ("", "Pictures are drawn by `scripts/response_pictures.py`.")
