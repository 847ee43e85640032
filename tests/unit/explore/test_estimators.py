"""Selection, transforms and reduction are scikit-learn estimators, take nulls, and find what was planted."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from holdfast.core.explore.reduction import Embedding, Principal
from holdfast.core.explore.selection import (
    ConstantFilter,
    DuplicateFilter,
    EmbeddedSelector,
    NullFilter,
    RecursiveElimination,
    RelevanceFilter,
)
from holdfast.core.explore.transforms import Interactions, OneHot, Ordinal, PowerTransform, TargetEncode

OUT_OF_FOLD = dict.fromkeys(
    ("check_transformer_general", "check_transformer_data_not_an_array"),
    "fit_transform is out of fold on purpose, as in scikit-learn's own TargetEncoder",
)
ESTIMATORS = [
    ConstantFilter(), NullFilter(), DuplicateFilter(), RelevanceFilter(keep=2), RelevanceFilter("chi_square"),
    RelevanceFilter("correlation"), RecursiveElimination(keep=1), EmbeddedSelector(), EmbeddedSelector("l1"),
    PowerTransform(), PowerTransform("box_cox"), OneHot(), Ordinal(), TargetEncode(), Interactions(), Principal(),
    Embedding(), Embedding("spectral"),
]  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_what_scikit_learn_asks_of_an_estimator(estimator: Any) -> None:
    expected = OUT_OF_FOLD if isinstance(estimator, TargetEncode) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(estimator, expected_failed_checks=expected, on_skip=None)


def planted(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Columns: signal with nulls, its double, noise, constant, mostly null, 0/1 that matters only for large signal."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=rows)
    X = np.column_stack(
        [signal, 2 * signal + 1, rng.normal(size=rows), np.full(rows, 7.0), signal, rng.normal(size=rows)]
    )
    X[:, 4] = np.where(rng.random(rows) < 0.97, np.nan, signal)
    X[: rows // 10, :2] = np.nan
    return X, (signal + rng.normal(size=rows) / 3 > 0).astype(float)


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        (ConstantFilter(), [0, 1, 2, 4, 5]),
        (NullFilter(0.95), [0, 1, 2, 3, 5]),
        (DuplicateFilter(0.99), [0, 2, 3, 4, 5]),
        (RelevanceFilter("mutual_information", keep=2), [0, 1]),
        (RelevanceFilter("chi_square", alpha=0.001), [0, 1]),
        (RelevanceFilter("correlation", keep=2), [0, 1]),
        (RecursiveElimination(keep=1), [0]),
        (EmbeddedSelector("importance", keep=1), [0]),
        (EmbeddedSelector("l1", keep=2, strength=0.3), [0]),
    ],
    ids=repr,
)
def test_selection_keeps_what_was_planted_and_says_why_the_rest_goes(selector: Any, kept: list[int]) -> None:
    X, y = planted()
    chosen = selector.fit(X, y).get_support(indices=True).tolist()
    assert chosen == kept or (isinstance(selector, EmbeddedSelector) and set(chosen) <= {0, 1})
    assert set(selector.reasons_) == set(range(6)) - set(chosen)
    assert all(selector.reasons_.values())


def test_a_number_as_label_is_one() -> None:
    X, _ = planted()
    y = np.nan_to_num(X[:, 0]) * 3 + np.random.default_rng(1).normal(size=len(X))
    for measure in ("mutual_information", "correlation"):
        assert RelevanceFilter(measure, keep=1).fit(X, y).get_support(indices=True).tolist() in ([0], [1])


def test_yeo_johnson_is_scikit_learns() -> None:
    from sklearn.preprocessing import PowerTransformer

    X = np.random.default_rng(2).exponential(3, (400, 3)) - [0, 1, 5]
    X[::9, 1] = np.nan
    ours, theirs = PowerTransform().fit_transform(X), PowerTransformer().fit_transform(X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    positive = X - np.nanmin(X, axis=0) + 0.1
    np.testing.assert_allclose(
        PowerTransform("box_cox").fit_transform(positive), PowerTransformer("box-cox").fit_transform(positive),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip


def test_target_encoding_of_a_training_row_ignores_its_own_label() -> None:
    X, y = np.arange(40.0)[:, None] % 4, np.arange(40) % 2 * 1.0
    encoder = TargetEncode(smoothing=1.0)
    first = encoder.fit_transform(X, y)
    flipped = y.copy()
    flipped[7] = 1 - flipped[7]
    again = TargetEncode(smoothing=1.0).fit_transform(X, flipped)
    assert first[7] == again[7]
    assert (first != again).any()
    assert encoder.transform([[99.0], [np.nan]])[:, 0].tolist() == [0.5, 0.5]


def test_an_interaction_is_found() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(800, 4))
    y = (X[:, 1] * X[:, 3] > 0).astype(float)
    found = Interactions(keep=1).fit(X, y)
    assert found.get_feature_names_out(["a", "b", "c", "丁"])[-1] in ("b × 丁", "b / 丁", "丁 / b")


def test_pictures_keep_clusters_apart() -> None:
    rng = np.random.default_rng(4)
    X = np.vstack([rng.normal(size=(40, 5)), rng.normal(size=(40, 5)) + 12])
    X[3, 2] = np.nan
    for layout in (
        Principal().fit_transform(X), Embedding("tsne", neighbours=10).fit_transform(X),
        Embedding("spectral", neighbours=45).fit_transform(X),
    ):  # fmt: skip
        between = layout[40:].mean(axis=0) - layout[:40].mean(axis=0)
        along = layout @ between
        assert along[:40].max() < along[40:].min()


def test_components_of_one_row_are_those_of_many() -> None:
    X, _ = planted()
    found = Principal(3).fit(X)
    together = found.transform(X)
    assert all(found.transform(X[i : i + 1]).tobytes() == together[i : i + 1].tobytes() for i in range(50))
