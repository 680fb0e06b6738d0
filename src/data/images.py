"""Images: decoding with checks, hashes and augmented views. No other module uses Pillow on posts."""

import hashlib
import math
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageEnhance, ImageMath, ImageOps, ImageStat
from PIL.ImageFile import ImageFile

from src.core.errors import UserError
from src.core.records import MAX_PIXELS

# Formats of posts. Pillow knows more, but some of their decoders start other programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")

# Errors that Pillow's decoders raise on damaged files, as tests with such files have shown.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)

# `warnings.catch_warnings` replaces a list of the whole process, so two threads must not use it at once.
_WARNINGS = threading.Lock()

# A JPEG can be decoded at 1/8, 1/4 or 1/2 of its size. This is done in these modes.
_SCALES = (8, 4, 2)
_SCALABLE = ("RGB", "L")

# pHash reads an image at this many rows and columns.
_HASHED_SIDE = 32
# An image whose greys (0 to 255) have a smaller standard deviation has no hash, because its bits would be noise.
_MIN_DEVIATION = 2.0

# The largest grey of a PNG with two or four bits. Pillow scales pixels to 255, but not the transparent grey.
_LARGEST = {"L;2": 3, "L;4": 15}

# The colours of the placeholder, three rows of three, and the width and height to which they are enlarged.
PLACEHOLDER = "c8503c 5aa050 4664be dcc878 3c3246 963c96 f0f0eb 1e6e6e b4825a"
PLACEHOLDER_SIZE = (64, 64)

_LIGHT = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class AugmentedImage:
    """A crop of an image in another light."""

    # A path, or the content of a file.
    source: str | Path | bytes
    # Left, upper, right and lower edge of the crop, as shares of the width and the height.
    part: tuple[float, float, float, float]
    # Factors on brightness, contrast and saturation.
    light: tuple[float, float, float]


Source = str | Path | bytes | AugmentedImage


class EncodablePost(Protocol):
    """A post as a model encodes it."""

    @property
    def image(self) -> Source:
        """Return the image."""

    @property
    def caption(self) -> str:
        """Return the caption."""

    @property
    def digest(self) -> str:
        """Return a digest that differs for any other image or caption."""


class UnreadableImage(UserError):
    """An unusable image file. `reason` completes a sentence that begins with "the image is"."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be used: the image is {reason}")
        self.reason = reason


def open_image(source: Source, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode the first frame of an image, upright, in RGB. Transparent pixels become white.

    `at_least` makes JPEGs quicker to decode. It should be twice the side to which the image is then resized with an
    averaging filter. Photos then differ by less than 2 grey levels of 255 on average, and by less than 20 in 99.9% of
    values; at three times the side, by less than 1 and 10. The worst known case is a page of small print in a strong
    colour on white, which differs by less than 10 and 60 at both (benchmarks/decoding.py).

    Args:
        source: a path, the content of a file, or an altered image.
        max_pixels: the largest width times height that is decoded. The header tells the size before decoding.
        at_least: a number of pixels, from 1. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, if its shorter
            side keeps so many pixels. Other formats, CMYK, and sides that the fraction does not divide are decoded in
            full.

    Raises:
        UnreadableImage: the file is missing, empty, no image or damaged, or has more than `max_pixels`.
    """
    if isinstance(source, AugmentedImage):
        return _open_altered(source, max_pixels, at_least)
    name = "the image" if isinstance(source, bytes) else str(source)
    image = _open(name, _content(source), max_pixels)
    if at_least is not None:
        _scale_down(image, at_least)
    try:
        image.load()
    except _BROKEN as error:
        raise UnreadableImage(name, "truncated or damaged") from error
    return _rgb(_upright(image))


def pixels_of(image: Image.Image, longest_side: int) -> tuple[bytes, tuple[int, int]]:
    """Return the pixels of an image, red, green and blue, row by row, and the numbers of rows and columns.

    A larger image is reduced to `longest_side` pixels on its longer side.
    """
    reduced = image.copy()
    reduced.thumbnail((longest_side, longest_side))
    return reduced.convert("RGB").tobytes(), (reduced.height, reduced.width)


def png_of(pixels: bytes, shape: tuple[int, int]) -> bytes:
    """Return an image file without loss from what `pixels_of` returns."""
    content = BytesIO()
    Image.frombytes("RGB", shape[::-1], pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()


def placeholder() -> bytes:
    """Return the content of the image file that stands for a missing image: nine colours that blend into each other.

    An image of one colour, or of noise, would be unlike all that a readout has learnt from, and some readouts answer
    the same to any caption beside it (docs/comparisons.md, "What the image adds").
    """
    content = BytesIO()
    Image.frombytes("RGB", (3, 3), bytes.fromhex(PLACEHOLDER)).resize(PLACEHOLDER_SIZE).save(content, "PNG")
    return content.getvalue()


def inspect(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Decode an image and return its width and height in pixels. Raises as `open_image` does."""
    return open_image(source, max_pixels).size


@cache
def alteration_digest() -> str:
    """Return a digest of an altered test image. It changes if the alteration gives other pixels."""
    content = BytesIO()
    across, around = Image.linear_gradient("L"), Image.radial_gradient("L")
    Image.merge("RGB", (across, around, across.rotate(90))).save(content, "PNG")
    probe = AugmentedImage(content.getvalue(), (0.1, 0.2, 0.8, 0.9), (0.9, 1.1, 0.8))
    return hashlib.sha256(open_image(probe).tobytes()).hexdigest()[:12]


def perceptual_hash(image: Image.Image) -> str:
    """Return 64 bits, as 16 hexadecimal digits, of which few change if an image is scaled or compressed again.

    pHash: a bit tells whether one of the 8 x 8 lowest frequencies of the greys, at 32 x 32, is above their median.
    Another crop or a mirror image has other bits. An image of nearly one colour has an empty hash, because all such
    images would look alike.
    Source: N. Krawetz, Looks Like It (hackerfactor.com, 2011), as the library ImageHash has it.
    """
    from imagehash import phash

    greys = image.convert("L").resize((_HASHED_SIDE, _HASHED_SIDE), Image.Resampling.LANCZOS)
    return "" if ImageStat.Stat(greys).stddev[0] < _MIN_DEVIATION else str(phash(greys))


def _open_altered(altered: AugmentedImage, max_pixels: int, at_least: int | None) -> Image.Image:
    left, upper, right, lower = altered.part
    smallest = min(right - left, lower - upper)
    image = open_image(altered.source, max_pixels, None if at_least is None else math.ceil(at_least / smallest))
    width, height = image.size
    # Rounding outwards leaves at least one pixel.
    box = (int(left * width), int(upper * height), math.ceil(right * width), math.ceil(lower * height))
    image = image.crop(box)
    for change, factor in zip(_LIGHT, altered.light, strict=True):
        image = change(image).enhance(factor)
    return image


def _content(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UnreadableImage(str(source), f"not there to be read ({error.strerror})") from error


def _open(name: str, content: bytes, max_pixels: int) -> ImageFile:
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
    _scale_transparent_colour(image)
    return image


def _scale_transparent_colour(image: ImageFile) -> None:
    """Scale the transparent colour of a PNG to the levels to which its pixels are decoded.

    Pillow keeps the high bytes of colours with 16 bits a channel. Colours that differ only in the low bytes are
    therefore transparent together.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    stored = image.tile[0].args if image.tile else None
    if stored in _LARGEST:
        # The PNG specification ignores bits above those of a pixel.
        image.info["transparency"] = (colour & _LARGEST[stored]) * 255 // _LARGEST[stored]
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in colour)


def _scale_down(image: Image.Image, at_least: int) -> None:
    """Decode a JPEG at the smallest fraction that divides its width and height.

    Otherwise the last row or column would cover less of the image than the others, and a later resize would shift the
    image by up to a pixel: 99.9% of a photo's values would differ by up to 90 grey levels instead of 9.
    """
    if image.mode not in _SCALABLE:
        return
    for scale in _SCALES:
        (width, no_column), (height, no_row) = divmod(image.width, scale), divmod(image.height, scale)
        if min(width, height) >= at_least and no_column == no_row == 0:
            image.draft(None, (width, height))
            return


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _quiet():
            return ImageOps.exif_transpose(image)
    except _BROKEN:
        # A damaged EXIF block gives no orientation, but the image itself is sound.
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale greys of 16 bits, which Pillow would clip to 255. The transparent grey is compared at 16 bits."""
    transparent = image.info.get("transparency")
    greys = image.convert("I")
    scaled = greys.point(lambda grey: grey * (1 / 256)).convert("L")
    scaled.info.pop("transparency", None)
    if transparent is not None:
        opaque = ImageMath.lambda_eval(lambda values: (values["greys"] != transparent) * 255, greys=greys)
        scaled.putalpha(opaque.convert("L"))
    return scaled


@contextmanager
def _quiet() -> Iterator[None]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
