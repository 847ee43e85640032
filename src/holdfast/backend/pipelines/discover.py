"""From a target to what separates its labels."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from holdfast.backend.datasets import Datasets
from holdfast.backend.features import Features
from holdfast.backend.pipelines.encoding import fit_encoding
from holdfast.backend.pipelines.features import build_matrix
from holdfast.backend.settings import Settings
from holdfast.backend.store.files import write_whole
from holdfast.core.explore.discovery import Discovery, discover
from holdfast.core.explore.pictures import svg, vega_lite
from holdfast.core.features.primitives import Primitive
from holdfast.core.learn.split import TRAIN, VALIDATE
from holdfast.errors import FileError, NotFoundError, nearest

__all__ = ["check_picture", "discover_labels", "draw"]


def discover_labels(
    datasets: Datasets,
    features: Features,
    settings: Settings,
    target: str,
    *,
    label: str | None = None,
    top: int = 10,
    progress: Callable[[int, int, str], None] | None = None,
    own: Sequence[Primitive] = (),
) -> list[Discovery]:
    """What separates each label of a target (or `label` alone; for multiclass each class), on the current data.

    NotFoundError names the labels when there is no such one.
    """
    built = build_matrix(datasets, features, settings, target, progress=progress, own=own)
    matrix, parts = built.matrix, built.parts
    truths = dict(matrix.labels)
    if matrix.task == "multiclass":
        (codes,) = matrix.labels.values()
        truths = {
            name: np.where(np.isnan(codes), np.nan, codes == number) for number, name in enumerate(matrix.classes)
        }
    if label is not None and label not in truths:
        raise NotFoundError(f"there is no label {label!r}", where={"label": label}, hint=nearest(label, truths))
    encoding = fit_encoding(settings, matrix.feature_set, matrix.frame, parts == TRAIN)
    encoded = encoding.encode(matrix.frame)
    return [
        discover(
            encoding.specs, encoded, truth, parts == TRAIN, parts == VALIDATE,
            label=name, numeric=matrix.task == "regression", top=top,
        )
        for name, truth in truths.items()
        if label in (None, name)
    ]  # fmt: skip


def check_picture(file: Path) -> Path:
    """The file, when something can be drawn into it. FileError otherwise, before any work is done."""
    if file.suffix.lower() not in (".svg", ".json"):
        raise FileError(
            "a picture is drawn as .svg, or written as .json (Vega-Lite)", where={"file": str(file)},
            hint="Browsers and image programs turn an SVG into any other format.",
        )  # fmt: skip
    return file


def draw(found: Sequence[Discovery], file: Path) -> None:
    """Draw the discoveries into `file`, whole or not at all. FileError when it cannot be written."""
    text = svg(found) if file.suffix.lower() == ".svg" else json.dumps(vega_lite(found), ensure_ascii=False, indent=1)
    try:
        write_whole(file, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise FileError(f"the picture cannot be written: {error}", where={"file": str(file)}) from error
