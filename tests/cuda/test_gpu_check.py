"""What a GPU will be asked to run is run here, as far as a CPU can: the scenes, the jobs, the parts and their file."""

from __future__ import annotations

import json

import pytest
import torch
from benchmarks import gpu_check, gpu_page, gpu_parts
from benchmarks.cuda_scenes import cases
from cuda_cases import DEVICE

from nanobrag_torch.kernels.backends import BACKENDS
from nanobrag_torch.kernels.cuda import jit, plan


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(gpu_parts, "GPU", DEVICE)


@pytest.mark.parametrize("name", ["f-1000-table", "R"])
def test_every_job_of_a_small_scene_runs(here, name):
    case = cases(DEVICE, tiny=True)[name]()
    image = gpu_parts.jobs_of(case)["value"]()
    assert case.steps >= image.numel() * case.scene.lattice.shape[0]
    values, gradients = gpu_parts.jobs_of(case)["gradients"]()
    assert float((values - image).abs().max() / image.max()) < 2e-6  # another compilation: another rounding on a GPU
    assert set(gradients) == set(gpu_parts.REFINED)
    assert gpu_parts.jobs_of(case)["slopes"]().shape == (gpu_parts.DIRECTIONS, image.numel())


def test_the_large_scenes_are_as_large_as_they_say():
    made = cases(torch.device("cpu"))
    assert made["R"]().steps == 4148 * 4362 * 10 * 30 * 4
    assert made["e"]().pixels.numel() == 50_000


def test_a_setting_is_taken_back():
    before = jit.GROUP, jit.LANES, dict(jit.LAUNCH), dict(jit.REGISTERS), plan.BLOCKS
    with gpu_parts.setting({"GROUP": 16, "num_warps": 2, "maxnreg": 128, "block": 4}):
        assert (jit.GROUP, jit.LANES, jit.LAUNCH["num_warps"], plan.BLOCKS) == (16, 64, 2, (4,))
        assert jit.REGISTERS[jit.SLOPES.value] == 128
    assert before == (jit.GROUP, jit.LANES, jit.LAUNCH, jit.REGISTERS, plan.BLOCKS)


def test_a_part_that_breaks_is_told_and_the_next_one_runs(monkeypatch, tmp_path, capsys):
    def broken(limits):
        raise RuntimeError("no GPU here")

    monkeypatch.setitem(gpu_check.PARTS, "device", broken)
    monkeypatch.setitem(gpu_check.PARTS, "scenes", lambda limits: {"left": limits.left() > 0})
    monkeypatch.setattr("sys.argv", ["gpu_check", "device", "scenes", "--out", str(tmp_path), "--seconds", "30"])
    assert gpu_check.main() == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "no GPU here" in found["device"]["failed"]
    assert found["scenes"] == {"left": True}
    monkeypatch.setattr("sys.argv", ["gpu_check", "scenes", "--out", str(tmp_path), "--seconds", "1"])
    gpu_check.main()
    assert "left_out" in json.loads((tmp_path / "gpu.json").read_text())["scenes"]


def test_the_page_is_written_from_what_was_measured():
    assert gpu_page.PAGE.read_text() == gpu_page.page()


def test_the_gpu_has_what_the_cpu_has():
    cpu, cuda = (BACKENDS[device] for device in ("cpu", "cuda"))
    for name in ("value", "gradients", "tangents"):
        assert getattr(cpu, name) is not None
        assert getattr(cuda, name) is not None
