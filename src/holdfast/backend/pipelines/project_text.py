"""Changes of the project file as text: comments and order of everything else stay."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

__all__ = ["with_keys", "without_keys"]


def without_keys(text: str, keys: Iterable[str]) -> str:
    """The text of a project file without some keys at its top."""
    node, dropped = yaml.compose(text, Loader=yaml.SafeLoader), set(keys)
    assert isinstance(node, yaml.MappingNode)
    if node.flow_style:
        rest = {key: value for key, value in yaml.safe_load(text).items() if key not in dropped}
        return yaml.safe_dump(rest, allow_unicode=True, sort_keys=False)
    starts = [key.start_mark.line for key, _ in node.value]
    ends = [*starts[1:], None]
    lines = text.splitlines(keepends=True)
    kept = lines[: starts[0]]
    for (key, _), start, end in zip(node.value, starts, ends, strict=True):
        if key.value not in dropped:
            kept += lines[start:end]
    return "".join(kept)


def with_keys(text: str, values: Mapping[str, Any]) -> str:
    """The text of a project file with some keys at its top set anew, at its end."""
    rest = without_keys(text, values)
    added = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return rest + ("" if rest.endswith("\n") or not rest else "\n") + added
