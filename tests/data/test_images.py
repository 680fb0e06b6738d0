import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.data.images import UnreadableImage, inspect, open_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes that would decode to width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.new("RGB", (8, 4), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def see_through() -> bytes:
    image = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    return encoded(image, "PNG")


def see_through_palette() -> bytes:
    image = Image.new("RGB", (8, 4), "red").quantize(2)
    return encoded(image, "PNG", transparency=bytes([0, 0]))


def see_through_grey() -> bytes:
    return encoded(Image.new("LA", (8, 4), (0, 0)), "PNG")


@pytest.mark.parametrize(
    ("make", "colour"),
    [
        (lambda: encoded(Image.new("RGB", (8, 4), RED), "PNG"), RED),
        (lambda: encoded(Image.new("CMYK", (8, 4), (0, 255, 255, 0)), "JPEG", quality=100), RED),
        (lambda: encoded(Image.new("L", (8, 4), 255), "JPEG"), WHITE),
        (lambda: encoded(Image.new("I;16", (8, 4), 0x8000), "PNG"), (128, 128, 128)),
        (lambda: encoded(Image.new("1", (8, 4), 1), "BMP"), WHITE),
        (animation, RED),
        (see_through, WHITE),
        (see_through_palette, WHITE),
        (see_through_grey, WHITE),
    ],
)
def test_every_kind_of_picture_becomes_rgb(make: Callable[[], bytes], colour: tuple[int, int, int]) -> None:
    image = open_image(make())
    assert (image.mode, image.size) == ("RGB", (8, 4))
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    assert pixel == pytest.approx(colour, abs=2)


def test_camera_orientation_is_respected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "1.jpg"
    path.write_bytes(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif))
    assert inspect(path) == inspect(str(path)) == (4, 8)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    at = content.index(b"Exif\0\0") + 6
    damaged = content[: at + 8] + b"\xff" * 10 + content[at + 18 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(inspect(damaged)) == {8, 4}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"hello", "no readable JPEG, PNG, GIF, WEBP or BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable JPEG, PNG, GIF, WEBP or BMP"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-900], "truncated or damaged"),
        (png_claiming(50, 50), "truncated or damaged"),
    ],
)
def test_what_is_no_sound_picture_is_refused_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match="the picture cannot be used") as refused:
        open_image(content)
    assert refused.value.reason == reason


@pytest.mark.parametrize("side", [8_000, 10_000, 100_000])
def test_a_bomb_is_refused_by_its_header_without_a_warning(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage) as refused:
            open_image(png_claiming(side, side))
    assert refused.value.reason == "larger than 50,000,000 pixels"


def test_the_limit_is_the_callers() -> None:
    content = encoded(Image.new("RGB", (8, 4)), "PNG")
    assert inspect(content, max_pixels=32) == (8, 4)
    with pytest.raises(UnreadableImage, match="larger than 31 pixels"):
        inspect(content, max_pixels=31)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"none\.jpg cannot be used: the image is not there"):
        open_image(tmp_path / "none.jpg")
