"""Whether a whole project holds together: every invariant of docs/design/integrity.md, looked at one by one.

Map: `check` puts the looks together; here are those at records and pointers, in `integrity_files` those at files and
blobs. They read the tables themselves, and not through the rooms: a fault in a room's own query must not hide what
they are there to find. Nothing is changed and no lease is needed.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator

import sqlalchemy as sa

from holdfast.backend.datasets import POINTER, STATES
from holdfast.backend.pipelines.forgetting import unfinished
from holdfast.backend.pipelines.integrity_files import Finding, Tables, blob_findings, face_findings, raw_findings
from holdfast.backend.pipelines.rooms import Rooms
from holdfast.backend.records import FOREIGN
from holdfast.backend.serving.loader import load_predictor
from holdfast.backend.store import Audit, Erasures, Leases, metadata
from holdfast.core.schema import Schema
from holdfast.errors import HoldfastError, IntegrityError

__all__ = ["Finding", "check"]

_RUN_STATES = {"running", "done", "failed"}
_READ = (
    "pointers", "pointer_moves", "datasets", "dataset_parts", "dataset_files", "feature_sets", "matrices",
    "feature_groups", "materialisations", "runs", "model_versions", "archived_models", "deployments", "rollouts",
    "jobs",
)  # fmt: skip


def check(rooms: Rooms, *, deep: bool = False) -> list[Finding]:
    """Everything that is wrong with a project; empty when it holds together.

    With `deep` every blob and file is read and hashed, rows are counted, and what is deployed is loaded and replayed:
    that takes as long as reading all of it. What other processes change meanwhile is no finding: what one look finds
    has to be found by a second one.
    """
    found = list(_look(rooms, deep))
    if not found:
        return []
    again = set(_look(rooms, deep))
    return [one for one in found if one in again]


def _look(rooms: Rooms, deep: bool) -> Iterator[Finding]:
    # Files before records: what is published between the two is recorded by the time the records are read.
    raw = raw_findings(rooms)
    tables = _tables(rooms)
    for look in (_pointers, _history, _datasets, _features, _models, _deployments, _groups):
        yield from look(tables)
    yield from _running(rooms, tables)
    yield from _audit(rooms)
    yield from _erasures(rooms)
    yield from blob_findings(rooms, tables, deep=deep)
    yield from raw(tables, deep)
    yield from face_findings(rooms, tables, deep=deep)
    if deep:
        yield from _deep(rooms, tables)


def _tables(rooms: Rooms) -> Tables:
    """All records, as one snapshot saw them."""
    with rooms.store.read() as connection:
        tables = {
            name: [dict(row._mapping) for row in connection.execute(sa.select(metadata.tables[name]))]
            for name in _READ
        }  # fmt: skip
        audit = metadata.tables["audit"]
        query = sa.select(audit.c.object, audit.c.before, audit.c.after).order_by(audit.c.id)
        moves = connection.execute(query.where(audit.c.action.in_(["point", "drop"])))
        return {**tables, "audit": [dict(row._mapping) for row in moves]}


def _broken(object_: str, what: str) -> Finding:
    return Finding("broken", object_, what)


def _ids(tables: Tables, name: str) -> set[str]:
    return {row["id"] for row in tables[name]}


def _exists(known: Collection[str], name: str | None, of: str, what: str) -> Iterator[Finding]:
    """A finding when `of` names something that is not there; what another project gave cannot be found here."""
    if name and name not in known and not name.startswith(FOREIGN):
        yield _broken(of, f"its {what} {name} does not exist")


# -- pointers ----------------------------------------------------------------------------------------------------------


def _pointers(tables: Tables) -> Iterator[Finding]:
    datasets = _ids(tables, "datasets")
    models = {row["id"]: row["model"] for row in tables["model_versions"]}
    targets = {row["id"]: row["target"] for row in tables["deployments"]}
    groups = {row["id"]: row["name"] for row in tables["feature_groups"]}
    runs, archived = _ids(tables, "runs"), _ids(tables, "archived_models")
    for row in tables["pointers"]:
        name, target = row["name"], row["target"]
        kind, _, rest = name.partition(":")
        if kind == "model":
            if models.get(target) != rest:
                yield _broken(name, f"points at {target}, which is no version of that model")
            if target in archived:
                yield _broken(name, f"points at {target}, which is archived")
        elif kind == "model-tag":
            if not rest.startswith(f"{models.get(target)}:"):
                yield _broken(name, f"points at {target}, which is no version of that model")
        elif kind == "deployment":
            if targets.get(target) != rest:
                yield _broken(name, f"points at {target}, which is no deployment of that target")
        elif kind.startswith("group/"):
            if groups.get(target) != name.removeprefix("group/"):
                yield _broken(name, f"points at {target}, which is no version of that group")
        elif kind == "trained":
            yield from _exists(runs, target, name, "run")
            yield from _exists(datasets, rest.partition(":")[0], name, "dataset")
        elif name == POINTER or target.startswith("data_"):
            yield from _exists(datasets, target, name, "dataset")


def _history(tables: Tables) -> Iterator[Finding]:
    """Each pointer is where its last move put it, each move begins where the one before ended, and each was audited."""
    moves: defaultdict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
    for row in sorted(tables["pointer_moves"], key=lambda row: row["id"]):
        before = moves[row["name"]][-1][1] if moves[row["name"]] else None
        if row["before"] != before:
            yield _broken(row["name"], f"move {row['id']} begins at {row['before']}, the one before ended at {before}")
        moves[row["name"]].append((row["before"], row["after"] or None))
    pointers = {row["name"]: row["target"] for row in tables["pointers"]}
    for name in moves.keys() | pointers.keys():
        last = moves[name][-1][1] if moves[name] else None
        if pointers.get(name) != last:
            yield _broken(name, f"points at {pointers.get(name)}, its last move was to {last}")
    audited: defaultdict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
    for row in tables["audit"]:
        audited[row["object"]].append((row["before"], row["after"]))
    for name in moves.keys() | audited.keys():
        # Moves of a project that is older than the audit log have no entries; all later ones have.
        told, made = audited[name], moves[name]
        if told != made[len(made) - len(told) :]:
            yield _broken(name, f"its {len(made)} moves are not the {len(told)} that the audit log tells of")


def _audit(rooms: Rooms) -> Iterator[Finding]:
    try:
        head = rooms.store.kept_head()
        with rooms.store.read() as connection:
            Audit(connection).verify(head)
    except IntegrityError as error:
        yield _broken("audit log", error.message)


def _erasures(rooms: Rooms) -> Iterator[Finding]:
    with rooms.store.read() as connection:
        begun = [one.id for one in Erasures(connection).list() if one.state != "done"]
    # While the intent is there, what it says can still be done.
    if not unfinished(rooms):
        for identity in begun:
            yield _broken(f"erasure:{identity}", "it never ended, and what it has still to do is not known any more")


# -- records -----------------------------------------------------------------------------------------------------------


def _datasets(tables: Tables) -> Iterator[Finding]:
    known, files = _ids(tables, "datasets"), _ids(tables, "dataset_files")
    numbers: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for row in tables["datasets"]:
        of = f"dataset {row['version']}"
        numbers[row["major"], row["minor"]].append(row["id"])
        if row["version"] != f"v{row['major']}.{row['minor']}":
            yield _broken(of, f"its number is {row['major']}.{row['minor']}")
        if row["state"] not in STATES:
            yield _broken(of, f"its state is {row['state']!r}")
        try:
            parents, sources = json.loads(row["parents"]), json.loads(row["sources"])
            schema = Schema.from_dict(json.loads(row["schema"]))
            named = set(json.loads(row["rows"])) | set(json.loads(row["contract"]))
        except (ValueError, KeyError, TypeError, HoldfastError) as error:
            yield _broken(of, f"its manifest cannot be read: {error}")
            continue
        if not named <= set(schema.tables):
            yield _broken(
                of, f"it counts tables that its schema lacks: {', '.join(sorted(named - set(schema.tables)))}"
            )
        yield from _exists(known, row["base"], of, "base")
        for parent in parents:
            yield from _exists(known, parent, of, "parent")
        for source in sources:
            yield from _exists(files, source, of, "raw file")
    for number, ids in numbers.items():
        if len(ids) > 1:
            yield _broken(f"dataset v{number[0]}.{number[1]}", f"{len(ids)} versions have this number")
    for name in ("dataset_parts", "dataset_files"):
        for owner in {row["dataset"] for row in tables[name]} - known:
            yield _broken(f"dataset {owner}", f"it is named by {name} and does not exist")


def _features(tables: Tables) -> Iterator[Finding]:
    datasets, sets = _ids(tables, "datasets"), _ids(tables, "feature_sets")
    for row in tables["feature_sets"]:
        yield from _exists(datasets, row["dataset"], f"feature set {row['id'][:12]}", "dataset")
    for row in tables["matrices"]:
        of = f"matrix {row['id'][:12]}"
        yield from _exists(datasets, row["dataset"], of, "dataset")
        yield from _exists(sets, row["feature_set"], of, "feature set")


def _models(tables: Tables) -> Iterator[Finding]:
    names = ("datasets", "feature_sets", "matrices", "runs", "model_versions")
    datasets, sets, matrices, runs, models = (_ids(tables, name) for name in names)
    every = datasets | sets | matrices | runs | models
    for row in tables["runs"]:
        of = f"run {row['id']}"
        if row["state"] not in _RUN_STATES:
            yield _broken(of, f"its state is {row['state']!r}")
        yield from _exists(datasets, row["dataset"], of, "dataset")
        yield from _exists(sets, row["feature_set"], of, "feature set")
        yield from _exists(matrices, row["matrix"], of, "matrix")
    states = {row["id"]: row["state"] for row in tables["runs"]}
    made = {row["run"] for row in tables["model_versions"]}
    for run in (run for run, state in states.items() if state == "done" and run not in made):
        yield _broken(f"run {run}", "it is done and registered no model")
    for row in tables["model_versions"]:
        of = f"model {row['model']} {row['version']}"
        if states.get(row["run"], "done") != "done":
            yield _broken(of, f"its run {row['run']} is {states[row['run']]}")
        yield from _exists(runs, row["run"], of, "run")
        yield from _exists(datasets, row["dataset"], of, "dataset")
        yield from _exists(sets, row["feature_set"], of, "feature set")
        for parent in row["parents"]:
            yield from _exists(every, parent, of, "parent")


def _deployments(tables: Tables) -> Iterator[Finding]:
    models = {row["id"]: (row["target"], row["label"]) for row in tables["model_versions"]}
    known = {row["id"]: row["target"] for row in tables["deployments"]}
    for row in tables["deployments"]:
        of = f"deployment {row['id']}"
        for label, model in row["models"].items():
            if models.get(model) != (row["target"], label):
                yield _broken(of, f"its model {model} is none of label {label!r} of {row['target']!r}")
        for parent in row["parents"]:
            if known.get(parent) != row["target"]:
                yield _broken(of, f"its parent {parent} is no deployment of {row['target']!r}")
    trials = {row["id"]: row["target"] for row in tables["rollouts"]}
    for row in tables["pointers"]:
        kind, _, target = row["name"].partition(":")
        if kind == "rollout" and trials.get(row["target"]) != target:
            yield _broken(row["name"], f"points at {row['target']}, which is no rollout of that target")
    for row in tables["rollouts"]:
        for role in ("stable", "candidate"):
            if known.get(row[role]) != row["target"]:
                yield _broken(f"rollout {row['id']}", f"its {role} {row[role]} is no deployment of {row['target']!r}")


def _groups(tables: Tables) -> Iterator[Finding]:
    datasets, groups = _ids(tables, "datasets"), _ids(tables, "feature_groups")
    for row in tables["feature_groups"]:
        yield from _exists(datasets, row["dataset"], f"feature group {row['name']} {row['id'][:12]}", "dataset")
    for row in tables["materialisations"]:
        yield from _exists(groups, row["version"], f"materialisation {row['id']}", "group")
        yield from _exists(datasets, row["dataset"], f"materialisation {row['id']}", "dataset")


def _running(rooms: Rooms, tables: Tables) -> Iterator[Finding]:
    """Runs and jobs that run have somebody who runs them."""
    held = {holder.name for holder in Leases(rooms.store, rooms.clock).holders()}
    for row in tables["runs"]:
        models = row["parameters"].get("models", ())
        if row["state"] == "running" and not {f"model:{model}" for model in models} <= held:
            yield Finding("behind", f"run {row['id']}", "its process ended before it did; the next training ends it")
    for row in tables["jobs"]:
        if row["state"] == "running" and f"job:{row['id']}" not in held:
            yield Finding("behind", f"job {row['id']}", "nobody works on it; the next worker takes it over")


# -- what takes time ---------------------------------------------------------------------------------------------------


def _deep(rooms: Rooms, tables: Tables) -> Iterator[Finding]:
    """Rows are as many as every version says; what is deployed loads and answers its golden rows as recorded."""
    for row in (row for row in tables["datasets"] if row.get("collected_at") is None):
        of = f"dataset {row['version']}"
        try:
            read = rooms.datasets.read(row["id"], current_only=True)
        except (HoldfastError, OSError, ValueError) as error:
            yield _broken(of, f"it cannot be read: {error}")
            continue
        for table, count in json.loads(row["rows"]).items():
            if len(read[table]) != count:
                yield _broken(of, f"table {table} has {len(read[table])} rows, recorded are {count}")
    yield from _databases(rooms)
    pointed = {row["target"] for row in tables["pointers"] if row["name"].startswith("deployment:")}
    for deployment in sorted(pointed & _ids(tables, "deployments")):
        try:
            load_predictor(rooms.deployments.get(deployment), rooms.sources)
        except HoldfastError as error:
            yield _broken(f"deployment {deployment}", f"it cannot answer: {error}")


def _databases(rooms: Rooms) -> Iterator[Finding]:
    if rooms.store.engine.dialect.name != "sqlite":
        return
    with rooms.store.read() as connection:
        for pragma, sound in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
            said = [tuple(row) for row in connection.execute(sa.text(f"PRAGMA {pragma}"))]
            if said != sound:
                yield _broken("metadata database", f"{pragma} says: {said[:3]}")
