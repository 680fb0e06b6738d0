"""Decodes text that does not say what it is encoded in: UTF-8, else GB18030, else cp1252.

All captions of MVSA-Single that are not UTF-8 are GB18030, whatever their language. Posts from elsewhere are in cp1252,
much of which can be decoded as GB18030 too: an accented letter and the one behind it then become one ideograph, so that
the middle of "Zürich" is Chinese.
"""

import re
import unicodedata
from contextlib import suppress

UTF_8, GB18030, CP1252 = ENCODINGS = ("utf-8", "gb18030", "cp1252")

# Five bytes mean nothing in cp1252; they stay the control characters of latin-1, as web browsers read them.
_CP1252 = {byte: bytes([byte]).decode("cp1252") for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}

# What stands between ASCII characters, with the Latin letter on either side, if there is one.
_RUN = re.compile(r"([A-Za-z]?)([^\x00-\x7f]+)(?=([A-Za-z]?))")
_IDEOGRAPHS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]+")


def decode(content: bytes) -> tuple[str, str]:
    """The text, without a byte order mark, and which of `ENCODINGS` it was in; nothing is refused."""
    with suppress(UnicodeDecodeError):
        return content.decode("utf-8-sig"), UTF_8
    with suppress(UnicodeDecodeError):
        text = content.decode(GB18030)
        if not _is_cp1252(text):
            return text, GB18030
    return content.decode("latin-1").translate(_CP1252), CP1252


def _is_cp1252(text: str) -> bool:
    """Whether half or more of what is not ASCII in a text decoded as GB18030 looks like accented letters of cp1252.

    Tried on the 1,131 captions of MVSA-Single that are not UTF-8, of which it says so of none, and on the translated
    messages of a Linux system: it is right on 99.9 % of 242,000 of 21 western locales in cp1252 (strict decoding alone
    on 37 %), and on 99.6 % of 79,000 in Chinese and Japanese in GB18030. charset-normalizer, with these three to choose
    from, misreads one of those captions in 16.
    """
    faults = [_is_accented(*match.groups()) for match in _RUN.finditer(text)]
    return 2 * sum(faults) >= len(faults)


def _is_accented(before: str, run: str, after: str) -> bool:
    """Whether a run of characters between two letters, or between what is none, is more likely of accented letters.

    So is one ideograph that touches a Latin letter; so are ideographs whose second bytes are all Latin letters, and
    what Unicode assigns to nothing or to private use.
    """
    if any(unicodedata.category(character) in ("Co", "Cn") for character in run):
        return True
    if not _IDEOGRAPHS.fullmatch(run):
        return False
    is_within_word = len(run) == 1 and bool(before or after)
    return is_within_word or all(character.encode(GB18030)[1:].isalpha() for character in run)
