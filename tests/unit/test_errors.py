"""What errors have in common."""

import pytest

from holdfast.errors import nearest


@pytest.mark.parametrize(
    ("name", "names", "hint"),
    [
        ("scroe", ["score", "risk"], "Did you mean 'score'?"),
        ("分", ["编号", "分数"], "Did you mean '分数'?"),
        ("x", ["score", "risk"], "There are: score, risk."),
        ("x", [], "There are none."),
        (
            "x",
            (f"column {n}" for n in range(1012)),
            f"There are: {', '.join(f'column {n}' for n in range(10))} and 1,002 more.",
        ),
    ],
)
def test_the_nearest_name_or_what_there_is(name, names, hint):
    assert nearest(name, names) == hint
