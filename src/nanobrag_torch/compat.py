"""The compatibility switch: every defect of the C program that this one corrects, in one table.

`Compat.corrected()` is the default; `Compat.c()` gives the C program's image. Physics never asks for a mode: the
models and the simulator hand it the one choice that a row stands for. Rows are those marked O (corrected, with a
switch) and F (fixed in both modes) in section 11 of the behaviour page.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from nanobrag_torch.errors import InputError


@dataclass(frozen=True)
class Row:
    """One defect: its number, the field of Compat that switches it (None: fixed in both modes), and both behaviours.

    example: flags of nanoBragg that show it, or a whole command that begins with nb; files are those of the tests.
    """

    id: str
    switch: str | None
    c_program: str
    here: str
    example: str = ""


ROWS: tuple[Row, ...] = (
    Row(
        "D1",
        "skewed_cell",
        "a triclinic or rhombohedral -cell gets wrong angles",
        "the angles asked for",
        "-cell 62 71 83 75 97 112 -default_F 100 -N 4",
    ),
    Row(
        "D2",
        "stale_phi",
        "phi = 0 keeps the orientation of the phi step before it",
        "every phi step is rotated afresh",
        "-cell 60 75 90 90 90 90 -default_F 100 -N 4 -phi 0 -osc 1 -phisteps 3",
    ),
    Row(
        "D3",
        "running_factors",
        "-oversample_thick/_polar/_omega multiply the running sum at every step",
        "each term is multiplied by its own factor once",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -oversample 2 -oversample_omega",
    ),
    Row(
        "D4",
        "last_layer_capture",
        "all sensor layers are weighed by the last layer's capture",
        "each layer by its own capture",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detector_abs 250 -detector_thick 450 -detector_thicksteps 4",
    ),
    Row(
        "D5",
        "interpolation_latch",
        "one interpolation out of range turns interpolation off for the rest of the run",
        "only that evaluation falls back to the nearest reflection",
        "-cell 60 75 90 90 90 90 -hkl p1_small.hkl -default_F 2 -N 2",
    ),
    Row(
        "D6",
        "equal_sources",
        "intensities in a source file are ignored",
        "sources weigh by intensity / total",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -sourcefile sources_full.txt",
    ),
    Row(
        "D7",
        "water_once",
        "the water background holds r_e^2 fluence twice, is added once a pixel yet divided by the steps,"
        " and vanishes where -dmin skips every source",
        "water scatters in every step, once times r_e^2 fluence",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -water 20 -oversample 2",
    ),
    Row(
        "D8",
        None,
        "an SMV header longer than 512 bytes corrupts the file",
        "HEADER_BYTES=1024 when it is needed",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detector_rotx -1.23456 -detector_rotz -13.4567 -twotheta 11.2345"
        " -Xbeam 12.3456 -Ybeam 11.3456 -distance 123.456 -lambda 0.976543 -phi 1.23456 -osc 0.123456",
    ),
    Row(
        "D9",
        "misset_seed_is_misset",
        "-misset_seed n also reads the next three words as misset angles",
        "-misset_seed sets the seed alone",
        "-cell 60 75 90 90 90 90 -default_F 50 -misset_seed 33 -N 5",
    ),
    Row(
        "D10",
        "twotheta_axis_is_twotheta",
        "-twotheta_axis x y z also sets two-theta to x degrees",
        "-twotheta_axis sets the axis alone",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -twotheta_axis 0.6 0.8 0",
    ),
    Row(
        "D14",
        None,
        "-curved_det is ignored as the last word",
        "it is honoured anywhere",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -curved_det",
    ),
    Row(
        "D15",
        None,
        "a detector_abs or thickness flag without its value crashes",
        "a usage error",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detector_abs",
    ),
    Row(
        "D16",
        None,
        "-misset random takes its seed from the clock, whatever -seed says",
        "without -misset_seed the seed of -seed is used",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -misset random -seed 7",
    ),
    Row(
        "D19",
        "oversample_polar_defeats_nopolar",
        "-nopolar has no effect with -oversample_polar",
        "-nopolar wins",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -oversample_polar -nopolar",
    ),
    Row(
        "D20",
        "distance_before_twotheta",
        "with two-theta the reported distance and beam centre are those before the turn",
        "they are those of the turned detector; the image is the same",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -denzo -twotheta 10",
    ),
    Row(
        "D22",
        "close_distance_of_header_wins",
        "-distance has no effect after a header with CLOSE_DISTANCE, and DISTANCE finds CLOSE_DISTANCE",
        "an explicit -distance wins",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -img nb_xds_64.img -distance 200",
    ),
    Row(
        "D25",
        None,
        "BYTE_ORDER of an input image is not honoured",
        "words are swapped as it says",
        "nb compare mask64.img mask64_big_endian.img",
    ),
    Row(
        "D26",
        None,
        "reading a dump file skips data bytes that look like white space",
        "exactly one newline and form feed",
        "-cell 60 75 90 90 90 90 -dump blank_byte_dump.bin -N 5",
    ),
    Row(
        "D27",
        "hkl_stops_at_text",
        "the hkl reader stops for good at a comment, a fifth column or an index like 1.0",
        "comments, titles and further columns are skipped, anything else is an error that names the line",
        "-cell 60 75 90 90 90 90 -hkl p1_comment.hkl -default_F 3 -N 3",
    ),
    Row(
        "D28",
        "layers_overshoot",
        "n explicit layers span n/(n-1) of the thickness",
        "they span the thickness",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detector_abs 250 -detector_thick 450 -detector_thicksteps 4",
    ),
    Row(
        "D31",
        None,
        "zero sources or phi steps give an image of NaN and exit code 0",
        "an error",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -osc 0 -phistep 0.1",
    ),
    Row(
        "D32",
        None,
        "-round_xtal loses all digits close to a peak",
        "a series there",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -round_xtal",
    ),
    Row(
        "D34",
        None,
        "negative noise values wrap around",
        "they are clamped to 0",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -adc -100 -noisefile noise.img",
    ),
    Row(
        "D36",
        "solid_angle_over_steps",
        "the printed solid angle is divided by all steps",
        "it is the detector's",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -phi 5 -osc 1 -phisteps 4",
    ),
    Row(
        "D38",
        "product_widths",
        "Gaussian and top-hat spots take their width from the product of Na, Nb and Nc, and hold 30 times Darwin's"
        " intensity or a tenth of it",
        "each axis has the width of its own number of cells, and a spot holds Darwin's intensity",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -gauss_xtal",
    ),
    Row(
        "D41",
        None,
        "the number of steps overflows a 32-bit integer",
        "it does not",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -detpixels 1 -oversample 46341",
    ),
    Row(
        "D42",
        None,
        "an unreadable -mat file gives an empty image and exit code 0",
        "an error",
        "-mat missing.mat -default_F 50 -N 5",
    ),
    Row(
        "D44",
        None,
        "Windows line ends, a missing last newline or # in a source file give zeros",
        "they are read properly",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -sourcefile sources_crlf.txt",
    ),
    Row(
        "D52",
        "raw_twotheta_axis",
        "a two-theta axis that is not of unit length distorts the detector",
        "the axis is normalised",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -twotheta_axis 0 0 2 -twotheta 5",
    ),
    Row(
        "D53",
        "oversample_thick_needs_thickness",
        "-oversample_thick without a sensor thickness gives a zero image",
        "a sensor without thickness captures everything",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -oversample_thick",
    ),
    Row(
        "D54",
        "polarized_along_beam",
        "a source along the polarization axis counts as polarized, with (1 + c^2 - K s^2) / 2 all around",
        "it has no plane of polarization and counts as unpolarized",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -polar 0.9 -sourcefile sources_along_polar.txt",
    ),
    Row(
        "D55",
        "quotients_rounded_up",
        "a range of a whole number of steps, phi or divergence, gets one step more where the quotient rounds up",
        "it gets that number",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -phi 3 -osc 2.1 -phistep 0.7",
    ),
    Row(
        "D56",
        "lopsided_divergence",
        "divergence by range and step, or steps alone, lies half a step to one side of the beam",
        "it lies evenly about the beam",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -hdivrange 20 -hdivstep 10",
    ),
    Row(
        "D57",
        "curved_by_lab_axes",
        "a curved detector takes laboratory y and z over the distance for its angles, which mirrors it, and puts every"
        " pixel a radian off where the beam is along z; its pixels have the solid angle of a flat one's plane",
        "distances along its fast and slow axis, from the foot of its normal, are arcs about the sample",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -xds -curved_det -distance 60",
    ),
    Row(
        "D58",
        "curved_sensor_is_flat",
        "the sensor of a curved detector is crossed along the normal of a flat one",
        "every ray meets it at a right angle",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -curved_det -distance 30 -detector_abs 450 -detector_thick 450",
    ),
    Row(
        "D59",
        "normal_stays",
        "vectors of a custom detector without -odet_vector keep the normal 1 0 0, which may lie in its plane",
        "the normal is fast x slow, on the side that the beam goes to",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -fdet_vector 0 0.6 0.8 -sdet_vector 0.6 -0.64 0.48",
    ),
    Row(
        "D60",
        "negative_photons",
        "pixels behind the sensor, or behind the sample, count negative photons",
        "they count none, and a warning says how many they are",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -twotheta 100",
    ),
    Row(
        "D61",
        "front_solid_angle",
        "deep layers of the sensor have the solid angle of its front",
        "each layer has its own",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 5 -distance 20 -detector_abs 450 -detector_thick 450",
    ),
    Row(
        "D62",
        "powder_of_half_a_sphere",
        "-mosaic 90, which it calls powder, turns no domain by more than 90 degrees",
        "orientations are uniform over all rotations",
        "-cell 60 75 90 90 90 90 -default_F 50 -N 3 -mosaic 90 -mosaic_domains 50",
    ),
)

RESPONSE_ROWS: tuple[Row, ...] = (
    Row("R1", None, "flicker is drawn once a pixel", "once an image: it is the source that flickers"),
    Row("R2", None, "the calibration error changes with -seed", "it belongs to the detector and -calib_seed alone"),
    Row("R3", None, "photons are counted before the point spread", "the spread comes first, so that pixels count"),
    Row(
        "R4",
        None,
        "the point spread wraps around the far edge, and photons beyond its radius come back over the whole image",
        "what leaves the image is gone, and no photon is invented",
    ),
    Row("R5", None, "the integer image of -bits 32 is cut at 65535", "it is cut where 32 bits end"),
    Row("R6", None, "values below 0 wrap around to 65535", "they are 0"),
    Row("R7", None, "the WAVELENGTH of -header is divided by 1e10", "it is kept"),
    Row("R8", None, "rows of the table that are out of order make pixels depend on each other", "the table is sorted"),
    Row("R9", None, "negative photons are kept, and counted as none", "they are 0 in every image"),
)
"""What noisify (R1 to R7, R9) and nonBragg (R8, R9) get wrong; `-compat c` brings all of them back but R6."""


@dataclass(frozen=True)
class Compat:
    """One switch a correctable defect, in the order of ROWS: True gives what the C program does."""

    skewed_cell: bool = False
    stale_phi: bool = False
    running_factors: bool = False
    last_layer_capture: bool = False
    interpolation_latch: bool = False
    equal_sources: bool = False
    water_once: bool = False
    misset_seed_is_misset: bool = False
    twotheta_axis_is_twotheta: bool = False
    oversample_polar_defeats_nopolar: bool = False
    distance_before_twotheta: bool = False
    close_distance_of_header_wins: bool = False
    hkl_stops_at_text: bool = False
    layers_overshoot: bool = False
    solid_angle_over_steps: bool = False
    product_widths: bool = False
    raw_twotheta_axis: bool = False
    oversample_thick_needs_thickness: bool = False
    polarized_along_beam: bool = False
    quotients_rounded_up: bool = False
    lopsided_divergence: bool = False
    curved_by_lab_axes: bool = False
    curved_sensor_is_flat: bool = False
    normal_stays: bool = False
    negative_photons: bool = False
    front_solid_angle: bool = False
    powder_of_half_a_sphere: bool = False

    @classmethod
    def corrected(cls) -> Compat:
        """Every defect corrected."""
        return cls()

    @classmethod
    def c(cls) -> Compat:
        """Every correctable defect as in the C program."""
        return cls(**{field.name: True for field in fields(cls)})

    @classmethod
    def of(cls, mode: str | Compat, phi_mode: str | None = None) -> Compat:
        """The switches of a mode, "corrected" or "c"; phi_mode "spec" or "c-parity" sets the phi row alone.

        Raises InputError for an unknown mode.
        """
        modes = {"corrected": cls.corrected, "c": cls.c}
        if not isinstance(mode, cls):
            if mode not in modes:
                raise InputError("compat", mode, "corrected, c")
            mode = modes[str(mode)]()
        phi_modes = {None: mode.stale_phi, "spec": False, "c-parity": True}
        if phi_mode not in phi_modes:
            raise InputError("phi_mode", phi_mode, "spec, c-parity")
        return replace(mode, stale_phi=phi_modes[phi_mode])
