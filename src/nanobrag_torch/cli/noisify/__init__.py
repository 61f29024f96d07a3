"""The drop-in command `noisify`: a float image into what a detector records."""

from nanobrag_torch.cli.noisify.command import main

__all__ = ["main"]
