"""Text of unknown encoding to str: the encoding is found out, and decoding is strict."""

import codecs
import re
import string
from dataclasses import dataclass

import numpy as np

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
# Lead bytes of the everyday characters (level 1) in the plain part of each Chinese encoding; A1-A3 is punctuation.
_LEVEL_1 = {"gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6)}
_PLAIN = {"gb18030": "gb2312", "big5": "big5"}
# Accented letters, and the signs that stand in Western text (no-break space, pound, degree, quotes, dashes ...).
_WESTERN = bytes(
    [*range(0xB0, 0xB8), *range(0xBA, 0x100), *b"\xa0\xa1\xa3\xa7\xa9\xab\xae\x80\x85", *range(0x91, 0x98), 0x99]
)
_HIGH = bytes(range(0x80, 0x100))
_BLANK_ASCII = b" " * 0x80 + _HIGH
_LETTERS = string.ascii_letters.encode()
_NAMES = {"utf_8": "utf-8", "latin_1": "latin-1", "iso8859_1": "latin-1", "shift_jis": "cp932"}


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
    high = _count(data, _HIGH)
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
    text = b" ".join(data.translate(_BLANK_ASCII).split()).decode("utf-8", errors="surrogateescape")
    wrong = sum(len(run) for run in re.findall("[\udc80-\udcff]+", text))
    right = sum(len(run) for run in re.findall("[^\x00-\x7f\udc80-\udcff]+", text))
    return right >= 4 * wrong


def _legacy(data: bytes, file: str) -> str:
    high, letters, known = _count(data, _HIGH), _count(data, _LETTERS), _count(data, _WESTERN)
    # Western text: accents and signs stand alone among ASCII letters, or are very few.
    lone = _lone(data)
    if lone * 10 >= high * 7 and high * 3 <= letters and known * 10 >= high * 9:
        return _western(data)
    shares = {encoding: _common(data, encoding) for encoding in _LEVEL_1}
    best = max(shares, key=lambda encoding: shares[encoding])
    if shares[best] >= 0.6:
        return best
    return _western(data) if high * 100 <= letters else _normalizer(data, file)


def _count(data: bytes, of: bytes) -> int:
    return len(data) - len(data.translate(None, delete=of))


def _lone(data: bytes) -> int:
    """Bytes that are not ASCII with no other such byte beside them."""
    is_high = np.frombuffer(data, np.uint8) >= 0x80
    lone = is_high.copy()
    lone[1:] &= ~is_high[:-1]
    lone[:-1] &= ~is_high[1:]
    return int(lone.sum())


def _common(data: bytes, encoding: str) -> float:
    """The share of everyday characters among those that are not ASCII; 0 if `data` does not decode."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    wide = "".join(re.findall("[^\x00-\x7f]+", text))
    low, high = _LEVEL_1[encoding]
    everyday = sum(
        0xA1 <= unit[0] <= 0xA3 or low <= unit[0] <= high
        for unit in (character.encode(_PLAIN[encoding], errors="ignore") for character in wide)
        if len(unit) == 2
    )
    return everyday / len(wide)


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
        where={"file": file, "byte": int(np.argmax(np.frombuffer(data, np.uint8) >= 0x80))},
        hint="Save it as UTF-8",
    )
