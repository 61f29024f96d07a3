"""Damage to files, of which a seed says all: single bytes, words and numbers, and what the file is made of."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = [
    "nan", "inf", "-inf", "0", "-0", "-1", "1.5", "1e-320", "1e-30", "1e30", "1e308", "1e999", "-1e308", "65536",
    "2147483647", "-2147483648", "4294967296", "9223372036854775808", "1" * 400, "0x10", "1_0", "1,0", "--1", "1e", "٣",
]  # fmt: skip
WORDS = [
    "",
    "?",
    ".",
    "null",
    "true",
    "[]",
    "{}",
    "x" * 5000,
    "\0",
    "\n",
    "é",
    "\u2028",
    "'",
    '"',
    "/dev/zero",
    "../x",
    "%s",
    "#",
]
VALUES: list[Any] = [
    None, True, 0, -1, 1, 1.5, 2**31, 2**63, -(2**63), 10**30, 1e308, 1e-320, float("nan"), float("inf"), "",
    "x" * 5000, [], {}, [[]], [0, 0, 0], [1e308] * 3, "nan", b"".hex(),
]  # fmt: skip
BINARY = [
    struct.pack(kind, value)
    for kind, values in {
        "<i": (0, -1, 1, 2**31 - 1, -(2**31)), ">i": (1, 2**31 - 1), "<q": (2**62, -1), "<H": (0, 65535),
        "<f": (float("nan"), float("inf"), -1.0, 1e38, 0.5), "<d": (float("nan"), float("-inf"), 1e308, -1.0, 1e8),
    }.items()
    for value in values
]  # fmt: skip
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_][\w.-]*")
Mutation = Callable[[bytes, random.Random], bytes]


def mutant(seed: bytes, kind: str, index: int, trees: Mutation | None) -> bytes:
    """The file that number `index` makes of a seed: one to three kinds of damage, now and then packed by gzip.

    trees: damage to the structure of a format that is neither text nor plain bytes.
    """
    chance = random.Random(f"{kind} {index}")
    choices = [_bytes, _bytes, _numbers, _numbers, _words, _lines] + ([trees] * 4 if trees else [])
    content = seed
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        content = chance.choice(choices)(content, chance)
    if chance.random() < 0.02:
        content = gzip.compress(content, 1, mtime=0)
        content = _bytes(content, chance) if chance.random() < 0.5 else content
    return content


def _bytes(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content or b"\0")
    here = chance.randrange(len(data))
    length = min(chance.choice([1, 2, 4, 16, 80, 512]), len(data) - here)
    match chance.randrange(8):
        case 0:
            data[here] ^= 1 << chance.randrange(8)
        case 1:
            data[here] = chance.choice([0, 9, 10, 13, 32, 34, 127, 128, 255])
        case 2:
            del data[here:]
        case 3:
            del data[here : here + length]
        case 4:
            data[here:here] = data[here : here + length]
        case 5:
            data[here : here + length] = chance.randbytes(length)
        case 6:
            there = chance.randrange(len(data))
            data[here : here + length] = data[there : there + length]
        case _:
            value = chance.choice(BINARY)
            here -= here % len(value) if chance.random() < 0.8 else 0
            data[here : here + len(value)] = value
    return bytes(data)


def _replaced(content: bytes, pattern: re.Pattern[bytes], chance: random.Random, new: Callable[[bytes], str]) -> bytes:
    places = list(pattern.finditer(content, 0, 20000))
    if not places:
        return content
    place = chance.choice(places)
    return content[: place.start()] + new(place[0]).encode() + content[place.end() :]


def _numbers(content: bytes, chance: random.Random) -> bytes:
    changes = [
        lambda old: chance.choice(NUMBERS),
        lambda old: "-" + old.decode("latin-1"),
        lambda old: old.decode("latin-1") + chance.choice(["0", "9" * 12, ".5", "e9", "-3", "x"]),
        lambda old: chance.choice(NUMBERS).rjust(len(old))[: len(old)],  # columns of fixed width stay in place
    ]
    return _replaced(content, _NUMBER, chance, chance.choice(changes))


def _words(content: bytes, chance: random.Random) -> bytes:
    others = [word.decode("latin-1") for word in _WORD.findall(content, 0, 20000)]
    return _replaced(content, _WORD, chance, lambda old: chance.choice(WORDS + NUMBERS + others[:50]))


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    here, there = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            del lines[here]
        case 1:
            lines.insert(there, lines[here])
        case 2:
            lines[here], lines[there] = lines[there], lines[here]
        case 3:
            lines[here] = lines[here][: chance.randrange(len(lines[here]) + 1)]
        case 4:
            lines[here] += b" " + lines[there]
        case _:
            lines[here:here] = lines[here:there] * chance.choice([1, 2, 50])
    return b"\n".join(lines)


def json_trees(content: bytes, chance: random.Random) -> bytes:
    """Damage to an entry of JSON; to the text where it is none any more."""
    try:
        tree = json.loads(content)
    except ValueError:
        return _bytes(content, chance)
    return json.dumps(_tree(tree, chance), indent=1).encode()


def msgpack_trees(content: bytes, chance: random.Random) -> bytes:
    """The same of MessagePack."""
    import msgpack

    try:
        tree = msgpack.unpackb(content, raw=False, strict_map_key=False)
        return bytes(msgpack.packb(_tree(tree, chance), use_bin_type=True))
    except (ValueError, TypeError, OverflowError):
        return _bytes(content, chance)


def _tree(tree: Any, chance: random.Random) -> Any:
    """Change, remove, double or exchange one entry of a tree of lists and dictionaries."""
    places = list(_places(tree))
    if not places:
        return chance.choice(VALUES)
    owner, key = chance.choice(places)
    other, another = chance.choice(places)
    match chance.randrange(6):
        case 0:
            del owner[key]
        case 1:
            owner[key] = [owner[key]]
        case 2:
            owner[key] = json.loads(json.dumps(other[another], default=str))  # a copy: no tree holds itself
        case 3 if isinstance(owner[key], bytes):
            owner[key] = _bytes(owner[key], chance)
        case _:
            owner[key] = chance.choice(VALUES)
    return tree


def _places(tree: Any) -> Any:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries):
        yield tree, key
        yield from _places(value)


def hdf5_trees(content: bytes, chance: random.Random) -> bytes:
    """Damage to a data set, a group or an attribute of a sound HDF5 file; to bytes where it is none any more."""
    import h5py

    held = io.BytesIO(content)
    if content[:8] != b"\x89HDF\r\n\x1a\n" or getattr(hdf5_trees, "sound", content) != content:
        return _bytes(content, chance)  # libhdf5 may crash on a file that is damaged already
    with h5py.File(held, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = chance.choice(names)
        with contextlib.suppress(TypeError, ValueError, OSError, RuntimeError):  # a value that HDF5 has no type for
            _hdf5_entry(file, name, chance)
    return held.getvalue()


def _hdf5_entry(file: Any, name: str, chance: random.Random) -> None:
    attributes = file[name].attrs
    value = chance.choice(VALUES)
    match chance.randrange(5):
        case 0:
            del file[name]
        case 1 if len(attributes):
            del attributes[chance.choice(list(attributes))]
        case 2 | 3 if len(attributes):
            attributes[chance.choice(list(attributes))] = value
        case _:
            kept = dict(attributes)
            del file[name]
            file[name] = value
            file[name].attrs.update(kept)
