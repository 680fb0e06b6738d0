import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from src.data import images
from src.data.images import (
    AugmentedImage,
    UnreadableImage,
    alteration_digest,
    inspect,
    open_image,
    pixels_of,
    placeholder,
    png_of,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """Return a few bytes that would decode to width x height pixels."""

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
def test_every_mode_becomes_rgb(make: Callable[[], bytes], colour: tuple[int, int, int]) -> None:
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


def test_damaged_exif_is_ignored() -> None:
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
def test_unusable_file_gives_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match="the image cannot be used") as refused:
        open_image(content)
    assert refused.value.reason == reason


@pytest.mark.parametrize("side", [8_000, 10_000, 100_000])
def test_bomb_is_refused_by_header(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage) as refused:
            open_image(png_claiming(side, side))
    assert refused.value.reason == "larger than 50,000,000 pixels"


def test_caller_sets_pixel_limit() -> None:
    content = encoded(Image.new("RGB", (8, 4)), "PNG")
    assert inspect(content, max_pixels=32) == (8, 4)
    with pytest.raises(UnreadableImage, match="larger than 31 pixels"):
        inspect(content, max_pixels=31)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"none\.jpg cannot be used: the image is not there"):
        open_image(tmp_path / "none.jpg")


@cache
def scene(width: int, height: int, seed: int = 7) -> Image.Image:
    """Noise of the spectrum of natural scenes, with sharp letters on it."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]).astype(np.float32)
    frequency[0, 0] = 1
    phases_4HF = np.float32(2 * np.pi) * rng.random((4, *frequency.shape), dtype=np.float32)
    waves_4HF = (np.cos(phases_4HF) + np.complex64(1j) * np.sin(phases_4HF)) / frequency
    common, *own = (np.fft.irfft2(waves, s=(height, width)) for waves in waves_4HF)
    layers_HW3 = np.stack([common + 0.5 * layer for layer in own], axis=-1)
    levels_HW3 = 127 + 50 * layers_HW3 / layers_HW3.std()
    image = Image.fromarray(np.clip(levels_HW3, 0, 255).astype(np.uint8))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height // 10)
    for row, ink in enumerate(("white", "black", "red", "yellow")):
        pen.text((width // 20, height * (row + 3) // 10), "WHAT A DAY! so sad @you", ink, font)
    return image


def far_apart(image: Image.Image, whole: Image.Image) -> float:
    """Return the mean difference in grey levels of two images at 20 x 20 pixels."""
    thumbnails = [np.asarray(version.resize((20, 20), Image.Resampling.BOX)).astype(int) for version in (image, whole)]
    return float(np.abs(thumbnails[0] - thumbnails[1]).mean())


def as_the_model_sees_it(image: Image.Image, side: int) -> npt.NDArray[np.int16]:
    process = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    pixels = process([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return np.asarray(pixels).astype(np.int16)


def what_a_fraction_changes(content: bytes, side: int, times: int) -> npt.NDArray[np.int16]:
    """In grey levels, at least one of them not 0."""
    image, whole = open_image(content, at_least=times * side), open_image(content)
    difference: npt.NDArray[np.int16] = np.abs(as_the_model_sees_it(image, side) - as_the_model_sees_it(whole, side))
    assert difference.any()
    return difference


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((640, 480), 481, (640, 480)),
        ((640, 480), 480, (640, 480)),
        ((640, 480), 241, (640, 480)),
        ((640, 480), 240, (320, 240)),
        ((640, 480), 121, (320, 240)),
        ((640, 480), 120, (160, 120)),
        ((480, 640), 60, (60, 80)),
        ((640, 480), 1, (80, 60)),
        ((644, 480), 60, (161, 120)),
        ((642, 480), 60, (321, 240)),
        ((642, 482), 60, (321, 241)),
        ((641, 480), 60, (641, 480)),
        ((640, 479), 60, (640, 479)),
        ((8, 8), 1, (1, 1)),
        ((4, 4), 1, (1, 1)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_jpeg_fraction_divides_the_size(size: tuple[int, int], at_least: int, expected: tuple[int, int]) -> None:
    content = encoded(Image.new("RGB", size), "JPEG")
    assert open_image(content, at_least=at_least).size == expected
    assert open_image(content).size == inspect(content) == size


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:4:4"}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 5}),
        ("L", {}),
        ("L", {"progressive": True}),
    ],
)
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_jpeg_fraction_is_same_image(mode: str, options: dict[str, Any], scale: int) -> None:
    content = encoded(scene(640, 480).convert(mode), "JPEG", quality=90, **options)
    image, whole = open_image(content, at_least=480 // scale), open_image(content)
    assert (image.mode, image.size) == ("RGB", (640 // scale, 480 // scale))
    assert far_apart(image, whole) < 1
    if mode == "L":
        red, green, blue = image.split()
        assert red.tobytes() == green.tobytes() == blue.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_fraction_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(scene(320, 240), "JPEG", quality=90, exif=exif)
    image, whole = open_image(content, at_least=120), open_image(content)
    assert image.size == ((120, 160) if orientation > 4 else (160, 120)) == (whole.width // 2, whole.height // 2)
    assert far_apart(image, whole) < 1


def test_first_frame_comes_at_fraction() -> None:
    picture, other = scene(320, 240), Image.new("RGB", (320, 240))
    content = encoded(picture, "MPO", save_all=True, append_images=[other])
    assert Image.open(BytesIO(content)).format == "MPO"
    image = open_image(content, at_least=120)
    assert image.size == (160, 120)
    assert far_apart(image, open_image(content)) < 1


@pytest.mark.parametrize(
    ("kind", "mode", "size"),
    [
        ("JPEG", "CMYK", (320, 240)),
        ("JPEG", "RGB", (321, 240)),
        ("JPEG", "RGB", (320, 238)),
        ("JPEG", "L", (320, 118)),
        ("PNG", "RGB", (320, 240)),
        ("PNG", "L", (320, 240)),
        ("GIF", "P", (320, 240)),
        ("WEBP", "RGB", (320, 240)),
        ("BMP", "RGB", (320, 240)),
    ],
)
def test_other_images_ignore_at_least(kind: str, mode: str, size: tuple[int, int]) -> None:
    content = encoded(scene(*size).convert(mode), kind)
    image, whole = open_image(content, at_least=120), open_image(content)
    assert (image.mode, image.size) == (whole.mode, whole.size) == ("RGB", size)
    assert image.tobytes() == whole.tobytes()


@pytest.mark.parametrize(("times", "mean", "p999"), [(2, 2, 20), (3, 1, 10)])
@pytest.mark.parametrize(("side", "scale", "quality"), [(224, 2, 75), (224, 2, 95), (224, 4, 85), (336, 2, 85)])
def test_processor_output_is_nearly_equal(
    side: int, scale: int, quality: int, times: int, mean: float, p999: float
) -> None:
    """`open_image` states this tolerance for the smallest allowed fraction."""
    height = times * side * scale
    content = encoded(scene(height * 4 // 3 // 8 * 8, height), "JPEG", quality=quality)
    assert open_image(content, at_least=times * side).height == times * side
    difference = what_a_fraction_changes(content, side, times)
    assert difference.mean() < mean
    assert np.percentile(difference, 99.9) < p999


@pytest.mark.parametrize(("height", "times"), [(896, 2), (1792, 2), (1344, 3)])
@pytest.mark.parametrize("ink", ["black", "blue"])
def test_small_print_is_nearly_equal(ink: str, height: int, times: int) -> None:
    page = Image.new("RGB", (height, height), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for row in range(0, height, 18):
        pen.text((-row, row), "The quick brown fox jumps over the lazy dog. " * (height // 70), ink, font)
    difference = what_a_fraction_changes(encoded(page, "JPEG", quality=85), 224, times)
    assert difference.mean() < 10
    assert np.percentile(difference, 99.9) < 60


def reason_of(content: bytes, at_least: int | None) -> str:
    try:
        open_image(content, at_least=at_least)
    except UnreadableImage as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_cut_jpeg_is_refused_at_fraction(options: dict[str, Any]) -> None:
    content = encoded(scene(320, 240), "JPEG", quality=90, **options)
    for end in [*range(1, len(content), 211), *range(len(content) - 30, len(content) - 2)]:
        reasons = {reason_of(content[:end], at_least) for at_least in (None, 120, 60, 30)}
        assert len(reasons) == 1, f"cut at {end} of {len(content)}: {reasons}"
        assert reasons != {""}


def test_large_cut_jpeg_is_refused() -> None:
    """It is fed to the decoder in several blocks of 64 KiB."""
    content = encoded(scene(1200, 800), "JPEG", quality=95)
    assert len(content) > 200_000
    for missing in (3, 100, 10_000, 100_000):
        assert reason_of(content[:-missing], 100) == reason_of(content[:-missing], None) == "truncated or damaged"


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_damaged_jpeg_gives_same_verdict(options: dict[str, Any]) -> None:
    content = encoded(scene(128, 96), "JPEG", quality=90, **options)
    rng = np.random.default_rng(7)
    verdicts = []
    for _ in range(200):
        damaged = bytearray(content)
        for at in rng.integers(2, len(content), 5):
            damaged[at] = int(rng.integers(256))
        verdicts.append(reason_of(bytes(damaged), None))
        assert {reason_of(bytes(damaged), at_least) for at_least in (48, 24, 12)} == {verdicts[-1]}
    assert {"", "truncated or damaged"} <= set(verdicts)


def test_pixel_limit_precedes_reduction() -> None:
    content = encoded(Image.new("RGB", (80, 40)), "JPEG")
    with pytest.raises(UnreadableImage, match="larger than 3,199 pixels"):
        open_image(content, max_pixels=3199, at_least=5)
    assert open_image(content, max_pixels=3200, at_least=5).size == (10, 5)


# Altered pictures


def half_white() -> bytes:
    """Black on the left, white on the right."""
    image = Image.new("RGB", (100, 40), "black")
    image.paste("white", (50, 0, 100, 40))
    return encoded(image, "PNG")


AS_IT_IS = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("part", "light", "size", "grey"),
    [
        ((0, 0, 1, 1), AS_IT_IS, (100, 40), 127.5),
        ((0.5, 0, 1, 1), AS_IT_IS, (50, 40), 255),
        ((0.0, 0.25, 0.5, 0.75), AS_IT_IS, (50, 20), 0),
        ((0.5, 0, 1, 1), (0.5, 1.0, 1.0), (50, 40), 127),
        ((0.999, 0.999, 0.9991, 0.9991), AS_IT_IS, (1, 1), 255),
    ],
)
def test_altered_image_is_cropped_and_lit(
    part: tuple[float, float, float, float],
    light: tuple[float, float, float],
    size: tuple[int, int],
    grey: float,
) -> None:
    image = open_image(AugmentedImage(half_white(), part, light))
    assert image.size == size
    assert np.asarray(image).mean() == pytest.approx(grey, abs=1)


def test_contrast_and_saturation_are_factors() -> None:
    red = encoded(Image.new("RGB", (8, 8), RED), "PNG")
    assert len(set(open_image(AugmentedImage(red, (0, 0, 1, 1), (1, 1, 0))).getpixel((0, 0)))) == 1  # type: ignore[arg-type]
    flat = np.asarray(open_image(AugmentedImage(half_white(), (0, 0, 1, 1), (1, 0, 1))))
    assert flat.min() == flat.max()


@pytest.mark.parametrize("change", ["_LIGHT", "_rgb"])
def test_alteration_digest_covers_pixels(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = alteration_digest.__wrapped__()
    assert alteration_digest.__wrapped__() == before
    others = {"_LIGHT": images._LIGHT[::-1], "_rgb": lambda image: image.convert("L").convert("RGB")}
    monkeypatch.setattr(images, change, others[change])
    assert alteration_digest.__wrapped__() != before


def test_crop_is_decoded_large_enough() -> None:
    photo = encoded(Image.new("RGB", (1600, 1600), RED), "JPEG")
    part = AugmentedImage(photo, (0, 0, 0.5, 0.5), AS_IT_IS)
    assert open_image(photo, at_least=400).size == (400, 400)
    assert open_image(part, at_least=400).size == (400, 400)


def test_unreadable_altered_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"gone\.jpg cannot be used"):
        open_image(AugmentedImage(str(tmp_path / "gone.jpg"), (0, 0, 1, 1), AS_IT_IS))


def test_pixels_become_the_same_image_again() -> None:
    image = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
    pixels, shape = pixels_of(image, 1024)
    assert shape == (60, 90)
    assert open_image(png_of(pixels, shape)).tobytes() == image.tobytes()
    assert pixels_of(image, 45)[1] == (30, 45)


def test_placeholder_blends_nine_colours() -> None:
    image = open_image(placeholder())
    corners = [image.getpixel((x, y)) for y in (0, 31, 63) for x in (0, 31, 63)]
    assert len(set(corners)) == 9
    levels = np.asarray(image).astype(int)
    assert max(np.abs(np.diff(levels, axis=axis)).max() for axis in (0, 1)) < 20, "there are no edges"
