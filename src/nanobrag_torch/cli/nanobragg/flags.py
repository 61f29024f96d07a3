"""Every flag of the command `nanoBragg` in one table: how it is spelt, what follows it, what it means.

The table drives both parsing passes, the help text, the suggestion of a nearest flag and the generated documentation.
Order is the order of testing (reference-behaviour 1.2): a word may fire several rows unless one of them stops it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Kind = str  # "real", "int", "word" or "file"

REAL: tuple[Kind, ...] = ("real",)
INT: tuple[Kind, ...] = ("int",)
WORD: tuple[Kind, ...] = ("word",)
FILE: tuple[Kind, ...] = ("file",)
XYZ: tuple[Kind, ...] = ("real",) * 3

SUBJECTS = (
    "crystal", "structure factors", "rotation", "mosaicity", "beam", "divergence and spectrum", "detector",
    "beam centre", "convention and axes", "sensor", "sampling", "background", "outputs", "random numbers", "run",
)  # fmt: skip
"""Order of the groups in the help."""


@dataclass(frozen=True, eq=False)
class Flag:
    """One flag. `part` fires on any word that contains it, `whole` on that word alone."""

    part: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    values: tuple[Kind, ...] = ()
    sets: tuple[str, ...] = ()  # fields of Request; one value may fill several
    puts: tuple[tuple[str, object], ...] = ()  # further fields and what they become
    special: str = ""  # an effect that the columns cannot say; a name in parsing.SPECIAL
    stop: bool = False  # no later row sees the word
    shadow: str = ""  # words with this text are another flag's, unless the switch of Compat below is on
    shadow_switch: str = ""
    subject: str = "run"
    unit: str = ""
    default: str = ""
    text: str = ""
    config: str = ""  # field of a configuration that it ends in
    inert: str = ""  # why it has no effect, for the warning
    shown: str = ""  # values as the help writes them

    @property
    def names(self) -> tuple[str, ...]:
        """All spellings."""
        return self.whole + self.part

    def matches(self, word: str) -> bool:
        """Whether the word fires this row."""
        return word in self.whole or any(pattern in word for pattern in self.part)


def _on_off(field: str, on: object) -> tuple[tuple[str, object], ...]:
    return ((field, on),)


def _convention(name: str, pivot: str, note: str) -> Flag:
    return Flag((f"-{name}",), puts=(("convention", name), ("pivot", pivot)), subject="convention and axes",
                config="DetectorConfig.detector_convention", text=f"{name.upper()} frame: {note}")  # fmt: skip


def _vector(name: str, config: str, text: str) -> Flag:
    return Flag((f"-{name}",), values=XYZ, sets=(name,), puts=(("convention", "custom"),), shown="X Y Z", config=config,
                subject="convention and axes", default="by convention", text=f"{text}; selects CUSTOM")  # fmt: skip


def _centre(name: str, pivot: str, unit: str, config: str, text: str) -> Flag:
    field = name if unit == "pixel" else f"{name}_mm"
    return Flag((f"-{name}",), values=REAL, sets=(field,), puts=(("pivot", pivot),), subject="beam centre",
                unit=unit, default="by convention", config=config, text=text)  # fmt: skip


def _degrees(name: str, field: str, config: str, text: str, subject: str) -> Flag:
    return Flag((name,), values=REAL, sets=(field,), subject=subject, unit="deg", default="0", config=config, text=text)


RUN: tuple[Flag, ...] = (
    Flag(whole=("-h", "-help", "--help"), puts=_on_off("help", True), stop=True, text="this text"),
    Flag(whole=("--version",), puts=_on_off("version", True), stop=True, text="version of the program"),
    Flag(whole=("-compat",), values=WORD, sets=("compat",), stop=True, default="corrected", shown="corrected|c",
         text="correct the C program's defects, or give its image"),
    Flag(whole=("-phi_mode",), values=WORD, sets=("phi_mode",), stop=True, default="by -compat", shown="spec|c-parity",
         text="orientation at phi = 0: rotated afresh, or that of the phi step before"),
    Flag(whole=("-dtype",), values=WORD, sets=("dtype",), stop=True, default="float32", shown="float32|float64",
         text="precision of the rendering"),
    Flag(whole=("-device",), values=WORD, sets=("device",), stop=True, default="cpu", shown="cpu|cuda",
         text="where to render"),
    Flag(whole=("-kernel",), values=WORD, sets=("kernel",), stop=True, default="auto", shown="auto|reference|fused",
         text="implementation of the rendering"),
    Flag(whole=("-threads",), values=INT, sets=("threads",), stop=True, default="all cores", text="CPU threads"),
    Flag(whole=("-tolerance",), values=REAL, sets=("tolerance",), stop=True, default="0, the full sum",
         shown="photons", text="what a pixel may lose at most where steps that add next to nothing are left out"),
    Flag(whole=("-batch",), values=FILE, sets=("batchfile",), stop=True,
         text="run the command lines of this file, one a line, in one process; paths are relative to the file, flags "
              "beside -batch come before those of each line, # begins a comment, each line has outputs of its own; "
              "what lines print goes to FILE.log, errors name their line and the rest goes on; exit code of the worst"),
    Flag(whole=("-resume",), puts=_on_off("resume", True), stop=True,
         text="with -batch: leave out lines whose files are there already, whole and made of the same"),
    Flag(whole=("-pngfile",), values=FILE, sets=("pngfile",), stop=True, subject="outputs", default="none",
         text="picture for people: logarithmic grey, beam centre, resolution rings"),
    Flag(whole=("-gauss_hkl_xtal",), puts=_on_off("shape", "gauss_hkl"), stop=True, subject="crystal",
         config="CrystalConfig.shape", text="Gaussian spots, as wide along each axis as the crystal is short"),
    Flag(whole=("-gauss_star_xtal",), puts=_on_off("shape", "gauss_star"), stop=True, subject="crystal",
         config="CrystalConfig.shape", text="Gaussian spots, round in reciprocal space"),
    Flag(whole=("-show_config", "-echo_config"), puts=_on_off("show_config", True), stop=True, subject="outputs",
         text="print the configuration too, by crystal, detector and beam"),
    Flag(whole=("-trace_pixel",), values=INT * 2, sets=("trace_s", "trace_f"), stop=True, subject="outputs",
         unit="pixel", shown="SLOW FAST", text="print every intermediate value of this pixel, as nb trace does"),
    Flag(whole=("-misset_uniform",), puts=_on_off("misset_choice", "uniform"), stop=True, subject="rotation",
         config="CrystalConfig.misset_deg", text="random orientation, all orientations equally likely"),
)  # fmt: skip
"""Flags that the C program does not have; first, so that none of them fires one of its patterns."""

CRYSTAL = (
    *(Flag((f"-N{axis}",), values=INT, sets=(f"N{axis}",), stop=True, subject="crystal", unit="cells", default="1",
           config="CrystalConfig.N_cells", text=f"unit cells along {axis}") for axis in "abc"),
    Flag(whole=("-N",), values=INT, sets=("Na", "Nb", "Nc"), stop=True, subject="crystal", unit="cells", default="1",
         config="CrystalConfig.N_cells", text="unit cells along all three axes"),
    Flag(("-cell",), values=REAL, special="cell", subject="crystal", unit="A, deg", default="required without -mat",
         config="CrystalConfig.cell_a", shown="a [b c alpha beta gamma]", text="unit cell"),
    Flag(("-misset",), values=XYZ, special="misset", shadow="-misset_seed", shadow_switch="misset_seed_is_misset",
         subject="rotation", unit="deg", default="0 0 0", config="CrystalConfig.misset_deg", shown="X Y Z | random",
         text="turn the crystal about x, then y, then z; or at random"),
    Flag(("-samplesize", "-sample_size", "-xtalsize", "-xtal_size"), values=REAL, subject="crystal", unit="mm",
         sets=("sample_x_mm", "sample_y_mm", "sample_z_mm"), default="from -N", config="CrystalConfig.sample_size_mm",
         text="size of the crystal, all axes; replaces -N"),
    Flag(("-sample_thick", "-sample_x", "-xtal_thick", "-xtal_x"), values=REAL, sets=("sample_x_mm",), unit="mm",
         subject="crystal", default="from -Na", config="CrystalConfig.sample_size_mm", text="size along a"),
    Flag(("-sample_width", "-sample_y", "-xtal_width", "-xtal_y", "-width"), values=REAL, sets=("sample_y_mm",),
         subject="crystal", unit="mm", default="from -Nb", config="CrystalConfig.sample_size_mm", text="size along b"),
    Flag(("-sample_heigh", "-sample_z", "-xtal_heigh", "-xtal_z", "-heigh"), values=REAL, sets=("sample_z_mm",),
         subject="crystal", unit="mm", default="from -Nc", config="CrystalConfig.sample_size_mm", text="size along c"),
    Flag(("-density", "-sample_den"), values=REAL, subject="crystal", unit="g/cm3", text="accepted, no effect",
         inert="the density of the crystal does not enter the image"),
    Flag(("-molec",), ("-MW",), values=REAL, subject="crystal", unit="g/mol", text="accepted, no effect",
         inert="the molecular weight does not enter the image"),
)  # fmt: skip

BEAM_MEANING = {"X": "beam_center_f", "Y": "beam_center_s"}

CENTRE = (
    *(_centre(f"{axis}beam", "beam", "mm", "DetectorConfig.beam_center_f, beam_center_s",
              f"direct-beam spot, {axis} of the convention") for axis in "XY"),
    *(_centre(f"{axis}close", "sample", "mm", f"DetectorConfig.{BEAM_MEANING[axis]}",
              f"point of the detector closest to the sample, {axis}; CUSTOM alone") for axis in "XY"),
    *(_centre(f"ORG{axis}", "sample", "pixel", f"DetectorConfig.{BEAM_MEANING[axis]}",
              f"XDS origin along {'fast' if axis == 'X' else 'slow'}, counted from 1") for axis in "XY"),
)  # fmt: skip

CUSTOM_VECTORS = (
    ("fdet", "fast axis"), ("sdet", "slow axis"), ("odet", "detector normal"), ("beam", "direction of the beam"),
    ("polar", "direction of polarization"),
)  # fmt: skip

AXES = (
    Flag(("-pivot",), values=WORD, special="pivot", subject="convention and axes", default="by convention",
         config="DetectorConfig.detector_pivot", shown="sample|beam",
         text="what stays fixed when the detector turns; CUSTOM alone"),
    _convention("mosflm", "beam", "beam +x, fast +z, slow -y (the default)"),
    _convention("xds", "sample", "beam +z, fast +x, slow +y"),
    _convention("adxv", "beam", "beam +z, fast +x, slow -y"),
    _convention("denzo", "beam", "MOSFLM's frame, centre without the half pixel"),
    _convention("dials", "beam", "beam +z, fast +x, slow +y, spindle +y"),
    *(_vector(f"{name}_vector", f"DetectorConfig.custom_{name}_vector", text) for name, text in CUSTOM_VECTORS),
    _vector("spindle_axis", "CrystalConfig.spindle_axis", "rotation axis of the crystal"),
    _vector("twotheta_axis", "DetectorConfig.twotheta_axis", "two-theta axis"),
    Flag(("-pix0_vector",), values=XYZ, puts=(("convention", "custom"), ("pix0_given", True)), shown="X Y Z",
         subject="convention and axes", text="selects CUSTOM; the vector itself is always recomputed"),
)  # fmt: skip

DETECTOR = (
    Flag(("-distance",), values=REAL, sets=("distance_mm",), puts=(("pivot", "beam"), ("distance_on_line", True)),
         subject="detector", unit="mm", default="100", config="DetectorConfig.distance_mm",
         text="sample to direct-beam spot"),
    Flag(("-close_distance",), values=REAL, sets=("close_distance_mm",),
         puts=(("pivot", "sample"), ("close_distance_on_line", True)), subject="detector", unit="mm",
         default="from -distance", config="DetectorConfig.close_distance_mm", text="sample to detector plane"),
    Flag(("-detector_abs",), values=WORD, special="detector_abs", subject="sensor", unit="um", default="the thickness",
         config="DetectorConfig.detector_abs_um", shown="DEPTH|inf", text="attenuation depth of the sensor"),
    Flag(whole=("-detector_thick",), values=REAL, sets=("thick_um",), subject="sensor", unit="um", default="0",
         config="DetectorConfig.detector_thick_um", text="thickness of the sensor"),
    Flag(("-detector_thicksteps", "-thicksteps"), values=INT, sets=("thicksteps",), subject="sensor", default="2",
         config="DetectorConfig.detector_thicksteps", text="layers of the sensor"),
    Flag(("-twotheta",), values=REAL, sets=("twotheta_deg",), puts=(("pivot", "sample"),), shadow="-twotheta_axis",
         shadow_switch="twotheta_axis_is_twotheta", subject="detector", unit="deg", default="0",
         config="DetectorConfig.detector_twotheta_deg", text="detector swing about the two-theta axis"),
    *(_degrees(f"-detector_rot{axis}", f"rot{axis}_deg", f"DetectorConfig.detector_rot{axis}_deg",
               f"turn the detector about {axis}", "detector") for axis in "xyz"),
    Flag(whole=("-detsize",), values=REAL, sets=("detsize_f_mm", "detsize_s_mm"), subject="detector", unit="mm",
         default="102.4", config="DetectorConfig.fpixels", text="size along both axes"),
    *(Flag((f"-detsize_{axis}",), values=REAL, sets=(f"detsize_{axis}_mm",), subject="detector", unit="mm",
           default="102.4", config=f"DetectorConfig.{axis}pixels",
           text=f"size along the {'fast' if axis == 'f' else 'slow'} axis") for axis in "fs"),
    Flag(whole=("-detpixels",), values=INT, sets=("detpixels_f", "detpixels_s"), subject="detector", unit="pixels",
         default="1024", config="DetectorConfig.fpixels", text="pixels along both axes"),
    Flag(("-detpixels_f", "-detpixels_x"), values=INT, sets=("detpixels_f",), subject="detector", unit="pixels",
         default="1024", config="DetectorConfig.fpixels", text="pixels along the fast axis"),
    Flag(("-detpixels_s", "-detpixels_y"), values=INT, sets=("detpixels_s",), subject="detector", unit="pixels",
         default="1024", config="DetectorConfig.spixels", text="pixels along the slow axis"),
    Flag(("-curved_det",), puts=_on_off("curved", True), subject="detector", config="DetectorConfig.curved_detector",
         text="every pixel at the same distance from the sample"),
    Flag(whole=("-pixel_batch_size", "--pixel-batch-size"), values=INT, special="batch_size", subject="detector",
         text="ignored, memory is bounded; with -compat c read as -pixel"),
    Flag(("-pixel",), values=REAL, sets=("pixel_mm",), subject="detector", unit="mm", default="0.1",
         config="DetectorConfig.pixel_size_mm", text="edge of a pixel"),
    Flag(("-point_pixel",), puts=_on_off("point_pixel", True), subject="detector", config="DetectorConfig.point_pixel",
         text="no obliquity and no pixel area in the solid angle"),
)  # fmt: skip

BEAM = (
    Flag(whole=("-polar",), values=REAL, sets=("polar",), puts=_on_off("nopolar", False), subject="beam", default="0",
         config="BeamConfig.polarization_factor", text="Kahn polarization factor, -1 to 1"),
    Flag(("-nopolar",), puts=_on_off("nopolar", True), subject="beam", config="BeamConfig.nopolar",
         text="no polarization effect"),
    *(Flag((f"-oversample_{what}",), puts=_on_off(f"oversample_{what}", True), stop=True, subject="sampling",
           config=f"DetectorConfig.oversample_{what}", text=f"{meaning} afresh at every step")
      for what, meaning in (("thick", "absorption"), ("polar", "polarization"), ("omega", "solid angle"))),
    Flag(("-oversample",), values=INT, sets=("oversample",), subject="sampling", default="automatic",
         config="DetectorConfig.oversample", text="sub-pixels along each pixel edge"),
    Flag(("-roi",), values=INT * 4, sets=("roi_xmin", "roi_xmax", "roi_ymin", "roi_ymax"), subject="sampling",
         unit="pixel", default="all", config="DetectorConfig.roi_xmin, roi_xmax, roi_ymin, roi_ymax",
         shown="FMIN FMAX SMIN SMAX", text="render these pixels alone, both ends included"),
    Flag(("-lambda", "-wave"), values=REAL, sets=("lambda_A",), subject="beam", unit="A", default="1",
         config="BeamConfig.wavelength_A", text="wavelength"),
    Flag(("-energy",), values=REAL, special="energy", subject="beam", unit="eV", default="12398.42",
         config="BeamConfig.wavelength_A", text="photon energy, sets the wavelength"),
    Flag(("-fluence",), values=REAL, sets=("fluence",), subject="beam", unit="photons/m2", default="1.25932e+29",
         config="BeamConfig.fluence", text="incident photons per area"),
    Flag(("-flux",), values=REAL, sets=("flux",), subject="beam", unit="photons/s", default="0",
         config="BeamConfig.flux", text="with -exposure and -beamsize replaces -fluence"),
    Flag(("-exposure",), values=REAL, sets=("exposure_s",), subject="beam", unit="s", default="1",
         config="BeamConfig.exposure", text="exposure time"),
    Flag(("-beamsize",), values=REAL, sets=("beamsize_mm",), subject="beam", unit="mm", default="0.1",
         config="BeamConfig.beamsize_mm", text="edge of the beam; clips the crystal along b and c"),
    Flag(("-mosaici", "-mosaic_spr"), ("-mosaic",), values=REAL, sets=("mosaic_deg",), subject="mosaicity", unit="deg",
         default="0", config="CrystalConfig.mosaic_spread_deg", text="mosaic spread; from 90 up a powder"),
    Flag(("-mosaic_dom",), values=INT, sets=("mosaic_domains",), subject="mosaicity", default="1; with a spread 10",
         config="CrystalConfig.mosaic_domains", text="mosaic domains"),
    Flag(("-dispersion",), values=REAL, sets=("dispersion_pct",), subject="divergence and spectrum", unit="%",
         default="0", config="BeamConfig.dispersion_pct", text="full spread of the wavelength"),
    Flag(("-dispsteps",), values=INT, sets=("dispsteps",), subject="divergence and spectrum", default="2 with a spread",
         config="BeamConfig.dispersion_steps", text="number of wavelengths"),
    Flag(("-divergence",), values=REAL, sets=("hdivrange_mrad", "vdivrange_mrad"), subject="divergence and spectrum",
         unit="mrad", default="0", config="BeamConfig.hdiv_range_mrad", text="full divergence, both ways"),
    *(Flag((f"-{hv}divrange",), values=REAL, sets=(f"{hv}divrange_mrad",), subject="divergence and spectrum",
           unit="mrad", default="0", config=f"BeamConfig.{hv}div_range_mrad", text=f"full {name} divergence")
      for hv, name in (("h", "horizontal"), ("v", "vertical"))),
    *(Flag(whole=(f"-{hv}divstep",), values=REAL, sets=(f"{hv}divstep_mrad",), subject="divergence and spectrum",
           unit="mrad", default="from the steps", config=f"BeamConfig.{hv}div_step_mrad", text="angle between sources")
      for hv in "hv"),
    *(Flag((f"-{hv}divsteps",), values=INT, sets=(f"{hv}divsteps",), subject="divergence and spectrum",
           default="2 with a range", config=f"BeamConfig.{hv}div_steps", text=f"number of {name} directions")
      for hv, name in (("h", "horizontal"), ("v", "vertical"))),
    Flag(("-divsteps",), values=INT, sets=("hdivsteps", "vdivsteps"), subject="divergence and spectrum",
         default="2 with a range", config="BeamConfig.hdiv_steps", text="number of directions, both ways"),
    Flag(("-round_div",), puts=_on_off("round_div", True), subject="divergence and spectrum", default="on",
         config="BeamConfig.round_div", text="trim the corners of the divergence grid"),
    Flag(("-square_div",), puts=_on_off("round_div", False), subject="divergence and spectrum",
         config="BeamConfig.round_div", text="keep the corners"),
    Flag(("-adc",), values=REAL, sets=("adc",), subject="outputs", unit="ADU", default="40",
         text="offset added to integer and noise images"),
    Flag(whole=("-phi",), values=REAL, sets=("phi_deg",), subject="rotation", unit="deg", default="0",
         config="CrystalConfig.phi_start_deg", text="spindle angle at the start"),
    Flag(("-osc",), values=REAL, sets=("osc_deg",), subject="rotation", unit="deg", default="0",
         config="CrystalConfig.osc_range_deg", text="oscillation range"),
    Flag(whole=("-phistep",), values=REAL, sets=("phistep_deg",), subject="rotation", unit="deg",
         default="-osc / -phisteps", config="CrystalConfig.phi_step_deg", text="angle between phi steps"),
    Flag(("-phisteps",), values=INT, sets=("phisteps",), subject="rotation", default="2 with -osc, else 1",
         config="CrystalConfig.phi_steps", text="number of phi steps"),
    Flag(("-dmin",), values=REAL, sets=("dmin_A",), subject="sampling", unit="A", default="0",
         config="BeamConfig.dmin", text="leave out scattering beyond this resolution"),
)  # fmt: skip

FILES = (
    Flag(("-mat",), values=FILE, sets=("matfile",), subject="crystal", config="CrystalConfig.mosflm_a_star",
         text="MOSFLM orientation matrix; with -cell it gives the directions alone"),
    Flag(("-hkl",), values=FILE, sets=("hklfile",), subject="structure factors", config="Crystal.hkl_data",
         text="structure factors, lines of h k l F"),
    Flag(("-default_F",), values=REAL, sets=("default_F",), subject="structure factors", default="0", unit="electrons",
         config="CrystalConfig.default_F", text="amplitude of reflections that are not listed"),
    Flag(("-dump",), values=FILE, sets=("dumpfile",), subject="structure factors", default="Fdump.bin",
         text="binary copy of -hkl: written with -hkl, read without it"),
    Flag(("-img",), values=FILE, sets=("imgfile",), subject="detector", text="take geometry from this image's header"),
    Flag(("-mask",), values=FILE, sets=("maskfile",), subject="detector", config="DetectorConfig.mask_array",
         text="skip this image's zero pixels; take geometry from its header"),
    Flag(("-stolout",), ("-stol", "-4stol", "-Q"), values=FILE, special="stol", subject="background",
         text="accepted, the file must exist, no effect", inert="profiles against resolution do not enter the image"),
    Flag(("-sourcefile",), values=FILE, sets=("sourcefile",), subject="divergence and spectrum",
         config="BeamConfig.source_directions, source_wavelengths, source_weights",
         text="sources, lines of X Y Z intensity wavelength(m)"),
    Flag(("-floatfile", "-floatimage"), values=FILE, sets=("floatfile",), subject="outputs", default="floatimage.bin",
         text="photons per pixel, 32-bit floats"),
    Flag(("-intfile", "-intimage"), values=FILE, sets=("intfile",), subject="outputs", default="intimage.img",
         text="scaled integer image, SMV"),
    Flag(("-pgmfile", "-pgmimage"), values=FILE, sets=("pgmfile",), puts=_on_off("write_pgm", True), subject="outputs",
         default="image.pgm", text="grey picture"),
    Flag(("-noisefile", "-noiseimage"), values=FILE, sets=("noisefile",), puts=_on_off("write_noise", True),
         subject="outputs", default="noiseimage.img", text="image with photon-counting noise, SMV"),
    Flag(("-nonoise",), puts=_on_off("write_noise", False), subject="outputs", text="no noise image"),
    Flag(("-nopgm",), puts=_on_off("write_pgm", False), subject="outputs", text="no grey picture"),
    Flag(("-scale",), values=REAL, sets=("scale",), subject="outputs", default="55000 / maximum",
         text="factor of the integer image"),
    Flag(("-pgmscale",), values=REAL, sets=("pgmscale",), puts=_on_off("write_pgm", True), subject="outputs",
         default="50 / rmsd", text="factor of the grey picture"),
    Flag(("-coherent",), subject="divergence and spectrum", text="accepted, no effect",
         inert="sources are always added incoherently"),
    Flag(("-printout",), puts=_on_off("printout", True), subject="outputs", text="print intermediate values of pixels"),
    Flag(("-noprogress",), puts=_on_off("progress", False), subject="outputs", text="no progress meter"),
    Flag(("-progress",), puts=_on_off("progress", True), subject="outputs", default="on", text="progress meter"),
    Flag(("-interpolate",), puts=_on_off("interpolate", True), subject="structure factors",
         default="when fewer than 3 cells", config="CrystalConfig.interpolate",
         text="tricubic interpolation between reflections"),
    Flag(("-nointerpolate",), puts=_on_off("interpolate", False), subject="structure factors",
         config="CrystalConfig.interpolate", text="nearest reflection"),
    *(Flag(names, puts=_on_off("shape", shape), subject="crystal", config="CrystalConfig.shape", default=default,
           text=text)
      for names, shape, default, text in (
          (("-round_xtal",), "round", "", "ellipsoidal crystal"),
          (("-square_xtal",), "square", "on", "parallelepiped crystal"),
          (("-gauss_xtal",), "gauss", "", "Gaussian spots of Darwin's intensity"),
          (("-binary_spots", "-tophat_spots"), "tophat", "", "spots with a sharp edge, of Darwin's intensity"))),
    Flag(("-fudge",), values=REAL, sets=("fudge",), subject="crystal", default="1", config="CrystalConfig.fudge",
         text="shape parameter: narrower spots above 1; not for -square_xtal"),
    Flag(("-printout_pixel",), values=INT * 2, sets=("printout_f", "printout_s"), puts=_on_off("printout", True),
         subject="outputs", unit="pixel", shown="FAST SLOW", text="print this pixel alone"),
    Flag(("-seed",), values=INT, sets=("seed",), subject="random numbers", default="from the clock",
         text="seed of the noise"),
    Flag(("-mosaic_seed",), values=INT, sets=("mosaic_seed",), subject="random numbers", default="12345678",
         config="CrystalConfig.mosaic_seed", text="seed of the mosaic domains"),
    Flag(("-misset_seed",), values=INT, sets=("misset_seed",), subject="random numbers", default="that of -seed",
         text="seed of -misset random"),
    Flag(("-water",), values=REAL, sets=("water_um",), subject="background", unit="um", default="0",
         config="BeamConfig.water_size_um", text="edge of a cube of water around the crystal"),
)  # fmt: skip

LONGER = frozenset((
    "-adcoffset", "-curved_detector", "-detector_absorb", "-detector_absorption", "-dumpfile", "-height", "-imgfile",
    "-maskfile", "-matrix", "-molecular_weight", "-mosaic_domains", "-mosaic_spread", "-mosaicity", "-pix0_vector_mm",
    "-pixel_size", "-pixelsize", "-sample_density", "-sample_height", "-sample_thickness", "-sample_width",
    "-wavelength", "-xtal_height", "-xtal_thickness",
))  # fmt: skip
"""Spellings in use that say no more and no less than the row whose part they contain."""

FLAGS: tuple[Flag, ...] = RUN + CRYSTAL + CENTRE + AXES + DETECTOR + BEAM + FILES


@lru_cache(2**14)
def fired_by(word: str, table: tuple[Flag, ...] = FLAGS) -> tuple[Flag, ...]:
    """The rows that a word fires, in order."""
    return tuple(flag for flag in table if flag.matches(word))


@lru_cache(16)
def spellings_of(table: tuple[Flag, ...] = FLAGS) -> frozenset[str]:
    """Every spelling that says no more than the row it fires."""
    return LONGER.union(*(flag.names for flag in table))


def flags_of_config(field: str) -> Iterator[Flag]:
    """The flags that end in a field of a configuration, such as phi_steps."""
    for flag in FLAGS:
        if field in flag.config.replace(",", " ").replace(".", " ").split():
            yield flag
