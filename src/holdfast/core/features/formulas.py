"""Features that a user writes: the text of a feature's name, read back as a definition."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from holdfast.core.features.definitions import Condition, Feature, Kind
from holdfast.core.features.primitives import Input, Primitive, Role, find_primitive
from holdfast.core.schema import DType, Link, Schema
from holdfast.core.timeline import parse_duration
from holdfast.errors import ConfigError, HoldfastError

__all__ = ["make_feature", "parse_condition", "parse_feature", "parse_primitive", "personal_column"]

_CALL = re.compile(r"([A-Z][A-Z0-9_]*)\((.*)\)", re.DOTALL)
_WINDOW = re.compile(r"(.*),\s*(\d+\s*(?:us|ms|s|min|h|d|w))", re.DOTALL)
_WHERE = re.compile(r"\s+WHERE\s+")
_OPERATOR = re.compile(r"\s*(!=|<=|>=|=|<|>)\s*")
_BY = re.compile(r"(?:(.*)\s)?BY\s+(.+)", re.DOTALL)
_PARAMETER = re.compile(r"(?:(.*),)?\s*(\w+)\s*=\s*([-+]?[0-9][0-9.eE+-]*)", re.DOTALL)
_TABLE = re.compile(r"(.+?)(?:\[(.+)\])?")
_TAKES = {
    Input.NUMBER: "numbers",
    Input.TRUTH: "truth values",
    Input.CATEGORY: "categories",
    Input.ANY: "numbers, truth values and categories",
    Input.TEXT: "text",
    Input.TIME: "a time",
}


def parse_feature(
    formula: str, schema: Schema, table: str, own: Iterable[Primitive] = (), *, whole: bool = True
) -> Feature:
    """The feature of `table` that a formula such as `MEAN(inspections.Score WHERE type = Routine, 30d)` describes.

    It reads `column`, `parent.feature`, `PRIMITIVE(child)`, `PRIMITIVE(child.feature)`, `PRIMITIVE(feature, ...)` and
    `PRIMITIVE(column BY link column)`; `child[column]` names the link where there are several, `name=number` sets a
    parameter. `own` are the user's primitives. `whole`: the feature must be a value, not a time or a text.
    ConfigError says which part is wrong, or which personal column it would show.
    """
    try:
        feature = _Parser(schema, tuple(own)).parse(formula.strip(), table)
    except ConfigError as error:
        where = {"key": "features.include", "feature": formula, **error.where}
        raise ConfigError(error.message, where=where, hint=error.hint) from error
    except HoldfastError as error:
        raise ConfigError(
            f"feature {formula!r}: {error.message}", where={"key": "features.include"}, hint=error.hint
        ) from error
    if personal := personal_column(feature, schema):
        raise ConfigError(
            f"feature {formula!r} would show the personal column {personal[1]!r}",
            where={"key": "features.include", "table": personal[0], "column": personal[1]},
            hint="Personal columns are never features, nor conditions.",
        )
    if whole and feature.dtype in (DType.TIME, DType.TEXT):
        raise ConfigError(
            f"feature {formula!r} would be a {feature.dtype}", where={"key": "features.include"},
            hint="A time becomes a feature by TIME_SINCE(...), YEAR(...) and the like, a text by NUM_WORDS(...).",
        )  # fmt: skip
    return feature


def parse_primitive(text: str, own: Iterable[Primitive] = ()) -> tuple[Primitive, tuple[tuple[str, float], ...]]:
    """The primitive and the parameters that `NAME` or `NAME(parameter=number, ...)` names. ConfigError otherwise."""
    call = _CALL.fullmatch(text.strip())
    if not call:
        return find_primitive(text.strip(), own), ()
    primitive = find_primitive(call[1], own)
    rest, parameters = _parameters(call[2].strip(), primitive)
    if rest:
        has = ", ".join(f"{name}=..." for name in primitive.parameters)
        raise ConfigError(f"{rest!r} is no parameter of {primitive.name}", hint=f"It has: {has or 'none'}")
    values = dict(parameters)
    _check_values(primitive, {**primitive.parameters, **values})
    return primitive, tuple(sorted(values.items()))


def personal_column(feature: Feature, schema: Schema) -> tuple[str, str] | None:
    """The first personal column, as (table, column), that a feature reads or has a condition on."""
    for part in feature.walk():
        read = [(part.table, part.column)] if part.kind is Kind.COLUMN else []
        read += [(part.link.child, part.condition.column)] if part.link and part.condition else []
        for table, column in read:
            if schema.table(table).column(column).personal:
                return table, column
    return None


def make_feature(
    primitive: Primitive,
    inputs: Sequence[Feature],
    table: str,
    *,
    link: Link | None = None,
    window: int | None = None,
    condition: Condition | None = None,
    parameters: Iterable[tuple[str, float]] = (),
) -> Feature:
    """The feature that applies a primitive. ConfigError when the inputs or parameters do not fit it."""
    if len(inputs) != len(primitive.takes):
        wanted = {0: "no column, only a table", 1: "a column"}.get(len(primitive.takes), "two columns")
        raise ConfigError(f"{primitive.name} takes {wanted}{': table.column' if primitive.takes else ''}")
    for kind, inner in zip(primitive.takes, inputs, strict=True):
        if not kind.takes(inner.dtype):
            raise ConfigError(f"{primitive.name} takes {_TAKES[kind]}, and {inner.name!r} is {inner.dtype}")
    values = {**primitive.parameters, **dict(parameters)}
    for name, value in values.items():
        if name not in primitive.parameters:
            raise ConfigError(f"{primitive.name} has no parameter {name!r}")
        if value is None:
            raise ConfigError(f"{primitive.name} needs {name}=...", hint=f"As in {primitive.name}(x, {name}=10).")
    kinds = {Role.AGGREGATE: Kind.AGGREGATE, Role.TRANSFORM: Kind.TRANSFORM, Role.WITHIN: Kind.WITHIN}
    _check_values(primitive, values)
    return Feature(
        kinds[primitive.role], table, primitive.gives or inputs[0].dtype, primitive=primitive, inputs=tuple(inputs),
        link=link, window=window, condition=condition,
        parameters=tuple(sorted((name, float(value)) for name, value in values.items() if value is not None)),
    )  # fmt: skip


def _check_values(primitive: Primitive, values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{name} of {primitive.name} is a finite number, not {value}")
    for name, least in (("n", 1), ("periods", 1)):
        value = values.get(name)
        if value is not None and (value < least or value != int(value) or value > 1000):
            raise ConfigError(f"{name} of {primitive.name} is a whole number from {least} to 1000, not {value:g}")
    q = values.get("q")
    if q is not None and not 0 <= q <= 1:
        raise ConfigError(f"q of {primitive.name} is between 0 and 1, not {q:g}")


class _Parser:
    def __init__(self, schema: Schema, own: tuple[Primitive, ...]) -> None:
        self.schema = schema
        self.own = own

    def parse(self, text: str, table: str) -> Feature:
        """A feature of a row of `table`."""
        own = self.schema.table(table)
        if text in own.names:
            return Feature(Kind.COLUMN, table, own.column(text).dtype, column=text)
        call = _CALL.fullmatch(text)
        if call:
            return self.call(find_primitive(call[1], self.own), call[2].strip(), table)
        head, dot, tail = _head(text, self.schema.parents(table), "parent")
        if not dot:
            if text == "cutoff":
                return Feature(Kind.CUTOFF, "", DType.TIME)
            own.column(text)  # raises, with what there is
        link = _link(head, self.schema.parents(table), "parent")
        inner = self.parse(tail, link.parent)
        return Feature(Kind.DIRECT, table, inner.dtype, inputs=(inner,), link=link)

    def call(self, primitive: Primitive, inside: str, table: str) -> Feature:
        if primitive.role is Role.AGGREGATE:
            return self.aggregate(primitive, inside, table)
        inside, parameters = _parameters(inside, primitive)
        link = None
        if primitive.role is Role.WITHIN:
            by = _BY.fullmatch(inside)
            if not by:
                raise ConfigError(f"{primitive.name} needs BY and a link: {primitive.name}(column BY link)")
            inside = (by[1] or "").strip()
            link = _link_of(by[2].strip(), self.schema.parents(table))
            self.check_time(primitive, table)
        inputs = self.inputs(inside, table, len(primitive.takes))
        if link and any(inner.kind is not Kind.COLUMN for inner in inputs):
            raise ConfigError(f"{primitive.name} takes a column of the table itself, not {inputs[0].name!r}")
        below = inputs[0].table if inputs and primitive.role is Role.TRANSFORM else table
        return make_feature(primitive, inputs, below, link=link, parameters=parameters)

    def aggregate(self, primitive: Primitive, inside: str, table: str) -> Feature:
        window = _WINDOW.fullmatch(inside)
        inside, parameters = _parameters(window[1] if window else inside, primitive)
        problem: HoldfastError | None = None
        for over, where in _conditions(inside):
            try:
                link, inputs = self.children(over, table, len(primitive.takes) or 1)
                condition = self.condition(where, link.child) if where is not None else None
                break
            except HoldfastError as error:
                problem = problem or error
        else:
            raise problem or ConfigError(f"{inside!r} is no rows")
        duration = parse_duration(window[2]) if window else None
        self.check_time(primitive, link.child, duration)
        return make_feature(
            primitive, inputs, table, link=link, parameters=parameters, window=duration, condition=condition
        )

    def children(self, text: str, table: str, count: int) -> tuple[Link, list[Feature]]:
        """The link that `child.feature, ...` looks into, and the features of the child's rows (none for `child`)."""
        links = self.schema.children(table)
        head, dot, _ = _head(text, links, "child")
        link = _link(head, links, "child")
        return link, self.inputs(text, link.child, count, prefix=f"{head}.") if dot else []

    def condition(self, text: str, table: str) -> Condition:
        found = [(text[: m.start()], m[1], text[m.end() :]) for m in _OPERATOR.finditer(text)]
        if not found:
            raise ConfigError(f"{text!r} is no condition", hint="Write it as WHERE column = value.")
        # The name of a column may hold what compares.
        known = [parts for parts in found if parts[0] in self.schema.table(table).names]
        column, operator, value = (known or found)[0]
        if odd := re.search(r",\s*(\d+\s*\w+)$", value):
            raise ConfigError(f"{odd[1]!r} is not a window", hint="Write it as 90d, 12h, 30min or 2w.")
        return parse_condition(column, operator, _unquoted(value), self.schema, table)

    def check_time(self, primitive: Primitive, table: str, window: int | None = None) -> None:
        """ConfigError where rows that do not say when they happened are asked about time."""
        if (primitive.timed or window) and self.schema.table(table).time is None:
            what = primitive.name if primitive.timed else "a window"
            raise ConfigError(
                f"{what} needs to know when rows happened, and table {table!r} has no time",
                hint=f"Name the column that says so as the `time` of {table} in the project file, if there is one.",
            )

    def inputs(self, text: str, table: str, count: int, prefix: str = "") -> list[Feature]:
        """`count` features of a row of `table`, each behind `prefix`; names may hold commas themselves."""
        if not text:
            return []
        problem: HoldfastError | None = None
        for parts in _splits(text, count):
            try:
                return [self.parse(part.strip().removeprefix(prefix), table) for part in parts]
            except HoldfastError as error:
                problem = problem or error
        raise problem or ConfigError(f"{count} inputs are needed, not {text!r}")


def _splits(text: str, count: int) -> Iterator[list[str]]:
    if count < 2:
        yield [text]
        return
    for match in re.finditer(",", text):
        for rest in _splits(text[match.end() :], count - 1):
            yield [text[: match.start()], *rest]


def _conditions(text: str) -> list[tuple[str, str | None]]:
    """How rows and their condition may part in the text, likeliest first: a WHERE may belong to what is inside."""
    whole: list[tuple[str, str | None]] = [(text, None)]
    parted: list[tuple[str, str | None]] = [(text[: m.start()], text[m.end() :]) for m in _WHERE.finditer(text)]
    closed = [one for one in parted if one[0].count("(") == one[0].count(")")]
    # Names may hold a bracket of their own.
    return [*closed, *whole, *(one for one in parted if one not in closed)]


def _parameters(text: str, primitive: Primitive) -> tuple[str, list[tuple[str, float]]]:
    """The text without the `name=number` at its end, and these."""
    found = []
    while (match := _PARAMETER.fullmatch(text)) and match[2] in primitive.parameters:
        try:
            found.append((match[2], float(match[3])))
        except ValueError as error:
            raise ConfigError(f"{match[2]}={match[3]} is no number") from error
        text = (match[1] or "").strip()
    return text, found


def _unquoted(text: str) -> str:
    """A condition's value as it is, where the formula quotes it as JSON does."""
    try:
        value = json.loads(text) if text.startswith('"') else text
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def parse_condition(column: str, operator: str, text: str, schema: Schema, table: str) -> Condition:
    """The condition on a column of a table, the value typed as the column is. ConfigError when it does not fit."""
    dtype = schema.table(table).column(column).dtype
    if dtype is DType.TIME:
        raise ConfigError(f"a condition compares categories, numbers or truth values, and {column!r} is a time")
    if not dtype.is_number:
        if operator not in {"=", "!="}:
            raise ConfigError(f"{column!r} is {dtype}: it is = or != a value, not {operator}")
        return Condition(column, text, operator)
    if dtype is DType.BOOL and text.lower() in {"true", "false"}:
        return Condition(column, text.lower() == "true", operator)
    try:
        value = int(text) if dtype is DType.INT else float(text)
    except ValueError as error:
        raise ConfigError(f"{column!r} is {dtype}, and {text!r} is no such value") from error
    if not math.isfinite(value):
        raise ConfigError(f"a condition compares with a finite number, not {text}")
    return Condition(column, value, operator)


def _link_of(column: str, links: list[Link]) -> Link:
    for link in links:
        if link.column == column:
            return link
    names = ", ".join(link.column for link in links)
    raise ConfigError(f"{column!r} is no link here; there are: {names or 'none'}", where={"key": "features.include"})


def _spelled(link: Link, kind: str) -> tuple[str, str]:
    """How a formula may name a link."""
    table = link.parent if kind == "parent" else link.child
    return table, f"{table}[{link.column}]"


def _head(text: str, links: list[Link], kind: str) -> tuple[str, str, str]:
    """The text parted behind the link that it begins with, at whose dot; a table's own name may hold one, too."""
    known = [name for link in links for name in _spelled(link, kind) if text == name or text.startswith(f"{name}.")]
    if not known:
        return text.partition(".")
    head = max(known, key=len)
    return head, text[len(head) : len(head) + 1], text[len(head) + 1 :]


def _link(text: str, links: list[Link], kind: str) -> Link:
    match = _TABLE.fullmatch(text.strip())
    table, column = (match[1], match[2]) if match else (text, None)
    fitting = [link for link in links if text.strip() in _spelled(link, kind)] or [
        link for link in links if _spelled(link, kind)[0] == table and column in (None, link.column)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted({f"{link.parent if kind == 'parent' else link.child}[{link.column}]" for link in links}))
    problem = "has several links; name one of" if fitting else f"is no {kind} here; there are"
    raise ConfigError(f"{table!r} {problem}: {names or 'none'}", where={"key": "features.include"})
