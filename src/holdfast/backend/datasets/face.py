"""`data/processed/`: the current rows of the current version as plain Parquet files, for people and other tools."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from holdfast.backend.store.files import sha256_of_file, write_whole
from holdfast.core.names import escape

__all__ = ["MANIFEST", "face_is", "write_face"]

MANIFEST = "manifest.json"


def face_is(folder: Path, version: str) -> bool:
    """Whether the folder shows that version, whole: the manifest is written last."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["id"] == version and all((folder / name).is_file() for name in manifest["files"])
    except (OSError, ValueError, KeyError):
        return False


def write_face(folder: Path, version: str, number: str, tables: Mapping[str, pa.Table]) -> None:
    """Replace the files one by one, each whole; then the manifest of their hashes; then remove what is not in it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for name, rows in tables.items():
        path = folder / f"{escape(name)}.parquet"
        write_whole(path, partial(pq.write_table, rows, compression="zstd"))
        files[path.name] = sha256_of_file(path)
    manifest = json.dumps({"id": version, "version": number, "files": files}, ensure_ascii=False, indent=1)
    write_whole(folder / MANIFEST, lambda path: path.write_text(manifest, encoding="utf-8"))
    for path in folder.iterdir():
        # Scratch files of an interrupted run too: whoever writes here holds the lock.
        if path.is_file() and path.name not in {*files, MANIFEST} and path.suffix in {".parquet", ".new"}:
            path.unlink()
