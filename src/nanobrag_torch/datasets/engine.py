"""Getting the shards of a data set made: in this process, by Dask on this machine or a cluster, or by ranks.

Every way calls the same function for a shard. Who does which is settled by claims in the folder, so that runs of the
same recipe share the work, and by records, so that nothing is done twice and what a killed process left is done again.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from nanobrag_torch.datasets.labels import labels_of
from nanobrag_torch.datasets.render import Renderer
from nanobrag_torch.datasets.shards import make_shard
from nanobrag_torch.datasets.store import Folder, open_folder
from nanobrag_torch.datasets.truth import write_masters
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.ownership import claimed
from nanobrag_torch.workers import Place

DONE, THERE, ELSEWHERE, FAILED = "done", "there", "elsewhere", "failed"
LOST_WORKERS = 20
"""Times that a shard is tried again after the worker that made it died."""
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a shard ended; line: what went wrong, as one line."""

    shard: int
    state: str
    line: str = ""

    @property
    def fatal(self) -> bool:
        """Whether nothing else can go well either: the folder cannot be written."""
        return self.state == FAILED and "can be written" in self.line


@dataclass
class Tally:
    """What a run has come to."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> Counter[str]:
        """Lines of failures, and how many shards ended so."""
        return Counter(outcome.line for outcome in self.outcomes if outcome.state == FAILED)

    def raise_failures(self) -> None:
        """Raise the commonest failure, if there was any."""
        if self.failures:
            line, count = self.failures.most_common(1)[0]
            others = f", and {len(self.failures) - 1} other kinds" if len(self.failures) > 1 else ""
            raise InputError("shards", f"{count} failed{others}", line)


@lru_cache(maxsize=2)
def _prepared(path: str, fingerprint: str) -> tuple[Folder, Renderer]:
    """Folder and renderer of a process, read once."""
    folder = open_folder(path)
    if folder.fingerprint != fingerprint:
        raise InputError("folder", path, f"the data set {fingerprint[:12]}, which this run makes")
    return folder, Renderer(folder.recipe)


def work_on(path: str, fingerprint: str, shard: int, run: str) -> Outcome:
    """Make a shard unless it is there or somebody else is at it. Called in workers; raises nothing."""
    try:
        folder, renderer = _prepared(path, fingerprint)
        if folder.record(shard) is not None:
            return Outcome(shard, THERE)
        with claimed(folder.claim(f"{shard:05d}"), run=run, fingerprint=fingerprint) as claim:
            if claim is None:
                return Outcome(shard, ELSEWHERE)
            if folder.record(shard) is not None:
                return Outcome(shard, THERE)

            def report(done: int) -> None:
                claim.done = done

            make_shard(folder, shard, renderer, report)
        return Outcome(shard, DONE)
    except InputError as error:
        return Outcome(shard, FAILED, str(error))
    except Exception as error:  # what a worker meets becomes a line in the head, not a traceback in a log
        return Outcome(shard, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


Engine = Callable[[Folder, Sequence[int], str], Iterator[Outcome]]


def in_this_process(folder: Folder, shards: Sequence[int], run: str) -> Iterator[Outcome]:
    """One shard after the other."""
    for shard in shards:
        yield work_on(str(folder.path), folder.fingerprint, shard, run)


def by_dask(client: Any) -> Engine:
    """An engine that deals shards out to the workers of a Dask client; a dead worker's shard goes to another."""

    def engine(folder: Folder, shards: Sequence[int], run: str) -> Iterator[Outcome]:
        from distributed import as_completed

        path = str(folder.path.resolve())
        futures = [client.submit(work_on, path, folder.fingerprint, shard, run, pure=False) for shard in shards]
        numbers = {future.key: shard for future, shard in zip(futures, shards, strict=True)}
        try:
            for future in as_completed(futures):  # type: ignore[no-untyped-call]
                error = future.exception()
                if error is None:
                    yield future.result()
                else:
                    yield Outcome(
                        numbers[future.key], FAILED, f"{type(error).__name__}: workers died {LOST_WORKERS} times"
                    )
        finally:
            client.cancel(futures)

    return engine


def run(
    folder: Folder,
    engine: Engine,
    shards: Sequence[int] | None = None,
    notice: Callable[[Outcome], None] = lambda _: None,
) -> Tally:
    """Have an engine make what is missing, and wait for what other runs in the folder are making.

    shards: only these. notice: called with how each shard ended. Raises InputError at once when the folder cannot be
    written; other failures are in the tally.
    """
    tally, token = Tally(), secrets.token_hex(8)
    folder.remove_leftovers()
    with claimed(folder.claim(f"run-{token}"), run=token, fingerprint=folder.fingerprint):
        failed: set[int] = set()
        while wanted := [n for n in (shards if shards is not None else folder.missing()) if n not in failed]:
            wanted = [n for n in wanted if folder.record(n) is None]
            states = []
            for outcome in engine(folder, wanted, token):
                tally.outcomes.append(outcome)
                notice(outcome)
                states.append(outcome.state)
                if outcome.fatal:
                    tally.raise_failures()
                if outcome.state == FAILED:
                    failed.add(outcome.shard)
            if ELSEWHERE not in states:
                break
            time.sleep(WAIT_SECONDS)
    folder.remove_leftovers()  # of a worker that was killed when its shard had its record already
    return tally


def warm_up(folder: Folder) -> None:
    """Make one image and forget it: what has to be compiled is then found by all workers of this machine."""
    renderer = _prepared(str(folder.path), folder.fingerprint)[1]
    frame = renderer.frame(0)
    recorded = renderer.record(frame)
    if folder.recipe.labels.spots:
        labels_of(renderer, frame, recorded)


def finish(folder: Folder) -> bool:
    """Write masters and manifest if every shard is there; whether it is.

    Ranks and single shards all come here: the files are the same whoever writes them, and appear whole.
    """
    if folder.missing():
        return False
    write_masters(folder, _prepared(str(folder.path), folder.fingerprint)[1])
    folder.write_manifest()
    return True


def order_of_ranks(folder: Folder, place: Place) -> list[int]:
    """Every shard, those of this rank first: who is done early helps the others."""
    own = list(place.share(folder.recipe.shards))
    return own + [shard for shard in range(folder.recipe.shards) if shard not in set(own)]


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A Dask client of worker processes on this machine, one thread each."""
    from distributed import Client, LocalCluster

    configure_dask()
    options = {"threads_per_worker": 1, "processes": True, "memory_limit": 0, "silence_logs": 50}
    place = {"dashboard_address": "127.0.0.1:0"}
    cluster = LocalCluster(n_workers=workers, **place, **options)  # type: ignore[no-untyped-call]
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield client


def configure_dask() -> None:
    """A shard whose worker died is tried again, and a dead worker is waited for however slowly it comes back.

    Dask itself gives a place up whose worker is not back within seconds, which a busy machine needs for the imports; a
    run without any worker would wait for ever.
    """
    import dask

    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": LOST_WORKERS,
            "distributed.deploy.lost-worker-timeout": "1 hour",
            "distributed.worker.daemon": True,
        }
    )
