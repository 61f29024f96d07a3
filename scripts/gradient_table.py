"""Measure the gradient table and write docs/gradients.md: python scripts/gradient_table.py"""

from __future__ import annotations

from pathlib import Path

import torch

from nanobrag_torch.testing import EXAMPLES
from nanobrag_torch.validation import gradients

PAGE = Path(__file__).parents[1] / "docs" / "gradients.md"
KERNELS = {
    "reference": {"kernel": "reference"},
    "fused": {"kernel": "fused"},
    "fused, float32": {"kernel": "fused", "dtype": torch.float32},
}


def table() -> str:
    """The rows in Markdown, measured now."""
    titles = [f"{scene}: {kernel}" for scene in EXAMPLES for kernel in KERNELS]
    lines = ["| parameter | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for name in gradients.rows():
        found = gradients.row(name, **KERNELS)
        figures = [f"{found[scene][kernel]:.0e}" for scene in EXAMPLES for kernel in KERNELS]
        lines.append(f"| `{name}` | " + " | ".join(figures) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Replace the table in the page, which ends with it."""
    text = PAGE.read_text()
    marker = "<!-- table -->\n"
    PAGE.write_text(text[: text.index(marker) + len(marker)] + table() + "\n")


if __name__ == "__main__":
    main()
