"""A recipe: what the images of a data set are drawn from, read from TOML and validated key by key.

Each table of the file is a dataclass below; its fields are the keys, their defaults and what they accept. A field made
by `vary` takes a number or a distribution (draws.py), a list where it has several components. Everything else is as it
says. Paths are relative to the recipe.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from nanobrag_torch.datasets.draws import Draw, Fixed, Reals, read_draw
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import read_input
from nanobrag_torch.io.digest import content_digest
from nanobrag_torch.response.config import (
    CALIBRATION_SEED,
    COUNTERS,
    BeamStopConfig,
    CountRateConfig,
    ResponseConfig,
    SpreadConfig,
)

Draws = tuple[Draw, ...]
T = TypeVar("T")

FLAG = "recipe"
SHAPES = ("square", "round", "gauss", "tophat", "gauss_hkl", "gauss_star")
PIXEL_TYPES = ("uint16", "uint32", "int32")
MOST_LATTICES = 64


def vary(
    default: float | None, *, size: int = 1, low: float = -math.inf, high: float = math.inf, whole: bool = False
) -> Any:
    """A field of `size` numbers that may be drawn, from low to high; None: not there unless given."""
    value = None if default is None else (Fixed(default),) * size
    return field(default=value, metadata={"size": size, "low": low, "high": high, "whole": whole})


def plain(default: Any, *, accepted: tuple[Any, ...] = (), low: float = -math.inf, **more: Any) -> Any:
    """A field that is the same for all images: one of `accepted`, or of the default's type and from `low` up."""
    return field(default=default, metadata={"accepted": accepted, "low": low, **more})


@dataclass(frozen=True, kw_only=True)
class DatasetPart:
    """How many images, and how they are numbered and kept."""

    images: int = plain(100, low=1)
    seed: int = plain(1, low=0)
    shard_images: int = plain(250, low=1)


@dataclass(frozen=True, kw_only=True)
class CrystalPart:
    """One kind of crystal. Several [[crystal]] tables make a mixture."""

    name: str = ""
    cell: Draws | None = vary(None, size=6, low=1e-3)  # Angstrom, degrees
    cell_scale: Draws = vary(1.0, low=0.5, high=2.0)  # of all edges
    space_group: str = "P 1"
    amplitudes: str = plain("wilson", path="files")  # "wilson", "constant", or a file: MTZ, CIF, hkl, PDB
    column: str = ""
    dmin_A: float = plain(0.0, low=0.0)  # 0: what the detector reaches
    constant_F: float = plain(100.0, low=0.0)
    wilson_B_A2: float = plain(20.0)
    wilson_seed: int = plain(0, low=0)
    F_scale: Draws = vary(1.0, low=0.0)
    N_cells: Draws = vary(10.0, size=3, low=1.0)
    blocks: Draws = vary(1.0, low=0.0)  # mosaic blocks, whose photons add; a crystal has its volume over theirs
    shape: str = plain("gauss_star", accepted=SHAPES)
    mosaic_spread_deg: Draws = vary(0.0, low=0.0, high=30.0)
    mosaic_domains: int = plain(20, low=1)
    misset_deg: Draws | None = vary(None, size=3)  # without it every orientation is as likely
    probability: float = plain(1.0, low=0.0)  # that a lattice is of this kind, relative to the others


@dataclass(frozen=True, kw_only=True)
class LatticesPart:
    """How many lattices an image shows."""

    number: Draws = vary(1.0, low=0, high=MOST_LATTICES, whole=True)
    share: Draws = vary(1.0, low=0.0)  # of the photons, of each lattice beside the first
    split: Draws = vary(1.0, low=1, high=MOST_LATTICES, whole=True)  # pieces of a crystal, which share its photons
    split_angle_deg: Draws = vary(1.0, low=0.0, high=180.0)  # of a piece to the first


@dataclass(frozen=True, kw_only=True)
class DetectorPart:
    """The detector: a preset, a file, or one panel by its numbers."""

    preset: str = ""
    file: str = plain("", path="always")
    pixels: tuple[int, int] | None = plain(None, pair=int)  # fast, slow
    pixel_size_mm: float = plain(0.1, low=1e-6)
    distance_mm: Draws | None = vary(None, low=1e-3)
    beam_centre_px: Draws | None = vary(None, size=2)  # fast, slow; without it the middle
    thickness_um: float = plain(0.0, low=0.0)
    attenuation_um: float = plain(0.0, low=0.0)  # 0: the thickness
    shift_mm: Draws = vary(0.0, size=3)  # of the whole detector, in the lab frame
    tilt_deg: Draws = vary(0.0, size=3, low=-180.0, high=180.0)  # rotation vector about the sample


@dataclass(frozen=True, kw_only=True)
class BeamPart:
    """The beam, drawn for each image."""

    wavelength_A: Draws | None = vary(None, low=1e-3, high=100.0)  # without it that of the detector's file, else 1
    fluence: Draws = vary(1e28, low=0.0)  # photons / m^2 of an image
    bandwidth_pct: Draws = vary(0.0, low=0.0, high=50.0)  # full width at half maximum
    spectrum: str = plain("gauss", accepted=("gauss", "sase", "file"))  # file: that of detector.file
    lines: int = plain(1, low=1)  # wavelengths that a spectrum is sampled by
    polarization: float = plain(0.0, low=-1.0)  # Kahn factor, along the horizontal
    direction_mrad: Draws = vary(0.0, size=2, low=-500.0, high=500.0)  # about x and y


@dataclass(frozen=True, kw_only=True)
class ScanPart:
    """Rotation: images in a row are frames of one scan; crystal and detector are drawn once a scan."""

    frames: int = plain(0, low=0)  # of a scan; 0: stills
    start_deg: Draws = vary(0.0)
    width_deg: float = plain(0.1)
    phi_steps: int = plain(10, low=1)
    axis: tuple[float, float, float] = plain((1.0, 0.0, 0.0), triple=True)


@dataclass(frozen=True, kw_only=True)
class BackgroundPart:
    """What scatters besides the crystal: lengths of paths through it, and photons that come from anywhere."""

    constant: Draws = vary(0.0, low=0.0)  # photons a pixel
    water_mm: Draws = vary(0.0, low=0.0)
    air_mm: Draws = vary(0.0, low=0.0)
    ice_mm: Draws = vary(0.0, low=0.0)  # powder rings
    profile: str = plain("", path="always")  # a .stol file: sin(theta)/lambda and F of one more material
    profile_mm: Draws = vary(0.0, low=0.0)
    profile_density_g_cm3: float = plain(1.0, low=1e-12)
    profile_weight_g_mol: float = plain(18.015, low=1e-12)
    beam_size_mm: float = plain(0.05, low=1e-9)  # edge of the beam, which lights that much of the material


@dataclass(frozen=True, kw_only=True)
class ResponsePart:
    """What the detector makes of photons."""

    noise: bool = True  # count whole photons
    beamstop_mm: float = plain(0.0, low=0.0)  # diameter; 0: none
    beamstop_distance_mm: float = plain(20.0, low=1e-3)
    psf: str = plain("none", accepted=("none", "gauss", "fiber", "moffat"))
    psf_fwhm_um: float = plain(0.0, low=0.0)
    psf_beta: float = plain(2.5, low=1.0)
    flicker: float = plain(0.0, low=0.0)  # rms of the source, one deviate an image
    calibration: float = plain(0.0, low=0.0)  # rms of the sensitivity of pixels, the same in every image
    calibration_seed: int = plain(CALIBRATION_SEED, low=0)  # which detector
    dead_time_s: float = plain(0.0, low=0.0)
    frame_time_s: float = plain(1.0, low=1e-12)
    counter: str = plain("nonparalysable", accepted=COUNTERS)
    gain: float = plain(1.0, low=1e-12)  # ADU a photon
    readout_noise: float = plain(0.0, low=0.0)  # ADU
    pedestal: float = plain(0.0)  # ADU
    saturation: float = plain(0.0, low=0.0)  # ADU; 0: what the pixel's type holds
    masked_value: float = plain(0.0)  # ADU of pixels that are not there

    def config(
        self, pixel_type: str, mask: Any, pixel_size_um: tuple[float, float], preset: ResponseConfig | None = None
    ) -> ResponseConfig:
        """The response that these numbers describe, for an image whose mask [...] is True where a pixel records.

        preset: that of a detector by name, which holds where the recipe says nothing.
        """
        rate: dict[str, Any] = {"dead_time_s": self.dead_time_s, "frame_time_s": self.frame_time_s}
        stop: dict[str, Any] = {"diameter_mm": self.beamstop_mm, "distance_mm": self.beamstop_distance_mm}
        spread = None
        if self.psf != "none":
            spread = SpreadConfig(shape=self.psf, fwhm_um=self.psf_fwhm_um, beta=self.psf_beta)
        shared = ("flicker", "calibration", "calibration_seed", "gain", "readout_noise", "pedestal", "masked_value")
        defaults = {key.name: key.default for key in fields(self)}
        given = {name: getattr(self, name) for name in shared if getattr(self, name) != defaults[name]}
        if self.saturation:
            given |= {"saturation": self.saturation, "overload": None}
        return replace(
            preset or ResponseConfig(),
            beamstop=BeamStopConfig(**stop) if self.beamstop_mm else None,
            spread=spread,
            counting=self.noise,
            count_rate=CountRateConfig(counter=self.counter, **rate) if self.dead_time_s else None,
            dtype=pixel_type,
            mask=mask,
            pixel_size_um=pixel_size_um,
            **given,
        )


@dataclass(frozen=True, kw_only=True)
class LabelsPart:
    """What is said about each image."""

    spots: bool = True
    pixels: bool = False  # class and reflection of every pixel
    min_photons: float = plain(10.0, low=0.0)  # of a reflection on the whole detector


@dataclass(frozen=True, kw_only=True)
class OutputPart:
    """What is stored."""

    pixel_type: str = plain("uint16", accepted=PIXEL_TYPES)
    recorded: bool = True
    expected: bool = False


@dataclass(frozen=True, kw_only=True)
class TablePart:
    """Numbers that belong together: `{table = "column"}` takes them from one row."""

    file: str = plain("", path="always")
    order: str = plain("random", accepted=("random", "rows"))


@dataclass(frozen=True, kw_only=True)
class RenderPart:
    """How finely images are computed, and what may be left out."""

    oversample: int = plain(0, low=0)  # sub-pixels along an edge; 0: as the narrowest spot needs
    tolerance: float = plain(0.0, low=0)  # photons a pixel and lattice that may be left out; 0: 1e-10 of spots
    dtype: str = plain("float32", accepted=("float32", "float64"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All parts of a recipe."""

    dataset: DatasetPart = DatasetPart()
    crystal: tuple[CrystalPart, ...] = (CrystalPart(),)
    lattices: LatticesPart = LatticesPart()
    detector: DetectorPart = DetectorPart()
    beam: BeamPart = BeamPart()
    scan: ScanPart = ScanPart()
    background: BackgroundPart = BackgroundPart()
    response: ResponsePart = ResponsePart()
    labels: LabelsPart = LabelsPart()
    output: OutputPart = OutputPart()
    table: TablePart = TablePart()
    render: RenderPart = RenderPart()

    def __post_init__(self) -> None:
        _require_sense(self)

    @property
    def is_scan(self) -> bool:
        """Whether images are frames of rotation scans."""
        return self.scan.frames > 0

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.dataset.images // self.dataset.shard_images)

    def images_of(self, shard: int) -> range:
        """The images of a shard. Raises InputError for a shard that there is not."""
        if not 0 <= shard < self.shards:
            raise InputError("shard", shard, f"0 to {self.shards - 1}")
        first = shard * self.dataset.shard_images
        return range(first, min(first + self.dataset.shard_images, self.dataset.images))

    def tree(self) -> dict[str, Any]:
        """Every key with its value, defaults included, as plain data; paths are absolute."""
        found = {part.name: _tree(getattr(self, part.name)) for part in fields(self) if part.name != "crystal"}
        return {**found, "crystal": [_tree(crystal) for crystal in self.crystal]}

    def inputs(self) -> dict[str, str]:
        """SHA-256 of every file that the recipe names."""
        files = [c.amplitudes for c in self.crystal if c.amplitudes not in ("wilson", "constant")]
        files += [path for path in (self.detector.file, self.table.file, self.background.profile) if path]
        return {path: content_digest(path) for path in files}


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a TOML file. Raises InputError naming the key, its value and what is accepted."""
    content = read_input(path, FLAG, "a recipe (TOML); nb dataset --example prints one")
    try:
        tree = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{FLAG} {path}", str(error), "TOML") from error
    return recipe_of(tree, Path(path).resolve().parent)


def recipe_of(tree: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe of plain data as TOML has it; paths are relative to the folder."""
    kinds = {part.name: part for part in fields(Recipe)}
    _require_known(tree, kinds, "")
    table = _part(TablePart, tree.get("table", {}), "table", folder, {})
    columns = read_columns(table.file) if table.file else {}
    given: dict[str, Any] = {}
    for name, part in kinds.items():
        if name not in tree:
            continue
        if name == "crystal":
            listed = tree[name] if isinstance(tree[name], list) else [tree[name]]
            many = len(listed) > 1
            places = [f"crystal[{i}]" if many else "crystal" for i in range(len(listed))]
            parts = [_part(CrystalPart, one, place, folder, columns) for one, place in zip(listed, places, strict=True)]
            given[name] = tuple(parts)
        else:
            given[name] = _part(type(part.default), tree[name], name, folder, columns)
    return Recipe(**given)


def read_columns(path: str | Path) -> dict[str, Reals]:
    """The columns of numbers of a CSV (with a line of names) or Parquet file. Raises InputError."""
    import pyarrow
    from pyarrow import csv, parquet

    read_input(path, "table.file", "a table: CSV with a line of names, or Parquet")
    try:
        table = parquet.read_table(path) if str(path).endswith(".parquet") else csv.read_csv(path)
        found = {name: table.column(name).to_numpy().astype("f8") for name in table.column_names}
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError("table.file", f"{path} ({reason})", "columns of numbers: CSV or Parquet") from error
    if not found or not len(next(iter(found.values()))) or not all(map(_finite, found.values())):
        raise InputError("table.file", str(path), "at least one row of finite numbers")
    return found


def _finite(column: Reals) -> bool:
    return bool((abs(column) < math.inf).all())


def _require_known(tree: Any, known: Mapping[str, Any], where: str) -> None:
    if not isinstance(tree, Mapping):
        raise InputError(where, tree, "a table of keys")
    for key in tree:
        if key not in known:
            place = f"{where}.{key}" if where else key
            near = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"{near[0]} (nearest)" if near else "one of its keys"
            raise InputError(place, "a key that there is not", f"{hint}; all: {', '.join(known)}")


def _part(kind: type[T], tree: Any, where: str, folder: Path, columns: Mapping[str, Reals]) -> T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    _require_known(tree, known, where)
    return kind(**{key: _value(known[key], value, f"{where}.{key}", folder, columns) for key, value in tree.items()})


def _value(target: Field[Any], value: Any, name: str, folder: Path, columns: Mapping[str, Reals]) -> Any:
    options = target.metadata
    if "size" in options:
        return _draws(value, name, options, columns)
    if "pair" in options or "triple" in options:
        return _listed(value, name, 2 if "pair" in options else 3, "pair" in options)
    default = target.default
    kind: Any = type(default) if default is not None else object
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
        raise InputError(name, value, words[kind])
    accepted, low = options.get("accepted", ()), options.get("low", -math.inf)
    if accepted and value not in accepted:
        raise InputError(name, value, ", ".join(accepted))
    if kind in (int, float) and not (math.isfinite(value) and value >= low):
        raise InputError(name, value, "a finite number" if low == -math.inf else f"a number from {low:g} up")
    return _absolute(value, options, folder)


def _absolute(value: Any, options: Mapping[str, Any], folder: Path) -> Any:
    keeps = "path" not in options or not value or (options["path"] == "files" and value in ("wilson", "constant"))
    return value if keeps else str((folder / value).resolve())


def _listed(value: Any, name: str, count: int, whole: bool) -> tuple[Any, ...]:
    fits = isinstance(value, list) and len(value) == count
    if not fits or not all(isinstance(x, int if whole else int | float) and not isinstance(x, bool) for x in value):
        raise InputError(name, value, f"{count} {'whole ' if whole else ''}numbers in brackets")
    if whole and min(value) < 1:
        raise InputError(name, value, "numbers from 1 up")
    return tuple(value)


def _draws(value: Any, name: str, options: Mapping[str, Any], columns: Mapping[str, Reals]) -> Draws:
    """Distributions of every component; one that is given alone is drawn once and serves all."""
    size, whole = options["size"], options["whole"]
    if isinstance(value, list):
        if len(value) != size:
            raise InputError(name, value, f"{size} numbers or distributions in brackets")
        places = [f"{name}[{i}]" for i in range(size)]
        found = tuple(
            read_draw(part, place, whole=whole, columns=columns) for part, place in zip(value, places, strict=True)
        )
    else:
        found = (read_draw(value, name, whole=whole, columns=columns),)
        if size == 6 or (size > 1 and name.startswith(("detector", "beam"))):
            raise InputError(name, value, f"{size} numbers or distributions in brackets")
    for draw in found:
        low, high = draw.support()
        if low < options["low"] or high > options["high"]:
            limits = f"numbers from {options['low']:g} to {options['high']:g}"
            raise InputError(name, draw.tree(), f"{limits}; cut a normal distribution with within = [low, high]")
    return found


def _tree(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for target in fields(part):
        value = getattr(part, target.name)
        if isinstance(value, tuple) and value and "size" in target.metadata:
            value = [draw.tree() for draw in value]
            value = value[0] if len(value) == 1 else value
        found[target.name] = list(value) if isinstance(value, tuple) else value
    return found


def _require_sense(recipe: Recipe) -> None:
    """What each part says fits what the others say."""
    scan = recipe.scan
    if scan.frames and recipe.dataset.images % scan.frames:
        raise InputError("dataset.images", recipe.dataset.images, f"whole scans of {scan.frames} frames")
    _require_detector(recipe.detector)
    if not recipe.output.recorded and not recipe.output.expected:
        raise InputError("output.recorded, output.expected", (False, False), "one of them at least")
    if (recipe.response.psf == "none") != (recipe.response.psf_fwhm_um == 0):
        spread = (recipe.response.psf, recipe.response.psf_fwhm_um)
        raise InputError("response.psf, response.psf_fwhm_um", spread, "both, or neither")
    _require_spectrum(recipe)
    if (_largest(recipe.background.profile_mm) > 0) != bool(recipe.background.profile):
        raise InputError("background.profile", recipe.background.profile, "a .stol file with profile_mm, or neither")
    for crystal in recipe.crystal:
        _require_crystal(crystal)
    if sum(crystal.probability for crystal in recipe.crystal) <= 0:
        raise InputError("crystal.probability", 0, "one crystal at least with a probability above 0")


def _require_spectrum(recipe: Recipe) -> None:
    beam = recipe.beam
    if beam.spectrum == "file":
        if not recipe.detector.file:
            raise InputError("beam.spectrum", "file", "a detector.file (.expt, NXmx) whose beam has a spectrum")
        if beam.lines != 1 or _largest(beam.bandwidth_pct) > 0:
            raise InputError("beam.lines, beam.bandwidth_pct", "given", "nothing beside the spectrum of a file")
    elif beam.lines == 1 and _largest(beam.bandwidth_pct) > 0:
        raise InputError("beam.lines", 1, "2 wavelengths or more for a bandwidth")


def _require_detector(detector: DetectorPart) -> None:
    homes = [name for name in ("preset", "file", "pixels") if getattr(detector, name)]
    if len(homes) != 1:
        found = " and ".join(homes) or "none of them"
        raise InputError("detector.preset, detector.file, detector.pixels", found, "one of the three")
    if homes[0] != "pixels":
        for name in ("pixel_size_mm", "beam_centre_px", "thickness_um", "attenuation_um"):
            default = next(f.default for f in fields(detector) if f.name == name)
            if getattr(detector, name) != default:
                raise InputError(f"detector.{name}", "given", f"nothing beside detector.{homes[0]}, which says it")
    if homes[0] == "file" and detector.distance_mm is not None:
        raise InputError("detector.distance_mm", "given", "nothing beside detector.file; move it by detector.shift_mm")
    if homes[0] != "file" and detector.distance_mm is None:
        raise InputError("detector.distance_mm", None, "a distance or a distribution of it")


def _largest(draws: Draws) -> float:
    return max(draw.support()[1] for draw in draws)


def _require_crystal(crystal: CrystalPart) -> None:
    from_file = crystal.amplitudes not in ("wilson", "constant")
    if crystal.cell is None and not from_file:
        raise InputError("crystal.cell", None, "a b c (Angstrom) alpha beta gamma (degrees)")
    if crystal.column and not from_file:
        raise InputError("crystal.column", crystal.column, "nothing without a file of amplitudes")
    if crystal.cell is not None:
        angles = [draw.support() for draw in crystal.cell[3:]]
        if any(low <= 0 or high >= 180 for low, high in angles):
            raise InputError("crystal.cell", crystal.cell[3].tree(), "angles between 0 and 180 degrees")
