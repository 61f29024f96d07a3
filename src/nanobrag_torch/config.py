"""What the user asked for: dataclasses that own the defaults and the validation, and know no physics.

Any real-valued field may be a float or a tensor; a tensor that requires grad makes the image differentiable by it.
A default of None means "automatic": the value that the C program would choose (reference-behaviour sections 3 and 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from nanobrag_torch.checked import Checked
from nanobrag_torch.checks import (
    coerce_enum,
    flat,
    is_positive,
    require_at_least,
    require_at_most,
    require_finite,
    require_kinds,
    require_length,
    require_mask,
    require_nonzero,
    require_positive,
    require_table,
    shown,
    spread_shape,
)
from nanobrag_torch.errors import InputError
from nanobrag_torch.units import DEFAULT_FLUENCE

if TYPE_CHECKING:
    from torch import Tensor

    Real = float | Tensor
    Vector = Sequence[float] | Tensor

MOST_STEPS = 2**22
"""Of a count whose every step is held in memory: domains, steps of a rotation, sources along an axis."""
LONGEST_EDGE_A = 1e7
"""A millimetre: nothing that is longer is the edge of a cell."""
MOST_LAYERS = 2**14
"""Of a sensor: each is summed for every pixel."""
MOST_SUBPIXELS = 100_000
"""Along an edge of a pixel: their squares are summed for every pixel."""
MOSAIC_DOMAINS = 10
"""Domains for a spread whose domains nobody counted: as the C program has them."""


SHORTEST_A = 1e-6
"""Wavelengths below are metres that were taken for Angstrom."""


class CrystalShape(Enum):
    """Spot shape; sections 8.1 of the behaviour page, and two Gaussian forms that refinement programs use."""

    SQUARE = "square"
    ROUND = "round"
    GAUSS = "gauss"
    TOPHAT = "tophat"
    GAUSS_HKL = "gauss_hkl"
    GAUSS_STAR = "gauss_star"


class DetectorConvention(Enum):
    """Axes and beam-centre meaning of a program's frame (section 5.1)."""

    MOSFLM = "mosflm"
    DENZO = "denzo"
    ADXV = "adxv"
    XDS = "xds"
    DIALS = "dials"
    CUSTOM = "custom"


class DetectorPivot(Enum):
    """What stays fixed when the detector turns: the direct-beam spot or the sample."""

    BEAM = "beam"
    SAMPLE = "sample"


class MosaicSampling(Enum):
    """Random domains of the C program, or a deterministic weighted set of rotations."""

    RANDOM = "random"
    QUADRATURE = "quadrature"


@dataclass(kw_only=True, repr=False)
class CrystalConfig(Checked):
    """The crystal: cell, orientation, rotation, mosaicity, size and shape. Lengths in Angstrom, angles in degrees."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("misset_random", "misset_seed"), "misset_deg, from utils.c_random.random_misset_deg(seed)"),
        **dict.fromkeys(("sample_x", "sample_y", "sample_z"), "sample_size_mm, which sets the number of cells"),
    }

    cell_a: Real | None = None
    cell_b: Real | None = None  # None: cell_a
    cell_c: Real | None = None
    cell_alpha: Real = 90.0
    cell_beta: Real = 90.0
    cell_gamma: Real = 90.0
    mosflm_a_star: Vector | None = None  # 1/Angstrom, wavelength removed
    mosflm_b_star: Vector | None = None
    mosflm_c_star: Vector | None = None
    misset_deg: Vector = (0.0, 0.0, 0.0)  # about x, then y, then z
    orientation_vector_deg: Vector | None = None  # rotation vector, applied after misset
    orientation_quaternion: Vector | None = None  # w, x, y, z; normalised when used; applied after misset
    phi_start_deg: Real = 0.0
    osc_range_deg: Real = 0.0
    phi_steps: int = 1
    phi_step_deg: Real | None = None  # None: osc_range_deg / phi_steps
    spindle_axis: Vector | None = None  # None: by detector convention
    mosaic_spread_deg: Real | Vector = 0.0  # scalar; three, about a, c* x a and c*; or a symmetric 3 x 3 of these axes
    mosaic_domains: int | None = None  # None: 10; one without a spread, whatever is asked for
    mosaic_seed: int = -12345678
    mosaic_sampling: MosaicSampling = MosaicSampling.RANDOM
    N_cells: Sequence[int] | Vector = (1, 1, 1)  # along a, b, c; or a symmetric 3 x 3 matrix of them
    sample_size_mm: Real | Vector | None = None  # overrides N_cells: ceil(size / |a|)
    shape: CrystalShape = CrystalShape.SQUARE
    fudge: Real = 1.0
    default_F: Real = 0.0
    F_scale: Real = 1.0  # multiplies every amplitude
    B_factor_A2: Real = 0.0  # multiplies the table by exp(-B (sin theta / lambda)^2)
    interpolate: bool | None = None  # None: on when any N_cells <= 2

    def __post_init__(self) -> None:
        require_kinds(self)
        coerce_enum(self, "shape", CrystalShape)
        coerce_enum(self, "mosaic_sampling", MosaicSampling)
        require_finite(self)
        require_positive(self, "cell_a", "cell_b", "cell_c", "cell_alpha", "cell_beta", "cell_gamma", "sample_size_mm")
        require_at_least(self, 1, "phi_steps", "mosaic_domains")
        require_at_most(self, MOST_STEPS, "phi_steps", "mosaic_domains")
        require_at_most(self, LONGEST_EDGE_A, "cell_a", "cell_b", "cell_c")
        require_at_least(self, 0, "mosaic_spread_deg")
        require_length(self, 3, "misset_deg", "spindle_axis", "orientation_vector_deg")
        require_length(self, 3, "mosflm_a_star", "mosflm_b_star", "mosflm_c_star")
        require_length(self, 4, "orientation_quaternion")
        require_nonzero(self, "spindle_axis", "orientation_quaternion")
        if spread_shape(self.mosaic_spread_deg) not in ((), (1,), (3,), (3, 3)):
            raise InputError(
                "mosaic_spread_deg", shown(self.mosaic_spread_deg), "1 number, 3 numbers or a 3 x 3 matrix"
            )
        self._require_possible_cells()
        self._require_possible_angles()
        given = [getattr(self, f"mosflm_{axis}_star") is not None for axis in "abc"]
        if any(given) and not all(given):
            raise InputError("mosflm_a_star, mosflm_b_star, mosflm_c_star", given, "all three or none")

    def _require_possible_cells(self) -> None:
        shape = spread_shape(self.N_cells)
        if shape not in ((3,), (3, 3)) or (shape == (3, 3) and not is_positive(flat(self.N_cells))):
            raise InputError("N_cells", shown(self.N_cells), "3 numbers, or a symmetric, positive 3 x 3 matrix")
        if shape == (3, 3) and self.shape is CrystalShape.SQUARE and any(flat(self.N_cells)[i] for i in (1, 2, 5)):
            raise InputError("N_cells", shown(self.N_cells), "3 numbers: a square crystal has edges along a, b, c")

    def _require_possible_angles(self) -> None:
        angles = [x for name in ("alpha", "beta", "gamma") for x in flat(getattr(self, f"cell_{name}"))]
        if sum(angles) >= 360 or 2 * max(angles) >= sum(angles):
            raise InputError("cell_alpha, cell_beta, cell_gamma", tuple(angles), "angles of a cell with a volume")


@dataclass(frozen=True, kw_only=True)
class PanelConfig:
    """One flat panel in the lab frame: mm, sensor in micrometres; origin_mm is the outer corner of its first pixel."""

    origin_mm: Vector
    fast_axis: Vector
    slow_axis: Vector
    fpixels: int
    spixels: int
    pixel_size_mm: Real | Vector = 0.1  # one number, or fast and slow
    detector_thick_um: Real = 0.0
    detector_abs_um: Real | None = None  # attenuation depth; None: the thickness
    mask_array: Any | None = None  # (spixels, fpixels), zero = skip
    group: str | None = None  # moves with this group
    name: str = ""

    def __post_init__(self) -> None:
        require_kinds(self)
        require_finite(self, but=("detector_abs_um", "mask_array"))
        require_positive(self, "pixel_size_mm", "spixels", "fpixels", "detector_abs_um")
        require_at_least(self, 0, "detector_thick_um")
        require_length(self, 3, "origin_mm", "fast_axis", "slow_axis")
        require_nonzero(self, "fast_axis", "slow_axis")
        require_mask(self)


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """A rigid group of panels or of other groups, and how far it has moved: turned about `centre_mm`, then shifted."""

    name: str
    shift_mm: Vector = (0.0, 0.0, 0.0)
    rotation_deg: Vector = (0.0, 0.0, 0.0)  # rotation vector in the lab frame
    centre_mm: Vector = (0.0, 0.0, 0.0)
    parent: str | None = None  # moves with this group afterwards

    def __post_init__(self) -> None:
        require_kinds(self)
        require_finite(self)
        require_length(self, 3, "shift_mm", "rotation_deg", "centre_mm")


REPLACED_BY_PANELS = (
    "distance_mm", "close_distance_mm", "beam_center_s", "beam_center_f", "detector_pivot", "pix0_vector_mm",
    "detector_rotx_deg", "detector_roty_deg", "detector_rotz_deg", "detector_twotheta_deg",
    "detector_abs_um", "detector_thick_um", "roi_xmin", "roi_xmax", "roi_ymin", "roi_ymax", "mask_array",
)  # fmt: skip
"""Fields of DetectorConfig that each panel has for itself."""


@dataclass(kw_only=True, repr=False)
class DetectorConfig(Checked):
    """The detector: distances and pixel sizes in mm, angles in degrees, sensor in micrometres, lab-frame vectors.

    beam_center_f, beam_center_s are the numbers that the convention itself uses (mm): MOSFLM and DENZO Ybeam and Xbeam,
    ADXV Xbeam and Ybeam (counted from the far edge), XDS and DIALS the foot of the perpendicular from the sample.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "pix0_override_m": "pix0_vector_mm, in millimetres: the corner of the first pixel, whatever the pivot",
        "beam_center_source": "beam_center_f and beam_center_s, which count where they are given",
    }

    distance_mm: Real | None = None  # None: 100, or what close_distance_mm implies
    close_distance_mm: Real | None = None  # wins over distance_mm
    pixel_size_mm: Real = 0.1
    spixels: int = 1024
    fpixels: int = 1024
    beam_center_s: Real | None = None
    beam_center_f: Real | None = None
    detector_convention: DetectorConvention = DetectorConvention.MOSFLM
    detector_pivot: DetectorPivot | None = None  # None: by convention
    detector_rotx_deg: Real = 0.0
    detector_roty_deg: Real = 0.0
    detector_rotz_deg: Real = 0.0
    detector_twotheta_deg: Real = 0.0
    twotheta_axis: Vector | None = None
    custom_fdet_vector: Vector | None = None
    custom_sdet_vector: Vector | None = None
    custom_odet_vector: Vector | None = None
    custom_beam_vector: Vector | None = None
    custom_polar_vector: Vector | None = None
    custom_spindle_axis: Vector | None = None
    pix0_vector_mm: Vector | None = None  # outer corner of the first pixel; replaces distance, centre and pivot
    oversample: int = -1  # below 1: automatic
    oversample_omega: bool = False
    oversample_polar: bool = False
    oversample_thick: bool = False
    detector_abs_um: Real | None = None  # attenuation depth; None: the thickness; 0 or inf: no absorption
    detector_thick_um: Real = 0.0
    detector_thicksteps: int | None = None  # None: 2 when there is a thickness
    point_pixel: bool = False
    curved_detector: bool = False
    roi_xmin: int | None = None  # fast axis, inclusive
    roi_xmax: int | None = None
    roi_ymin: int | None = None  # slow axis, inclusive
    roi_ymax: int | None = None
    mask_array: Any | None = None  # (spixels, fpixels), zero = skip
    panels: Sequence[PanelConfig] = ()  # replaces distance, centre, pivot, rotations, sizes, thickness, region and mask
    groups: Sequence[GroupConfig] = ()  # that panels belong to

    def __post_init__(self) -> None:
        require_kinds(self)
        coerce_enum(self, "detector_convention", DetectorConvention)
        if self.detector_pivot is not None:
            coerce_enum(self, "detector_pivot", DetectorPivot)
        require_finite(self, but=("detector_abs_um", "mask_array"))
        require_positive(self, "pixel_size_mm", "spixels", "fpixels")
        require_at_least(self, 0, "detector_thick_um", "detector_abs_um")
        require_at_least(self, 1, "detector_thicksteps")
        require_at_most(self, MOST_LAYERS, "detector_thicksteps")
        require_at_most(self, MOST_SUBPIXELS, "oversample")
        vectors = ("fdet_vector", "sdet_vector", "odet_vector", "beam_vector", "polar_vector", "spindle_axis")
        require_length(self, 3, "twotheta_axis", "pix0_vector_mm", *(f"custom_{v}" for v in vectors))
        require_nonzero(self, "twotheta_axis", *(f"custom_{v}" for v in vectors))
        require_nonzero(self, "distance_mm", "close_distance_mm")
        require_mask(self)
        self._require_groups()
        if self.panels:
            self._require_unused(*REPLACED_BY_PANELS)
        for low, high in (("roi_xmin", "roi_xmax"), ("roi_ymin", "roi_ymax")):
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and 0 <= b < a:
                raise InputError(f"{low}, {high}", (a, b), "first <= last")

    @classmethod
    def from_cli_args(
        cls,
        distance_mm: Real | None = None,
        close_distance_mm: Real | None = None,
        pivot: str | None = None,
        **given: Any,
    ) -> DetectorConfig:
        """A detector whose pivot follows from the distance that is given, as the command's does: of -close_distance the
        sample, of -distance the beam; pivot, "beam" or "sample", wins."""
        if pivot is None and (distance_mm is not None or close_distance_mm is not None):
            pivot = "beam" if close_distance_mm is None else "sample"
        if pivot is not None:
            given["detector_pivot"] = pivot
        return cls(distance_mm=distance_mm, close_distance_mm=close_distance_mm, **given)

    def _require_unused(self, *names: str) -> None:
        """What the panels replace must not be given beside them: it would do nothing."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in names and (value is not field.default and flat(value) != flat(field.default)):
                raise InputError(field.name, shown(value), "nothing where panels are given: they replace it")

    def _require_groups(self) -> None:
        """Every group that is named exists, and no group belongs to itself."""
        parents = {group.name: group.parent for group in self.groups}
        for wanted in (*(panel.group for panel in self.panels), *parents.values()):
            if wanted is not None and wanted not in parents:
                raise InputError("group", wanted, ", ".join(parents) or "the name of one of groups")
        for name in parents:
            above, seen = parents[name], {name}
            while above is not None:
                if above in seen:
                    raise InputError("parent", above, "groups that do not contain themselves")
                seen.add(above)
                above = parents[above]


@dataclass(kw_only=True, repr=False)
class BeamConfig(Checked):
    """The beam: wavelength in Angstrom, divergence in mrad, dispersion in percent, size in mm, fluence in 1/m^2."""

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("N_source_points", "source_distance_mm", "source_size_mm"),
        "hdiv_range_mrad, hdiv_steps and their like, or source_directions",
    )

    wavelength_A: Real = 1.0
    fluence: Real = DEFAULT_FLUENCE
    flux: Real = 0.0  # photons/s; with exposure and beamsize_mm replaces fluence when not zero
    exposure: Real = 1.0
    beamsize_mm: Real = 0.1
    polarization_factor: Real = 0.0  # Kahn factor; 1 = fully polarized
    polarization_axis: Vector | None = None  # None: by detector convention
    nopolar: bool = False
    dispersion_pct: Real = 0.0
    dispersion_steps: int = 1
    hdiv_range_mrad: Real = 0.0
    hdiv_steps: int = 1
    hdiv_step_mrad: Real | None = None  # None: range / (steps - 1)
    vdiv_range_mrad: Real = 0.0
    vdiv_steps: int = 1
    vdiv_step_mrad: Real | None = None
    round_div: bool = True  # trim the corners of the divergence grid
    source_directions: Any | None = None  # [S, 3] from the sample to each source, any length; replaces the grid
    source_wavelengths: Any | None = None  # [S] Angstrom
    source_weights: Any | None = None  # [S] relative intensities
    dmin: float | None = 0.0  # Angstrom; 0 or None: no limit
    water_size_um: Real = 0.0

    def __post_init__(self) -> None:
        require_kinds(self)
        require_finite(self)
        require_positive(self, "wavelength_A", "source_wavelengths")
        for name in ("wavelength_A", "source_wavelengths"):
            if any(x < SHORTEST_A for x in flat(getattr(self, name))):
                raise InputError(name, shown(getattr(self, name)), "Angstrom; these look like metres: times 1e10")
        require_at_least(
            self, 0, "flux", "exposure", "fluence", "dmin", "water_size_um", "source_weights", "beamsize_mm"
        )
        require_at_least(self, 1, "dispersion_steps", "hdiv_steps", "vdiv_steps")
        require_at_most(self, MOST_STEPS, "dispersion_steps", "hdiv_steps", "vdiv_steps")
        require_length(self, 3, "polarization_axis")
        require_nonzero(self, "polarization_axis")
        self._require_source_table()

    def _require_source_table(self) -> None:
        require_table(self, "source_directions", 3)
        require_table(self, "source_wavelengths", None)
        require_table(self, "source_weights", None)
        columns = {n: getattr(self, n) for n in ("source_directions", "source_wavelengths", "source_weights")}
        sizes = {n: len(v) for n, v in columns.items() if v is not None}
        directions = self.source_directions
        if len(set(sizes.values())) > 1:
            raise InputError(", ".join(sizes), tuple(sizes.values()), "one entry a source in each")
        if 0 in sizes.values():
            raise InputError(", ".join(sizes), 0, "at least one source")
        if self.source_weights is not None and not any(flat(self.source_weights)):
            raise InputError("source_weights", shown(self.source_weights), "numbers from 0 up, one above 0 at least")
        if directions is not None and not all(any(flat(row)) for row in directions):
            raise InputError("source_directions", shown(directions), "sources that are not at the sample (0 0 0)")


@dataclass(kw_only=True, repr=False)
class NoiseConfig(Checked):
    """Counting and reading: what response.Response records by, in brief; ADU are photons plus the offset."""

    seed: int | None = None  # None: another one for each image
    adc_offset: float = 40.0  # ADU
    readout_noise: float = 3.0  # ADU rms
    overload_value: float = 65535.0  # the highest value that is recorded
    generate_noise_image: bool = False
    intfile_scale: float = 1.0

    def __post_init__(self) -> None:
        require_kinds(self)
        require_finite(self)
        require_at_least(self, 0, "readout_noise", "seed")
        require_positive(self, "overload_value", "intfile_scale")
