"""The documentation site: these pages, and a page of reference for each room of the package from its docstrings.

`make docs` builds it into docs/_build/html; every warning is an error.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from sphinx.directives.code import CodeBlock

from nanobrag_torch import __version__

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "nanobrag_torch"
ROOMS = {
    "the package": (
        "config",
        "simulator",
        "experiment",
        "testing",
        "errors",
        "units",
        "compat",
        "devices",
        "c_random",
        "sampling",
        "checked",
        "workers",
    ),
    "models": ("models",),
    "io": ("io",),
    "records": ("records",),
    "physics": ("physics",),
    "crystallography": ("crystallography",),
    "background and response": ("background", "response"),
    "kernels": ("kernels/operation", "kernels/problem", "kernels/reference"),
    "refinement": ("refinement",),
    "datasets": ("datasets",),
    "tracing, validation and report": ("tracing", "validation", "report"),
    "utils": ("utils",),
}
"""Title of each page of the reference -> its modules and folders of modules; those that do not exist are left out."""

project = "nanobrag_torch"
author = "the nanobrag_torch developers"
project_copyright = f"2026, {author}"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"nanobrag_torch {__version__}"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["linkify"]
autodoc_member_order = "bysource"
toc_object_entries = False  # else every page carries the names of every object, and takes a second to write
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]  # a type such as range may bear the name of a field here and there


def setup(app: Any) -> None:
    """Connect what makes the reference, and show cells of notebooks as code: the tests run them."""
    app.add_directive("code-cell", CodeBlock)
    app.connect("builder-inited", lambda app: write_reference())
    app.connect("autodoc-process-docstring", lambda app, what, name, thing, options, lines: as_rst(lines))


def write_reference() -> None:
    """docs/api: a page for each of ROOMS, and their index."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    pages = {title: [m for place in places for m in modules(place)] for title, places in ROOMS.items()}
    pages = {title: found for title, found in pages.items() if found}
    for title, found in pages.items():
        write(folder / f"{slug(title)}.rst", [title, "=" * len(title), "", *(x for m in found for x in section(m))])
    contents = ["Reference", "=========", "", ".. toctree::", "   :maxdepth: 1", ""]
    write(folder / "index.rst", [*contents, *(f"   {slug(title)}" for title in pages)])
    for page in folder.glob("*.rst"):
        if page.stem not in {"index", *map(slug, pages)}:
            page.unlink()


def modules(place: str) -> list[str]:
    """Names of the modules with a docstring at a place of the source; a folder gives all below it."""
    path = SOURCE / place
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    documented = [f for f in files if f.exists() and ast.get_docstring(ast.parse(f.read_text()))]
    names = [".".join(f.relative_to(SOURCE.parent).with_suffix("").parts) for f in documented]
    return [name.removesuffix(".__init__") for name in names]


def section(module: str) -> list[str]:
    """The part of a page about one module."""
    return [module, "-" * len(module), "", f".. automodule:: {module}", "   :members:", "   :undoc-members:", ""]


def slug(title: str) -> str:
    """The name of a page's file."""
    return title.replace(",", "").replace(" ", "-")


def write(path: Path, lines: list[str]) -> None:
    """A page, touched only where it changes, so that the next build is quick."""
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def as_rst(lines: list[str]) -> None:
    """Our docstrings are plain text: stars are those of a*, bars those of |a|; code stands in single backticks.

    Indented lines are shown as they are, and examples, which begin with >>> after an empty line.
    """
    found: list[str] = []
    literal = example = False
    for line in lines:
        example = line.startswith(">>>") or (example and bool(line))
        if example:
            found.append(line)
            continue
        indented = line.startswith(" ") and not re.match(r" *(\*|-|\d+\.) ", line)
        if indented and not literal:
            found += ["", ".. code-block:: text", ""]
        if literal and line and not indented:
            found.append("")
        literal = indented or (literal and not line)
        found.append(f"   {line}" if literal and line else escaped(line))
    lines[:] = found


def escaped(line: str) -> str:
    """A line of prose in which nothing but code in backticks and bullets is markup."""
    bullet, text = re.match(r"( *\* )?(.*)", line).groups(default="")  # type: ignore[union-attr]
    parts = re.split(r"`+([^`]+)`+", text)
    quiet = [re.sub(r"([\\*|_`<>])", r"\\\1", part) if i % 2 == 0 else f"``{part}``\\ " for i, part in enumerate(parts)]
    return bullet + "".join(quiet)
