"""Deliveries by files together with branches, reverts and indexes; and the commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.datasets.parts import PartStore
from holdfast.errors import ConflictError
from holdfast.frontend.cli import main
from holdfast.frontend.client import Project

PROJECT = """
project: 交付
tables:
  店: {files: 店.csv, key: 店号, delivery: full, columns: {店号: int}}
  单: {files: 单.csv, key: 单号, links: {店号: 店}, columns: {单号: int, 店号: int, 额: float}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    root = tmp_path / "项目"
    root.mkdir()
    (root / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    with holdfast.open(root) as opened:
        yield opened


def deliver(project: Project, period: str, shops: dict[int, str], orders: dict[int, tuple[int, float]]) -> str:
    folder = project.root / "incoming"
    folder.mkdir(exist_ok=True)
    lines = [f"{key},{name}" for key, name in shops.items()]
    (folder / "店.csv").write_text("\n".join(["店号,名", *lines, ""]), encoding="utf-8")
    lines = [f"{key},{shop},{amount}" for key, (shop, amount) in orders.items()]
    (folder / "单.csv").write_text("\n".join(["单号,店号,额", *lines, ""]), encoding="utf-8")
    return project.ingest(period, [folder]).version.version


def amounts(project: Project) -> dict[int, float]:
    rows = project.data.read(tables=["单"], current_only=True)["单"]
    return dict(zip(rows["单号"].to_pylist(), rows["额"].to_pylist(), strict=True))


SHOPS = {1: "甲", 2: "乙"}


def test_a_period_is_taken_out_of_the_middle_and_delivered_again(project: Project) -> None:
    deliver(project, "2024-01", SHOPS, {1: (1, 1.0), 2: (2, 2.0)})
    wrong = deliver(project, "2024-02", SHOPS, {2: (2, 99.0), 3: (1, 99.0)})
    deliver(project, "2024-03", SHOPS, {4: (1, 4.0)})
    made = project.revert(wrong)
    assert amounts(project) == {1: 1.0, 2: 2.0, 4: 4.0}
    assert made.rows["单"] == 3
    assert made.period == "2024-03"
    assert {file.period for file in project.data.files()} == {"2024-01", "2024-03"}
    # Its files count as never delivered: other ones for the period are no correction, the same ones are not known.
    with pytest.raises(ConflictError, match="full list"):
        deliver(project, "2024-02", {**SHOPS, 3: "丙"}, {3: (1, 3.0)})
    (project.root / "incoming" / "店.csv").unlink()
    done = project.ingest("2024-02", [project.root / "incoming"])
    assert done.created
    assert done.delivery == "2024-02~2"
    assert amounts(project) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}
    last = project.data.get().version
    project.upsert("单", [{"单号": 3, "店号": 1, "额": 5.0}])
    with pytest.raises(ConflictError, match="changed again later"):
        project.revert(last)


def test_branches_import_alike_and_merge_without_doubling(project: Project) -> None:
    deliver(project, "2024-01", SHOPS, {1: (1, 1.0)})
    project.branch("试")
    deliver(project, "2024-02", SHOPS, {2: (1, 2.0)})
    project.data.checkout("试", "test")
    deliver(project, "2024-02", SHOPS, {2: (1, 2.0)})
    deliver(project, "2024-03", SHOPS, {3: (1, 3.0)})
    project.data.checkout("main", "test")
    made = project.merge("试").version
    assert (amounts(project), made.rows["单"], made.period) == ({1: 1.0, 2: 2.0, 3: 3.0}, 3, "2024-03")
    assert [file.period for file in project.data.files()].count("2024-03") == 2
    assert not project.ingest("2024-03", [project.root / "incoming"]).created


def test_an_increment_reads_no_part_that_holds_none_of_its_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(project, "2024-01", SHOPS, dict.fromkeys(range(0, 200, 2), (1, 1.0)))
    deliver(project, "2024-02", SHOPS, dict.fromkeys(range(1, 100, 2), (2, 2.0)))
    parts = project.data.manifest(project.data.get().id, "单")
    assert len(parts) == 2
    read: list[str] = []
    real = PartStore.read_plain

    def watched(store: PartStore, digest: str) -> object:
        read.append(digest)
        return real(store, digest)

    monkeypatch.setattr(PartStore, "read_plain", watched)
    # Ranges overlap both; the keys are in neither (101), or in the second alone (3).
    monkeypatch.setattr("holdfast.backend.datasets.repository.Datasets.refresh_face", lambda *_, **__: True)
    deliver(project, "2024-03", SHOPS, {101: (1, 3.0)})
    assert not {part.digest for part in parts} & set(read)
    deliver(project, "2024-04", SHOPS, {3: (1, 3.0)})
    assert {part.digest for part in parts} & set(read) == {parts[1].digest}
    monkeypatch.undo()
    assert len(amounts(project)) == project.data.get().rows["单"] == 151


def test_links_to_rows_that_are_gone_are_counted(project: Project) -> None:
    deliver(project, "2024-01", SHOPS, {1: (1, 1.0)})
    done = project.append("单", [{"单号": 5, "店号": 9, "额": 1.0}, {"单号": 6, "店号": 2, "额": None}])
    assert done.unknown_parents == {"店号": 1}
    project.delete("店", [{"店号": 2}])
    done = project.upsert("单", [{"单号": 6, "店号": 2, "额": 1.0}])
    assert done.unknown_parents == {"店号": 1}
    deliver(project, "2024-02", {1: "甲", 3: "丙"}, {7: (3, 1.0), 8: (2, 1.0), 9: (1, 1.0)})
    found = project.data.get().report["tables"]["单"]["unknown_parents"]
    assert found == {"店号": {"rows": 1, "keys": 1, "examples": [2]}}


def test_comparison_skips_shared_parts_and_tells_what_moved(project: Project) -> None:
    deliver(project, "2024-01", SHOPS, {n: (1 + n % 2, float(n % 10)) for n in range(400)})
    before = project.data.get().version
    project.upsert("单", [{"单号": n, "店号": 1, "额": 100.0 if n else 0.0} for n in range(0, 300, 2)])
    project.delete("单", [{"单号": 399}])
    project.append("单", [{"单号": 1000, "店号": 1, "额": 1.0}])
    after = project.data.get().version
    found = project.data.compare(before, after).tables
    # Row 0 was written again with what it held.
    assert (found["单"].added, found["单"].removed, found["单"].changed, found["单"].same) == (1, 1, 149, 250)
    assert found["单"].shift["额"].shifted
    assert not found["单"].shift["店号"].shifted
    assert (found["店"].same, found["店"].shift) == (2, {})
    # The same by reading all of both.
    project.compact()
    whole = project.data.compare(before, project.data.get().version).tables["单"]
    assert whole == found["单"]
    back = project.data.compare(after, before).tables["单"]
    assert (back.added, back.removed, back.changed) == (1, 1, 149)


def run(project: Project, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    main([*words, "-C", str(project.root), "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_every_command_has_json(project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    deliver(project, "2024-01", SHOPS, {1: (1, 1.0), 2: (2, 2.0)})
    assert run(project, capsys, "data", "branch", "试") == {"branch": "试", "version": "v1.0"}
    assert run(project, capsys, "data", "tag", "基线") == {"tag": "基线", "version": "v1.0"}
    assert run(project, capsys, "data", "tag") == {"tags": {"基线": "v1.0"}}
    project.upsert("单", [{"单号": 1, "店号": 1, "额": 10.0}])
    assert run(project, capsys, "data", "checkout", "试")["version"] == "v1.0"
    project.upsert("单", [{"单号": 1, "店号": 1, "额": 20.0}])
    assert run(project, capsys, "data", "branch") == {"current": "试", "branches": {"main": "v1.1", "试": "v1.2"}}
    with pytest.raises(SystemExit):
        main(["data", "merge", "main", "-C", str(project.root), "--json"])
    assert json.loads(capsys.readouterr().err)["code"] == "conflict"
    file = tmp_path / "decide.csv"
    assert run(project, capsys, "data", "merge", "main", "--conflicts", str(file))["conflicts"] == 1
    file.write_text(file.read_text(encoding="utf-8").rstrip("\n") + "theirs\n", encoding="utf-8")
    merged = run(project, capsys, "data", "merge", "main", "--decisions", str(file))
    assert merged["created"]
    assert amounts(project) == {1: 10.0, 2: 2.0}
    assert run(project, capsys, "data", "revert", "v1.3")["version"] == "v1.4"
    assert amounts(project) == {1: 20.0, 2: 2.0}
    assert run(project, capsys, "data", "compact")["parts_after"] == 2
    assert run(project, capsys, "data", "write") == {"version": "v1.5"}
    planned = run(project, capsys, "gc", "--dry-run", "--keep", "1", "--grace", "0")
    assert planned["dry_run"]
    went = run(project, capsys, "gc", "--keep", "1", "--grace", "0")
    assert went["versions"] == planned["versions"]
    assert went["blobs"] == planned["blobs"]
    with pytest.raises(SystemExit):
        main(["data", "tag", "--drop", "-C", str(project.root)])
    assert "needs the name of a tag" in capsys.readouterr().err
    assert run(project, capsys, "data", "tag", "基线", "--drop") == {"dropped": "基线"}
    assert amounts(project) == {1: 20.0, 2: 2.0}


DERIVED = """
project: 派生
tables:
  单: {files: 单.csv, key: 单号, columns: {单号: int, 店号: int, 额: float}}
  店: {from: 单, key: 店号}
"""


def test_tables_that_derive_follow_every_change(tmp_path: Path) -> None:
    root = tmp_path / "派生"
    root.mkdir()
    (root / "holdfast.yaml").write_text(DERIVED, encoding="utf-8")
    (root / "单.csv").write_text("单号,店号,额\n1,1,1.0\n2,2,2.0\n", encoding="utf-8")
    with holdfast.open(root) as project:
        project.ingest("2024-01", [root / "单.csv"])
        project.branch("试")
        wrong = project.append("单", [{"单号": 3, "店号": 9, "额": 1.0}]).version
        project.data.checkout("试", "test")
        project.upsert("单", [{"单号": 4, "店号": 7, "额": 1.0}])
        project.data.checkout("main", "test")
        project.merge("试")
        project.revert(wrong.version)
        project.delete("单", [{"单号": 2}])
        for version in project.data.list():
            read = project.data.read(version.id, current_only=True)
            assert version.rows == {name: rows.num_rows for name, rows in read.items()}
        assert sorted(read["店"]["店号"].to_pylist()) == [1, 7]
        with pytest.raises(ConflictError, match="derives"):
            project.append("店", [{"店号": 5}])
