"""Covers: modes and transparency of image files, by their formats' specifications (src/data/images.py)."""

import struct
import zlib
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from src.data.images import UnreadableImage, open_image

Colour = tuple[int, ...]
BLACK, WHITE, RED, GREEN, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
PALETTE = bytes([*RED, *GREEN, *BLUE])
GREY, GREY_AND_ALPHA, TRUECOLOUR, INDEXED, TRUECOLOUR_AND_ALPHA = 0, 4, 2, 3, 6


def png(kind: int, depth: int, row: bytes, width: int, *, transparent: bytes = b"", exif: bytes = b"") -> bytes:
    """Return a PNG of one row, built by its specification."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    optional = {b"PLTE": PALETTE if kind == INDEXED else b"", b"tRNS": transparent, b"eXIf": exif}
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))]
    chunks += [chunk(name, content) for name, content in optional.items() if content]
    chunks += [chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def words(*values: int) -> bytes:
    """Numbers of 16 bits, the high byte first."""
    return struct.pack(f">{len(values)}H", *values)


def saved(mode: str, pixels: list[Any], kind: str, **options: Any) -> bytes:
    image, file = Image.new(mode, (len(pixels), 1)), BytesIO()
    if mode == "P":
        image.putpalette(PALETTE)
    image.putdata(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def bmp_of_32_bits(pixels: list[Colour], alpha_mask: int) -> bytes:
    """Return a BMP with a BITMAPV4HEADER, whose masks assign bits to channels."""
    content = bytes(pixel[place] for pixel in pixels for place in (2, 1, 0, 3))
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha_mask)
    header = struct.pack("<IiiHHIIiiII", 108, len(pixels), 1, 1, 32, 3, len(content), 0, 0, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 122 + len(content), 0, 0, 122) + header + content


def colours(content: bytes) -> list[Any]:
    image = open_image(content)
    assert (image.mode, image.height) == ("RGB", 1)
    return [image.getpixel((column, 0)) for column in range(image.width)]


def greys(*levels: int) -> list[Colour]:
    return [(level, level, level) for level in levels]


GREYS_OF_16 = words(0, 0x8000, 0x80FF, 0xFFFF)
HALF_SEEN = bytes([*RED, 255, *RED, 128, *RED, 0])
COLOURS_OF_16 = words(0x1000, 0x2000, 0x3000, 0xFFFF, 0, 0x80FF)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(png(GREY, 1, b"\x50", 4), greys(0, 255, 0, 255), id="1"),
        pytest.param(png(GREY, 1, b"\x50", 4, transparent=words(0)), greys(255, 255, 255, 255), id="1 tRNS black"),
        pytest.param(png(GREY, 1, b"\x50", 4, transparent=words(1)), greys(0, 255, 0, 255), id="1 tRNS white"),
        pytest.param(png(GREY, 2, b"\x1b", 4), greys(0, 85, 170, 255), id="L;2"),
        pytest.param(png(GREY, 2, b"\x1b", 4, transparent=words(1)), greys(0, 255, 170, 255), id="L;2 tRNS"),
        pytest.param(png(GREY, 4, b"\x06\x3f", 4), greys(0, 102, 51, 255), id="L;4"),
        pytest.param(png(GREY, 4, b"\x06\x3f", 4, transparent=words(6)), greys(0, 255, 51, 255), id="L;4 tRNS"),
        pytest.param(png(GREY, 8, bytes([0, 100, 255]), 3), greys(0, 100, 255), id="L"),
        pytest.param(png(GREY, 8, bytes([0, 100, 9]), 3, transparent=words(100)), greys(0, 255, 9), id="L tRNS"),
        pytest.param(png(GREY, 8, bytes([0, 100]), 2, transparent=words(0x164)), greys(0, 255), id="L tRNS, high bits"),
        pytest.param(
            png(GREY, 4, b"\x06\x3f", 4, transparent=words(0x1F6)), greys(0, 255, 51, 255), id="L;4 tRNS, high bits"
        ),
        pytest.param(png(GREY, 16, GREYS_OF_16, 4), greys(0, 128, 128, 255), id="I;16"),
        pytest.param(png(GREY, 16, GREYS_OF_16, 4, transparent=words(0x8000)), greys(0, 255, 128, 255), id="I;16 tRNS"),
        pytest.param(png(GREY, 16, GREYS_OF_16, 4, transparent=words(0)), greys(255, 128, 128, 255), id="I;16 tRNS 0"),
        pytest.param(saved("I;16B", [0, 0x4000], "PNG"), greys(0, 64), id="I;16B"),
        pytest.param(png(GREY_AND_ALPHA, 8, bytes([0, 255, 0, 128, 9, 0]), 3), greys(0, 127, 255), id="LA"),
        pytest.param(png(GREY_AND_ALPHA, 16, words(0, 0xFFFF, 0, 0x8080), 2), greys(0, 127), id="LA of 16 bits"),
        pytest.param(png(TRUECOLOUR, 8, bytes([*RED, 1, 2, 3]), 2), [RED, (1, 2, 3)], id="RGB"),
        pytest.param(
            png(TRUECOLOUR, 8, bytes([*RED, 1, 2, 3]), 2, transparent=words(*RED)), [WHITE, (1, 2, 3)], id="RGB tRNS"
        ),
        pytest.param(png(TRUECOLOUR, 16, COLOURS_OF_16, 2), [(16, 32, 48), (255, 0, 128)], id="RGB of 16 bits"),
        pytest.param(
            png(TRUECOLOUR, 16, COLOURS_OF_16, 2, transparent=COLOURS_OF_16[:6]),
            [WHITE, (255, 0, 128)],
            id="RGB of 16 bits tRNS",
        ),
        pytest.param(png(TRUECOLOUR_AND_ALPHA, 8, HALF_SEEN, 3), [RED, (255, 127, 127), WHITE], id="RGBA"),
        pytest.param(
            png(TRUECOLOUR_AND_ALPHA, 16, words(0xFFFF, 0, 0, 0xFFFF, 0xFFFF, 0, 0, 0x8080), 2),
            [RED, (255, 127, 127)],
            id="RGBA of 16 bits",
        ),
        pytest.param(png(INDEXED, 8, bytes([0, 1, 2]), 3), [RED, GREEN, BLUE], id="P"),
        pytest.param(png(INDEXED, 2, b"\x18", 3), [RED, GREEN, BLUE], id="P;2"),
        pytest.param(png(INDEXED, 8, bytes([0, 1, 2]), 3, transparent=b"\xff\0"), [RED, WHITE, BLUE], id="P tRNS one"),
        pytest.param(
            png(INDEXED, 8, bytes([0, 1, 2]), 3, transparent=b"\0\x80"), [WHITE, (127, 255, 127), BLUE], id="P tRNS"
        ),
        pytest.param(saved("P", [0, 1, 2], "GIF"), [RED, GREEN, BLUE], id="GIF"),
        pytest.param(saved("P", [0, 1, 2], "GIF", transparency=1), [RED, WHITE, BLUE], id="GIF transparent"),
        pytest.param(saved("RGB", [RED, BLUE], "WEBP", lossless=True), [RED, BLUE], id="WebP"),
        pytest.param(
            saved("RGBA", [(*RED, 255), (*RED, 128), (*RED, 0)], "WEBP", lossless=True, exact=True),
            [RED, (255, 127, 127), WHITE],
            id="WebP RGBA",
        ),
        pytest.param(saved("1", [0, 255], "BMP"), greys(0, 255), id="BMP 1"),
        pytest.param(saved("L", [0, 100], "BMP"), greys(0, 100), id="BMP L"),
        pytest.param(saved("P", [0, 1, 2], "BMP"), [RED, GREEN, BLUE], id="BMP P"),
        pytest.param(saved("RGB", [RED, BLUE], "BMP"), [RED, BLUE], id="BMP RGB"),
        pytest.param(
            bmp_of_32_bits([(*RED, 255), (*RED, 128)], 0xFF000000), [RED, (255, 127, 127)], id="BMP with alpha"
        ),
        pytest.param(bmp_of_32_bits([(*RED, 0), (*BLUE, 0)], 0), [RED, BLUE], id="BMP with spare bits"),
    ],
)
def test_lossless_images_are_exact(content: bytes, expected: list[Colour]) -> None:
    assert colours(content) == expected


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "YCbCr", "CMYK"])
def test_every_jpeg_mode_keeps_colour(mode: str) -> None:
    levels: dict[str, tuple[Any, Colour]] = {
        "1": (255, WHITE),
        "L": (100, (100, 100, 100)),
        "RGB": (GREEN, GREEN),
        "YCbCr": ((76, 85, 255), RED),
        "CMYK": ((0, 255, 255, 0), RED),
    }
    pixel, expected = levels[mode]
    for shown in colours(saved(mode, [pixel] * 8, "JPEG", quality=100)):
        assert shown == pytest.approx(expected, abs=2)


def without_adobe_marker(content: bytes) -> bytes:
    start = content.index(b"Adobe") - 4
    return content[:start] + content[start + 2 + struct.unpack_from(">H", content, start + 2)[0] :]


def test_cmyk_is_inverted_with_or_without_marker() -> None:
    """As Photoshop writes them and browsers read them."""
    content = saved("CMYK", [(0, 255, 255, 0)] * 8, "JPEG", quality=100)
    bare = without_adobe_marker(content)
    assert b"Adobe" not in bare
    assert colours(bare) == colours(content)
    assert colours(content)[0] == pytest.approx(RED, abs=2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animation_gives_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (2, 1), colour) for colour in (RED, BLUE)]
    file = BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
    assert colours(file.getvalue()) == [RED, RED]


def test_transparent_frame_is_on_white() -> None:
    frames = [Image.new("RGBA", (2, 1), colour) for colour in ((*RED, 0), (*BLUE, 255))]
    for kind, options in {"GIF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        file = BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
        assert colours(file.getvalue()) == [WHITE, WHITE], kind


def test_rotated_image_keeps_transparent_colour() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which swaps the ends of a row
    turned = exif.tobytes().removeprefix(b"Exif\0\0")
    for depth, row in ((8, bytes([0, 100])), (16, words(0, 100))):
        content = png(GREY, depth, row, 2, transparent=words(0), exif=turned)
        assert colours(content) == [(100, 100, 100) if depth == 8 else BLACK, WHITE]


@pytest.mark.parametrize("mode", ["I;16B", "I", "F", "PA", "LAB", "RGBX"])
def test_other_formats_are_refused(mode: str) -> None:
    file = BytesIO()
    Image.new(mode, (1, 1)).save(file, "TIFF")
    with pytest.raises(UnreadableImage) as refused:
        open_image(file.getvalue())
    assert refused.value.reason == "no readable JPEG, PNG, GIF, WEBP or BMP"
