"""The C library itself is the witness: every text must read as atof, atoi and printf read and write it."""

import ctypes
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanobrag_torch.io.ctext import c_atof, c_atoi, format_g

LIBC = ctypes.CDLL(None)
LIBC.atof.restype = ctypes.c_double
LIBC.atof.argtypes = [ctypes.c_char_p]

WORDS = [
    "", "abc", "1e3", "  -2.5abc", ".5", "-.e", "1e", "1e+", "12e-3x", "0x1p4", "0x", "0x.8", "0xg", "inf", "-INFINITY",
    "infinit", "+", "1.5.3", "\v3", "\n\t 7", "1e999", "0x1p5000", "-0x1p5000", "-0", "1_0", "2.9", "3000000000",
    "-3000000000", "9" * 30, "-" + "9" * 5000, "0" * 40 + "5", "--3", "- 3",
]  # fmt: skip


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


@pytest.mark.parametrize("text", WORDS)
def test_words_read_as_the_c_library_reads_them(text):
    assert same(c_atof(text), LIBC.atof(text.encode()))
    assert c_atoi(text) == LIBC.atoi(text.encode())


@given(st.text(alphabet="0123456789+-.eExXpPinfaINFA \t\n", max_size=14))
def test_any_text_reads_as_the_c_library_reads_it(text):
    assert same(c_atof(text), LIBC.atof(text.encode()))
    assert c_atoi(text) == LIBC.atoi(text.encode())


def test_nan_is_read():
    assert math.isnan(c_atof(" nan)")) and math.isnan(c_atof("-NaN"))


@given(st.floats(allow_nan=False))
def test_g_format_is_that_of_printf(value):
    buffer = ctypes.create_string_buffer(64)
    LIBC.snprintf(buffer, ctypes.c_size_t(64), b"%g", ctypes.c_double(value))
    assert format_g(value) == buffer.value.decode()
