"""Train a small network that finds spots on simulated images, and hold it against the truth.

    python examples/spot_finder.py [recipe.toml]

The network sees counts and says for each pixel whether a spot is there. A found spot is a peak of its answer; it is
right if a pixel of a true spot is at most a pixel away. A minute on one core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nanobrag_torch.datasets import SimulatedDataset
from nanobrag_torch.datasets.examples import example

SPOT_CLASSES = (1, 2, 4)  # spot, overlap, saturated
VISIBLE = 3.0  # true spots count whose brightest pixel has this many times the noise of its surroundings
WANTED = ("recorded", "classes", "expected")
Batch = dict[str, Tensor]


class SpotFinder(nn.Module):
    """Three layers of 3 x 3 filters; a pixel sees 7 x 7 of its neighbours."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, width), (width, width), (width, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, counts: Tensor) -> Tensor:
        """Logits [B, slow, fast] of counts [B, slow, fast]."""
        steady = 2 * torch.sqrt(counts.float() + 0.375)  # Poisson noise becomes one
        typical = steady.flatten(1).median(1).values[:, None, None]
        answer: Tensor = self.layers((steady - typical).clamp(-5, 30)[:, None] / 5)[:, 0]
        return answer


def truth(batch: Batch) -> Tensor:
    """Pixels [B, slow, fast] that show a spot which can be seen."""
    shown = torch.stack([batch["classes"] == kind for kind in SPOT_CLASSES]).any(0)
    level = batch["expected"].flatten(1).median(1).values[:, None, None]
    return shown & (batch["expected"] - level > VISIBLE * torch.sqrt(level + 1))


def train(batches: Iterable[Batch], seconds: float, *, seed: int = 0, most: int = 10**6) -> SpotFinder:
    """A network after so many seconds, or batches at most."""
    torch.manual_seed(seed)
    model = SpotFinder()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    end = time.monotonic() + seconds
    for step, batch in enumerate(batches):
        if step >= most or time.monotonic() > end:
            break
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch["recorded"]), truth(batch).float())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return model


def found(logits: Tensor) -> Tensor:
    """Peaks [B, slow, fast] of an answer, where it says yes."""
    highest = nn.functional.max_pool2d(logits[:, None], 3, 1, 1)[:, 0]
    return (logits > 0) & (logits == highest)


def score(model: SpotFinder, batches: Iterable[Batch]) -> tuple[float, float]:
    """Precision, the share of found spots that are there, and recall, the share of visible peaks that are found."""
    right = claimed = there = seen = 0
    with torch.no_grad():
        for batch in batches:
            true, peaks = truth(batch), found(model(batch["recorded"]))
            near = nn.functional.max_pool2d(true[:, None].float(), 3, 1, 1)[:, 0] > 0
            right, claimed = right + int((peaks & near).sum()), claimed + int(peaks.sum())
            tops = true & (batch["expected"] == nn.functional.max_pool2d(batch["expected"][:, None], 3, 1, 1)[:, 0])
            around = nn.functional.max_pool2d(peaks[:, None].float(), 3, 1, 1)[:, 0] > 0
            seen, there = seen + int((tops & around).sum()), there + int(tops.sum())
    return right / max(claimed, 1), seen / max(there, 1)


def main(words: list[str]) -> None:
    """Train for most of a minute, score on images that the network has not seen."""
    recipe = Path(words[0]) if words else Path("spot-finder.toml")
    if not words:
        recipe.write_text(example("ml"))
    training = SimulatedDataset(recipe, WANTED, batch=8)
    model = train(DataLoader(training, batch_size=None), 40)
    held_back = SimulatedDataset(recipe, WANTED, batch=8, first=10**6, images=40)
    precision, recall = score(model, DataLoader(held_back, batch_size=None))
    print(f"precision {precision:.3f}, recall {recall:.3f} of the spots of 40 images")


if __name__ == "__main__":
    main(sys.argv[1:])
