"""Processes that work together: which of them this one is, how many there are, and which part of the work is its own.

A launcher says so in the environment of each process: srun, torchrun and mpirun each have their own names for it. The
result of a computation never depends on it; only who computes what does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING
from uuid import uuid4

from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

PAUSE_S = 0.005  # between two looks at who has come

LAUNCHERS: dict[str, tuple[str, str]] = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # a batch script alone has SLURM_NTASKS, and is one process
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH": ("PMI_RANK", "PMI_SIZE"),
}
"""Launcher -> environment variables of a process's rank and of the number of processes, in the order of asking."""


LAUNCHED = "NANOBRAG_TORCH_LAUNCHED"
"""Environment variable of processes that end with the one that started them, which holds their standard input open."""


@dataclass(frozen=True)
class Place:
    """The rank of a process, from 0, among `size` processes."""

    rank: int = 0
    size: int = 1
    launcher: str = ""  # what started it; empty when nothing did

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise InputError("rank, size", (self.rank, self.size), "a rank from 0 to size - 1")

    def share(self, count: int) -> range:
        """This process's part of the numbers 0 to count - 1: every size-th of them."""
        return range(self.rank, count, self.size)


def place_of_process(environment: Mapping[str, str] | None = None) -> Place:
    """Where this process stands among those that srun, torchrun or mpirun started; rank 0 of 1 without them.

    Raises InputError for numbers that are none, or that contradict each other.
    """
    given = os.environ if environment is None else environment
    for launcher, (rank, size) in LAUNCHERS.items():
        if rank in given and size in given:
            try:
                return Place(int(given[rank]), int(given[size]), launcher)
            except ValueError as error:
                found = (given[rank], given[size])
                raise InputError(f"{rank}, {size}", found, "a rank from 0 to size - 1, in whole numbers") from error
    return Place()


@contextmanager
def joined(place: Place, device: str = "cpu") -> Iterator[None]:
    """Within it the processes that a launcher started can sum tensors: by gloo on CPUs, by nccl on GPUs.

    Raises InputError where the launcher has not said by which address they find each other.
    """
    if place.size == 1:
        yield
        return
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(", ".join(missing), None, "the address of the first process (torchrun sets it; srun does not)")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    store, rank, size = next(rendezvous("env://", place.rank, place.size))
    own = PrefixStore(name_of_this_start(store, place), store)
    distributed.init_process_group(backend, store=own, rank=rank, world_size=size)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def name_of_this_start(store: Store, place: Place, patience_s: float = 300.0) -> str:
    """A name that all processes of this start, and none of an earlier one, have; waits until each of them is there.

    torchrun keeps one store over its restarts. In it gloo and nccl look up where a rank is found, and would find the
    address of a process that was killed where its successor has not yet written its own. So rank 0 makes up a name each
    time, and leaves it under a word that the other has just made up, until the other says that it has read it.
    Raises TimeoutError where a process does not come within `patience_s`.
    """
    own = uuid4().hex
    if place.rank:
        store.set(f"word of rank {place.rank}", own)
        name = str(store.get(own), "ascii")
        store.set(f"{name} is read by rank {place.rank}", "")
        return name
    missing, end = set(range(1, place.size)), monotonic() + patience_s
    while missing:
        if monotonic() > end:
            raise TimeoutError(f"ranks {sorted(missing)} of {place.size} did not come in {patience_s:g} s")
        for word in (f"word of rank {rank}" for rank in missing):
            if store.check([word]):  # perhaps the word of a process that was killed: then nobody reads what it finds
                store.set(str(store.get(word), "ascii"), own)
        missing = {rank for rank in missing if not store.check([f"{own} is read by rank {rank}"])}
        sleep(PAUSE_S)
    return own


def summed(part: Tensor) -> Tensor:
    """The sum of a tensor over all joined processes, the same in each; the tensor itself where one is alone."""
    import torch.distributed as distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return part
    total = part.clone()
    distributed.all_reduce(total)
    return total


def end_with_launcher() -> None:
    """A process of a run that is killed ends too: it would write beside the run that goes on, and wait for others."""
    if os.environ.pop(LAUNCHED, ""):
        threading.Thread(target=_end_at_the_end_of_input, daemon=True).start()


def _end_at_the_end_of_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
