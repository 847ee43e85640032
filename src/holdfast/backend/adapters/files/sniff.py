"""What a file is: by its first bytes, then by its extension. Kinds that are not read are refused by name."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from holdfast.backend.adapters.files.limits import Limits
from holdfast.errors import FileError, LimitError

__all__ = ["Sniffed", "refuse", "sniff"]

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".psv": "csv",
    ".ssv": "csv",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xls": "xls",
    ".xlsb": "xlsb",
    ".ods": "ods",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
FORMATS = "csv, tsv, psv, ssv, txt, xlsx, xlsm, xls, xlsb, ods, parquet, json, jsonl, ndjson, each also with .gz"
_RATIO_FREE = 64 << 20
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_HEAD = 4096
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\r\n")
# Signatures of kinds that are never tables: naming them makes a better message than a failed parse.
_FOREIGN = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"SQLite format 3": "an SQLite database",
    b"{\\rtf": "an RTF document",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow file",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}
_TEXT_FOREIGN = (b"%PDF", b"{\\rtf", b"SQLite format 3")
_MARKUP = (b"<!doctype", b"<html", b"<table", b"<head", b"<body", b"<div", b"<script", b"<style", b"<?xml", b"<!--")


@dataclass(frozen=True, slots=True)
class Sniffed:
    """A file and what it is. `data` holds its (unpacked) content; None: read `path`, which is as delivered."""

    path: Path
    name: str
    kind: str
    extension: str
    gzipped: bool
    data: bytes | None
    notes: tuple[str, ...] = ()


def refuse(file: str, kind: str, hint: str = f"Deliver it as one of: {FORMATS}") -> NoReturn:
    """Raise the FileError for a kind that is not read."""
    raise FileError(f"{file} is {kind}, which is not read", where={"file": file}, hint=hint)


def sniff(path: Path, limits: Limits) -> Sniffed:
    """Look at the content of `path`; unpack it if gzipped.

    Raises FileError if it is absent, empty, or of a kind that is refused; LimitError if it is too large.
    """
    file = path.name
    size = _size(path, limits)
    extension, claims_gzip = _extension(path)
    with path.open("rb") as source:
        head = source.read(_HEAD)
    data: bytes | None = None
    gzipped = head.startswith(b"\x1f\x8b")
    notes: list[str] = []
    if gzipped:
        data = _gunzip(path, size, limits)
        head = data[:_HEAD]
        if not data:
            raise FileError(f"{file} is empty", where={"file": file}, hint="Deliver it again")
    if gzipped != claims_gzip:
        notes.append("is gzipped, though its name does not say so" if gzipped else "is not gzipped, though named .gz")
    if not extension:
        refuse(file, f"of the unknown kind {path.suffix!r}" if path.suffix else "a file without an extension")
    kind = _kind(path, file, head, data, EXTENSIONS[extension])
    if kind != EXTENSIONS[extension]:
        notes.append(f"is {kind} by its content, though named {extension}")
    if data is None and kind in ("csv", "json"):
        data = path.read_bytes()
    return Sniffed(path, file, kind, extension, gzipped, data, tuple(notes))


def _size(path: Path, limits: Limits) -> int:
    file = path.name
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FileError(
            f"{file} cannot be opened: {error.strerror}", where={"file": str(path)}, hint="Check the path"
        ) from error
    if not path.is_file():
        raise FileError(f"{file} is not a file", where={"file": str(path)}, hint="Name the files in it")
    if size == 0:
        raise FileError(f"{file} is empty", where={"file": file}, hint="Deliver it again")
    if size > limits.file_bytes:
        raise LimitError(
            f"{file} has {size:,} bytes, more than {limits.file_bytes:,}",
            where={"file": file},
            hint="Split it into several files",
        )
    return size


def _extension(path: Path) -> tuple[str, bool]:
    """The known extension in lower case ("" if unknown), and whether `.gz` follows it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    if gzipped:
        suffixes.pop()
    extension = suffixes[-1] if suffixes else ""
    return (extension if extension in EXTENSIONS else ""), gzipped


def _kind(path: Path, file: str, head: bytes, data: bytes | None, expected: str) -> str:
    if expected in ("csv", "json") and _is_text(head) and not head.startswith(_TEXT_FOREIGN):
        _refuse_markup(file, head)
        return expected
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _zip_kind(path, file, data)
    if head.startswith(_OLE):
        return _ole_kind(file, data if data is not None else path.read_bytes())
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        refuse(file, "gzipped twice", "Unpack it once and deliver that")
    for signature, what in _FOREIGN.items():
        if head.startswith(signature):
            refuse(file, what)
    _refuse_markup(file, head)
    if expected in ("csv", "json"):
        return expected
    # BIFF2-5 sheets outside an OLE container begin with a BOF record.
    if expected == "xls" and head[:1] == b"\x09" and head[1:2] in (b"\x00", b"\x02", b"\x04", b"\x08"):
        return "xls"
    if expected == "xls" and _is_text(head):
        return "csv"
    raise FileError(
        f"{file} is no {expected} file: it begins with {head[:8]!r}",
        where={"file": file},
        hint="It may be damaged or misnamed; deliver it again",
    )


def _refuse_markup(file: str, head: bytes) -> None:
    plain = head.replace(b"\x00", b"").lower()
    start = plain.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if start.startswith(_MARKUP):
        markup = "an XML document" if start.startswith(b"<?xml") and b"<html" not in plain else "an HTML page"
        refuse(file, markup, "Open it in a spreadsheet program and save it as xlsx or csv")


def _is_text(head: bytes) -> bool:
    return head == head.translate(None, delete=_CONTROLS)


def _zip_kind(path: Path, file: str, data: bytes | None) -> str:
    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            names = set(archive.namelist())
            mimetype = archive.read("mimetype")[:100].decode("latin-1") if "mimetype" in names else ""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise FileError(
            f"{file} is a damaged zip container ({error})",
            where={"file": file},
            hint="It was probably cut off on its way; deliver it again",
        ) from error
    lower = {name.lower() for name in names}
    if "xl/workbook.bin" in lower:
        return "xlsb"
    if any(name.endswith("workbook.xml") for name in lower):
        return "xlsx"
    if mimetype.startswith("application/vnd.oasis.opendocument.spreadsheet"):
        return "ods"
    if any(name.startswith("word/") for name in lower):
        refuse(file, "a Word document")
    if any(name.startswith("ppt/") for name in lower):
        refuse(file, "a PowerPoint document")
    if mimetype.startswith("application/vnd.oasis.opendocument"):
        refuse(file, "an OpenDocument file without tables")
    return refuse(file, "a zip archive", "Unpack it and deliver the files in it")


def _ole_kind(file: str, data: bytes) -> str:
    def has(stream: str) -> bool:
        return stream.encode("utf-16-le") in data

    if has("EncryptedPackage") or has("EncryptionInfo"):
        raise FileError(
            f"{file} is encrypted",
            where={"file": file},
            hint="Open it with its password and save it without one",
        )
    if has("Workbook") or has("Book"):
        return "xls"
    if has("WordDocument"):
        refuse(file, "a Word document")
    return refuse(file, "an OLE document without a workbook")


def _gunzip(path: Path, size: int, limits: Limits) -> bytes:
    file = path.name
    most = min(limits.unzipped_bytes, max(_RATIO_FREE, int(size * limits.zip_ratio)))
    chunks: list[bytes] = []
    total = 0
    unpack = zlib.decompressobj(31)
    try:
        with path.open("rb") as source:
            pending = source.read(1 << 20)
            while pending:
                chunk = unpack.decompress(pending, 8 << 20)
                total += len(chunk)
                if total > most:
                    raise LimitError(
                        f"{file} unpacks to more than {most:,} bytes",
                        where={"file": file},
                        hint="If that is meant, split it into several files",
                    )
                chunks.append(chunk)
                pending = unpack.unconsumed_tail or source.read(1 << 20)
                if unpack.eof:
                    pending = (unpack.unused_data + pending).lstrip(b"\x00")
                    if pending:
                        unpack = zlib.decompressobj(31)
    except zlib.error as error:
        raise FileError(
            f"{file} is damaged: {error}", where={"file": file}, hint="It was changed on its way; deliver it again"
        ) from error
    chunks.append(unpack.flush())
    if not unpack.eof:
        raise FileError(
            f"{file} is cut off in the middle of its gzip data", where={"file": file}, hint="Deliver it again"
        )
    return b"".join(chunks)
