"""The asked rows of a target: SQL of the project file over the tables of one dataset version.

The SQL runs in an in-memory DuckDB that sees only these tables: no files, no network, no extensions to load.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from holdfast.backend.features.periodic import PERIODIC, periodic_rows
from holdfast.backend.settings import TargetSettings
from holdfast.core.features.columns import NULL_TIME, instants_of
from holdfast.core.schema import KNOWN_FROM, KNOWN_TO, SOURCE_FILE, SOURCE_ROW, Column, DType, Schema
from holdfast.core.timeline import NEVER
from holdfast.errors import ConfigError, InputError

__all__ = ["Asked", "ask", "context_columns", "hidden_columns", "label_columns", "only_asks"]

_LABELS = "__label_"


@dataclass(frozen=True)
class Asked:
    """n asked rows, ordered by cutoff, then entity, then context; see `Matrix` for the fields."""

    task: str
    entities: pa.Array
    cutoffs: npt.NDArray[np.int64]
    context: dict[str, pa.Array]
    labels: dict[str, npt.NDArray[np.float64]]
    label_known: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.entities)


def context_columns(schema: Schema, target: TargetSettings) -> tuple[Column, ...]:
    """The columns of the asking row that may be features."""
    return tuple(schema.table(target.from_).column(name) for name in target.context)


def label_columns(schema: Schema, target: TargetSettings) -> tuple[str, ...]:
    """Columns of the asking table that the labels mention and that are never features.

    So it is where the entity itself asks, and where `label_known` says that the answer comes later than the row: the
    answers to earlier questions would be among the features before they were known. With `every` the entity asks as it
    was known at each cutoff, so that nothing of it is an answer.
    """
    later = target.label_known is not None and target.label_known.strip() != schema.table(target.from_).time
    if target.every is not None or (target.entity_table != target.from_ and not later):
        return ()
    text = " ".join((target.labels or {"": target.label or ""}).values())
    return tuple(name for name in schema.table(target.from_).names if _mentions(text, name))


def hidden_columns(schema: Schema, target: TargetSettings) -> list[str]:
    """`label_columns` as `table.column`, also of the tables that the asking one derives from, or that share its rows:
    a derived row has the values of a row of its source."""

    def delivered(name: str) -> str:
        source = schema.table(name).source
        return delivered(source) if source in schema.tables else name

    columns, root = label_columns(schema, target), delivered(target.from_)
    alike = [table for table in schema.tables.values() if delivered(table.name) == root]
    return [f"{table.name}.{name}" for table in alike for name in columns if name in table.names]


def only_asks(schema: Schema, target: TargetSettings) -> bool:
    """Whether the asking table is a mere list of questions and their labels: nothing in it may become a feature.

    That is so when it is not the entity's own table, says not when its rows happened, and has no column but its key,
    its links, the cutoff, the context and what the SQL of the target mentions.
    """
    table = schema.table(target.from_)
    if target.entity_table == target.from_ or table.time is not None:
        return False
    text = " ".join(filter(None, (*(target.labels or {}).values(), target.label, target.label_known, target.where)))
    return not [
        name
        for name in table.names
        if name not in (*table.key, *table.links, *target.context, target.cutoff) and not _mentions(text, name)
    ]


def _mentions(text: str, name: str) -> bool:
    # SQL does not tell cases apart.
    return re.search(rf'(?<!\w)"?{re.escape(name)}"?(?!\w)', text, re.IGNORECASE) is not None


def ask(schema: Schema, tables: Mapping[str, pa.Table], name: str, target: TargetSettings, end: int) -> Asked:
    """Ask the rows of a target over `tables` (every state of every row; labels see the current ones).

    The data end at `end`: it is the cutoff of a target without a cutoff column, and with `every` no label looks beyond
    it. ConfigError names the key whose SQL is wrong; InputError when no row has a label. Rows without entity, cutoff or
    any label are left out and counted, and so are those whose horizon is not over.
    """
    _check_spelling(schema, name)
    select = _selection(schema, name, target, end)
    asking = target.from_
    current = {table: rows.filter(pc.is_null(rows[KNOWN_TO])) for table, rows in tables.items()}
    if target.every is not None:
        asking = PERIODIC
        current[asking] = periodic_rows(schema, tables[target.from_], name, target, end)
    with _database(schema, current) as database:
        _check_labels(database, name, target)
        answer = _run(database, select, name, target, asking)
    open_ = answer.column("__open").to_numpy() if target.every is not None else np.zeros(len(answer), np.bool_)
    answer, unfinished = answer.filter(pa.array(~open_)), int(open_.sum())
    task, labels, classes = _labels(answer, name, target)
    cutoffs = instants_of(answer.column("__cutoff"), NULL_TIME)
    entities = answer.column("__entity").combine_chunks()
    reasons = {
        "no entity": np.asarray(pc.is_null(entities)),
        "no cutoff": cutoffs == NULL_TIME,
        "no label": np.logical_and.reduce([np.isnan(values) for values in labels.values()]),
    }
    keep = np.ones(len(entities), np.bool_)
    dropped = {"horizon not over": unfinished}
    for reason, missing in reasons.items():
        dropped[reason] = int((missing & keep).sum())
        keep &= ~missing
    if not keep.any():
        raise InputError(
            f"target {name!r} has no row with a label", where={"key": f"targets.{name}"},
            hint=f"{len(entities) + unfinished} rows were asked; left out: {dropped}. Check `where` and the labels.",
        )  # fmt: skip
    kept = pa.array(keep)
    return Asked(
        task=task,
        entities=entities.filter(kept),
        cutoffs=cutoffs[keep],
        context={
            c: answer.column(f"__context_{i}").combine_chunks().filter(kept) for i, c in enumerate(target.context)
        },
        labels={label: values[keep] for label, values in labels.items()},
        label_known=instants_of(answer.column("__known"), NEVER)[keep],
        classes=classes,
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _selection(schema: Schema, name: str, target: TargetSettings, end: int) -> dict[str, str]:
    """The SQL of each output column, by name; `context` of the project file becomes `__context_<i>`."""
    table = schema.table(target.from_)
    if target.entity_table == target.from_:
        entity = table.key[0] if len(table.key) == 1 else None
    else:
        entity = next((column for column, parent in table.links.items() if parent == target.entity_table), None)
    if entity is None:
        own = target.entity_table == target.from_
        raise ConfigError(
            f"target {name!r}: rows of {target.from_!r} do not name {'themselves' if own else 'an entity'}",
            where={"key": f"targets.{name}.from" if own else f"targets.{name}.entity"},
            hint=f"Give table {target.entity_table!r} a `key` of one column"
            + ("." if own else f", and {target.from_!r} a link to it."),
        )
    if target.cutoff is not None and table.column(target.cutoff).dtype is not DType.TIME:
        raise ConfigError(f"column {target.cutoff!r} is no time", where={"key": f"targets.{name}.cutoff"})
    select = {
        "__entity": f"t.{_quoted(entity)}",
        "__cutoff": f"t.{_quoted(target.cutoff)}" if target.cutoff else f"make_timestamptz({end})",
        "__known": f"({target.label_known})::timestamptz" if target.label_known else f"t.{_quoted(KNOWN_FROM)}",
    }
    if target.every is not None:
        select["__cutoff"], select["__open"] = "t.cutoff", f"t.cutoff_end > make_timestamptz({end})"
        # What happens in the horizon happens strictly before its end: its last instant settles the label.
        select["__known"] = select["__known"] if target.label_known else "t.cutoff_end - interval 1 microsecond"
    select |= {f"__context_{i}": f"t.{_quoted(table.column(c).name)}" for i, c in enumerate(target.context)}
    sql = target.labels or {name: target.label or ""}
    if target.label is not None and target.label in table.names:
        sql = {name: f"t.{_quoted(target.label)}"}
    return select | {f"{_LABELS}{label}": f"({text})" for label, text in sql.items()}


def _check_spelling(schema: Schema, name: str) -> None:
    """SQL takes names that differ only in case for one: ConfigError rather than the other one's values."""
    names = {f"table {table!r}": table for table in schema.tables}
    for group in (names, *({f"column {c!r} of {t.name!r}": c for c in t.names} for t in schema.tables.values())):
        seen: dict[str, str] = {}
        for words, spelling in group.items():
            other = seen.setdefault(spelling.casefold(), words)
            if other != words:
                raise ConfigError(
                    f"{other} and {words} differ only in case, which SQL does not see",
                    where={"key": f"targets.{name}"},
                    hint="Rename one of them in the delivered files.",
                )  # fmt: skip


def _check_labels(database: duckdb.DuckDBPyConnection, name: str, target: TargetSettings) -> None:
    """A label is one expression, gives the same answer every time, and is no context column."""
    unsteady = database.sql(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
    ).to_arrow_table()
    names = [value for value in unsteady.column(0).to_pylist() if value and re.fullmatch(r"\w+", value)]
    calls = re.compile(rf"\b({'|'.join(map(re.escape, names))})\s*\(|\b(current_\w+|localtime\w*)\b", re.IGNORECASE)
    texts = {f"labels.{label}": sql for label, sql in (target.labels or {}).items()}
    texts |= {key: sql for key, sql in (("label", target.label), ("where", target.where)) if sql}
    for key, sql in texts.items():
        place = {"key": f"targets.{name}.{key}"}
        if match := calls.search(sql):
            raise ConfigError(
                f"{match[0].rstrip('( ')!r} gives another answer each time", where=place,
                hint="The same data must give the same labels: compare columns instead.",
            )  # fmt: skip
        bare = sql.strip().removeprefix("t.").strip('"').casefold()
        if key != "where" and bare in {column.casefold() for column in target.context}:
            raise ConfigError(
                f"{sql.strip()!r} is a context column too: the answer would be among the features", where=place,
                hint="Take it out of `context`: it is not known beforehand.",
            )  # fmt: skip


@contextmanager
def _database(schema: Schema, tables: Mapping[str, pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
    options = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    with duckdb.connect(config=options) as database:
        database.execute(f"SET TimeZone = '{schema.timezone}'")
        for name, data in tables.items():
            database.register(name, data.drop_columns([KNOWN_TO]) if KNOWN_TO in data.column_names else data)
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        yield database


def _run(
    database: duckdb.DuckDBPyConnection, select: Mapping[str, str], name: str, target: TargetSettings, asking: str
) -> pa.Table:
    order = ["__cutoff", "__entity", *(column for column in select if column.startswith("__context_"))]
    order = [*map(_quoted, order), f"t.{_quoted(SOURCE_FILE)}", f"t.{_quoted(SOURCE_ROW)}"]

    def query(columns: Mapping[str, str], where: str | None) -> str:
        listed = ", ".join(f"{sql} AS {_quoted(column)}" for column, sql in columns.items())
        tail = f" WHERE ({where})" if where else ""
        return f"SELECT {listed} FROM {_quoted(asking)} t{tail}"  # noqa: S608 - the project's own SQL, in a sandbox

    try:
        answer = database.sql(f"{query(select, target.where)} ORDER BY {', '.join(order)}").to_arrow_table()
    except duckdb.Error as error:
        base = {"__entity": select["__entity"]}
        tries: dict[str, tuple[Mapping[str, str], str | None]] = {}
        if target.where:
            tries["where"] = (base, target.where)
        keys = {column: column.removeprefix(_LABELS) for column in select if column.startswith(_LABELS)}
        for column, label in keys.items():
            tries[f"labels.{label}" if target.labels else "label"] = ({column: select[column]}, None)
        tries["label_known"] = ({"__known": select["__known"]}, None)
        for key, (columns, where) in tries.items():
            try:
                database.sql(query(columns, where)).to_arrow_table()
            except duckdb.Error as cause:
                raise ConfigError(
                    f"the SQL fails: {str(cause).splitlines()[0]}", where={"key": f"targets.{name}.{key}"},
                    hint="It is DuckDB SQL over the asking row `t` and the tables by their names.",
                ) from cause  # fmt: skip
        raise ConfigError(f"the SQL fails: {error}", where={"key": f"targets.{name}"}) from error
    if answer.column_names != list(select):
        raise ConfigError(
            "a label must be one SQL expression", where={"key": f"targets.{name}"},
            hint=f"There are {len(select)} expressions, and {answer.num_columns} columns came back.",
        )  # fmt: skip
    return answer


def _labels(
    answer: pa.Table, name: str, target: TargetSettings
) -> tuple[str, dict[str, npt.NDArray[np.float64]], tuple[str, ...]]:
    """Task, label values and classes."""
    columns = {c.removeprefix(_LABELS): answer.column(c) for c in answer.column_names if c.startswith(_LABELS)}
    if target.labels is not None:
        return (
            "multilabel",
            {label: _truths(data, f"targets.{name}.labels.{label}") for label, data in columns.items()},
            (),
        )
    data = columns[name]
    key = f"targets.{name}.label"
    values = [value.as_py() for value in pc.unique(data) if value.is_valid]
    task = target.task or _guessed_task(data.type, values)
    if task == "binary":
        return task, {name: _truths(data, key)}, ()
    if task == "regression":
        if not _is_number(data.type):
            raise ConfigError(f"a regression label must be a number, not {data.type}", where={"key": key})
        return task, {name: np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64)}, ()
    classes = tuple(sorted(str(value) for value in values))
    codes = {value: float(position) for position, value in enumerate(classes)}
    coded = [np.nan if value is None else codes[str(value)] for value in data.to_pylist()]
    return "multiclass", {name: np.array(coded, np.float64)}, classes


def _guessed_task(dtype: pa.DataType, values: list[object]) -> str:
    if pa.types.is_boolean(dtype) or (pa.types.is_integer(dtype) and set(values) <= {0, 1}):
        return "binary"
    return "regression" if _is_number(dtype) else "multiclass"


def _is_number(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype))


def _truths(data: pa.ChunkedArray, key: str) -> npt.NDArray[np.float64]:
    if pa.types.is_boolean(data.type):
        data = data.cast(pa.int8())
    if not _is_number(data.type):
        raise ConfigError(
            f"a yes-or-no label must be true/false or 0/1, not {data.type}", where={"key": key},
            hint="Write a comparison, such as class = 'UP'.",
        )  # fmt: skip
    values = np.asarray(data.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    wrong = values[~np.isnan(values) & (values != 0) & (values != 1)]
    if len(wrong):
        raise ConfigError(f"a yes-or-no label must be 0 or 1; there is {wrong[0]:g}", where={"key": key})
    return values


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
