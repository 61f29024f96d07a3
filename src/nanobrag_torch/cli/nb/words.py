"""Words of `nb` before they are parsed: short forms of values that options take apart, and words for every verb."""

from __future__ import annotations

from collections.abc import Sequence

VALUES = {"--cell": 6, "--misset": 3, "--cells": 3, "-N": 3}
"""Options of several numbers -> how many: they may be given in one word, with commas."""
ONE_FOR_ALL = ("--cells", "-N")
"""Options where one number stands for all of them."""
LOUDNESS = {"--quiet": "quiet", "--verbose": "verbose"}


def in_full(words: Sequence[str]) -> list[str]:
    """The words with the values of VALUES as single words; what comes after -- is left alone."""
    stop = words.index("--") if "--" in words else len(words)
    found: list[str] = []
    left = list(words[:stop])
    while left:
        word = left.pop(0)
        name, _, value = word.partition("=")
        if name not in VALUES:
            found.append(word)
            continue
        if value:
            left.insert(0, value)
        found += [name, *_values(left, VALUES[name], name in ONE_FOR_ALL)]
    return [*found, *words[stop:]]


def _values(left: list[str], wanted: int, one_for_all: bool) -> list[str]:
    """Take the values of an option off the words that are left."""
    values: list[str] = []
    while left and len(values) < wanted and _is_numeric(left[0]):
        values += [part for part in left.pop(0).split(",") if part]
    return values * wanted if one_for_all and len(values) == 1 else values


def _is_numeric(word: str) -> bool:
    try:
        return bool([float(part) for part in word.split(",") if part])
    except ValueError:
        return False


def loudness(words: Sequence[str]) -> tuple[list[str], str]:
    """The words without --quiet and --verbose, wherever they stand before --, and which was asked for last."""
    stop = words.index("--") if "--" in words else len(words)
    asked = [LOUDNESS[word] for word in words[:stop] if word in LOUDNESS]
    kept = [word for word in words[:stop] if word not in LOUDNESS]
    return [*kept, *words[stop:]], asked[-1] if asked else ""
