"""Tensors: what is written is read again, in both forms, and each type is as exact as it is."""

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.backend.api.open_inference.tensors import MAX_VALUES, Tensor, from_json, from_raw, from_values, to_raw
from holdfast.errors import LimitError, RequestError

WHOLE = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
         "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64}  # fmt: skip
FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


def values_of(datatype):
    if datatype in WHOLE:
        info = np.iinfo(WHOLE[datatype])
        return st.integers(int(info.min), int(info.max))
    if datatype in FLOATS:
        return st.floats(width=FLOATS[datatype], allow_nan=False)
    return st.booleans() if datatype == "BOOL" else st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


tensors = st.sampled_from([*WHOLE, *FLOATS, "BOOL", "BYTES"]).flatmap(
    lambda datatype: st.tuples(st.just(datatype), st.lists(values_of(datatype), max_size=6))
)


@settings(max_examples=400, deadline=None)
@given(made=tensors)
def test_raw_bytes_are_read_as_they_were_written(made):
    datatype, values = made
    tensor = Tensor("特征", datatype, (len(values),), values)
    assert from_raw("特征", datatype, [len(values)], memoryview(to_raw(tensor))) == tensor
    assert from_values("特征", datatype, [len(values)], values) == tensor


@settings(max_examples=400, deadline=None)
@given(made=tensors, columns=st.integers(1, 3))
def test_json_is_read_flat_and_nested(made, columns):
    datatype, values = made
    values = [0.5 if isinstance(value, float) and math.isinf(value) else value for value in values]
    values = values[: len(values) // columns * columns]
    rows = [values[start : start + columns] for start in range(0, len(values), columns)]
    shape = (len(rows), columns)
    for data in (values, rows):
        found = from_json("特征", datatype, shape, msgspec.Raw(json.dumps(data).encode()))
        assert found == Tensor("特征", datatype, shape, values)


def test_each_type_is_as_exact_as_it_is():
    raw = msgspec.Raw(b"[0.1, null, 1e300]")
    assert from_json("a", "FP64", [3], raw).values == [0.1, None, 1e300]
    assert from_json("a", "FP32", [3], raw).values == [float(np.float32(0.1)), None, math.inf]
    brain = struct.pack("<3H", 0x3F80, 0xC000, 0x7FC0)
    assert from_raw("a", "BF16", [3], memoryview(brain)).values == [1.0, -2.0, None]
    assert from_raw("a", "FP64", [1], memoryview(struct.pack("<d", math.nan))).values == [None]
    assert from_json("a", "BOOL", [3], msgspec.Raw(b"[1, true, null]")).values == [True, True, None]


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP64", [2], bytes(15)),
        ("FP64", [2], bytes(17)),
        ("FP64", [0], bytes(1)),
        ("BOOL", [1], b"\x02"),
        ("BYTES", [1], b""),
        ("BYTES", [1], b"\x01\x00\x00"),
        ("BYTES", [1], b"\x05\x00\x00\x00abc"),
        ("BYTES", [1], b"\xff\xff\xff\xffabc"),
        ("BYTES", [1], b"\x01\x00\x00\x00ab"),
        ("BYTES", [2], b"\x05\x00\x00\x00\x00\x00\x00\x00a"),
        ("BYTES", [1], b"\x01\x00\x00\x00\xff"),
        ("BYTES", [0], b"\x00"),
        ("FP65", [1], bytes(8)),
        ("FP64", [], bytes(8)),
        ("FP64", [1, 1, 1], bytes(8)),
        ("FP64", [-1], bytes(8)),
        ("FP64", [-1, -1], bytes(8)),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype, shape, raw):
    with pytest.raises(RequestError) as caught:
        from_raw("特征", datatype, shape, memoryview(raw))
    assert caught.value.where["tensor"] == "特征"


@pytest.mark.parametrize("shape", [[MAX_VALUES + 1], [2**63, 2**63], [0, 2**63], [2**200]])
def test_shapes_beyond_the_limit_are_refused_before_anything_is_made(shape):
    for datatype in ("INT8", "BYTES"):
        with pytest.raises(LimitError):
            from_raw("a", datatype, shape, memoryview(b""))
        with pytest.raises(LimitError):
            from_json("a", datatype, shape, msgspec.Raw(b"[]"))
