"""Sums over the processes of an ensemble, with one interface: of one process, of torch.distributed, and through files.

Shots stay with their process; only vectors as long as the list of shared intensities travel, whatever the number of
shots. All sums are float64 and every process gets the same numbers.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.workers import Place, summed

_LOG = logging.getLogger(__name__)


class Reducer(Protocol):
    """Sums tensors over processes, and counts the bytes that leave this one."""

    bytes_sent: int

    def total(self, part: Tensor) -> Tensor:
        """The sum of every process's part, float64, the same in all of them."""


@dataclass
class Local:
    """One process: nothing travels."""

    bytes_sent: int = 0

    def total(self, part: Tensor) -> Tensor:
        """The part itself."""
        return part


@dataclass
class Distributed:
    """The processes of `workers.joined`."""

    bytes_sent: int = 0

    def total(self, part: Tensor) -> Tensor:
        """The sum over torch.distributed."""
        self.bytes_sent += part.numel() * part.element_size()
        return summed(part.contiguous())


@dataclass
class Files:
    """Workers without a network between them: parts are files in a folder that all of them see.

    Sum number n of worker r is `sum_n_r.npy`, renamed into place when it is whole. A worker that is started again does
    the same sums in the same order, and finds those of the others where they are; none waits for a sum that is there.
    Each adds the parts in the order of the workers, so that all have the same bits. Files stay until all have finished.
    """

    folder: Path
    place: Place
    patience_s: float = 3600.0
    silence_s: float = 20.0  # before it is said who is waited for
    pause_s: float = 0.002
    bytes_sent: int = 0
    number: int = field(default=0, init=False)

    def total(self, part: Tensor) -> Tensor:
        """The sum of all workers' files. Raises InputError naming the workers that did not come in time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = self._file(self.place.rank)
        if not own.is_file():
            with open_output(own, "sums") as file:
                np.save(file, part.numpy())
            self.bytes_sent += part.numel() * part.element_size()
        self._wait()
        found = torch.zeros_like(part)
        for rank in range(self.place.size):
            other = np.load(self._file(rank), allow_pickle=False)
            if other.shape != tuple(part.shape):
                accepted = f"{tuple(part.shape)}: all workers with the same list of reflections and the same options"
                raise InputError(os.fspath(self._file(rank)), other.shape, accepted)
            found += torch.from_numpy(other)
        self.number += 1
        return found

    def has_finished(self) -> bool:
        """Whether this worker had finished when others had not, who find its sums; the first has to write all anew."""
        if self.place.rank == 0:
            self._done(0).unlink(missing_ok=True)
        return self._done(self.place.rank).is_file()

    def finish(self) -> None:
        """Say that this worker needs no sum any more; whoever is the last one removes them all."""
        with open_output(self._done(self.place.rank), "sums"):
            pass
        if all(self._done(rank).is_file() for rank in range(self.place.size)):
            shutil.rmtree(self.folder, ignore_errors=True)  # another may be at it as well

    def _done(self, rank: int) -> Path:
        return self.folder / f"done_{rank:05d}"

    def _file(self, rank: int) -> Path:
        return self.folder / f"sum_{self.number:06d}_{rank:05d}.npy"

    def _wait(self) -> None:
        begun, said = time.monotonic(), False
        while missing := [rank for rank in range(self.place.size) if not self._file(rank).is_file()]:
            waited = time.monotonic() - begun
            if waited > self.silence_s and not said:
                said = True
                others = ", ".join(f"{rank + 1}/{self.place.size}" for rank in missing)
                _LOG.info("waiting for sum %d of process %s, at most %g s", self.number, others, self.patience_s)
            if waited > self.patience_s:
                raise InputError("workers", f"no sum {self.number} of {missing}", f"all within {self.patience_s:g} s")
            time.sleep(self.pause_s)
