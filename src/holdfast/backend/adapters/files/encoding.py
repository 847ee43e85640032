"""Text of unknown encoding to str: the encoding is found out, and decoding is strict."""

import codecs
import re
from dataclasses import dataclass

from holdfast.errors import FileError

__all__ = ["Decoded", "decode"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_SAMPLE = 256 << 10
_HIGH_RUN = re.compile(rb"[\x80-\xff]+")
# Two-byte characters of GB 2312 level 1 (the 3,755 everyday Chinese characters, lead B0-D7) and its punctuation.
_HANZI = re.compile(rb"(?:[\xb0-\xd7][\xa1-\xfe]|[\xa1-\xa3][\xa1-\xfe])")
_NAMES = {"utf_8": "utf-8", "latin_1": "latin-1", "iso8859_1": "latin-1", "big5hkscs": "big5hkscs", "shift_jis": "cp932"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """`text` without a byte-order mark; `utf8` is the same as bytes. `note` says how sure the encoding is."""

    text: str
    utf8: bytes
    encoding: str
    note: str = ""


def decode(data: bytes, file: str) -> Decoded:
    """Find out the encoding of `data` (not empty) and decode all of it.

    In this order: a byte-order mark; UTF-16/32 without one (by the pattern of zero bytes); UTF-8; then, by the bytes
    that are not ASCII, GB 18030 or a one-byte Western encoding, else what charset-normalizer finds. FileError when
    bytes do not decode, or a zero byte is left: it names the offset and the line.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding, file, len(mark))
    if b"\x00" in data:
        return _strict(data, _wide(data, file), file, 0, "UTF-16/32 without a byte-order mark")
    if data.isascii():
        return Decoded(data.decode("ascii"), data, "utf-8")
    try:
        return Decoded(data.decode("utf-8"), data, "utf-8")
    except UnicodeDecodeError as error:
        if _is_damaged_utf8(data):
            raise _undecodable(data, error.start, "utf-8", file, 0) from error
    encoding = _legacy(data, file)
    high = sum(len(run) for run in _HIGH_RUN.findall(data))
    return _strict(data, encoding, file, 0, f"encoding {encoding} found out from {high:,} bytes that are not ASCII")


def _strict(data: bytes, encoding: str, file: str, skipped: int, note: str = "") -> Decoded:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecodable(data, error.start, encoding, file, skipped) from error
    zero = text.find("\x00")
    if zero >= 0:
        raise _zero(text[:zero].count("\n") + 1, len(text[:zero].encode(encoding)) + skipped, file)
    return Decoded(text, data if encoding == "utf-8" else text.encode("utf-8"), encoding, note)


def _undecodable(data: bytes, offset: int, encoding: str, file: str, skipped: int) -> FileError:
    line = _lines(data[:offset], encoding)
    return FileError(
        f"{file} is not valid {encoding}: byte {data[offset]:#04x} cannot be decoded",
        where={"file": file, "line": line, "byte": offset + skipped},
        hint="Save it as UTF-8; a file put together from parts in different encodings must be repaired first",
    )


def _lines(before: bytes, encoding: str) -> int:
    return before.decode(encoding, errors="replace").count("\n") + 1


def _zero(line: int, offset: int, file: str) -> FileError:
    return FileError(
        f"{file} contains a zero byte, which no text has",
        where={"file": file, "line": line, "byte": offset},
        hint="It is damaged or not text; deliver it again",
    )


def _wide(data: bytes, file: str) -> str:
    """UTF-16 or 32 without a mark: line ends and other ASCII characters have zero bytes at fixed places."""
    sample = data[: _SAMPLE // 4 * 4]
    for encoding, width, place in (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1)):
        if len(data) % width:
            continue
        ascii_units = zeros = 0
        for start in range(0, min(len(sample), 4096), width):
            unit = sample[start : start + width]
            rest = unit[:place] + unit[place + 1 :]
            ascii_units += rest == b"\x00" * (width - 1) and 9 <= unit[place] < 127
            zeros += unit == b"\x00" * width
        if ascii_units and not zeros:
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            return encoding
    first = data.index(b"\x00")
    raise _zero(data[:first].count(b"\n") + 1, first, file)


def _is_damaged_utf8(data: bytes) -> bool:
    """Mostly right multi-byte sequences with a few wrong bytes: damaged, not another encoding."""
    text = data.decode("utf-8", errors="surrogateescape")
    wrong = sum(len(run) for run in re.findall("[\udc80-\udcff]+", text))
    right = sum(len(run) for run in re.findall("[^\x00-\x7f\udc80-\udcff]+", text))
    return right >= 4 * wrong


def _legacy(data: bytes, file: str) -> str:
    runs = _HIGH_RUN.findall(data)
    high = sum(map(len, runs))
    if _looks_gb(data, runs, high):
        return "gb18030"
    lone = sum(len(run) for run in runs if len(run) == 1)
    letters = len(re.findall(rb"[A-Za-z]", data))
    # Western text: accents stand alone or in twos among ASCII letters and are few.
    if lone * 10 >= high * 7 and high * 3 <= letters:
        return _western(data)
    return _normalizer(data, file)


def _looks_gb(data: bytes, runs: list[bytes], high: int) -> bool:
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    paired = sum(len(run) for run in runs if len(run) % 2 == 0)
    common = 2 * sum(len(_HANZI.findall(run)) for run in runs)
    wide = sum(1 for character in text if "\u3400" <= character <= "\u9fff" or "\u3000" <= character <= "\u303f")
    return paired * 10 >= high * 6 and common * 10 >= high * 6 and wide > 0


def _western(data: bytes) -> str:
    if not re.search(rb"[\x80-\x9f]", data):
        return "latin-1"
    return "cp1252" if not re.search(rb"[\x81\x8d\x8f\x90\x9d]", data) else "latin-1"


def _normalizer(data: bytes, file: str) -> str:
    from charset_normalizer import from_bytes

    # Lines with high bytes say most; a bounded sample of them keeps this under a second.
    telling = b"\n".join(line for line in data[: 16 * _SAMPLE].splitlines() if not line.isascii())[:_SAMPLE]
    for match in from_bytes(telling or data[:_SAMPLE]):
        try:
            data.decode(match.encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return _NAMES.get(match.encoding, match.encoding.replace("_", "-"))
    raise FileError(
        f"the encoding of {file} cannot be found out",
        where={"file": file, "byte": data.index(_HIGH_RUN.findall(data)[0])},
        hint="Save it as UTF-8",
    )
