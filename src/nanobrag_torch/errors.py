"""The one exception that bad input raises."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be rendered: one line naming the flag or field, the value given and what is accepted.

    >>> str(InputError("-pixel", 0.0, "a number above 0"))
    '-pixel: got 0.0; accepted: a number above 0'
    """

    def __init__(self, name: str, value: object, accepted: str) -> None:
        self.name, self.value, self.accepted = name, value, accepted
        super().__init__(f"{name}: got {value!r}; accepted: {accepted}")
