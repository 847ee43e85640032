"""Primitives of the user's own: one small function over the values of a range, or of a row."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

from holdfast.core.features import ranges
from holdfast.errors import InputError

if TYPE_CHECKING:
    from holdfast.core.features.definitions import Feature
    from holdfast.core.features.plan import Own
    from holdfast.core.features.stages import Range

__all__ = ["apply_own", "run_own"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_NO_MASK = np.zeros(0, np.uint8)


def run_own(own: "Own", found: "Range", out: Floats) -> None:
    """Compute a user's aggregate into its row of `out` float64 [slots, n]. InputError when its code fails."""
    begin = found.start if own.window < 0 else found.lo[own.window]
    mask = found.masks[own.condition] if own.condition >= 0 else _NO_MASK
    first, last, positions = ranges.visible(
        found.perm, begin, found.hi, found.cutoffs, found.odd, found.known_from, found.known_to, mask
    )
    values = np.stack([found.numbers[source][positions] for source in own.inputs])
    null = np.isnan(values).any(axis=0)
    if null.any():
        before = np.concatenate(([0], np.cumsum(~null)))
        first, last, values = before[first], before[last], np.ascontiguousarray(values[:, ~null])
    empty = math.nan if own.primitive.empty is None else own.primitive.empty
    _run(own.feature, "ranges", (np.stack([first, last]), values, empty, out[own.slot]))


def apply_own(feature: "Feature", inputs: list[Floats]) -> Floats:
    """A user's transform of n rows, float64 [n]; null where an input is. InputError when its code fails."""
    values = np.stack(inputs)
    out = np.full(values.shape[1], math.nan)
    there = np.flatnonzero(~np.isnan(values).any(axis=0))
    _run(feature, "rows", (there, values, math.nan, out))
    return out


def _run(feature: "Feature", over: str, arguments: tuple[Any, ...]) -> None:
    """Call a user's code for each range, or each row; the loop too is compiled where the code is."""
    primitive, given = feature.primitive, dict(feature.parameters)
    assert primitive is not None
    assert primitive.compute is not None
    settings = tuple(given[name] for name in primitive.parameters)
    loop = _loop(primitive.compute, len(primitive.takes), over, primitive.compiled)
    try:
        loop(*arguments, settings)
    # A user's code may raise anything; which feature it was is what they need to know.
    except Exception as error:
        kind = "float64 arrays without nulls, never empty" if over == "ranges" else "floats that are not null"
        nothing = "nan" if primitive.compiled else "None"
        raise InputError(
            f"primitive {primitive.name} failed: {type(error).__name__}: {error}",
            where={"feature": feature.name, "primitive": primitive.name},
            hint=f"Its compute gets {kind}, and returns a number or {nothing}.",
        ) from error
    # One null and one zero, whatever bits the code gave.
    out = arguments[-1]
    out[np.isnan(out)] = math.nan
    out += 0.0


def _plain(answer: Any) -> float:
    return math.nan if answer is None else float(answer)


def _plain_ranges(function: Callable[..., Any]) -> Callable[..., None]:
    def loop(bounds: Ints, values: Floats, empty: float, out: Floats, settings: tuple[float, ...]) -> None:
        for i in range(bounds.shape[1]):
            # Ranges share rows, and the code may sort its arrays in place.
            columns = values[:, bounds[0, i] : bounds[1, i]].copy()
            out[i] = _plain(function(*columns, *settings)) if columns.shape[1] else empty

    return loop


def _plain_rows(function: Callable[..., Any]) -> Callable[..., None]:
    def loop(there: Ints, values: Floats, _empty: float, out: Floats, settings: tuple[float, ...]) -> None:
        for i in there:
            out[i] = _plain(function(*(float(value) for value in values[:, i]), *settings))

    return loop


def _compiled(f: Any, arity: int, over: str) -> Callable[..., None]:
    """The same loops, compiled with the code inside; the compiler wants each number of inputs written out."""

    def ranges(bounds: Ints, values: Floats, empty: float, out: Floats, settings: tuple[float, ...]) -> None:
        for i in range(bounds.shape[1]):
            a, b = bounds[0, i], bounds[1, i]
            if a == b:
                out[i] = empty
            elif arity == 1:
                out[i] = f(values[0, a:b].copy(), *settings)
            elif arity == 2:
                out[i] = f(values[0, a:b].copy(), values[1, a:b].copy(), *settings)
            else:
                out[i] = f(values[0, a:b].copy(), values[1, a:b].copy(), values[2, a:b].copy(), *settings)

    def rows(there: Ints, values: Floats, _empty: float, out: Floats, settings: tuple[float, ...]) -> None:
        for i in there:
            if arity == 1:
                out[i] = f(values[0, i], *settings)
            elif arity == 2:
                out[i] = f(values[0, i], values[1, i], *settings)
            else:
                out[i] = f(values[0, i], values[1, i], values[2, i], *settings)

    compiled: Callable[..., None] = numba.njit(ranges if over == "ranges" else rows, nogil=True)
    return compiled


@lru_cache(maxsize=256)
def _loop(function: Callable[..., Any], arity: int, over: str, compiled: bool) -> Callable[..., None]:
    if compiled:
        return _compiled(numba.njit(function, nogil=True), arity, over)
    return _plain_ranges(function) if over == "ranges" else _plain_rows(function)
