"""Constants that compiled code takes from a module, `at.LANES`: numba is handed the number where it would look it up.

numba types and lowers every attribute of a module by itself, which took a sixth of the time to compile the kernels.
"""

from __future__ import annotations

import dis
import functools
import math
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any

_LOAD, _ATTRIBUTE, _NOTHING, _PREFIX = (dis.opmap[name] for name in ("LOAD_GLOBAL", "LOAD_ATTR", "NOP", "EXTENDED_ARG"))
_ATTRIBUTE_BITS = 1 if sys.version_info >= (3, 12) else 0  # below the number of the name; one of a global
_MOST_NAMES = 2**15


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a string or a tuple of such."""
    return all(map(is_plain, value)) if isinstance(value, tuple) else isinstance(value, (int, float, complex, str))


def with_constants(code: CodeType, scope: Mapping[str, Any]) -> tuple[CodeType, dict[str, Any]]:
    """The code with `module.NAME` as one global, called so, and these globals.

    Constants that a module names in LOOKED_UP stay: a global is a type of its own to numba, for which what it is passed
    to would compile once more. The code is as it was where Python's instructions are of a form that is not known.
    """
    return _rewritten(code, scope) if _knows_instructions() else (code, {})


def _rewritten(code: CodeType, scope: Mapping[str, Any]) -> tuple[CodeType, dict[str, Any]]:
    found, names, raw = dict[str, Any](), {name: i for i, name in enumerate(code.co_names)}, bytearray(code.co_code)
    for start, end, module, name in _uses(code, scope):
        value, dotted = getattr(scope[module], name, None), f"{module}.{name}"
        if is_plain(value) and name not in getattr(scope[module], "LOOKED_UP", ()) and len(names) < _MOST_NAMES:
            high, low = divmod(2 * names.setdefault(dotted, len(names)), 256)
            load = bytes((_PREFIX, high, _LOAD, low)) + bytes(2 * _unused(_LOAD))
            raw[2 * start : 2 * end] = load + bytes((_NOTHING, 0)) * (end - start - len(load) // 2)
            found[dotted] = value
    return code.replace(co_code=bytes(raw), co_names=tuple(names)), found


def _uses(code: CodeType, scope: Mapping[str, Any]) -> Iterator[tuple[int, int, str, str]]:
    """Where a constant of a module is taken: instructions from and to, and the two names."""
    operations, numbers, names = code.co_code[::2], code.co_code[1::2], code.co_names
    modules = {i for i, name in enumerate(names) if isinstance(scope.get(name), ModuleType)}
    start = operations.find(_LOAD) if modules else -1
    while start >= 0:
        module = (numbers[start] + 256 * _prefix(operations, numbers, start)) >> 1
        after = start + 1 + _unused(_LOAD)
        after += operations[after] == _PREFIX
        if module in modules and operations[after] == _ATTRIBUTE:
            name = (numbers[after] + 256 * _prefix(operations, numbers, after)) >> _ATTRIBUTE_BITS
            first = start - (start > 0 and operations[start - 1] == _PREFIX)
            yield first, after + 1 + _unused(_ATTRIBUTE), names[module], names[name]
        start = operations.find(_LOAD, start + 1)


def _prefix(operations: bytes, numbers: bytes, place: int) -> int:
    return numbers[place - 1] if place and operations[place - 1] == _PREFIX else 0


@functools.cache
def _unused(operation: int) -> int:
    """Places behind an instruction that are for Python's own use."""
    counts: Any = getattr(dis, "_inline_cache_entries", {})
    found = counts.get(dis.opname[operation], 0) if isinstance(counts, dict) else counts[operation]
    return int(found)


@functools.cache
def _knows_instructions() -> bool:
    """Whether instructions of this Python are of the form that is rewritten here: it is tried."""
    try:
        code, found = _rewritten(_probe.__code__, {"math": math})
        said = [(one.opname, one.argval) for one in dis.get_instructions(code) if one.opname.startswith("LOAD_")]
    except (IndexError, ValueError):
        return False
    return found == {"math.pi": math.pi} and said[-2:] == [("LOAD_FAST", "x"), ("LOAD_GLOBAL", "math.pi")]


def _probe(x: float) -> float:
    return x * math.pi
