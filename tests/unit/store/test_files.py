"""Files that are there whole or not at all."""

import hashlib
import threading
from pathlib import Path

import pytest

from holdfast.backend.store.files import place, sha256_of, sha256_of_file, write_whole


def test_threads_that_write_one_file_at_once_do_not_meet(tmp_path: Path) -> None:
    target, both = tmp_path / "表.json", threading.Barrier(2)
    scratches: list[Path] = []

    def write(scratch: Path) -> None:
        both.wait(20)
        scratch.write_text("整", encoding="utf-8")
        scratches.append(scratch)
        both.wait(20)

    threads = [threading.Thread(target=write_whole, args=(target, write)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(scratches)) == 2
    assert target.read_text(encoding="utf-8") == "整"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "表.json"
    target.write_text("old", encoding="utf-8")

    def half(scratch: Path) -> None:
        scratch.write_text("half", encoding="utf-8")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(target, half)
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "文件.csv").write_text("a", encoding="utf-8")
    place(tmp_path / ".new", tmp_path / "2016-01")
    assert [path.name for path in tmp_path.iterdir()] == ["2016-01"]
    assert (tmp_path / "2016-01" / "文件.csv").read_text(encoding="utf-8") == "a"


def test_hashes_of_files_and_bytes_agree(tmp_path: Path) -> None:
    data = "内容".encode() * 100_000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of_file(tmp_path / "f") == sha256_of(data) == hashlib.sha256(data).hexdigest()
