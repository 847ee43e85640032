"""Looks for a text in everything that a project keeps, opened as far as it can be."""

import gzip
import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import sqlalchemy as sa

from holdfast.backend.ports import Blobs
from holdfast.backend.store import Store


def opened(path: Path) -> str:
    """What a file says: columnar files by their values and metadata, zipped ones unpacked, all others as bytes."""
    data = path.read_bytes()
    if data[:4] == b"PAR1":
        table = pq.read_table(path)
        return f"{table.to_pylist()} {table.schema.metadata}"
    if data[:6] == b"ARROW1":
        return str(pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pylist())
    if data[:2] == b"\x1f\x8b":
        with suppress(OSError, EOFError):  # other bytes may begin so by chance
            data = gzip.decompress(data)
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "".join(archive.read(name).decode("utf-8", "replace") for name in archive.namelist())
    return data.decode("utf-8", "replace")


def seek(root: Path, texts: list[str]) -> list[tuple[str, str]]:
    """(file, text) of every text that some file of the project holds."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            content = opened(path)
            name = path.relative_to(root).as_posix()
            found += [(name, text) for text in texts if text in content or json.dumps(text)[1:-1] in content]
    return found


def seek_blobs(blobs: Blobs, texts: list[str]) -> list[tuple[str, str]]:
    """(address, text) of every text that some blob holds."""
    contents = ((digest, opened(blobs.path(digest))) for digest in sorted(blobs))
    return [(digest, text) for digest, content in contents for text in texts if text in content]


def seek_database(store: Store, texts: list[str]) -> list[tuple[str, str]]:
    """(table, text) of every text that some row of the metadata database holds."""
    found = []
    with store.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            quoted = connection.dialect.identifier_preparer.quote(table)
            rows = connection.execute(sa.text(f"SELECT * FROM {quoted}")).all()
            content = json.dumps([list(row) for row in rows], ensure_ascii=False, default=str)
            found += [(table, text) for text in texts if text in content]
    return found
