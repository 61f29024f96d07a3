"""Made-up equations of shots; run by torchrun or alone, it solves those of its own processes and writes the answer."""

import sys
from pathlib import Path

import numpy as np
import torch

from nanobrag_torch.refinement.reducers import Distributed, Files, Local
from nanobrag_torch.refinement.shared import Prior, Shared, ShotEquations
from nanobrag_torch.workers import Place, joined, place_of_process

SHOTS, REFLECTIONS, PARAMETERS, BOXES = 40, 500, 10, 60


def shot(number):
    """A shot with the Gram matrix of random slopes: 60 reflections, two of them overlapping, one of them twice."""
    generator = np.random.default_rng(number)
    places = generator.choice(REFLECTIONS, BOXES, replace=False)
    places[1] = places[0]
    pixels, count = 5, PARAMETERS - number % 2
    slopes = generator.normal(size=(BOXES, pixels, count)) * np.logspace(-2, 2, count)
    profile = np.zeros((BOXES, pixels, BOXES))
    profile[np.arange(BOXES), :, np.arange(BOXES)] = generator.random((BOXES, pixels))
    profile[2, :, 3] = generator.random(pixels)
    both = torch.from_numpy(np.concatenate([profile, slopes], 2).reshape(BOXES * pixels, -1))
    gram, right = both.T @ both, both.T @ torch.from_numpy(generator.normal(size=len(both)))
    D = gram[:BOXES, :BOXES]
    pairs = (D - torch.diag(D.diagonal())).nonzero().T
    return ShotEquations(
        name=f"shot_{number:05d}",
        A=gram[BOXES:, BOXES:] + torch.eye(count), B=gram[:BOXES, BOXES:], D=D.diagonal(),
        pairs=pairs, cross=D[pairs[0], pairs[1]], g=right[BOXES:], h=right[:BOXES],
        reflections=torch.from_numpy(places), weight=1.0 - 0.5 * (number % 3 == 0), damping=1e-3 * (number % 5),
    )  # fmt: skip


def prior():
    """Of every reflection, with some pairs bound."""
    generator = torch.Generator().manual_seed(3)
    precision = torch.rand(REFLECTIONS, generator=generator, dtype=torch.float64) + 0.1
    pairs = torch.arange(20).reshape(2, 10)
    rows = torch.rand((3, REFLECTIONS), generator=generator, dtype=torch.float64) / REFLECTIONS
    strength = torch.full((10,), 5.0, dtype=torch.float64)
    return Prior(precision, precision.flip(0), pairs, strength, rows, torch.full((3,), 100.0, dtype=torch.float64))


def gauge():
    """The mean stays, and a slope has a gap."""
    rows = torch.stack((torch.ones(REFLECTIONS), torch.linspace(-1, 1, REFLECTIONS))).double() / REFLECTIONS
    return {"constraint": rows, "gap": torch.tensor([0.0, 0.01], dtype=torch.float64)}


def solved(shots, reducer):
    """The step that one solution of the shared system gives."""
    return Shared(shots, prior(), reducer, **gauge()).solve().change


def main(target, split, files):
    """Solve with the shots that `split` gives this process, numbers by commas and processes by slashes."""
    place = place_of_process()
    own = [shot(int(n)) for n in split.split("/")[place.rank].split(",") if n]
    with joined(place if files == "-" else Place()):
        reducer = Files(Path(files), place, patience_s=60) if files != "-" else Distributed()
        found = solved(own, reducer if place.size > 1 else Local())
    np.save(f"{target}_{place.rank}.npy", found.numpy())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
