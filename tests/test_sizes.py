"""What would take all memory, for ever or the files of others is refused in a line before it is taken."""

from __future__ import annotations

import bz2
import gzip
import os
import tracemalloc

import h5py
import numpy as np
import pytest

from nanobrag_torch.cli.nanobragg import main as nanobragg
from nanobrag_torch.cli.nb.app import main as nb
from nanobrag_torch.errors import InputError
from nanobrag_torch.io import atomic
from nanobrag_torch.io.digest import content_digest, file_digest
from nanobrag_torch.io.images import read_image
from nanobrag_torch.io.nxmx_write import write_nxmx
from nanobrag_torch.memory import require_memory
from test_damaged_files import one_line
from unit.test_image_files import noise, plain

CRYSTAL = "-default_F 10 -cell 78 78 38 90 90 90 -lambda 1 -distance 100 -N 3"


@pytest.mark.parametrize(
    "words",
    [
        "-detpixels 60000",
        "-detpixels 16 -mosaic 1 -mosaic_dom 2000000000",
        "-detpixels 16 -phisteps 2000000000 -osc 1",
        "-detpixels 16 -oversample 2000000",
        "-detpixels 16 -hdivrange 1 -hdivsteps 2000000000",
        "-detpixels 16 -cell 1e8 1e8 1e8 90 90 90",
        "-detpixels 16 -hkl wide.hkl",
        "-detpixels 16 -hkl pipe",
        "-detpixels 16 -hkl /dev/zero",
        "-img pipe",
    ],
)
def test_sizes_that_no_machine_has_are_refused_by_name(words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.hkl").write_text("0 0 0 1\n7000 7000 7000 1\n")
    os.mkfifo(tmp_path / "pipe")
    assert nanobragg([*CRYSTAL.split(), *words.split(), "-floatfile", "a.bin"]) == 2
    named = "-cell" if "-cell" in words else "-phisteps" if "-osc" in words else words.split()[-2]
    assert named.split("s")[0] in one_line(capfd.readouterr().err)
    assert not (tmp_path / "a.bin").exists()


def test_so_many_cells_that_no_time_is_enough_for_their_spots(tmp_path, monkeypatch, capfd):
    """Sub-pixels that the program chooses itself are counted like those that it is told."""
    monkeypatch.chdir(tmp_path)
    assert nanobragg([*CRYSTAL.split()[:-1], "2000000000", "-detpixels", "16", "-floatfile", "a.bin"]) == 2
    said = one_line(capfd.readouterr().err)
    assert "-oversample" in said and "468000000, three across a spot of 2e+09 cells" in said
    assert not (tmp_path / "a.bin").exists()


def test_memory_is_asked_for_before_it_is_taken():
    require_memory("field", 3, 1e6)
    with pytest.raises(InputError, match=r"field: got 3; accepted: .* it needs 1e\+06 GB, [0-9.]+ GB are free"):
        require_memory("field", 3, 1e15)


def test_a_frame_is_read_of_a_series_that_no_memory_holds(tmp_path, capfd):
    """Its size is that of a file with a hole; a list of amplitudes of that size, which is read whole, is refused."""
    series = tmp_path / "series.nxs"
    write_nxmx(series, noise((3, 12, 20)), plain())
    whole = read_image(series, 0).pixels
    os.truncate(series, 2**42)
    assert np.array_equal(read_image(series, 0).pixels, whole)
    assert nb(["show", str(series)]) == 0
    capfd.readouterr()
    amplitudes = tmp_path / "wide.hkl"
    amplitudes.write_text("1 1 1 1\n")
    os.truncate(amplitudes, 2**42)
    assert nb(["show", str(amplitudes)]) == 2
    assert "it needs" in one_line(capfd.readouterr().err)


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(atomic, "LARGEST_UNPACKED", 10**6)
    bomb = tmp_path / "bomb.hkl"
    bomb.write_bytes(gzip.compress(b"1 1 1 1\n" * 10**6))
    assert nb(["show", str(bomb)]) == 2
    assert "unpacks to" in one_line(capfd.readouterr().err)


def test_a_bomb_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    """A thousandfold is no text and no image; what many files hold alike is not refused for it."""
    monkeypatch.setattr(atomic, "UNASKED_UNPACKED", 2**23)
    for name, pack in (("bomb.gz", gzip.compress), ("bomb.bz2", bz2.compress)):
        bomb = tmp_path / name
        bomb.write_bytes(pack(bytes(2**26)))
        tracemalloc.start()
        with pytest.raises(InputError, match=f"{name}.*bytes that unpack to more than"):
            atomic.read_input(bomb, "input", "anything")
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()
        text = b"".join(b"%d %d 3 %f\n" % (i, -i, i**0.5) for i in range(600_000))
        assert len(text) > 2**23
        bomb.write_bytes(pack(text))
        assert atomic.read_input(bomb, "input", "anything") == text


@pytest.mark.parametrize("chunks", [(1, 1000, 1000), (1, 60000, 10000)])
def test_frames_that_no_reader_can_hold_say_what_they_need(chunks, tmp_path, capfd):
    """A file of some kilobytes may say that it has frames of any size."""
    path = tmp_path / "x.nxs"
    write_nxmx(path, noise((3, 12, 20)), plain())
    with h5py.File(path, "r+") as file:
        del file["entry/data/data"]
        file["entry/data"].create_dataset("data", (1000, 60000, 60000), "u4", chunks=chunks, compression="gzip")
    assert nb(["show", str(path)]) == 2
    said = one_line(capfd.readouterr().err)
    assert "1536 MB" in said and "13.4 GiB" in said and "60000" in said


def test_only_ordinary_files_are_read(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        assert nb(["show", str(path)]) == 2
        assert "no device and no pipe" in one_line(capfd.readouterr().err)


@pytest.fixture
def master(tmp_path):
    """A master file whose frames are replaced by what a test puts there, and a file of frames elsewhere."""
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "master.h5"
    write_nxmx(path, noise((3, 12, 20)), plain())
    for place in (tmp_path / "elsewhere.h5", tmp_path / "set" / "near.h5"):
        with h5py.File(place, "w") as file:
            file["data"] = noise((3, 12, 20))

    def put(**what):
        with h5py.File(path, "r+") as file:
            del file["entry/data/data"]
            file["entry/data"].attrs.pop("signal", None)
            for name, value in what.items():
                if name == "raw":
                    file["entry/data"].create_dataset("data_000001", (3, 12, 20), "u2", external=value)
                elif name == "virtual":
                    layout = h5py.VirtualLayout((3, 12, 20), "u2")
                    layout[...] = h5py.VirtualSource(value, "data", (3, 12, 20))
                    file["entry/data"].create_virtual_dataset("data_000001", layout)
                elif name == "pattern":  # any number of files, which h5py's own layouts cannot say
                    frames = (h5py.h5s.UNLIMITED, 12, 20)
                    virtual, source = h5py.h5s.create_simple((3, 12, 20), frames), h5py.h5s.create_simple((3, 12, 20))
                    virtual.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (3, 1, 1), (3, 12, 20))
                    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                    made.set_virtual(virtual, value.encode(), b"data", source)
                    shape = h5py.h5s.create_simple((3, 12, 20), frames)
                    h5py.h5d.create(file["entry/data"].id, b"data_000001", h5py.h5t.NATIVE_UINT16, shape, made)
                else:
                    file["entry/data/data_000001"] = h5py.ExternalLink(value, "data")
        return path

    return put


def test_frames_are_read_from_the_folder_of_their_master(master):
    assert np.array_equal(read_image(master(link="near.h5"), 1).pixels, noise((3, 12, 20))[1])


@pytest.mark.parametrize("what", [{"link": "near.h5"}, {"virtual": "near.h5"}, {"pattern": "ne%b.h5"}])
def test_what_a_master_holds_is_what_its_files_hold(master, tmp_path, what):
    path, near = master(**what), tmp_path / "set" / ("ne0.h5" if "%" in str(what) else "near.h5")
    near.write_bytes((tmp_path / "elsewhere.h5").read_bytes())
    before, state, content = content_digest(path), near.stat(), near.read_bytes()
    assert before == content_digest(path) != file_digest(path)
    near.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(near, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert content_digest(path) != before
    near.write_bytes(content)
    assert content_digest(path) == before
    near.unlink()
    assert content_digest(path) != before


@pytest.mark.parametrize(
    "what",
    [
        {"link": "../elsewhere.h5"},
        {"link": "/etc/hosts"},
        {"virtual": "../elsewhere.h5"},
        {"raw": [("/etc/passwd", 0, 1440)]},
        {"raw": [("near.h5", 0, 1440)]},
    ],
)
def test_frames_from_elsewhere_are_refused(master, what):
    with pytest.raises(InputError, match="data in the file itself, or in files of its folder"):
        read_image(master(**what), 1)


def test_a_file_that_is_linked_links_no_further(master, tmp_path):
    with h5py.File(tmp_path / "set" / "near.h5", "r+") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink("/etc/hosts", "x")
    with pytest.raises(InputError, match=r"near\.h5"):
        read_image(master(link="near.h5"), 1)
