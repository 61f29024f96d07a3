"""docs/benchmarks.md, written from the results of every machine; losses stand beside wins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks of the CPU kernel

<!-- written by `python -m benchmarks` from benchmarks/results/; do not edit -->

`make bench` measures this machine and writes this page anew. A pixel-step is one pixel, source and lattice (a phi step
of a mosaic domain). Rates are medians in million pixel-steps a second, float32, all cores that the process may use.
What takes less than 0.05 s runs again and again for so long, as in a loop, and the mean counts as one measurement.

* **value**: the operation alone, from the scene's tensors to the image.
* **gradients**: the operation's value and gradients in one pass, for a gradient that flows in and is known beforehand:
  by all tensors of the scene that cell, misset, detector and wavelength move.
* **one pass**: the same from these parameters and back to them; building a scene and its derivative take some 4 ms,
  which counts where images are small.
* **loss**: `loss_and_gradient` of the squares of what the image is off, by these parameters: the loss is known once a
  tile of the image is, and its slopes are taken then. Behind it, how many times as long as the value it takes. On scene
  c that is not the 2.1 that were aimed at: a step of the square shape takes about 62 products for its value and 125
  with its slopes, which a processor that multiplies one vector of 16 numbers a cycle has no way around; the kernel that
  does both takes 1.9 times as long as the value, and what it kept, the loss and the scene's derivative are the rest.
* **backward**: the same through autograd: two passes over the whole image.
* **program**: the image from the configuration, all included.
* In brackets: the rate over that of the *yardstick*, a hand-tuned sketch of nothing but the inner loop for scene c,
  which took turns with the scene in the same process. "gradients", "one pass", "loss" and "backward" are held against
  its gradients. Below one it is slower.
* **memory**: the most that a process held in which the scene was rendered once; Python, torch and numba alone are most
  of it.
"""
C_STEPS = 26e6
"""Pixel-steps a second of nanoBragg.c on two Zen 5 cores, gcc -O3 -march=native with OpenMP."""
SPARSE_AIMS = {
    "gauss_hkl, 2 x 2 sub-pixels": 15.0,
    "gauss_hkl, 10 x 10 sub-pixels": 100.0,
    "square, 2 x 2, tolerance 1e-6": 2.5,
    "square, 2 x 2, tolerance 1e-5": 5.0,
    "scene e, 100 wavelengths, 25 domains, gauss_hkl": 3.0,
}
COLUMNS = ("value", "gradients", "one_pass", "loss", "backward", "program")


def page() -> str:
    """The whole page."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cpu-*.json"))]
    frames = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("frames-*.json"))]
    sparse = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("sparse-*.json"))]
    lines = [
        *(line for results in found for line in _machine(results)),
        *(line for one in frames for line in _frames(one)),
        *(line for one in sparse for line in _sparse(one)),
    ]
    return "\n".join([INTRODUCTION, *lines]) + "\n"


def write_page() -> None:
    """Write it where it belongs."""
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")


def _machine(results: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield f"## {results['machine']}, {results['cores']} cores"
    yield ""
    yield versions + "."
    if results.get("load_before"):
        yield f"Load of the machine before the run: {results['load_before'][0]:.1f}."
    if "yardstick" in results:
        value, gradients = (results["yardstick"][name]["million_steps_per_s"] for name in ("value", "gradients"))
        yield f"The yardstick: {value:.0f} for the value, {gradients:.0f} with gradients."
    yield ""
    timed = [scene for scene in results["scenes"] if "value" in scene]
    yield "| scene | | value | gradients | one pass | loss | backward | program | memory, value | memory, backward |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    yield from (_row(scene) for scene in timed)
    yield ""
    yield from (line for scene in results["scenes"] if "command_s" in scene for line in _shell(scene))
    if "before" in results:
        yield from _before(results["before"])
    if "first_compile" in results:
        yield from _first_compile(results["first_compile"])
        yield ""


def _before(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """How fast the scenes are beside an earlier state that took turns with this one."""
    yield "How many times as fast as an earlier state, by turns with it in a process of its own (`--before FOLDER`);"
    yield "medians of several starts of both processes, and the lowest and highest start: where the pages of a process"
    yield "lie moves a scene of a few milliseconds by up to a tenth. Empty: what only one of them measures."
    yield ""
    yield "| scene | value | gradients | one pass | loss | backward | program |"
    yield "|---|---|---|---|---|---|---|"
    for scene, kinds in found.items():
        ratios = (kinds.get(column) for column in COLUMNS)
        shown = (
            f"{one['ratio']:.2f} ({one['ratios'][0]:.2f} to {one['ratios'][-1]:.2f})" if one else "" for one in ratios
        )
        yield f"| {scene} | {' | '.join(shown)} |"
    yield ""


def _first_compile(found: dict[str, float]) -> Iterator[str]:
    """How long the first image waits, and why that cannot be shortened much."""
    yield f"First compile, nothing in the cache: {found['value_s']:.1f} s before the first image,"
    yield f"{found['gradients_s']:.1f} s more before the first gradients."
    if "value_llvm_s" not in found:
        return
    shares = [100 * found[f"{name}_llvm_s"] / found[f"{name}_s"] for name in ("value", "gradients")]
    yield f"LLVM takes {shares[0]:.0f}% and {shares[1]:.0f}% of that, for {found['value_functions']:.0f} and"
    yield f"{found['gradients_functions']:.0f} functions; the rest is numba's own work in Python, a function after"
    yield "the other: types, lowering, the text of the code. No setting of LLVM brings the whole below that rest; what"
    yield "helps is `nb warm`, which compiles kernels and types of numbers in as many processes as there are cores."


FRAMES = {
    "process_s": ("`nanoBragg`, an image of 64 x 64, a process each", "s"),
    "batch_ms": ("`nanoBragg -batch`, 1000 such images, start included, each", "ms"),
    "small_ms": ("`nb simulate`, 200 frames of 64 x 64, each", "ms"),
    "large_ms": ("`nb simulate`, 8 frames of 1000 x 1000, each", "ms"),
    "kernel_ms": ("the kernel alone for these", "ms"),
    "large_over_kernel": ("one over the other", ""),
    "scenes_ms": ("`render_batch`, 64 scenes of 16 x 16, each", "ms"),
    "gradients_ms": ("the same with gradients", "ms"),
    "slopes_ms": ("slopes along three directions, `vmap(jvp(render_batch))`", "ms"),
}


def _frames(results: dict[str, Any]) -> Iterator[str]:
    """What comes on top of the kernel; an earlier state beside it where one was measured."""
    yield f"## Many images, {results['machine']}"
    yield ""
    yield "What a program costs beside its kernel (`make bench ARGS=frames`): small images in one process, series of"
    yield "frames with a table of 81527 unique amplitudes, N = 10 (small ones 5), written as CBF, on one thread, and"
    yield f"many small scenes in a call. Load of the machine before the run: {results['load_before'][0]:.1f}."
    yield ""
    states = [results["frames"], *([results["before"]] if "before" in results else [])]
    yield f"| | now |{' before |' * (len(states) - 1)}"
    yield f"|---|{'---|' * len(states)}"
    for name, (title, unit) in FRAMES.items():
        shown = (f"{one[name]:.3g} {unit}".strip() if name in one else "" for one in states)
        yield f"| {title} | {' | '.join(shown)} |"
    yield ""


def _sparse(results: dict[str, Any]) -> Iterator[str]:
    yield f"## Steps left out, {results['machine']}"
    yield ""
    yield "Scene R, a frame of rotation (`make bench ARGS=sparse`): a cell of 79.1 x 79.1 x 38.0 Angstrom, N = 60,"
    yield "30 domains in 10 phi steps. Processor seconds of one thread for the frame with steps left out, and how many"
    yield "times as long the full sum takes, measured on runs of pixels in turn with it. Gradients are by cell, misset,"
    size = "The whole detector" if results["scale"] == 1 else f"Edges of the detector over {results['scale']}"
    yield f"distance and wavelength. {size}; load of the machine"
    yield f"{results['load_before'][0]:.1f}. The C program is what its rate on two Zen 5 cores,"
    yield f"{C_STEPS / 1e6:.0f} million steps a second, would make of it, beside this kernel on one core. Reflections"
    yield "whose F is zero, and what lies outside the table, cost nothing. Scene e is that of the table above."
    yield ""
    yield "| | steps | value | full sum over it | the C program | gradients | full sum over them |"
    yield "|---|---|---|---|---|---|---|"
    for name, one in results["cases"].items():
        value, gradients = f"{one['value_s']:.2f} s", f"{one['gradients_s']:.2f} s"
        ratios = f"{one['value_ratio']:.1f}", f"{one['gradients_ratio']:.1f}"
        program = one["steps"] / C_STEPS
        program_said = f"{program:.0f} s, {program / one['value_s']:.0f} times as long"
        said = name.replace("|", "\\|")
        yield f"| {said} | {one['steps']:.1e} | {value} | {ratios[0]} | {program_said} | {gradients} | {ratios[1]} |"
    yield ""
    aims = ", ".join(f"{aim:g} ({name})" for name, aim in SPARSE_AIMS.items())
    yield f"How many times as long the full sum should take at least, of values and of gradients: {aims}."
    yield from _short_of(results["cases"])
    yield ""


def _short_of(cases: dict[str, Any]) -> Iterator[str]:
    """What does not reach its aim, in a line."""
    columns = {"value_ratio": "values", "gradients_ratio": "gradients"}
    missed = [
        f"{name}: {what} {cases[name][column]:.1f}"
        for name, aim in SPARSE_AIMS.items()
        for column, what in columns.items()
        if name in cases and cases[name][column] < aim
    ]
    if missed:
        yield f"Not reached: {'; '.join(missed)}."


def _row(scene: dict[str, Any]) -> str:
    shown = {column: _loss if column == "loss" else _rate for column in COLUMNS}
    rates = " | ".join(shown[column](scene[column]) if column in scene else "" for column in COLUMNS)
    memory = " | ".join(_megabytes(scene[column]["peak_MB"]) for column in ("value", "backward"))
    return f"| {scene['scene']} | {scene['title']} | {rates} | {memory} |"


def _rate(timed: dict[str, Any]) -> str:
    ratio = f" ({timed['ratio_to_yardstick']:.2f})" if "ratio_to_yardstick" in timed else ""
    return f"{timed['million_steps_per_s']:.0f}{ratio}"


def _loss(timed: dict[str, Any]) -> str:
    return f"{_rate(timed)}, {timed['times_the_value']:.2f} x"


def _megabytes(found: float | None) -> str:
    return "" if found is None else f"{found:.0f} MB"


def _shell(scene: dict[str, Any]) -> Iterator[str]:
    yield f"Scene {scene['scene']}, {scene['title']}, compile cache warm: {scene['command_s']:.2f} s, which is"
    yield f"{scene['beyond_imports_s']:.2f} s beyond `import torch, numba`; {scene['peak_MB']:.0f} MB at its highest."
    yield ""
