"""Pictures, decoded whole or refused: the only door to Pillow."""

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

MAX_PIXELS = 50_000_000

# What posts carry. Pillow knows more formats, but some of their decoders start other programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp")

# What Pillow's decoders raise on bytes that are not what they claim to be, found by feeding them damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)

# `warnings.catch_warnings` swaps a list of the whole process, so two threads must not do it at once.
_WARNINGS = threading.Lock()

# What a JPEG's blocks of 8 x 8 can be decoded to a fraction of, and the modes for which that is asked.
_SCALES, _SCALABLE = (8, 4, 2), ("RGB", "L")

# pHash reads a picture in this many rows and columns. It is of next to one colour where its greys, of 0 to 255, deviate
# by less than this: what is left are the bits of the noise.
_HASHED_SIDE, _EVEN = 32, 2.0

# The largest grey of a PNG of two bits, or of four: Pillow scales it to 255, but not the transparent one.
_LARGEST = {"L;2": 3, "L;4": 15}

_LIGHT = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True)
class AugmentedImage:
    """A picture that is opened as another one: a part of it, in another light.

    Attributes:
        source: a path, or the content of a file.
        part: left, upper, right and lower edge of what is kept, as shares of the width and the height.
        light: factors on its brightness, contrast and saturation.
    """

    source: str | Path | bytes
    part: tuple[float, float, float, float]
    light: tuple[float, float, float]


Source = str | Path | bytes | AugmentedImage


class EncodablePost(Protocol):
    """What a model is shown of a post; the digest tells it from all other contents."""

    @property
    def image(self) -> Source:
        """The picture."""

    @property
    def caption(self) -> str:
        """The words."""

    @property
    def digest(self) -> str:
        """SHA-256 of both, as hexadecimal."""


class UnreadableImage(UserError):
    """A file that is no picture we can use; `reason` says why, in words that follow "the image is"."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be used: the image is {reason}")
        self.reason = reason


def open_image(source: Source, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode the first frame of a picture, upright, in RGB; what is transparent becomes white.

    `at_least` is meant to be twice the side that the picture is resized to next, by a filter that averages over what it
    shrinks. Photos, with lettering on them or without, then differ from what they would be without it by less than 2
    grey levels of 255 on average and by less than 20 in 99.9% of their values; at three times the side, by less than 1
    and 10. The worst case known, a page of small print in a strong colour on white, differs by less than 10 and 60 at
    either (benchmarks/decoding.py).

    Args:
        source: a path, the content of a file, or what is to be made of one of them.
        max_pixels: the largest width times height that is decoded, read from the header before anything is.
        at_least: a number of pixels, 1 or more. A JPEG may then come out at 1/2, 1/4 or 1/8 of its size, with a shorter
            side of no fewer pixels than that. All else comes out as without it: a picture that is no JPEG, too small,
            in CMYK, or of a width or height that the fraction does not divide.

    Raises:
        UnreadableImage: there is no such file, it is empty, no picture, damaged, or has more than `max_pixels`.
    """
    if isinstance(source, AugmentedImage):
        return _altered(source, max_pixels, at_least)
    name = "the picture" if isinstance(source, bytes) else str(source)
    image = _open(name, _content(source), max_pixels)
    if at_least is not None:
        _scale_down(image, at_least)
    try:
        image.load()
    except _BROKEN as error:
        raise UnreadableImage(name, "truncated or damaged") from error
    return _rgb(_upright(image))


def blank() -> bytes:
    """A picture that shows nothing, as the content of a file: even grey, for a post that has none."""
    content = BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(content, "PNG")
    return content.getvalue()


def inspect(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels of a picture, once it has been decoded whole; raises as `open_image` does."""
    return open_image(source, max_pixels).size


@cache
def alteration_digest() -> str:
    """Changes when an `AugmentedImage` picture comes out otherwise than it did."""
    content = BytesIO()
    across, around = Image.linear_gradient("L"), Image.radial_gradient("L")
    Image.merge("RGB", (across, around, across.rotate(90))).save(content, "PNG")
    probe = AugmentedImage(content.getvalue(), (0.1, 0.2, 0.8, 0.9), (0.9, 1.1, 0.8))
    return hashlib.sha256(open_image(probe).tobytes()).hexdigest()[:12]


def perceptual_hash(image: Image.Image) -> str:
    """64 bits, as 16 hexadecimal digits, of which few change when a picture is scaled or compressed anew.

    pHash: which of the 8 x 8 lowest frequencies of the picture's greys, at 32 x 32, are above their median. Another
    crop or a mirror image has other bits. A picture of next to one colour has none, for all of those would look alike.
    Source: N. Krawetz, Looks Like It (hackerfactor.com, 2011), as the library ImageHash has it.
    """
    from imagehash import phash

    greys = image.convert("L").resize((_HASHED_SIDE, _HASHED_SIDE), Image.Resampling.LANCZOS)
    return "" if ImageStat.Stat(greys).stddev[0] < _EVEN else str(phash(greys))


def _altered(picture: AugmentedImage, max_pixels: int, at_least: int | None) -> Image.Image:
    left, upper, right, lower = picture.part
    smallest = min(right - left, lower - upper)
    image = open_image(picture.source, max_pixels, None if at_least is None else math.ceil(at_least / smallest))
    width, height = image.size
    # A part of less than a pixel is none.
    box = (int(left * width), int(upper * height), math.ceil(right * width), math.ceil(lower * height))
    image = image.crop(box)
    for change, factor in zip(_LIGHT, picture.light, strict=True):
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
    """Bring the transparent colour of a PNG to the levels that its pixels are decoded to.

    Pillow takes the high bytes of colours of 16 bits a channel, so that those which differ in their low bytes alone
    are transparent together.
    """
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    stored = image.tile[0].args if image.tile else None
    if stored in _LARGEST:
        # Bits above those of a pixel count for nothing, as the specification has it.
        image.info["transparency"] = (colour & _LARGEST[stored]) * 255 // _LARGEST[stored]
    elif stored == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in colour)


def _scale_down(image: Image.Image, at_least: int) -> None:
    """Have a JPEG decoded at the smallest fraction that leaves nothing over.

    Where the last row or column is only in part of the picture, a later resize takes it for whole and may round to
    another size. The picture shifts by up to a pixel, and 99.9% of a photo lies within 90 grey levels, not within 9.
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
        # A damaged EXIF block says nothing about which way is up, and the picture itself is sound.
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
    """Scale greys of 16 bits, for Pillow clips them to 255; the transparent one is found while it has all its bits."""
    transparent, greys = image.info.get("transparency"), image.convert("I")
    scaled = greys.point(lambda grey: grey * (1 / 256)).convert("L")
    scaled.info.pop("transparency", None)
    if transparent is not None:
        shows = ImageMath.lambda_eval(lambda values: (values["greys"] != transparent) * 255, greys=greys)
        scaled.putalpha(shows.convert("L"))
    return scaled


@contextmanager
def _quiet() -> Iterator[None]:
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
