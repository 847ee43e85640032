"""Lineage: from a prediction, or a model version, back to the raw files and rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.backend.records import (
    FOREIGN,
    DatasetVersion,
    Deployment,
    FeatureSetRecord,
    MatrixRecord,
    ModelVersion,
    RawFile,
    Run,
)
from holdfast.backend.serving.exchange import Logged
from holdfast.backend.serving.loader import Sources
from holdfast.backend.serving.log import read_prediction
from holdfast.backend.serving.predictor import deployment_of
from holdfast.backend.serving.questions import StoredData, entity_column
from holdfast.core.features.definitions import FeatureSet
from holdfast.core.features.evaluate import visible_rows
from holdfast.core.features.primitives import Primitive
from holdfast.core.features.rows import typed_rows, typed_values
from holdfast.core.prepare.delivery import MASKED
from holdfast.core.schema import Schema
from holdfast.core.timeline import isoformat

__all__ = ["Lineage", "Node", "trace_model", "trace_prediction"]


@dataclass(frozen=True, slots=True)
class Node:
    """A thing and what it came from. `again` marks one that is spelt out earlier in the tree."""

    kind: str
    id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple["Node", ...] = ()
    again: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data; empty fields are left out."""
        data: dict[str, Any] = {"kind": self.kind, "id": self.id}
        if self.facts:
            data["facts"] = dict(self.facts)
        if self.parents:
            data["from"] = [parent.to_dict() for parent in self.parents]
        return data | {"again": True} if self.again else data


@dataclass(frozen=True)
class Lineage:
    """What a trace asks. All find by id, NotFoundError otherwise.

    `dataset` also takes a version name such as v1.3; `raw_files` are the files whose rows a dataset version holds,
    oldest delivery first, and `own` the user's primitives.
    """

    sources: Sources
    log: Path
    run: Callable[[str], Run]
    feature_set: Callable[[str], FeatureSetRecord]
    matrix: Callable[[str], MatrixRecord]
    dataset: Callable[[str], DatasetVersion]
    raw_files: Callable[[str], Sequence[RawFile]]
    own: Sequence[Primitive] = ()


def trace_prediction(lineage: Lineage, prediction: str) -> Node:
    """From a prediction id: deployment, model versions, runs, features, matrix, data, raw files and the rows seen.

    InputError when it is no prediction id, NotFoundError when it is not in the log.
    """
    deployment_of(prediction)
    logged = read_prediction(lineage.log, prediction)
    tracer = _Tracer(lineage)
    deployment = lineage.sources.deployments.get(logged.deployment)
    models = tuple(tracer.model(identifier) for identifier in deployment.models.values())
    about = {"made_at": isoformat(deployment.made_at), "target": deployment.target, "note": deployment.note}
    answered_by = Node("deployment", deployment.id, about, models)
    facts = _masked(lineage, deployment, _prediction_facts(logged))
    return Node("prediction", logged.id, facts, (answered_by, *tracer.seen(logged)))


def trace_model(lineage: Lineage, model: str) -> Node:
    """From a ModelVersion id: run, features, matrix, data and raw files."""
    return _Tracer(lineage).model(model)


def _prediction_facts(logged: Logged) -> dict[str, Any]:
    facts = {
        "at": isoformat(logged.at),
        "target": logged.target,
        "kind": logged.kind,
        "entity": logged.entity,
        "cutoff": None if logged.cutoff is None else isoformat(logged.cutoff),
        "data_version": logged.data_version,
        "latency_us": logged.latency_us,
        "input": logged.input,
        "output": logged.output,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _masked(lineage: Lineage, deployment: Deployment, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a prediction without the personal values that were asked with."""
    model = lineage.sources.model(next(iter(deployment.models.values())))
    asked = lineage.sources.feature_set(model.feature_set)
    given = dict(facts["input"]) if isinstance(facts.get("input"), Mapping) else None
    if given is None or "entity" not in facts:
        return facts
    masked = dict(facts)
    if entity_column(asked).personal:
        masked["entity"] = given["entity"] = MASKED
    hidden = {column.name for column in asked.context if column.personal}
    if isinstance(given.get("context"), Mapping):
        given["context"] = {k: MASKED if k in hidden and v is not None else v for k, v in given["context"].items()}
    return {**masked, "input": given}


class _Tracer:
    """Walks the records; each is spelt out once."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._told: set[str] = set()

    def _once(self, kind: str, identifier: str, make: Callable[[], Node]) -> Node:
        if identifier in self._told:
            return Node(kind, identifier, again=True)
        self._told.add(identifier)
        return make()

    def model(self, identifier: str) -> Node:
        def make() -> Node:
            model = self._lineage.sources.model(identifier)
            facts: dict[str, Any] = {
                "model": model.model,
                "version": model.version,
                "made_at": isoformat(model.made_at),
                "package_sha256": model.package,
                "serving_sha256": model.serving,
            }
            if model.dataset.startswith(FOREIGN):
                facts |= {"trained_on": model.dataset, "made_from": list(model.parents)}
            return Node("model", model.id, facts, (self._run(model),))

        return self._once("model", identifier, make)

    def _run(self, model: ModelVersion) -> Node:
        def make() -> Node:
            run = self._lineage.run(model.run)
            if not run.matrix:
                facts: dict[str, Any] = {"at": isoformat(run.made_at), **run.parameters}
                return Node("import", run.id, facts, (self._feature_set(model.feature_set),))
            facts = {
                "target": run.target,
                "began": isoformat(run.made_at),
                "ended": None if run.ended_at is None else isoformat(run.ended_at),
                "parameters": run.parameters,
                "environment": run.environment,
            }
            parents = (self._feature_set(run.feature_set), self._matrix(run.matrix), self._dataset(run.dataset))
            return Node("run", run.id, facts, parents)

        return self._once("run", model.run, make)

    def _feature_set(self, identifier: str) -> Node:
        def make() -> Node:
            record = self._lineage.feature_set(identifier)
            definitions = FeatureSet.from_dict(record.definitions, self._lineage.own)
            facts = {"name": record.name, "entity": definitions.entity, "features": len(definitions.features)}
            return Node("feature set", record.id, facts | {"sha256": definitions.hash})

        return self._once("feature set", identifier, make)

    def _matrix(self, identifier: str) -> Node:
        def make() -> Node:
            matrix = self._lineage.matrix(identifier)
            facts = {"path": matrix.path, "sha256": matrix.sha256, "rows": matrix.rows, "period": matrix.period}
            return Node("matrix", matrix.id, facts, (self._dataset(matrix.dataset),))

        return self._once("matrix", identifier, make)

    def _dataset(self, identifier: str) -> Node:
        def make() -> Node:
            version = self._lineage.dataset(identifier)
            facts = {"version": version.version, "made_at": isoformat(version.made_at), "rows": version.rows}
            files = tuple(
                Node("raw file", file.path, {"table": file.table, "sha256": file.sha256, "rows": file.rows})
                for file in self._lineage.raw_files(version.id)
            )
            return Node("dataset", version.id, facts, files)

        return self._once("dataset", identifier, make)

    def seen(self, logged: Logged) -> tuple[Node, ...]:
        """The data that the features of this prediction were computed from."""
        if logged.kind == "features":
            return ()
        if logged.data_version is None:
            rows = {table: len(records) for table, records in (logged.raw_rows or {}).items()}
            content = self._without_personal(logged)
            return (Node("rows of the request", logged.rows_id or "", {"rows": rows, "content": content}),)
        version = self._lineage.dataset(logged.data_version)
        per_file: dict[tuple[str, str], list[int]] = {}
        for table, places in self._visible(logged, version).items():
            for file, row in places:
                per_file.setdefault((table, file), []).append(row)
        rows_seen = tuple(
            Node("raw rows", file, {"table": table, "rows": sorted(set(rows))})
            for (table, file), rows in sorted(per_file.items())
        )
        seen = Node("rows seen", logged.data_version, {"rows": sum(map(len, per_file.values()))}, rows_seen)
        return (seen, self._dataset(version.id))

    def _without_personal(self, logged: Logged) -> dict[str, list[dict[str, Any]]]:
        """The rows that came with a request, personal values masked."""
        models = self._lineage.sources.deployments.get(logged.deployment).models
        schema = self._lineage.sources.feature_set(
            self._lineage.sources.model(next(iter(models.values()))).feature_set
        ).schema
        shown = {}
        for table, records in (logged.raw_rows or {}).items():
            hidden = {column.name for column in schema.table(table).columns if column.personal}
            shown[table] = [{k: MASKED if k in hidden and v is not None else v for k, v in r.items()} for r in records]
        return shown

    def _visible(self, logged: Logged, version: DatasetVersion) -> dict[str, list[tuple[str, int]]]:
        sources = self._lineage.sources
        models = sources.deployments.get(logged.deployment).models
        feature_set = sources.feature_set(sources.model(next(iter(models.values()))).feature_set)
        schema = Schema.from_dict(version.schema)
        stored = StoredData.build(version.version, schema, sources.tables(version))
        world = stored.merged(typed_rows(schema, logged.raw_rows)) if logged.raw_rows else stored.world
        entity = typed_values(entity_column(feature_set), [logged.input["entity"]], schema.timezone)
        assert logged.cutoff is not None
        return visible_rows(feature_set, world, entity, logged.cutoff)
