"""docs/benchmarks-gpu.md, written from what was measured on a GPU: `python -m benchmarks.gpu_page`.

Rates and times come from benchmarks/results/gpu-h100.json and gpu-h100-earlier.json; losses stand beside wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.page import RESULTS, ROOT

from nanobrag_torch.kernels.backends import BACKENDS

PAGE = ROOT / "docs" / "benchmarks-gpu.md"
JOBS = ("value", "gradients", "structure factors", "slopes")
SCENES = {
    "f-1000-constant": "f: 1024 x 1024, 1000 domains, constant F, N = 5",
    "f-1000-table": "f: the same, a table, N = 40",
    "f-20000-constant": "f: 20 000 domains, constant F, N = 5",
    "f-20000-table": "f: 20 000 domains, a table, N = 40",
    "g": "g: 3000 x 3000, 100 wavelengths, 25 domains, a table, N = 40",
    "R": "R: 4148 x 4362, 10 phi steps, 30 domains, 2 x 2 sub-pixels, a table, N = 60",
    "e": "e: 500 boxes of 10 x 10, 2 wavelengths, 50 domains, a table",
}
INTRODUCTION = """\
# Benchmarks on a GPU

<!-- written by `python -m benchmarks.gpu_page` from benchmarks/results/; do not edit -->

`scripts/gpu_check.sh` measures a machine with a GPU in four and a half minutes. A pixel-step is one pixel, sub-pixel,
source and lattice. All in float32 images; times are medians, by events on the card, after a first call that compiles.

* **value**: the image.
* **gradients**: the image and its gradients by panels, wavelengths, weights, lattices and shape, in one pass.
* **structure factors**: gradients by all of them, as sums of whole numbers that repeat bit for bit.
* **slopes**: 16 directions that move panels, wavelengths, every lattice and the shape; a step counts once for all.
"""
SETTINGS = """\
## Settings side by side

Scene f, 1000 domains, a table, N = 40; G pixel-steps/s. The settings of one run were compared on one machine; the code
changed between runs. group: pixels of a thread. rounding: where whole numbers come from adding a large one, instead of
an instruction: 0 nowhere, 1 in the lattice factor, 2 in hkl too. registers: the most of a thread, 0 for no bound.

| run | setting | G pixel-steps/s |
|---|---|---|"""
NOTES = """\
## What the numbers say

* Hardware counters of the first run (ncu, groups of 8 pixels): with 255 registers a thread, two warps were at work on a
  scheduler, which issued an instruction in 51% of the cycles; memory was idle. Groups of four pixels and at most 80
  registers brought the value from 135 to 170 (third run) or 190 (second).
* Gradients by lattice were added to rows in memory by a load and a store, and the load was waited for. Atomic additions
  that return nothing, to rows that no other program adds to, keep the order and do not wait. With that, groups of two,
  at most 96 registers and 256 lattices a program: from 39 to 53.
* Rounding hkl by adding a large number is no gain: its instructions were not what was waited for.
* With 20 000 domains values do not fit in the pass of the gradients, which keeps an image for every 256 lattices, and
  take a pass of their own.
* Slopes along 16 directions cost three to four times the gradients: each pixel group reads every lattice's rows of all
  directions.
* The first machine code read outside its memory where a list of pixels left out a panel: the assembler of CUDA 12.8
  took a number for its negative in a maximum of three. The kernel takes a minimum now; the test that showed it passes.
* Every lattice is taken at every pixel: nothing is left out where spots fade, and counting noise is a pass of its own.
* Before the last change of the tests one of them failed on the card: it gave the kernel pixels on the CPU. It has not
  run there since."""


def page() -> str:
    """The whole page."""
    found = json.loads((RESULTS / "gpu-h100.json").read_text())
    earlier = json.loads((RESULTS / "gpu-h100-earlier.json").read_text())
    parts = (_machine(found), _scenes(found["scenes"]), _aims(found, earlier), _settings(found, earlier), _kernels())
    return "\n".join([INTRODUCTION, *(line for part in parts for line in part), NOTES]) + "\n"


def _machine(found: dict[str, Any]) -> Iterator[str]:
    card, tests = found["device"], found["tests"]
    yield f"## {card['gpu']}"
    yield ""
    yield f"torch {card['torch']}, Triton {card['triton']}, Python {card['python']}, {card['cores']} cores beside it."
    yield f"Memory copied at {card['copy_GB_per_s']} GB/s, read and written."
    yield f"Tests of `tests/cuda` on the card: {tests['PASSED']} passed, {tests['FAILED']} failed (see the end)."
    yield ""


def _scenes(scenes: dict[str, Any]) -> Iterator[str]:
    yield "| scene | " + " | ".join(f"{job}, s" for job in JOBS) + " | G pixel-steps/s | memory of gradients, MB |"
    yield "|---|" + "---|" * (len(JOBS) + 2)
    for name, title in SCENES.items():
        scene = scenes[name]
        times = [_seconds(scene, job) for job in JOBS]
        rates = " / ".join(f"{scene[job]['G_steps_per_s']:.0f}" if job in scene else "-" for job in JOBS)
        yield f"| {title} | " + " | ".join(times) + f" | {rates} | {scene['gradients']['memory_MB']:.0f} |"
    yield ""


def _seconds(scene: dict[str, Any], job: str) -> str:
    return f"{scene[job]['median']:.4f}" if job in scene else "-"


def _aims(found: dict[str, Any], earlier: dict[str, Any]) -> Iterator[str]:
    scenes = found["scenes"]
    table, constant, large, turned = (scenes[name] for name in ("f-1000-table", "f-1000-constant", "g", "R"))
    by = [f"{scene['gradients']['G_steps_per_s']:.0f}" for scene in (table, large, turned, scenes["f-20000-table"])]
    most = max(s["structure factors"]["median"] / s["gradients"]["median"] for s in scenes.values() if JOBS[2] in s)
    host, replay = ([run["overhead"][of]["host_us"] for run in (earlier["second"], found)] for of in ("value", "graph"))
    yield "## Against the aims"
    yield ""
    yield "| aim on an H100 | found |"
    yield "|---|---|"
    yield f"| value with a table, N = 40: 100 G pixel-steps/s | {table['value']['G_steps_per_s']:.0f} (f, 1000) |"
    yield f"| all gradients: 50 | {by[0]} (f, 1000), {by[1]} (g), {by[2]} (R); **{by[3]}** (f, 20 000) |"
    yield f"| gradients by structure factors at most twice the others | at most {most:.2f} times |"
    yield (
        f"| overhead under 0.5 ms | {host[0] / 1000:.2f} ms on one machine, **{host[1] / 1000:.2f} ms** on another, "
        f"whose processor took {replay[1] / replay[0]:.1f} times as long to start a CUDA graph |"
    )
    yield f"| frame of scene g under 0.25 s | {large['value']['median']:.3f} s |"
    faster = 0.017 / constant["value"]["median"]
    yield f"| 1000 domains, 1024 x 1024: 1.5 times faster than 0.017 s | {faster:.1f} times |"
    yield "| 1000 shots of 150 boxes refined in under 10 s | **not measured** |"
    yield ""
    yield from _overhead(found["overhead"])


def _overhead(small: dict[str, Any]) -> Iterator[str]:
    yield "64 x 64 pixels, one lattice: microseconds a call until the host goes on, on the slower machine."
    yield ""
    yield "| value | gradients | slopes | value as a CUDA graph, until it is done | under torch.compile |"
    yield "|---|---|---|---|---|"
    host = [f"{small[of]['host_us']:.0f}" for of in ("value", "gradients", "slopes")]
    compiled = f"{small['torch.compile']['host_us']:.0f} after {small['torch.compile']['first_s']:.0f} s"
    yield f"| {' | '.join(host)} | {small['graph']['done_us']:.0f} | {compiled} |"
    yield ""


def _kernels() -> Iterator[str]:
    yield "## What each kernel has"
    yield ""
    yield "| kernel | device | values | gradients | slopes along directions | reports progress |"
    yield "|---|---|---|---|---|---|"
    for backend in BACKENDS.values():
        has = [backend.value, backend.gradients, backend.tangents, backend.reports]
        yield f"| {backend.name} | {backend.device} | " + " | ".join("yes" if one else "no" for one in has) + " |"
    yield ""


def _settings(found: dict[str, Any], earlier: dict[str, Any]) -> Iterator[str]:
    yield SETTINGS
    for run, results in (("first", earlier["first"]), ("second", earlier["second"]), ("third", found)):
        for setting, times in results["variants"].items():
            yield f"| {run} | {_words(setting)} | {times['G_steps_per_s']:.0f} |"
    yield ""


def _words(setting: str) -> str:
    for name, word in (
        ("SMALL_GROUP", "group"),
        ("GROUP", "group"),
        ("ROUNDING", "rounding"),
        ("maxnreg", "registers"),
    ):
        setting = setting.replace(name, word)
    return setting.replace("num_warps", "warps")


def write_page() -> None:
    """Write it where it belongs."""
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    write_page()
