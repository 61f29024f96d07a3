"""The parts of benchmarks/gpu_check.py: each measures one thing on a GPU and returns what goes into the JSON."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from benchmarks.cuda_scenes import Case, cases
from torch import Tensor

from nanobrag_torch.kernels import operation
from nanobrag_torch.kernels.cuda import jit, plan
from nanobrag_torch.kernels.problem import Scene, pixel_count

GPU = torch.device("cuda")
ENOUGH_S, MOST_REPEATS = 0.6, 7
"""Of one measurement."""
REFINED = ("panels", "wavelengths", "source_weights", "lattice", "lattice_weights", "shape")
DIRECTIONS = 16
TIMED = ("f-1000-constant", "f-1000-table", "f-20000-constant", "f-20000-table", "g", "R", "e")
MOST_TESTS_S = 130.0
COMPILERS = 4
"""Processes that compile ahead while tests run."""


@dataclass(frozen=True)
class Limits:
    """When all must be over, and where files go."""

    end: float
    out: Path

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


def device(limits: Limits) -> dict[str, Any]:
    """What the machine is, and its memory's rate."""
    import triton

    found = torch.cuda.get_device_properties(0)
    large = torch.rand(2**28, device=GPU)
    other = torch.empty_like(large)
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
    return {
        "gpu": found.name,
        "multiprocessors": found.multi_processor_count,
        "memory_GB": round(found.total_memory / 2**30, 1),
        "nvidia_smi": subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "copy_GB_per_s": round(2 * large.numel() * 4 / seconds(lambda: other.copy_(large))["median"] / 1e9),
    }


def tests(limits: Limits) -> dict[str, Any]:
    """All of tests/cuda, while the code of the benchmarks is compiled beside them."""
    log = limits.out / "tests.log"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-vv",
        "-n",
        str(max(1, (os.cpu_count() or 2) - COMPILERS)),
        "tests/cuda",
    ]
    command += ["--tb=short", "-p", "no:cacheprovider", "--durations=12", "-W", "default"]
    start = time.monotonic()
    with log.open("w") as stream, ProcessPoolExecutor(COMPILERS, get_context("spawn")) as pool:
        running = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        made = list(pool.map(_compiled, WORK))
        try:
            code = running.wait(timeout=max(1.0, min(MOST_TESTS_S, limits.left() - 20)))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            code = -1
    lines = log.read_text().strip().splitlines()
    failed = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    seen = {how: sum(f" {how} " in line for line in lines) for how in ("PASSED", "FAILED", "SKIPPED")}
    return {
        "exit_code": code,
        **seen,
        "failed": failed,
        "seconds": round(time.monotonic() - start, 1),
        "compiled_ahead_s": dict(zip((" ".join(map(str, work)) for work in WORK), made, strict=True)),
    }


WORK: list[tuple[str, str, str]] = [
    (scene, job, variant)
    for scene, job, variant in (
        *(("f-1000-table", job, "") for job in ("slopes", "gradients", "structure factors", "value")),
        *((name, job, "") for name in ("R", "g", "e") for job in ("slopes", "gradients", "value")),
        *(("f-1000-constant", job, "") for job in ("gradients", "value", "slopes")),
        ("g", "structure factors", ""),
    )
]


def _compiled(work: tuple[str, str, str]) -> float:
    """Seconds to compile, in a process of its own, what a job needs; the result lies in Triton's cache."""
    scene, job, _ = work
    start = time.monotonic()
    try:
        jobs_of(cases(GPU, tiny=True)[scene]())[job]()
        torch.cuda.synchronize()
    except Exception as error:  # the part that needs it will tell
        print(f"compiling {work}: {error}", file=sys.stderr)
        return -1.0
    return round(time.monotonic() - start, 1)


def jobs_of(case: Case) -> dict[str, Callable[[], Any]]:
    """What is timed of a scene. Gradients are by REFINED, slopes along DIRECTIONS of them."""
    scene, options, pixels = case.scene, case.options, case.pixels
    upstream = torch.ones(pixel_count(pixels, scene, options), dtype=options.dtype, device=GPU)
    directions = {name: _directions(getattr(scene, name)) for name in ("panels", "wavelengths", "lattice", "shape")}
    by_table = ("structure_factors",)
    return {
        "value": lambda: operation.intensity(pixels, scene, options, kernel="fused"),
        "gradients": lambda: operation.gradients(upstream, pixels, scene, options, REFINED, value=True),
        "structure factors": lambda: operation.gradients(upstream, pixels, scene, options, by_table),
        "slopes": lambda: operation.tangents(pixels, scene, directions, options, kernel="fused"),
    }


def _directions(tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return 1e-3 * torch.rand((DIRECTIONS, *tensor.shape), generator=generator).to(tensor) * tensor


def seconds(work: Callable[[], Any], enough: float = ENOUGH_S) -> dict[str, float]:
    """Times of several runs on the GPU, after one that may compile."""
    first = time.monotonic()
    work()
    torch.cuda.synchronize()
    first = time.monotonic() - first
    times: list[float] = []
    while len(times) < MOST_REPEATS and (len(times) < 2 or sum(times) < enough):
        start, end = _event(), _event()
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return {"median": statistics.median(times), "least": min(times), "most": max(times), "first": round(first, 3)}


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def scenes(limits: Limits) -> dict[str, Any]:
    """The scenes, largest last: value, gradients, gradients by structure factors, slopes, memory."""
    found: dict[str, Any] = {}
    for name in TIMED:
        case = cases(GPU)[name]()
        found[name] = {"steps": case.steps}
        for job, work in jobs_of(case).items():
            if limits.left() < 20 or (job == "structure factors" and not case.scene.structure_factors.numel()):
                continue
            found[name][job] = measured(work, case.steps)
        del case
        torch.cuda.empty_cache()
        (limits.out / "scenes.json").write_text(json.dumps(found, indent=1))
    return found


def measured(work: Callable[[], Any], steps: int) -> dict[str, Any]:
    """Times, pixel-steps a second, and the peak of memory beside what was there; or why there is none."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        times = seconds(work)
    except Exception as error:  # one job that breaks must not hide the others
        return {"failed": f"{type(error).__name__}: {error}"[:600]}
    rate = steps / times["median"] / 1e9
    return {
        **times,
        "G_steps_per_s": round(rate, 2),
        "memory_MB": round((torch.cuda.max_memory_allocated() - before) / 2**20, 1),
    }


VARIANTS: dict[str, list[dict[str, int]]] = {
    "slopes": [{"GROUP": 4, "maxnreg": most} for most in (128, 104)],
    "gradients": [
        *({"GRADIENT_GROUP": 2, "ROUNDING": rounding, "maxnreg": most} for rounding in (1, 2) for most in (96, 80)),
        {"GRADIENT_GROUP": 2, "ROUNDING": 0, "maxnreg": 96},
        *({"GRADIENT_GROUP": 1, "ROUNDING": 1, "maxnreg": most} for most in (96, 80, 64)),
    ],
    "value": [{"GROUP": 4, "maxnreg": most} for most in (80, 72, 64)],
    "structure factors": [{"GROUP": 4, "maxnreg": most} for most in (96, 80)],
}
"""Settings of kernels.cuda that are timed side by side on scene f with a table; `block`: directions at once."""


@contextmanager
def setting(chosen: dict[str, int]) -> Iterator[None]:
    """Kernels built and launched with other settings; more warps have as many more lanes."""
    names = {name: value for name, value in chosen.items() if name.isupper()}
    kept = {name: getattr(jit, name) for name in (*names, "LANES")}, dict(jit.REGISTERS), dict(jit.LAUNCH), plan.BLOCKS
    try:
        for name, value in names.items():
            setattr(jit, name, value)
        if "maxnreg" in chosen:
            jit.REGISTERS.update(dict.fromkeys(range(6), chosen["maxnreg"]))
        jit.LAUNCH["num_warps"] = chosen.get("num_warps", 1)
        jit.LANES = jit.LANES * int(jit.LAUNCH["num_warps"])
        plan.BLOCKS = (chosen["block"],) if "block" in chosen else plan.BLOCKS
        yield
    finally:
        for name, value in kept[0].items():
            setattr(jit, name, value)
        jit.REGISTERS.clear()
        jit.REGISTERS.update(kept[1])
        jit.LAUNCH.update(kept[2])
        plan.BLOCKS = kept[3]


def _variant_compiled(work: tuple[str, dict[str, int]]) -> bool:
    with setting(work[1]):
        jobs_of(cases(GPU, tiny=True)["f-1000-table"]())[work[0]]()
        torch.cuda.synchronize()
    return True


def variants(limits: Limits) -> dict[str, Any]:
    """Settings side by side; compiled first, in as many processes as there are cores."""
    listed = [(job, chosen) for job, settings in VARIANTS.items() for chosen in settings]
    with ProcessPoolExecutor(min(len(listed), max(2, (os.cpu_count() or 2) - 2)), get_context("spawn")) as pool:
        ready = [pool.submit(_variant_compiled, work) for work in listed]
        case = cases(GPU)["f-1000-table"]()
        jobs = jobs_of(case)
        found: dict[str, Any] = {}
        for (job, chosen), future in zip(listed, ready, strict=True):
            key = f"{job}: " + ", ".join(f"{name} {value}" for name, value in chosen.items())
            try:
                future.result(timeout=max(0.1, limits.left() - 15))
            except Exception as error:  # a setting that does not compile is a result
                found[key] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        for job, chosen in listed:
            key = f"{job}: " + ", ".join(f"{name} {value}" for name, value in chosen.items())
            if key in found or limits.left() < 12:
                continue
            with setting(chosen):
                times = seconds(jobs[job], enough=0.1)
            found[key] = {**times, "G_steps_per_s": round(case.steps / times["median"] / 1e9, 2)}
    return found


def overhead(limits: Limits) -> dict[str, Any]:
    """A scene of 64 x 64 pixels and one domain: calls, gradients, slopes; as a CUDA graph; under torch.compile."""
    case = cases(GPU)["overhead"]()
    jobs = jobs_of(case)
    found: dict[str, Any] = {name: called(jobs[name]) for name in ("value", "gradients", "slopes")}
    work = jobs["value"]
    expected = work().clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        image = work()
    graph.replay()
    torch.cuda.synchronize()
    found["graph"] = {**called(graph.replay), "same": bool(torch.equal(image, expected))}
    tensors = case.scene.tensors()
    compiled = torch.compile(lambda *parts: 2 * operation.intensity(None, Scene(*parts), case.options), fullgraph=True)
    start = time.monotonic()
    doubled = compiled(*tensors)
    torch.cuda.synchronize()
    first = round(time.monotonic() - start, 1)
    same = bool(torch.allclose(doubled, 2 * expected, rtol=1e-6))
    found["torch.compile"] = {**called(lambda: compiled(*tensors)), "first_s": first, "same": same}
    return found


def called(work: Callable[[], Any], repeats: int = 200) -> dict[str, float]:
    """Microseconds of a call: until the host goes on, and until all calls are done, each."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    issued = time.perf_counter() - start
    torch.cuda.synchronize()
    done = time.perf_counter() - start
    return {"host_us": round(1e6 * issued / repeats, 1), "done_us": round(1e6 * done / repeats, 1)}


def profiles(limits: Limits) -> dict[str, Any]:
    """ncu of the two hottest kernels, as text beside the JSON; the rates of its summary."""
    found = {}
    for job in ("gradients", "value", "slopes"):
        if limits.left() < 15:
            break
        target = limits.out / f"ncu-{job}.txt"
        code = (
            "import torch; from benchmarks.cuda_scenes import cases; from benchmarks.gpu_parts import jobs_of, GPU; "
            f"work = jobs_of(cases(GPU)['f-1000-table']())['{job}']; work(); torch.cuda.synchronize()"
        )
        command = ["ncu", "--clock-control", "none", "--set", "full", "--kernel-name", "regex:image_kernel"]
        command += ["--launch-count", "1", sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=max(10.0, limits.left() - 5)
        )
        target.write_text(done.stdout + done.stderr)
        wanted = ("Duration", "Registers Per", "Issued Warp", "Executed Ipc Active", "Achieved Occ", "Issue Slots Busy")
        found[job] = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip().startswith(wanted)]
    return found
