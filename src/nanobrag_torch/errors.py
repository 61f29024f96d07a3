"""The one exception that bad input raises."""

from __future__ import annotations

LONGEST = 280
"""Characters of a message: one line of a terminal or three, whatever a file contains."""
_VALUE = 120  # characters that are left of a long value


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
        return InputError, (self.name, value, self.accepted)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 1000:  # Python refuses to print longer ones
        return f"a whole number of {value.bit_length()} bits"
    return repr(value)


def _line(name: str, value: str, accepted: str) -> str:
    """One line; a long value is cut first, then the name (a path: its end tells more), then what is accepted."""
    whole = f"{name}: got {value}; accepted: {accepted}"
    if len(whole) > LONGEST:
        name, value = _end(name, _VALUE), _start(value, max(24, LONGEST - len(f"{name}: got ; accepted: {accepted}")))
        whole = f"{name}: got {value}; accepted: {accepted}"
    return _start(" ".join(whole.split()), LONGEST)


def _start(text: str, count: int) -> str:
    return text if len(text) <= count else text[: count - 3] + "..."


def _end(text: str, count: int) -> str:
    return text if len(text) <= count else "..." + text[3 - count :]
