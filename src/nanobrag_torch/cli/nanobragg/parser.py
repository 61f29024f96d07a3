"""The command line for scripts: words in, what they ask for out, read and checked as the command itself does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from nanobrag_torch.cli.boundary import refuse
from nanobrag_torch.cli.nanobragg.help import help_text
from nanobrag_torch.cli.nanobragg.parsing import apply_words, compat_of, last_value
from nanobrag_torch.cli.nanobragg.prepare import prepare
from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.errors import InputError

NAME = "nanoBragg"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reads words by the table of flags: by part and never consumed, as the C program does."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Every field of Request by name, and the `words`; what is wrong ends with exit code 2 and one line."""
        words, request = list(sys.argv[1:] if args is None else args), Request()
        try:
            apply_words(request, words, compat_of(words), as_c_reads=last_value(words, "-compat") == "c")
        except InputError as error:
            sys.exit(refuse(NAME, str(error)))
        found = argparse.Namespace() if namespace is None else namespace
        vars(found).update(vars(request), words=words)
        return found

    def format_help(self) -> str:
        """The text of nanoBragg -h."""
        return help_text()


def create_parser() -> Parser:
    """The parser of the command."""
    return Parser(prog=NAME, add_help=False)


def parse_and_validate_args(args: argparse.Namespace | Sequence[str] | None = None) -> Prepared:
    """A run that is checked and ready: `.crystal`, `.detector` and `.beam` are its configurations.

    args: what the parser gave, or words; those of the program by default. Reads the files that are named. Raises
    InputError, a ValueError.
    """
    if args is None or isinstance(args, argparse.Namespace):
        args = sys.argv[1:] if args is None else args.words
    return prepare(list(args))
