"""What comes on top of the kernel, many times over: `make bench ARGS="frames [--before FOLDER]"`.

* `nb simulate`: 200 frames of 64 x 64 at N = 5, and 8 of 1000 x 1000 at N = 10, of a table of 81527 unique amplitudes,
  written as CBF; the second beside the kernel alone, in turns with it, on one thread.
* `nanoBragg -batch`: 1000 images of 64 x 64 in one process, beside a process for each.
* `render_batch`: 64 scenes of 16 x 16 pixels and one lattice, whose cost is that of the call: images, gradients, and
  slopes along three directions by `torch.func`, on one thread.

--before: the sources of an earlier state, measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.__main__ import _machine, _slug
from benchmarks.page import RESULTS, write_page

CELL = (58.11, 66.13, 81.28, 92.0, 94.0, 91.0)
SMALL, LARGE = (64, 200), (1000, 8)
"""Pixels along an edge, and frames."""
LINES, ALONE = 1000, 3
REPEATS = 3
SCENES, CALLS = 64, 20
"""Of a batch, and how often it is rendered."""
IMAGE = "-cell 78 78 38 90 90 90 -default_F 100 -N 5 -lambda 1 -distance 100 -detpixels 64"


def measure_frames(folder: Path) -> dict[str, Any]:
    """Milliseconds a frame of both series, and the ratio of the large one to its kernel."""
    from nanobrag_torch.cli.nb.app import main as nb

    os.chdir(folder)
    _quiet(nb, ["wilson", "--cell", *map(str, CELL), "--spacegroup", "P1", "--dmin", "2", "-o", "model.mtz"])
    for edge, frames in (SMALL, LARGE):
        _write_experiment(f"{edge}.expt", edge, frames)
        _simulate(nb, edge, 2)  # compiled, and read once
    small = [_simulate(nb, SMALL[0], SMALL[1]) for _ in range(REPEATS)]
    pairs = [(_simulate(nb, LARGE[0], LARGE[1]), _kernel_alone()) for _ in range(REPEATS)]
    return {
        "small_ms": 1000 * min(small),
        "large_ms": 1000 * min(whole for whole, _ in pairs),
        "kernel_ms": 1000 * min(alone for _, alone in pairs),
        "large_over_kernel": statistics.median(whole / alone for whole, alone in pairs),
    }


def measure_batch(folder: Path) -> dict[str, Any]:
    """Milliseconds a line of a batch, start of the program included, and seconds of a process for one."""
    names = "-floatfile f{0}.bin -intfile i{0}.img -pgmfile p{0}.pgm -noisefile n{0}.img"
    (folder / "runs.txt").write_text("".join(f"-misset {i} 0 0 {names.format(i)}\n" for i in range(LINES)))
    command = [sys.executable, "-c", "import sys; from nanobrag_torch.cli.nanobragg import main; sys.exit(main())"]
    line = [*IMAGE.split(), "-noprogress"]
    seconds = [_timed([*command, *line], folder) for _ in range(1 + ALONE)][1:]
    found: dict[str, Any] = {"process_s": statistics.median(seconds)}
    if _has_batch():
        found["batch_ms"] = 1000 * _timed([*command, "-batch", "runs.txt", *line], folder) / LINES
    return found


def measure_scenes() -> dict[str, Any]:
    """Milliseconds a scene of a batch."""
    import torch

    from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, render_batch
    from nanobrag_torch.models.crystal import Crystal
    from nanobrag_torch.models.detector import Detector

    crystal = Crystal(CrystalConfig(cell_a=78.0, cell_c=38.0, N_cells=(10, 10, 10), default_F=100.0, interpolate=False))
    shape: dict[str, Any] = {"distance_mm": 100.0, "pixel_size_mm": 3.2, "spixels": 16, "fpixels": 16, "oversample": 1}
    simulator = Simulator(crystal, Detector(DetectorConfig(**shape)), beam_config=BeamConfig(), threads=1)
    turns = 360 * torch.rand(SCENES, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ways = torch.eye(3, dtype=torch.float64)[:, None].expand(3, SCENES, 3)

    def images(misset: torch.Tensor) -> torch.Tensor:
        return render_batch(simulator, {"misset_deg": misset})

    def gradients() -> object:
        leaf = turns.clone().requires_grad_()
        return torch.autograd.grad(images(leaf).sum(), leaf)

    def slopes() -> object:
        return torch.func.vmap(lambda way: torch.func.jvp(images, (turns,), (way,))[1])(ways)

    works = {"scenes_ms": lambda: images(turns), "gradients_ms": gradients, "slopes_ms": slopes}
    threads, found = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for name, work in works.items():
        work()
        found[name] = 1000 * statistics.median(_seconds(work) for _ in range(CALLS)) / SCENES
    torch.set_num_threads(threads)
    return found


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _has_batch() -> bool:
    from nanobrag_torch.cli.nanobragg.flags import FLAGS

    return any("-batch" in flag.names for flag in FLAGS)


def _simulate(nb: Any, edge: int, frames: int) -> float:
    """Seconds a frame, from rendering to the file, as the command counts them itself."""
    words = ["simulate", f"{edge}.expt", "--structure-factors", "model.mtz", "--frames", f"1-{frames}"]
    cells = ["5" if edge == SMALL[0] else "10"] * 3
    words += ["-N", *cells, "--threads", "1", "-o", "image_####.cbf", "--allow-loss"]
    last = _quiet(nb, words).strip().splitlines()[-1]
    return float(last.rpartition(" in ")[2].split()[0]) / frames


def _kernel_alone() -> float:
    """Seconds a frame of the operation, for the scenes of the same frames."""
    import torch

    from nanobrag_torch import Experiment
    from nanobrag_torch.kernels import operation

    edge, frames = LARGE
    experiment = Experiment.from_file(f"{edge}.expt", structure_factors="model.mtz", N_cells=(10, 10, 10))
    tolerance = 1e-6 * experiment.simulator(0).brightest()
    simulators = [experiment.simulator(i, threads=1, tolerance=tolerance) for i in range(frames)]
    scenes = [(simulator.scene(), simulator.options()) for simulator in simulators]
    with torch.no_grad():
        operation.intensity(None, *scenes[0])
        begun = time.perf_counter()
        for scene, options in scenes:
            operation.intensity(None, scene, options)
    return (time.perf_counter() - begun) / frames


def _write_experiment(path: str, edge: int, frames: int) -> None:
    """A detector of pixels of 0.1 mm across the beam at 120 mm, one axis, half a degree a frame."""
    import numpy as np

    from nanobrag_torch.io.geometry import write_geometry
    from nanobrag_torch.records import experiment as records

    middle = 0.05 * edge
    panel = records.PanelData(
        origin_mm=np.array([-middle, middle, -120.0]),
        fast=np.array([1.0, 0, 0]),
        slow=np.array([0, -1.0, 0]),
        pixel_size_mm=(0.1, 0.1),
        image_size=(edge, edge),
    )
    rows = np.diag(CELL[:3]) @ records.rotation_matrix(np.array([1.0, 2, 3]), 40.0).T
    data = records.ExperimentData(
        beam=records.BeamData(wavelength_A=0.98),
        detector=records.DetectorData(panels=(panel,)),
        goniometer=records.GoniometerData(rotation_axis=np.array([1.0, 0, 0])),
        scan=records.ScanData(image_range=(1, frames), oscillation_start_deg=10.0, oscillation_width_deg=0.5),
        crystal=records.CrystalData(real_space=rows),
    )
    write_geometry(path, data)


def _quiet(command: Any, words: list[str]) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = command(words)
    if code != 0:
        raise SystemExit(f"{' '.join(words)}: {err.getvalue()[-500:]}")
    return out.getvalue()


def _timed(words: list[str], folder: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


def measure() -> dict[str, Any]:
    """Both, in a folder of their own."""
    with tempfile.TemporaryDirectory() as name:
        found = {**measure_batch(Path(name)), **measure_frames(Path(name)), **measure_scenes()}
        os.chdir("/")
    return found


def main(words: list[str] | None = None) -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="sources of an earlier state: the folder that is on PYTHONPATH")
    parser.add_argument("--print", action="store_true", help="print what is measured, and keep nothing")
    arguments = parser.parse_args(words)
    if arguments.print:
        print(json.dumps(measure()))
        return
    found = {**_machine(), "frames": _in_a_process({})}
    if arguments.before is not None:
        found["before"] = _in_a_process({"PYTHONPATH": str(arguments.before.resolve())})
    path = RESULTS / f"frames-{_slug(found['machine'])}-{found['cores']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    write_page()


def _in_a_process(environment: dict[str, str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.frames", "--print"]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
