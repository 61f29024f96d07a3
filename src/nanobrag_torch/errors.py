"""The one exception that bad input raises."""

from __future__ import annotations

LONGEST = 280
"""Characters of a message: one line of a terminal or three, whatever a file contains."""
_LEAST = 80  # characters of a part that are left in any case


class InputError(ValueError):
    """Input that cannot be rendered: one line naming the flag or field, the value given and what is accepted.

    >>> str(InputError("-pixel", 0.0, "a number above 0"))
    '-pixel: got 0.0; accepted: a number above 0'
    """

    def __init__(self, name: str, value: object, accepted: str) -> None:
        self.name, self.value, self.accepted = name, value, accepted
        super().__init__(_line(name, _shown(value), accepted))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str]]:
        """Errors cross processes with what they say."""
        value = self.value if isinstance(self.value, str | int | float | bool | None) else str(self.value)
        return type(self), (self.name, value, self.accepted)


class DamagedError(InputError):
    """A file that is not what it begins as: what its reader met there."""


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to print longer ones
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)


def _line(name: str, value: str, accepted: str) -> str:
    """One line; where it would be too long, the value (a file may hold anything) loses a part first."""
    parts = {"name": name, "value": value, "accepted": accepted}
    for part in ("value", "accepted", "name"):
        excess = len("{name}: got {value}; accepted: {accepted}".format(**parts)) - LONGEST
        if excess > 0:
            parts[part] = _shortened(parts[part], max(_LEAST, len(parts[part]) - excess))
    return " ".join("{name}: got {value}; accepted: {accepted}".format(**parts).split())


def _shortened(text: str, count: int) -> str:
    """The beginning and the end of a text: the end of a path, or of a reason, tells most."""
    if len(text) <= count:
        return text
    before = (count - 3) // 3
    return f"{text[:before]}...{text[before + 3 - count :]}"
