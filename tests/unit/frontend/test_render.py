import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from holdfast.frontend.cli.render import cell, document, plain, size, when


@dataclass
class Record:
    name: str
    made_at: int
    score: float


def test_a_document_is_strict_json() -> None:
    value = {
        "record": Record("名", 1_700_000_000_000_000, math.nan),
        "numbers": [math.inf, np.float64(0.5), np.int64(3), np.array([1, 2])],
        "table": pa.table({"甲": [1, None]}),
        7: (True, None),
    }
    read = json.loads(document(value), parse_constant=pytest.fail)
    assert read == {
        "record": {"name": "名", "made_at": "2023-11-14T22:13:20Z", "score": None},
        "numbers": [None, 0.5, 3, [1, 2]],
        "table": [{"甲": 1}, {"甲": None}],
        "7": [True, None],
    }


def test_a_value_cannot_steer_the_terminal() -> None:
    assert cell("\x1b[31mred\x07\n\x9b2J") == "␛[31mred␇␊\ufffd2J"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (1234567, "1,234,567"), (0.123456, "0.1235"), (math.nan, "nan"), ([1, "a"], "1, a"),
     ({"k": 2}, "k: 2"), (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02"),
     (datetime(2024, 1, 2, 3, tzinfo=UTC), "2024-01-02 03:00:00")],
)  # fmt: skip
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_instants_and_sizes() -> None:
    assert when(None) == ""
    assert when(-1) == "1969-12-31T23:59:59Z"
    assert [size(n) for n in (5, 1500, 2.5e6, 3e12)] == ["5 B", "1.5 kB", "2.5 MB", "3.0 TB"]
    assert plain(3, "rows") == 3
