"""Runs of `nb simulate` that are killed, started together or damaged: `python tests/fault_runs.py --kills 50`.

Every run is a process as a user starts it. What it leaves is held, byte for byte, against a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nanobrag_torch.io.expt_write import write_expt
from small_scan import small_scan

OUTPUTS = ("s_####.cbf", "s.nxs")
FRAMES = 12
SIZE = (160, 120)
SCAN = small_scan(SIZE, FRAMES, 60.0)
"""A detector that takes a tenth of a second an image."""
FIXED = "in.expt -N 8 8 8 --oversample 3 --phi-steps 8 --tolerance 0 --noise --allow-loss"
COMMAND = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2); "
COMMAND += "from nanobrag_torch.cli.nb.app import main; sys.exit(main())"


def start(
    folder: Path, output: str, *words: str, seed: int = 1, largest: int = resource.RLIM_INFINITY
) -> subprocess.Popen[str]:
    """A run in a folder of its own, as a process; largest: bytes that its files may have."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "in.expt").exists():
        write_expt(folder / "in.expt", [SCAN])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [
        sys.executable,
        "-c",
        COMMAND,
        str(largest),
        "simulate",
        *FIXED.split(),
        f"--seed={seed}",
        "-o",
        output,
        *words,
    ]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said as an error."""
    _, said = run.communicate(timeout=600)
    return run.returncode, said


def images(folder: Path) -> dict[str, bytes]:
    """Every file that is seen, and its bytes."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".expt")
    return {path.name: path.read_bytes() for path in found}


def hidden(folder: Path) -> list[str]:
    """What is left beside the images, but for the ledger."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and not path.name.endswith(".series")]


def whole(home: Path, output: str, seed: int = 1) -> dict[str, bytes]:
    """The images of a run that nobody disturbs."""
    folder = home / f"whole-{seed}"
    code, said = ended(start(folder, output, seed=seed))
    assert code == 0, said
    return images(folder)


def kill_and_resume(home: Path, output: str, kills: int, seed: int) -> int:
    """Kill runs with -9 at random moments of their writing, resume, compare; how many were alive when killed."""
    expected, chance, killed, tried = whole(home, output), random.Random(f"{seed} {output}"), 0, 0
    while killed < kills and tried < 3 * kills + 3:
        folder, tried = home / f"killed-{tried}", tried + 1
        run = start(folder, output)
        while run.poll() is None and not any(path.name.endswith(".series") for path in folder.iterdir()):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.4))
        if run.poll() is None:
            run.kill()
            killed += 1
        run.communicate()
        code, said = ended(start(folder, output, "--resume"))
        assert code == 0, said
        assert images(folder) == expected, folder
        assert hidden(folder) == [], hidden(folder)
    return killed


def start_together(home: Path, output: str, jobs: list[int]) -> list[int]:
    """Start a run for each seed at once in one folder: the exit codes. The images are those of one of the jobs."""
    expected = {seed: whole(home, output, seed) for seed in set(jobs)}
    folder = home / "together"
    runs = [start(folder, output, seed=seed) for seed in jobs]
    results = [ended(run) for run in runs]
    codes = [code for code, _ in results]
    assert set(codes) <= {0, 2} and 0 in codes, results
    done = {seed for seed, code in zip(jobs, codes, strict=True) if code == 0}
    for code, said in results:
        assert "Traceback" not in said and len(said.splitlines()) <= 2, said
        assert code == 0 or "no other run is writing" in said, said
    assert images(folder) in [expected[seed] for seed in done]
    assert hidden(folder) == []
    return codes


def damage_and_resume(home: Path, output: str) -> None:
    """Cut a frame short, put another's in place of one, remove one: --resume makes them again, and no other."""
    expected, folder = whole(home, output), home / "damaged"
    assert ended(start(folder, output))[0] == 0
    names = list(expected)
    (folder / names[1]).write_bytes(expected[names[1]][:-1])
    (folder / names[2]).write_bytes(expected[names[3]])
    (folder / names[4]).unlink()
    before = {name: (folder / name).stat().st_mtime_ns for name in names if name not in (names[1], names[2], names[4])}
    assert ended(start(folder, output, "--resume"))[0] == 0
    assert images(folder) == expected
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    code, said = ended(start(folder, output, "--resume", seed=2))
    assert code == 2 and "--seed 1 to 2" in said and images(folder) == expected


OWNER = """
import sys, time
from pathlib import Path
from nanobrag_torch.io.ownership import owned_folder
with owned_folder(Path(sys.argv[1]), sys.argv[2], rank=int(sys.argv[4]) if len(sys.argv) > 4 else None):
    print("owned", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def owner(folder: Path, job: str, *words: str) -> subprocess.Popen[str]:
    """A process that has a folder for a job; words: for how many seconds, and as which rank."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", OWNER, str(folder), job, *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "owned\n"
    return process


def main() -> int:
    """Kill runs of each kind of output, and start runs together in all mixtures of two to four."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of all kinds of output together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for output in OUTPUTS:
            count = options.kills // len(OUTPUTS)
            killed = kill_and_resume(Path(folder) / f"kills-{output}", output, count, options.seed)
            print(f"{output}: {killed} runs killed, all resumed to the same bytes", flush=True)
            for jobs in ([1, 1], [1, 2], [1, 1, 2], [1, 2, 3], [1, 1, 1, 1], [1, 1, 2, 2], [1, 2, 3, 4]):
                place = Path(folder) / f"{output}-{''.join(map(str, jobs))}"
                print(f"{output}: runs {jobs} at once end with {start_together(place, output, jobs)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
