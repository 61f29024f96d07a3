"""What the drop-in commands share: how a run ends, and where its files go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from nanobrag_torch.cli.messages import show_messages
from nanobrag_torch.compat import RESPONSE_ROWS
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import OutputFile
from nanobrag_torch.io.ctext import format_g

BAD_INPUT = 2
INTERRUPTED = 130
NO_MEMORY = "there is not enough memory for an image or a crystal of this size"


def guarded(name: str, run: Callable[[], int], explain: Callable[[InputError], str] = str) -> int:
    """The exit code of a run: its own, 2 after one line on stderr for bad input, or 130 when it is interrupted."""
    show_messages()
    try:
        return run()
    except InputError as error:
        return _refuse(name, explain(error))
    except MemoryError:
        return _refuse(name, NO_MEMORY)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _refuse(name, NO_MEMORY)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; no file is written", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return INTERRUPTED


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch has no class of its own for the memory of the machine."""
    return any(text in str(error) for text in ("not enough memory", "can't allocate memory", "out of memory"))


def _refuse(name: str, reason: str) -> int:
    print(f"{name}: error: {' '.join(reason.split())}", file=sys.stderr)
    return BAD_INPUT


def check_places(files: Sequence[tuple[str, str]], taken: dict[Path, str]) -> None:
    """Raise InputError for an output (flag, path) that cannot be written, or whose place is taken.

    taken: resolved paths, and what they are; the outputs join them.
    """
    for flag, path in files:
        place = Path(path).resolve()
        if place in taken:
            raise InputError(flag, path, f"a name of its own, not that of {taken[place]}")
        if place.exists() and not place.is_file() and not place.is_dir():
            continue  # a pipe or a device such as /dev/null takes anything, and opening it could wait
        taken[place] = flag
        OutputFile(path, flag).discard()


def correction_lines(changed: Iterable[str], what: str = "image") -> Iterator[str]:
    """One line for each row of RESPONSE_ROWS that a run's image felt."""
    rows = {row.id: row for row in RESPONSE_ROWS}
    for name in changed:
        yield f"correction {name} changed the {what}: {rows[name].here} (the C program: {rows[name].c_program})"


def smv_text(pixel_type: str, shape: tuple[int, int], entries: Iterable[tuple[str, float]]) -> str:
    """An SMV header of 512 bytes for pixels (slow, fast), with some entries, as the companion programs write it."""
    lines = [
        "HEADER_BYTES=512;",
        "DIM=2;",
        f"BYTE_ORDER={sys.byteorder}_endian;",
        f"TYPE={pixel_type};",
        f"SIZE1={shape[1]};",
        f"SIZE2={shape[0]};",
        *(f"{key}={format_g(value)};" for key, value in entries),
        "DETECTOR_SN=000;",
        "BEAMLINE=fake;",
    ]
    return "{\n" + "\n".join(lines) + "\n}\f"
