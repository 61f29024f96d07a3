"""What the verbs that take `-- <nanoBragg flags>` share: from those flags, or a named scene, to a simulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanobrag_torch.cli.nanobragg.flags import FLAGS, RUN, Flag
from nanobrag_torch.errors import InputError

if TYPE_CHECKING:
    from nanobrag_torch.simulator import Simulator

FLAGS_HELP = "After `--`: flags of the command nanoBragg, such as -mat A.mat -hkl P1.hkl -N 20 -lambda 1."
CONFIG_HELP = "A named scene in place of flags: supervisor. Flags after `--` are added to it."


@dataclass(frozen=True)
class RunOptions:
    """Options beside the flags of a run."""

    config: Annotated[str | None, typer.Option(help=CONFIG_HELP)] = None
    phi_mode: Annotated[
        str | None,
        typer.Option(help="Orientation at phi = 0: spec rotates afresh, c-parity keeps that of the step before."),
    ] = None
    dtype: Annotated[str | None, typer.Option(help="float64 (the default) or float32.")] = None
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None

    def simulator(self, words: Sequence[str]) -> Simulator:
        """The simulator of a run's words."""
        return simulator_of(words, phi_mode=self.phi_mode, dtype=self.dtype, device=self.device)


@contextmanager
def run_words(flags: Sequence[str] | None, config: str | None, *, text: bool = False) -> Iterator[list[str]]:
    """The words of a run: those of a named scene, whose files exist while the block lasts, then the flags.

    text: the scene's structure factors as a text file, which other programs read. Raises InputError without either.
    """
    from nanobrag_torch.validation.scenes import scene_folder

    if config is None:
        if not flags:
            raise InputError("flags", "nothing", "flags of nanoBragg after --, or --config supervisor")
        yield list(flags)
        return
    with scene_folder(config, text=text) as (words, _):
        yield [*words, *(flags or ())]


def with_setting(words: Sequence[str], flag: str, value: str | None) -> list[str]:
    """The words with another value of a flag of its own, or unchanged when the value is None.

    It goes to the front: the C program's -misset_seed looks at how many words follow it.
    """
    return list(words) if value is None else [flag, value, *without(words, [f for f in RUN if flag in f.whole])]


def without(words: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """The words without some flags and their values."""
    kept: list[str] = []
    skip = 0
    for word in words:
        found = next((flag for flag in flags if word.startswith("-") and flag.matches(word)), None)
        if skip:
            skip -= 1
        elif found is not None:
            skip = len(found.values)
        else:
            kept.append(word)
    return kept


def with_outputs(words: Sequence[str], folder: Path | None) -> list[str]:
    """The words of the same run with its files in a folder, or nowhere.

    Names on the line are replaced where they stand, again because of -misset_seed.
    """
    places = {
        flag: os.devnull if folder is None else str(folder.resolve() / flag.sets[0])
        for flag in FLAGS
        if flag.subject == "outputs" and flag.values == ("file",)
    }
    found = list(words)
    for at, word in enumerate(words[:-1]):
        for flag, place in places.items():
            if word.startswith("-") and flag.matches(word):
                found[at + 1] = place
    front = [word for flag, place in places.items() if flag.sets[0] != "pngfile" for word in (flag.names[0], place)]
    return [*front, "-nopgm", "-nonoise", *found]


def input_places(words: Sequence[str]) -> list[int]:
    """Where the names of input files stand among the words."""
    inputs = [flag for flag in FLAGS if flag.subject != "outputs" and flag.values == ("file",)]
    return [
        at + 1
        for at, word in enumerate(words[:-1])
        if word.startswith("-") and any(flag.matches(word) for flag in inputs)
    ]


def with_absolute_inputs(words: Sequence[str]) -> list[str]:
    """The words with the names of input files made absolute, for a run in another folder."""
    places = set(input_places(words))
    return [str(Path(word).resolve()) if at in places else word for at, word in enumerate(words)]


def input_files(words: Sequence[str]) -> dict[str, str]:
    """SHA-256 of every input file of a run that can be read, by its name on the line."""
    from nanobrag_torch.io.digest import file_digest

    names = [words[at] for at in input_places(words)]
    return {name: file_digest(name) for name in names if Path(name).is_file()}


def known_to_c(words: Sequence[str]) -> list[str]:
    """The words without flags that only this program has."""
    return without(words, RUN)


def simulator_of(
    words: Sequence[str], *, phi_mode: str | None = None, dtype: str | None = None, device: str | None = None
) -> Simulator:
    """The simulator of a run, in double precision unless told otherwise. Raises InputError for bad flags."""
    from nanobrag_torch.cli.nanobragg.prepare import build, prepare

    if dtype is None and "-dtype" not in words:
        dtype = "float64"
    for flag, value in (("-phi_mode", phi_mode), ("-dtype", dtype), ("-device", device)):
        words = with_setting(words, flag, value)
    prepared = prepare(with_outputs(words, None))
    for warning in prepared.request.warnings:
        print(f"nb: warning: {warning}", file=sys.stderr)
    return build(prepared)


def write_text(path: Path, text: str, flag: str) -> None:
    """A text file that appears whole or not at all. Raises InputError when it cannot be written."""
    from nanobrag_torch.io.atomic import open_output

    with open_output(path, flag) as file:
        file.write(text.encode())


def write_json(path: Path, content: object, flag: str) -> None:
    """A JSON file that appears whole or not at all."""
    import json

    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n", flag)


def numbers(text: str, flag: str = "--frames") -> list[int]:
    """0,3-5 -> 0 3 4 5."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.strip().isdigit() or (dash and not high.strip().isdigit()):
            raise InputError(flag, text, "numbers and ranges from 0, as 0,3-5")
        found += range(int(low), int(high if dash else low) + 1)
    return found
