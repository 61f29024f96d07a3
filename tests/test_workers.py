"""Processes that a launcher starts again do not look for those that it killed."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore

from nanobrag_torch.workers import Place, name_of_this_start


def store_that_waits():
    store = HashStore()
    store.set_timeout(timedelta(seconds=20))
    return store


def started(pool, store, ranks):
    return [pool.submit(name_of_this_start, store, Place(rank, 3)) for rank in ranks]


@pytest.mark.parametrize("late", range(3))
def test_processes_of_a_second_start_do_not_take_the_name_of_the_first(late):
    store = store_that_waits()
    with ThreadPoolExecutor(3) as pool:
        first = {found.result() for found in started(pool, store, range(3))}
        early = started(pool, store, (rank for rank in range(3) if rank != late))
        time.sleep(0.05)
        second = {found.result() for found in early + started(pool, store, [late])}
    assert len(first) == len(second) == 1 and first != second


def test_one_that_was_killed_before_it_read_its_name_disturbs_nobody():
    store = store_that_waits()
    store.set("word of rank 2", "of a process that is no more")
    with ThreadPoolExecutor(3) as pool:
        early = started(pool, store, (0, 1))
        time.sleep(0.05)
        names = {found.result() for found in early + started(pool, store, [2])}
    assert len(names) == 1


def test_a_process_that_never_comes_is_named():
    with pytest.raises(TimeoutError, match=r"ranks \[1\] of 2"):
        name_of_this_start(HashStore(), Place(0, 2), patience_s=0.1)
