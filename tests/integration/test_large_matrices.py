"""Matrices that extend older ones, that are made by parts, that go on after kill -9, and with frozen history."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import holdfast
from holdfast.backend.features import repository
from holdfast.core.features import evaluate
from holdfast.errors import ConfigError, InputError
from holdfast.frontend.client import Project

YAML = """
project: 商店
tables:
  shops: {files: shops.csv, key: shop, delivery: full}
  people: {files: people.csv, key: id, links: {shop: shops}, delivery: full}
  visits:
    files: visits.csv
    key: visit
    time: at
    known: event + 2d
    links: {person: people}
targets:
  spend:
    {entity: people, from: visits, cutoff: at, label: amount, context: [kind], where: "regexp_matches(visit, '[37]$')"}
features: {depth: 2, windows: [all, 40d], include: ["shops.MEAN(people.COUNT(visits))"]EXTRA}
split: {by: random}
"""


def project_in(folder: Path, extra: str = "") -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "holdfast.yaml").write_text(YAML.replace("EXTRA", extra), encoding="utf-8")
    return holdfast.open(folder)


def write_months(folder: Path, months: int = 4, people: int = 40, visits: int = 120) -> list[tuple[str, Path]]:
    """Deliveries with rows that come late, rows that are corrected, people who move and people who go."""
    rng = random.Random(7)
    made = []
    rows: dict[str, str] = {}
    town = {i: i % 5 for i in range(people)}
    for month in range(1, months + 1):
        out = folder / f"2024-{month:02}"
        out.mkdir(parents=True)
        town[rng.randrange(people)] = rng.randrange(5)
        gone = {month * 7 % people}
        (out / "shops.csv").write_text(
            "shop,size,城市\n" + "".join(f"s{i},{i * 3 + month // 3},镇{i % 2}\n" for i in range(5))
        )
        listed = "".join(f"{i},s{shop},{20 + i}\n" for i, shop in town.items() if i not in gone)
        (out / "people.csv").write_text("id,shop,age\n" + listed)
        new = {}
        for number in range(visits):
            late = month > 1 and number % 29 == 0
            day = 1 + rng.randrange(27)
            amount, kind = rng.randrange(1000) / 10, rng.choice(["甲", "乙", "丙"])
            new[f"{month}-{number}"] = f"{rng.randrange(people)},2024-{month - late:02}-{day:02},{amount},{kind}"
        for key in rng.sample(sorted(rows), min(2, len(rows))):  # corrections
            person, at, _, kind = rows[key].split(",")
            new[key] = f"{person},{at},{rng.randrange(1000) / 10},{kind}"
        rows.update(new)
        (out / "visits.csv").write_text(
            "visit,person,at,amount,kind\n" + "".join(f"{k},{v}\n" for k, v in new.items()), encoding="utf-8"
        )
        made.append((f"2024-{month:02}", out))
    return made


def test_a_month_extends_the_matrix_with_the_bytes_of_a_full_one(tmp_path: Path) -> None:
    months = write_months(tmp_path / "files")
    with project_in(tmp_path / "p") as project:
        reused = []
        for period, files in months:
            project.ingest(period, [files])
            built = project.matrix()
            reused.append(built.reused)
            assert project.matrix(full=True).matrix.record.sha256 == built.matrix.record.sha256
        assert reused[0] == 0
        assert all(0 < count < built.matrix.record.rows for count in reused[1:])
        again = project.matrix()
        assert again.reused == again.matrix.record.rows
        for record in project.features.matrices():
            project.features.path(record).chmod(0o644)
            project.features.path(record).write_bytes(b"damaged")
        assert project.matrix().reused == 0


def test_values_of_an_evaluator_that_computed_otherwise_are_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    months = write_months(tmp_path / "files", 2)
    with project_in(tmp_path / "p") as project:
        (period, files), (later, more) = months
        project.ingest(period, [files])
        with monkeypatch.context() as before:
            before.setattr(repository, "REVISION", evaluate.REVISION - 1)
            project.matrix()
        project.ingest(later, [more])
        built = project.matrix()
        assert built.reused == 0
        assert project.matrix(full=True).matrix.record.sha256 == built.matrix.record.sha256
        assert project.matrix().reused == built.matrix.record.rows


def test_only_changed_features_are_computed_for_rows_that_hold(tmp_path: Path) -> None:
    months = write_months(tmp_path / "files", 2)
    with project_in(tmp_path / "p") as project:
        for period, files in months:
            project.ingest(period, [files])
        project.matrix()
    with project_in(tmp_path / "p", ', conditions: {visits.kind: ["丙"]}') as project:
        built = project.matrix()
        assert built.reused == built.matrix.record.rows
        assert project.matrix(full=True).matrix.record.sha256 == built.matrix.record.sha256


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose tables take more than `features.memory`."""
    folder = tmp_path_factory.mktemp("large")
    (_, files), *_ = write_months(folder / "files", 1, people=3000, visits=500_000)
    with project_in(folder / "p", LARGE) as project:
        project.ingest("2024-01", [files])
    return folder / "p"


LARGE = ", memory: 128MB"
RUN = "import sys, holdfast; print(holdfast.open(sys.argv[1]).matrix(full=True).matrix.record.sha256)"


def test_a_killed_run_goes_on_behind_its_finished_parts(large: Path) -> None:
    """By parts it is the same file as in one piece, also after kill -9, and nothing is left behind."""
    partial = large / ".holdfast" / "partial" / "spend"
    child = subprocess.Popen([sys.executable, "-c", RUN, str(large)], stdout=subprocess.PIPE, env=os.environ)
    while not (done := {path: path.stat().st_mtime_ns for path in partial.glob("*.parquet")}):
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert done
    seen: dict[Path, int] = {}

    def progress(_done: int, _total: int, message: str) -> None:
        if "computing features: " in message:
            seen.update({path: path.stat().st_mtime_ns for path in partial.glob("*.parquet")})

    with holdfast.open(large) as project:
        parted = project.matrix(full=True, progress=progress).matrix.record
    assert done.items() <= seen.items()
    assert len(seen) > len(done)
    assert not partial.exists()
    with project_in(large, "") as project:
        assert project.matrix(full=True).matrix.record.sha256 == parted.sha256


def test_history_frozen_at_a_date(tmp_path: Path) -> None:
    months = write_months(tmp_path / "files", 3)
    with project_in(tmp_path / "p") as project:
        for period, files in months:
            project.ingest(period, [files])
        plain = project.matrix().matrix
        frozen = project.matrix(frozen_at="2024-02-01").matrix
        assert frozen.feature_set.frozen_at is not None
        assert frozen.record.feature_set != plain.record.feature_set
        early = plain.cutoffs <= frozen.feature_set.frozen_at
        assert 0 < early.sum() < len(early)
        for name, column in plain.frame.columns.items():
            one, other = (getattr(c, "decode", lambda c=c: c)() for c in (column, frozen.frame.columns[name]))
            assert (
                one[early].tolist() == other[early].tolist()
                or (one[early] == other[early])[one[early] == one[early]].all()
            )
        late = (frozen.entities.to_pylist(), ~early)
        counts: dict[int, set[float]] = {}
        for entity, is_late, value in zip(late[0], late[1], frozen.frame.columns["COUNT(visits)"], strict=True):
            if is_late:
                counts.setdefault(entity, set()).add(float(value))
        assert all(len(values) == 1 for values in counts.values())
        shown = str(tmp_path / "p" / "features" / "feature_definitions.json")
        assert not project.exchange.diff(shown, project.features.sets()[0].id)
        assert "history is frozen at" in project.exchange.diff(plain.record.feature_set, shown)[-1].words
        with pytest.raises(InputError, match="not a date"):
            project.matrix(frozen_at="soon")


def test_no_condition_comes_from_what_happened_after_the_freeze(tmp_path: Path) -> None:
    months = write_months(tmp_path / "files", 3)
    file = months[-1][1] / "visits.csv"
    file.write_text(file.read_text(encoding="utf-8").replace("乙", "丁"), encoding="utf-8")
    with project_in(tmp_path / "p") as project:
        for period, files in months:
            project.ingest(period, [files])
        assert "COUNT(visits WHERE kind = 丁)" in project.matrix().matrix.feature_set.names
        frozen = project.matrix(frozen_at="2024-02-01").matrix.feature_set.names
        assert "COUNT(visits WHERE kind = 乙)" in frozen
        assert "COUNT(visits WHERE kind = 丁)" not in frozen


def test_sizes_and_dates_of_the_project_file_are_checked(tmp_path: Path) -> None:
    with project_in(tmp_path / "p", ", frozen: 2024-02-01, memory: 4GB") as project:
        assert project.settings.features.frozen == "2024-02-01"
    for wrong in (", memory: 4 cows", ", frozen: someday"):
        with pytest.raises(ConfigError):
            project_in(tmp_path / "p", wrong)
