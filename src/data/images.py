"""Pictures, decoded whole or refused: the only door to Pillow."""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from src.core.errors import Refusal

MAX_PIXELS = 50_000_000

# What posts carry. Pillow knows more formats, but some of their decoders start other programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")

# What Pillow's decoders raise on bytes that are not what they claim to be, found by feeding them damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)

# `warnings.catch_warnings` swaps a list of the whole process, so two threads must not do it at once.
_WARNINGS = threading.Lock()

Source = str | Path | bytes


class UnreadableImage(Refusal):
    """A file that is no picture we can use; `reason` says why, in words that follow "the image is"."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be used: the image is {reason}")
        self.reason = reason


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of a picture, upright, in RGB; what is transparent becomes white.

    Args:
        source: a path, or the content of a file.
        max_pixels: the largest width times height that is decoded, read from the header before anything is.

    Raises:
        UnreadableImage: there is no such file, it is empty, no picture, damaged, or has more than `max_pixels`.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    image = _open(name, _content(source), max_pixels)
    try:
        image.load()
    except _BROKEN as error:
        raise UnreadableImage(name, "truncated or damaged") from error
    return _rgb(_upright(image))


def inspect(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels of a picture, once it has been decoded whole; raises as `open_image` does."""
    return open_image(source, max_pixels).size


def _content(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UnreadableImage(str(source), f"not there to be read ({error.strerror})") from error


def _open(name: str, content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise UnreadableImage(name, "an empty file")
    try:
        with _quiet():
            image = Image.open(BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"larger than {max_pixels:,} pixels") from error
    except _BROKEN as error:
        raise UnreadableImage(name, f"no readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    if image.width * image.height > max_pixels:
        raise UnreadableImage(name, f"larger than {max_pixels:,} pixels")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _quiet():
            return ImageOps.exif_transpose(image)
    except _BROKEN:
        # A damaged EXIF block says nothing about which way is up, and the picture itself is sound.
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow clips 16-bit greys to 255 instead of scaling them.
        image = image.convert("I").point(lambda grey: grey * (1 / 256)).convert("L")
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
