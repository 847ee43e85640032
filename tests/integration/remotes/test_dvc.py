"""Files that DVC tracks: by DVC itself, in an environment of its own, and laid out by hand as DVC 2 and 3 say."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import holdfast
from holdfast.errors import FileError, IntegrityError

DVC = Path(os.environ.get("HOLDFAST_TEST_DVC", Path(__file__).resolve().parents[3] / ".venv-dvc")) / "bin" / "dvc"
PROJECT = """
project: dvc
tables:
  shops: {files: "shops*.csv", key: shop_id}
  visits: {files: visits.csv, key: visit_id, links: {shop_id: shops}}
"""
SHOPS = "shop_id,区\n1,东\n2,西\n"
VISITS = "visit_id,shop_id\r\n1,2\r\n2,1\r\n3,1\r\n"


class Dvc:
    """A DVC project: what `dvc add` leaves, but the files themselves."""

    def __init__(self, root: Path, version: int, cache: str = "") -> None:
        self.root, self.version = root, version
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text(f"[cache]\n    dir = {cache}\n" if cache else "", encoding="utf-8")
        self.cache = root / ".dvc" / (cache or "cache")

    def keep(self, content: bytes, tail: str = "") -> str:
        seen = content.replace(b"\r\n", b"\n") if self.version == 2 else content
        digest = hashlib.md5(seen).hexdigest() + tail
        place = self.cache / "files" / "md5" if self.version == 3 else self.cache
        file = place / digest[:2] / digest[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return digest

    def out(self, name: str, digest: str) -> dict[str, str]:
        return {"md5": digest, "path": name} | ({"hash": "md5"} if self.version == 3 else {})

    def add(self, name: str, content: str) -> Path:
        return self._say(self.root / f"{name}.dvc", {"outs": [self.out(Path(name).name, self.keep(content.encode()))]})

    def add_folder(self, name: str, files: dict[str, str]) -> Path:
        listing = [{"md5": self.keep(text.encode()), "relpath": relative} for relative, text in files.items()]
        digest = self.keep(json.dumps(listing).encode(), ".dir")
        return self._say(self.root / f"{name}.dvc", {"outs": [self.out(name, digest)]})

    def lock(self, name: str, content: str) -> Path:
        stages = {"make": {"cmd": "x", "outs": [self.out(name, self.keep(content.encode()))]}}
        (self.root / "dvc.yaml").write_text(f"stages: {{make: {{cmd: x, outs: [{name}]}}}}", encoding="utf-8")
        self._say(self.root / "dvc.lock", {"schema": "2.0", "stages": stages})
        return self.root / "dvc.yaml"

    def _say(self, path: Path, data: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
        return path


@pytest.fixture(params=[2, 3])
def dvc(request, tmp_path):
    return Dvc(tmp_path / "repo", request.param)


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "项目"
    root.mkdir()
    (root / "holdfast.yaml").write_text(PROJECT, encoding="utf-8")
    with holdfast.open(root) as opened:
        yield opened


def rows(project):
    return {name: table.num_rows for name, table in project.data.read(current_only=True).items()}


def test_files_of_any_kind_of_tracking_become_one_delivery(dvc, project):
    one, other = dvc.add("data/shops.csv", SHOPS), dvc.lock("visits.csv", VISITS)
    made = project.import_dvc([one.with_suffix(""), other], period="2024-01")
    assert made.version.version == "v1.0"
    assert rows(project) == {"shops": 2, "visits": 3}
    assert made.version.note == "from DVC"
    raw = project.root / "data" / "raw" / "2024-01"
    assert {file.name: file.read_bytes() for file in raw.iterdir()} == {
        "shops.csv": SHOPS.encode(), "visits.csv": VISITS.encode()
    }  # fmt: skip
    assert not project.import_dvc([one, other], period="2024-01").created


def test_a_folder_and_a_cache_elsewhere(tmp_path, project):
    dvc = Dvc(tmp_path / "repo", 3, cache="../../shared cache")
    folder = dvc.add_folder("给", {"deep/shops_东.csv": SHOPS, "visits.csv": VISITS})
    project.import_dvc([folder], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}
    assert {file.name for file in project.data.files()} == {"shops_东.csv", "visits.csv"}


def test_what_is_not_in_the_cache_may_lie_in_the_workspace(dvc, project):
    one = dvc.add_folder("both", {"shops.csv": SHOPS, "visits.csv": VISITS})
    for file in dvc.cache.rglob("*"):
        if file.is_file() and not file.name.endswith(".dir"):
            file.unlink()
    with pytest.raises(FileError, match="dvc fetch") as told:
        project.import_dvc([one], period="2024-01")
    assert str(one) in str(told.value)
    (dvc.root / "both").mkdir()
    (dvc.root / "both" / "shops.csv").write_bytes(SHOPS.encode())
    (dvc.root / "both" / "visits.csv").write_bytes(VISITS.encode() + b"4,1\r\n")
    with pytest.raises(FileError, match="dvc fetch"):  # what lies there was changed since
        project.import_dvc([one], period="2024-01")
    (dvc.root / "both" / "visits.csv").write_bytes(VISITS.encode())
    project.import_dvc([one], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}


def test_damage_and_what_is_no_dvc_file_are_said(dvc, project, tmp_path):
    one = dvc.add_folder("both", {"shops.csv": SHOPS, "visits.csv": VISITS})
    damaged = next(file for file in dvc.cache.rglob("*") if file.is_file() and file.read_bytes() == SHOPS.encode())
    damaged.write_bytes(SHOPS.encode() + b"3,x\n")
    with pytest.raises(IntegrityError, match="not what was tracked") as told:
        project.import_dvc([one], period="2024-01")
    assert str(damaged) in str(told.value)
    with pytest.raises(FileError, match="DVC tracks nothing there"):
        project.import_dvc([tmp_path / "nothing.csv"], period="2024-01")
    (tmp_path / "x.dvc").write_text("a: [", encoding="utf-8")
    with pytest.raises(FileError, match="no file of DVC"):
        project.import_dvc([tmp_path / "x.dvc"], period="2024-01")
    outside = Dvc(tmp_path / "other", 3).add("shops.csv", SHOPS)
    moved = tmp_path / "shops.csv.dvc"
    moved.write_bytes(outside.read_bytes())
    with pytest.raises(FileError, match="not in a DVC project"):
        project.import_dvc([moved], period="2024-01")
    assert project.data.current() is None


@pytest.mark.parametrize(
    "listing",
    [
        "nope",
        "{}",
        "[1]",
        '[{"relpath": 5, "md5": "MD5"}]',
        '[{"relpath": "a.csv"}]',
        '[{"relpath": "a.csv", "md5": 1}]',
        '[{"relpath": "../a.csv", "md5": "MD5"}]',
        '[{"relpath": "/etc/passwd", "md5": "MD5"}]',
        '[{"relpath": "", "md5": "MD5"}]',
        '[{"relpath": "a.csv", "md5": "zz/../../../../etc/passwd"}]',
    ],
)
def test_a_listing_that_lies(dvc, project, listing):
    digest = dvc.keep(listing.replace("MD5", dvc.keep(b"x")).encode(), ".dir")
    dvc._say(dvc.root / "both.dvc", {"outs": [dvc.out("both", digest)]})
    with pytest.raises(FileError, match="no listing of a folder"):
        project.import_dvc([dvc.root / "both"], period="2024-01")


@pytest.mark.parametrize(
    "text", ["[]", "outs: 5", "outs: [5]", "outs: [{md5: x}]", "outs: []", "wdir: 5\nouts: [{path: x}]"]
)
def test_a_file_of_dvc_that_says_nothing(dvc, project, text):
    (dvc.root / "shops.csv.dvc").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match="file of DVC"):
        project.import_dvc([dvc.root / "shops.csv.dvc"], period="2024-01")


def test_a_stage_without_outputs_hides_nothing(dvc, project):
    dvc.lock("visits.csv", VISITS)
    inner = dvc.root / "inner"
    inner.mkdir()
    (inner / "dvc.lock").write_text("{schema: '2.0', stages: {x: {cmd: x}}}", encoding="utf-8")
    stages = {"stages": {"make": {"cmd": "x", "outs": [dvc.out("inner/visits.csv", dvc.keep(VISITS.encode()))]}}}
    dvc._say(dvc.root / "dvc.lock", stages)
    one = dvc.add("shops.csv", SHOPS)
    project.import_dvc([one, inner / "visits.csv"], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}


def test_a_long_text_whose_lines_end_between_pieces(tmp_path):
    """DVC 2 took the MD5 of the text with LF; a CR may be the last byte of a piece that is read."""
    from holdfast.backend.pipelines.dvc import tracked

    dvc = Dvc(tmp_path / "repo", 2)
    text = "x" * ((1 << 20) - 1) + "\r\n" + "y" * 100 + "\r"
    (found,) = tracked([dvc.add("long.csv", text)])
    assert found.content.read_bytes() == text.encode()


@pytest.fixture
def real(tmp_path):
    """A project of DVC's own, and its command in it."""
    if not DVC.exists():
        pytest.skip("DVC is not installed beside Holdfast; run: make .venv-dvc/.ready")
    root = tmp_path / "真"
    root.mkdir()
    quiet = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"DVC_TEST": "1"}
    quiet |= {f"DVC_{name}_DIR": str(tmp_path / name) for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}

    def run(*words):
        done = subprocess.run([DVC, *words], cwd=root, env=quiet, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout

    run("init", "--no-scm", "--quiet")
    run("config", "cache.type", "symlink")
    return root, run


def test_what_dvc_itself_tracks(real, project):
    root, run = real
    (root / "店").mkdir()
    (root / "店" / "shops_东.csv").write_text(SHOPS, encoding="utf-8")
    (root / "source.csv").write_text(VISITS, encoding="utf-8", newline="")
    run("add", "--quiet", "店")
    run(
        "stage",
        "add",
        "--quiet",
        "--run",
        "-n",
        "make",
        "-d",
        "source.csv",
        "-o",
        "visits.csv",
        "cp source.csv visits.csv",
    )
    shutil.rmtree(root / "店")
    (root / "visits.csv").unlink()
    project.import_dvc([root / "店", root / "dvc.yaml"], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}
    for again in ([root / "店.dvc", root / "visits.csv"], [root / "店" / "shops_东.csv", root / "dvc.lock"]):
        assert not project.import_dvc(again, period="2024-01").created
    with pytest.raises(FileError, match="DVC tracks nothing there"):
        project.import_dvc([root / "店" / "shops_西.csv"], period="2024-02")
    older = (root / "dvc.lock").read_bytes()
    (root / "source.csv").write_text(VISITS + "4,1\r\n", encoding="utf-8", newline="")
    run("repro", "--quiet")
    project.import_dvc([root / "店", root / "visits.csv"], period="2024-02")
    assert rows(project) == {"shops": 2, "visits": 4}
    # What DVC's lock file said before is still in its cache.
    (root / "dvc.lock").write_bytes(older)
    (root / "visits.csv").unlink()
    project.import_dvc([root / "店", root / "visits.csv"], period="2024-03")
    assert (project.root / "data" / "raw" / "2024-03" / "visits.csv").read_bytes() == VISITS.encode()


def test_where_paths_begin_and_what_is_not_asked(real, project, monkeypatch):
    """Stages and `.dvc` files may say a folder of their own; what is beside a file that is asked may be gone."""
    root, run = real
    (root / "sub").mkdir()
    (root / "sub" / "source.csv").write_text(VISITS, encoding="utf-8", newline="")
    (root / "visits.csv").write_text("visit_id,shop_id\n9,9\n", encoding="utf-8")
    work = ("stage", "add", "--quiet", "--run", "-n", "make", "-w", "sub", "-d", "source.csv", "-o", "visits.csv")
    run(*work, "cp source.csv visits.csv")
    both = root / "both"
    both.mkdir()
    for name, text in (("shops.csv", SHOPS), ("gone.csv", "x\n")):
        (both / name).write_text(text, encoding="utf-8")
    run("add", "--quiet", "both")
    gone = hashlib.md5(b"x\n").hexdigest()
    (root / ".dvc" / "cache" / "files" / "md5" / gone[:2] / gone[2:]).unlink()
    with pytest.raises(FileError, match="DVC tracks nothing there"):
        project.import_dvc([root / "visits.csv"], period="2024-01")
    monkeypatch.chdir(root / "sub")
    project.import_dvc(["visits.csv", "../dvc.yaml", "../both/shops.csv"], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}
    with pytest.raises(FileError, match="dvc fetch"):
        project.import_dvc([both], period="2024-02")


def test_what_only_the_remote_of_dvc_has_must_be_fetched(real, project, tmp_path):
    root, run = real
    for name, text in (("shops.csv", SHOPS), ("visits.csv", VISITS)):
        (root / name).write_text(text, encoding="utf-8", newline="")
    run("add", "--quiet", "shops.csv", "visits.csv")
    run("remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    run("push", "--quiet")
    shutil.rmtree(root / ".dvc" / "cache")
    (root / "visits.csv").unlink()
    with pytest.raises(FileError, match="dvc fetch"):
        project.import_dvc([root / "shops.csv", root / "visits.csv"], period="2024-01")
    run("fetch", "--quiet")
    project.import_dvc([root / "shops.csv", root / "visits.csv"], period="2024-01")
    assert rows(project) == {"shops": 2, "visits": 3}
