"""JPEGs for `benchmarks.decoding`: drawn in five kinds, or derived from the images of a folder."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from src.data.images import open_image

QUALITIES = (75, 85, 95)
EVEN = ((800, 600), (1192, 896), (1600, 900), (1920, 1080), (1792, 1344), (1536, 2048), (2400, 1800), (4032, 3024))
UNEVEN = ((1499, 1000), (1365, 2048), (2399, 1799))
ENLARGED, MOSAICS, TILE = 12, 6, 256
SEED = 7

Painter = Callable[[np.random.Generator, int, int], Image.Image]


def gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw smooth waves of colour."""
    across, down = np.linspace(0, 3, width)[None, :, None], np.linspace(0, 3, height)[:, None, None]
    slope_3, rise_3, start_3 = rng.uniform(-1, 1, (3, 3))
    return to_image(127 + 100 * np.sin(across * slope_3 + down * rise_3 + 3 * start_3))


def noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw noise with the 1/f amplitude spectrum of natural scenes, in similar but unequal colours."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    common, *own = (
        np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency, s=(height, width)) for _ in range(4)
    )
    layers = np.stack([common + 0.5 * layer for layer in own], axis=-1)
    return to_image(127 + 50 * layers / layers.std())


def lettering(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw large letters and bars with sharp edges, in all colours."""
    image = Image.new("RGB", (width, height), colour(rng, 180, 256))
    pen = ImageDraw.Draw(image)
    for size in rng.integers(height // 60 + 6, height // 6, 60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        pen.text((x, y), letters(rng, 8), fill=colour(rng, 0, 256), font=ImageFont.load_default(int(size)))
        pen.rectangle((y, x, y + int(size), x + int(size) // 2), fill=colour(rng, 0, 256))
    return image


def page(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw a page of print 14 pixels high, from edge to edge. Blue ink differs most after decoding."""
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for y in range(0, height, 18):
        pen.text((0, y), letters(rng, width // 7), fill="blue", font=font)
    return image


def photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw noise with a natural spectrum and a band of lettering across it, as images of posts have."""
    scene = noise(rng, width, height)
    words = lettering(rng, width, height)
    band = (0, height // 3, width, 2 * height // 3)
    scene.paste(Image.blend(scene, words, 0.7).crop(band), band)
    return scene


PAINTERS: dict[str, Painter] = {
    "gradient": gradient,
    "1/f noise": noise,
    "lettering": lettering,
    "photo": photo,
    "blue print": page,
}


def to_image(levels_HW3: npt.NDArray[np.float64]) -> Image.Image:
    """Convert levels to an image, clipped to 0 and 255."""
    return Image.fromarray(np.clip(levels_HW3, 0, 255).astype(np.uint8))


def letters(rng: np.random.Generator, count: int) -> str:
    """Return random letters and a few signs."""
    return "".join(map(chr, rng.integers(65, 123, count)))


def colour(rng: np.random.Generator, darkest: int, brightest: int) -> tuple[int, int, int]:
    """Return independent levels of red, green and blue."""
    red, green, blue = map(int, rng.integers(darkest, brightest, 3))
    return red, green, blue


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Return the bytes of a JPEG with 4:2:0 subsampling, which cameras and websites use."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def drawn(paint: Painter, sizes: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """Yield an image of each size in each quality."""
    rng = np.random.default_rng(SEED)
    for width, height in sizes:
        image = paint(rng, width, height)
        yield from (jpeg(image, quality) for quality in QUALITIES)


def enlarged(folder: Path) -> Iterator[bytes]:
    """Yield images of the folder enlarged to a shorter side of 1,344 pixels: real colours, but soft."""
    for path in sample(folder, ENLARGED):
        image = open_image(path)
        factor = 1344 / min(image.size)
        width, height = (8 * round(side * factor / 8) for side in image.size)
        yield jpeg(image.resize((width, height), Image.Resampling.LANCZOS), 85)


def mosaics(folder: Path) -> Iterator[bytes]:
    """Yield mosaics of 2,048 x 1,536 pixels from the centres of many images: as sharp as the originals."""
    across, down = 8, 6
    paths = sample(folder, MOSAICS * across * down)
    for start in range(0, len(paths), across * down):
        mosaic = Image.new("RGB", (across * TILE, down * TILE))
        for index, path in enumerate(paths[start : start + across * down]):
            image = open_image(path)
            left, top = (image.width - TILE) // 2, (image.height - TILE) // 2
            tile = image.crop((left, top, left + TILE, top + TILE))
            mosaic.paste(tile, (index % across * TILE, index // across * TILE))
        yield jpeg(mosaic, 85)


def sample(folder: Path, count: int) -> list[Path]:
    """Return `count` JPEGs of a folder, the same on every call."""
    paths = sorted(folder.glob("*.jpg"))
    chosen = np.random.default_rng(SEED).permutation(len(paths))[:count]
    return [paths[index] for index in chosen]
