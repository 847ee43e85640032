"""What a batch writes: parts that are there whole or not at all, and one file of them in the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.store.files import write_whole
from holdfast.errors import FileError, InputError

__all__ = ["FORMATS", "Rejected", "check_names", "check_output", "join", "rejected_file", "write_part"]

FORMATS = (".csv", ".parquet", ".jsonl")
_REJECTED = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("code", pa.string()),
     ("reason", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be answered: where it is (file "" for a stored one), the column, and why."""

    file: str
    row: int
    column: str | None
    code: str
    reason: str


def check_output(output: Path) -> None:
    """FileError unless the name says how predictions are to be written."""
    if output.suffix.lower() not in FORMATS:
        raise FileError(
            f"predictions are written as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", where={"file": str(output)}
        )


def rejected_file(output: Path) -> Path:
    """Where the rows go that could not be answered."""
    return output.with_name(f"{output.stem}.rejected{output.suffix}")


def check_names(predictor: Predictor, carried: Sequence[str], file: str) -> None:
    """Results must not take the place of what the caller sent, nor of each other."""
    results = ["prediction_id", "deployment", *result_types(predictor), "repairs"]
    for name in carried:
        if name in results:
            raise InputError(
                f"the file has a column {name!r}, and so will the predictions have",
                where={"file": file, "column": name},
                hint="Rename or drop that column.",
            )
    if twice := [name for number, name in enumerate(results) if name in results[:number]]:
        raise InputError(
            f"two columns of the predictions would be called {twice[0]!r}",
            where={"target": predictor.target, "column": twice[0]},
            hint="Rename the label in the project file and train again.",
        )


def result_types(predictor: Predictor) -> list[str]:
    """The columns of the results of all labels."""
    return [name for label, model in predictor.models.items() for name, _ in _results(label, model.task, model.classes)]


def _results(label: str, task: str, classes: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    if task == "regression":
        return [(label, pa.float64())]
    if task == "multiclass":
        shown = [(f"{label} {name}", pa.float64()) for name in classes]
        return [*shown, (f"{label} decision", pa.string())]
    return [(label, pa.float64()), (f"{label} decision", pa.bool_())]


def write_part(
    path: Path, predictor: Predictor, carried: pa.Table, answers: Sequence[Mapping[str, Any]],
    rejected: Sequence[Rejected],
) -> None:  # fmt: skip
    """Write the answers of one block beside the columns that came with them, and what was rejected."""
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {name: carried[name] for name in carried.column_names}
    columns["prediction_id"] = pa.array([answer["id"] for answer in answers], pa.string())
    columns["deployment"] = pa.array([predictor.deployment] * len(answers), pa.string())
    for label, model in predictor.models.items():
        found = [answer["labels"][label] for answer in answers]
        for name, kind in _results(label, model.task, model.classes):
            columns[name] = pa.array([_value(one, label, name) for one in found], kind)
    columns["repairs"] = pa.array([len(answer["repairs"]) for answer in answers], pa.int64())
    table, refused = pa.table(columns), _table(rejected)
    # What is needed of a part is found by its name: the rejected rows first.
    write_whole(_beside(path), lambda scratch: pq.write_table(refused, scratch))
    write_whole(path, lambda scratch: pq.write_table(table, scratch))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.rejected.parquet")


def _value(found: Mapping[str, Any], label: str, name: str) -> Any:
    if name == f"{label} decision" and "decision" in found:
        return found["decision"]
    if "probabilities" in found:
        return found["probabilities"][name.removeprefix(f"{label} ")]
    return found["value"] if "value" in found else found["probability"]


def _table(rejected: Sequence[Rejected]) -> pa.Table:
    rows = [{name: getattr(one, name) for name in _REJECTED.names} for one in rejected]
    return pa.Table.from_pylist(rows, _REJECTED)


def join(parts: Sequence[Path], output: Path, *, rejected: bool) -> None:
    """Make the one file of all parts, and with `rejected` the one of what could not be answered; each whole or not.

    Memory does not grow with the number of parts. FileError when it cannot be written.
    """
    try:
        if rejected:
            refused = [_beside(part) for part in parts]
            write_whole(rejected_file(output), lambda scratch: _joined(refused, scratch, output))
        write_whole(output, lambda scratch: _joined(parts, scratch, output))
    except OSError as error:
        raise FileError(f"the predictions cannot be written: {error}", where={"file": str(output)}) from error


def _joined(parts: Sequence[Path], scratch: Path, output: Path) -> None:
    import pyarrow.parquet as pq

    schema = _schema(parts)
    tables = (_cast(pq.read_table(part), schema) for part in parts)
    _WRITERS[output.suffix.lower()](scratch, schema, tables)


def _schema(parts: Sequence[Path]) -> pa.Schema:
    """The schema that all parts fit without a loss: a column that files know as different types is text."""
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(part) for part in parts]
    fields = []
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        having = [part for part, schema in zip(parts, schemas, strict=True) if name in schema.names]
        kinds = list(dict.fromkeys(schema.field(name).type for schema in schemas if name in schema.names))
        field = pa.field(name, pa.string())
        with suppress(pa.ArrowTypeError, pa.ArrowInvalid):
            merged = pa.unify_schemas([pa.schema([(name, kind)]) for kind in kinds], promote_options="permissive")
            # The values say the rest: a whole number may be too large for a float.
            if len(kinds) == 1 or all(_fits(part, merged.field(0)) for part in having):
                field = merged.field(0)
        fields.append(field)
    return pa.schema(fields)


def _fits(part: Path, field: pa.Field) -> bool:
    import pyarrow.parquet as pq

    try:
        pq.read_table(part, columns=[field.name])[field.name].cast(field.type)
    except pa.ArrowInvalid:
        return False
    return True


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """In the order of the schema; a column that a file has not is null."""
    count = table.num_rows
    return pa.table(
        [table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(count, f.type) for f in schema],
        schema=schema,
    )


def _write_csv(scratch: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    from pyarrow.csv import CSVWriter

    with CSVWriter(scratch, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_parquet(scratch: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(scratch, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _write_jsonl(scratch: Path, _schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    import msgspec

    encoder = msgspec.json.Encoder()
    with scratch.open("wb") as file:
        for table in tables:
            file.write(encoder.encode_lines(table.to_pylist()))


_WRITERS: Mapping[str, Callable[[Path, pa.Schema, Iterator[pa.Table]], None]] = {
    ".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl,
}  # fmt: skip
