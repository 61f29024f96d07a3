"""The README's numbers are those that were measured last, and its five tasks are commands that exist."""

import re
from pathlib import Path

from nanobrag_torch.cli.nb.app import VERBS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def rates(column):
    """Lowest and highest rate of a column of the table of scenes, but for the one whose steps are mostly left out."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = re.findall(r"^\| [acde][^|]*\|(.* MB) \|$", page, re.MULTILINE)
    values = [int(row.split("|")[column].split("(")[0]) for row in rows if "gauss_hkl" not in row]
    return f"{min(values)} to {max(values)} million"


def test_rates_are_those_of_the_benchmarks():
    assert f"| speed | {rates(1)} pixel-steps/s" in README
    assert f"together at {rates(2)} pixel-steps/s" in README
    gpu = (ROOT / "docs" / "benchmarks-gpu.md").read_text()
    values = [int(n) for n in re.findall(r"^\| [fgR]: .*\| (\d+) / ", gpu, re.MULTILINE)]
    assert f"{min(values)} to {max(values)} thousand million" in README


def test_refinement_is_as_its_page_says():
    page = (ROOT / "docs" / "refinement.md").read_text()
    row = re.search(r"CPU time: [^|]*\|[^|]*\| ([\d.]+) s; ([\d.]+) s", page)
    assert f"{row[1]} s for the fit and {row[2]} s with search" in README


def test_cost_of_a_labelled_image_is_as_its_page_says():
    page = (ROOT / "docs" / "datasets.md").read_text()
    row = re.search(r"stills of 256 x 256[^|]*\|[^|]*\| ([\d.]+) ms", page)
    assert f"[{row[1]} ms an image](docs/datasets.md#measured) on one core" in README


def test_tasks_are_verbs():
    tasks = README[README.index("| task |") : README.index("More pictures")]
    verbs = re.findall(r"`nb ([a-z-]+) ", tasks)
    assert set(verbs) == {"simulate", "refine", "dataset", "view"} <= set(VERBS) and tasks.count("\n| ") == 5
