import tempfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.backend.datasets.face import write_face
from holdfast.core.names import distinct_stems, escape, unescape

ANY = st.text(st.characters(), max_size=400)  # lone surrogates and NUL included


@settings(deadline=None, max_examples=300)
@given(ANY)
@example("")
@example("..")
@example("a/b\\c")
@example("NUL")
@example("con.txt")
@example("x\0y")
@example("trailing. ")
@example("\ud800")
@example("高风险" * 200)
@example("%~abc")
def test_escape_is_reversible_and_safe(label: str) -> None:
    name = escape(label)
    assert 0 < len(name.encode()) <= 180
    assert not set(name) & set('/\\:*?"<>|\0')
    assert name not in (".", "..")
    assert name[-1] not in ". "
    back = unescape(name)
    if back is None:
        assert "%~" in name  # only a digest fits; the file's content has the label
        assert label == "" or len(label.encode("utf-8", "surrogatepass")) > 55
    else:
        assert back == label


@settings(deadline=None, max_examples=100)
@given(ANY, ANY)
def test_different_labels_have_different_names(a: str, b: str) -> None:
    assert (escape(a) == escape(b)) == (a == b)


def test_usual_labels_stay_as_they_are() -> None:
    for label in ("High Risk", "类别1", "Größe_2-b", "a.b"):
        assert escape(label) == label


@pytest.mark.parametrize("label", ["类/别", "..", "x" * 1000, "a\nb", " lead", "🍜 noodles", "nul"])
def test_names_can_be_files(tmp_path: Path, label: str) -> None:
    path = tmp_path / f"multilabel_model_{escape(label)}.pkl"
    path.write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["t", "T", "u"]), st.sampled_from(["a", "A", "é", "e\u0301", "t/a", "ß", "SS"])),
        unique=True,
        max_size=12,
    )
)
def test_stems_are_distinct_where_case_and_forms_do_not_count(models: list[tuple[str, str]]) -> None:
    stems = distinct_stems(models)
    folded = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", s).casefold()) for s in stems.values()]
    assert len(set(folded)) == len(models)
    # Whoever comes later changes nobody's name.
    for count in range(len(models)):
        assert distinct_stems(models[:count]) == {m: stems[m] for m in models[:count]}


def test_file_system_keeps_escaped_surrogates() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, escape("\udcff")).touch()
        assert [unescape(path.name) for path in Path(folder).iterdir()] == ["\udcff"]


def test_a_table_and_a_target_with_any_name_have_files(tmp_path: Path) -> None:
    for name in ("nul", "长" * 200, "a.", "con.txt"):
        write_face(tmp_path, "data_1", "v1.0", {name: pa.table({"x": [1]})})
        assert [p.name for p in tmp_path.glob("*.parquet")] == [f"{escape(name)}.parquet"]
