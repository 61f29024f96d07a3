"""Named scenes: complete command lines that the package carries with their input files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class NamedScene:
    """A command line kept as package data, and what writes its input files into a folder."""

    arguments: str
    write_inputs: Callable[[Path, bool], None]
    pixel: tuple[int, int]  # slow, fast: the pixel that people trace

    def words(self) -> list[str]:
        """The words of the command line."""
        return _text(self.arguments).split()


@contextmanager
def scene_folder(name: str, *, text: bool = False) -> Iterator[tuple[list[str], Path]]:
    """The words of a named scene with absolute file names, and the folder that holds those files for the while.

    Structure factors lie there as a binary dump file, which is fast to read; with `text` as the text file too.
    Raises InputError for an unknown name.
    """
    with TemporaryDirectory(prefix="nb-scene-") as folder:
        yield scene_in(name, Path(folder), text=text), Path(folder)


def scene_in(name: str, folder: Path, *, text: bool = False) -> list[str]:
    """Write the input files of a named scene into a folder; the words of its command line, with absolute names."""
    scene = named_scene(name)
    folder.mkdir(parents=True, exist_ok=True)
    scene.write_inputs(folder, text)
    words = scene.words()
    for flag in ("-mat", "-hkl"):
        place = words.index(flag) + 1
        words[place] = str(folder.resolve() / words[place])
    if text:
        return words
    place = words.index("-hkl")
    return [*words[:place], "-dump", str(folder.resolve() / "Fdump.bin"), *words[place + 2 :]]


def named_scene(name: str) -> NamedScene:
    """The scene of a name. Raises InputError for an unknown one."""
    if name not in SCENES:
        raise InputError("--config", name, ", ".join(SCENES))
    return SCENES[name]


def supervisor_structure_factors() -> tuple[NDArray[np.float64], dict[str, int]]:
    """F(hkl) of the scene `supervisor`: 5 to 254.75 by a hash of the indices, and the limits of the table."""
    import numpy as np

    h, k, l = np.ogrid[-24:25, -28:29, -31:32]
    hashed = ((h * 73856093) ^ (k * 19349663) ^ (l * 83492791)) % 1000
    limits = {"h_min": -24, "h_max": 24, "k_min": -28, "k_max": 28, "l_min": -31, "l_max": 31}
    return 5 + hashed / 4, limits


def _write_supervisor(folder: Path, text: bool) -> None:
    from nanobrag_torch.io.dump import write_dump_file

    grid, limits = supervisor_structure_factors()
    (folder / "A.mat").write_text(_text("supervisor_A.mat"))
    write_dump_file(folder / "Fdump.bin", grid, limits)
    if text:
        _write_hkl(folder / "supervisor.hkl", grid, limits)


def _write_hkl(path: Path, grid: NDArray[np.float64], limits: dict[str, int]) -> None:
    import numpy as np

    indices = np.indices(grid.shape).reshape(3, -1).T + [limits["h_min"], limits["k_min"], limits["l_min"]]
    np.savetxt(path, np.column_stack((indices, grid.ravel())), fmt="%d %d %d %.2f")


def _text(name: str) -> str:
    return (files("nanobrag_torch") / "data" / name).read_text()


SCENES = {"supervisor": NamedScene("supervisor_args.txt", _write_supervisor, (685, 1039))}
"""Scenes by name. `supervisor`: a full detector, 10 phi steps through 0.1 degrees, a MOSFLM matrix."""
