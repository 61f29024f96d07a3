"""What a reader does with a damaged file: one line that names it, whatever its library raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from nanobrag_torch.errors import DamagedError, InputError
from nanobrag_torch.io.apart import apart as run_apart

P = ParamSpec("P")
R = TypeVar("R")


def guarded(reader: Callable[P, R], accepted: str, *, apart: bool = False) -> Callable[P, R]:
    """A reader whose first argument is a path, and that raises InputError for whatever is wrong with the file.

    apart: its work is done in a process of its own, which may crash; it must be a function of a module then.
    """

    @functools.wraps(reader)
    def read(*arguments: P.args, **named: P.kwargs) -> R:
        path = str(arguments[0])
        try:
            if apart:
                found: R = run_apart(path, accepted, "nanobrag_torch.io.guard:call", reader, arguments, named)
                return found
            return reader(*arguments, **named)
        except InputError:
            raise
        except MemoryError:
            raise InputError(str(path), "needs more memory than there is", accepted) from None
        except (
            Exception
        ) as error:  # parsers of libraries, and ours, meet nonsense in more ways than they have names for
            raise DamagedError(str(path), f"damaged: {reason(error)}", accepted) from error

    return read


def guards(accepted: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: the same for a reader that is called by its own name."""
    return lambda reader: guarded(reader, accepted)


def call(reader: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Run a reader; the one function that the process apart is asked for."""
    return reader(*arguments, **named)


def reason(error: BaseException) -> str:
    """An exception in a few words."""
    text = " ".join(str(error).split())
    return f"{text[:120]} ({type(error).__name__})" if text else type(error).__name__
