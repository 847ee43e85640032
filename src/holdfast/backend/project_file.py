"""Reads the project file `holdfast.yaml`: errors with the line, the key and the nearest right name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from holdfast.backend.layout import PROJECT_FILE
from holdfast.backend.settings import (
    ColumnSettings,
    FeatureGroupSettings,
    PlacedError,
    Settings,
    TableSettings,
    TargetSettings,
    unknown,
)
from holdfast.errors import ConfigError

__all__ = ["load", "parse"]


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
        place = cause.place if isinstance(cause, PlacedError) else tuple(str(part) for part in item["loc"])
        known = max((place[:n] for n in range(len(place), -1, -1) if place[:n] in lines), key=len, default=())
        place = place if cause is not None or item["type"] in {"missing", "extra_forbidden"} else known or place
        message = str(cause) if cause else item["msg"]
        if item["type"] == "extra_forbidden":
            message = unknown("unknown key", place[-1], _fields(place[:-1]))
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
    keyed: dict[tuple[str, int], type[BaseModel]] = {
        ("tables", 1): TableSettings,
        ("targets", 1): TargetSettings,
        ("feature_groups", 1): FeatureGroupSettings,
    }
    depth = 0
    while depth < len(place):
        if depth == 0 and (place[0], 1) in keyed and len(place) > 1:
            model, depth = keyed[place[0], 1], 2
        elif model is TableSettings and place[depth] == "columns":
            model, depth = ColumnSettings, depth + 2
        else:
            field = next((f for n, f in model.model_fields.items() if (f.alias or n) == place[depth]), None)
            kinds = () if field is None else (field.annotation, *get_args(field.annotation))  # `Model | None` too
            found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
            if found is None:
                return []
            model, depth = found, depth + 1
    return [f.alias or name for name, f in model.model_fields.items()]
