"""Looks at files and blobs: everything that a record names is there, and nothing lies about that none names."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.lib
import pyarrow.parquet as pq

from holdfast.backend.datasets import POINTER
from holdfast.backend.datasets.face import MANIFEST
from holdfast.backend.datasets.raw import INCOMING, INTENTS, delivery_begun
from holdfast.backend.datasets.tables import standing
from holdfast.backend.pipelines.forgetting import unfinished
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.registry.face import read_manifest
from holdfast.backend.store import Leases
from holdfast.backend.store.files import sha256_of_file
from holdfast.errors import HoldfastError

__all__ = ["Finding", "Tables", "blob_findings", "face_findings", "raw_findings"]

Tables = Mapping[str, list[dict[str, Any]]]
"""All records: the rows of each table of the database."""
_MATRIX = "matrix "


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be: `object` is what, `message` how.

    `level` is `broken`, or `behind` for what an interruption left and the next command of its kind mends.
    """

    level: Literal["broken", "behind"]
    object: str
    message: str


# -- blobs -------------------------------------------------------------------------------------------------------------


def blob_findings(rooms: Rooms, tables: Tables, *, deep: bool) -> Iterator[Finding]:
    """Every blob that a record names is there; `deep`: with its hash, and a part with its number of rows."""
    named = _named_blobs(tables)
    there = set(rooms.blobs) if named else set()
    for digest in sorted(named.keys() - there):
        # Asked again by itself: a listing of a store that others write to is no snapshot.
        if rooms.blobs.has(digest):
            continue
        if all(one.startswith(_MATRIX) for one in named[digest]):
            yield Finding(
                "behind", _list(named[digest]), "its rows are not here, as in a clone; made again when needed"
            )
        else:
            yield Finding("broken", _list(named[digest]), f"its blob {digest} is gone")
    if not deep:
        return
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for row in tables["dataset_parts"]:
        rows[row["digest"]].add(row["rows"])
    for digest in sorted(named.keys() & there):
        try:
            path = rooms.blobs.path(digest)
            found = sha256_of_file(path)
            counted = {pq.read_metadata(path).num_rows} if found == digest and digest in rows else rows[digest]
        except (OSError, HoldfastError, pyarrow.lib.ArrowException) as error:
            yield Finding("broken", _list(named[digest]), f"its blob {digest} cannot be read: {error}")
            continue
        if found != digest:
            yield Finding("broken", _list(named[digest]), f"its blob {digest} is not what was written")
        elif counted != rows[digest]:
            yield Finding("broken", _list(named[digest]), f"its blob {digest} has {counted} rows, not {rows[digest]}")


def _named_blobs(tables: Tables) -> dict[str, set[str]]:
    """Digest → the records that name it."""
    named: defaultdict[str, set[str]] = defaultdict(set)
    versions = {row["id"]: row["version"] for row in tables["datasets"]}
    listed, known = standing(tables["datasets"])
    for row in tables["dataset_parts"]:
        if row["dataset"] in listed:
            named[row["digest"]].add(f"dataset {versions.get(row['dataset'], row['dataset'])}")
    for row in tables["datasets"]:
        if row["quarantine"] and row["id"] in known:
            named[row["quarantine"]].add(f"quarantine of dataset {row['version']}")
    for row in tables["matrices"]:
        named[row["sha256"]].add(f"{_MATRIX}{row['id'][:12]}")
    for row in tables["materialisations"]:
        named[row["sha256"]].add(f"materialisation {row['id']}")
    for row in tables["model_versions"]:
        for digest in (row["serving"], *row["files"].values()):
            named[digest].add(f"model {row['model']} {row['version']}")
    return named


def _list(names: set[str]) -> str:
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else first


# -- raw files ---------------------------------------------------------------------------------------------------------


def raw_findings(rooms: Rooms) -> Callable[[Tables, bool], Iterator[Finding]]:
    """List the raw files now; the answer compares the list with records that are read later."""
    raw = rooms.layout.raw
    listed = sorted(path for path in raw.rglob("*") if path.is_file()) if raw.is_dir() else []
    leftover = sorted(raw.glob(f"{INCOMING}*")) if raw.is_dir() else []
    intents = list(rooms.layout.private.glob(INTENTS))
    begun = {delivery_begun(intent) for intent in intents}

    def compared(tables: Tables, deep: bool) -> Iterator[Finding]:
        if unfinished(rooms):
            if not Leases(rooms.store, rooms.clock).holders("data"):
                yield Finding("behind", "erasure", "it was interrupted; the next change finishes it")
        else:
            yield from _recorded(rooms, tables, deep)
        known = {row["path"] for row in tables["dataset_files"]}
        busy = {holder.name for holder in Leases(rooms.store, rooms.clock).holders("data")}
        if "data" in busy:
            return
        if intents or leftover:
            yield Finding("behind", "data/raw", "an import was interrupted; the next change of the data clears it away")
        for path in listed:
            name = path.relative_to(rooms.layout.root).as_posix()
            folder = path.relative_to(raw).parts[0]
            if name not in known and not folder.startswith(INCOMING) and folder not in begun and path.exists():
                yield Finding("behind", name, "no version knows this file; import it, or take it away")

    return compared


def _recorded(rooms: Rooms, tables: Tables, deep: bool) -> Iterator[Finding]:
    for row in {row["path"]: row for row in tables["dataset_files"]}.values():
        path = rooms.layout.root / row["path"]
        try:
            size = path.stat().st_size
            changed = size != row["bytes"] or (deep and sha256_of_file(path) != row["sha256"])
        except OSError as error:
            yield Finding("broken", row["path"], f"the raw file cannot be read: {error.strerror}")
            continue
        if changed:
            yield Finding("broken", row["path"], "the raw file is not what was delivered")


# -- faces -------------------------------------------------------------------------------------------------------------


def face_findings(rooms: Rooms, tables: Tables, *, deep: bool) -> Iterator[Finding]:
    """The readable folders show what is current; `deep`: with the content that they say."""
    yield from _processed(rooms, tables, deep)
    yield from _model_folder(rooms, deep)
    yield from _matrix_folders(rooms, tables, deep)


def _processed(rooms: Rooms, tables: Tables, deep: bool) -> Iterator[Finding]:
    folder, name = rooms.layout.processed, "data/processed"
    current = next((row["target"] for row in tables["pointers"] if row["name"] == POINTER), None)
    if current is None:
        return
    manifest = _json(folder / MANIFEST)
    if manifest.get("id") != current:
        yield Finding(
            "behind", name, "it does not show the current version; the next change of the data writes it anew"
        )
        return
    yield from _files(folder, name, manifest.get("files", {}), deep)


def _model_folder(rooms: Rooms, deep: bool) -> Iterator[Finding]:
    folder, name = rooms.layout.models, "data/model"
    wanted = rooms.registry.shown()
    shown = read_manifest(folder)["models"]
    if shown != wanted:
        yield Finding("behind", name, "it does not show the current models; the next training or rollback does it")
        return
    for model in wanted.values():
        files = {file: said["sha256"] for file, said in model["files"].items()}
        # A weights file that somebody edits is taken over by the next training.
        edited = {file for file, said in model["files"].items() if said["role"] == "weights"}
        yield from _files(folder, name, files, deep, may_differ=edited)


def _matrix_folders(rooms: Rooms, tables: Tables, deep: bool) -> Iterator[Finding]:
    known = {row["id"] for row in tables["matrices"]}
    for path in sorted(rooms.layout.features.glob("**/manifest.json")):
        name = path.parent.relative_to(rooms.layout.root).as_posix()
        manifest = _json(path)
        if manifest.get("matrix") not in known:
            yield Finding("behind", name, "it shows a matrix that is not recorded; compute the matrix again")
            continue
        yield from _files(path.parent, name, manifest.get("files", {}), deep, level="behind")


def _files(
    folder: Path,
    name: str,
    files: Mapping[str, str],
    deep: bool,
    *,
    may_differ: Set[str] = frozenset(),
    level: Literal["broken", "behind"] = "broken",
) -> Iterator[Finding]:
    for file, digest in sorted(files.items()):
        path = folder / file
        if not path.is_file():
            yield Finding(level, f"{name}/{file}", "the file is gone")
        elif deep and file not in may_differ and sha256_of_file(path) != digest:
            yield Finding(level, f"{name}/{file}", "the file is not what was written")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
