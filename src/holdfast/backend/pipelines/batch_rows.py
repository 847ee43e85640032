"""What a batch asks: blocks of rows out of files or of stored entities, each row a question to the service."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from holdfast.backend.records import RawTable
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.questions import Question, ask, entity_column, from_text
from holdfast.backend.serving.service import Reply, Service
from holdfast.core.features.encoding import Encoding
from holdfast.core.schema import DType
from holdfast.errors import FileError, InputError

__all__ = ["Answering", "Block", "BlockReader", "Entities", "Features", "file_blocks", "files_of", "is_features"]

BlockReader = Callable[[], AbstractContextManager[Callable[[Path, int], Iterator[RawTable]]]]
"""Opens what reads a file in blocks of some rows."""
_TEXT_FORMATS = ("csv", "tsv", "ssv", "psv")
_TYPES = {"number": DType.FLOAT, "truth": DType.BOOL}


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: a table, and where each row is: the name of its file ("" for stored ones) and its row there."""

    table: pa.Table
    file: str
    rows: Sequence[int]
    text: bool = False

    @staticmethod
    def of(raw: RawTable, file: str) -> "Block":
        """A block that was read from a file."""
        return Block(raw.table, file, raw.rows.to_pylist(), raw.format.startswith(_TEXT_FORMATS))


def files_of(path: Path) -> list[Path]:
    """A file, or the files of a folder by name; hidden ones are none. FileError when there is nothing."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not found:
        raise FileError("the folder holds no files", where={"folder": str(path)})
    return found


def file_blocks(open_reader: BlockReader, files: Sequence[Path], size: int) -> Iterator[Block]:
    """All rows of the files in their order, in blocks of `size` rows that never hold rows of two files."""
    with open_reader() as read:
        for file in files:
            for raw in read(file, size):
                yield Block.of(raw, file.name)


def is_features(predictor: Predictor, columns: Sequence[str]) -> bool:
    """Whether a file of these columns is a table of features: some of them are, beyond the context."""
    context = {column.name for column in predictor.feature_set.context}
    meant = (predictor.encoding.name_of(column) for column in columns)
    return bool({feature for feature in meant if feature is not None} - context)


class Answering(Protocol):
    """How the rows of a block become questions."""

    def carried(self, columns: Sequence[str]) -> list[str]:
        """The columns that go to the output as they are. InputError when one is missing that is needed."""
        ...

    def questions(self, block: Block) -> list[Any]:
        """What is asked, a question for each row."""
        ...

    def check(self, questions: Sequence[Any]) -> None:
        """InputError, with the place of the first, when some could not be answered."""
        ...

    def answer(self, questions: Sequence[Any]) -> Reply:
        """The answers; errors as of `check`."""
        ...


@dataclass(frozen=True)
class Features:
    """Rows of feature values; text is read as numbers where features are numbers."""

    service: Service
    predictor: Predictor
    strict: bool

    def carried(self, columns: Sequence[str]) -> list[str]:
        """The columns that are no features."""
        return [name for name in columns if self.predictor.encoding.name_of(name) is None]

    def questions(self, block: Block) -> list[Mapping[str, Any]]:
        """Feature values by name."""
        encoding = self.predictor.encoding
        names = [name for name in block.table.column_names if encoding.name_of(name) is not None]
        rows: list[Mapping[str, Any]] = block.table.select(names).to_pylist()
        types = _text_types(encoding, names) if block.text else {}
        return [{n: from_text(types[n], v) if n in types else v for n, v in row.items()} for row in rows]

    def check(self, questions: Sequence[Any]) -> None:
        """AlignmentError names the row and the feature."""
        self.predictor.check(questions, strict=self.strict)

    def answer(self, questions: Sequence[Any]) -> Reply:
        """By features."""
        return self.service.features(self.predictor.target, questions, strict=self.strict)


@dataclass(frozen=True)
class Entities:
    """Lists of entities: the key's column (or `entity`), `cutoff` where it is given, and the context.

    A row without a cutoff is asked at `cutoff` (ISO 8601).
    """

    service: Service
    predictor: Predictor
    strict: bool
    cutoff: str

    def carried(self, columns: Sequence[str]) -> list[str]:
        """All columns."""
        name = self._key(columns)
        if name not in columns:
            raise InputError(
                f"the list has no column {name!r}", where={"column": name},
                hint=f"Its columns are: {', '.join(columns)}",
            )  # fmt: skip
        for column in self.predictor.feature_set.context:
            if column.name not in columns:
                raise InputError(f"the list has no column {column.name!r}", where={"column": column.name})
        return list(columns)

    def _key(self, columns: Sequence[str]) -> str:
        name = entity_column(self.predictor.feature_set).name
        return "entity" if name not in columns and "entity" in columns else name

    def questions(self, block: Block) -> list[Question]:
        """A question a row."""
        key, context = entity_column(self.predictor.feature_set), self.predictor.feature_set.context
        name = self._key(block.table.column_names)
        asked = {name, *(column.name for column in context)} | ({"cutoff"} & set(block.table.column_names))
        return [
            Question(
                from_text(key.dtype, row[name]),
                _said(row.get("cutoff"), self.cutoff),
                {column.name: from_text(column.dtype, _plain(row[column.name])) for column in context},
            )
            for row in block.table.select(sorted(asked)).to_pylist()
        ]

    def check(self, questions: Sequence[Any]) -> None:
        """InputError names the question and the column."""
        ask(self.predictor.feature_set, questions, 0)

    def answer(self, questions: Sequence[Any]) -> Reply:
        """By entity id."""
        return self.service.entities(self.predictor.target, questions, strict=self.strict)


def _text_types(encoding: Encoding, names: Sequence[str]) -> dict[str, DType]:
    kinds = {spec.name: spec.kind for spec in encoding.specs}
    named = {name: kinds.get(encoding.name_of(name) or "", "") for name in names}
    return {name: _TYPES[kind] for name, kind in named.items() if kind in _TYPES}


def _said(value: Any, otherwise: str) -> Any:
    return otherwise if value is None else _plain(value)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
