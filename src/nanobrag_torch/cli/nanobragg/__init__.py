"""The drop-in command `nanoBragg`: the C program's flags, printed lines and files."""

from nanobrag_torch.cli.nanobragg.command import main

__all__ = ["main"]
