"""What the tests of the two modes share: runs of the command, and the formulae of sections 3 to 10 of the behaviour
page, written out anew in numpy.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nanobrag_torch.cli.nanobragg import main
from nanobrag_torch.io.smv import read_smv_image

DATA = Path(__file__).parent / "data"
CASES = dict(line.split("\t", 1) for line in (DATA / "cases.tsv").read_text().splitlines() if line.strip())
ALWAYS = "-seed 1 -dtype float64 -kernel reference -noprogress"
BOX = "-cell 60 75 90 90 90 90"
FLAT = f"{BOX} -default_F 50 -N 1"  # one cell and no table: every direction scatters F^2 omega P
SPOTS = f"{BOX} -default_F 50 -N 5"
SMALL = "-detpixels 16 -pixel 0.4 -distance 100 -lambda 1 -oversample 1"
MODES = ("corrected", "c")
ABS, THICK = 0.0025, 0.0045  # um: as 250 and 450 um, but every layer sees the same directions
STORED = 1e-6  # of the maximum: against the C program's float32 images
SAME = 2e-7  # relative: images are written as float32


@dataclass(frozen=True)
class Ran:
    """What one command left behind."""

    code: int
    printed: str
    complaint: str
    image: np.ndarray | None  # [slow, fast]
    counts: dict[str, np.ndarray]
    folder: Path

    @property
    def corrections(self) -> list[str]:
        return re.findall(r"^correction (D\d+) changed the image", self.printed, re.MULTILINE)

    def numbers(self, before: str) -> list[float]:
        """The numbers that follow some text in a printed line."""
        line = re.search(rf"{re.escape(before)}(.*)", self.printed)
        assert line is not None, before
        return [float(x) for x in re.findall(r"[-+]?\d[-+.e\d]*", line[1])]

    def header(self, key: str) -> float:
        return read_smv_image(self.folder / "intimage.img")[0].exact_real(key)


Command = Callable[..., Ran]


def commands(tmp_path: Path) -> Iterator[Command]:
    """A fixture's body: run nanoBragg, each time in a folder of its own that links to the input files.

    One thread: images of a few pixels gain nothing from more, and lose much on a busy machine.
    """
    home, threads, number = Path.cwd(), torch.get_num_threads(), 0
    torch.set_num_threads(1)

    def run(line: str, mode: str = "corrected") -> Ran:
        nonlocal number
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        for source in (*(DATA / "inputs").iterdir(), *(p for p in tmp_path.iterdir() if p.is_file())):
            (folder / source.name).symlink_to(source)
        os.chdir(folder)
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main(f"{ALWAYS} -compat {mode} {line}".split())
        counts = {p.name: read_smv_image(p)[1] for p in folder.glob("*.img") if not p.is_symlink()}
        image = None
        if code == 0:
            image = np.fromfile("floatimage.bin", "<f4").reshape(counts["intimage.img"].shape).astype(float)
        return Ran(code, out.getvalue(), err.getvalue(), image, counts, folder)

    yield run
    os.chdir(home)
    torch.set_num_threads(threads)


def stored(name: str) -> np.ndarray:
    """The float image of the C program."""
    with np.load(DATA / "reference" / f"{name}.npz") as reference:
        return reference["float"].astype(float)


def assert_stored(ran: Ran, name: str) -> None:
    expected = stored(name)
    assert np.abs(ran.image.ravel() - expected).max() <= STORED * expected.max()


def assert_same(got: np.ndarray, expected: np.ndarray, relative: float = SAME) -> None:
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max()


@dataclass(frozen=True)
class Plane:
    """A detector of the MOSFLM convention that is not turned: where its sub-pixels are (sections 5.1 and 5.4); mm."""

    slow: int
    fast: int
    pixel: float
    distance: float
    oversample: int = 1
    centre: tuple[float, float] | None = None  # Xbeam, Ybeam

    def positions(self) -> np.ndarray:
        """[slow, fast, sub-pixel, 3]; sub-pixels with the slow one outermost."""
        Xbeam, Ybeam = self.centre or ((self.slow + 1) / 2 * self.pixel, (self.fast + 1) / 2 * self.pixel)
        n, step = self.oversample, self.pixel / self.oversample
        s, f, i, j = np.meshgrid(*map(np.arange, (self.slow, self.fast, n, n)), indexing="ij")
        along_slow, along_fast = (s * n + i + 0.5) * step, (f * n + j + 0.5) * step
        slow, fast = along_slow - Xbeam - self.pixel / 2, along_fast - Ybeam - self.pixel / 2
        return np.stack((np.full_like(slow, self.distance), -slow, fast), -1).reshape(self.slow, self.fast, n * n, 3)

    def directions(self) -> np.ndarray:
        return self.positions() / np.linalg.norm(self.positions(), axis=-1, keepdims=True)

    def omega(self) -> np.ndarray:
        return self.pixel**2 * self.distance / np.linalg.norm(self.positions(), axis=-1) ** 3

    def polar(self) -> np.ndarray:
        """For a Kahn factor of 0."""
        return (1 + self.directions()[..., 0] ** 2) / 2

    def hkl(self, rows: np.ndarray, wavelength: float) -> np.ndarray:
        """Reflection indices [slow, fast, sub-pixel, 3]; rows a, b, c in Angstrom."""
        return (self.directions() - [1, 0, 0]) / wavelength @ rows.T


def turn(x: float, y: float, z: float) -> np.ndarray:
    """Rz Ry Rx, degrees."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians([x, y, z])), np.sin(np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


def rodrigues(vector: np.ndarray, axis: np.ndarray, degrees: float) -> np.ndarray:
    """With the axis as long as it is given, as the C program has it (section 0)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return axis * (axis @ vector) * (1 - c) + vector * c + np.cross(axis, vector) * s


def grating(hkl: np.ndarray, cells: tuple[int, int, int]) -> np.ndarray:
    """Product of sin(pi N h) / sin(pi h) as the sum over cells that it is; real up to a sign."""
    waves = [np.exp(2j * np.pi * hkl[..., i, None] * np.arange(n)).sum(-1) for i, n in enumerate(cells)]
    return np.abs(waves[0] * waves[1] * waves[2])


def subpixel_images(fine: np.ndarray, n: int) -> np.ndarray:
    """[n * n, slow, fast] from an image with n times as many pixels along each edge, slow sub-pixel outermost."""
    slow, fast = fine.shape[0] // n, fine.shape[1] // n
    return fine.reshape(slow, n, fast, n).transpose(1, 3, 0, 2).reshape(n * n, slow, fast)
