"""The two passes over the command line (reference-behaviour 1.1): values are looked at, never consumed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from nanobrag_torch.cli.nanobragg.flags import FLAGS, RUN, Flag, fired_by, spellings_of
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.compat import Compat
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.ctext import c_atof, c_atoi
from nanobrag_torch.units import EV_ANGSTROM

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
_ACCEPTED = {"real": "a number", "int": "a whole number", "word": "a word", "file": "a file name"}


def last_value(words: Sequence[str], flag: str) -> str | None:
    """What follows the last appearance of a word, for the few flags that must be known before parsing.

    Raises InputError when nothing follows.
    """
    for at in reversed([i for i, word in enumerate(words) if word == flag]):
        if at + 1 == len(words):
            raise InputError(flag, "nothing", "a word")
        return words[at + 1]
    return None


def compat_of(words: Sequence[str]) -> Compat:
    """The compatibility switches that the command line asks for. Raises InputError for unknown modes."""
    try:
        return Compat.of(last_value(words, "-compat") or "corrected", last_value(words, "-phi_mode"))
    except InputError as error:
        raise InputError(f"-{error.name.lstrip('-')}", error.value, error.accepted) from None


def header_files(words: Sequence[str]) -> tuple[str | None, str | None]:
    """First pass: the files of -mask and -img, whose headers are read before any other flag counts."""
    found: dict[str, str | None] = {"-mask": None, "-img": None}
    for at, word in enumerate(words):
        for pattern in found:
            if word.startswith("-") and pattern in word:
                found[pattern] = _take(words, at, 1)[0]
    return found["-mask"], found["-img"]


def apply_words(
    request: Request, words: Sequence[str], compat: Compat, *, as_c_reads: bool, table: tuple[Flag, ...] = FLAGS
) -> None:
    """Second pass: every word that begins with a dash is held against every row of the table, in order.

    request: what the rows of the table set. as_c_reads: a text that is not a number counts as its longest numeric
    prefix, as C `atof` has it; else it is an InputError. Missing values are an InputError always.
    """
    known: set[int] = set()
    claimed: set[int] = set()
    spellings = spellings_of(table)
    for at, word in enumerate(words):
        place = _Place(words, at, as_c_reads, claimed)
        before = len(request.fired)
        if word.startswith("-") and _apply_word(request, place, compat, table):
            known.add(at)
            if word not in spellings:
                taken = ", ".join(request.fired[before:])
                request.warnings.append(f"{word!r} is no flag; it is taken for {taken}, as the C program takes it")
    request.warnings += _unclaimed(words, known | claimed, table)


def _apply_word(request: Request, place: _Place, compat: Compat, table: tuple[Flag, ...]) -> bool:
    """Fire every row that matches one word; the places of the values it read are claimed."""
    matched = False
    for flag in fired_by(place.word, table):
        place.shadowed = bool(flag.shadow) and flag.shadow in place.word
        if place.shadowed and not getattr(compat, flag.shadow_switch):
            continue
        matched = True
        effect = SPECIAL.get(flag.special, _plain)
        stop = effect(request, flag, place)
        request.fired.append(flag.names[0])
        for name, value in flag.puts:
            setattr(request, name, value)
        if stop:
            break
    return matched


class _Place:
    """A flag on the command line: reads and claims the words after it."""

    shadowed = False  # the word is that of another flag, which shadows this one

    def __init__(self, words: Sequence[str], at: int, as_c_reads: bool, claimed: set[int]) -> None:
        self.words, self.at, self.as_c_reads, self.claimed = words, at, as_c_reads, claimed

    @property
    def word(self) -> str:
        return self.words[self.at]

    def following(self) -> list[str]:
        return list(self.words[self.at + 1 :])

    def claim(self, count: int) -> None:
        self.claimed.update(range(self.at + 1, self.at + 1 + count))

    def take(self, kinds: Sequence[str]) -> list[float | int | str]:
        texts = _take(self.words, self.at, len(kinds), " ".join(_ACCEPTED[k] for k in kinds[:1]))
        self.claim(len(kinds))
        return [self.value(kind, text) for kind, text in zip(kinds, texts, strict=True)]

    def value(self, kind: str, text: str) -> float | int | str:
        if kind == "real":
            return self.real(text)
        if kind == "int":
            if not self.as_c_reads and not _WHOLE_NUMBER.fullmatch(text):
                raise InputError(self.word, text, _ACCEPTED["int"])
            return c_atoi(text)
        if not text:
            raise InputError(self.word, text, _ACCEPTED[kind])
        return text

    def real(self, text: str) -> float:
        if not self.as_c_reads and not _NUMBER.fullmatch(text):
            raise InputError(self.word, text, _ACCEPTED["real"])
        return c_atof(text)


def _take(words: Sequence[str], at: int, count: int, accepted: str = "a file name") -> list[str]:
    texts = list(words[at + 1 : at + 1 + count])
    if len(texts) < count:
        many = accepted if count == 1 else f"{count} values, each {accepted}"
        raise InputError(words[at], " ".join(texts) or "nothing", many)
    return texts


def _plain(request: Request, flag: Flag, place: _Place) -> bool:
    """The effect of most flags: each value to its field, or one value to several, or three to a vector."""
    values = place.take(flag.values)
    if not flag.sets and any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise InputError(place.word, values[0] if len(values) == 1 else tuple(values), "finite numbers")
    if len(flag.sets) == 1 and len(values) > 1:
        setattr(request, flag.sets[0], tuple(values))
    elif values:
        for i, name in enumerate(flag.sets):
            setattr(request, name, values[min(i, len(values) - 1)])
    return flag.stop


def _cell(request: Request, flag: Flag, place: _Place) -> bool:
    texts: list[str] = []
    for text in place.following()[:6]:
        if text.startswith("-"):
            break
        texts.append(text)
    if not texts:
        first = next(iter(place.following()), "nothing")
        raise InputError(place.word, first, "a [b c alpha beta gamma], none with a minus sign")
    place.claim(len(texts))
    request.cell = tuple(place.real(text) for text in texts)
    return len(texts) < 6


def _misset(request: Request, flag: Flag, place: _Place) -> bool:
    following = place.following()
    if following and "rand" in following[0]:
        place.claim(1)
        request.misset_choice = "random"
        return True
    if place.shadowed:
        return _misset_of_seed(request, place, _known_to_c(following))
    x, y, z = (float(v) for v in place.take(flag.values))
    request.misset_deg, request.misset_choice = (x, y, z), "angles"
    return False


def _misset_of_seed(request: Request, place: _Place, following: Sequence[str]) -> bool:
    """D9: -misset_seed also reads three words as angles, where there are three."""
    if len(following) >= 3:
        x, y, z = (place.real(text) for text in following[:3])
        request.misset_deg, request.misset_choice = (x, y, z), "angles"
    return False


def _known_to_c(words: Sequence[str]) -> list[str]:
    """The words without the flags, and their values, that the C program does not have."""
    kept, skip = [], 0
    for word in words:
        own = next((flag for flag in RUN if flag.matches(word)), None)
        if own is not None:
            skip = 1 + len(own.values)
        if skip == 0:
            kept.append(word)
        skip = max(0, skip - 1)
    return kept


def _pivot(request: Request, flag: Flag, place: _Place) -> bool:
    word = str(place.take(flag.values)[0])
    for name in ("beam", "sample"):  # the C program tests sample first and beam second, so beam wins
        if name in word:
            request.pivot, request.pivot_on_line = name, True
            return False
    raise InputError(place.word, word, "sample, beam")


def _detector_abs(request: Request, flag: Flag, place: _Place) -> bool:
    text = str(place.take(flag.values)[0])
    depth = math.inf if "inf" in text else place.real(text)
    if depth in (0.0, math.inf):
        request.abs_um, request.thick_um = math.inf, 0.0
    else:
        request.abs_um = depth
    return False


def _energy(request: Request, flag: Flag, place: _Place) -> bool:
    energy_eV = float(place.take(flag.values)[0])
    if not 0 < energy_eV < math.inf:
        raise InputError(place.word, energy_eV, "a photon energy above 0 eV")
    request.lambda_A = EV_ANGSTROM / energy_eV
    return False


def _stol(request: Request, flag: Flag, place: _Place) -> bool:
    request.stolfiles.append((place.word, str(place.take(flag.values)[0])))
    return False


def _batch_size(request: Request, flag: Flag, place: _Place) -> bool:
    """A flag of another program; -pixel is a part of it, and the C program reads that."""
    if place.as_c_reads:
        request.warnings.append(f"{place.word} is read as -pixel, as the C program reads it: the edge of a pixel in mm")
        return False
    place.take(flag.values)
    request.warnings.append(f"{place.word} is ignored: memory is bounded, whatever the size of the image")
    return True


Effect = Callable[[Request, Flag, _Place], bool]
SPECIAL: dict[str, Effect] = {
    "cell": _cell, "misset": _misset, "pivot": _pivot, "detector_abs": _detector_abs, "energy": _energy, "stol": _stol,
    "batch_size": _batch_size,
}  # fmt: skip
"""Effects that the columns of the table cannot say; each answers whether no later row may see the word."""


def _unclaimed(words: Sequence[str], claimed: set[int], table: Sequence[Flag]) -> list[str]:
    """A warning for each unknown flag, and for each word that no flag read and that follows no unknown flag."""
    warnings, after_unknown = [], False
    for at, word in enumerate(words):
        if at in claimed:
            after_unknown = False
        elif word.startswith("-") and not _NUMBER.fullmatch(word):
            after_unknown = True
            warnings.append(f"unknown flag {word!r} is ignored; nearest known flag: {nearest_flag(word, table)}")
        elif not after_unknown:
            warnings.append(f"word {word!r} belongs to no flag and is ignored")
    return warnings


def nearest_flag(word: str, table: Sequence[Flag] = FLAGS) -> str:
    """The flag of a table that looks most like the word."""
    from difflib import SequenceMatcher

    known = [name for flag in table for name in flag.names]
    return max(known, key=lambda name: SequenceMatcher(None, word.lower(), name.lower()).ratio())
