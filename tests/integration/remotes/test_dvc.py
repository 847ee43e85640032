"""Files that DVC tracks, laid out by hand as DVC 2 and 3 document it (DVC itself is not installed here)."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

import holdfast
from holdfast.errors import FileError, IntegrityError

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


def test_a_long_text_whose_lines_end_between_pieces(tmp_path):
    """DVC 2 took the MD5 of the text with LF; a CR may be the last byte of a piece that is read."""
    from holdfast.backend.pipelines.dvc import tracked

    dvc = Dvc(tmp_path / "repo", 2)
    text = "x" * ((1 << 20) - 1) + "\r\n" + "y" * 100 + "\r"
    (found,) = tracked([dvc.add("long.csv", text)])
    assert found.content.read_bytes() == text.encode()
