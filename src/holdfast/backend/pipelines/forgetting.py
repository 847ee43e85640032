"""The end of an erasure: what can be repeated until it is done, from a file of intent.

The file holds the keys in clear for as long as it is there, readable by its owner only.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from glob import escape as escape_glob
from pathlib import Path
from typing import Any

from holdfast.backend.deployment import Outcomes
from holdfast.backend.pipelines.erasing import Plan
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import Key
from holdfast.backend.serving.exchange import Logged
from holdfast.backend.serving.log import erase_predictions
from holdfast.backend.store import Leases, crash_point
from holdfast.backend.store.erasures import Erasures
from holdfast.backend.store.files import sha256_of_file, write_whole
from holdfast.core.names import escape
from holdfast.core.schema import DType
from holdfast.errors import IntegrityError, LockedError

__all__ = ["INTENT", "finish", "finish_interrupted", "unfinished", "write_intent"]

INTENT = "erasing.json"
_TRACES = "*erasing*"
_CACHES = ("partial", "keys")
"""Folders in .holdfast with what can be computed again."""


def unfinished(rooms: Rooms) -> bool:
    """Whether an erasure is under way, or was interrupted."""
    return any(rooms.layout.private.glob(_TRACES))


def write_intent(rooms: Rooms, identity: str, plan: Plan) -> None:
    """Say what is to be done once the transaction is committed."""
    shape = plan.belongings.shape
    intent = {
        "id": identity,
        "keys": {table: sorted(keys) for table, keys in plan.belongings.keys.items()},
        "types": {table: dtype.value for table, (_, dtype) in shape.keys.items()},
        "columns": {table: column for table, (column, _) in shape.keys.items()},
        "links": {table: sorted(links) for table, links in shape.links.items()},
        "files": [asdict(file) for file in plan.files],
        "stale": plan.stale,
        "made": plan.made,
        "groups": plan.groups,
        "targets": plan.targets,
    }
    path = rooms.layout.private / INTENT

    def write(scratch: Path) -> None:
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(intent, ensure_ascii=False), encoding="utf-8")

    write_whole(path, write)


def finish_interrupted(rooms: Rooms) -> None:
    """Finish an erasure that was interrupted, unless somebody is at it."""
    if unfinished(rooms):
        with suppress(LockedError), Leases(rooms.store, rooms.clock).hold(["data"], doing="finish an erasure"):
            finish(rooms)


def finish(rooms: Rooms) -> tuple[int, int]:
    """Do what the intent says, if there is one; returns how many vectors and predictions went. Hold the data's lease.

    An intent whose transaction was never committed is dropped, with what was written for it.
    """
    path = rooms.layout.private / INTENT
    for left in rooms.layout.private.glob(_TRACES):
        if left.is_dir():
            shutil.rmtree(left)
        elif left != path:
            left.unlink()
    if not path.exists():
        return 0, 0
    try:
        intent = json.loads(path.read_text(encoding="utf-8"))
        identity = str(intent["id"])
    except (ValueError, KeyError) as error:
        raise IntegrityError(
            "the intent of an erasure cannot be read", where={"file": str(path)},
            hint="It is written whole: somebody changed it. Delete it, and erase the person again.",
        ) from error  # fmt: skip
    with rooms.store.read() as connection:
        committed = any(one.id == identity for one in Erasures(connection).list())
    if not committed:
        for digest in intent["made"]:
            rooms.blobs.delete(digest)
        path.unlink()
        return 0, 0
    _raw_files(rooms, intent)
    for digest in intent["stale"]:
        crash_point("erase blob: before")
        rooms.blobs.delete(digest)
    rooms.datasets.parts.forget(intent["stale"])
    vectors = _vectors(rooms, intent)
    predictions = _predictions(rooms, intent)
    _faces(rooms, intent)
    with rooms.store.write("end erasure") as connection:
        Erasures(connection).end(identity)
    rooms.store.scrub()
    crash_point("erasure intent: before")
    path.unlink()
    return vectors, predictions


def _raw_files(rooms: Rooms, intent: Mapping[str, Any]) -> None:
    for file in intent["files"]:
        path = rooms.layout.root / file["path"]
        for left in path.parent.glob(f".{escape_glob(path.name)}.*.new"):  # of an attempt that was killed
            left.unlink()
        if not path.is_file() or sha256_of_file(path) != file["sha256"]:
            write_whole(path, partial(_bytes, rooms.blobs.path(file["blob"])))
    for file in intent["files"]:
        crash_point("erase raw blob: before")
        rooms.blobs.delete(file["blob"])


def _bytes(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def _vectors(rooms: Rooms, intent: Mapping[str, Any]) -> int:
    gone = 0
    for group, table in intent["groups"].items():
        dtype = DType(intent["types"][table])
        crash_point("erase vectors: before")
        gone += rooms.online_store.delete(group, [_typed(key, dtype) for key in intent["keys"][table]])
    return gone


def _typed(key: str, dtype: DType) -> Key:
    if dtype in (DType.INT, DType.TIME):
        return int(key)
    if dtype is DType.FLOAT:
        return float(key)
    return key == "true" if dtype is DType.BOOL else key


def _predictions(rooms: Rooms, intent: Mapping[str, Any]) -> int:
    keys = {table: set(found) for table, found in intent["keys"].items()}
    targets = {**_entities(rooms), **intent["targets"]}

    outcomes = Outcomes(rooms.store, rooms.clock)

    def belongs(entry: Logged) -> bool:
        theirs = entry.entity is not None and entry.entity in keys.get(targets.get(entry.target, ""), ())
        if theirs:
            # Before the prediction, by which it is found: what is interrupted here is done again.
            outcomes.erase([entry.id])
        return theirs

    def cleaned(rows: Any) -> Any:
        if not isinstance(rows, dict):
            return rows
        return {table: [row for row in records if not _theirs(intent, keys, table, row)]
                for table, records in rows.items()}  # fmt: skip

    crash_point("erase predictions: before")
    return erase_predictions(rooms.prediction_log, belongs, cleaned)


def _theirs(intent: Mapping[str, Any], keys: Mapping[str, set[str]], table: str, row: Any) -> bool:
    columns: Iterable[tuple[str, str]] = intent["links"].get(table, ())
    own = intent["columns"].get(table)
    pairs = [*columns, *([(own, table)] if own else [])]
    return isinstance(row, dict) and any(str(row.get(column)) in keys.get(parent, ()) for column, parent in pairs)


def _entities(rooms: Rooms) -> dict[str, str]:
    """The entity's table of every target that was ever deployed."""
    found = {name: said.entity_table for name, said in rooms.settings.targets.items()}
    for deployment in rooms.deployments.history():
        if deployment.target not in found:
            model = rooms.registry.get(next(iter(deployment.models.values())))
            found[deployment.target] = rooms.features.get(model.feature_set).definitions["entity"]
    return found


def _faces(rooms: Rooms, intent: Mapping[str, Any]) -> None:
    """Readable folders that showed the person. Matrices are shown again when they are next computed."""
    first = next(iter(rooms.settings.targets), None)
    for target in intent["targets"]:
        folder = rooms.layout.features if target == first else rooms.layout.features / escape(target)
        for pattern in ("manifest.json", "feature_matrix_*", "feature_database.pkl"):
            for path in folder.glob(pattern):
                path.unlink()
    for name in _CACHES:
        shutil.rmtree(rooms.layout.private / name, ignore_errors=True)
    # The folder names its version: that it is the same must not keep it from being written again.
    (rooms.layout.processed / "manifest.json").unlink(missing_ok=True)
    rooms.datasets.refresh_face()
