"""Recipes to start from."""

from __future__ import annotations

from importlib.resources import files

from nanobrag_torch.errors import InputError

EXAMPLES = ("rotation", "stills", "serial", "ml")


def example(name: str) -> str:
    """The text of a recipe. Raises InputError for a name that there is not."""
    if name not in EXAMPLES:
        raise InputError("--example", name, ", ".join(EXAMPLES))
    return (files("nanobrag_torch") / "data" / f"recipe-{name}.toml").read_text()
