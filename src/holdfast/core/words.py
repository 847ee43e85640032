"""Text as the number or truth value it spells: one grammar for what people type and what text files hold."""

import re

from holdfast.errors import ConfigError

__all__ = ["TRUTH", "exactly", "number_of", "parse_size", "quantity", "truth_of", "whole_of"]

TRUTH = (("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("是", "否"), ("1", "0"))
"""Words for true and false, in lower case."""
_TRUTHS = {word: word == true for true, false in TRUTH for word in (true, false)}
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(MB|GB|TB)\s*")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_LEAST = 128 * 10**6

_TIMES = ((365.25 * 86_400, "years"), (86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"))


def whole_of(text: str) -> int | None:
    """The whole number that `text` is, apart from blanks around it; None when it is none. No `1_000`, no `1e3`."""
    text = text.strip()
    return int(text) if _WHOLE.fullmatch(text) else None


def number_of(text: str) -> float | None:
    """The number, infinite when it is too large for a float; None when it is none: no `1_0`, `nan` or `inf`."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def truth_of(text: str) -> bool | None:
    """The truth value, in any case; None when it is no word for one."""
    return _TRUTHS.get(text.strip().lower())


def exactly(value: float) -> str:
    """The number in as few characters as read back as the same one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")


def quantity(value: float, unit: str = "") -> str:
    """A number with its unit, for people; seconds as the largest of years, days, hours and minutes that fits."""
    if unit == "s":
        for seconds, name in _TIMES:
            if abs(value) >= seconds:
                return f"{value / seconds:.3g} {name}"
    return f"{value:.4g}{' ' + unit if unit else ''}"


def parse_size(text: str) -> int:
    """Memory such as `512MB` or `1.5TB` in bytes (of thousands, not 1024s). ConfigError when it is none, or tiny."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _BYTES[match[2]]) if match else 0
    if size < _LEAST:
        raise ConfigError(
            f"{text.strip()!r} is not an amount of memory to compute with",
            hint="Write it as 512MB, 4GB or 1.5TB; at least 128MB.",
        )
    return size
