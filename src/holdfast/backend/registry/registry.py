"""The registry: runs and model versions, and what is current."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from holdfast.backend.layout import Layout
from holdfast.backend.ports import Blobs, Clock
from holdfast.backend.records import ModelVersion, Run, new_id
from holdfast.backend.registry import tables
from holdfast.backend.registry.artifacts import rename_bundle
from holdfast.backend.registry.bundle import load_bundle
from holdfast.backend.registry.face import Edit, Face, entries, stem_key
from holdfast.backend.registry.package import dump_package, dump_weights, open_package, read_weights
from holdfast.backend.store import Pointers, Store
from holdfast.backend.store.locks import file_lock
from holdfast.backend.store.pointers import Move
from holdfast.errors import ConflictError, HoldfastError, InputError, NotFoundError

__all__ = ["Registry", "model_name"]

_FACE_WAIT = 60.0
Also = Callable[[sa.Connection], None]
"""More to do in the same transaction."""


def model_name(target: str, label: str, task: str) -> str:
    """`<target>/<label>` for multi-label targets, else `<target>`."""
    return f"{target}/{label}" if task == "multilabel" else target


class Registry:
    """Runs, model versions, pointers to the current ones, and the folder data/model that shows them.

    A model version never changes. `model:<name>` points at the current one; it moves in the transaction that registers
    a version. The folder follows after the transaction; whatever kept it from following, the next `sync` mends it.
    """

    def __init__(self, store: Store, blobs: Blobs, clock: Clock, layout: Layout) -> None:
        self.store = store
        self.blobs = blobs
        self.clock = clock
        self.layout = layout
        self._face = Face(layout.models, blobs)
        self._opened: dict[str, dict[str, Any]] = {}

    # -- runs ---------------------------------------------------------------------------------------------------------

    def start_run(self, run: Run) -> None:
        """Record a run that begins, or goes on after it was interrupted."""
        with self.store.write("start run") as connection:
            connection.execute(tables.runs.delete().where(tables.runs.c.id == run.id))
            connection.execute(tables.runs.insert().values(tables.values_of(run)))

    def fail_run(self, run: str, error: str) -> None:
        """Record that a running run failed, and why. A run that has ended stays as it is."""
        with self.store.write("fail run") as connection:
            running = (tables.runs.c.id == run) & (tables.runs.c.state == "running")
            values = {"state": "failed", "error": error, "ended_at": self.clock.now()}
            connection.execute(tables.runs.update().where(running).values(values))

    def run(self, run: str) -> Run:
        """The run of that id, or NotFoundError."""
        with self.store.read() as connection:
            row = connection.execute(sa.select(tables.runs).where(tables.runs.c.id == run)).first()
        if row is None:
            raise NotFoundError(f"there is no run {run!r}", where={"run": run}, hint="See: holdfast models list")
        return tables.run_of(row)

    def runs(self, target: str | None = None, state: str | None = None) -> list[Run]:
        """Runs, newest first; of one target or in one state."""
        query = sa.select(tables.runs).order_by(tables.runs.c.id.desc())
        if target is not None:
            query = query.where(tables.runs.c.target == target)
        if state is not None:
            query = query.where(tables.runs.c.state == state)
        with self.store.read() as connection:
            return [tables.run_of(row) for row in connection.execute(query)]

    def find_run(self, fingerprint: str, *, own: str = "", force: bool = False) -> Run | None:
        """The newest finished run with that fingerprint; the run `own` before all, and nothing but it with `force`."""
        same = (tables.runs.c.fingerprint == fingerprint) & (tables.runs.c.state == "done")
        query = sa.select(tables.runs).where(same).order_by((tables.runs.c.id == own).desc(), tables.runs.c.id.desc())
        if force:
            query = query.where(tables.runs.c.id == own)
        with self.store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else tables.run_of(row)

    # -- versions -----------------------------------------------------------------------------------------------------

    def register(
        self,
        versions: Sequence[ModelVersion],
        *,
        run: Run | None = None,
        expect: Mapping[str, str | None] | None = None,
        why: str = "training",
        also: Also | None = None,
    ) -> None:
        """Record the versions and make them current, all in one transaction with the end of `run` and `also`.

        `expect` says per model what was current before; ConflictError when another moved it meanwhile, and then nothing
        is changed. The blobs are there already. The folder data/model follows.
        """
        now = self.clock.now()
        with self.store.write("register models") as connection:
            pointers = Pointers(connection)
            for version in versions:
                try:
                    connection.execute(tables.model_versions.insert().values(tables.values_of(version)))
                except sa.exc.IntegrityError as error:
                    raise ConflictError(
                        f"model {version.model} has a version {version.version} already", hint="Train it again."
                    ) from error
                name = f"model:{version.model}"
                if expect is None:
                    pointers.move(name, version.id, at=now, why=why)
                else:
                    pointers.move(name, version.id, at=now, why=why, expect=expect.get(version.model))
            if run is not None:
                values = tables.values_of(run)
                connection.execute(tables.runs.update().where(tables.runs.c.id == run.id).values(values))
            if also is not None:
                also(connection)
        self.refresh()

    def make_current(self, versions: Sequence[ModelVersion], *, why: str, also: Also | None = None) -> None:
        """Point at versions that are registered, all in one transaction with `also`. The folder data/model follows."""
        with self.store.write("make models current") as connection:
            pointers = Pointers(connection)
            for version in versions:
                if pointers.get(f"model:{version.model}") != version.id:
                    pointers.move(f"model:{version.model}", version.id, at=self.clock.now(), why=why)
            if also is not None:
                also(connection)
        self.refresh()

    def note_trained(self, connection: sa.Connection, dataset: str, run: str, models: Sequence[str]) -> frozenset[str]:
        """Note in somebody's transaction that `run` trained `models` on a dataset version, or on equal matrices of it.

        Returns all models whose current version comes from the run noted for this dataset version.
        """
        pointers = Pointers(connection)
        for model in models:
            if pointers.get(_trained(dataset, model)) != run:
                pointers.move(_trained(dataset, model), run, at=self.clock.now(), why="training")
        noted, currents = pointers.all(_trained(dataset, "")), pointers.all("model:")
        table = tables.model_versions
        query = sa.select(table.c.model, table.c.run).where(table.c.id.in_(currents.values()))
        return frozenset(
            model for model, made_by in connection.execute(query) if noted.get(_trained(dataset, model)) == made_by
        )

    def next_version(self, model: str, algorithm: str) -> str:
        """The next free version: a new major where the algorithm changes, else a new minor; v1.0 at first."""
        known = self.versions(model)
        if not known:
            return "v1.0"
        major, minor = tables.version_order(known[-1].version)
        return f"v{major}.{minor + 1}" if known[-1].algorithm == algorithm else f"v{major + 1}.0"

    def versions(self, model: str) -> list[ModelVersion]:
        """All versions of a model, oldest first; empty for an unknown one."""
        query = sa.select(tables.model_versions).where(tables.model_versions.c.model == model)
        with self.store.read() as connection:
            found = [tables.version_of(row) for row in connection.execute(query)]
        return sorted(found, key=lambda version: tables.version_order(version.version))

    def of_run(self, run: str) -> list[ModelVersion]:
        """The versions a run registered, by model."""
        query = sa.select(tables.model_versions).where(tables.model_versions.c.run == run)
        with self.store.read() as connection:
            found = [tables.version_of(row) for row in connection.execute(query)]
        return sorted(found, key=lambda version: version.model)

    def current(self, target: str | None = None) -> list[ModelVersion]:
        """The current version of every model (of a target), in the order the models came."""
        with self.store.read() as connection:
            pointed = set(Pointers(connection).all("model:").values())
            query = sa.select(tables.model_versions).where(tables.model_versions.c.id.in_(pointed))
            found = [tables.version_of(row) for row in connection.execute(query)]
            order = {model: place for place, model in enumerate(_firsts(connection))}
        kept = [version for version in found if target in (None, version.target)]
        return sorted(kept, key=lambda version: order[version.model])

    def get(self, model: str, version: str | None = None) -> ModelVersion:
        """A version of a model: the current one, or by `vX.Y`, tag or id. `model` alone may be an id as well.

        NotFoundError names what there is.
        """
        with self.store.read() as connection:
            pointers = Pointers(connection)
            table = tables.model_versions
            if version is None:
                same = table.c.id == (pointers.get(f"model:{model}") or model)
            else:
                wanted = pointers.get(_tag(model, version)) or version
                same = (table.c.model == model) & ((table.c.id == wanted) | (table.c.version == wanted))
            row = connection.execute(sa.select(table).where(same)).first()
            if row is not None:
                return tables.version_of(row)
            names = [name.removeprefix("model:") for name in pointers.all("model:")]
        if model not in names:
            there = f"There are: {', '.join(names)}." if names else "Nothing was trained yet: holdfast train"
            raise NotFoundError(f"there is no model {model!r}", where={"model": model}, hint=there)
        known = ", ".join(v.version for v in self.versions(model))
        raise NotFoundError(
            f"model {model} has no version {version!r}", where={"model": model}, hint=f"Its versions are: {known}."
        )

    def history(self, model: str) -> list[Move]:
        """How the current version of a model changed, oldest first."""
        with self.store.read() as connection:
            return Pointers(connection).history(f"model:{model}")

    def rollback(self, model: str, to: str | None = None, *, why: str = "rollback") -> ModelVersion:
        """Make an earlier version current: `to`, or the one that was current before this one first was.

        ConflictError when there is none, or it is archived.
        """
        now_current = self.get(model)
        if to is None:
            before = next((move.before for move in self.history(model) if move.after == now_current.id), None)
            if before is None:
                raise ConflictError(f"model {model} has no version before {now_current.version}")
            wanted = self.get(before)
        else:
            wanted = self.get(model, to)
        with self.store.write("roll back model") as connection:
            if connection.execute(sa.select(tables.archive).where(tables.archive.c.id == wanted.id)).first():
                raise ConflictError(f"model {model} {wanted.version} is archived", hint="Choose another version.")
            pointers = Pointers(connection)
            pointers.move(f"model:{model}", wanted.id, at=self.clock.now(), why=why, expect=now_current.id)
        self.refresh()
        return wanted

    def tag(self, model: str, version: str, tag: str) -> ModelVersion:
        """Give a version a name that can stand for it; a tag that is in use moves. InputError for `v1.2` and ''."""
        if not tag or re.fullmatch(r"v\d+\.\d+", tag):
            raise InputError(f"{tag!r} cannot be a tag", hint="Choose a name that is no version, such as `approved`.")
        found = self.get(model, version)
        with self.store.write("tag model") as connection:
            Pointers(connection).move(_tag(model, tag), found.id, at=self.clock.now(), why="tag")
        return found

    def tags(self, model: str) -> dict[str, str]:
        """Tags of a model: name → version id."""
        with self.store.read() as connection:
            found = Pointers(connection).all(_tag(model, ""))
        return {name.removeprefix(_tag(model, "")): target for name, target in found.items()}

    def archive(self, model: str, version: str) -> ModelVersion:
        """Put a version away: it stays readable, but cannot become current. ConflictError for the current one."""
        found = self.get(model, version)
        with self.store.write("archive model") as connection:
            if Pointers(connection).get(f"model:{model}") == found.id:
                raise ConflictError(f"model {model} {found.version} is current", hint="Roll back first.")
            known = connection.execute(sa.select(tables.archive).where(tables.archive.c.id == found.id)).first()
            if known is None:
                connection.execute(tables.archive.insert().values(id=found.id, at=self.clock.now()))
        return found

    def archived(self) -> frozenset[str]:
        """Ids of archived versions."""
        with self.store.read() as connection:
            return frozenset(row.id for row in connection.execute(sa.select(tables.archive)))

    # -- opening ------------------------------------------------------------------------------------------------------

    def load(self, model: str, version: str | None = None) -> dict[str, Any]:
        """The package of a version, opened at the first request. IntegrityError when it is not what was recorded."""
        self.sync(model)
        found = self.get(model, version)
        if found.package not in self._opened:
            self._opened[found.package] = open_package(self.blobs.path(found.package), sha256=found.package)
        return self._opened[found.package]

    def compare(self, a: ModelVersion, b: ModelVersion) -> dict[str, Any]:
        """What differs: metrics (each a, b, b - a), parameters, features, data; nothing is unpickled."""
        ours, theirs = (_flat(version.metrics) for version in (a, b))
        metrics = {
            name: {"a": ours.get(name), "b": theirs.get(name), "change": _change(ours.get(name), theirs.get(name))}
            for name in sorted(set(ours) | set(theirs))
            if ours.get(name) != theirs.get(name)
        }
        keys = sorted(set(a.parameters) | set(b.parameters))
        changed = {k: {"a": a.parameters.get(k), "b": b.parameters.get(k)} for k in keys}
        names_a, names_b = (load_bundle(self.blobs.path(v.serving), v.serving).names for v in (a, b))
        return {
            "a": {"model": a.model, "version": a.version, "dataset": a.dataset, "feature_set": a.feature_set},
            "b": {"model": b.model, "version": b.version, "dataset": b.dataset, "feature_set": b.feature_set},
            "metrics": metrics,
            "parameters": {k: pair for k, pair in changed.items() if pair["a"] != pair["b"]},
            "features": {
                "added": [name for name in names_b if name not in set(names_a)],
                "removed": [name for name in names_a if name not in set(names_b)],
            },
        }

    # -- the folder data/model ----------------------------------------------------------------------------------------

    def sync(self, model: str | None = None) -> list[ModelVersion]:
        """Take over edited weights files (of one model) as new minor versions; then data/model shows what is current.

        Returns the new versions. InputError naming file and feature when an edited file cannot be used.
        """
        adopted = []
        if self._face.edits(self._currents(model)):
            with self._folder_lock():  # another process may have been first: look again
                adopted = [v for edit in self._face.edits(self._currents(model)) if (v := self._adopt(edit))]
        self.refresh()
        return adopted

    def _currents(self, model: str | None) -> list[ModelVersion]:
        return [version for version in self.current() if model in (None, version.model)]

    def refresh(self) -> None:
        """Make data/model show the current versions, whatever it shows now."""
        try:
            with self._folder_lock():
                with self.store.read() as connection:
                    firsts = list(_firsts(connection).values())
                self._face.refresh(self.current(), firsts)
        except OSError as error:
            raise HoldfastError(
                f"the models are registered, but their folder could not be written: {error}",
                where={"folder": str(self.layout.models)},
                hint="Mend the folder; the next command that opens the project writes it again.",
            ) from error

    def shown(self) -> dict[str, dict[str, Any]]:
        """What data/model should hold, by model: version, task, algorithm and `files` (name → role, sha256)."""
        with self.store.read() as connection:
            firsts = list(_firsts(connection).values())
        return entries(self.current(), firsts)

    def _adopt(self, edit: Edit) -> ModelVersion | None:
        old = edit.version
        package = open_package(self.blobs.path(old.package), sha256=old.package)
        weights = read_weights(edit.content, package["feature_names"], str(edit.path))
        if weights == package["feature_weights"]:
            return None
        now = self.clock.now()
        name = self.next_version(old.model, old.algorithm)
        note = f"feature weights edited by hand in {edit.path.name}"
        changed = {**package, "feature_weights": weights, "version": name, "note": note}
        changed["parents"] = [*package["parents"], old.id]
        files = {
            **old.files,
            "package": self.blobs.put(dump_package(changed)),
            "weights": self.blobs.put(dump_weights(old.model, name, weights)),
        }
        serving = self.blobs.put(rename_bundle(self.blobs.path(old.serving).read_bytes(), name))
        version = replace(
            old, id=new_id("model", now), version=name, made_at=now, parents=(*old.parents, old.id), files=files,
            serving=serving, note=note,
        )  # fmt: skip
        with self.store.write("edit model weights") as connection:
            connection.execute(tables.model_versions.insert().values(tables.values_of(version)))
            Pointers(connection).move(f"model:{old.model}", version.id, at=now, why=note, expect=old.id)
        return version

    @contextmanager
    def _folder_lock(self) -> Iterator[None]:
        path = self.layout.private / "locks" / "models.lock"
        with file_lock(path, now=self.clock.now(), what="the folder data/model", wait=_FACE_WAIT):
            yield


def _tag(model: str, tag: str) -> str:
    return f"model-tag:{model}:{tag}"


def _trained(dataset: str, model: str) -> str:
    return f"trained:{dataset}:{model}"


def _firsts(connection: sa.Connection) -> dict[str, tuple[str, str]]:
    """What files are named after, by model, in the order the models came."""
    table = tables.model_versions
    query = sa.select(table.c.model, table.c.target, table.c.label, table.c.task).order_by(table.c.made_at, table.c.id)
    firsts: dict[str, tuple[str, str]] = {}
    for model, target, label, task in connection.execute(query):
        firsts.setdefault(model, stem_key(target, label, task))
    return firsts


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _change(before: object, after: object) -> float | None:
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    return after - before
