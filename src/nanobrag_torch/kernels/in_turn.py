"""A backend that renders a scene at a time, for batches: it takes their scenes in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanobrag_torch.kernels.backends import Backend
from nanobrag_torch.kernels.batch import by_scene, directions_of
from nanobrag_torch.kernels.problem import Options, Pull, Scene, scene_count, without_absent


def one_by_one(backend: Backend) -> Backend:
    """The same backend for batches, whose scenes it takes in turn."""
    if backend.batches:
        return backend

    def value(pixels: Tensor | None, scene: Scene, options: Options, *more: Any) -> Tensor:
        if scene_count(pixels, scene) is None:
            return backend.value(pixels, scene, options, *more)
        return by_scene(lambda listed, one, _: backend.value(listed, one, options), pixels, scene)

    def gradients(
        pull: Pull, pixels: Tensor | None, scene: Scene, options: Options
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if scene_count(pixels, scene) is None:
            return backend.gradients(pull, pixels, scene, options)
        return _gradients(backend, pull, pixels, scene, options)

    def tangents(pixels: Tensor | None, scene: Scene, directions: Mapping[str, Tensor], options: Options) -> Tensor:
        assert backend.tangents is not None
        along = backend.tangents
        if scene_count(pixels, scene) is None:
            return along(pixels, scene, directions, options)
        return by_scene(
            lambda listed, one, b: along(listed, one, directions_of(directions, scene, b), options), pixels, scene
        )

    return replace(backend, value=value, gradients=gradients, tangents=backend.tangents and tangents, batches=True)


def _gradients(
    backend: Backend, pull: Pull, pixels: Tensor | None, scene: Scene, options: Options
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of every scene in turn; added up for tensors that are of all scenes."""
    found: list[dict[str, Tensor]] = []
    upstream = without_absent(pull.upstream, pixels)

    def render(listed: Tensor | None, one: Scene, b: int) -> Tensor:
        values, gradients = backend.gradients(pull._replace(upstream=upstream[b]), listed, one, options)
        found.append(gradients)
        return values if pull.value else upstream[b].to(options.dtype)

    values, stacked = by_scene(render, pixels, scene), scene.stacked()
    together = {name: torch.stack([one[name] for one in found]) for name in pull.wanted}
    gradients = {name: g if name in stacked else g.sum(0) for name, g in together.items()}
    return values if pull.value else values.new_empty(0), gradients
