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
    for i in found.perm:
        columns = values[:, first[i] : last[i]]
        out[own.slot, i] = _called(own.feature, tuple(columns)) if columns.shape[1] else empty


def apply_own(feature: "Feature", inputs: list[Floats]) -> Floats:
    """A user's transform of n rows, float64 [n]; null where an input is. InputError when its code fails."""
    null = np.logical_or.reduce([np.isnan(values) for values in inputs])
    out = np.full(len(null), math.nan)
    for i in np.flatnonzero(~null):
        out[i] = _called(feature, tuple(float(values[i]) for values in inputs))
    return out


def _called(feature: "Feature", arguments: tuple[Any, ...]) -> float:
    primitive = feature.primitive
    assert primitive is not None
    assert primitive.compute is not None
    function = _compiled(primitive.compute) if primitive.compiled else primitive.compute
    try:
        answer = function(*arguments)
        result = math.nan if answer is None else float(answer)
    # A user's code may raise anything; which feature it was is what they need to know.
    except Exception as error:
        raise InputError(
            f"primitive {primitive.name} failed: {type(error).__name__}: {error}",
            where={"feature": feature.name},
            hint="Its compute gets float64 arrays without nulls, never empty, and returns a number or None.",
        ) from error
    return result + 0.0 if not math.isnan(result) else math.nan


@lru_cache(maxsize=256)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(function)
    return compiled
