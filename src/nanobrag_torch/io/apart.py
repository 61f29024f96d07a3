"""Files of other people are opened in a process of its own, so that what a library does there cannot end this one.

libhdf5 crashes or loops on some damaged files, and a crash cannot be caught. One child is started when it is first
needed and kept: a call costs a millisecond, its start half a second. It is a fresh interpreter, not a fork (threads of
torch would be lost in it) and not of multiprocessing (which runs the user's script again).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from nanobrag_torch.errors import DamagedError, InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CPU_SECONDS = 3
"""Of one call: a frame of 16 million pixels takes a tenth of a second; a loop never ends."""
WALL_SECONDS = 300.0
"""Of one call that waits, for a slow disk."""
MEMORY_BYTES = 3 * 2**30 // 2
"""That a child may hold beyond what its code takes."""
_LENGTH = struct.Struct("<Q")
_LOCK = threading.Lock()
_CHILD: list[subprocess.Popen[bytes]] = []


def apart(path: str | os.PathLike[str], accepted: str, function: str, *arguments: Any) -> Any:
    """What `function` ("module:name") returns for arguments that can be pickled, worked out by the child.

    Raises what the function raises, or InputError naming the file where the child crashed, took more than CPU_SECONDS
    or needed more than MEMORY_BYTES.
    """
    with _LOCK:
        child = _running()
        answer = _ask(child, pickle.dumps((Path.cwd(), function, arguments)))
        if isinstance(answer, str):
            _end(child)
            raise DamagedError(str(path), answer, accepted)
    succeeded, value, said = pickle.loads(answer)
    for name, level, message in said:
        logging.getLogger(name).log(level, "%s", message)
    if succeeded:
        return value
    if isinstance(value, MemoryError):
        why = f" ({value})" if str(value) else ""  # numpy says for what, and how much
        raise InputError(str(path), f"needs more than the {MEMORY_BYTES >> 20} MB of a reader{why}", accepted)
    raise value


def _running() -> subprocess.Popen[bytes]:
    if _CHILD and _CHILD[0].poll() is None:
        return _CHILD[0]
    for ended in tuple(_CHILD):  # between two calls: by no file's fault, and its pipes are still open
        _end(ended)
    code = "from nanobrag_torch.io.apart import serve; serve()"
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libhdf5 prints its stack there
        env=environment,
        start_new_session=True,  # Ctrl-C is for the parent, which ends the child
    )
    _CHILD.append(child)
    return child


def _ask(child: subprocess.Popen[bytes], request: bytes) -> bytes | str:
    """The answer, or why there is none."""
    assert child.stdin is not None and child.stdout is not None
    impatience = threading.Timer(WALL_SECONDS, child.kill)
    impatience.daemon = True
    impatience.start()
    try:
        child.stdin.write(_LENGTH.pack(len(request)) + request)
        child.stdin.flush()
        head = child.stdout.read(_LENGTH.size)
        body = child.stdout.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    except OSError:  # a broken pipe: it is gone
        head = body = b""
    except BaseException:  # an interrupt must not leave half an answer in the pipe for the next call
        _end(child)
        raise
    finally:
        impatience.cancel()
    if len(head) == _LENGTH.size and len(body) == _LENGTH.unpack(head)[0]:
        return body
    return _cause(child.wait())


def _cause(code: int) -> str:
    """Why a child ended, by its exit code: minus the number of the signal that ended it."""
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"damaged: reading it does not end within {CPU_SECONDS} seconds"
    if code == -getattr(signal, "SIGKILL", 9):
        return f"no answer within {WALL_SECONDS:g} seconds, or no memory"
    return "damaged: the library that reads it crashed"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child; the next call starts another."""
    if child in _CHILD:
        _CHILD.remove(child)
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@atexit.register
def end_children() -> None:
    """End the child, if there is one."""
    for child in list(_CHILD):
        _end(child)


def serve() -> None:
    """What the child does: answer requests until the parent is gone."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    logging.getLogger("nanobrag_torch").setLevel(logging.DEBUG)  # the parent knows what is to be shown
    _limit_memory()
    while (head := requests.read(_LENGTH.size)) and len(head) == _LENGTH.size:
        folder, function, arguments = pickle.loads(requests.read(_LENGTH.unpack(head)[0]))
        _limit_time()
        os.chdir(folder)  # paths are relative to where the parent is now
        _send(answers, _answer(function, arguments))


def _answer(function: str, arguments: tuple[Any, ...]) -> bytes:
    """Whether it succeeded, the result or the error, and what was logged meanwhile."""
    module, name = function.split(":")
    said: list[tuple[str, int, str]] = []
    listener = _Listener(said)
    logging.getLogger("nanobrag_torch").addHandler(listener)
    try:
        return pickle.dumps((True, getattr(import_module(module), name)(*arguments), said), protocol=5)
    except MemoryError as error:
        return pickle.dumps((False, MemoryError(" ".join(str(error).split())[:120]), said))
    except InputError as error:
        return pickle.dumps((False, error, said))
    except Exception as error:  # libraries raise all kinds, not all of which can be pickled
        return pickle.dumps((False, ValueError(f"{type(error).__name__}: {error}"), said))
    finally:
        logging.getLogger("nanobrag_torch").removeHandler(listener)


class _Listener(logging.Handler):
    """Keeps what is logged, for the parent to say."""

    def __init__(self, said: list[tuple[str, int, str]]) -> None:
        super().__init__()
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Note name, level and text."""
        self.said.append((record.name, record.levelno, record.getMessage()))


def _send(answers: BinaryIO, answer: bytes) -> None:
    answers.write(_LENGTH.pack(len(answer)))
    answers.write(answer)
    answers.flush()


def _limit_memory() -> None:
    """Bound what the child allocates, where the system can; Windows has no limits of this kind."""
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    """Let the system end the child when this call has taken CPU_SECONDS more, also where the parent is gone by then."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + CPU_SECONDS, most))
