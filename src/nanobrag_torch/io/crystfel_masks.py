"""Groups of the panels of a CrystFEL geometry, and the pixels that it leaves out."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanobrag_torch.errors import InputError
from nanobrag_torch.io.crystfel_text import NUMBER, GeometryText, data_at
from nanobrag_torch.records.experiment import GroupData, PanelData
from nanobrag_torch.records.frames import to_imgcif

_LOG = logging.getLogger(__name__)

_MASK_KEY = re.compile(r"mask([0-7]?)(_data)?")
Mask = NDArray[np.bool_]


def groups_of(text: GeometryText, names: list[str]) -> GroupData | None:
    """The tree of groups: `group_` lines, whose highest is "all", else the last collection of rigid groups.

    Panels that no group holds hang in the root. Rigid groups that share a panel are no groups, as CrystFEL passes over
    them. Raises InputError for a name that is none, and for `group_` lines that go in circles or share a panel.
    """
    if any(key.startswith("group_") for key in text.top):
        return _nested(text, names)
    collections = [key for key in text.top if key.startswith("rigid_group_collection_")]
    if not collections:
        return None
    wanted = _words(text.top[collections[-1]][0])
    groups = [_group(text, f"rigid_group_{group}", group, names) for group in wanted]
    held = [index for group in groups for index in group.panel_indices()]
    if len(set(held)) < len(held):
        _LOG.warning("%s: rigid groups that share panels are left out", text.path)
        return None
    loose = [index for index in range(len(names)) if index not in held]
    return GroupData(name="detector", children=(*groups, *loose))


def _nested(text: GeometryText, names: list[str]) -> GroupData:
    known = {key.removeprefix("group_"): _words(text.top[key][0]) for key in text.top if key.startswith("group_")}
    below = {member for members in known.values() for member in members}
    tops = ["all"] if "all" in known else [name for name in known if name not in below]
    placed: set[str] = set()

    def build(name: str, above: tuple[str, ...]) -> GroupData:
        children: list[GroupData | int] = []
        for member in known[name]:
            node = text.node("", f"group_{name}")
            assert node is not None
            if member in placed or member in (*above, name) or (member not in known and member not in names):
                raise node.fail(f"names of panels and groups, each in one place; {member} is not")
            placed.add(member)
            children.append(build(member, (*above, name)) if member in known else names.index(member))
        return GroupData(name=name, children=tuple(children))

    groups = [build(name, ()) for name in tops]
    loose = [index for index, name in enumerate(names) if name not in placed]
    if len(groups) == 1 and not loose:
        return groups[0]
    return GroupData(name="detector", children=(*groups, *loose))


def _group(text: GeometryText, key: str, group: str, names: list[str]) -> GroupData:
    node = text.node("", key)
    assert node is not None
    members = _words(node.value)
    unknown = [member for member in members if member not in names]
    if unknown:
        raise node.fail(f"names of panels; {unknown[0]} is none")
    return GroupData(name=group, children=tuple(names.index(member) for member in members))


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def masks_of(text: GeometryText, panels: dict[str, PanelData]) -> dict[str, Mask]:
    """Masks of the panels that have bad pixels; True = use the pixel.

    Panels that are not indexed, edges, bad regions, and masks in the data file; a line says which of these is missing.
    """
    bad = {name: _bad_edges(text, name, panel) for name, panel in panels.items()}
    for region, entries in text.bad.items():
        only = entries["panel"][0] if "panel" in entries else None
        for name in [only] if only is not None else list(panels):
            if name not in panels:
                raise InputError(f"{text.path}: line {entries['panel'][1]}, {region}/panel", name, "a panel's name")
            bad[name] |= _bad_in_panel(text, region, panels[name])
    for name, panel in panels.items():
        bad[name] |= _bad_by_data(text, name, panel)
    return {name: ~pixels for name, pixels in bad.items() if pixels.any()}


def _bad_edges(text: GeometryText, name: str, panel: PanelData) -> Mask:
    """All pixels of a panel that is not indexed, else those at its edges that are left out."""
    if text.is_true(name, "no_index"):
        return np.ones(panel.shape, np.bool_)
    edge = text.whole(name, "mask_edge_pixels", 0)
    if edge < 0:
        raise InputError(f"{text.path}: {name}/mask_edge_pixels", edge, "a whole number from 0")
    bad = np.ones(panel.shape, np.bool_)
    bad[edge : panel.shape[0] - edge, edge : panel.shape[1] - edge] = False
    return bad


def _bad_in_panel(text: GeometryText, region: str, panel: PanelData) -> Mask:
    """Pixels of a panel in a region given by fs and ss of the data array, or by x and y in pixels in the lab frame."""
    slow, fast = np.indices(panel.shape, sparse=True)
    if "min_fs" in text.bad[region]:
        f0, f1, s0, s1 = (text.whole(region, key) for key in ("min_fs", "max_fs", "min_ss", "max_ss"))
        f, s = fast + panel.raw_image_offset[0], slow + panel.raw_image_offset[1]
        return np.asarray((f >= f0) & (f <= f1) & (s >= s0) & (s <= s1), np.bool_)
    bounds = {key: text.quantity(region, key, NUMBER) for key in ("min_x", "max_x", "min_y", "max_y")}
    x, y = np.moveaxis(to_imgcif("crystfel", panel.positions_mm(fast + 0.5, slow + 0.5)), -1, 0)[:2] / np.array(
        panel.pixel_size_mm[0]
    )
    inside = (x >= bounds["min_x"]) & (x <= bounds["max_x"]) & (y >= bounds["min_y"]) & (y <= bounds["max_y"])
    return np.asarray(inside, np.bool_)


def _bad_by_data(text: GeometryText, name: str, panel: PanelData) -> Mask:
    """Pixels that a mask in a file leaves out: not all good bits set, or a bad bit."""
    bad = np.zeros(panel.shape, np.bool_)
    keys = [match for key in text.panels[name] if (match := _MASK_KEY.fullmatch(key))]
    for match in keys:
        node = text.node(name, match[0])
        own = text.panels[name].get(f"mask{match[1]}_file")
        file = text.data_file if own is None else Path(own[0])
        assert node is not None
        if file is None or not file.is_file():
            _LOG.warning("%s: %s stands in %s, so no pixel is masked by it", text.path, node.value, file or "the data")
            continue
        mask = data_at(file, node.value, node)
        slow, fast = panel.raw_image_offset[1], panel.raw_image_offset[0]
        part = mask[..., slow : slow + panel.shape[0], fast : fast + panel.shape[1]]
        if part.shape != panel.shape:
            raise node.fail(f"a mask that holds the panel {name}, as one array (slow, fast), not {mask.shape}")
        good, wrong = (_bits(text, name, match[1], kind) for kind in ("good", "bad"))
        bits = part.astype(np.int64)
        bad |= (bits & good != good) | (bits & wrong != 0)
    return bad


def _bits(text: GeometryText, name: str, number: str, kind: str) -> int:
    for key in (f"mask{number}_{kind}bits", f"mask_{kind}"):
        node = text.node(name, key, optional=True)
        if node is not None:
            try:
                return int(node.value, 0)
            except ValueError as error:
                raise node.fail("bits such as 0x01") from error
    return 0
