"""An experiment as files describe it: plain numbers and arrays, no tensors.

One laboratory frame everywhere, that of imgCIF and dxtbx: right-handed, the sample at the origin, z towards the source,
x along the (usual) rotation axis. Lengths in millimetres, cells in Angstrom, angles in degrees. Panel vectors are those
of the whole detector in that frame, whatever groups the panels belong to; `conventions.py` knows every other frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanobrag_torch.errors import InputError

Vector = NDArray[np.float64]


def vector(value: ArrayLike, name: str = "vector") -> Vector:
    """Three finite numbers as an array (3,)."""
    return _array(value, (3,), name)


def unit(value: ArrayLike, name: str = "axis") -> Vector:
    """A vector (3,) of length one. Raises InputError for a vector of no length."""
    given = vector(value, name)
    length = float(np.linalg.norm(given))
    if length == 0:
        raise InputError(name, given.tolist(), "a vector that has a length")
    return given if abs(length - 1) < 1e-15 else given / length


@dataclass(frozen=True, kw_only=True, eq=False)
class PanelData:
    """One flat panel. `origin_mm` is the outer corner of its first pixel; None is "not known", never a default."""

    origin_mm: Vector
    fast: Vector  # unit vectors
    slow: Vector
    pixel_size_mm: tuple[float, float]  # fast, slow
    image_size: tuple[int, int]  # fast, slow
    name: str = ""
    thickness_mm: float | None = None
    mu_per_mm: float | None = None  # linear attenuation of the sensor
    material: str | None = None
    trusted_range: tuple[float, float] | None = None  # lowest and highest value that is a measurement
    gain: float | None = None  # counts a photon
    pedestal: float | None = None
    parallax: bool = False  # DIALS corrects positions for the depth at which photons are absorbed
    mask: NDArray[np.bool_] | None = None  # (slow, fast), True = use the pixel
    untrusted: tuple[tuple[int, int, int, int], ...] = ()  # rectangles fast0, slow0, fast1, slow1; ends excluded
    raw_image_offset: tuple[int, int] = (0, 0)  # fast, slow: where the panel begins in the array of the image file

    def __post_init__(self) -> None:
        _set(self, "origin_mm", vector(self.origin_mm, "origin_mm"))
        _set(self, "fast", unit(self.fast, "fast"))
        _set(self, "slow", unit(self.slow, "slow"))
        if np.linalg.norm(np.cross(self.fast, self.slow)) < 1e-6:
            raise InputError("fast, slow", (self.fast.tolist(), self.slow.tolist()), "axes that are not parallel")
        if min(self.pixel_size_mm) <= 0 or min(self.image_size) < 1:
            raise InputError("pixel_size_mm, image_size", (self.pixel_size_mm, self.image_size), "numbers above 0")
        if self.mask is not None and self.mask.shape != self.shape:
            raise InputError("mask", self.mask.shape, f"shape {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """Slow and fast number of pixels."""
        return self.image_size[1], self.image_size[0]

    @property
    def normal(self) -> Vector:
        """Unit vector fast x slow."""
        return unit(np.cross(self.fast, self.slow))

    def positions_mm(self, fast: ArrayLike, slow: ArrayLike) -> Vector:
        """Lab position [..., 3] of points at fast and slow pixels, counted from the outer corner."""
        f, s = np.asarray(fast, np.float64)[..., None], np.asarray(slow, np.float64)[..., None]
        return self.origin_mm + f * self.pixel_size_mm[0] * self.fast + s * self.pixel_size_mm[1] * self.slow

    def good_pixels(self) -> NDArray[np.bool_]:
        """The mask and the untrusted rectangles together, (slow, fast); True = use the pixel."""
        good = np.ones(self.shape, np.bool_) if self.mask is None else self.mask.copy()
        for fast0, slow0, fast1, slow1 in self.untrusted:
            good[slow0:slow1, fast0:fast1] = False
        return good


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupData:
    """Panels, and groups of panels, that move together; the frame of the group is in the lab frame (mm)."""

    name: str = ""
    origin_mm: Vector = field(default_factory=lambda: np.zeros(3))
    fast: Vector = field(default_factory=lambda: np.array([1.0, 0.0, 0.0]))
    slow: Vector = field(default_factory=lambda: np.array([0.0, 1.0, 0.0]))
    children: tuple[GroupData | int, ...] = ()  # an integer is the index of a panel

    def __post_init__(self) -> None:
        _set(self, "origin_mm", vector(self.origin_mm, "origin_mm"))
        _set(self, "fast", unit(self.fast, "fast"))
        _set(self, "slow", unit(self.slow, "slow"))

    @property
    def axes(self) -> Vector:
        """Rows fast, slow, normal (3, 3)."""
        return np.stack((self.fast, self.slow, unit(np.cross(self.fast, self.slow))))

    def panel_indices(self) -> list[int]:
        """Every panel below this group, in order."""
        return [i for child in self.children for i in ([child] if isinstance(child, int) else child.panel_indices())]

    def groups(self) -> Iterator[GroupData]:
        """This group and all below it, from the top."""
        yield self
        for child in self.children:
            if isinstance(child, GroupData):
                yield from child.groups()


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectorData:
    """Panels, and the groups that they belong to (None: each on its own)."""

    panels: tuple[PanelData, ...]
    root: GroupData | None = None

    def __post_init__(self) -> None:
        if not self.panels:
            raise InputError("panels", (), "at least one panel")
        if self.root is not None and sorted(self.root.panel_indices()) != list(range(len(self.panels))):
            raise InputError("root", sorted(self.root.panel_indices()), f"each of the {len(self.panels)} panels once")

    @property
    def shape(self) -> tuple[int, ...]:
        """(slow, fast) of a single panel, (panel, slow, fast) of several, sized for the largest."""
        slow, fast = (max(sizes) for sizes in zip(*(panel.shape for panel in self.panels), strict=True))
        return (slow, fast) if len(self.panels) == 1 else (len(self.panels), slow, fast)

    @property
    def stacked_shape(self) -> tuple[int, int]:
        """(slow, fast) of one array in which the panels lie one below the other."""
        return sum(panel.shape[0] for panel in self.panels), max(panel.shape[1] for panel in self.panels)

    def stack(self, image: NDArray[Any]) -> NDArray[Any]:
        """One array (slow, fast) of an image [panel, slow, fast]; the place beside narrow panels holds zeros."""
        if image.shape != self.shape:
            raise InputError("image", image.shape, f"the shape of the detector, {self.shape}")
        if len(self.panels) == 1:
            return image
        stacked = np.zeros(self.stacked_shape, image.dtype)
        for panel, part, start in zip(self.panels, image, self.stack_starts(), strict=True):
            slow, fast = panel.shape
            stacked[start : start + slow, :fast] = part[:slow, :fast]
        return stacked

    def unstack(self, stacked: NDArray[Any], what: str = "image") -> NDArray[Any]:
        """An image [panel, slow, fast] of one array (slow, fast); each panel is where its raw_image_offset says.

        what: the name in the InputError for an array without place for a panel.
        """
        if len(self.panels) == 1 and stacked.shape == self.panels[0].shape:
            return stacked
        for panel in self.panels:
            (slow, fast), (left, top) = panel.shape, panel.raw_image_offset
            if min(top, left) < 0 or top + slow > stacked.shape[0] or left + fast > stacked.shape[1]:
                place = f"{fast} x {slow} pixels from {left}, {top}"
                raise InputError(what, stacked.shape, f"an array that holds panel {panel.name}: {place}")
        if len({panel.raw_image_offset for panel in self.panels}) < len(self.panels):
            raise InputError(what, stacked.shape, f"{len(self.panels)} panels: no place of its own is known of each")
        image = np.zeros((len(self.panels), *self.shape[-2:]), stacked.dtype)
        for panel, part in zip(self.panels, image, strict=True):
            (slow, fast), (left, top) = panel.shape, panel.raw_image_offset
            part[:slow, :fast] = stacked[top : top + slow, left : left + fast]
        return image.reshape(self.shape)

    def stack_starts(self) -> list[int]:
        """First slow row of each panel in the stacked array."""
        return [int(x) for x in np.cumsum([0, *(panel.shape[0] for panel in self.panels)])[:-1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamData:
    """The beam. `direction` is from the sample to the source, as in dxtbx.

    `polarization_fraction` is the share of the intensity whose electric field lies perpendicular to
    `polarization_normal`; the Kahn factor is twice that less one.
    """

    direction: Vector = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))
    wavelength_A: float
    wavelength_range_A: tuple[float, float] | None = None  # of a Laue beam
    frame_wavelengths_A: Vector | None = None  # [frames] where each image has its own
    polarization_fraction: float | None = None
    polarization_normal: Vector | None = None
    spectrum_energies_eV: Vector | None = None
    spectrum_weights: Vector | None = None
    divergence_deg: float | None = None
    sigma_divergence_deg: float | None = None
    flux: float | None = None  # photons a second
    transmission: float | None = None
    source_distance_mm: float | None = None
    probe: str = "x-ray"  # or electron, neutron: kept for conversions, not rendered
    s0_at_scan_points: Vector | None = None  # [n, 3] along the beam, 1/Angstrom, where it varies through the scan

    def __post_init__(self) -> None:
        _set(self, "direction", unit(self.direction, "direction"))
        if not (np.isfinite(self.wavelength_A) and self.wavelength_A > 0):
            raise InputError("wavelength_A", self.wavelength_A, "a number above 0")
        if self.polarization_normal is not None:
            _set(self, "polarization_normal", unit(self.polarization_normal, "polarization_normal"))
        for name in ("spectrum_energies_eV", "spectrum_weights", "frame_wavelengths_A"):
            if getattr(self, name) is not None:
                _set(self, name, np.atleast_1d(np.asarray(getattr(self, name), np.float64)))
        sizes = [None if x is None else x.shape for x in (self.spectrum_energies_eV, self.spectrum_weights)]
        if sizes[0] != sizes[1]:
            raise InputError("spectrum_energies_eV, spectrum_weights", sizes, "a weight for every energy")
        if self.s0_at_scan_points is not None:
            points = np.asarray(self.s0_at_scan_points, np.float64)
            _set(self, "s0_at_scan_points", _array(points, (len(points), 3), "s0_at_scan_points"))

    def of_frame(self, index: int) -> BeamData:
        """The beam of one image, counted from 0: that of a beam that varies is the mean over the image."""
        if self.s0_at_scan_points is None:
            return self
        last = len(self.s0_at_scan_points) - 1
        s0 = (self.s0_at_scan_points[min(index, last)] + self.s0_at_scan_points[min(index + 1, last)]) / 2
        return replace(self, direction=-s0, wavelength_A=1 / float(np.linalg.norm(s0)), s0_at_scan_points=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class GoniometerData:
    """The goniometer: a crystal vector r is at S R(angle) F r, with R a right-handed turn about `rotation_axis`.

    F is `fixed_rotation`, S is `setting_rotation`. Where the file names several axes they are kept, in the order from
    the crystal to the base; `from_axes` makes F and S of them.
    """

    rotation_axis: Vector
    fixed_rotation: Vector = field(default_factory=lambda: np.eye(3))
    setting_rotation: Vector = field(default_factory=lambda: np.eye(3))
    axes: Vector | None = None  # [n, 3]
    angles_deg: Vector | None = None  # [n]
    names: tuple[str, ...] = ()
    scan_axis: int = 0
    setting_at_scan_points: Vector | None = None  # [n, 3, 3]

    def __post_init__(self) -> None:
        _set(self, "rotation_axis", unit(self.rotation_axis, "rotation_axis"))
        for name in ("fixed_rotation", "setting_rotation"):
            matrix = _array(getattr(self, name), (3, 3), name)
            if np.abs(matrix @ matrix.T - np.eye(3)).max() > 1e-6 or np.linalg.det(matrix) < 0:
                raise InputError(name, matrix.round(6).tolist(), "a rotation")
            _set(self, name, matrix)

    @classmethod
    def from_axes(
        cls, axes: ArrayLike, angles_deg: ArrayLike, names: tuple[str, ...], scan_axis: int, **more: Any
    ) -> GoniometerData:
        """A goniometer of several axes, from the crystal to the base, of which `scan_axis` turns during the scan."""
        vectors = np.stack([unit(axis, "axes") for axis in np.atleast_2d(np.asarray(axes, np.float64))])
        angles = np.atleast_1d(np.asarray(angles_deg, np.float64))
        if not (len(vectors) == len(angles) == len(names) and 0 <= scan_axis < len(vectors)):
            found = (len(vectors), len(angles), len(names), scan_axis)
            raise InputError("axes, angles, names, scan_axis", found, "an angle and a name an axis")
        turns = [rotation_matrix(axis, angle) for axis, angle in zip(vectors, angles, strict=True)]
        fixed, setting = _product(turns[:scan_axis]), _product(turns[scan_axis + 1 :])
        more = {"fixed_rotation": fixed, "setting_rotation": setting, **more}
        return cls(
            rotation_axis=vectors[scan_axis], axes=vectors, angles_deg=angles, names=names, scan_axis=scan_axis, **more
        )

    def rotation(self, angle_deg: float) -> Vector:
        """S R(angle) F, (3, 3)."""
        return np.asarray(
            self.setting_rotation @ rotation_matrix(self.rotation_axis, angle_deg) @ self.fixed_rotation, np.float64
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanData:
    """A rotation scan: images first to last, the angle where the first begins, degrees an image."""

    image_range: tuple[int, int]
    oscillation_start_deg: float
    oscillation_width_deg: float
    exposure_times_s: Vector | None = None  # [frames]
    epochs: Vector | None = None  # [frames] seconds since 1970
    batch_offset: int = 0
    starts_deg: Vector | None = None  # [frames] where images do not follow one another
    time_of_flight: Vector | None = None  # [frames] of a spallation source: kept for conversions, not rendered
    other_properties: tuple[str, ...] = ()  # what else the file says of each image, which is not kept

    def __post_init__(self) -> None:
        if self.image_range[1] < self.image_range[0]:
            raise InputError("image_range", self.image_range, "first <= last")
        for name in ("exposure_times_s", "epochs", "starts_deg", "time_of_flight"):
            given = getattr(self, name)
            if given is not None:
                _set(self, name, _array(given, (self.frames,), name))

    @property
    def frames(self) -> int:
        """Number of images."""
        return self.image_range[1] - self.image_range[0] + 1

    def start_deg(self, index: int) -> float:
        """The angle where image `index`, counted from 0, begins."""
        if self.starts_deg is not None:
            return float(self.starts_deg[index])
        return self.oscillation_start_deg + index * self.oscillation_width_deg

    @property
    def end_deg(self) -> float:
        """The angle where the last image ends."""
        return self.start_deg(self.frames - 1) + self.oscillation_width_deg


@dataclass(frozen=True, kw_only=True, eq=False)
class CrystalData:
    """The crystal at zero angle of the goniometer: rows of `real_space` are a, b, c in Angstrom."""

    real_space: Vector
    space_group_hall: str | None = None
    mosaicity_deg: float | None = None
    half_mosaicity_deg: float | None = None
    domain_size_A: float | None = None
    A_at_scan_points: Vector | None = None  # [n, 3, 3] columns a*, b*, c* in 1/Angstrom
    uncertainties: dict[str, Any] | None = None  # of the refined cell, as DIALS writes them

    def __post_init__(self) -> None:
        matrix = _array(self.real_space, (3, 3), "real_space")
        if np.linalg.det(matrix) == 0:
            raise InputError("real_space", matrix.tolist(), "three vectors that span a volume")
        _set(self, "real_space", matrix)
        if self.A_at_scan_points is not None:
            points = np.asarray(self.A_at_scan_points, np.float64)
            _set(self, "A_at_scan_points", _array(points, (len(points), 3, 3), "A_at_scan_points"))

    @classmethod
    def from_reciprocal(cls, stars: ArrayLike, **more: Any) -> CrystalData:
        """The crystal of a matrix whose columns are a*, b*, c* (1/Angstrom)."""
        matrix = _array(stars, (3, 3), "A matrix")
        if np.linalg.det(matrix) == 0:
            raise InputError("A matrix", matrix.tolist(), "three vectors that span a volume")
        return cls(real_space=np.asarray(np.linalg.inv(matrix), np.float64), **more)

    @property
    def A(self) -> Vector:
        """The matrix whose columns are a*, b*, c* (1/Angstrom)."""
        return np.asarray(np.linalg.inv(self.real_space), np.float64)

    @property
    def cell(self) -> tuple[float, ...]:
        """a, b, c (Angstrom), alpha, beta, gamma (degrees)."""
        lengths = np.linalg.norm(self.real_space, axis=1)
        second, third = self.real_space[[1, 2, 0]], self.real_space[[2, 0, 1]]
        sine = np.linalg.norm(np.cross(second, third), axis=1)
        angles = np.degrees(np.arctan2(sine, (second * third).sum(axis=1)))
        return tuple(float(x) for x in (*lengths, *angles))


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentData:
    """What a file says about an experiment; None is a part that it does not hold."""

    beam: BeamData | None = None
    detector: DetectorData | None = None
    goniometer: GoniometerData | None = None
    scan: ScanData | None = None
    crystal: CrystalData | None = None
    identifier: str = ""
    image_template: str | None = None
    images: tuple[str, ...] = ()  # files, where no template names them
    image_numbers: tuple[int, ...] = ()  # which image of its file each is, from 0
    source: str | None = None  # the facility, or that it is a simulation
    not_kept: tuple[str, ...] = ()  # what the file says beside all this

    def need(self, *parts: str, where: str) -> None:
        """Raise InputError naming the first of the parts that is missing for `where`."""
        for part in parts:
            if getattr(self, part) is None:
                raise InputError(part, None, f"an experiment with a {part}, which {where} needs")


def rotation_matrix(axis: ArrayLike, angle_deg: float) -> Vector:
    """Right-handed rotation (3, 3) about an axis."""
    x, y, z = unit(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.radians(angle_deg)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross), np.float64)


def _product(turns: list[Vector]) -> Vector:
    """The later turns applied after the earlier ones."""
    result = np.eye(3)
    for turn in turns:
        result = turn @ result
    return result


def _array(value: ArrayLike, shape: tuple[int, ...], name: str) -> Vector:
    array = np.array(value, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(name, np.asarray(value).tolist(), f"finite numbers of shape {shape}")
    return array


def _set(target: object, name: str, value: object) -> None:
    object.__setattr__(target, name, value)


def part_of_scan(data: ExperimentData, first: int, count: int) -> ExperimentData:
    """The experiment of `count` frames from frame `first`, counted from 0, on; all that varies with them included."""
    if data.scan is None:
        return data
    scan, crystal, goniometer, points = data.scan, data.crystal, data.goniometer, slice(first, first + count + 1)
    start = scan.image_range[0] + first
    each: dict[str, Any] = {
        name: None if (values := getattr(scan, name)) is None else values[first : first + count]
        for name in ("exposure_times_s", "epochs", "starts_deg", "time_of_flight")
    }
    image_range = (start, start + count - 1)
    shorter = replace(scan, image_range=image_range, oscillation_start_deg=scan.start_deg(first), **each)
    if crystal is not None and crystal.A_at_scan_points is not None:
        crystal = replace(crystal, A_at_scan_points=crystal.A_at_scan_points[points])
    if goniometer is not None and goniometer.setting_at_scan_points is not None:
        goniometer = replace(goniometer, setting_at_scan_points=goniometer.setting_at_scan_points[points])
    beam = data.beam
    if beam is not None and beam.s0_at_scan_points is not None:
        beam = replace(beam, s0_at_scan_points=beam.s0_at_scan_points[points])
    files = {
        name: values[first : first + count] if len(values := getattr(data, name)) == scan.frames else values
        for name in ("images", "image_numbers")
    }
    return replace(data, beam=beam, scan=shorter, crystal=crystal, goniometer=goniometer, **files)
