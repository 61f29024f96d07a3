"""Measure how mosaic images converge and draw docs/images/mosaic_convergence.png."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nanobrag_torch.validation import convergence

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "mosaic_convergence.png"
DOMAINS = (10, 14, 20, 30, 45, 70, 100, 150, 220, 300)


def main() -> None:
    """One panel a scene, both curves in each."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes_of = figure.subplots(1, len(convergence.SCENES), sharey=True)
    for axes, (title, spread) in zip(axes_of, convergence.SCENES.items(), strict=True):
        expected = convergence.reference(spread)
        rule, random = zip(*(convergence.errors(spread, n, expected) for n in DOMAINS), strict=True)
        axes.loglog(DOMAINS, random, "o-", color="0.5", label="random domains, rms of 8 sets")
        axes.loglog(DOMAINS, [e / 2 for e in random], ":", color="0.5", label="half of that")
        axes.loglog(DOMAINS, rule, "s-", color="C0", label="quadrature")
        axes.set(title=f"{title} ({spread:.2f}°)", xlabel="domains")
        axes.grid(True, which="both", alpha=0.2)
    axes_of[0].set_ylabel("rms error / rms image")
    axes_of[0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
