"""The intermediate values of -printout, of the last step of each pixel (reference-behaviour 12.1); -trace_pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nanobrag_torch.cli.nanobragg.prepared import Prepared
from nanobrag_torch.cli.nanobragg.request import Request
from nanobrag_torch.units import R_E_SQUARED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanobrag_torch.simulator import Simulator

CHUNK = 4096
"""Pixels looked at together."""
_BLOCK = """\
%4d %4d : stol = %g or %g
at %g %g %g
hkl= %f %f %f  hkl0= %d %d %d
 F_cell=%g  F_latt=%g   I = %g
I/steps %15.10g
polar   %15.10g
omega   %15.10g
capfrac %15.10g
pixel   %15.10g
real-space cell vectors (Angstrom):
X: %11.8f %11.8f %11.8f
Y: %11.8f %11.8f %11.8f
Z: %11.8f %11.8f %11.8f"""


def printout_lines(image: NDArray[np.float32], prepared: Prepared, simulator: Simulator) -> Iterator[str]:
    """A block a pixel: the chosen one, or every rendered one; nothing without -printout."""
    request = prepared.request
    if not request.printout:
        return
    import torch

    wanted = simulator.detector.pixels()
    pixels = torch.arange(image.size) if wanted is None else wanted.cpu()
    if request.printout_f is not None and request.printout_s is not None:
        chosen = request.printout_s * image.shape[1] + request.printout_f
        pixels = pixels[pixels == chosen]
    for start in range(0, pixels.numel(), CHUNK):
        table = pixel_values(pixels[start : start + CHUNK].numpy(), image, simulator)
        yield from (_BLOCK % tuple(row) for row in table.tolist())


def trace_lines(request: Request, simulator: Simulator) -> Iterator[str]:
    """What -trace_pixel asks for: the lines of `nb trace` for that pixel, in the precision of the run."""
    if request.trace_s is None or request.trace_f is None:
        return
    from nanobrag_torch.tracing.log import log_lines
    from nanobrag_torch.tracing.pixel import trace_pixel

    yield f"Tracing pixel (slow={request.trace_s}, fast={request.trace_f})"
    yield from log_lines(trace_pixel(simulator, request.trace_s, request.trace_f))


def pixel_values(pixels: NDArray[np.int64], image: NDArray[np.float32], simulator: Simulator) -> NDArray[np.float64]:
    """The numbers of one block a row, for flat pixel indices [n]; F_latt is whole, with its amplitude."""
    import numpy as np
    import torch

    from nanobrag_torch.kernels.reference import Record, lattice_terms, look_at_pixels
    from nanobrag_torch.physics.lattice_factor import amplitude

    scene, options, record = simulator.scene(), simulator.options(), Record()
    chunk = look_at_pixels(torch.as_tensor(pixels, device=scene.panels.device), scene, options, record)
    q = chunk.q[:, -1, -1, -1]  # [n, 3]
    lattice_terms(q, scene, options, record=record)
    scale = amplitude(simulator.crystal.config.shape, simulator.cells)
    stol = torch.linalg.vector_norm(q, dim=-1) / 2
    cosine = (chunk.direction[:, -1, -1] * scene.incident[-1]).sum(-1).clamp(-1, 1)
    other = torch.sin(torch.acos(cosine) / 2) / scene.wavelengths[-1]
    factors = [chunk.polar[:, 0, 0, 0], chunk.omega[:, 0, 0], chunk.capture[:, -1, 0]]
    value = torch.as_tensor(image.reshape(-1)[pixels], dtype=torch.float64, device=stol.device)
    fluence = R_E_SQUARED * simulator.beam.fluence().to(stol.device)
    per_step = value / (fluence * factors[0] * factors[1] * factors[2])
    columns = [
        *(torch.as_tensor(index, device=stol.device) for index in (pixels % image.shape[1], pixels // image.shape[1])),
        stol,
        other,
        *record["position"][:, -1, -1].unbind(-1),
        *record["hkl"][:, -1].unbind(-1),
        *record["nearest"][:, -1].unbind(-1),
        record["F_cell"][:, -1],
        record["F_latt"][:, -1] * scale,
        per_step * simulator.steps,
        per_step,
        *factors,
        value,
        *(x.expand_as(stol) for x in (scene.lattice[-1] * 1e10).T.reshape(-1)),
    ]
    return np.stack([column.to("cpu", torch.float64).numpy() for column in columns], axis=1)
