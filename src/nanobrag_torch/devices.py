"""Which devices torch can use here: the one place where a device is checked."""

from __future__ import annotations

import torch

from nanobrag_torch.errors import InputError


def checked_device(device: torch.device | str, field: str = "device") -> torch.device:
    """The device, if torch can use it here. Raises InputError that names the field and says which can be used."""
    try:
        found = torch.device(device)
        if found.type != "cuda":
            torch.empty(0, dtype=torch.float64, device=found)
    except (RuntimeError, TypeError, AssertionError):  # what torch raises for one that it lacks differs by device
        raise InputError(field, str(device), "cpu, cuda or cuda:N") from None
    if found.type != "cuda":
        return found
    if not torch.cuda.is_available():
        reason = "this torch is built without CUDA" if torch.version.cuda is None else "no GPU or no driver is found"
        raise InputError(field, str(device), f"cpu; {reason}")
    count = torch.cuda.device_count()
    if not 0 <= _number(device, found) < count:
        raise InputError(field, str(device), ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))]))
    return found


def _number(device: torch.device | str, found: torch.device) -> int:
    """The number of a device as it was written; 0 for none. Torch keeps eight bits of it: cuda:256 reads as cuda:0."""
    if isinstance(device, str) and ":" in device:
        return int(device.rsplit(":", 1)[1])
    return 0 if found.index is None else found.index
