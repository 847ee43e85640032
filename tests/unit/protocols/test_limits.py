"""Bodies within their size that ask for too much: refused in a moment, before anything is made of them."""

import time

import pytest

from holdfast.backend.api.errors import problem
from holdfast.backend.api.invocations import _csv_rows, _rows, read_invocation
from holdfast.backend.api.open_inference.requests import make_request
from holdfast.backend.api.open_inference.tensors import Tensor
from holdfast.backend.api.requests import MAX_ROWS, decode_request
from holdfast.core.features.alignment import refuse
from holdfast.errors import AlignmentError, LimitError, RequestError

JSON = "application/json"
QUICK = 5.0
"""Seconds; what is meant took hours."""


@pytest.mark.parametrize(
    ("form", "one"),
    [
        (b'{"features":[%b]}', b"{}"),
        (b'{"entities":[%b]}', b'{"id":1}'),
        (b'{"rows":{},"questions":[%b]}', b'{"entity":1}'),
    ],
)
def test_our_own_protocol_takes_as_many_rows_as_the_others(form, one):
    def body(count):
        return form % b",".join([one] * count)

    decode_request(body(MAX_ROWS))
    with pytest.raises(LimitError, match="10,001") as caught:
        decode_request(body(MAX_ROWS + 1))
    assert caught.value.where["limit_rows"] == MAX_ROWS
    assert problem(caught.value)[0] == 413


def quickly(work, error, match):
    began = time.monotonic()
    with pytest.raises(error, match=match):
        work()
    assert time.monotonic() - began < QUICK


NAMES = [f"c{number}" for number in range(400_000)]


def test_many_columns_are_not_compared_with_one_another():
    many = ",".join(f'"{name}"' for name in (*NAMES, NAMES[-1]))
    asked = read_invocation(b'{"dataframe_split":{"columns":[%b],"data":[]}}' % many.encode(), JSON)
    quickly(lambda: _rows((), asked), LimitError, "too many")
    quickly(lambda: _csv_rows(None, ",".join([*NAMES, NAMES[-1]])), LimitError, "too many")
    twice = ",".join([*NAMES[:9_999], NAMES[9_998]])
    quickly(lambda: _csv_rows(None, twice), RequestError, "'c9998' is given twice")
    tensors = [Tensor(name, "FP64", (1,), (1.0,)) for name in (*NAMES[:9_999], NAMES[9_998])]
    quickly(lambda: make_request("", tensors, {}, {}), RequestError, "'c9998' is given twice")


def test_rows_of_a_csv_are_counted_not_kept():
    quickly(lambda: _csv_rows(None, "a\n" + "1\n" * 1_000_000), LimitError, "1,000,000 rows")


@pytest.mark.parametrize("text", [rb'"a\ud800"', b'"a\xed\xa0\x80"', b'"a\xff"'])
def test_what_is_no_text_is_refused_beside_nan_too(text):
    with pytest.raises(RequestError, match="not valid JSON"):
        read_invocation(b'{"dataframe_records":[{"a":NaN,"b":%b}]}' % text, JSON)
    asked = read_invocation(rb'{"dataframe_records":[{"a":NaN,"b":"\ud83d\ude00"}]}', JSON)
    assert asked.dataframe_records == [{"a": None, "b": "😀"}]


def test_a_list_in_an_error_is_cut_and_says_so():
    problems = [{"row": 0, "feature": str(number), "kind": "extra", "detail": "x"} for number in range(150_000)]
    with pytest.raises(AlignmentError, match="150,000 problems") as caught:
        refuse(problems)
    told = problem(caught.value)[1]["where"]["problems"]
    assert told.endswith("and 149,000 more")
    assert len(told) < 100_000
