"""SMV, PGM and raw images: byte for byte the reference headers, and other programs' readers as witnesses."""

import math
from dataclasses import replace
from pathlib import Path

import fabio
import numpy as np
import pytest
from PIL import Image

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.floatimage import read_float_image, write_float_image
from nanobrag_torch.io.pgm import pgm_header, read_pgm, write_pgm_bytes
from nanobrag_torch.io.smv import HeaderText, SmvHeader, format_header, read_smv_header, read_smv_image, write_smv_image

DATA = Path(__file__).parents[1] / "data"
CASES = sorted((DATA / "reference").glob("*.npz"), key=lambda path: path.stem)
HEADER = SmvHeader(
    fpixels=5, spixels=3, pixel_size=1e-4, distance=0.1, close_distance=0.1, wavelength=1e-10, xbeam=0.01, ybeam=0.02,
    fbeam=0.02005, sbeam=0.01005, detsize_s=3e-4, dials_origin_mm=(-1.5, 2.25, -100.0), orgx=12.5, orgy=7.5,
)  # fmt: skip
COUNTS = np.arange(15, dtype=np.uint16).reshape(3, 5) * 4000


def described(text: str) -> SmvHeader:
    """The description that a reference header states, read by splitting at = and ; alone."""
    entries = dict(line.rstrip(";").split("=") for line in text.splitlines() if "=" in line)
    x, y, z = map(float, entries["DIALS_ORIGIN"].split(","))
    lengths = ("PIXEL_SIZE", "DISTANCE", "CLOSE_DISTANCE", "BEAM_CENTER_X", "BEAM_CENTER_Y", "ADXV_CENTER_Y")
    mm = {key: float(entries[key]) / 1000 for key in (*lengths, "DENZO_X_BEAM", "DENZO_Y_BEAM")}
    return SmvHeader(
        fpixels=int(entries["SIZE1"]), spixels=int(entries["SIZE2"]), pixel_size=mm["PIXEL_SIZE"],
        distance=mm["DISTANCE"], close_distance=mm["CLOSE_DISTANCE"], wavelength=float(entries["WAVELENGTH"]) / 1e10,
        xbeam=mm["BEAM_CENTER_X"], ybeam=mm["BEAM_CENTER_Y"], fbeam=mm["DENZO_Y_BEAM"], sbeam=mm["DENZO_X_BEAM"],
        detsize_s=mm["ADXV_CENTER_Y"] + mm["DENZO_X_BEAM"], dials_origin_mm=(x, y, z), orgx=float(entries["XDS_ORGX"]),
        orgy=float(entries["XDS_ORGY"]), phi_deg=float(entries["PHI"]), osc_deg=float(entries["OSC_RANGE"]),
        twotheta_deg=float(entries["TWOTHETA"]),
    )  # fmt: skip


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_headers_are_the_c_programs_byte_for_byte(path):
    with np.load(path) as case:
        text = str(case["int_header"])
        assert format_header(described(text)) == text
        if "pgm_header" in case:
            slow, fast = HeaderText(text).dimensions()
            scale = float(case["pgm_scale"][0])
            assert pgm_header(fast, slow, scale) == str(case["pgm_header"])


def test_a_long_header_grows_and_says_so(tmp_path):
    long = replace(
        HEADER, dials_origin_mm=(-123.456, -123.456, -123.456), phi_deg=-12.3456, orgx=-1234.56, orgy=1.23456e-15,
        osc_deg=0.123456, twotheta_deg=-12.3456, fbeam=-0.1234567, sbeam=-0.1234567, xbeam=-0.0123456,
    )  # fmt: skip
    assert len(format_header(HEADER)) <= 512 < len(format_header(long))
    write_smv_image(tmp_path / "long.img", COUNTS, long)
    header, counts = read_smv_image(tmp_path / "long.img")
    assert header.entry("HEADER_BYTES") == "1024" and (tmp_path / "long.img").stat().st_size == 1024 + COUNTS.nbytes
    np.testing.assert_array_equal(counts, COUNTS)
    np.testing.assert_array_equal(fabio.open(tmp_path / "long.img").data, COUNTS)


def test_fabio_reads_what_we_write(tmp_path):
    write_smv_image(tmp_path / "a.img", COUNTS, HEADER)
    seen = fabio.open(tmp_path / "a.img")
    np.testing.assert_array_equal(seen.data, COUNTS)
    assert float(seen.header["BEAM_CENTER_X"]) == 10 and seen.header["BEAMLINE"] == "fake"


def test_we_read_what_fabio_writes(tmp_path):
    fabio.adscimage.AdscImage(data=COUNTS, header={"PIXEL_SIZE": "0.1"}).write(tmp_path / "f.img")
    header, counts = read_smv_image(tmp_path / "f.img")
    np.testing.assert_array_equal(counts, COUNTS)
    assert header.exact_real("PIXEL_SIZE") == 0.1


@pytest.mark.parametrize("name", ["adsc_80x48", "mask64", "nb_xds_64"])
def test_reference_inputs_read_as_fabio_reads_them(name):
    header, counts = read_smv_image(DATA / "inputs" / f"{name}.img")
    np.testing.assert_array_equal(counts, fabio.open(DATA / "inputs" / f"{name}.img").data)
    assert read_smv_header(DATA / "inputs" / f"{name}.img") == header


def test_byte_order_is_honoured(tmp_path):
    text = format_header(HEADER).replace("little_endian", "big_endian").ljust(512)
    (tmp_path / "big.img").write_bytes(text.encode() + COUNTS.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_smv_image(tmp_path / "big.img")[1], COUNTS)


def test_the_c_lookup_finds_substrings_and_the_exact_one_does_not():
    header = HeaderText("{\nDISTANCE=100;\nCLOSE_DISTANCE=88;\nXDS_ORGX= 12.5abc;\nPHI=1;\nPHI = 2 ;\nODD\n}")
    assert header.real("DISTANCE") == 88 and header.exact_real("DISTANCE") == 100
    assert header.real("ORGX") == 12.5 and math.isnan(header.exact_real("ORGX"))
    assert header.real("PHI") == 2 and header.exact_real("PHI") == 2 and header.entry("PHI") == "2"
    assert math.isnan(header.real("WAVELENGTH")) and header.real("ODD") == 0


def test_dimensions_fall_back_to_detector_dimensions():
    assert HeaderText("SIZE1=0;\nSIZE2=3;\nDETECTOR_DIMENSIONS=2048;\n").dimensions() == (2048, 2048)
    assert HeaderText("SIZE1=5;\nSIZE2=3;\n").dimensions() == (3, 5)


def spoiled(old: str, new: str) -> bytes:
    return format_header(HEADER).replace(old, new).ljust(512).encode() + COUNTS.tobytes()


WRONG = {
    "short": format_header(HEADER).encode(),
    "text": b"not an image\n".ljust(1000),
    "cut": spoiled("", "")[:-2],
    "sizes": spoiled("SIZE1=5", "SIZE1=0"),
    "type": spoiled("unsigned_short", "float"),
    "order": spoiled("little_endian", "middle_endian"),
    "header": spoiled("HEADER_BYTES=512", "HEADER_BYTES=4096"),
}


@pytest.mark.parametrize("name", WRONG)
def test_malformed_images_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(WRONG[name])
    with pytest.raises(InputError, match=f"-mask: got .*{name}"):
        read_smv_image(tmp_path / name, flag="-mask")


def test_counts_must_fit_the_header(tmp_path):
    with pytest.raises(InputError, match="counts"):
        write_smv_image(tmp_path / "x.img", COUNTS.T, HEADER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", CASES[::9], ids=lambda path: path.stem)
def test_whole_files_equal_the_c_programs(tmp_path, path):
    with np.load(path) as case:
        header = str(case["int_header"])
        shape = HeaderText(header).dimensions()
        write_smv_image(tmp_path / "i.img", case["int"].reshape(shape), described(header))
        write_float_image(tmp_path / "f.bin", case["float"].reshape(shape))
        write_pgm_bytes(tmp_path / "p.pgm", case["pgm"].reshape(shape), float(case["pgm_scale"][0]))
        assert (tmp_path / "i.img").read_bytes() == header.encode().ljust(512) + case["int"].tobytes()
        assert (tmp_path / "f.bin").read_bytes() == case["float"].tobytes()
        assert (tmp_path / "p.pgm").read_bytes() == str(case["pgm_header"]).encode() + case["pgm"].tobytes()


def test_pgm_is_read_by_pillow_and_by_us(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    write_pgm_bytes(tmp_path / "p.pgm", grey, 0.25)
    with Image.open(tmp_path / "p.pgm") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grey)
    pixels, scale = read_pgm(tmp_path / "p.pgm")
    np.testing.assert_array_equal(pixels, grey)
    assert scale == 0.25
    Image.fromarray(grey).save(tmp_path / "pillow.pgm")
    pixels, scale = read_pgm(tmp_path / "pillow.pgm")
    np.testing.assert_array_equal(pixels, grey)
    assert scale is None


def test_pgm_files_that_are_not_are_refused(tmp_path):
    for name, content in {"p2": b"P2\n1 1\n255\n0\n", "cut": b"P5\n2 2\n255\nabc", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"-pgmfile: got .*{name}"):
            read_pgm(tmp_path / name)


def test_float_image_of_another_size_is_refused(tmp_path):
    image = np.random.default_rng(2).random((4, 6), np.float32)
    write_float_image(tmp_path / "f.bin", image)
    np.testing.assert_array_equal(read_float_image(tmp_path / "f.bin", (4, 6)), image)
    with pytest.raises(InputError, match=r"f.bin \(96 bytes\)"):
        read_float_image(tmp_path / "f.bin", (5, 6))
