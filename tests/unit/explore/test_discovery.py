"""Discovery finds what was planted, says it in words, and looks at training rows only."""

import xml.dom.minidom

import numpy as np

from holdfast.core.explore.discovery import Discovery, discover
from holdfast.core.explore.pictures import svg, vega_lite
from holdfast.core.explore.relevance import auc, benjamini_hochberg
from holdfast.core.features.alignment import FeatureSpec

SPECS = [
    FeatureSpec("COUNT(违规, 365d)", "number", "keep", description="how many rows of 违规 in the last 365d"),
    FeatureSpec("x", "number", "keep"), FeatureSpec("y", "number", "keep"), FeatureSpec("noise", "number", "keep"),
    FeatureSpec("街区", "category", "unknown", categories=("东", "西")),
    FeatureSpec("twice", "number", "keep"), FeatureSpec("void", "number", "keep"),
]  # fmt: skip


def world(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """High where there are many violations; and where x and y have the same sign, though neither tells by itself."""
    rng = np.random.default_rng(5)
    count = rng.poisson(2, rows) * 1.0
    x, y = rng.normal(size=rows), rng.normal(size=rows)
    chance = 0.1 + 0.35 * (count > 2) + 0.3 * (x * y > 0)
    matrix = np.column_stack([
        count, x, y, rng.normal(size=rows), rng.integers(0, 3, rows), 2 * count + 1, np.full(rows, np.nan),
    ])  # fmt: skip
    matrix[rng.random(rows) < 0.1, 1] = np.nan
    return matrix, (rng.random(rows) < chance).astype(float)


def found(matrix: np.ndarray, truth: np.ndarray, *, numeric: bool = False) -> Discovery:
    train = np.arange(len(truth)) < 3000
    return discover(SPECS, matrix, truth, train, ~train, label="高风险", numeric=numeric)


def test_what_was_planted_is_found_and_said() -> None:
    one = found(*world())
    best = one.singles[0]
    assert best.feature == "COUNT(违规, 365d)"
    assert best.alike == ("twice",)
    assert best.rule == "COUNT(违规, 365d) is at least 3"
    assert best.p_value < 1e-20
    assert best.words.startswith("Where how many rows of 违规 in the last 365d is at least 3, 高风险 is ")
    assert f"n = {best.training.inside:,}" in best.words
    assert best.held_out is not None
    assert best.held_out.mean_inside > 1.5 * best.held_out.mean_outside
    assert one.pairs[0].features == ("x", "y")
    assert one.pairs[0].p_value < 1e-10
    assert all(pair.p_value > 0.01 for pair in one.pairs[1:])
    assert [s.feature for s in one.singles if s.p_value < 0.01] == ["COUNT(违规, 365d)"]


def test_rows_that_are_not_training_rows_decide_nothing() -> None:
    matrix, truth = world()
    before = found(matrix, truth)
    matrix[3000:], truth[3000:] = matrix[3000:][::-1] * 1e6, 1 - truth[3000:]
    after = found(matrix, truth)
    assert [(s.words, s.training) for s in after.singles] == [(s.words, s.training) for s in before.singles]
    assert after.pairs == before.pairs
    assert after.singles[0].held_out != before.singles[0].held_out


def test_chance_is_not_sold_as_a_finding() -> None:
    matrix, truth = world()
    shuffled = np.random.default_rng(6).permutation(truth)
    one = found(matrix, shuffled)
    assert all(single.p_value > 0.05 for single in one.singles)
    assert all(pair.p_value > 0.05 for pair in one.pairs)


def test_a_number_as_label() -> None:
    matrix, _ = world()
    one = found(matrix, matrix[:, 0] * 10 + matrix[:, 3], numeric=True)
    assert one.singles[0].feature == "COUNT(违规, 365d)"
    assert "on average" in one.singles[0].words
    assert one.singles[0].training.auc is not None
    assert one.singles[0].training.auc > 0.9


def test_a_label_without_two_values_has_no_finding() -> None:
    matrix, truth = world()
    assert found(matrix, truth * 0).singles == ()
    assert found(matrix, truth * np.nan).rows == 0


def test_the_picture_is_xml_and_the_document_holds_the_figures() -> None:
    one = found(*world())
    text = svg([one, one])
    assert "高风险" in text
    assert len(xml.dom.minidom.parseString(text).getElementsByTagName("circle")) == 4 * (
        len(one.singles) + len(one.pairs)
    )
    assert len(vega_lite([one])["data"]["values"]) == 2 * len(one.singles)


def test_statistics_agree_with_scikit_learn_and_scipy() -> None:
    from scipy.stats import false_discovery_control, mannwhitneyu
    from sklearn.metrics import roc_auc_score

    matrix, truth = world()
    area, p_value = auc(matrix[:, 0], truth > 0)
    assert (
        area == np.float64(roc_auc_score(truth, matrix[:, 0])).round(15)
        or abs(area - roc_auc_score(truth, matrix[:, 0])) < 1e-12
    )
    theirs = mannwhitneyu(matrix[truth > 0, 3], matrix[truth == 0, 3], method="asymptotic", use_continuity=False)
    assert abs(auc(matrix[:, 3], truth > 0)[1] - theirs.pvalue) < 1e-9
    assert p_value < 1e-20
    values = [0.01, 0.2, 0.03, 0.03, 1.0]
    assert np.allclose(benjamini_hochberg(values), false_discovery_control(values))
