"""An output appears whole or not at all; what cannot be read or written is one line that names it."""

import os
import stat
from pathlib import Path

import pytest

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputSet, open_output, read_input


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_only_when_the_block_ends(tmp_path):
    target = tmp_path / "image.bin"
    with open_output(target, "-floatfile") as file:
        file.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc" and names(tmp_path) == ["image.bin"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "image.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), open_output(target) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old" and names(tmp_path) == ["image.bin"]


def test_a_set_of_outputs_appears_together_or_not_at_all(tmp_path):
    with OutputSet() as outputs:
        outputs.open(tmp_path / "a", "-floatfile").write(b"1")
        outputs.open(tmp_path / "b", "-intfile").write(b"2")
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"12"
    with pytest.raises(InputError, match="-noisefile"), OutputSet() as outputs:
        outputs.open(tmp_path / "c", "-floatfile").write(b"3")
        outputs.open(tmp_path / "no" / "d", "-noisefile")
    assert names(tmp_path) == ["a", "b"]


def test_an_open_file_is_passed_on(tmp_path):
    with OutputSet() as outputs:
        file = outputs.open(tmp_path / "a", "-floatfile")
        with open_output(file) as same:
            assert same is file
        assert not file.closed
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["", ".", "missing/x.bin"])
def test_a_name_that_cannot_be_written_is_refused_before_work_starts(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught, OutputSet() as outputs:
        outputs.open(name, "-pgmfile")
    message = str(caught.value)
    assert message.startswith("-pgmfile: got") and repr(name) in message and "\n" not in message
    assert names(tmp_path) == []


def test_a_full_disk_names_the_flag():
    full = "/dev/full"
    with pytest.raises(InputError, match="-floatfile: got ./dev/full.*space"), open_output(full, "-floatfile") as file:
        file.write(bytes(100_000))


def test_a_device_is_written_not_replaced():
    with open_output(os.devnull) as file:
        file.write(b"gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    real = tmp_path / "real"
    real.write_bytes(b"old")
    real.chmod(0o640)
    (tmp_path / "link").symlink_to(real)
    with open_output(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    with open_output(tmp_path / "ours") as file:
        file.write(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_unreadable_input_names_flag_path_and_reason(tmp_path):
    (tmp_path / "empty").touch()
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, "directory"), (tmp_path / "empty", "empty")):
        with pytest.raises(InputError, match=reason) as caught:
            read_input(path, "-hkl", "a readable file")
        assert str(caught.value).startswith(f"-hkl: got {str(path)!r}")
