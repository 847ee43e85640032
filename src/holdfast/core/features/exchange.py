"""Feature sets to and from the JSON of Featuretools' `save_features`.

The document (schema 10.0.0, written by Featuretools 1.31) holds a description of the entity set without its rows, the
features by unique name (`table: feature`), and the primitives they use by number. What cannot be said in the other
language is left out with its name and the reason, never silently: `Translated.left_out`; what means the same only under
a condition is told in `Translated.notes`.

What both sides understand differently, and what is done about it:

- Featuretools sees rows at the cutoff itself unless it is called with `include_cutoff_time=False`; that is an argument
  of the calculation there and part of the set here.
- Its COUNT names the child's index column, its TREND and TIME_SINCE_* the time index; here both go without saying.
- Its aggregates may span several links (`SUM(transactions.amount)` of a customer through accounts). COUNT, SUM, MIN and
  MAX come in as the same aggregate stacked; the others are no stack of aggregates.
- A month or a year as a window has no fixed length, and a number of rows is none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.core.features.definitions import Feature, FeatureSet, Kind
from holdfast.core.features.primitives import PRIMITIVES
from holdfast.core.schema import DType, Link, Schema, Table
from holdfast.errors import FileError, HoldfastError

__all__ = ["FEATURETOOLS_PRIMITIVES", "Translated", "from_featuretools", "to_featuretools"]

FEATURES_VERSION = "10.0.0"
ENTITYSET_VERSION = "9.0.0"
TABLE_VERSION = "12.0.0"
WRITTEN_FOR = "1.31.0"


@dataclass(frozen=True, slots=True)
class Peer:
    """A primitive of Featuretools: class, module below `featuretools.primitives.standard`, what it takes and gives.

    Kinds of columns: numeric, category, boolean, datetime, text; `any`; `rows` (the child's index), `moments` (its time
    index), `series` (a number and the time index); `input` gives what it takes.
    """

    cls: str
    module: str
    takes: str
    gives: str


_ROWS = (
    "COUNT Count aggregation.count rows numeric", "SUM Sum aggregation.sum_primitive numeric numeric",
    "MEAN Mean aggregation.mean numeric numeric", "STD Std aggregation.std numeric numeric",
    "MIN Min aggregation.min_primitive numeric numeric", "MAX Max aggregation.max_primitive numeric numeric",
    "MEDIAN Median aggregation.median numeric numeric", "SKEW Skew aggregation.skew numeric numeric",
    "VARIANCE Variance aggregation.variance numeric numeric",
    "FIRST First aggregation.first any input", "LAST Last aggregation.last any input",
    "TREND Trend aggregation.trend series numeric", "ENTROPY Entropy aggregation.entropy category numeric",
    "NUM_UNIQUE NumUnique aggregation.num_unique category numeric", "MODE Mode aggregation.mode category input",
    "PERCENT_UNIQUE PercentUnique aggregation.percent_unique category numeric",
    "PERCENT_TRUE PercentTrue aggregation.percent_true boolean numeric",
    "NUM_TRUE NumTrue aggregation.num_true boolean numeric",
    "ANY Any aggregation.any_primitive boolean boolean", "ALL All aggregation.all_primitive boolean boolean",
    "AVG_TIME_BETWEEN AvgTimeBetween aggregation.avg_time_between moments numeric",
    "TIME_SINCE_LAST TimeSinceLast aggregation.time_since_last moments numeric",
    "TIME_SINCE_FIRST TimeSinceFirst aggregation.time_since_first moments numeric",
    "YEAR Year transform.datetime.year datetime category", "MONTH Month transform.datetime.month datetime category",
    "DAY Day transform.datetime.day datetime category", "HOUR Hour transform.datetime.hour datetime category",
    "WEEKDAY Weekday transform.datetime.weekday datetime category",
    "IS_WEEKEND IsWeekend transform.datetime.is_weekend datetime boolean",
    "TIME_SINCE TimeSince transform.datetime.time_since datetime numeric",
    "WEEK Week transform.datetime.week datetime category",
    "QUARTER Quarter transform.datetime.quarter datetime category",
    "MINUTE Minute transform.datetime.minute datetime category",
    "IS_NULL IsNull transform.is_null any boolean",
    "ABSOLUTE Absolute transform.numeric.absolute numeric numeric",
    "NUM_WORDS NumWords transform.natural_language.num_words text numeric",
    "NUM_CHARACTERS NumCharacters transform.natural_language.num_characters text numeric",
)  # fmt: skip
FEATURETOOLS_PRIMITIVES: Mapping[str, Peer] = {row.split()[0]: Peer(*row.split()[1:]) for row in _ROWS}
"""Primitives of equal meaning, by our name; one that Holdfast does not have (yet) is left out on import."""
_OURS = {peer.cls: name for name, peer in FEATURETOOLS_PRIMITIVES.items()}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Std": {}, "TimeSinceLast": {"unit": "seconds"}, "TimeSinceFirst": {"unit": "seconds"},
    "TimeSince": {"unit": "seconds"}, "AvgTimeBetween": {"unit": "seconds"}, "Mean": {"skipna": True},
    "Entropy": {"dropna": False, "base": None}, "PercentUnique": {"skipna": True},
}  # fmt: skip
"""The arguments under which a Featuretools primitive means ours; another value is another primitive."""
_STACKS = {"COUNT": "SUM", "SUM": "SUM", "MIN": "MIN", "MAX": "MAX"}
_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
_KINDS = {
    DType.BOOL: "boolean", DType.INT: "numeric", DType.FLOAT: "numeric", DType.CATEGORY: "category",
    DType.TEXT: "text", DType.TIME: "datetime",
}  # fmt: skip
_TYPES = {
    DType.BOOL: ("BooleanNullable", "boolean", []), DType.INT: ("IntegerNullable", "Int64", ["numeric"]),
    DType.FLOAT: ("Double", "float64", ["numeric"]), DType.CATEGORY: ("Categorical", "category", ["category"]),
    DType.TEXT: ("NaturalLanguage", "string", []), DType.TIME: ("Datetime", "datetime64[ns]", []),
}  # fmt: skip


@dataclass(frozen=True)
class Translated:
    """What came of a translation.

    `document` is Featuretools' JSON as plain data (export), `feature_set` the set (import). `left_out`: features that
    the other language cannot say, by name, with the reason. `notes`: what the reader must know for equal values.
    """

    document: dict[str, Any] = field(default_factory=dict)
    feature_set: FeatureSet | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Untranslatable(Exception):  # noqa: N818
    """The reason why one feature cannot be said in the other language."""


def to_featuretools(feature_set: FeatureSet) -> Translated:
    """The set as a document that `featuretools.load_features(json.dumps(document))` reads.

    Columns of the calculated matrix are called as the features are here. To calculate, give Featuretools an entity set
    with the same tables, keys, time indexes and relationships, and times in UTC.
    """
    writer = _Writer(feature_set.schema)
    listed, left_out = [], {}
    for feature in feature_set.features:
        try:
            listed.append(writer.add(feature))
        except _Untranslatable as reason:
            left_out[feature.name] = str(reason)
    notes = list(writer.notes())
    if not feature_set.include_cutoff:
        notes.append("calculate with include_cutoff_time=False: rows at the cutoff itself are not seen here")
    if feature_set.schema.timezone != "UTC":
        notes.append(f"calendar features are in {feature_set.schema.timezone} here and in the given times' zone there")
    document = {
        "schema_version": FEATURES_VERSION,
        "ft_version": WRITTEN_FOR,
        "entityset": writer.entityset(),
        "feature_list": listed,
        "feature_definitions": writer.features,
        "primitive_definitions": writer.primitives,
    }
    return Translated(document=document, left_out=left_out, notes=tuple(notes))


class _Writer:
    """Collects definitions by unique name; a feature that fails leaves only definitions that nothing lists."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.features: dict[str, dict[str, Any]] = {}
        self.primitives: dict[str, dict[str, Any]] = {}
        self._numbers: dict[tuple[str, str], str] = {}

    def add(self, feature: Feature) -> str:
        """The unique name of the feature, written down with all below it."""
        match feature.kind:
            case Kind.COLUMN:
                return self._column(feature.table, feature.column, feature.name)
            case Kind.DIRECT:
                return self._direct(feature)
            case Kind.AGGREGATE:
                return self._aggregate(feature)
            case Kind.TRANSFORM:
                return self._transform(feature)
            case Kind.CONTEXT:
                raise _Untranslatable("Featuretools knows no columns of the question")
            case Kind.CUTOFF:
                raise _Untranslatable("Featuretools knows no features of the cutoff itself")
            case _:
                raise _Untranslatable(f"Featuretools has nothing of the kind {feature.kind}")

    def _column(self, table: str, column: str, name: str | None = None) -> str:
        arguments = {"name": name or column, "column_name": column, "dataframe_name": table}
        return self._keep(table, "IdentityFeature", [], arguments)

    def _direct(self, feature: Feature) -> str:
        link = _link_of(feature)
        below = self.add(feature.inputs[0])
        arguments = {"name": feature.name, "base_feature": below, "relationship": self._relationship(link)}
        return self._keep(link.child, "DirectFeature", [below], arguments)

    def _aggregate(self, feature: Feature) -> str:
        link, peer = _link_of(feature), _peer_of(feature)
        child = self.schema.table(link.child)
        inputs = feature.inputs
        match peer.takes:
            case "rows":
                base = [self._column(child.name, _index_name(child))]
            case "moments":
                base = [self._column(child.name, _time_of(child))]
            case "series":
                base = [self._taken(inputs, "numeric", peer), self._column(child.name, _time_of(child))]
            case _:
                base = [self._taken(inputs, peer.takes, peer)]
        where = None
        if feature.condition is not None:
            where = self._where(child, feature.condition)
        arguments = {
            "name": feature.name,
            "base_features": base,
            "relationship_path": [self._relationship(link)],
            "primitive": self._primitive(peer),
            "where": where,
            "use_previous": None if feature.window is None else _timedelta(feature.window),
        }
        return self._keep(link.parent, "AggregationFeature", [*base, *([where] if where else [])], arguments)

    def _transform(self, feature: Feature) -> str:
        peer = _peer_of(feature)
        base = [self._taken(feature.inputs, peer.takes, peer)]
        arguments = {"name": feature.name, "base_features": base, "primitive": self._primitive(peer)}
        return self._keep(feature.table, "TransformFeature", base, arguments)

    def _taken(self, inputs: Sequence[Feature], takes: str, peer: Peer) -> str:
        if len(inputs) != 1:
            raise _Untranslatable(f"Featuretools' {peer.cls} takes one column, and this one has {len(inputs)}")
        kind = _kind_of(inputs[0])
        if takes not in ("any", kind):
            raise _Untranslatable(f"Featuretools' {peer.cls} takes {takes} columns, and {inputs[0].name} is {kind}")
        return self.add(inputs[0])

    def _where(self, child: Table, condition: Any) -> str:
        operation, value = str(getattr(condition, "operator", "=")), condition.value
        if operation != "=":
            raise _Untranslatable(f"a condition with {operation!r} is not written for Featuretools")
        base = self._column(child.name, condition.column)
        arguments = {"value": value}
        module = _module("transform.binary.equal_scalar")
        number = self._number({"type": "EqualScalar", "module": module, "arguments": arguments})
        arguments = {"name": f"{condition.column} = {value}", "base_features": [base], "primitive": number}
        return self._keep(child.name, "TransformFeature", [base], arguments)

    def _primitive(self, peer: Peer) -> str:
        arguments = dict(_DEFAULTS.get(peer.cls, {})) if peer.cls.startswith(("TimeSince", "AvgTime")) else {}
        return self._number({"type": peer.cls, "module": _module(peer.module), "arguments": arguments})

    def _number(self, primitive: dict[str, Any]) -> str:
        key = (primitive["type"], json.dumps(primitive["arguments"], sort_keys=True))
        if key not in self._numbers:
            self._numbers[key] = str(len(self._numbers))
            self.primitives[self._numbers[key]] = primitive
        return self._numbers[key]

    def _relationship(self, link: Link) -> dict[str, str]:
        key = self.schema.table(link.parent).key[0]
        if link.child == link.parent:
            raise _Untranslatable(f"Featuretools has no relationship of a table with itself ({link.child})")
        if self.schema.table(link.child).key == (link.column,):
            raise _Untranslatable(f"in Featuretools the index {link.child}.{link.column} cannot be a foreign key")
        return _relationship(link, key)

    def _keep(self, table: str, kind: str, below: list[str], arguments: dict[str, Any]) -> str:
        name = f"{table}: {arguments['name']}"
        definition = {"type": kind, "dependencies": below, "arguments": arguments}
        if self.features.setdefault(name, definition) != definition:
            raise _Untranslatable(f"two different features would be called {name!r}")
        return name

    def notes(self) -> Iterable[str]:
        for table in self.schema.tables.values():
            if len(table.key) != 1:
                yield f"{table.name} needs an index column {_index_name(table)!r} there (make_index=True)"

    def entityset(self) -> dict[str, Any]:
        """Types, indexes and relationships of the tables, without rows."""
        tables = {table.name: self._dataframe(table) for table in self.schema.tables.values()}
        links = [link for name in self.schema.tables for link in self.schema.parents(name)]
        fitting = [li for li in links if li.child != li.parent and self.schema.table(li.child).key != (li.column,)]
        return {
            "schema_version": ENTITYSET_VERSION,
            "id": "holdfast",
            "dataframes": tables,
            "relationships": [_relationship(li, self.schema.table(li.parent).key[0]) for li in fitting],
            "format": None,
        }

    def _dataframe(self, table: Table) -> dict[str, Any]:
        index = _index_name(table)
        columns = {column.name: column.dtype for column in table.columns}
        columns.setdefault(index, DType.INT)
        return {
            "schema_version": TABLE_VERSION,
            "name": table.name,
            "index": index,
            "time_index": table.time,
            "column_typing_info": [
                self._typed(table, name, dtype, place, index) for place, (name, dtype) in enumerate(columns.items())
            ],
            "loading_info": {"table_type": "pandas"},
            "table_metadata": {"entityset_id": "holdfast"},
        }

    def _typed(self, table: Table, name: str, dtype: DType, place: int, index: str) -> dict[str, Any]:
        logical, physical, standard = _TYPES[dtype]
        if name == index:
            tags = ["index"]
            logical, physical = ("Integer", "int64") if dtype is DType.INT else (logical, physical)
        elif name == table.time:
            tags = ["time_index"]
        else:
            tags = [*standard, *(["foreign_key"] if name in table.links else [])]
        stored: dict[str, Any] = {"type": physical}
        if physical == "category":
            stored |= {"cat_values": [], "cat_dtype": "object"}
        parameters = {"datetime_format": None, "timezone": None} if logical == "Datetime" else {}
        return {
            "name": name,
            "ordinal": place,
            "use_standard_tags": True,
            "logical_type": {"parameters": parameters, "type": logical},
            "physical_type": stored,
            "semantic_tags": tags,
            "description": None,
            "origin": None,
            "metadata": {"dataframe_name": table.name, "entityset_id": "holdfast"},
        }


def from_featuretools(
    document: Mapping[str, Any] | str | bytes, schema: Schema, *, include_cutoff: bool = False
) -> Translated:
    """The feature set that a `save_features` document describes, over the tables of `schema`.

    Features keep Featuretools' names (as aliases where our formula reads otherwise). All belong to the table of the
    first one. FileError when it is no such document or nothing in it can be translated.
    """
    data = _read(document)
    reader = _Reader(data, schema)
    wanted = list(data["feature_list"])
    entity = wanted[0].partition(": ")[0]
    features, left_out = {}, {}
    for name in wanted:
        short = name.partition(": ")[2] or name
        try:
            feature = Feature.from_dict(reader.outer(name, entity))
            if feature.name in features:
                raise _Untranslatable("there is another feature of this name")
            features[feature.name] = feature
        except _Untranslatable as reason:
            left_out[short] = str(reason)
        except HoldfastError as error:
            left_out[short] = error.message
        except (KeyError, TypeError, ValueError, IndexError) as error:
            left_out[short] = f"its definition in the document is damaged ({type(error).__name__}: {error})"
    if not features:
        first = next(iter(left_out.items()))
        raise FileError(
            f"none of the {len(wanted)} features could be translated, e.g. {first[0]}: {first[1]}",
            hint=f"The tables here are: {', '.join(schema.tables)}.",
        )
    kept = tuple(features.values())
    feature_set = FeatureSet(entity, kept, _pruned(schema, kept, entity), include_cutoff=include_cutoff)
    notes = [*reader.notes]
    if not include_cutoff:
        notes.append("rows at the cutoff itself are not seen here; Featuretools sees them unless told otherwise")
    return Translated(feature_set=feature_set, left_out=left_out, notes=tuple(notes))


class _Reader:
    """Turns definitions of the document into `Feature.to_dict` data."""

    def __init__(self, document: Mapping[str, Any], schema: Schema) -> None:
        self.definitions = document["feature_definitions"]
        self.primitives = document["primitive_definitions"]
        self.schema = schema
        self.notes: list[str] = []

    def outer(self, name: str, entity: str) -> dict[str, Any]:
        """A feature of the set itself: of the entity, not a time or a text, called as it is called there."""
        table, _, short = name.partition(": ")
        if table != entity:
            raise _Untranslatable(f"it describes {table}, and the set describes {entity}")
        data = self.read(name)
        if data["dtype"] in ("time", "text"):
            raise _Untranslatable(f"a {data['dtype']} is no feature by itself")
        feature = Feature.from_dict(data)
        return data if feature.formula == short else {**data, "alias": short}

    def read(self, name: str) -> dict[str, Any]:
        definition = self.definitions[name]
        arguments = definition["arguments"]
        match definition["type"]:
            case "IdentityFeature":
                column = self.schema.table(arguments["dataframe_name"]).column(arguments["column_name"])
                return _data(Kind.COLUMN, arguments["dataframe_name"], column.dtype, column=column.name)
            case "DirectFeature":
                inner = self.read(arguments["base_feature"])
                link = self._link(arguments["relationship"])
                return _data(Kind.DIRECT, link.child, inner["dtype"], inputs=[inner], link=_plain(link))
            case "AggregationFeature":
                return self._aggregate(name, arguments)
            case "TransformFeature":
                return self._transform(arguments)
            case "FeatureOutputSlice":
                raise _Untranslatable("one of several outputs of a primitive has no equal here")
            case other:
                raise _Untranslatable(f"features of the type {other} are not read")

    def _aggregate(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        ours = self._primitive(arguments["primitive"])
        path = [self._link(relationship) for relationship in arguments["relationship_path"]]
        if len(path) > 1 and ours not in _STACKS:
            raise _Untranslatable(f"{ours} over {len(path)} links at once is no stack of aggregates")
        inputs = self._inputs(ours, arguments["base_features"], path[-1].child)
        _check_input(ours, inputs)
        data = _data(
            Kind.AGGREGATE, path[-1].parent, _given(ours, inputs), primitive=ours, inputs=inputs, link=_plain(path[-1]),
            window=_window(arguments["use_previous"]), condition=self._condition(arguments["where"]),
        )  # fmt: skip
        for link in reversed(path[:-1]):
            stacked = _STACKS[ours]
            data = _data(
                Kind.AGGREGATE, link.parent, _given(stacked, [data]), primitive=stacked, inputs=[data],
                link=_plain(link),
            )  # fmt: skip
        if len(path) > 1:
            short = name.partition(": ")[2]
            self.notes.append(f"{short} spans {len(path)} links and is stacked here: sums may differ in the last bits")
        return data

    def _inputs(self, ours: str, names: Sequence[str], child: str) -> list[dict[str, Any]]:
        takes = FEATURETOOLS_PRIMITIVES[ours].takes
        if takes == "rows":
            return []
        if takes in ("moments", "series"):
            moment, names = self.read(names[-1]), names[:-1]
            if moment.get("column") != self.schema.table(child).time:
                raise _Untranslatable(f"here {ours} goes by the time of {child}, not by another column")
        return [self.read(name) for name in names]

    def _transform(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        ours = self._primitive(arguments["primitive"])
        inputs = [self.read(name) for name in arguments["base_features"]]
        _check_input(ours, inputs)
        return _data(Kind.TRANSFORM, inputs[0]["table"], _given(ours, inputs), primitive=ours, inputs=inputs)

    def _primitive(self, number: str) -> str:
        found = self.primitives[number]
        ours = _OURS.get(found["type"], "")
        if not ours or ours not in PRIMITIVES or not found["module"].startswith("featuretools."):
            raise _Untranslatable(f"there is no primitive {found['type']} here")
        meant = _DEFAULTS.get(found["type"], {})
        for name, value in found["arguments"].items():
            if name not in meant or value != meant[name]:
                raise _Untranslatable(f"{found['type']} with {name} = {value!r} is another primitive than {ours}")
        return ours

    def _condition(self, name: str | None) -> dict[str, Any] | None:
        if name is None:
            return None
        arguments = self.definitions[name]["arguments"]
        primitive = self.primitives.get(arguments.get("primitive"), {})
        base = [self.definitions[below] for below in arguments.get("base_features", ())]
        if primitive.get("type") != "EqualScalar" or [one["type"] for one in base] != ["IdentityFeature"]:
            raise _Untranslatable(f"the condition {name.partition(': ')[2]!r} is not a column that equals a value")
        value, place = primitive["arguments"]["value"], base[0]["arguments"]
        column = self.schema.table(place["dataframe_name"]).column(place["column_name"])
        kinds: dict[str, tuple[type, ...]] = {"category": (str,), "text": (str,), "boolean": (bool,)}
        if column.dtype is DType.TIME or not isinstance(value, kinds.get(_KINDS[column.dtype], (int, float))):
            raise _Untranslatable(f"the condition compares {column.name} ({column.dtype}) with {value!r}")
        return {"column": column.name, "value": value}

    def _link(self, relationship: Mapping[str, str]) -> Link:
        child, parent = relationship["child_dataframe_name"], relationship["parent_dataframe_name"]
        column, key = relationship["child_column_name"], relationship["parent_column_name"]
        self.schema.table(parent)
        for link in self.schema.parents(self.schema.table(child).name):
            if (link.parent, link.column) == (parent, column) and self.schema.table(parent).key == (key,):
                return link
        raise _Untranslatable(f"there is no link {child}.{column} → {parent}.{key} here")


def _read(document: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    hint = "Write it with featuretools.save_features."
    if isinstance(document, str | bytes):
        try:
            document = json.loads(document)
        except ValueError as error:
            raise FileError(f"it is not JSON: {error}", hint=hint) from error
    needed = {"schema_version": str, "feature_list": list, "feature_definitions": dict, "primitive_definitions": dict}
    if not isinstance(document, Mapping):
        raise FileError("it is not a document of saved features", hint=hint)
    for name, kind in needed.items():
        if not isinstance(document.get(name), kind):
            raise FileError(
                f"it is not a document of saved features: {name!r} is missing or of another kind", hint=hint
            )
    if not document["feature_list"] or not all(isinstance(name, str) for name in document["feature_list"]):
        raise FileError("it lists no features", hint=hint)
    if document["schema_version"].partition(".")[0] != FEATURES_VERSION.partition(".")[0]:
        raise FileError(
            f"its schema version is {document['schema_version']}, and {FEATURES_VERSION} is read",
            hint=f"Save the features again with Featuretools {WRITTEN_FOR}.",
        )
    return document


def _data(kind: Kind, table: str, dtype: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind.value, "table": table, "dtype": str(dtype)} | {n: v for n, v in fields.items() if v}


def _plain(link: Link) -> dict[str, Any]:
    return {"child": link.child, "column": link.column, "parent": link.parent, "alone": link.alone}


def _given(primitive: str, inputs: Sequence[Mapping[str, Any]]) -> str:
    gives = PRIMITIVES[primitive].gives
    return str(gives) if gives else str(inputs[0]["dtype"]) if inputs else str(DType.FLOAT)


def _check_input(primitive: str, inputs: Sequence[Mapping[str, Any]]) -> None:
    """The document's tables may be typed in another way than ours: the input must suit the primitive here too."""
    takes = FEATURETOOLS_PRIMITIVES[primitive].takes
    takes = "numeric" if takes == "series" else takes
    fitting = {"numeric": ("numeric", "boolean"), "any": ("numeric", "boolean", "category")}.get(takes, (takes,))
    for data in inputs:
        if _KINDS[DType(data["dtype"])] not in fitting and primitive != "IS_NULL":
            name = Feature.from_dict(data).name
            raise _Untranslatable(f"{primitive} takes {takes} columns, and {name} is {data['dtype']} here")


def _window(previous: Mapping[str, Any] | None) -> int | None:
    if not previous:
        return None
    unit, value = previous["unit"], previous["value"]
    if not isinstance(unit, str) or unit not in _UNITS:
        raise _Untranslatable(f"a window of {value} {unit!r} has no fixed length")
    length = _UNITS[unit] * value
    if length != int(length) or length <= 0:
        raise _Untranslatable(f"a window of {value} {unit!r} is no whole number of microseconds")
    return int(length)


def _timedelta(window: int) -> dict[str, Any]:
    for unit in ("d", "h", "m", "s", "ms"):
        if window % _UNITS[unit] == 0:
            return {"unit": unit, "value": window // _UNITS[unit]}
    raise _Untranslatable("Featuretools has no window of microseconds")


def _link_of(feature: Feature) -> Link:
    if feature.link is None:
        raise _Untranslatable("it goes through no link")
    return feature.link


def _peer_of(feature: Feature) -> Peer:
    primitive: Any = feature.primitive
    name = str(getattr(primitive, "name", primitive))
    if getattr(feature, "parameters", ()):
        raise _Untranslatable(f"{name} with parameters is not written for Featuretools")
    if name not in FEATURETOOLS_PRIMITIVES:
        raise _Untranslatable(f"Featuretools has no primitive that means {name}")
    return FEATURETOOLS_PRIMITIVES[name]


def _kind_of(feature: Feature) -> str:
    """What Featuretools takes the values for: its calendar features are categories."""
    if feature.kind is Kind.DIRECT:
        return _kind_of(feature.inputs[0])
    if feature.kind in (Kind.AGGREGATE, Kind.TRANSFORM):
        gives = _peer_of(feature).gives
        return gives if gives != "input" else _kind_of(feature.inputs[0])
    return _KINDS[feature.dtype]


def _index_name(table: Table) -> str:
    return table.key[0] if len(table.key) == 1 else f"{table.name}_index"


def _time_of(table: Table) -> str:
    if table.time is None:
        raise _Untranslatable(f"{table.name} has no time")
    return table.time


def _module(below: str) -> str:
    return f"featuretools.primitives.standard.{below}"


def _relationship(link: Link, key: str) -> dict[str, str]:
    return {
        "parent_dataframe_name": link.parent, "child_dataframe_name": link.child,
        "parent_column_name": key, "child_column_name": link.column,
    }  # fmt: skip


def _pruned(schema: Schema, features: Sequence[Feature], entity: str) -> Schema:
    """The tables that the features read, with the links between them."""
    links = {below.link for feature in features for below in feature.walk() if below.link}
    used = {entity, *(link.child for link in links), *(link.parent for link in links)}
    tables = {
        name: replace(table, links={c: p for c, p in table.links.items() if p in used})
        for name, table in schema.tables.items()
        if name in used
    }
    return Schema(tables, schema.timezone)
