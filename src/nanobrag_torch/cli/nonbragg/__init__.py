"""The drop-in command `nonBragg`: what amorphous material scatters, from a profile over sin(theta)/lambda."""

from nanobrag_torch.cli.nonbragg.command import main

__all__ = ["main"]
