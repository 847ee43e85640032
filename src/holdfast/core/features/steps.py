"""Transforms: features made from other features of the same rows, or of the rows before them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.core.features import kernels
from holdfast.core.features.columns import NULL_TIME
from holdfast.core.features.own import apply_own
from holdfast.core.features.primitives import Role
from holdfast.core.schema import DType
from holdfast.core.timeline import ZoneOffsets

if TYPE_CHECKING:
    from holdfast.core.features.plan import Step
    from holdfast.core.features.stages import Place, Subject

__all__ = ["run_step"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_MINUTE, _HOUR, _DAY = 60_000_000, 3_600_000_000, 86_400_000_000


def run_step(step: "Step", subject: "Subject", place: "Place", rows: Ints, cutoffs: Ints) -> None:
    """Compute one transform into its slot. `rows` int64 [n] of the stage's table (-1: none), `cutoffs` int64 [n].

    What is too large for a float is infinite, and what then is no number is null, as in the loops.
    """
    with np.errstate(all="ignore"):
        _run_step(step, subject, place, rows, cutoffs)


def _run_step(step: "Step", subject: "Subject", place: "Place", rows: Ints, cutoffs: Ints) -> None:
    name, inputs = step.primitive.name, step.feature.inputs
    out = subject.numbers[step.slot]
    if step.primitive.role is Role.WITHIN:
        _within(step, place, rows, cutoffs, out)
    elif step.primitive.compute is not None:
        out[:] = apply_own(step.feature, [subject.numbers[slot] for slot in step.inputs])
    elif inputs[0].dtype is DType.TIME:
        out[:] = _calendar(name, subject.times[step.inputs[0]], cutoffs, place.world.schema.timezone)
    elif inputs[0].dtype in (DType.CATEGORY, DType.TEXT):
        out[:] = _of_text(name, subject, step.inputs)
    elif name in _ONE:
        out[:] = _ONE[name](subject.numbers[step.inputs[0]])
    elif name in _BOUND:
        x, bound = subject.numbers[step.inputs[0]], dict(step.feature.parameters)["value"]
        out[:] = np.where(np.isnan(x), np.nan, _BOUND[name](x, bound))
    else:
        one, two = (subject.numbers[slot] for slot in step.inputs)
        out[:] = _TWO[name](one, two)


def _positive(function: Callable[[Floats], Floats], least: float) -> Callable[[Floats], Floats]:
    def safe(x: Floats) -> Floats:
        fits = x >= least
        return np.where(fits, function(np.where(fits, x, 1.0)), np.nan)

    return safe


def _compared(function: Callable[[Floats, Floats], npt.NDArray[np.bool_]]) -> Callable[[Floats, Floats], Floats]:
    """A comparison that is null where an input is."""
    return lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, function(x, y))


def _divided(x: Floats, y: Floats) -> Floats:
    return np.where(y == 0.0, np.nan, x / np.where(y == 0.0, 1.0, y)) + 0.0


_ONE: Mapping[str, Callable[[Floats], Floats]] = {
    "IS_NULL": lambda x: np.isnan(x).astype(np.float64),
    "NOT": lambda x: 1.0 - x,
    "ABSOLUTE": np.abs,
    "NEGATE": lambda x: 0.0 - x,
    "SQUARE": lambda x: x * x,
    "SQUARE_ROOT": _positive(np.sqrt, 0.0),
    "NATURAL_LOGARITHM": _positive(np.log, float(np.nextafter(0.0, 1.0))),
}
_BOUND: Mapping[str, Callable[[Floats, float], npt.NDArray[np.bool_]]] = {"ABOVE": np.greater, "BELOW": np.less}
_TWO: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "ADD": lambda x, y: x + y + 0.0,
    "SUBTRACT": lambda x, y: x - y + 0.0,
    "MULTIPLY": lambda x, y: x * y + 0.0,
    "DIVIDE": _divided,
    "GREATER_THAN": _compared(np.greater),
    # Kleene's logic: false and null is false, true or null is true.
    "AND": lambda x, y: np.where((x == 0.0) | (y == 0.0), 0.0, x * y),
    "OR": lambda x, y: np.where((x == 1.0) | (y == 1.0), 1.0, x + y),
}


def _of_text(name: str, subject: "Subject", inputs: tuple[int, ...]) -> Floats:
    codes, words = subject.codes[inputs[0]], subject.words[inputs[0]]
    if name == "IS_NULL":
        return np.asarray(codes < 0, np.float64)
    if name == "EQUAL":
        other, others = subject.codes[inputs[1]], {word: code for code, word in enumerate(subject.words[inputs[1]])}
        twin = np.array([*(others.get(word, -2) for word in words), -2], np.int64)
        return np.where((codes < 0) | (other < 0), np.nan, twin[codes] == other)
    measure = len if name == "NUM_CHARACTERS" else lambda word: len(word.split())
    return np.asarray(np.array([*(measure(word) for word in words), np.nan])[codes])


def _calendar(name: str, moments: Ints, cutoffs: Ints, timezone: str) -> Floats:
    """A transform of times (int64 microseconds), in the project's time zone; null stays null."""
    null = moments == NULL_TIME
    safe = np.where(null, 0, moments)
    if name == "IS_NULL":
        return np.asarray(null, np.float64)
    if name == "TIME_SINCE":
        return np.where(null, np.nan, (cutoffs - safe).astype(np.float64) / 1e6)
    local = ZoneOffsets.of(timezone).local(safe)
    out = _PARTS[name](local, np.floor_divide(local, _DAY))
    return np.where(null, np.nan, out.astype(np.float64))


def _day(days: Ints, unit: str) -> Ints:
    """Days since the start of the month or year, from 1."""
    start = days.astype("datetime64[D]").astype(f"datetime64[{unit}]").astype("datetime64[D]").astype(np.int64)
    return days - start + 1


def _months(days: Ints) -> Ints:
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _week(days: Ints) -> Ints:
    thursday = days + 3 - (days + 3) % 7
    return (_day(thursday, "Y") - 1) // 7 + 1


_PARTS: Mapping[str, Callable[[Ints, Ints], Ints]] = {
    "YEAR": lambda _, days: _months(days) // 12 + 1970,
    "QUARTER": lambda _, days: _months(days) % 12 // 3 + 1,
    "MONTH": lambda _, days: _months(days) % 12 + 1,
    "WEEK": lambda _, days: _week(days),
    "DAY": lambda _, days: _day(days, "M"),
    "DAY_OF_YEAR": lambda _, days: _day(days, "Y"),
    "WEEKDAY": lambda _, days: (days + 3) % 7,  # 1970-01-01 was a Thursday
    "IS_WEEKEND": lambda _, days: (days + 3) % 7 // 5,
    "HOUR": lambda local, _: local // _HOUR % 24,
    "MINUTE": lambda local, _: local // _MINUTE % 60,
}


def _within(step: "Step", place: "Place", rows: Ints, cutoffs: Ints, out: Floats) -> None:
    link, world = step.feature.link, place.world
    assert link is not None
    index, linked, n = world.index(link), world.link_codes(link), len(rows)
    there = rows >= 0
    at = np.where(there, world.places(link)[rows], -1) if len(linked) else np.full(n, -1)
    codes = np.where(at >= 0, linked[rows], 0) if len(linked) else np.zeros(n, np.int64)
    begin = np.where(at >= 0, index.offsets[codes], 0)
    odd = index.odd[codes] if len(index.odd) else np.zeros(n, np.uint8)
    if step.feature.inputs:
        values = world.sorted_numbers(link, (step.feature.inputs[0].column,))[0]
    else:
        values = np.zeros(len(index.order))
    steps = int(dict(step.feature.parameters).get("periods", 1))
    # Those of one parent together; where rows may be unknown, those of one cutoff, which can share a walk, too.
    perm = np.lexsort((at, np.where(odd, cutoffs, 0), begin)) if odd.any() else np.argsort(at, kind="stable")
    op = getattr(kernels, step.primitive.name)
    kernels.running(
        op, steps, perm, begin, at, cutoffs, odd, index.known_from, index.known_to, index.times, values, out
    )
