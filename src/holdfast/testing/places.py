"""The contract suite of places where files are kept by name."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.backend.ports import Place
from holdfast.errors import InputError, NotFoundError

__all__ = ["PlaceContract"]


class PlaceContract:
    """What every Place must do. Subclass it and give the fixture `place`, empty at first."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        """The place under test."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 90_000])
    def test_reads_back(self, place: Place, tmp_path: Path, data: bytes) -> None:
        """Any bytes, as bytes and as a file; more than S3 takes in one piece too."""
        file = tmp_path / "文件.bin"
        file.write_bytes(data)
        place.put("a/b/bytes.bin", data)
        place.put("a/b/file.bin", file)
        assert place.get("a/b/bytes.bin") == place.get("a/b/file.bin") == data
        place.fetch("a/b/file.bin", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert file.read_bytes() == data

    def test_put_replaces(self, place: Place) -> None:
        """The newest content under a name is what is there."""
        place.put("one", b"old and long")
        place.put("one", b"new")
        assert place.get("one") == b"new"

    def test_put_new_never_replaces(self, place: Place) -> None:
        """False, and nothing changed, when the name is taken."""
        assert place.put_new("states/1.json", b"first")
        assert not place.put_new("states/1.json", b"second")
        assert place.get("states/1.json") == b"first"

    def test_one_of_many_gets_a_new_name(self, place: Place) -> None:
        """Exactly one of all who try at once, and its content is what is there."""
        contents = [f"{n}".encode() * 1000 for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda data: place.put_new("only/one", data), contents))
        assert won.count(True) == 1
        assert place.get("only/one") == contents[won.index(True)]

    def test_names_and_deletes(self, place: Place) -> None:
        """Whole names of all files below a folder, and of no other; deleting what is absent succeeds."""
        wanted = {f"x/{n % 3}/{n}" for n in range(12)}
        for name in (*wanted, "xy/z", "w"):
            place.put(name, b"1")
        assert set(place.names("x")) == wanted
        assert list(place.names("nothing")) == []
        place.delete("x/0/0")
        place.delete("x/0/0")
        assert set(place.names("x")) == wanted - {"x/0/0"}

    def test_has(self, place: Place) -> None:
        """True for what was kept, until it is deleted; a folder is no file."""
        assert not place.about("a/b")
        place.put("a/b", b"")
        assert place.about("a/b")
        assert not place.about("a")
        place.delete("a/b")
        assert not place.about("a/b")

    def test_absent_is_not_found(self, place: Place, tmp_path: Path) -> None:
        """NotFoundError names the file, and nothing is written."""
        with pytest.raises(NotFoundError, match="no/such"):
            place.get("no/such")
        with pytest.raises(NotFoundError, match="no/such"):
            place.fetch("no/such", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    @pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".hidden", "a/", "文件", "a b"])
    def test_what_is_no_name_is_refused(self, place: Place, name: str) -> None:
        """No name ever leads out of the place, or means another file elsewhere."""
        with pytest.raises(InputError):
            place.put(name, b"")
        with pytest.raises(InputError):
            place.get(name)
