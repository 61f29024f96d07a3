"""What the panels of a file say of their pixels, as a response: gain, pedestal, trusted range and masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanobrag_torch.records.experiment import DetectorData, PanelData
from nanobrag_torch.response.config import WORDS, ResponseConfig

DEFAULTS = {"gain": 1.0, "pedestal": 0.0}


def panel_response(detector: DetectorData, given: ResponseConfig | None = None) -> ResponseConfig | None:
    """The response with what the panels say where it says nothing itself; None where neither says anything.

    Values above the highest trusted one, the lowest of all panels', are recorded as one more; pixels that are masked or
    untrusted as `masked_value`.
    """
    base = ResponseConfig() if given is None else given
    chosen: dict[str, Any] = {}
    if base.gain_modes is None:
        for name, default in DEFAULTS.items():
            value = _stated(detector, name, default)
            if _is_plain(getattr(base, name), default) and not _is_plain(value, default):
                chosen[name] = value
    top = min((p.trusted_range[1] for p in detector.panels if p.trusted_range is not None), default=np.inf)
    limit = WORDS.get(base.dtype, (0, 3.4e38))[1]
    if base.saturation is None and 0 < top < limit:
        chosen |= {"saturation": float(top), "overload": float(top) + 1}
    masked = any(not panel.good_pixels().all() for panel in detector.panels)
    if base.mask is None and masked:
        chosen["mask"] = torch.from_numpy(_on_panels(detector, [panel.good_pixels() for panel in detector.panels]))
    silent = not chosen or (set(chosen) == {"mask"} and given is None)  # nothing is expected in a mask anyway
    return given if silent else replace(base, **chosen)


def _stated(detector: DetectorData, name: str, default: float) -> float | Tensor:
    """One number, or one a pixel where panels differ."""
    values = [_value(panel, name, default) for panel in detector.panels]
    if len(set(values)) == 1:
        return values[0]
    return torch.from_numpy(_on_panels(detector, [np.full(panel.shape, v) for panel, v in
                                                  zip(detector.panels, values, strict=True)], default))  # fmt: skip


def _value(panel: PanelData, name: str, default: float) -> float:
    value = getattr(panel, name)
    unknown = value is None or (name == "gain" and value <= 0)  # 0 is how some files say that they do not know
    return default if unknown else float(value)


def _on_panels(detector: DetectorData, parts: list[Any], beside: float = 0.0) -> Any:
    """Arrays (slow, fast) of the panels as one of the image's shape."""
    slow, fast = detector.shape[-2:]
    whole = np.full((len(parts), slow, fast), beside, parts[0].dtype)
    for target, part in zip(whole, parts, strict=True):
        target[: part.shape[0], : part.shape[1]] = part
    return whole


def _is_plain(value: Any, default: float) -> bool:
    return isinstance(value, (int, float)) and value == default
