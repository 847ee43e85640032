"""Keys that are asked for."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from holdfast.core.features.keys import ArrowKeys, DenseKeys
from holdfast.errors import InputError


@pytest.mark.parametrize("asked", [[1, "a"], [2**70], [[1]], ["a"], [1.5], np.array([1, "a"], object)])
def test_what_can_be_no_key_is_said(asked: Any) -> None:
    column = [pa.chunked_array([pa.array([1, 2, 3])])]
    for keys in (DenseKeys.fitting("顾客", column), ArrowKeys("顾客", column)):
        assert keys is not None
        with pytest.raises(InputError, match="keys of '顾客' are int64"):
            keys.codes(asked)
