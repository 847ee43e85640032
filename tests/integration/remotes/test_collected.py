"""What was collected on one side of a push or pull, and who came from whom among versions with new numbers."""

from pathlib import Path

import pytest

import holdfast
from holdfast.errors import ConflictError, InputError
from holdfast.frontend.backups import clone, restore, verify_backup
from holdfast.frontend.client import Project

FILE = """
project: 名册
tables:
  persons: {files: persons.csv, key: id, delivery: full}
remotes: {origin: ../远}
"""


@pytest.fixture
def one(tmp_path: Path) -> Project:
    """A project with two versions, the first of which was changed."""
    root = tmp_path / "one"
    root.mkdir()
    (root / "holdfast.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "persons.csv").write_text("id,name\nA,安\nB,波\nC,齐\n", encoding="utf-8")
    project = holdfast.open(root)
    project.ingest("2024-01", [tmp_path / "persons.csv"])
    name(project, "A", "Ann")
    return project


def name(project: Project, key: str, name: str) -> None:
    project.upsert("persons", [{"id": key, "name": name}])


def names(project: Project, version: str | None = None) -> dict[str, str]:
    rows = project.data.read(version, ["persons"], current_only=True)["persons"]
    return dict(zip(rows["id"].to_pylist(), rows["name"].to_pylist(), strict=True))


def collected(project: Project) -> list[str]:
    """Put together, and give up what nothing needs; returns the versions that are left."""
    if project.data.get().note != "compacted":
        project.compact()
    assert project.collect(keep=1, grace="0").blobs
    return [version.version for version in project.data.list()]


def test_a_collected_project_is_backed_up_and_restored(one, tmp_path):
    assert collected(one) == ["v1.2"]
    place = tmp_path / "backups"
    made = one.backup(place)
    verify_backup(place)
    restore(place, tmp_path / "back")
    with holdfast.open(tmp_path / "back") as back:
        assert names(back) == names(one)
        assert made.blobs == (one.data.manifest(one.data.get().id, "persons")[0].digest,)
        assert back.check(deep=True) == []


def test_a_collected_project_is_pushed_and_cloned(one, tmp_path):
    assert collected(one) == ["v1.2"]
    assert one.push().records == {"dataset": 3}
    clone(tmp_path / "远", tmp_path / "two")
    with holdfast.open(tmp_path / "two") as two:
        assert [version.version for version in two.data.list()] == ["v1.2"]
        assert two.check(deep=True) == []
        name(two, "B", "Bob")
        two.push()
        one.pull()
        assert names(one) == {"A": "Ann", "B": "Bob", "C": "齐"}


def test_what_was_collected_here_comes_back_when_something_new_is_made_of_it(one, tmp_path):
    one.push()
    clone(tmp_path / "远", tmp_path / "two")
    one.compact()
    one.push()
    assert collected(one) == ["v1.2"]
    with holdfast.open(tmp_path / "two") as two:
        name(two, "B", "Bob")
        two.tag("开始", "v1.0")
        with pytest.raises(ConflictError, match="another way"):
            two.pull()
        two.merge("origin/main")
        two.push()
        one.pull()
        assert names(one, "开始") == {"A": "安", "B": "波", "C": "齐"}
        assert one.check(deep=True) == []
        assert names(two) == names(one) == {"A": "Ann", "B": "Bob", "C": "齐"}
        assert two.check(deep=True) == []


def test_a_remote_learns_of_a_version_that_is_whole_elsewhere(one, tmp_path):
    """One had it collected when it pushed it first; another one, that was copied before, still has it."""
    one.close()
    with holdfast.open(tmp_path / "one") as kept:
        kept.backup(tmp_path / "backups")
    restore(tmp_path / "backups", tmp_path / "two")
    with holdfast.open(tmp_path / "one") as gone, holdfast.open(tmp_path / "two") as two:
        collected(gone)
        gone.push()
        two.tag("开始", "v1.0")
        two.pull()
        two.push()
    clone(tmp_path / "远", tmp_path / "three")
    with holdfast.open(tmp_path / "three") as three:
        assert names(three, "开始") == {"A": "安", "B": "波", "C": "齐"}
        assert three.check(deep=True) == []


def test_who_was_erased_does_not_come_back_with_a_pull(one, tmp_path):
    one.push()
    clone(tmp_path / "远", tmp_path / "two")
    assert one.erase("persons", "B", "请求").rows == {"persons": 1}
    with holdfast.open(tmp_path / "two") as two:
        two.compact()
        two.push()
    assert any("erased again" in note for note in one.pull().notes)
    for version in one.data.list():
        assert set(names(one, version.version)) == {"A", "C"}
    assert one.check(deep=True) == []


def test_what_others_made_of_data_with_an_erased_person_is_counted_without(one, tmp_path):
    one.push()
    clone(tmp_path / "远", tmp_path / "two")
    one.erase("persons", "B", "请求")
    with holdfast.open(tmp_path / "two") as two:
        name(two, "D", "Di")
        two.push()
    one.pull()
    assert one.data.get().rows["persons"] == len(names(one)) == 3
    assert one.check(deep=True) == []


def test_records_may_come_in_any_order(one, tmp_path, monkeypatch):
    """A revert holds the files of versions before it; they are read at once, and the later one may be there first."""
    one.revert("v1.1")
    one.push()

    def backwards(work, items):
        for item in reversed(list(items)):
            work(item)

    monkeypatch.setattr("holdfast.backend.pipelines.pull.all_at_once", backwards)
    clone(tmp_path / "远", tmp_path / "two")
    with holdfast.open(tmp_path / "two") as two:
        assert names(two) == names(one)
        assert two.data.files() == one.data.files()


def test_a_clone_of_a_remote_without_main_has_current_data(one, tmp_path):
    one.branch("开发")
    one.data.checkout("开发", "test")
    one.data.refs.drop("main")
    one.push()
    notes = clone(tmp_path / "远", tmp_path / "two").notes
    assert any("current branch is 开发" in note for note in notes)
    with holdfast.open(tmp_path / "two") as two:
        assert two.data.refs.current == "开发"
        assert names(two) == names(one)


def test_a_tag_or_branch_names_a_moment_and_a_checkpoint_no_version(one):
    one.tag("开始", "v1.0")
    assert one.at("开始")["data"]["version"] == one.at("v1.0")["data"]["version"] == "v1.0"
    assert one.at("main")["data"]["version"] == "v1.1"
    assert one.go_back("开始").to == "data v1.0"
    for wrong in ("v1.0", "a\nb", " x", ""):
        with pytest.raises(InputError):
            one.checkpoint(wrong)


def test_a_pulled_version_with_a_higher_number_than_its_child_is_still_its_parent(one, tmp_path):
    one.push()
    clone(tmp_path / "远", tmp_path / "two")
    with holdfast.open(tmp_path / "two") as two:
        name(two, "B", "Bob")
        name(two, "C", "Cy")
        two.push()
        name(one, "A", "Anna")
        with pytest.raises(ConflictError):
            one.pull()
        child, parent = one.data.get("origin/main"), one.data.get(one.data.get("origin/main").parents[0])
        assert (child.version, parent.version) == ("v1.3", "v1.4")
        one.merge("origin/main")
        name(two, "C", "Cyril")
        two.push()
        with pytest.raises(ConflictError):
            one.pull()
        # C was changed there only since the last merge.
        assert one.conflicts("origin/main") == []
        assert one.merge("origin/main").ancestor == child.version
        assert names(one) == {"A": "Anna", "B": "Bob", "C": "Cyril"}
        one.collect(keep=1, grace="0")
        one.push()
        two.pull()
        assert names(two) == names(one)
