"""Every flag of the command `nonBragg` in one table : nanoBragg's, and a material's (noise-behaviour, D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanobrag_torch.cli.nanobragg import flags as nanobragg
from nanobrag_torch.cli.nanobragg import settings
from nanobrag_torch.cli.nanobragg.flags import FILE, REAL, Flag
from nanobrag_torch.cli.nanobragg.parsing import apply_words, compat_of, last_value
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError


@dataclass
class NonBraggRequest(Request):
    """What the words ask for, in the units of the flags."""

    convention: str = "custom"
    oversample: int = 1
    sample_x_mm: float = 0.1
    sample_y_mm: float = 0.1
    sample_z_mm: float = 0.1
    density: float = 1.0
    molecular_weight: float = 18.0
    molecules: float = 0.0
    stolfile: str | None = None
    stol_factor: float = 1.0  # of the file's first column
    amplitude_alone: bool = False
    image: str | None = None
    stolout: str = "output.stol"
    ignore: float | None = None
    gain: float = 1.0


_SHARED = {
    "-compat", "-distance", "-close_distance", "-twotheta", "-detector_rotx", "-detector_roty", "-detector_rotz",
    "-detsize", "-detsize_f", "-detsize_s", "-detpixels", "-detpixels_f", "-detpixels_s", "-curved_det", "-pixel",
    "-point_pixel", "-polar", "-nopolar", "-oversample", "-roi", "-lambda", "-energy", "-fluence", "-flux", "-exposure",
    "-beamsize", "-dispersion", "-dispsteps", "-divergence", "-hdivrange", "-vdivrange", "-hdivstep", "-vdivstep",
    "-hdivsteps", "-vdivsteps", "-divsteps", "-round_div", "-square_div", "-adc", "-phi", "-osc", "-sourcefile",
    "-floatfile", "-intfile", "-pgmfile", "-noisefile", "-nonoise", "-nopgm", "-scale", "-pgmscale", "-seed",
    "-noprogress", "-progress", "-Xbeam", "-Ybeam", "-Xclose", "-Yclose", "-ORGX", "-ORGY", "-pivot", "-fdet_vector",
    "-sdet_vector", "-beam_vector", "-polar_vector", "-twotheta_axis", "-h", "--version",
}  # fmt: skip
"""First spelling of the flags that mean what they mean to nanoBragg."""


def _profile(name: str, factor: float, unit: str) -> Flag:
    return Flag(whole=(name,), values=FILE, sets=("stolfile",), puts=(("stol_factor", factor),), subject="material",
                text=f"profile, lines of {unit} (1/A) and F")  # fmt: skip


MATERIAL: tuple[Flag, ...] = (
    _profile("-stol", 1.0, "sin(theta)/lambda"),
    _profile("-4stol", 0.25, "4 sin(theta)/lambda"),
    _profile("-Q", 0.07957747154594767, "4 pi sin(theta)/lambda"),
    Flag(("-samplesize", "-sample_size"), values=REAL, sets=("sample_x_mm", "sample_y_mm", "sample_z_mm"),
         subject="material", unit="mm", default="0.1", text="size of the sample, all axes"),
    Flag(("-thick", "-sample_thick", "-sample_x"), values=REAL, sets=("sample_x_mm",), subject="material", unit="mm",
         default="0.1", text="size along the beam"),
    Flag(("-width", "-sample_width", "-sample_y"), values=REAL, sets=("sample_y_mm",), subject="material", unit="mm",
         default="0.1", text="width; clipped to the beam"),
    Flag(("-heigh", "-sample_heigh", "-sample_z"), values=REAL, sets=("sample_z_mm",), subject="material", unit="mm",
         default="0.1", text="height; clipped to the beam"),
    Flag(("-density",), values=REAL, sets=("density",), subject="material", unit="g/cm3", default="1", text="density"),
    Flag(("-molecular",), ("-MW",), values=REAL, sets=("molecular_weight",), subject="material", unit="g/mol",
         default="18", text="molecular weight of what F is given for"),
    Flag(whole=("-molecules",), values=REAL, sets=("molecules",), subject="material", default="from the density",
         text="molecules in the beam"),
    Flag(("-Fmap",), puts=(("amplitude_alone", True),), subject="outputs", text="write F of every pixel"),
    Flag(("-img",), values=FILE, sets=("image",), subject="inversion", text="measure the profile of this image"),
    Flag(("-stolout",), values=FILE, sets=("stolout",), subject="inversion", default="output.stol",
         text="where the measured profile goes"),
    Flag(("-ignore",), values=REAL, sets=("ignore",), subject="inversion", text="value of pixels to leave out"),
    Flag(("-gain",), values=REAL, sets=("gain",), subject="inversion", unit="ADU/photon", default="1",
         text="gain of the measured image"),
    Flag(("-noreject",), subject="inversion", text="accepted, no effect", inert="nothing is rejected"),
    Flag(("-source_distance",), values=REAL, subject="divergence and spectrum", text="accepted, no effect",
         inert="sources are far away"),
)  # fmt: skip
FLAGS: tuple[Flag, ...] = MATERIAL + tuple(flag for flag in nanobragg.FLAGS if flag.names[0] in _SHARED)
SUBJECTS = (
    "material", "beam", "divergence and spectrum", "detector", "beam centre", "convention and axes", "rotation",
    "sampling", "inversion", "outputs", "random numbers", "run",
)  # fmt: skip


def parse(words: Sequence[str]) -> NonBraggRequest:
    """What the words ask for. Raises InputError for values that nothing can be made of."""
    request = NonBraggRequest()
    as_c_reads = last_value(words, "-compat") == "c"
    apply_words(request, words, compat_of(words), as_c_reads=as_c_reads, table=FLAGS)
    settings.check_request(request)
    if request.stolfile is None and request.image is None:
        raise InputError("-stol", "nothing", "a profile (-stol, -4stol or -Q), or an image to measure one (-img)")
    for name in ("sample_x_mm", "sample_y_mm", "sample_z_mm", "density", "molecular_weight", "gain"):
        if not getattr(request, name) > 0:
            raise InputError(_flag_of(name), getattr(request, name), "a number above 0")
    if request.molecules < 0:
        raise InputError("-molecules", request.molecules, "a number from 0 up")
    request.oversample = max(1, request.oversample)
    return request


def _flag_of(name: str) -> str:
    return next(flag.names[0] for flag in reversed(MATERIAL) if name in flag.sets)
