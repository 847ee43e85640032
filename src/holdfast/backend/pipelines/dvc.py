"""Files that DVC tracks, found in its cache by what a `.dvc` file or a `dvc.lock` says; DVC itself is not needed.

A `.dvc` file has `outs: [{path, md5, hash}]`, a `dvc.lock` (of a `dvc.yaml`) the same under `stages.NAME`. The content
is at `files/md5/ab/cdef...` of the cache (DVC 3, which writes `hash: md5`) or at `ab/cdef...` (DVC 2). The MD5 of a
folder ends with `.dir`: its content is JSON, `[{md5, relpath}]`. DVC 2 took the MD5 of text after CRLF became LF.
"""

import configparser
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from holdfast.backend.store.disk import disk_errors
from holdfast.errors import FileError, IntegrityError

__all__ = ["Tracked", "stage", "tracked"]

_CHUNK = 1 << 20
_FETCH = "In that project, run: dvc fetch"


@dataclass(frozen=True, slots=True)
class Tracked:
    """A file that DVC tracks: its name, where its content is, its MD5, and the file that says so."""

    name: str
    content: Path
    md5: str
    said_by: Path


def tracked(paths: Sequence[Path]) -> list[Tracked]:
    """The files behind `.dvc` files, tracked files themselves, `dvc.yaml` or `dvc.lock`; each is compared with its MD5.

    FileError when a path is none of these, or its content is not in the cache; IntegrityError when that is damaged.
    """
    found = []
    for given in paths:
        path = _saying(given)
        for out in _outs(path):
            found += list(_files(out, path))
    return found


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


def _saying(given: Path) -> Path:
    """The file that says what DVC tracks at a path."""
    if given.name == "dvc.yaml":
        given = given.with_name("dvc.lock")
    elif given.suffix != ".dvc" and given.name != "dvc.lock":
        given = given.with_name(f"{given.name}.dvc")
    if not given.is_file():
        raise FileError(
            "DVC tracks nothing there", where={"file": str(given)},
            hint="Give a .dvc file, a file or folder that has one beside it, or a dvc.yaml that was run.",
        )  # fmt: skip
    return given


def _outs(path: Path) -> list[dict[str, Any]]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        places = list(data.get("stages", {}).values()) if path.name == "dvc.lock" else [data]
        outs = [out for place in places for out in place.get("outs", ())]
        if not outs or not all(isinstance(out["path"], str) for out in outs):
            raise ValueError("it lists no outs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise FileError(f"this is no file of DVC: {error}", where={"file": str(path)}) from error
    return outs


def _files(out: dict[str, Any], path: Path) -> Iterator[Tracked]:
    digest = out.get("md5")
    if not isinstance(digest, str):
        raise FileError(
            f"{out['path']!r} is tracked by something else than MD5", where={"file": str(path)},
            hint="Only what is in DVC's own cache can be imported; deliver the file itself: holdfast ingest",
        )  # fmt: skip
    cache, old = _cache(path.resolve().parent), "hash" not in out
    if not digest.endswith(".dir"):
        name = PurePosixPath(out["path"]).name
        yield Tracked(name, _content(cache, digest, path.parent / out["path"], path, old=old), digest, path)
        return
    listing = _content(cache, digest, None, path, old=old)
    for entry in json.loads(listing.read_bytes()):
        there = path.parent / out["path"] / entry["relpath"]
        content = _content(cache, entry["md5"], there, path, old=old)
        yield Tracked(PurePosixPath(entry["relpath"]).name, content, entry["md5"], path)


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
