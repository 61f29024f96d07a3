"""A data set on disk: shards that appear whole, a record a shard with sizes and checksums, a manifest over all.

    out/dataset.json                what is made here: recipe, checksums of its inputs, versions, fingerprint
    out/recipe.toml                 the recipe as it was written
    out/shards/00000.h5             images: recorded, expected, classes, spot_of_pixel; one chunk an image
    out/shards/00000.images.parquet a row an image
    out/shards/00000.spots.parquet  a row a spot
    out/shards/00000.json           the record, which appears last
    out/manifest.json               all records together, when every shard is there

Nothing in these files says when or by whom they were made: the same recipe gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nanobrag_torch.datasets.draws import KINDS
from nanobrag_torch.datasets.recipe import Recipe, recipe_of
from nanobrag_torch.errors import InputError
from nanobrag_torch.io.atomic import open_output
from nanobrag_torch.io.leftovers import part_of, remove_left
from nanobrag_torch.io.ownership import is_alive, read_claim

Json = dict[str, Any]

FORMAT = "nanobrag_torch data set 1"
CLAIMS = ".claims"
FLAG = "-o"


@dataclass(frozen=True)
class Folder:
    """A data set's folder and what is made in it."""

    path: Path
    recipe: Recipe
    fingerprint: str

    def shard(self, number: int, ending: str) -> Path:
        """A file of a shard: `h5`, `images.parquet`, `spots.parquet` or `json`."""
        return self.path / "shards" / f"{number:05d}.{ending}"

    def claim(self, name: str) -> Path:
        """The claim on a piece of work."""
        return self.path / CLAIMS / name

    def record(self, number: int) -> Json | None:
        """The record of a finished shard; None while it is not, or where files are missing or of another size."""
        try:
            record = json.loads(self.shard(number, "json").read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("fingerprint") != self.fingerprint:
            return None
        files = {self.path / "shards" / name: entry["bytes"] for name, entry in record["files"].items()}
        whole = all(path.is_file() and path.stat().st_size == size for path, size in files.items())
        return record if whole else None

    def damaged(self, number: int) -> list[str]:
        """Files of a recorded shard whose checksum is not that of the record; empty where all are as written."""
        record = self.record(number)
        if record is None:
            return [f"{number:05d}"] if self.shard(number, "json").exists() else []
        found = {name: checksum(self.path / "shards" / name) for name in record["files"]}
        return [name for name, entry in record["files"].items() if entry["sha256"] != found[name]]

    def forget(self, number: int) -> None:
        """Take a shard's record away, so that it is made again."""
        with suppress(FileNotFoundError):
            self.shard(number, "json").unlink()

    def missing(self) -> list[int]:
        """Shards that are not finished."""
        return [number for number in range(self.recipe.shards) if self.record(number) is None]

    def living_runs(self) -> list[Json]:
        """What the claims of living processes say."""
        found = [path for path in self._claims() if is_alive(path)]
        return [claim for path in found if (claim := read_claim(path)) is not None]

    def progress(self) -> int:
        """Images that are done, those of unfinished shards included."""
        done = sum(len(self.recipe.images_of(n)) for n in range(self.recipe.shards) if self.shard(n, "json").exists())
        under_way = (read_claim(path) for path in self._claims() if path.name.isdigit())
        return min(done + sum(int(c.get("done", 0)) for c in under_way if c), self.recipe.dataset.images)

    def _claims(self) -> list[Path]:
        folder = self.path / CLAIMS
        return [p for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []

    def remove_leftovers(self) -> None:
        """Remove what killed writers left: of shards that nobody is writing now."""
        if not (self.path / "shards").is_dir():
            return
        for place in (self.path / "shards").glob(".*.part"):
            number = place.name[1:].partition(".")[0]
            if not is_alive(self.claim(number)):
                remove_left(place)

    @contextmanager
    def writing(self, number: int) -> Iterator[Path]:
        """A folder for the files of a shard; when the block ends well they get their names, and the shard its record.

        What a killed writer of the shard left is removed: who writes has the claim on it. A full disk and the like are
        an InputError; nothing is left behind then.
        """
        place = part_of(self.path / "shards" / f"{number:05d}")
        try:
            with disk_errors(self.path):
                for left in (self.path / "shards").glob(f".{number:05d}.*.part"):
                    shutil.rmtree(left, ignore_errors=True)
                place.mkdir(parents=True)
                yield place
                files = {f"{number:05d}.{p.name}": p for p in sorted(place.iterdir())}
                described = {name: {"bytes": p.stat().st_size, "sha256": checksum(p)} for name, p in files.items()}
                self.forget(number)
                for name, path in files.items():
                    path.replace(self.path / "shards" / name)
                images = self.recipe.images_of(number)
                record = {"shard": number, "images": [images.start, images.stop], "fingerprint": self.fingerprint}
                write_json(self.shard(number, "json"), {**record, "files": described})
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def write_manifest(self) -> None:
        """The manifest over all shards, which must be there."""
        records = [self.record(number) for number in range(self.recipe.shards)]
        absent = [number for number, record in enumerate(records) if record is None]
        if absent:
            raise InputError("shards", f"{len(absent)} missing, such as {absent[0]}", "all of them, for the manifest")
        shards = [{k: v for k, v in record.items() if k != "fingerprint"} for record in records if record]
        write_json(self.path / "manifest.json", {**description(self.recipe), "shards": shards})


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the system or HDF5 says of a write that failed, as one line that names the folder."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or " ".join(str(error).split())[:120]).lower()
        raise InputError(FLAG, str(folder), f"a folder that can be written ({reason})") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    with open_output(path, FLAG) as file:
        file.write(json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def description(recipe: Recipe) -> Json:
    """Everything that decides the bytes of a data set, and its fingerprint."""
    versions = {"nanobrag_torch": version("nanobrag-torch"), "numpy": np.__version__}
    content = {"format": FORMAT, "recipe": recipe.tree(), "inputs": recipe.inputs(), "versions": versions}
    text = json.dumps(content, sort_keys=True)
    return {**content, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def open_folder(path: str | Path, recipe: Recipe | None = None, *, text: bytes | None = None) -> Folder:
    """The folder of a data set; made for the recipe where there is none. text: of the recipe's file, to be kept.

    Raises InputError for a folder of another recipe, with the keys that differ, or one that is no data set.
    """
    folder, header = Path(path), Path(path) / "dataset.json"
    if recipe is None:
        content = _header(header)
        known = _recipe_of_header(content, folder)
        return Folder(folder, known, str(content["fingerprint"]))
    wanted = description(recipe)
    if not header.exists():
        _create(folder, wanted, text)
    content = _header(header)
    if content["fingerprint"] != wanted["fingerprint"]:
        raise InputError(f"recipe for {path}", "; ".join(differences(wanted, content)), "the recipe of this folder")
    return Folder(folder, recipe, wanted["fingerprint"])


def _recipe_of_header(content: Json, folder: Path) -> Recipe:
    tree = {
        part: _given(entries) if isinstance(entries, dict) else [_given(e) for e in entries]
        for part, entries in content["recipe"].items()
    }
    return recipe_of(tree, folder)


def _given(entries: Json) -> Json:
    """What stands in a recipe: no key without a value."""
    return {key: value for key, value in entries.items() if value is not None and value != ""}


def _header(path: Path) -> Json:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError("folder", str(path.parent), "a data set: a folder with dataset.json") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError("folder", str(path.parent), f"a data set of the format {FORMAT}")
    return content


def _create(folder: Path, content: Json, text: bytes | None) -> None:
    """Make the folder's header appear once, whoever else is making it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shards").mkdir(exist_ok=True)
        if text is not None and not (folder / "recipe.toml").exists():
            with open_output(folder / "recipe.toml", FLAG) as file:
                file.write(text)
        beside = part_of(folder / "dataset")
        try:
            beside.write_text(json.dumps(content, indent=1) + "\n")
            with suppress(FileExistsError):
                os.link(beside, folder / "dataset.json")
        finally:
            beside.unlink(missing_ok=True)


def differences(wanted: Json, there: Json, most: int = 4) -> list[str]:
    """Keys whose values differ, as `key: value where the folder has value`."""
    first, second = (dict(_flattened({k: c[k] for k in ("recipe", "inputs", "versions")})) for c in (wanted, there))
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    found = [f"{key.removeprefix('recipe.')} {first.get(key)} where the folder has {second.get(key)}" for key in keys]
    return [*found[:most], f"{len(found) - most} more"] if len(found) > most else found


def _flattened(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and not any(isinstance(tree.get(kind), list | str) for kind in KINDS):
        for key, value in tree.items():
            yield from _flattened(value, f"{name}.{key}" if name else key)
    elif isinstance(tree, list) and any(isinstance(entry, dict) and "shape" in entry for entry in tree):
        for place, value in enumerate(tree):
            yield from _flattened(value, f"{name}[{place}]" if len(tree) > 1 else name)
    else:
        yield name, tree
