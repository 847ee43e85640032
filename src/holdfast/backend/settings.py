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
from holdfast.core.timeline import Known, Step, parse_duration, zone
from holdfast.errors import ConfigError, nearest

__all__ = ["PROJECT_FILE", "ColumnSettings", "FeatureSettings", "Layout", "ServingSettings", "Settings",
           "SplitSettings", "TableSettings", "TargetSettings", "TrainingSettings", "load", "parse"]  # fmt: skip

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


def _columns(value: object) -> object:
    """A list of names says of each column that there is one, and nothing more."""
    return {name: {} for name in value} if isinstance(value, list) else value


class TableSettings(_Model):
    """A table: its files in each delivered period (or the table that its rows derive `from`), key, time and links."""

    files: Names = ()
    from_: str | None = Field(None, alias="from")
    sheet: str | None = None
    key: Names = ()
    time: str | None = None
    known: str | None = None
    delivery: Literal["increment", "full"] = "increment"
    links: dict[str, str] = {}
    columns: Annotated[dict[str, Annotated[ColumnSettings, BeforeValidator(_column)]], BeforeValidator(_columns)] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are named: key, time, links, and those under `columns`."""
        return tuple(dict.fromkeys((*self.key, *((self.time,) if self.time else ()), *self.links, *self.columns)))

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
    def _of_files_or_derived(self) -> Self:
        if not self.files and self.from_ is None:
            raise ValueError("key 'files' is missing (or `from`, the table that this one derives from)")
        if self.from_ is None:
            return self
        told = [n for n in ("files", "sheet", "known") if getattr(self, n)] + ["delivery"] * (self.delivery == "full")
        if told:
            raise ValueError(f"a table that derives `from` another has no {told[0]!r}: it follows the other's rows")
        if len(self.key) != 1:
            raise ValueError("a table that derives `from` another needs a `key` of one column of it")
        if said := next((name for name, column in self.columns.items() if column != ColumnSettings()), None):
            raise ValueError(f"`columns` of a derived table is a list of names; declare {said!r} under {self.from_!r}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delivery == "full" and not self.key:
            raise ValueError("a table with `delivery: full` needs a `key`: its deliveries are compared row by row")
        if self.known_rule.kind == "event" and not self.time:
            raise ValueError("`known: event` needs `time`, the column that says when a row happened")
        for name in self.names:
            if name.startswith(RESERVED_PREFIX):
                raise ValueError(f"column names that begin with {RESERVED_PREFIX!r} are reserved ({name!r})")
        return self


class TargetSettings(_Model):
    """What is predicted: one row = one entity at one cutoff.

    Rows of the table `from` ask, each at its `cutoff`; or, with `every`, each entity is asked at the start of each
    step of the calendar about the `horizon` that follows.
    """

    from_: str = Field(alias="from")
    entity: str | None = None
    where: str | None = None
    cutoff: str | None = None
    every: str | None = None
    horizon: str | None = None
    context: Names = ()
    task: Literal["multilabel", "binary", "multiclass", "regression"] | None = None
    labels: dict[str, str] | None = None
    label: str | None = None
    label_known: str | None = None

    @property
    def entity_table(self) -> str:
        """The table whose rows are predicted about; by default the asking table itself."""
        return self.entity or self.from_

    @model_validator(mode="before")
    @classmethod
    def _entities_ask(cls, data: object) -> object:
        """With `every` the entities themselves ask."""
        if isinstance(data, dict) and data.get("every") and "entity" in data and "from" not in data:
            return {**data, "from": data["entity"]}
        return data

    @field_validator("every", "horizon")
    @classmethod
    def _steps(cls, value: str | None) -> str | None:
        return None if value is None else _checked(Step.parse, value)

    @model_validator(mode="after")
    def _periodic(self) -> Self:
        if (self.every is None) != (self.horizon is None):
            raise ValueError(
                "`every` (how often each entity is asked) and `horizon` (how far its label looks ahead) go together"
            )
        if self.every is None:
            return self
        if self.entity_table != self.from_:
            raise ValueError(f"with `every` each row of `entity` asks: leave `from: {self.from_}` out")
        if self.cutoff is not None or self.context:
            told = "cutoff" if self.cutoff is not None else "context"
            raise ValueError(f"`{told}` is of a row that asks; with `every` the entities are asked at calendar steps")
        return self

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> Self:
        if (self.labels is None) == (self.label is None):
            raise ValueError("give either `labels` (several, each with its SQL) or `label` (one column or SQL)")
        if self.labels is not None and self.task not in (None, "multilabel"):
            raise ValueError(f"`labels` is for `task: multilabel`; `task: {self.task}` takes one `label`")
        if self.label is not None and self.task == "multilabel":
            raise ValueError("`task: multilabel` takes `labels`, a mapping of each label to its SQL")
        return self


class FeatureSettings(_Model):
    """How features are synthesised."""

    depth: int = Field(2, ge=0, le=4)
    windows: Names = ("all", "90d", "365d")
    primitives: Names = ("default",)
    conditions: dict[str, tuple[bool | int | float | str, ...]] | Literal["auto", "none"] = "auto"
    conditional: Names = ("COUNT", "TIME_SINCE_LAST")
    windowed: Names = ()
    seeds: dict[str, Names] = {}
    max: int = Field(500, ge=1)
    include: Names = ()
    exclude: Names = ()
    include_cutoff: bool = False

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
    plugins: Names = ()

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
            if table.from_ is not None:
                _known_name(table.from_, self.tables, "table", ("tables", name, "from"))
                self._check_derived(name)
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
            links = self.links_of(target.from_)
            if target.entity_table != target.from_ and target.entity_table not in links.values():
                raise _PlacedError(
                    ("targets", name, "entity"), f"table {target.from_!r} has no link to {target.entity_table!r}"
                )
        return self

    def links_of(self, name: str) -> dict[str, str]:
        """The links of a table: the declared ones, and one to each table that derives from it."""
        made = {table.key[0]: other for other, table in self.tables.items() if table.from_ == name}
        return {**self.tables[name].links, **made}

    def _check_derived(self, name: str) -> None:
        """A derived table comes from files in the end, and its key is free to become a link to it."""
        table, chain = self.tables[name], [name]
        while (above := self.tables[chain[-1]].from_) is not None:
            if above in chain:
                circle = " from ".join([*chain, above])
                raise _PlacedError(("tables", name, "from"), f"{name!r} derives from itself: {circle}")
            _known_name(above, self.tables, "table", ("tables", chain[-1], "from"))
            chain.append(above)
        source, key = self.tables[chain[1]], table.key[0]
        if source.key == (key,):
            raise _PlacedError(
                ("tables", name, "key"),
                f"{key!r} is the key of {chain[1]!r} itself: every row of it would make one of {name!r}",
            )
        linked = source.links.get(key, name)
        twin = next((o for o, t in self.tables.items() if t.from_ == chain[1] and t.key == table.key), name)
        other = linked if linked != name else twin
        if other != name:
            raise _PlacedError(
                ("tables", name, "key"), f"column {key!r} of {chain[1]!r} links to {other!r} already; it has one link"
            )
        if table.time not in (None, source.time):
            told = f"{source.time!r}" if source.time else "none"
            raise _PlacedError(
                ("tables", name, "time"), f"the `time` of a derived table is that of {chain[1]!r}, which is {told}"
            )


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
