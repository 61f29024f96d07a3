"""Files: one format a module, read into plain data. These names come from their modules when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "hkl": ("read_hkl_file", "write_fdump", "read_fdump", "try_load_hkl_or_fdump"),
    "smv": ("read_smv", "write_smv", "parse_smv_header"),
    "pgm": ("write_pgm",),
    "mask": ("read_smv_mask", "create_circular_mask", "create_rectangle_mask"),
    "source": ("read_sourcefile",),
    "mosflm": ("read_mosflm_matrix", "reciprocal_to_real_cell"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = list(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """A public name, imported with its module when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
