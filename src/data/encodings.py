"""Decoding of text in an unknown encoding: UTF-8, else GB18030, else cp1252; UTF-16 is recognised by its zero bytes.

A byte order mark decides before everything else. UTF-16 without one is recognised by the zero bytes of its ASCII
characters, of which one line end is enough. Encodings outside `CERTAIN` are guesses, which the data report counts.

All captions of MVSA-Single that are not UTF-8 are GB18030, in any language. Posts from elsewhere are often cp1252, and
most cp1252 also decodes as GB18030: an accented letter and the next letter become one ideograph, so that the middle of
"Zürich" turns Chinese.
"""

import codecs
import re
import unicodedata
from contextlib import suppress

UTF_8, UTF_16, UTF_32 = CERTAIN = ("utf-8", "utf-16", "utf-32")
UNMARKED, GB18030, CP1252 = GUESSED = ("utf-16 without a byte order mark", "gb18030", "cp1252")

# UTF-32 stands before UTF-16, because its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: ("utf-8", UTF_8),
    codecs.BOM_UTF32_LE: ("utf-32-le", UTF_32),
    codecs.BOM_UTF32_BE: ("utf-32-be", UTF_32),
    codecs.BOM_UTF16_LE: ("utf-16-le", UTF_16),
    codecs.BOM_UTF16_BE: ("utf-16-be", UTF_16),
}

# Five bytes mean nothing in cp1252. They stay the control characters of latin-1, as in web browsers.
_CP1252 = {byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}

# A run of non-ASCII characters, with the Latin letter on either side, if there is one.
_RUN = re.compile(r"([A-Za-z]?)([^\x00-\x7f]+)(?=([A-Za-z]?))")
_IDEOGRAPHS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+")
_SPACES = "\t\n\r"


def decode(content: bytes) -> tuple[str, str]:
    """Decode any bytes. Return the text without a byte order mark, and its encoding from `CERTAIN` or `GUESSED`.

    If a text with a byte order mark is damaged, unreadable bytes become U+FFFD, and the encoding ends in "damaged".
    """
    for mark, (codec, name) in _MARKS.items():
        if content.startswith(mark):
            return _marked(content.removeprefix(mark), codec, name)
    if (wide := _unmarked(content)) is not None:
        return wide, UNMARKED
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8"), UTF_8
    with suppress(UnicodeDecodeError):
        text = content.decode(GB18030)
        if not _is_cp1252(text):
            return text, GB18030
    return content.decode("latin-1").translate(_CP1252), CP1252


def lines(content: bytes) -> tuple[list[str], str]:
    """Return the lines of a text, split at any line end, and its encoding from `decode`."""
    text, encoding = decode(content)
    return _with_newlines(text).split("\n"), encoding


def decode_caption(content: bytes) -> tuple[str, str]:
    """Return a caption with its lines unified, and its encoding from `decode`."""
    text, encoding = decode(content)
    return unify_lines(text), encoding


def unify_lines(caption: str) -> str:
    """Remove the line ends at the end of a caption, and make the others newlines."""
    return _with_newlines(caption).rstrip("\n")


def _with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _marked(content: bytes, codec: str, name: str) -> tuple[str, str]:
    with suppress(UnicodeDecodeError):
        return content.decode(codec), name
    return content.decode(codec, errors="replace"), f"{name}, damaged"


def _unmarked(content: bytes) -> str | None:
    """Decode UTF-16 without a byte order mark; return None for other encodings.

    ASCII characters in UTF-16 have a zero byte in their high half, always on the same side of a pair. Zero bytes at the
    end of UTF-8 are padding. One zero byte after a line end may end a text of ideographs in UTF-16, though.
    """
    low, high = content[::2].count(0), content[1::2].count(0)
    if not low and not high:
        return None
    with suppress(UnicodeDecodeError):
        is_padded = "\0" not in content.decode("utf-8").rstrip("\0")
        if is_padded and not content.endswith(b"\n\0"):
            return None
    with suppress(UnicodeDecodeError):
        text = content.decode("utf-16-le" if high > low else "utf-16-be")
        return text if all(_is_text(character) for character in text) else None
    return None


def _is_text(character: str) -> bool:
    return character in _SPACES or unicodedata.category(character) not in ("Cc", "Cn")


def _is_cp1252(text: str) -> bool:
    """Return whether at least half of the non-ASCII runs in a text decoded as GB18030 look like accents of cp1252.

    Measured on the 1,131 captions of MVSA-Single that are not UTF-8: no error. Measured on the translated messages of a
    Linux system: right on 99.9 % of 242,000 in 21 western locales in cp1252 (37 % by strict decoding alone), and on
    99.6 % of 79,000 in Chinese and Japanese in GB18030. charset-normalizer, limited to these three encodings, misreads
    one caption in 16.
    """
    accented = [_is_accented(*match.groups()) for match in _RUN.finditer(text)]
    return 2 * sum(accented) >= len(accented)


def _is_accented(before: str, run: str, after: str) -> bool:
    """Return whether a non-ASCII run, given its neighbouring letters, is more likely cp1252 accents than Chinese.

    Three signs tell accents: one ideograph beside a Latin letter, ideographs whose second bytes are all Latin letters,
    and characters that Unicode leaves unassigned or to private use.
    """
    if any(unicodedata.category(character) in ("Co", "Cn") for character in run):
        return True
    if not _IDEOGRAPHS.fullmatch(run):
        return False
    is_within_word = len(run) == 1 and bool(before or after)
    return is_within_word or all(character.encode(GB18030)[1:].isalpha() for character in run)
