"""Recover the orientation and the cell of a crystal from one noisy image, twice: with L-BFGS and with Gauss-Newton.

    python examples/refine_still.py [--seed 1] [--out refinement.png]

The image is simulated with Poisson noise. The fit starts with the orientation off by 0.3 degrees about a random axis
and every cell edge off by half a percent, up or down.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanobrag_torch import BeamConfig, CrystalConfig, DetectorConfig, Simulator, normal_equations
from nanobrag_torch.c_random import Streams
from nanobrag_torch.models.crystal import Crystal
from nanobrag_torch.models.detector import Detector
from nanobrag_torch.response.serial_noise import poisson_image
from nanobrag_torch.testing import random_table

TRUE_CELL = (61.0, 74.0, 92.0)
MISSET_DEG = (11.0, 22.0, 33.0)
DETECTOR = DetectorConfig(distance_mm=100.0, pixel_size_mm=0.5, spixels=128, fpixels=128, oversample=1)
BEAM = BeamConfig(wavelength_A=1.0, fluence=4e29, water_size_um=0.02)
COARSE_TO_FINE = (4, 8)  # numbers of cells that the model is given: fewer make wider spots and a wider valley
CELLS = 8


@dataclass(frozen=True)
class Fit:
    """What is refined: a rotation vector on top of the known orientation (degrees), and the cell edges (Angstrom)."""

    turn_deg: Tensor  # [3]
    cell_A: Tensor  # [3]

    def errors(self) -> tuple[float, float]:
        """Degrees between this orientation and the true one, and the largest error of an edge in percent."""
        true = torch.tensor(TRUE_CELL, dtype=torch.float64)
        return float(self.turn_deg.norm()), float(((self.cell_A - true) / true).abs().max()) * 100


def simulator(fit: Fit, cells: int = CELLS) -> Simulator:
    """The experiment with these parameters."""
    a, b, c = fit.cell_A
    config = CrystalConfig(
        cell_a=a,
        cell_b=b,
        cell_c=c,
        misset_deg=MISSET_DEG,
        orientation_vector_deg=fit.turn_deg,
        N_cells=(cells, cells, cells),
    )
    crystal = Crystal(config, dtype=torch.float64)
    crystal.hkl_data = random_table(61, seed=7)
    crystal.hkl_metadata = {"h_min": -30, "k_min": -30, "l_min": -30}
    return Simulator(crystal, Detector(DETECTOR), beam_config=BEAM, dtype=torch.float64)


def truth() -> Fit:
    """What the fit should find."""
    return Fit(torch.zeros(3, dtype=torch.float64), torch.tensor(TRUE_CELL, dtype=torch.float64))


def noisy_image(seed: int) -> Tensor:
    """The true image in whole photons."""
    photons, _ = poisson_image(simulator(truth()).run().float().numpy(), Streams(), -seed)
    return torch.from_numpy(photons).double()


def wrong_start(seed: int) -> Fit:
    """0.3 degrees and half a percent away from the truth."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(3, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (3,), generator=generator).double() * 2 - 1
    return Fit(0.3 * axis / axis.norm(), torch.tensor(TRUE_CELL, dtype=torch.float64) * (1 + 0.005 * signs))


def blurred(image: Tensor, cells: int) -> Tensor:
    """An image whose spots are as wide as those of a smaller crystal, so that a coarse model fits it."""
    if cells == CELLS:
        return image
    width = 2 * (CELLS // cells) + 1
    return torch.nn.functional.avg_pool2d(image[None, None], width, stride=1, padding=width // 2)[0, 0]


def weights_of(data: Tensor) -> Tensor:
    """One over the expected variance of a count."""
    return 1 / (data + 1)


def scaled(model: Tensor, data: Tensor, weights: Tensor) -> Tensor:
    """The factor [] that brings the model closest to the data."""
    return (weights * model * data).sum() / (weights * model * model).sum()


def lbfgs(data: Tensor, start: Fit) -> Fit:
    """Quasi-Newton steps on the weighted sum of squares, by gradients alone; a coarse model first, then the true."""
    fit = start
    for cells in COARSE_TO_FINE:
        fit = _lbfgs_stage(blurred(data, cells), fit, cells)
    return fit


def _lbfgs_stage(data: Tensor, start: Fit, cells: int) -> Fit:
    weights, units = weights_of(data), torch.tensor([0.1] * 3 + [0.1] * 3, dtype=torch.float64)
    moves = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([moves], max_iter=60, history_size=20, line_search_fn="strong_wolfe")

    def current() -> Fit:
        step = moves * units
        return Fit(start.turn_deg + step[:3], start.cell_A + step[3:])

    def loss() -> Tensor:
        optimiser.zero_grad()
        model = simulator(current(), cells).run()
        scale = scaled(model, data, weights) if cells != CELLS else 1.0
        value = (weights * (data - scale * model) ** 2).mean()
        torch.autograd.backward(value)
        return value.detach()

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return current()


def gauss_newton(data: Tensor, start: Fit, rounds: int = 25) -> Fit:
    """Damped Gauss-Newton steps (Levenberg and Marquardt) by the normal equations; the Jacobian is never stored."""
    fit = start
    for cells in COARSE_TO_FINE:
        fit = _gauss_newton_stage(blurred(data, cells), fit, cells, rounds)
    return fit


def _gauss_newton_stage(data: Tensor, fit: Fit, cells: int, rounds: int) -> Fit:
    weights, damping = weights_of(data), 1e-2
    model = simulator(fit, cells).run()
    scale = float(scaled(model, data, weights)) if cells != CELLS else 1.0
    best = float((weights * (data - scale * model) ** 2).sum())
    for _ in range(rounds):
        leaves = [fit.turn_deg.clone().requires_grad_(), fit.cell_A.clone().requires_grad_()]
        run = simulator(Fit(*leaves), cells)
        residual = data / scale - run.run().detach()
        matrix, gradient, _ = normal_equations(run, leaves, residual, weights * scale**2)
        step = torch.linalg.solve(matrix + damping * torch.diag(matrix.diagonal()), gradient)
        trial = Fit(fit.turn_deg + step[:3], fit.cell_A + step[3:])
        model = simulator(trial, cells).run()
        value = float((weights * (data - scale * model) ** 2).sum())
        if value < best:
            done = best - value < 1e-7 * best
            fit, best, damping = trial, value, damping / 5
            if done:
                break
        else:
            damping *= 5
    return fit


def draw(data: Tensor, model: Tensor, path: Path) -> None:
    """The image, the model and the residual in units of its standard deviation, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    counts = LogNorm(vmin=float(model.median()), vmax=float(data.max()))
    residual = (data - model) / torch.sqrt(model + 1)
    panels = (
        ("image, photons", data.clamp(min=1), "Greys", counts),
        ("model, photons", model.clamp(min=1), "Greys", counts),
        ("residual / sigma", residual, "RdBu_r", Normalize(-5, 5)),
    )
    for axes, (title, values, colours, norm) in zip(figure.subplots(1, 3), panels, strict=True):
        picture = axes.imshow(values.numpy(), cmap=colours, norm=norm)
        axes.set(title=title, xlabel="fast pixel", ylabel="slow pixel")
        figure.colorbar(picture, ax=axes, shrink=0.85)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Hide, refine, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the noise and of the wrong start (default 1)")
    parser.add_argument("--out", type=Path, default=Path("refinement.png"), help="picture to write")
    options = parser.parse_args()
    data, start = noisy_image(options.seed), wrong_start(options.seed)
    print(f"{'':14s}{'orientation off':>18s}{'cell off':>12s}")
    fits = {"start": start, "L-BFGS": lbfgs(data, start), "Gauss-Newton": gauss_newton(data, start)}
    for name, fit in fits.items():
        degrees, percent = fit.errors()
        print(f"{name:14s}{degrees:14.5f} deg{percent:10.4f} %")
    draw(data, simulator(fits["Gauss-Newton"]).run(), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
