"""The table of a recipe's keys, from the dataclasses of nanobrag_torch.datasets.recipe and the remarks beside them."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from nanobrag_torch.datasets.draws import Fixed
from nanobrag_torch.datasets.recipe import CrystalPart, Recipe

INTRODUCTION = """Every key of a recipe. *drawn* means that a number may be a distribution; a key with several
components takes a list. Paths are relative to the recipe. Start from an example: `nb dataset --example rotation`,
`stills`, `serial` or `ml`; [data sets](datasets.md) says how they are made."""
_REMARK = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)


def recipe_keys() -> Iterator[str]:
    """The page, line by line."""
    yield from ("# Keys of a recipe", "", INTRODUCTION)
    for part in fields(Recipe):
        kind: Any = CrystalPart if part.name == "crystal" else type(part.default)
        title = "`[crystal]`, or several `[[crystal]]`" if part.name == "crystal" else f"`[{part.name}]`"
        yield from ("", f"## {title}", "", str(inspect.getdoc(kind)), "")
        yield "| key | default | takes | remark |"
        yield "|---|---|---|---|"
        remarks = dict(_REMARK.findall(inspect.getsource(kind)))
        yield from (_row(key, remarks.get(key.name, "")) for key in fields(kind))


def _row(key: Field[Any], remark: str) -> str:
    return f"| `{key.name}` | {_default(key)} | {_takes(key)} | {remark.replace('|', chr(92) + '|')} |"


def _default(key: Field[Any]) -> str:
    value = key.default
    if value is None or value == "":
        return ""
    if isinstance(value, tuple) and value and isinstance(value[0], Fixed):
        value = value[0].number if len({draw.number for draw in value}) == 1 else [draw.number for draw in value]
    return f"`{list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}`"


def _takes(key: Field[Any]) -> str:
    options = key.metadata
    if options.get("accepted"):
        return ", ".join(f"`{word}`" for word in options["accepted"])
    if "size" in options:
        count = "" if options["size"] == 1 else f"{options['size']} "
        kind = "whole numbers" if options["whole"] else "numbers"
        return f"{count}{kind if options['size'] > 1 else kind[:-1]}, drawn{_limits(options)}"
    if "pair" in options or "triple" in options:
        return "2 whole numbers" if "pair" in options else "3 numbers"
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    word = "file" if options.get("path") == "always" else kinds[type(key.default)]
    return word + _limits(options)


def _limits(options: Mapping[str, Any]) -> str:
    low, high = options.get("low", -math.inf), options.get("high", math.inf)
    words = [f"from {low:g}"] * math.isfinite(low) + [f"to {high:g}"] * math.isfinite(high)
    return f" {' '.join(words)}" if words else ""
