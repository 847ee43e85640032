"""The split of the project file, applied to asked rows."""

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from holdfast.backend.settings import Settings
from holdfast.core.learn.split import Bounds, drop_late_labels, split, time_bounds
from holdfast.core.timeline import parse_instant
from holdfast.errors import ConfigError, InputError

__all__ = ["split_rows"]


def split_rows(
    settings: Settings,
    entities: pa.Array,
    cutoffs: npt.NDArray[np.int64],
    labels: Mapping[str, npt.NDArray[np.float64]],
    label_known: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """The part of each row (int8 [n]; see `core.learn.split`), and whose labels were known too late to be used."""
    rule = settings.split
    bounds = _bounds(settings)
    part = split(
        rule.by,
        rule.parts,
        cutoffs,
        seed=settings.training.seed,
        bounds=bounds,
        strata=_strata(labels) if rule.by == "stratified" else None,
        groups=np.asarray(entities.dictionary_encode().indices, np.int64) if rule.by == "group" else None,
    )
    if rule.by != "time":
        return part, np.zeros(len(part), np.bool_)
    return drop_late_labels(part, label_known, bounds or time_bounds(cutoffs, rule.parts))


def _bounds(settings: Settings) -> Bounds | None:
    rule = settings.split
    if rule.train is None or rule.validate_ is None or rule.test is None:
        return None
    ends = []
    for key, text in (("train", rule.train), ("validate", rule.validate_), ("test", rule.test)):
        match = re.fullmatch(r"\s*<\s*(.+?)\s*", text)
        try:
            if not match:
                raise InputError(f"{text!r} is not a bound")
            ends.append(parse_instant(match[1], settings.timezone))
        except InputError as error:
            raise ConfigError(
                error.message, where={"key": f"split.{key}"}, hint='Write it as "< 2016-01-01".'
            ) from error
    return ends[0], ends[1], ends[2]


def _strata(labels: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """One number for each combination of label values; null is a value of its own."""
    columns = [np.unique(np.nan_to_num(values, nan=-1.0), return_inverse=True)[1] for values in labels.values()]
    _, strata = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    return strata.reshape(-1).astype(np.int64)
