"""Push, pull and clone: only what is missing moves, nothing is lost, and who has gone another way is told."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import holdfast
from holdfast.backend.adapters.placefolder import FolderPlace
from holdfast.backend.pipelines.remotes import newest_state, write_state
from holdfast.backend.pipelines.vault import REMOTE, Vault
from holdfast.backend.store import Audit, Pointers
from holdfast.errors import ConflictError, HoldfastError, IntegrityError, NotFoundError
from holdfast.frontend.backups import clone, restore, verify_backup
from tests.integration.backup.world import answers, deliver


@pytest.fixture(params=["folder", "s3"])
def remote(request, tmp_path):
    return str(tmp_path / "远") if request.param == "folder" else request.getfixturevalue("s3_url")


@pytest.fixture
def origin(copied, remote):
    """A project whose remote `origin` was pushed to once."""
    root = copied("原").root
    add_remote(root, remote)
    with holdfast.open(root) as project:
        project.push()
    return root


def add_remote(root: Path, remote: str) -> None:
    with (root / "holdfast.yaml").open("a", encoding="utf-8") as file:
        file.write(f"remotes: {{origin: '{remote}'}}\n")


def pointers(project):
    with project._services.store.read() as connection:
        return {name: to for name, to in Pointers(connection).all().items()
                if name.startswith(("dataset", "model", "tag:", "branch:"))}  # fmt: skip


def test_a_clone_is_the_project(origin, remote, trained, tmp_path):
    cloned = clone(remote, tmp_path / "克隆")
    assert cloned.records == {"dataset": 2, "feature_set": 1, "matrix": 1, "run": 1, "model": 2}
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "克隆") as other:
        assert pointers(other) == pointers(one)
        assert other.data.list() == one.data.list()
        assert other.models.current() == one.models.current()
        assert other.models.runs() == one.models.runs()
        assert [m.id for m in other.features.matrices()] == [m.id for m in one.features.matrices()]
        assert other.data.read()["visits"].equals(one.data.read()["visits"])
        # Matrices do not go along: that is told, and nothing is broken.
        assert [(found.level, found.object.split()[0]) for found in other.check(deep=True)] == [("behind", "matrix")]
        for file in one.data.files():
            assert (other.root / file.path).read_bytes() == (one.root / file.path).read_bytes()
        assert {p.name: p.read_bytes() for p in (other.root / "data" / "model").iterdir()} == {
            p.name: p.read_bytes() for p in (one.root / "data" / "model").iterdir()
        }
        assert not other.deployments.history()
        other.deploy()
        assert answers(other) == trained[1]
        # The same training is known to have been done, and a prediction's model leads back to the raw files.
        assert other.train().repeated
        assert other.trace("风险/高风险").to_dict() == one.trace("风险/高风险").to_dict()
        assert (other.push().records, other.pull().records) == ({}, {})


def test_only_what_is_missing_moves(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        again = one.push()
        assert (again.records, again.bytes, again.pointers) == ({}, 0, {})
        deliver(one, 3, visits=20)
        new = one.data.current()
        sent = one.push()
        raw = sum(file.bytes for file in one.data.files() if file.period == "2024-03")
        assert sent.records == {"dataset": 1}
        assert set(sent.pointers) == {"branch:main"}
        assert raw < sent.bytes < raw + new.bytes - one.data.get("v1.1").bytes + 20_000
        got = two.pull()
        assert (got.records, got.pointers) == ({"dataset": 1}, {"branch:main": new.id})
        # shops.csv is as it was in February: it was not sent again, and is a file of its own in March.
        assert got.bytes == sent.bytes + (one.root / "data" / "raw" / "2024-03" / "shops.csv").stat().st_size
        assert two.data.current() == new
        # A version travels back the other way too.
        two.train(note="von zwei")
        two.push()
        assert {model.version for model in two.models.current()} == {"v1.1"}
        one.pull()
        assert one.models.current() == two.models.current()
        assert one.data.current().state == "trained"
        one.deploy()


def test_tags_and_a_model_that_went_back(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        one.models.tag("风险/高风险", "v1.0", "approved")
        one.train(force=True)
        one.push()
        two.pull()
        assert two.models.get("风险/高风险", "approved").version == "v1.0"
        assert two.models.get("风险/高风险").version == "v1.1"
        # Going back here is not undone by the next pull.
        two.models.rollback("风险/高风险")
        assert two.pull().pointers == {}
        assert two.models.get("风险/高风险").version == "v1.0"
        assert any("further there" in note for note in two.push().notes)
        # A tag that both moved stays, and is told of; the next push decides.
        one.models.tag("风险/高风险", "v1.1", "approved")
        one.push()
        two.models.tag("风险/高风险", "v1.0", "best")
        two.models.tag("风险/Low Risk", "v1.1", "approved")
        two.pull()
        assert two.models.get("风险/高风险", "approved").version == "v1.1"
        two.push()
        one.pull()
        assert one.models.get("风险/Low Risk", "approved").version == "v1.1"


def test_a_push_hides_nothing_from_the_next_pull(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        one.models.tag("风险/高风险", "v1.0", "theirs")
        one.push()
        two.models.tag("风险/高风险", "v1.0", "ours")
        assert two.push().pointers.keys() == {"model-tag:风险/高风险:ours"}
        assert two.pull().pointers.keys() == {"model-tag:风险/高风险:theirs"}
        assert one.pull().pointers.keys() == {"model-tag:风险/高风险:ours"}
        assert pointers(one) == pointers(two)


def test_data_that_went_two_ways_is_refused_and_brought_as_a_branch(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        deliver(one, 3, visits=20)
        deliver(two, 3, visits=30, seed=7)
        assert one.data.current().version == two.data.current().version == "v1.2"
        theirs, ours = one.data.current(), two.data.current()
        one.push()
        with pytest.raises(ConflictError, match="another way there"):
            two.push()
        before = pointers(two)
        with pytest.raises(ConflictError, match="holdfast data merge origin/main") as told:
            two.pull()
        assert "v1.2 from there is v1.3 here" in str(told.value)
        assert "2024-03~2" in str(told.value)
        assert pointers(two) == {**before, "branch:origin/main": theirs.id}
        assert two.data.current() == ours
        brought = two.data.get(theirs.id)
        assert brought.version == "v1.3"
        assert two.data.read(theirs.id)["visits"].equals(one.data.read()["visits"])
        for file in two.data.files(theirs.id):
            assert holdfast.backend.store.files.sha256_of_file(two.root / file.path) == file.sha256
        for file in two.data.files(ours.id):
            assert holdfast.backend.store.files.sha256_of_file(two.root / file.path) == file.sha256
        # It stays refused until somebody brings both together, here by going on from theirs.
        with pytest.raises(ConflictError, match="origin/main"):
            two.pull()
        two.data.checkout(theirs.id, "theirs")
        deliver(two, 4, visits=20)
        assert two.data.current().version == "v1.4"
        assert two.push().records == {"dataset": 2}
        assert one.pull().records == {"dataset": 2}
        # There v1.2 of the other clone comes under the next free number; the id is the same.
        assert {v.id for v in one.data.list()} == {v.id for v in two.data.list()}
        assert one.data.current().id == two.data.current().id
        assert len({v.version for v in one.data.list()}) == 5


def test_data_that_went_two_ways_is_merged(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        deliver(one, 3, visits=20)
        deliver(two, 4, visits=30)
        one.push()
        with pytest.raises(ConflictError, match="data merge origin/main"):
            two.pull()
        two.merge("origin/main")
        assert two.push().pointers.keys() == {"branch:main"}
        assert one.pull().pointers == {"branch:main": two.data.current().id}
        rows = {row["visit_id"] for row in one.data.read(current_only=True)["visits"].to_pylist()}
        assert {30_000, 40_000} <= rows
        assert rows == {row["visit_id"] for row in two.data.read(current_only=True)["visits"].to_pylist()}


def test_each_branch_goes_where_it_belongs_whichever_is_current(origin, remote, tmp_path):
    with holdfast.open(origin) as one:
        main = one.data.current().id
        one.branch("试")
        one.data.checkout("试", "try")
        deliver(one, 3, visits=20)
        tried = one.data.current().id
        one.tag("gut")
        assert one.push().pointers == {"branch:试": tried, "tag:gut": tried}
        clone(remote, tmp_path / "two")
        with holdfast.open(tmp_path / "two") as two:
            assert (two.data.current().id, two.data.refs.current) == (main, "main")
            assert two.data.refs.branches() == {"main": main, "试": tried}
            assert two.data.refs.tags() == {"gut": tried}
            deliver(two, 4, visits=20)
            two.push()
            newer = two.data.current().id
        assert one.pull().pointers == {"branch:main": newer}
        assert (one.data.current().id, one.data.refs.current) == (tried, "试")
        assert one.data.refs.branches() == {"main": newer, "试": tried}


def test_models_of_one_number_from_two_clones(origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        one.train(force=True)
        two.train(force=True, labels=["高风险"])
        mine, their = two.models.get("风险/高风险"), one.models.get("风险/高风险")
        assert (mine.version, their.version) == ("v1.1", "v1.1")
        one.push()
        pulled = two.pull()
        assert any("风险/高风险 v1.1 from there is v1.2 here" in note for note in pulled.notes)
        assert two.models.get("风险/高风险") == mine
        brought = two.models.get(their.id)
        assert brought.version == "v1.2"
        assert two.models.get("风险/Low Risk").id == one.models.get("风险/Low Risk").id
        two.deploy(versions={"高风险": "v1.2"})  # which replays its golden rows
        assert two.push().pointers.keys() == {"model:风险/高风险"}
        one.pull()
        assert one.models.get("风险/高风险").id == mine.id
        assert one.models.get("风险/高风险").version == "v1.2"


def test_of_two_pushers_one_is_told(origin, remote, tmp_path):
    roots = []
    for number in range(3):
        clone(remote, tmp_path / f"clone{number}")
        roots.append(tmp_path / f"clone{number}")
    for number, root in enumerate(roots):
        with holdfast.open(root) as project:
            deliver(project, 3, visits=20, seed=number)

    def push(root):
        with holdfast.open(root) as project:
            try:
                return project.push()
            except ConflictError as error:
                return error

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(push, roots))
    told = [one for one in done if isinstance(one, ConflictError)]
    assert len(told) == 2
    assert all("holdfast pull" in str(error) for error in told)
    winner = roots[next(n for n, one in enumerate(done) if not isinstance(one, ConflictError))]
    with holdfast.open(winner) as project, holdfast.open(origin) as one:
        one.pull()
        assert one.data.current().id == project.data.current().id


def run(root: Path, *arguments: str, crash: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOLDFAST_CRASH": crash}
    command = [sys.executable, "-m", "holdfast", *arguments, "-C", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


PUSH = ("rename kept file: after#2", "push state: before", "link new file: after", "push state: after",
        "commit note push: before")  # fmt: skip
PULL = ("rename blob: after", "rename pulled raw file: after", "commit pull: before", "commit pull: after",
        "commit note files: before")  # fmt: skip


BUCKET = ("upload: after#2", "upload new: before", "upload new: after")


@pytest.mark.parametrize(
    ("verb", "point", "remote"),
    [
        *(("push", point, "folder") for point in PUSH),
        *(("pull", point, "folder") for point in PULL),
        *(("push", point, "s3") for point in BUCKET),
    ],
    indirect=["remote"],
)
def test_killed_anywhere_a_repeat_goes_on(verb, point, origin, remote, tmp_path):
    clone(remote, tmp_path / "two")
    with holdfast.open(origin) as one:
        deliver(one, 3, visits=20)
        one.train()
        if verb == "pull":
            one.push()
    two = tmp_path / "two"
    killed = run(origin if verb == "push" else two, verb, crash=point if "#" in point else f"{point}#1")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # Both sides can be used: the remote can be cloned, and the clone trained or gone on with.
    clone(remote, tmp_path / "three")
    with holdfast.open(tmp_path / "three") as three, holdfast.open(two) as project:
        for one in (three, project):
            assert one.data.read()["visits"].num_rows
            assert {model.version for model in one.models.current()} in ({"v1.0"}, {"v1.1"})
            with one._services.store.read() as connection:
                Audit(connection).verify()
    with holdfast.open(origin) as one, holdfast.open(two) as project:
        one.push()
        project.pull()
        assert pointers(one) == pointers(project)
        assert one.data.list() == project.data.list()
        project.deploy()
        files = [p for p in (two / "data" / "raw").rglob("*") if p.is_file()]
        assert {p.relative_to(two).as_posix() for p in files} == {file.path for file in project.data.files()}


def test_the_project_file_goes_along_without_where_it_lives(origin, remote, tmp_path):
    file = origin / "holdfast.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "storage: {database: sqlite}\nbackup: {to: /backups}\n# Ende\n",
                    encoding="utf-8")  # fmt: skip
    with holdfast.open(origin) as one:
        one.push()
    clone(remote, tmp_path / "two")
    data = yaml.safe_load((tmp_path / "two" / "holdfast.yaml").read_text(encoding="utf-8"))
    assert set(data) == {"project", "tables", "targets", "features", "training", "feature_groups", "remotes"}
    # A change travels as a file beside, for people to bring together.
    text = file.read_text(encoding="utf-8").replace("depth: 1", "depth: 2")
    file.write_text(text, encoding="utf-8")
    with holdfast.open(origin) as one, holdfast.open(tmp_path / "two") as two:
        one.push()
        assert any("holdfast.yaml.origin" in note for note in two.pull().notes)
        assert two.pull().notes == ()
        assert "depth: 2" in (tmp_path / "two" / "holdfast.yaml.origin").read_text(encoding="utf-8")
        assert "depth: 1" in (tmp_path / "two" / "holdfast.yaml").read_text(encoding="utf-8")


def test_one_place_may_hold_everything(copied, trained, s3_url, tmp_path):
    """Live blobs, backups and a remote in one folder of one bucket: what one forgets, the others keep."""
    first = copied("原")
    first.backup(tmp_path / "start")
    first.close()
    restore(tmp_path / "start", tmp_path / "live", blobs=s3_url)
    add_remote(tmp_path / "live", s3_url)
    with holdfast.open(tmp_path / "live") as project:
        project.push()
        project.backup(s3_url)
        deliver(project, 3, visits=20)
        project.data.checkout("v1.1", "back")
        project.backup(s3_url, keep=1)
    shutil.rmtree(tmp_path / "live" / ".holdfast" / "cache")
    with holdfast.open(tmp_path / "live") as project:
        assert answers(project) == trained[1]
    assert verify_backup(s3_url).replayed
    clone(s3_url, tmp_path / "clone")
    with holdfast.open(tmp_path / "clone") as project:
        project.deploy()
        assert answers(project) == trained[1]


def test_what_is_wrong_is_said(origin, remote, copied, tmp_path):
    with pytest.raises(NotFoundError, match="nothing was pushed there yet"):
        clone(tmp_path / "nothing", tmp_path / "into")
    assert not (tmp_path / "into").exists()
    with holdfast.open(origin) as one:
        with pytest.raises(HoldfastError, match="no remote 'orign'") as told:
            one.push("orign")
        assert "'origin'" in str(told.value)
        with pytest.raises(ConflictError, match="is there already"):
            clone(remote, origin)
    other = copied("别").root
    text = (other / "holdfast.yaml").read_text(encoding="utf-8").replace("餐厅检查", "另一个")
    (other / "holdfast.yaml").write_text(text, encoding="utf-8")
    add_remote(other, remote)
    with holdfast.open(other) as project, pytest.raises(ConflictError, match="of project '餐厅检查'"):
        project.push()


@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_a_remote_cannot_write_outside_of_the_project(origin, remote, tmp_path):
    vault = Vault(FolderPlace(Path(remote)), REMOTE)
    there = newest_state(vault)
    evil = vault.keep_bytes(b"evil")
    write_state(vault, replace(there, files={**there.files, "../escaped": evil}))
    with holdfast.open(origin) as project, pytest.raises(IntegrityError, match="outside of the project"):
        project.pull()
    with pytest.raises(IntegrityError, match="outside of the project"):
        clone(remote, tmp_path / "into")
    assert list(tmp_path.rglob("escaped*")) == []


@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_damage_at_a_remote_is_found(origin, remote, tmp_path):
    with holdfast.open(origin) as one:
        digest = one.models.current()[0].serving
    blob = Path(remote) / "objects" / digest[:2] / digest[2:]
    content = blob.read_bytes()
    blob.write_bytes(b"!" + content[1:])
    with pytest.raises(IntegrityError, match=r"serving file of model .* is damaged there"):
        clone(remote, tmp_path / "into")
    assert not (tmp_path / "into").exists()
    # As the hint says: a push from a project that has it sends it again, and a lost record too.
    blob.unlink()
    with holdfast.open(origin) as one:
        assert (one.push().bytes, blob.read_bytes()) == (len(content), content)
    record = next(
        file for file in (Path(remote) / "objects").glob("*/*") if b'"algorithm":"xgboost"' in file.read_bytes()
    )
    record.unlink()
    with pytest.raises(NotFoundError, match=r"record of a (model|run) is missing there"):
        clone(remote, tmp_path / "into")
    with holdfast.open(origin) as one:
        one.push()
    clone(remote, tmp_path / "into")
    shutil.rmtree(tmp_path / "into")
    (state,) = (Path(remote) / "states").iterdir()
    state.write_text(state.read_text(encoding="utf-8").replace("dataset", "datasets", 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match="newest state of the remote"):
        clone(remote, tmp_path / "into")


@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_on_postgresql(origin, remote, tmp_path, postgres_url, trained):
    """A clone's records may live in a PostgreSQL: pull into an empty project that says so."""
    root = tmp_path / "pg"
    root.mkdir()
    shutil.copy(origin / "holdfast.yaml", root / "holdfast.yaml")
    with (root / "holdfast.yaml").open("a", encoding="utf-8") as file:
        file.write(f"storage: {{database: '{postgres_url}'}}\n")
    with holdfast.open(root) as project, holdfast.open(origin) as one:
        project.pull()
        project.deploy()
        assert answers(project) == trained[1]
        deliver(project, 3)
        project.train()
        project.push()
        one.pull()
        assert one.data.current() == project.data.current()
        assert one.models.current() == project.models.current()
