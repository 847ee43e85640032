"""Predictions for files: rows of features, or lists of entities."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from holdfast.backend.records import RawTable
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.questions import Question, ask, entity_column, from_text
from holdfast.backend.serving.service import Service
from holdfast.backend.store.files import write_whole
from holdfast.core.features.encoding import Encoding
from holdfast.core.schema import DType
from holdfast.errors import FileError, HoldfastError, InputError

__all__ = ["BatchReport", "predict_entities_file", "predict_features_file"]

_CHUNK = 500
_TEXT_FORMATS = ("csv", "tsv")
_TYPES = {"number": DType.FLOAT, "truth": DType.BOOL}


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What was done: rows, how many of them had repairs, and repairs by kind."""

    rows: int
    repaired_rows: int
    repairs: Mapping[str, int]
    deployment: str
    output: Path
    data_version: str | None = None


def predict_features_file(
    service: Service,
    target: str,
    source: RawTable,
    output: Path,
    *,
    file: str,
    strict: bool | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> BatchReport:
    """Predict every row of a table of features into `output` (.csv or .parquet).

    Columns that are no features (ids, names) are carried over. Every row is checked first, so that a bad one leaves
    nothing behind; AlignmentError names file, row and column. InputError when a column is called as a result will be.
    `strict` refuses rows that would have to be repaired. `progress` gets the number of rows done.
    """
    _check_output(output)
    predictor = service.live.predictor(target)
    names = [name for name in source.table.column_names if predictor.encoding.name_of(name) is not None]
    carried = source.table.drop_columns(names)
    _check_names(predictor, carried.column_names, file)
    chunks = _Chunks(source, names, file, predictor.encoding)
    for number, rows in chunks:
        with chunks.placed(number):
            predictor.check(rows, strict=service.strict if strict is None else strict)
    answers = []
    for _, rows in chunks:
        reply = service.features(target, rows, strict=strict)
        answers += reply["predictions"]
        service.log.flush()
        progress(len(answers))
    return _written(answers, carried, output, predictor.deployment, None)


def predict_entities_file(
    service: Service,
    target: str,
    source: RawTable,
    output: Path,
    *,
    file: str,
    strict: bool | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> BatchReport:
    """Predict every entity of a list into `output` (.csv or .parquet).

    The list has the entity table's key (or `entity`), optionally `cutoff` (empty is now), and the context columns.
    InputError names file, row and column, also of a column that is called as a result will be.
    """
    _check_output(output)
    predictor = service.live.predictor(target)
    key = entity_column(predictor.feature_set)
    columns = source.table.column_names
    _check_names(predictor, columns, file)
    name = key.name if key.name in columns else "entity"
    if name not in columns:
        raise InputError(
            f"the list has no column {key.name!r}", where={"file": file}, hint=f"Its columns are: {', '.join(columns)}"
        )
    context = predictor.feature_set.context
    if absent := [column.name for column in context if column.name not in columns]:
        raise InputError(f"the list has no column {absent[0]!r}", where={"file": file, "column": absent[0]})
    kept = [name, *(["cutoff"] if "cutoff" in columns else []), *(column.name for column in context)]
    chunks = _Chunks(source, list(dict.fromkeys(kept)), file, None)
    asked = []
    for number, rows in chunks:
        questions = [
            Question(
                from_text(key.dtype, row[name]),
                _text(row.get("cutoff")),
                {column.name: from_text(column.dtype, _text(row[column.name])) for column in context},
            )
            for row in rows
        ]
        with chunks.placed(number):
            ask(predictor.feature_set, questions, 0)
        asked.append(questions)
    answers, version = [], None
    for questions in asked:
        reply = service.entities(target, questions, strict=strict)
        answers += reply["predictions"]
        version = reply["data_version"]
        service.log.flush()
        progress(len(answers))
    return _written(answers, source.table, output, predictor.deployment, version)


def _text(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


class _Chunks:
    """Rows of a table as dictionaries, some hundreds at a time; text is read as numbers where features are numbers."""

    def __init__(self, source: RawTable, columns: Sequence[str], file: str, encoding: Encoding | None) -> None:
        self._source = source
        self._file = file
        self._table = source.table.select(list(columns))
        text = encoding is not None and source.format.startswith(_TEXT_FORMATS)
        kinds = {spec.name: spec.kind for spec in encoding.specs} if encoding and text else {}
        named = {name: kinds.get(encoding.name_of(name) or "", "") for name in columns} if encoding else {}
        self._types = {name: _TYPES[kind] for name, kind in named.items() if kind in _TYPES}

    def __iter__(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        for start in range(0, self._table.num_rows, _CHUNK):
            rows = self._table.slice(start, _CHUNK).to_pylist()
            for row in rows:
                for name, dtype in self._types.items():
                    row[name] = from_text(dtype, row[name])
            yield start, rows

    def placed(self, start: int) -> "_Placed":
        """A context in which errors name the file and its row."""
        return _Placed(self._source, self._file, start)


@dataclass(frozen=True, slots=True)
class _Placed:
    source: RawTable
    file: str
    start: int

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, HoldfastError):
            return
        where = dict(error.where)
        row = where.pop("row", where.pop("question", None))
        place = {"file": self.file}
        if isinstance(row, int):
            place["row"] = self.source.rows[self.start + row].as_py()
        raise type(error)(error.message, where={**place, **where}, hint=error.hint) from error


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise FileError("predictions are written as .csv or .parquet", where={"file": str(output)})


def _check_names(predictor: Predictor, carried: Sequence[str], file: str) -> None:
    """Results must not take the place of what the caller sent, nor of each other."""
    results = ["prediction_id", "repairs"]
    for label, model in predictor.models.items():
        results += _result_names(label, model.task, model.classes)
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


def _result_names(label: str, task: str, classes: Sequence[str]) -> list[str]:
    if task == "regression":
        return [label]
    shown = [f"{label} {name}" for name in classes] if task == "multiclass" else [label]
    return [*shown, f"{label} decision"]


def _written(
    answers: list[dict[str, Any]], carried: pa.Table, output: Path, deployment: str, version: str | None
) -> BatchReport:
    columns: dict[str, Any] = {name: carried[name] for name in carried.column_names}
    columns["prediction_id"] = [answer["id"] for answer in answers]
    for label in answers[0]["labels"] if answers else ():
        results = [answer["labels"][label] for answer in answers]
        columns.update(_result_columns(label, results))
    columns["repairs"] = [len(answer["repairs"]) for answer in answers]
    _write(pa.table(columns), output)
    kinds: dict[str, int] = {}
    for answer in answers:
        for repair in answer["repairs"]:
            kinds[repair["kind"]] = kinds.get(repair["kind"], 0) + 1
    repaired = sum(1 for answer in answers if answer["repairs"])
    return BatchReport(len(answers), repaired, kinds, deployment, output, version)


def _result_columns(label: str, results: list[dict[str, Any]]) -> dict[str, list[Any]]:
    if "value" in results[0]:
        return {label: [result["value"] for result in results]}
    decision = [result["decision"] for result in results]
    if "probability" in results[0]:
        shown, task, classes = [[result["probability"] for result in results]], "binary", []
    else:
        task, classes = "multiclass", list(results[0]["probabilities"])
        shown = [[result["probabilities"][name] for result in results] for name in classes]
    return dict(zip(_result_names(label, task, classes), [*shown, decision], strict=True))


def _write(table: pa.Table, output: Path) -> None:
    """The whole file or none."""
    import pyarrow.csv
    import pyarrow.parquet

    def write(scratch: Path) -> None:
        if output.suffix.lower() == ".csv":
            pyarrow.csv.write_csv(table, scratch)
        else:
            pyarrow.parquet.write_table(table, scratch)

    try:
        write_whole(output, write)
    except OSError as error:
        raise FileError(f"the predictions cannot be written: {error}", where={"file": str(output)}) from error
