"""The project file `holdfast.yaml`: its models; `project_file` reads it.

Every default of the file is written here once. `Layout` names the folders.
"""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from holdfast.backend.settings.base import Model, Names, PlacedError, PlaceUrl, unknown
from holdfast.backend.settings.deployment import (
    ABSettings,
    CanarySettings,
    DeploymentSettings,
    RuleSettings,
    StepSettings,
    WaitSettings,
)
from holdfast.backend.settings.operation import BackupSettings, OnlineSettings, ScheduleSettings, StorageSettings
from holdfast.backend.settings.serving import ServingSettings, TlsSettings
from holdfast.core.schema import RESERVED_PREFIX, DType
from holdfast.core.timeline import Known, Step, parse_duration, parse_instant, zone
from holdfast.core.words import parse_size
from holdfast.errors import ConfigError, InputError

__all__ = [
    "ABSettings",
    "BackupSettings",
    "CanarySettings",
    "ColumnSettings",
    "ConstantSettings",
    "DeploymentSettings",
    "FeatureGroupSettings",
    "FeatureSettings",
    "OnlineSettings",
    "PlacedError",
    "RuleSettings",
    "SelectionSettings",
    "ServingSettings",
    "Settings",
    "SplitSettings",
    "StepSettings",
    "StorageSettings",
    "TableSettings",
    "TargetSettings",
    "TlsSettings",
    "TrainingSettings",
    "TransformSettings",
    "WaitSettings",
    "unknown",
]  # fmt: skip


def _checked(check: Callable[[str], object], value: str) -> str:
    """`value`, when `check` takes it; its error becomes one that pydantic can place."""
    try:
        check(value)
    except (ConfigError, InputError) as error:
        raise ValueError(f"{error.message}. {error.hint}") from error
    return value


class ColumnSettings(Model):
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


class TableSettings(Model):
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


class TargetSettings(Model):
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


class ConstantSettings(Model):
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


class _MethodSettings(Model):
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


class FeatureSettings(Model):
    """How features are synthesised, aligned, and chosen for the model."""

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
    frozen: str | None = None
    memory: str | None = None

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

    @field_validator("frozen", mode="before")
    @classmethod
    def _frozen(cls, value: object) -> object:
        # YAML reads 2016-01-01 as a date of its own.
        text = value.isoformat() if isinstance(value, date) else value
        return _checked(parse_instant, text) if isinstance(text, str) else text

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        return None if value is None else _checked(parse_size, value)


class SplitSettings(Model):
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


class TrainingSettings(Model):
    """How models are trained. `parameters` go to the algorithm as they are; `on_import`: new data send a training."""

    algorithm: Literal["xgboost"] = "xgboost"
    early_stopping: int = Field(50, ge=1)
    imbalance: Literal["auto", "none"] = "auto"
    seed: int = 42
    on_import: bool = True
    parameters: dict[str, float | int | str | bool] = {}


class FeatureGroupSettings(Model):
    """A feature group: an entity's features that are looked up together."""

    entity: str | None = None
    features: Names = ()
    target: str | None = None
    ttl: str | None = None
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}

    @field_validator("ttl")
    @classmethod
    def _ttl(cls, value: str | None) -> str | None:
        return None if value is None else _checked(parse_duration, value)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.target is None) == (not self.features):
            raise ValueError("give either `features` (formulas and patterns) with their `entity`, or a `target`")
        if self.target is None and self.entity is None:
            raise ValueError("`features` need their `entity`, the table whose rows they describe")
        return self


RemoteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Settings(Model):
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
    online: OnlineSettings = OnlineSettings()
    storage: StorageSettings = StorageSettings()
    schedules: dict[str, ScheduleSettings] = {}
    backup: BackupSettings = BackupSettings()
    remotes: dict[RemoteName, PlaceUrl] = {}
    feature_groups: dict[str, FeatureGroupSettings] = {}
    deployments: dict[str, DeploymentSettings] = {}

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
                raise PlacedError(("tables", name), f"tables {other!r} and {name!r} differ only in case")
        for name, table in self.tables.items():
            if table.from_ is not None:
                _known_name(table.from_, self.tables, "table", ("tables", name, "from"))
                self._check_derived(name)
        for name, table in self.tables.items():
            for column, parent in table.links.items():
                _known_name(parent, self.tables, "table", ("tables", name, "links", column))
                if len(self.tables[parent].key) != 1:
                    raise PlacedError(
                        ("tables", name, "links", column),
                        f"table {parent!r} needs a `key` of one column to be linked to",
                    )
        for name, target in self.targets.items():
            _known_name(target.from_, self.tables, "table", ("targets", name, "from"))
            _known_name(target.entity_table, self.tables, "table", ("targets", name, "entity"))
            links = self.links_of(target.from_)
            if target.entity_table != target.from_ and target.entity_table not in links.values():
                raise PlacedError(
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
                raise PlacedError(("tables", name, "from"), f"{name!r} derives from itself: {circle}")
            _known_name(above, self.tables, "table", ("tables", chain[-1], "from"))
            chain.append(above)
        source, key = self.tables[chain[1]], table.key[0]
        if source.key == (key,):
            raise PlacedError(
                ("tables", name, "key"),
                f"{key!r} is the key of {chain[1]!r} itself: every row of it would make one of {name!r}",
            )
        linked = source.links.get(key, name)
        twin = next((o for o, t in self.tables.items() if t.from_ == chain[1] and t.key == table.key), name)
        other = linked if linked != name else twin
        if other != name:
            raise PlacedError(
                ("tables", name, "key"), f"column {key!r} of {chain[1]!r} links to {other!r} already; it has one link"
            )
        if table.time not in (None, source.time):
            told = f"{source.time!r}" if source.time else "none"
            raise PlacedError(
                ("tables", name, "time"), f"the `time` of a derived table is that of {chain[1]!r}, which is {told}"
            )

    @model_validator(mode="after")
    def _deployed(self) -> Self:
        for name in self.deployments:
            _known_name(name, self.targets, "target", ("deployments", name))
        return self

    @model_validator(mode="after")
    def _groups(self) -> Self:
        for name, group in self.feature_groups.items():
            place = ("feature_groups", name)
            if not name.strip() or any(sign in name for sign in ":@/"):
                raise PlacedError(place, f"{name!r} cannot name a feature group: leave out `:`, `@` and `/`")
            if group.target is not None:
                _known_name(group.target, self.targets, "target", (*place, "target"))
                entity = self.targets[group.target].entity_table
                if group.entity not in (None, entity):
                    raise PlacedError((*place, "entity"), f"target {group.target!r} is about {entity!r}")
                continue
            assert group.entity is not None
            _known_name(group.entity, self.tables, "table", (*place, "entity"))
            if len(self.tables[group.entity].key) != 1:
                raise PlacedError((*place, "entity"), f"table {group.entity!r} needs a `key` of one column")
        return self


def _known_name(name: str, names: dict[str, Any], kind: str, place: tuple[str, ...]) -> None:
    if name not in names:
        raise PlacedError(place, unknown(f"there is no {kind}", name, names))
