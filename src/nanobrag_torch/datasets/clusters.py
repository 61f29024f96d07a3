"""Dask clusters by one word: `slurm:queue=short,jobs=50,cores=8`, or the address of a scheduler that runs already.

The jobs of a batch system are started by dask-jobqueue; each runs one process of one thread a core.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nanobrag_torch.datasets.engine import configure_dask
from nanobrag_torch.errors import InputError

SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
}
"""Batch system -> class of dask_jobqueue."""
FLAG = "--cluster"
KEYS = {
    "jobs": "number of jobs [1]",
    "cores": "cores, and processes, of a job [1]",
    "memory": "of a job [2GB a core]",
    "walltime": "of a job [1:00:00]",
    "queue": "or partition",
    "partition": "or queue",
    "account": "to be charged",
    "interface": "network interface, such as ib0",
    "extra": "one more line for the batch system; may come several times",
}


def cluster_options(word: str) -> tuple[str, dict[str, Any], int]:
    """Batch system, arguments of its class of dask_jobqueue and number of jobs that a word of the command line means.

    Raises InputError naming the part that is wrong.
    """
    system, _, rest = word.partition(":")
    if system not in SYSTEMS:
        raise InputError(FLAG, word, f"{', '.join(f'{name}:...' for name in SYSTEMS)}, or tcp://host:port")
    given, extra = _pairs(rest)
    cores = _count(given, "cores", 1)
    queue = given.get("queue", given.get("partition"))
    options: dict[str, Any] = {
        "cores": cores,
        "processes": cores,
        "memory": given.get("memory", f"{2 * cores}GB"),
        "walltime": given.get("walltime", "1:00:00"),
        "job_script_prologue": ["export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"],
        "job_extra_directives": extra,
        **({"queue": queue} if queue else {}),
        **{key: given[key] for key in ("account", "interface") if key in given},
    }
    if system == "lsf":
        options["ncpus"] = cores
    return system, options, _count(given, "jobs", 1)


def _pairs(text: str) -> tuple[dict[str, str], list[str]]:
    given: dict[str, str] = {}
    extra: list[str] = []
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in KEYS or not equals or not value:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"{near[0]}=... (nearest); " if near and key not in KEYS else ""
            raise InputError(FLAG, part, hint + ", ".join(f"{name}: {text}" for name, text in KEYS.items()))
        if key == "extra":
            extra.append(value)
        else:
            given[key] = value
    return given, extra


def _count(given: dict[str, str], key: str, default: int) -> int:
    text = given.get(key, str(default))
    if not text.isdigit() or int(text) < 1:
        raise InputError(FLAG, f"{key}={text}", "a whole number from 1 up")
    return int(text)


def job_cluster(word: str) -> tuple[Any, int]:
    """The dask_jobqueue cluster of a word, without jobs yet, and how many it should have. Raises InputError."""
    system, options, jobs = cluster_options(word)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise InputError(FLAG, word, "an installation with nanobrag_torch[slurm]: dask-jobqueue is missing") from error
    configure_dask()
    return getattr(dask_jobqueue, SYSTEMS[system])(**options), jobs


@contextmanager
def cluster_client(word: str) -> Iterator[Any]:
    """A Dask client of the cluster that a word means; its jobs end with the block."""
    from distributed import Client

    if "://" in word:
        try:
            client = Client(word, timeout="10s")  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise InputError(FLAG, word, "the address of a running Dask scheduler") from error
        with client:
            yield client
        return
    cluster, jobs = job_cluster(word)
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        cluster.scale(jobs=jobs)
        yield client
