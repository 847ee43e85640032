"""`data/processed/`: the current rows of the current version as plain Parquet files, for people and other tools."""

import hashlib
import json
import os
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["MANIFEST", "face_is", "write_face"]

MANIFEST = "manifest.json"
_UNSAFE = '/\\:*?"<>|%'


def face_is(folder: Path, version: str) -> bool:
    """Whether the folder shows that version, whole: the manifest is written last."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["id"] == version and all((folder / name).is_file() for name in manifest["files"])
    except (OSError, ValueError, KeyError):
        return False


def write_face(folder: Path, version: str, number: str, tables: Mapping[str, pa.Table]) -> None:
    """Replace the files one by one, each whole; then the manifest of their hashes; then remove what is not in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for name, rows in tables.items():
        file = f"{_escaped(name)}.parquet"
        scratch = folder / f".{file}.new"
        pq.write_table(rows, scratch, compression="zstd")
        with scratch.open("rb") as written:
            files[file] = hashlib.file_digest(written, "sha256").hexdigest()
        _place(scratch, folder / file)
    manifest = {"id": version, "version": number, "files": files}
    scratch = folder / f".{MANIFEST}.new"
    scratch.write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")
    _place(scratch, folder / MANIFEST)
    for path in folder.glob("*.parquet"):
        if path.name not in files:
            path.unlink()


def _escaped(name: str) -> str:
    """A table's name as a file name; characters that some system forbids are percent-encoded."""
    safe = "".join(urllib.parse.quote(c, safe="") if c in _UNSAFE or ord(c) < 32 else c for c in name)
    return f"%2E{safe[1:]}" if safe.startswith(".") else safe


def _place(scratch: Path, target: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(target)
