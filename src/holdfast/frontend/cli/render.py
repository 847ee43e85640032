"""Values for people and for programs: plain data for JSON, and cells that cannot harm a terminal."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["cell", "document", "plain", "size", "when"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Control characters (escape sequences among them) are shown as their pictures: a value must not steer the terminal.
_PICTURES = {code: 0x2400 + code for code in range(32)} | {127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def plain(value: Any, name: str = "") -> Any:
    """`value` as what JSON knows; instants (integers under a name that ends in `_at`) become ISO 8601 in UTC.

    Numbers that JSON does not know (NaN, infinities) become null.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return when(value) if name.endswith("_at") else int(value)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    # Arrow tables and numpy values, without importing either here.
    for method in ("to_pylist", "tolist"):
        if hasattr(value, method):
            return plain(getattr(value, method)())
    return str(value)


def document(value: Any) -> str:
    """`value` as one JSON document."""
    return json.dumps(plain(value), ensure_ascii=False, indent=2, allow_nan=False)


def when(moment: int | None) -> str:
    """An instant (microseconds since 1970 UTC) as ISO 8601 in UTC to the second; nothing for None."""
    if moment is None:
        return ""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat(timespec="seconds").replace("+00:00", "Z")


def size(number: float) -> str:
    """Bytes in the unit that people read."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def cell(value: Any) -> str:
    """A value for people: nothing for None, four digits for fractions, local times, no control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")[:19].removesuffix(" 00:00:00")
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell(item)}" for key, item in value.items()).translate(_PICTURES)
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return str(value).translate(_PICTURES)
