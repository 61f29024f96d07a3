"""Space groups by number, Hall symbol and name, through gemmi."""

from __future__ import annotations

from typing import Any

from nanobrag_torch.errors import InputError


def hall_of_number(number: int, place: str = "space group") -> str:
    """The Hall symbol of a number of the International Tables. Raises InputError for a number that is none."""
    import gemmi

    group = gemmi.find_spacegroup_by_number(number)
    if group is None:
        raise InputError(f"{place}: space group", number, "a number from 1 to 230")
    return str(group.hall)


def number_of_hall(hall: str | None) -> int:
    """The number in the International Tables of a Hall symbol; 1 if it is not known."""
    return 1 if hall is None else int(_group(hall).number)


def name_of_hall(hall: str) -> str:
    """The Hermann-Mauguin name of a Hall symbol.

    >>> name_of_hall("P 2yb")
    'P 1 21 1'
    """
    return str(_group(hall).xhm())


def same_as_number(hall: str | None) -> bool:
    """Whether a Hall symbol is what its number alone says (the reference setting)."""
    return hall is None or bool(hall_of_number(number_of_hall(hall)) == _group(hall).hall)


def _group(hall: str) -> Any:
    import gemmi

    try:
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall))
    except (RuntimeError, ValueError) as error:
        raise InputError("space_group_hall_symbol", hall, "a Hall symbol") from error
    if group is None:
        raise InputError("space_group_hall_symbol", hall, "the Hall symbol of a known setting")
    return group
