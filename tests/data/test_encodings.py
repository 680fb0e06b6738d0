"""All texts here are made up."""

import pytest

from src.data.encodings import CERTAIN, CP1252, GB18030, GUESSED, UNMARKED, UTF_8, UTF_16, UTF_32, decode, lines


@pytest.mark.parametrize("text", ["", "plain", "caf\u00e9 \u2019\u20ac \U0001f600", "\u732b\u304c\u597d\u304d"])
def test_utf_8_comes_first(text: str) -> None:
    assert decode(text.encode()) == (text, UTF_8)


def test_byte_order_mark_is_removed() -> None:
    assert decode(b"\xef\xbb\xbfmarked") == ("marked", UTF_8)


@pytest.mark.parametrize(
    "text",
    [
        "it is raining\u2026 again",
        "\u201cwhat a day\u201d \u2014 they said",
        "we\u2019re home",
        "the road \u2013 and the sea",
        "a caf\u00e9 in K\u00f6ln, a cr\u00eape",
        "\u0441\u0435\u0433\u043e\u0434\u043d\u044f \u0434\u043e\u0436\u0434\u044c",
        "\u732b\u304c\u597d\u304d",
        "\u767a\u58f2\u4e2d",
        "on the road \u8f66 again",
        "\u732b\u306e\u5199\u771fUP\u3057\u305f",
        "\u6211\u5728\u5bb6iPhone\u62cd\u7167\uff01",
        "\u7121\u6599 #\u4eca\u65e5",
        "on the roof\ue106\ue428 \u201cagain\u201d",
        "so nice\U0001f600",
    ],
)
def test_chinese_windows_text_is_gb18030(text: str) -> None:
    """In whatever language; characters of private use are the emoji of old telephones."""
    assert decode(text.encode(GB18030)) == (text, GB18030)


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9",
        "caf\u00e9 noir",
        "for 5 \u20ac at the market",
        "\u201cwhat a day\u201d",
        "this was no GB18030: caf\u00e9 \u2019",
    ],
)
def test_invalid_gb18030_is_cp1252(text: str) -> None:
    with pytest.raises(UnicodeDecodeError):
        text.encode(CP1252).decode(GB18030)
    assert decode(text.encode(CP1252)) == (text, CP1252)


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9s",
        "this morning in Z\u00fcrich:",
        "it\u2019s official",
        "\u00c9cole du soir",
        "uma reuni\u00e3o",
        "aten\u00e7\u00e3o",
        "det \u00e4r h\u00e4r",
        "l'\u00e9t\u00e9e cr\u00e9\u00e9e",
        "les \u00e9l\u00e9ments",
        "\u00a1\u00a1\u00a1Feliz 2015!!!",
    ],
)
def test_accents_valid_as_gb18030_are_cp1252(text: str) -> None:
    content = text.encode(CP1252)
    assert content.decode(GB18030) != text, "it can be read, though wrongly"
    assert decode(content) == (text, CP1252)


def test_every_byte_is_decoded() -> None:
    assert decode(b"\x81\xe9\x9d") == ("\x81\u00e9\x9d", CP1252)
    for byte in range(0x80, 0x100):
        assert decode(bytes([byte]))[1] == CP1252
    assert decode(bytes(range(256)))[1] in (*CERTAIN, *GUESSED)


CAPTIONS = (
    "what a day\n",
    "caf\u00e9 \u2019\u20ac\n",
    "\u732b\u304c\u597d\u304d\n",
    "so nice \U0001f600",
    "\u0441\u043d\u0435\u0433 \u0438\u0434\u0451\u0442",
)


@pytest.mark.parametrize("text", ["", *CAPTIONS])
@pytest.mark.parametrize(
    ("codec", "name"),
    [("utf-16-le", UTF_16), ("utf-16-be", UTF_16), ("utf-32-le", UTF_32), ("utf-32-be", UTF_32), ("utf-8", UTF_8)],
)
def test_byte_order_mark_gives_encoding(text: str, codec: str, name: str) -> None:
    assert decode(f"\ufeff{text}".encode(codec)) == (text, name)


@pytest.mark.parametrize("text", CAPTIONS)
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_zero_bytes_mark_utf_16(text: str, codec: str) -> None:
    assert decode(text.encode(codec)) == (text, UNMARKED)
    assert UNMARKED in GUESSED


@pytest.mark.parametrize("content", [b"what a day\0", b"caf\xc3\xa9\0\0"])
def test_trailing_zero_bytes_are_padding(content: bytes) -> None:
    assert decode(content) == (content.decode(), UTF_8)


def test_zero_bytes_on_both_sides_are_not_utf_16() -> None:
    assert decode(b"a\0\0b\0\0")[1] == UTF_8


@pytest.mark.parametrize(
    ("content", "text", "name"),
    [
        (b"\xff\xfeh\0i\0!", "hi\ufffd", UTF_16),
        (b"\xfe\xff\0h\xd8\0", "h\ufffd", UTF_16),
        (b"\xef\xbb\xbfcaf\xe9 noir", "caf\ufffd noir", UTF_8),
    ],
)
def test_damage_after_mark_is_named(content: bytes, text: str, name: str) -> None:
    assert decode(content) == (text, f"{name}, damaged")


def test_any_line_end_splits_lines() -> None:
    assert lines("\ufeffone\r\ntwo\rthree\n".encode("utf-16-le")) == (["one", "two", "three", ""], UTF_16)
