"""Where every exception of a command ends: one line on stderr and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import sys
import traceback
from collections.abc import Callable

from nanobrag_torch.cli.interrupts import interruptible
from nanobrag_torch.cli.messages import show_messages
from nanobrag_torch.errors import LONGEST, InputError

BAD_INPUT = 2
INTERRUPTED = 130
NO_MEMORY = "there is not enough memory for an image or a crystal of this size"
TRACEBACK = "NANOBRAG_TORCH_TRACEBACK"
"""Set in the environment, it shows where an unexpected exception came from; it changes no result."""


def exit_code(program: str, work: Callable[[], int], *, in_words: Callable[[InputError], str] = str) -> int:
    """Run a command: its own code, 2 for bad input or what nobody foresaw, 130 when it is interrupted.

    in_words: how an InputError is said (with fields as flags, say).
    """
    show_messages()
    _end_soon()
    interrupted = f"{program}: interrupted; no file is written"
    try:
        with interruptible(interrupted, INTERRUPTED):
            return work()
    except InputError as error:
        return refuse(program, in_words(error))
    except MemoryError:
        return refuse(program, NO_MEMORY)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _close_pipes()
        return INTERRUPTED
    except Exception as error:  # whatever a library raises that no reader expected; said in a line all the same
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        if _is_out_of_memory(error):
            return refuse(program, NO_MEMORY)
        return refuse(program, f"{type(error).__name__}: {error} (not foreseen; {TRACEBACK}=1 shows where)")


@functools.cache
def _end_soon() -> None:
    """Python looks for garbage twice as it ends: not among modules, which takes half a second."""
    atexit.register(_leave_alone)


def _leave_alone() -> None:
    if "triton" not in sys.modules:  # which counts what is left of it, and calls that leaked
        gc.freeze()


def refuse(program: str, reason: str) -> int:
    """Say why in one line, and return the exit code for bad input."""
    line = " ".join(reason.split())
    print(f"{program}: error: {line if len(line) <= LONGEST else line[: LONGEST - 3] + '...'}", file=sys.stderr)
    return BAD_INPUT


def _close_pipes() -> None:
    """The reader of our output is gone: nothing more can be said, and Python must not try to at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_out_of_memory(error: Exception) -> bool:
    """torch has no class of its own for the memory of the machine."""
    return any(text in str(error) for text in ("not enough memory", "can't allocate memory", "out of memory"))
