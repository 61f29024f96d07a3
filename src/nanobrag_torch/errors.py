"""The one exception that bad input raises."""

from __future__ import annotations

LONGEST = 280
"""Characters of a message: one line of a terminal or three, whatever a file contains."""
_VALUE = 110  # characters that are left of a long name or value


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
    """One line: a long value (a file may hold anything) and a long list of what is accepted lose their middle."""
    name, value = _shortened(name, _VALUE), _shortened(value, _VALUE)
    room = max(LONGEST - len(f"{name}: got {value}; accepted: "), 40)
    return _shortened(" ".join(f"{name}: got {value}; accepted: {_shortened(accepted, room)}".split()), LONGEST)


def _shortened(text: str, count: int) -> str:
    """The beginning and the end of a text: the end of a path, or of a reason, tells most."""
    if len(text) <= count:
        return text
    before = (count - 3) // 3
    return f"{text[:before]}...{text[before + 3 - count :]}"
