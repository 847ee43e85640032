"""The project file `holdfast.yaml`: its models, and errors with the line, the key and the nearest right name.

`load` gives a frozen `Settings`; every default of the file is written here once. `Layout` names the folders.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from holdfast.core.schema import RESERVED_PREFIX, DType
from holdfast.core.timeline import Known, parse_duration, zone
from holdfast.errors import ConfigError, nearest

__all__ = ["PROJECT_FILE", "ColumnSettings", "ConstantSettings", "FeatureSettings", "Layout", "SelectionSettings",
           "ServingSettings", "Settings", "SplitSettings", "TableSettings", "TargetSettings", "TrainingSettings",
           "TransformSettings", "load", "parse"]  # fmt: skip

PROJECT_FILE = "holdfast.yaml"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name or a list of names."""


def _checked(check: Callable[[str], object], value: str) -> str:
    """`value`, when `check` takes it; its ConfigError becomes one that pydantic can place."""
    try:
        check(value)
    except ConfigError as error:
        raise ValueError(f"{error.message}. {error.hint}") from error
    return value


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ColumnSettings(_Model):
    """What is declared of a column; what is declared binds, what is not is inferred from the first delivery."""

    type: DType | None = None
    nullable: bool | None = None
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    format: str | None = None
    personal: bool = False
    unit: str = ""
    description: str = ""
    aliases: Names = ()


def _column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class TableSettings(_Model):
    """A table: its files in each delivered period, key, time, links and how it is known."""

    files: Names = Field(min_length=1)
    sheet: str | None = None
    key: Names = ()
    time: str | None = None
    known: str | None = None
    delivery: Literal["increment", "full"] = "increment"
    links: dict[str, str] = {}
    columns: dict[str, Annotated[ColumnSettings, BeforeValidator(_column)]] = {}

    @property
    def known_rule(self) -> Known:
        """The `known:` rule; by default period_end for full lists, event for tables with a time, else delivery."""
        if self.known is None:
            return Known("period_end" if self.delivery == "full" else "event" if self.time else "delivery")
        return Known.parse(self.known)

    @field_validator("known")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        return None if value is None else _checked(Known.parse, value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delivery == "full" and not self.key:
            raise ValueError("a table with `delivery: full` needs a `key`: its deliveries are compared row by row")
        if self.known_rule.kind == "event" and not self.time:
            raise ValueError("`known: event` needs `time`, the column that says when a row happened")
        for name in (*self.key, *self.links, *self.columns, *((self.time,) if self.time else ())):
            if name.startswith(RESERVED_PREFIX):
                raise ValueError(f"column names that begin with {RESERVED_PREFIX!r} are reserved ({name!r})")
        return self


class TargetSettings(_Model):
    """What is predicted: one row = one entity at one cutoff."""

    from_: str = Field(alias="from")
    entity: str | None = None
    where: str | None = None
    cutoff: str | None = None
    context: Names = ()
    task: Literal["multilabel", "binary", "multiclass", "regression"] | None = None
    labels: dict[str, str] | None = None
    label: str | None = None
    label_known: str | None = None

    @property
    def entity_table(self) -> str:
        """The table whose rows are predicted about; by default the asking table itself."""
        return self.entity or self.from_

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if (self.labels is None) == (self.label is None):
            raise ValueError("give either `labels` (several, each with its SQL) or `label` (one column or SQL)")
        if self.labels is not None and self.task not in (None, "multilabel"):
            raise ValueError(f"`labels` is for `task: multilabel`; `task: {self.task}` takes one `label`")
        if self.label is not None and self.task == "multilabel":
            raise ValueError("`task: multilabel` takes `labels`, a mapping of each label to its SQL")
        return self


class ConstantSettings(_Model):
    """A missing rule: null becomes this."""

    constant: float | str


_SELECTION = {
    "constant": {"above"}, "nulls": {"above"}, "duplicates": {"above"},
    "chi_square": {"keep", "alpha"}, "mutual_information": {"keep", "alpha"}, "correlation": {"keep", "alpha"},
    "rfe": {"keep"}, "l1": {"keep", "strength"}, "importance": {"keep"},
}  # fmt: skip
_TRANSFORMS = {
    "yeo_johnson": {"features"}, "box_cox": {"features"}, "one_hot": {"features", "most"},
    "ordinal": {"features", "orders"}, "target": {"features", "smoothing"}, "interactions": {"features", "keep"},
}  # fmt: skip


class _MethodSettings(_Model):
    """One step: a method, and the options that go with it."""

    def options(self) -> dict[str, Any]:
        """The options that are given, without the method and the features that it is applied to."""
        given = self.model_dump(exclude={"method", "features"}, exclude_none=True)
        return {name: value for name, value in given.items() if name in self.model_fields_set}

    def _suited(self, methods: dict[str, set[str]]) -> Self:
        takes = methods[self.method]  # type: ignore[attr-defined]
        for name in sorted(self.model_fields_set - {"method"} - takes):
            raise ValueError(f"`{name}` does not go with `{self.method}`, which takes {', '.join(sorted(takes))}")  # type: ignore[attr-defined]
        return self


class SelectionSettings(_MethodSettings):
    """A step of selection; see docs/manual/selection.md."""

    method: Literal["constant", "nulls", "duplicates", "chi_square", "mutual_information", "correlation", "rfe", "l1",
                    "importance"]  # fmt: skip
    keep: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0, le=1)
    above: float | None = Field(None, ge=0, le=1)
    strength: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _takes(self) -> Self:
        return self._suited(_SELECTION)


class TransformSettings(_MethodSettings):
    """A transform; see docs/manual/selection.md."""

    method: Literal["yeo_johnson", "box_cox", "one_hot", "ordinal", "target", "interactions"]
    features: Names = ()
    keep: int | None = Field(None, ge=1)
    most: int | None = Field(None, ge=1)
    smoothing: float | None = Field(None, ge=0)
    orders: dict[str, tuple[str, ...]] | None = None

    @model_validator(mode="after")
    def _takes(self) -> Self:
        return self._suited(_TRANSFORMS)


def _method(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


class FeatureSettings(_Model):
    """How features are synthesised, aligned, and chosen for the model."""

    depth: int = Field(2, ge=0, le=4)
    windows: Names = ("all", "90d", "365d")
    primitives: Names = ("default",)
    conditions: dict[str, tuple[str, ...]] | Literal["auto", "none"] = "auto"
    max: int = Field(500, ge=1)
    include: Names = ()
    exclude: Names = ()
    include_cutoff: bool = False
    missing: dict[str, Literal["keep", "median", "unknown"] | float | ConstantSettings] = {}
    aliases: dict[str, Names] = {}
    strict: bool = False
    transforms: tuple[Annotated[TransformSettings, BeforeValidator(_method)], ...] = ()
    selection: tuple[Annotated[SelectionSettings, BeforeValidator(_method)], ...] = ()
    formats: tuple[Literal["pkl", "parquet", "h5"], ...] = ("pkl", "parquet")

    @field_validator("windows")
    @classmethod
    def _windows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for window in value:
            if window != "all":
                _checked(parse_duration, window)
        return value


class SplitSettings(_Model):
    """How rows are parted into train, validate and test."""

    by: Literal["time", "random", "stratified", "group"] = "random"
    parts: tuple[float, float, float] = (0.70, 0.15, 0.15)
    train: str | None = None
    validate_: str | None = Field(None, alias="validate")
    test: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if min(self.parts) < 0 or self.parts[0] == 0 or abs(sum(self.parts) - 1) > 1e-9:
            raise ValueError(f"`parts` are three shares that sum to 1, not {list(self.parts)}")
        bounds = (self.train, self.validate_, self.test)
        if self.by != "time" and any(bounds):
            raise ValueError("`train`, `validate` and `test` bounds go with `by: time`")
        if any(bounds) and not all(bounds):
            raise ValueError(
                "`by: time` takes all of `train`, `validate` and `test`, or none (then `parts` of the time order)"
            )
        return self


class TrainingSettings(_Model):
    """How models are trained. `parameters` go to the algorithm as they are."""

    algorithm: Literal["xgboost"] = "xgboost"
    early_stopping: int = Field(50, ge=1)
    imbalance: Literal["auto", "none"] = "auto"
    seed: int = 42
    parameters: dict[str, float | int | str | bool] = {}


class ServingSettings(_Model):
    """Where the prediction server (and the control plane on the next port) listen, and their limits."""

    host: str = "127.0.0.1"
    port: int = Field(8700, ge=1, le=65534)
    workers: int = Field(1, ge=1, le=256)
    max_body_mb: int = Field(16, ge=1)


class Settings(_Model):
    """The project file, validated and frozen."""

    project: str = Field(min_length=1)
    purpose: dict[str, Any] = {}
    timezone: str = "UTC"
    tables: dict[str, TableSettings] = Field(min_length=1)
    targets: dict[str, TargetSettings] = {}
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    training: TrainingSettings = TrainingSettings()
    serving: ServingSettings = ServingSettings()

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        return _checked(zone, value)

    @model_validator(mode="after")
    def _references(self) -> Self:
        folded: dict[str, str] = {}
        for name in self.tables:
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                raise _PlacedError(("tables", name), f"tables {other!r} and {name!r} differ only in case")
        for name, table in self.tables.items():
            for column, parent in table.links.items():
                _known_name(parent, self.tables, "table", ("tables", name, "links", column))
                if len(self.tables[parent].key) != 1:
                    raise _PlacedError(
                        ("tables", name, "links", column),
                        f"table {parent!r} needs a `key` of one column to be linked to",
                    )
        for name, target in self.targets.items():
            _known_name(target.from_, self.tables, "table", ("targets", name, "from"))
            _known_name(target.entity_table, self.tables, "table", ("targets", name, "entity"))
            links = self.tables[target.from_].links
            if target.entity_table != target.from_ and target.entity_table not in links.values():
                raise _PlacedError(
                    ("targets", name, "entity"), f"table {target.from_!r} has no link to {target.entity_table!r}"
                )
        return self


class _PlacedError(ValueError):
    """A validation error of a place that pydantic does not know."""

    def __init__(self, place: tuple[str, ...], message: str) -> None:
        self.place = place
        super().__init__(message)


def _known_name(name: str, names: dict[str, Any], kind: str, place: tuple[str, ...]) -> None:
    if name not in names:
        raise _PlacedError(place, _unknown(f"there is no {kind}", name, names))


def _unknown(what: str, name: str, names: Iterable[object]) -> str:
    hint = nearest(name, names)
    return f"{what} {name!r}; {hint[0].lower()}{hint[1:].rstrip('.')}"


def load(root: Path) -> Settings:
    """Read `root/holdfast.yaml`. ConfigError names file, line, key, what was expected and the nearest right name."""
    path = root / PROJECT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{root} is not a Holdfast project: it has no {PROJECT_FILE}", hint="Make one with: holdfast init DIR"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{PROJECT_FILE} cannot be read: {error}", where={"file": str(path)}) from error
    return parse(text, str(path))


def parse(text: str, file: str = PROJECT_FILE) -> Settings:
    """`load` of a text; `file` is the name for errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node)) if node else {}
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        where = {"file": file, **({"line": mark.line + 1} if mark else {})}
        raise ConfigError(f"not valid YAML: {problem}", where=where) from error
    if not isinstance(data, dict):
        raise ConfigError("the project file is empty or not a mapping", where={"file": file, "line": 1})
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise _config_error(error, lines, file) from error


def _lines(node: yaml.Node, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key's place in the document and its 1-based line; a repeated key is an error."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"key {name!r} is given twice", problem_mark=key.start_mark)
            seen.add(name)
            yield (*place, name), key.start_mark.line + 1
            yield from _lines(value, (*place, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, str(index)), value.start_mark.line + 1
            yield from _lines(value, (*place, str(index)))


def _config_error(error: ValidationError, lines: dict[tuple[str, ...], int], file: str) -> ConfigError:
    problems = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        place = cause.place if isinstance(cause, _PlacedError) else tuple(str(part) for part in item["loc"])
        known = max((place[:n] for n in range(len(place), -1, -1) if place[:n] in lines), key=len, default=())
        place = place if cause is not None or item["type"] in {"missing", "extra_forbidden"} else known or place
        message = str(cause) if cause else item["msg"]
        if item["type"] == "extra_forbidden":
            message = _unknown("unknown key", place[-1], _fields(place[:-1]))
        elif item["type"] == "missing":
            message = f"key {place[-1]!r} is missing"
        elif cause is None:
            given = item.get("input")
            message = f"{message}, got {given!r}" if isinstance(given, str | int | float | bool) else message
        # A misspelt key first: what is missing elsewhere is usually the same key.
        problems.append((item["type"] != "extra_forbidden", lines.get(known, 1), ".".join(place), message))
    problems = sorted(set(problems))
    _, line, key, message = problems[0]
    more = "; ".join(f"line {n}, {k}: {m}" for _, n, k, m in problems[1:6])
    return ConfigError(
        message, where={"file": file, "line": line, "key": key or "(top)"}, hint=f"Also: {more}" if more else None
    )


def _fields(place: tuple[str, ...]) -> list[str]:
    """The keys allowed at a place of the document."""
    model: Any = Settings
    keyed: dict[tuple[str, int], type[BaseModel]] = {("tables", 1): TableSettings, ("targets", 1): TargetSettings}
    depth = 0
    while depth < len(place):
        if depth == 0 and place[0] in {"tables", "targets"} and len(place) > 1:
            model, depth = keyed[place[0], 1], 2
        elif model is TableSettings and place[depth] == "columns":
            model, depth = ColumnSettings, depth + 2
        else:
            field = next((f for n, f in model.model_fields.items() if (f.alias or n) == place[depth]), None)
            if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
                return []
            model, depth = field.annotation, depth + 1
    return [f.alias or name for name, f in model.model_fields.items()]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a project folder."""

    root: Path

    @property
    def project_file(self) -> Path:
        """The project file."""
        return self.root / PROJECT_FILE

    @property
    def raw(self) -> Path:
        """Raw files as delivered, a folder a delivery."""
        return self.root / "data" / "raw"

    @property
    def processed(self) -> Path:
        """Columnar tables of the current version."""
        return self.root / "data" / "processed"

    @property
    def query(self) -> Path:
        """Query data; nothing here ever reaches a training set."""
        return self.root / "data" / "query"

    @property
    def features(self) -> Path:
        """Matrices and definitions."""
        return self.root / "features"

    @property
    def models(self) -> Path:
        """Packages of the current model versions."""
        return self.root / "data" / "model"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.root / "logs"

    @property
    def private(self) -> Path:
        """Holdfast's own: metadata database, blobs, locks, scratch space."""
        return self.root / ".holdfast"

    @property
    def database_url(self) -> str:
        """The metadata database."""
        return f"sqlite:///{self.private / 'holdfast.db'}"
