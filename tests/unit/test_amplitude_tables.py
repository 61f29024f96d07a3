"""Structure factors in every form a user may hold: the same table from all of them, gradients kept."""

import numpy as np
import pytest
import torch

from nanobrag_torch.crystallography.amplitude_tables import table_of
from nanobrag_torch.errors import InputError
from nanobrag_torch.records.reflections import Reflections

ROWS = [(-1, 0, 2, 5.0), (1, 2, 2, 7.0), (0, 1, 3, 3.0)]
LIMITS = {"h_min": -1, "h_max": 1, "k_min": 0, "k_max": 2, "l_min": 2, "l_max": 3}


def expected(default=0.0):
    table = torch.full((3, 3, 2), default, dtype=torch.float64)
    for h, k, l, f in ROWS:
        table[h + 1, k, l - 2] = f
    return table


@pytest.mark.parametrize("default", [0.0, 2.5])
def test_every_form_gives_the_same_table(tmp_path, default):
    path = tmp_path / "a.hkl"
    path.write_text("".join(f"{h} {k} {l} {f}\n" for h, k, l, f in ROWS))
    reflections = Reflections(
        hkl=np.array(ROWS)[:, :3].astype(np.int32), amplitude=np.array(ROWS)[:, 3], anomalous=True
    )
    forms = [str(path), path, reflections, np.array(ROWS), ROWS, torch.tensor(ROWS, dtype=torch.float64),
             {(h, k, l): f for h, k, l, f in ROWS}, (expected(default), (-1, 0, 2)),
             (expected(default).numpy(), LIMITS)]  # fmt: skip
    for form in forms:
        table, limits = table_of(form, default_F=default)
        assert limits == LIMITS
        torch.testing.assert_close(table.to(torch.float64), expected(default))


def test_tensors_keep_gradient_and_type():
    rows = torch.tensor(ROWS, dtype=torch.float32, requires_grad=True)
    table, _ = table_of(rows)
    assert table.dtype == torch.float32
    table.square().sum().backward()
    torch.testing.assert_close(rows.grad[:, 3], 2 * rows.detach()[:, 3])
    cube = torch.ones(2, 2, 2, requires_grad=True)
    assert table_of((cube, [0, 0, 0]))[0] is cube


@pytest.mark.parametrize(
    "given",
    [
        "none.mtz", 5, [1.0, 2.0], np.zeros((2, 2, 2)), (np.zeros((2, 2)), (0, 0, 0)), (np.zeros((2, 2, 2)), (0, 0)),
        (np.zeros((2, 2, 2)), (0.5, 0, 0)), [(0, 0, 0.5, 1.0)], [(0, 0, 1, 1.0), (0, 0, 1, 2.0)], [(0, 0, 1, np.nan)],
        {"a": 1.0}, [(0, 0, 0, 1.0), (10**6, 10**6, 10**6, 1.0)], [],
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_line(given):
    with pytest.raises(InputError, match="structure_factors") as caught:
        table_of(given)
    assert "\n" not in str(caught.value)
