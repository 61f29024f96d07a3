"""Constants of modules in compiled code."""

from __future__ import annotations

import dis
import math
from types import FunctionType, ModuleType

import pytest

from nanobrag_torch import compiled_constants
from nanobrag_torch.compilation import compiled
from nanobrag_torch.compiled_constants import with_constants
from nanobrag_torch.kernels.cpu import layout as at


def area(radius: float) -> float:
    total = 0.0
    for _ in range(3):
        total += math.pi * radius**2 if radius > math.e else math.sqrt(radius)
    return total


@compiled()
def places(first: int) -> int:
    return first + at.LANES + at.FIRST + int(math.floor(math.pi))


def test_a_constant_is_one_global_and_the_code_does_the_same():
    code, found = with_constants(area.__code__, {"math": math})
    assert found == {"math.pi": math.pi, "math.e": math.e}  # a function stays with its module
    assert {"math.pi", "math.e"} <= {one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    changed = FunctionType(code, {**vars(math), "math": math, "range": range, **found})
    assert [changed(x) for x in (0.5, 2.0, 4.0)] == [area(x) for x in (0.5, 2.0, 4.0)]


def test_more_names_than_an_instruction_counts():
    """The number of a name is in two bytes then, with a prefix."""
    module = ModuleType("many")
    names = [f"n{i}" for i in range(400)]
    vars(module).update({name: i for i, name in enumerate(names)})
    scope: dict[str, object] = {}
    exec("def total():\n    return " + " + ".join(f"many.{name}" for name in names), scope)
    function = scope["total"]
    assert isinstance(function, FunctionType)
    code, found = with_constants(function.__code__, {"many": module})
    assert len(found) == 400 and FunctionType(code, found)() == 399 * 200


@pytest.mark.parametrize("others", [126, 127, 128, 300])
def test_modules_behind_more_names_than_an_instruction_counts(others: int):
    """The module itself is taken with a prefix then, which must not become one of the constant's number."""
    scope: dict[str, object] = {f"g{i}": 1 for i in range(others)} | {"math": math, "at": at}
    lines = [f"    x += g{i}" for i in range(others)]
    exec("\n".join(["def total(x):", *lines, "    return x + math.pi + at.LANES"]), scope)
    function = scope["total"]
    assert isinstance(function, FunctionType)
    code, found = with_constants(function.__code__, scope)
    changed = [one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"]
    assert changed == [*(f"g{i}" for i in range(others)), "math.pi", "at.LANES"]
    assert FunctionType(code, {**scope, **found})(2.0) == function(2.0)


def test_what_a_module_says_is_looked_up_stays():
    code, found = with_constants(places.function.__code__, {"at": at, "math": math})
    assert found == {"at.LANES": at.LANES, "math.pi": math.pi} and "FIRST" in code.co_names
    assert places(1) == 1 + at.LANES + 3


def test_instructions_of_another_form_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled_constants, "_knows_instructions", lambda: False)
    assert with_constants(area.__code__, {"math": math}) == (area.__code__, {})
