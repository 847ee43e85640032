"""What a model sees: fitted on training rows, replayed, aligned."""

import json
import math

import numpy as np
import pytest

from holdfast.core.features.encoding import UNKNOWN, Encoding
from holdfast.core.features.frame import Categories, FeatureFrame
from holdfast.core.schema import DType
from holdfast.errors import AlignmentError

NAN = np.nan


def frame() -> FeatureFrame:
    return FeatureFrame(
        5,
        {
            "数": np.array([1.0, NAN, 3.0, 5.0, 1000.0]),
            "flag": np.array([1.0, 0.0, NAN, 1.0, 0.0]),
            "城市": Categories(np.array([1, 0, 1, -1, 2]), ["上海", "北京", "zz"]),
        },
        {"数": DType.FLOAT, "flag": DType.BOOL, "城市": DType.CATEGORY},
    )


TRAIN = np.array([True, True, True, True, False])


def test_fit_sees_training_rows_only() -> None:
    encoding = Encoding.fit(frame(), TRAIN, missing={"数": "median"})
    number, _, city = encoding.specs
    assert (number.minimum, number.maximum, number.fill, number.nulls) == (1.0, 5.0, 3.0, 1)
    assert city.categories == ("北京", "上海")
    assert encoding.categorical_categories == {"城市": {UNKNOWN: 0, "北京": 1, "上海": 2}}


def test_encode_replays_it() -> None:
    matrix = Encoding.fit(frame(), TRAIN, missing={"数": "median"}).encode(frame())
    assert matrix[:, 0].tolist() == [1.0, 3.0, 3.0, 5.0, 1000.0]
    assert matrix[:, 2].tolist() == [1, 2, 1, 0, 0]
    assert math.isnan(matrix[2, 1])


def test_encoding_survives_json() -> None:
    encoding = Encoding.fit(frame(), TRAIN)
    again = Encoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again.specs == encoding.specs


def test_aligned_rows_equal_encoded_ones() -> None:
    encoding, computed = Encoding.fit(frame(), TRAIN), frame()
    city = computed.columns["城市"]
    assert isinstance(city, Categories)
    rows = [
        {"城市": city.decode()[i], "flag": flag, "数": number}
        for i, (number, flag) in enumerate(zip([1.0, None, 3, 5, 1000], [True, False, None, 1, 0], strict=True))
    ]
    aligned = encoding.align(rows)
    assert aligned.matrix.tobytes() == encoding.encode(computed).tobytes()
    kinds = [{(r.feature, r.kind) for r in repairs} for repairs in aligned.repairs]
    assert kinds == [
        set(), {("数", "missing")}, {("flag", "missing")}, {("城市", "missing")}, {("数", "range"), ("城市", "unseen")}
    ]  # fmt: skip


def test_repairs_are_reported() -> None:
    encoding = Encoding.fit(frame(), TRAIN)
    row = {"数": " 4.5 ", "flag": "yes", "城市": 7, "extra": 1}
    aligned = encoding.align([row])
    assert aligned.matrix.tolist() == [[4.5, 1.0, 0.0]]
    assert [(r.feature, r.kind) for r in aligned.repairs[0]] == [
        ("数", "cast"), ("flag", "cast"), ("城市", "cast"), ("城市", "unseen"), ("extra", "extra"),
    ]  # fmt: skip


GOOD = {"数": 1, "flag": True, "城市": "北京"}


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"数": 1, "flag": True}, "'城市' is missing"),
        ({**GOOD, "数": "four"}, "'数' must be a number, not str 'four'"),
        ({**GOOD, "数": "1_0"}, "must be a number, not str '1_0'"),
        ({**GOOD, "数": "nan"}, "must be a number, not str 'nan'"),
        ({**GOOD, "数": "-Infinity"}, "must be a number"),
        ({**GOOD, "数": "１２"}, "must be a number"),
        ({**GOOD, "flag": "1_0"}, "'flag' must be a number"),
        ({**GOOD, "数": [1]}, "must be a number, not list"),
        ({**GOOD, "数": NAN}, "only finite numbers"),
        ({**GOOD, "数": math.inf}, "only finite numbers"),
        ({**GOOD, "数": 10**400}, "only finite numbers"),
        ({**GOOD, "数": "1e999"}, "only finite numbers"),
        ({**GOOD, "城市": {"a": 1}}, "'城市' must be text, not dict"),
        ({**GOOD, "城市": True}, "'城市' must be text, not bool"),
        ("text", "must be an object"),
    ],
)
def test_what_cannot_be_repaired_names_row_and_feature(row: object, wrong: str) -> None:
    with pytest.raises(AlignmentError, match=wrong) as caught:
        Encoding.fit(frame(), TRAIN).align([GOOD, row])  # type: ignore[list-item]
    assert caught.value.where["row"] == 1


def test_partial_rows_count_the_absent_as_null() -> None:
    aligned = Encoding.fit(frame(), TRAIN).align([{"flag": True}], partial=True)
    assert [r.kind for r in aligned.repairs[0]] == ["missing", "missing"]


def test_an_all_null_feature_and_a_spelt_unknown_are_fine() -> None:
    odd = FeatureFrame(
        2,
        {"x": np.array([NAN, NAN]), "k": Categories(np.array([0, 1]), ["a", UNKNOWN])},
        {"x": DType.FLOAT, "k": DType.CATEGORY},
    )
    encoding = Encoding.fit(odd, np.array([True, True]))
    assert encoding.encode(odd)[:, 1].tolist() == [1, 0]
    assert encoding.specs[0].minimum is None
    assert encoding.align([{"x": 5, "k": "a"}]).repairs == ((),)


def test_a_frame_that_lacks_a_feature_is_refused() -> None:
    encoding = Encoding.fit(frame(), TRAIN)
    less = FeatureFrame(5, {"数": frame().columns["数"]}, frame().dtypes)
    with pytest.raises(AlignmentError, match="'flag' is absent"):
        encoding.encode(less)
