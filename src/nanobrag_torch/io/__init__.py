"""Files: one format a module, read into plain data. These names come from their modules when first used."""

from __future__ import annotations

from nanobrag_torch.lazy import lazily

_HOMES = {
    "io.hkl": ("read_hkl_file", "write_fdump", "read_fdump", "try_load_hkl_or_fdump"),
    "io.smv": ("read_smv", "write_smv", "parse_smv_header"),
    "io.pgm": ("write_pgm",),
    "io.mask": ("read_smv_mask", "create_circular_mask", "create_rectangle_mask"),
    "io.source": ("read_sourcefile",),
    "io.mosflm": ("read_mosflm_matrix", "reciprocal_to_real_cell"),
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0605
__getattr__ = lazily(__name__, _HOMES)
