"""SMV images: a text header in blocks of 512 bytes, then 16-bit or 32-bit pixels (sections 2 and 10.3)."""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import Target, open_output, read_input
from nanobrag_torch.io.ctext import c_atof, format_g
from nanobrag_torch.records.images import as_array, as_counts

FLAG = "-img"
ACCEPTED = "an SMV image: a header that starts with {, newline, HEADER_BYTES="
BLOCK = 512

_BYTE_ORDERS = {"little_endian": "<", "big_endian": ">"}
PIXEL_TYPES = {
    "unsigned_short": "u2",
    "unsigned_short_int": "u2",
    "unsigned_long": "u4",
    "unsigned_long_int": "u4",
    "unsigned_int": "u4",
    "signed_long": "i4",
    "long_int": "i4",
    "long_integer": "i4",
    "signed_long_int": "i4",
    "signed_int": "i4",
    "signed_short": "i2",
    "short_int": "i2",
    "float": "f4",
}
"""What headers call the type of a pixel (TYPE, or Data_type with blanks for _) -> numpy's name of it."""


@dataclass(frozen=True, kw_only=True)
class SmvHeader:
    """What the C program writes in a header: lengths in metres, angles in degrees, as they are after the geometry.

    fbeam, sbeam, distance, close_distance are those of the placed detector (section 5.3); xbeam, ybeam what was asked.
    """

    fpixels: int
    spixels: int
    pixel_size: float
    distance: float
    close_distance: float
    wavelength: float
    xbeam: float
    ybeam: float
    fbeam: float
    sbeam: float
    detsize_s: float
    dials_origin_mm: tuple[float, float, float]
    orgx: float  # pixels
    orgy: float
    phi_deg: float = 0.0
    osc_deg: float = 0.0
    twotheta_deg: float = 0.0


def format_header(header: SmvHeader) -> str:
    """The header text up to its form feed, byte for byte as section 10.3 has it; HEADER_BYTES grows when it must."""
    size = BLOCK
    while len(text := _header_text(header, size)) > size:
        size += BLOCK
    return text


def write_smv_image(target: Target, counts: NDArray[Any], header: SmvHeader | str, *, flag: str = "-intfile") -> None:
    """Write counts (slow, fast) under a header, in the byte order of this machine and the TYPE that the header states.

    Raises InputError if the file cannot be written or the header's size is not that of the counts.
    """
    text = header if isinstance(header, str) else format_header(header)
    stated = _stated(text)
    if (stated.real("SIZE2"), stated.real("SIZE1")) != counts.shape:
        raise InputError("counts", counts.shape, "the size that the header states")
    with open_output(target, flag) as file:
        file.write(text.encode("latin-1").ljust(int(stated.real("HEADER_BYTES"))))
        file.write(np.ascontiguousarray(counts, PIXEL_TYPES[stated.pixel_type()]).data.cast("B"))


@lru_cache(maxsize=8)
def _stated(text: str) -> HeaderText:
    """What a header states; those of many images of one detector are the same."""
    return HeaderText(text)


@dataclass(frozen=True)
class HeaderText:
    """The text of a header, and two ways to look a key up in it."""

    text: str

    def real(self, key: str) -> float:
        """A number as the C program finds it: key as the last substring anywhere, the next =, atof.

        NaN without the key, 0 without a =. DISTANCE therefore finds a later CLOSE_DISTANCE. Section 2.
        """
        place = self.text.rfind(key)
        if place < 0:
            return math.nan
        _, equals, value = self.text[place:].partition("=")
        return c_atof(value) if equals else 0.0

    def entry(self, key: str) -> str | None:
        """The value of the last entry of exactly this key, or None."""
        return self.entries.get(key)

    @cached_property
    def entries(self) -> dict[str, str]:
        """Every entry, key to value: what stands before the first = of a line and after it, up to a semicolon."""
        parts = (line.partition("=") for line in self.text.split("\n"))
        named = ((name.strip(" \t"), value) for name, equals, value in parts if equals and ";" not in name)
        return {name: value.partition(";")[0].strip() for name, value in named if name}

    def exact_real(self, key: str) -> float:
        """The number of the entry of exactly this key; NaN if there is none."""
        value = self.entry(key)
        return math.nan if value is None else c_atof(value)

    def pixel_type(self) -> str:
        """TYPE, or Data_type of d*TREK where TYPE is no pixel's, with _ for blanks; unsigned_short without either."""
        stated = [word.replace(" ", "_") for key in ("TYPE", "Data_type") if (word := self.entry(key))]
        return next((word for word in stated if word in PIXEL_TYPES), (stated or ["unsigned_short"])[0])

    def dimensions(self) -> tuple[int, int]:
        """Slow and fast number of pixels: SIZE2 and SIZE1, or DETECTOR_DIMENSIONS for both if SIZE1 is absent or 0."""
        fast, slow = self.real("SIZE1"), self.real("SIZE2")
        if not fast > 0:
            fast = slow = self.real("DETECTOR_DIMENSIONS")
        return _whole(slow), _whole(fast)


def read_smv_header(path: str | os.PathLike[str], *, flag: str = FLAG) -> HeaderText:
    """The header of an SMV file. Raises InputError for a file that cannot be read or is not SMV."""
    return _split(read_input(path, flag, ACCEPTED), path, flag)[0]


def read_smv_image(path: str | os.PathLike[str], *, flag: str = FLAG) -> tuple[HeaderText, NDArray[Any]]:
    """Header and pixels (slow, fast) of an SMV image, whichever TYPE of PIXEL_TYPES and BYTE_ORDER it states.

    Raises InputError for a file that cannot be read, is not SMV, holds another type of pixel or is cut short.
    """
    header, body = _split(read_input(path, flag, ACCEPTED), path, flag)
    slow, fast = header.dimensions()
    if slow < 1 or fast < 1:
        raise InputError(flag, f"{path}: SIZE1={fast}, SIZE2={slow}", "sizes from 1 up")
    kind = PIXEL_TYPES.get(header.pixel_type())
    if kind is None:
        raise InputError(flag, f"{path}: TYPE={header.pixel_type()}", ", ".join(PIXEL_TYPES))
    size = np.dtype(kind).itemsize * slow * fast
    if len(body) < size:
        raise InputError(flag, f"{path} ({len(body)} bytes of pixels)", f"{size} for {slow} x {fast} pixels")
    words = np.frombuffer(body, _byte_order(header, path, flag) + kind, slow * fast)
    return header, words.astype(kind).reshape(slow, fast)


def is_smv(start: bytes) -> bool:
    """Whether a file that begins so is an SMV image."""
    return re.match(rb"\{\r?\n[ \t]*HEADER_BYT", start) is not None


def read_smv(path: str | os.PathLike[str]) -> tuple[NDArray[Any], dict[str, str]]:
    """Pixels (slow, fast) of an SMV image and the entries of its header. Raises InputError as read_smv_image does."""
    header, pixels = read_smv_image(path)
    return pixels, header.entries


def parse_smv_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The entries of an SMV header, as text; of a key that comes twice the last."""
    return read_smv_header(path).entries


def write_smv(
    filepath: Target,
    image_data: Any,
    pixel_size_mm: float,
    distance_mm: float,
    wavelength_angstrom: float,
    beam_center_x_mm: float,
    beam_center_y_mm: float,
    close_distance_mm: float | None = None,
    phi_deg: float | None = None,
    osc_start_deg: float | None = None,
    osc_range_deg: float | None = None,
    twotheta_deg: float = 0.0,
    detector_sn: str = "000",
    beamline: str = "fake",
    convention: str = "MOSFLM",
    byte_order: str = "little_endian",
    data_type: str = "unsigned_short",
    scale: float = 1.0,
    adc_offset: float = 40.0,
) -> None:
    """Write an image (slow, fast), array or tensor, as value * scale + adc_offset, rounded and cut to the type.

    data_type: unsigned_short, signed_short, unsigned_int, signed_int or float. The header has what is given; entries
    of None are left out. Raises InputError for other shapes and types, and if the file cannot be written.
    """
    image = as_array(image_data)
    if image.ndim != 2:
        raise InputError("image_data", image.shape, "an image (slow, fast)")
    if data_type not in PIXEL_TYPES or byte_order not in _BYTE_ORDERS:
        accepted = f"{', '.join(PIXEL_TYPES)}; {', '.join(_BYTE_ORDERS)}"
        raise InputError("data_type, byte_order", (data_type, byte_order), accepted)
    entries = {
        "DIM": 2, "BYTE_ORDER": byte_order, "TYPE": data_type, "SIZE1": image.shape[1], "SIZE2": image.shape[0],
        "PIXEL_SIZE": pixel_size_mm, "DISTANCE": distance_mm, "WAVELENGTH": wavelength_angstrom,
        "BEAM_CENTER_X": beam_center_x_mm, "BEAM_CENTER_Y": beam_center_y_mm, "CLOSE_DISTANCE": close_distance_mm,
        "PHI": phi_deg, "OSC_START": osc_start_deg, "OSC_RANGE": osc_range_deg, "TWOTHETA": twotheta_deg,
        "DETECTOR_SN": detector_sn, "BEAMLINE": beamline, "CONVENTION": convention,
    }  # fmt: skip
    lines = [f"{key}={value};" for key, value in {"HEADER_BYTES": BLOCK, **entries}.items() if value is not None]
    text = "{\n" + "\n".join(lines) + "\n}\f"
    kind, values = PIXEL_TYPES[data_type], image * float(scale) + adc_offset
    pixels = values if kind.startswith("f") else as_counts(values, kind, allow_loss=True)
    with open_output(filepath, "image") as file:
        file.write(text.encode("latin-1").ljust(BLOCK))
        file.write(pixels.astype(_BYTE_ORDERS[byte_order] + kind).tobytes())


def _split(content: bytes, path: str | os.PathLike[str], flag: str) -> tuple[HeaderText, bytes]:
    if not is_smv(content) or len(content) < BLOCK:
        raise InputError(flag, str(path), f"{ACCEPTED}, {BLOCK} bytes at least")
    size = HeaderText(content[:BLOCK].decode("latin-1")).real("HEADER_BYTES")
    if not BLOCK <= size <= len(content):
        raise InputError(flag, f"{path}: HEADER_BYTES={size:g}", f"a number from {BLOCK} to the length of the file")
    text = content[: int(size)].split(b"\0")[0].decode("latin-1").replace("\r\n", "\n")
    return HeaderText(text), content[int(size) :]


def _byte_order(header: HeaderText, path: str | os.PathLike[str], flag: str) -> str:
    stated = header.entry("BYTE_ORDER") or "little_endian"
    if stated not in _BYTE_ORDERS:
        raise InputError(flag, f"{path}: BYTE_ORDER={stated}", " or ".join(_BYTE_ORDERS))
    return _BYTE_ORDERS[stated]


def _whole(value: float) -> int:
    return int(value) if math.isfinite(value) else 0


def _header_text(header: SmvHeader, header_bytes: int) -> str:
    """The text with a stated HEADER_BYTES. DIALS_ORIGIN has no semicolon, as in the C program."""
    lines = [
        f"HEADER_BYTES={header_bytes};",
        "DIM=2;",
        f"BYTE_ORDER={sys.byteorder}_endian;",
        "TYPE=unsigned_short;",
        f"SIZE1={header.fpixels};",
        f"SIZE2={header.spixels};",
        *(f"{key}={format_g(value)};" for key, value in _beam_entries(header)),
        "DIALS_ORIGIN=" + ",".join(map(format_g, header.dials_origin_mm)),
        *(f"{key}={format_g(value)};" for key, value in _scan_entries(header)),
        "DETECTOR_SN=000;",
        "BEAMLINE=fake;",
    ]
    return "{\n" + "\n".join(lines) + "\n}\f"


def _beam_entries(header: SmvHeader) -> list[tuple[str, float]]:
    half = 0.5 * header.pixel_size
    return [
        ("PIXEL_SIZE", header.pixel_size * 1000.0),
        ("DISTANCE", header.distance * 1000.0),
        ("WAVELENGTH", header.wavelength * 1e10),
        ("BEAM_CENTER_X", header.xbeam * 1000.0),
        ("BEAM_CENTER_Y", header.ybeam * 1000.0),
        ("ADXV_CENTER_X", header.fbeam * 1000.0),
        ("ADXV_CENTER_Y", (header.detsize_s - header.sbeam) * 1000.0),
        ("MOSFLM_CENTER_X", (header.sbeam - half) * 1000.0),
        ("MOSFLM_CENTER_Y", (header.fbeam - half) * 1000.0),
        ("DENZO_X_BEAM", header.sbeam * 1000.0),
        ("DENZO_Y_BEAM", header.fbeam * 1000.0),
    ]


def _scan_entries(header: SmvHeader) -> list[tuple[str, float]]:
    return [
        ("XDS_ORGX", header.orgx),
        ("XDS_ORGY", header.orgy),
        ("CLOSE_DISTANCE", header.close_distance * 1000.0),
        ("PHI", header.phi_deg),
        ("OSC_START", header.phi_deg),
        ("OSC_RANGE", header.osc_deg),
        ("TWOTHETA", header.twotheta_deg),
    ]
