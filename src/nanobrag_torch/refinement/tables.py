"""Tables with a row a shot, a panel or a step: Parquet, or JSON where pyarrow is not installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanobrag_torch.io.atomic import OutputSet


def write_table(outputs: OutputSet, folder: Path, stem: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows under their column names, numbers that are none as missing. Returns the name of the file."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [_known(row.get(name)) for row in rows] for name in names}
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        text = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        outputs.open(folder / f"{stem}.json", "-o").write(json.dumps(text, indent=1).encode() + b"\n")
        return f"{stem}.json"
    pyarrow.parquet.write_table(pyarrow.table(columns), outputs.open(folder / f"{stem}.parquet", "-o"))
    return f"{stem}.parquet"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
