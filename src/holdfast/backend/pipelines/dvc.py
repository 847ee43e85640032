"""Files that DVC tracks, found in its cache by what a `.dvc` file or a `dvc.lock` says; DVC itself is not needed.

A `.dvc` file has `outs: [{path, md5, hash}]` and perhaps `wdir`, which paths begin at; a `dvc.lock` has the outs of
each of `stages`, whose `wdir` is in the `dvc.yaml` beside it. The content is at `files/md5/ab/cdef...` of the cache
(DVC 3, which writes `hash: md5`) or at `ab/cdef...` (DVC 2). The MD5 of a folder ends with `.dir`: its content is JSON,
`[{md5, relpath}]`. DVC 2 took the MD5 of text after CRLF became LF.
"""

import configparser
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from holdfast.backend.store.disk import disk_errors
from holdfast.errors import FileError, IntegrityError

__all__ = ["Tracked", "stage", "tracked"]

_CHUNK = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_FETCH = "In that project, run: dvc fetch"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A file that DVC tracks: its name, where its content is, its MD5, and the file that says so.

    `place` is where it lies in the workspace; None where only DVC can tell (its stage's `wdir` is a template).
    """

    name: str
    content: Path
    md5: str
    said_by: Path
    place: Path | None


@dataclass(frozen=True, slots=True)
class _Out:
    """An entry of `outs`: its path, what that begins at (None: only DVC can tell), and its MD5, by DVC 2 if `old`."""

    said_by: Path
    path: PurePosixPath
    folder: Path | None
    md5: object
    old: bool

    @property
    def place(self) -> Path | None:
        return self.folder and _plain(self.folder / self.path)


def tracked(paths: Sequence[Path]) -> list[Tracked]:
    """The files behind `.dvc` files, `dvc.yaml` or `dvc.lock`, or tracked files and folders themselves.

    Each once, and compared with its MD5. FileError when a path is none of these, or its content is not in the cache;
    IntegrityError when that is damaged.
    """
    found: dict[tuple[object, ...], Tracked] = {}
    for given in paths:
        for file in _said(given) if given.suffix == ".dvc" or given.name in ("dvc.yaml", "dvc.lock") else _at(given):
            found.setdefault((file.place, file.name, file.md5), file)
    return list(found.values())


def _said(given: Path) -> list[Tracked]:
    """All that a file of DVC tracks."""
    saying = given.with_name("dvc.lock") if given.name == "dvc.yaml" else given
    if not saying.is_file():
        raise _nothing(saying)
    if not (outs := _outs(saying)):
        raise FileError("this file of DVC tracks nothing: it lists no outs", where={"file": str(saying)})
    return [file for out in outs for file in _files(out)]


def _at(given: Path) -> list[Tracked]:
    """What is tracked at a path: by a `.dvc` file beside it, as the output of a stage, or in a folder that is."""
    wanted = _plain(given)
    for place in (wanted, *wanted.parents):
        for saying in (place.with_name(f"{place.name}.dvc"), place.parent / "dvc.lock") if place.name else ():
            shown = saying if given.is_absolute() else Path(os.path.relpath(saying))
            for out in _outs(shown) if saying.is_file() else ():
                over = out.place in (wanted, *wanted.parents)
                if over and (inside := list(_files(out, wanted))):
                    return inside
        if (place.parent / ".dvc").is_dir():
            break
    raise _nothing(given)


def _plain(path: Path) -> Path:
    """Absolute and without dots, but with its links: DVC may link tracked files to its cache."""
    return Path(os.path.normpath(path.absolute()))


def _nothing(given: Path) -> FileError:
    return FileError(
        "DVC tracks nothing there", where={"file": str(given)},
        hint="Give a .dvc file, a file or folder that DVC tracks, or a dvc.yaml that was run.",
    )  # fmt: skip


def stage(files: Sequence[Tracked], folder: Path) -> list[Path]:
    """Copy files under their names into a folder, as a delivery. FileError when two have one name."""
    staged: dict[str, Path] = {}
    with disk_errors(folder):
        for file in files:
            if file.name in staged:
                raise FileError(
                    f"two tracked files are named {file.name!r}", where={"file": str(file.said_by)},
                    hint="Import them as two deliveries, or rename one.",
                )  # fmt: skip
            staged[file.name] = Path(shutil.copyfile(file.content, folder / file.name))
    return list(staged.values())


def _outs(path: Path) -> list[_Out]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "dvc.lock":
            folders = _folders(path)
            places = [(folders(name), stage) for name, stage in data.get("stages", {}).items()]
        else:
            places = [(path.parent / data.get("wdir", "."), data)]
        return [
            _Out(path, PurePosixPath(out["path"]), folder, out.get("md5"), "hash" not in out)
            for folder, place in places
            for out in place.get("outs", ())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise FileError(f"this is no file of DVC: {error}", where={"file": str(path)}) from error


def _folders(lock: Path) -> Callable[[str], Path | None]:
    """What the paths of each stage begin at: only `dvc.yaml` says it."""
    pipeline = lock.with_name("dvc.yaml")
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"] if pipeline.is_file() else {}

    def folder(stage: str) -> Path | None:
        told = stages.get(stage) or stages.get(stage.partition("@")[0])  # build@x is one of many of `build`
        if told is None:
            return None
        wdir = str(told.get("do", told).get("wdir", "."))
        return None if "${" in wdir else lock.parent / wdir

    return folder


def _files(out: _Out, wanted: Path | None = None) -> Iterator[Tracked]:
    """The files of an output; of a folder, if `wanted` is given, only what lies at or below it."""
    if not isinstance(out.md5, str) or not _MD5.fullmatch(out.md5):
        raise FileError(
            f"{str(out.path)!r} is tracked by something else than MD5", where={"file": str(out.said_by)},
            hint="Only what is in DVC's own cache can be imported; deliver the file itself: holdfast ingest",
        )  # fmt: skip
    cache = _cache(out.said_by.resolve().parent)
    if not out.md5.endswith(".dir"):
        content = _content(cache, out.md5, out.place, out.said_by, old=out.old)
        yield Tracked(out.path.name, content, out.md5, out.said_by, out.place)
        return
    listing = _content(cache, out.md5, None, out.said_by, old=out.old)
    for relative, md5 in _listed(listing):
        place = out.place and out.place / relative
        if wanted is None or place is None or wanted in (place, *place.parents):
            content = _content(cache, md5, place, out.said_by, old=out.old)
            yield Tracked(relative.name, content, md5, out.said_by, place)


def _listed(listing: Path) -> list[tuple[PurePosixPath, str]]:
    """The files that a folder had: where in it, and their MD5."""
    try:
        if not isinstance(told := json.loads(listing.read_bytes()), list):
            raise ValueError("it is no list")  # noqa: TRY004 - said as all that is wrong with it
        entries = [(PurePosixPath(entry["relpath"]), entry["md5"]) for entry in told]
        if wrong := [path for path, _ in entries if not path.name or path.is_absolute() or ".." in path.parts]:
            raise ValueError(f"{str(wrong[0])!r} is not in the folder")
        if wrong_md5 := [md5 for _, md5 in entries if not _MD5.fullmatch(md5)]:
            raise ValueError(f"{wrong_md5[0]!r} is no MD5")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"this is no listing of a folder by DVC: {error}", where={"file": str(listing)}) from error
    return entries


def _cache(folder: Path) -> Path:
    """DVC's cache for a folder: as `.dvc/config` says, by default `.dvc/cache`."""
    home = next((up / ".dvc" for up in (folder, *folder.parents) if (up / ".dvc").is_dir()), None)
    if home is None:
        raise FileError("this is not in a DVC project: no folder above it has .dvc", where={"folder": str(folder)})
    config = configparser.ConfigParser(interpolation=None)
    config.read([home / "config", home / "config.local"], encoding="utf-8")
    return home / config.get("cache", "dir", fallback="cache")


def _content(cache: Path, digest: str, workspace: Path | None, said_by: Path, *, old: bool) -> Path:
    """Where the content of an MD5 is: in the cache as DVC 3 or 2 lays it out, or in the workspace if it is that."""
    bare = digest.removesuffix(".dir")
    tail = digest[len(bare) :]
    places = [cache / "files" / "md5" / bare[:2] / (bare[2:] + tail), cache / bare[:2] / (bare[2:] + tail)]
    found = next((place for place in places if place.is_file()), None)
    if found is None and workspace is not None and workspace.is_file() and bare in _md5s(workspace, old=old):
        return workspace
    if found is None:
        raise FileError(
            f"the content of MD5 {digest} is not in DVC's cache", where={"file": str(said_by), "cache": str(cache)},
            hint=_FETCH,
        )  # fmt: skip
    if bare not in _md5s(found, old=old):
        raise IntegrityError(
            "a file in DVC's cache is not what was tracked", where={"file": str(found), "md5": digest}, hint=_FETCH
        )
    return found


def _md5s(path: Path, *, old: bool) -> set[str]:
    """The MD5 of a file, and for DVC 2 that of its text with LF; read in pieces."""
    plain, text = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False)
    with disk_errors(path), path.open("rb") as file:
        held = b""
        while piece := file.read(_CHUNK):
            plain.update(piece)
            joined = held + piece
            # A CR at the end of a piece may belong to an LF at the beginning of the next.
            held = b"\r" if joined.endswith(b"\r") else b""
            text.update(joined[: len(joined) - len(held)].replace(b"\r\n", b"\n"))
        text.update(held)
    return {plain.hexdigest(), text.hexdigest()} if old else {plain.hexdigest()}
