"""What the command line and the headers said, in the flags' own units; None where nobody said anything."""

from __future__ import annotations

from dataclasses import dataclass, field

Triple = tuple[float, float, float]
DRAWN = ("random", "uniform")
"""Choices of a misset that leave it to a seed."""


@dataclass
class RunWords:
    """How to run."""

    help: bool = False
    version: bool = False
    compat: str = "corrected"
    phi_mode: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    kernel: str = "auto"
    threads: int | None = None
    tolerance: float = 0.0
    progress: bool = True
    batchfile: str | None = None
    resume: bool = False
    printout: bool = False
    printout_f: int | None = None
    printout_s: int | None = None
    show_config: bool = False
    trace_s: int | None = None
    trace_f: int | None = None


@dataclass
class CrystalWords:
    """The crystal, and its structure factors."""

    Na: int = 1
    Nb: int = 1
    Nc: int = 1
    cell: tuple[float, ...] | None = None  # as many of a, b, c, alpha, beta, gamma as were given
    sample_x_mm: float | None = None
    sample_y_mm: float | None = None
    sample_z_mm: float | None = None
    shape: str = "square"
    fudge: float = 1.0
    mosaic_deg: float | None = None
    mosaic_domains: int | None = None
    hklfile: str | None = None
    dumpfile: str = "Fdump.bin"
    default_F: float = 0.0
    interpolate: bool | None = None


@dataclass
class RotationWords:
    """How the crystal is turned, before and during an image."""

    matfile: str | None = None
    misset_deg: Triple | None = None
    misset_choice: str | None = None  # "angles", "random" or "uniform"
    osc_deg: float | None = None
    phistep_deg: float | None = None
    phisteps: int | None = None
    spindle_axis: Triple | None = None


@dataclass
class BeamWords:
    """The beam, its divergence and spectrum, and what it meets beside the crystal."""

    fluence: float | None = None
    flux: float = 0.0
    exposure_s: float = 1.0
    beamsize_mm: float = 0.1
    polar: float = 0.0
    nopolar: bool = False
    beam_vector: Triple | None = None
    polar_vector: Triple | None = None
    dispersion_pct: float = 0.0
    dispsteps: int | None = None
    hdivrange_mrad: float | None = None
    hdivstep_mrad: float | None = None
    hdivsteps: int | None = None
    vdivrange_mrad: float | None = None
    vdivstep_mrad: float | None = None
    vdivsteps: int | None = None
    round_div: bool = True
    sourcefile: str | None = None
    dmin_A: float = 0.0
    water_um: float = 0.0
    stolfiles: list[tuple[str, str]] = field(default_factory=list)  # flag, file


@dataclass
class PlaceWords:
    """Where the detector is, and how it is turned."""

    imgfile: str | None = None
    maskfile: str | None = None
    convention: str = "mosflm"
    pivot: str = "beam"
    pivot_on_line: bool = False
    pix0_given: bool = False
    fdet_vector: Triple | None = None
    sdet_vector: Triple | None = None
    odet_vector: Triple | None = None
    twotheta_axis: Triple | None = None
    distance_on_line: bool = False
    close_distance_mm: float | None = None
    close_distance_on_line: bool = False
    twotheta_deg: float = 0.0
    header_twotheta_deg: float = 0.0  # read, without effect (D23)
    rotx_deg: float = 0.0
    roty_deg: float = 0.0
    rotz_deg: float = 0.0


@dataclass
class PixelWords:
    """The plane of the detector: its pixels, where the sample is closest to it, and what is rendered of it."""

    detsize_f_mm: float = 102.4
    detsize_s_mm: float = 102.4
    detpixels_f: int = 0
    detpixels_s: int = 0
    Xclose_mm: float | None = None
    Yclose_mm: float | None = None
    ORGX: float | None = None
    ORGY: float | None = None
    roi_xmin: int = -1
    roi_xmax: int = -1
    roi_ymin: int = -1
    roi_ymax: int = -1


@dataclass
class SensorWords:
    """How a pixel takes photons up, and how finely that is summed."""

    abs_um: float | None = None
    thick_um: float = 0.0
    thicksteps: int | None = None
    curved: bool = False
    point_pixel: bool = False
    oversample: int = -1
    oversample_thick: bool = False
    oversample_polar: bool = False
    oversample_omega: bool = False


@dataclass
class HeaderWords:
    """What the header of every image says of where it was taken."""

    pixel_mm: float = 0.1
    distance_mm: float = 100.0
    lambda_A: float = 1.0
    Xbeam_mm: float | None = None
    Ybeam_mm: float | None = None
    phi_deg: float = 0.0


@dataclass
class OutputWords:
    """What every drop-in command writes, and what its words made of themselves."""

    intfile: str = "intimage.img"
    pgmfile: str = "image.pgm"
    noisefile: str = "noiseimage.img"
    write_pgm: bool = True
    write_noise: bool = True
    scale: float = 0.0
    adc: float = 40.0
    seed: int | None = None
    fired: list[str] = field(default_factory=list)  # main spelling of every flag that fired, in order
    warnings: list[str] = field(default_factory=list)


@dataclass
class Request(
    RunWords, CrystalWords, RotationWords, BeamWords, PlaceWords, PixelWords, SensorWords, HeaderWords, OutputWords
):
    """The words of one run before any automatic choice. Filled by headers first and by flags second."""

    floatfile: str = "floatimage.bin"
    pngfile: str | None = None
    pgmscale: float = 0.0
    mosaic_seed: int | None = None
    misset_seed: int | None = None
