"""What it changes and saves to decode JPEGs at a fraction of their size before a processor resizes them.

python -m benchmarks.decoding [FOLDER]

Each picture goes through CLIP's processor twice, decoded whole and with a shorter side of at least so many times (`x`)
the processor's. Five kinds are drawn, in eight sizes from 800 x 600 to 4032 x 3024 and at the qualities 75, 85 and 95;
of the JPEGs in FOLDER some are enlarged (soft), and the middles of others put together (as sharp as they are).

On one thread, with Pillow 13.0 and libjpeg-turbo 3.2 (5 minutes; some rows left out; beside other work, so the times
are good only for their ratios):

                side  x  reduced   grey levels: mean, worst, p99.9, max   ms: open, open and resize
gradient         224  2   21 /24             0.05   0.11      1    2           13 ->   5      50 ->  11
1/f noise        224  2   21 /24             0.85   1.22      5    8           37 ->  21      77 ->  28
1/f noise        224  3   12 /24             0.41   0.56      3    6           65 ->  32     133 ->  43
1/f noise        336  2   12 /24             0.86   1.21      5    8           62 ->  33     156 ->  45
lettering        224  2   21 /24             0.71   1.15     13   23           21 ->   9      77 ->  19
lettering        224  3   12 /24             0.32   0.34      6   12           31 ->  13     119 ->  26
lettering        336  2   12 /24             0.48   0.53     10   20           30 ->  13     117 ->  28
photo            224  2   21 /24             0.80   1.22      9   15           50 ->  27     109 ->  37
photo            224  3   12 /24             0.39   0.54      4   10           72 ->  40     161 ->  54
photo            336  2   12 /24             0.76   1.08      6   16           75 ->  41     158 ->  54
blue print       224  2   21 /24             6.44   7.88     44   49           73 ->  44     150 ->  57
blue print       224  3   12 /24             5.46   6.91     38   42           82 ->  48     174 ->  60
blue print       336  2   12 /24             6.43   7.46     43   50           67 ->  44     149 ->  57
uneven           224  2    0 / 9
uneven, forced   224  2    9 / 9             8.73  11.28     90  126           28 ->  19      69 ->  27
real, enlarged   224  2   12 /12             0.18   0.21      2    3           12 ->   6      37 ->  14
real, mosaic     224  2    6 / 6             0.34   0.35      4   10           20 ->  12      51 ->  21
real, mosaic     336  2    6 / 6             0.60   0.63      7   16           21 ->  13      59 ->  25

So twice the side is enough for photos, and the time goes to 0.2-0.5 of what it was: more is saved by what need not be
resized than by what need not be decoded. A size that the fraction does not divide must be left whole (`uneven, forced`
is what would become of it), and a shorter side under four times the processor's (896 pixels for 224) is never reduced.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from src.data.images import open_image

SIDES, TIMES = (224, 336), (2, 3)
QUALITIES = (75, 85, 95)
EVEN = ((800, 600), (1192, 896), (1600, 900), (1920, 1080), (1792, 1344), (1536, 2048), (2400, 1800), (4032, 3024))
UNEVEN = ((1499, 1000), (1365, 2048), (2399, 1799))
ENLARGED, MOSAICS, TILE = 12, 6, 256
ROUNDS = 3
SEED = 7

Array = npt.NDArray[np.uint8]
Painter = Callable[[np.random.Generator, int, int], Image.Image]
Opener = Callable[[bytes, int], Image.Image]


@dataclass(frozen=True)
class Effect:
    """How far one picture is from the whole one, in grey levels of 255, and the milliseconds of both."""

    mean: float
    p999: float
    most: float
    open_whole: float
    open_reduced: float
    ready_whole: float
    ready_reduced: float


@dataclass(frozen=True)
class Row:
    """All pictures of a kind that were reduced, of `seen`.

    Differences in grey levels: the middle one and the worst of the means, then the worst of the other two.
    Milliseconds on average: to open the picture, and to have it resized as well.
    """

    kind: str
    side: int
    times: int
    seen: int
    reduced: int
    mean: float
    worst_mean: float
    worst_p999: float
    worst: float
    open_whole: float
    open_reduced: float
    ready_whole: float
    ready_reduced: float


def main() -> None:
    """Print the table, then the same as one line of JSON."""
    begun = time.perf_counter()
    kinds = {name: (drawn(paint, EVEN), by_open_image) for name, paint in PAINTERS.items()}
    kinds["uneven"] = (drawn(photo, UNEVEN), by_open_image)
    kinds["uneven, forced"] = (drawn(photo, UNEVEN), whatever_is_left_over)
    for folder in sys.argv[1:2]:
        kinds["real, enlarged"] = (enlarged(Path(folder)), by_open_image)
        kinds["real, mosaic"] = (mosaics(Path(folder)), by_open_image)
    print(
        f"{'':15}{'side':>5}{'x':>3}{'reduced':>9}   grey levels: mean, worst, p99.9, max   ms: open, open and resize"
    )
    rows = [row for kind, (files, opener) in kinds.items() for row in measured(kind, list(files), opener)]
    print(json.dumps({"seconds": round(time.perf_counter() - begun), "rows": [asdict(row) for row in rows]}))


def measured(kind: str, files: list[bytes], opener: Opener) -> Iterator[Row]:
    """A row for every side and number of times by which any was reduced, printed as soon as it is there."""
    for side, times in product(SIDES, TIMES):
        effects = [effect for content in files if (effect := compared(content, side, times, opener))]
        start = f"{kind:15}{side:5}{times:3}{len(effects):5} /{len(files):2}"
        if not effects:
            print(start, flush=True)
            continue
        row = summary(kind, side, times, len(files), effects)
        print(start, *columns(row), flush=True)
        yield row


def compared(content: bytes, side: int, times: int, opener: Opener) -> Effect | None:
    """The effect on the processor's picture of `side` x `side`; none where nothing was reduced."""
    process = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def ready(image: Image.Image) -> Array:
        pixels: Array = process([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert pixels.dtype == np.uint8
        return pixels

    whole, reduced = open_image(content), opener(content, times * side)
    if reduced.size == whole.size:
        return None
    difference = np.abs(ready(reduced).astype(int) - ready(whole))
    return Effect(
        mean=float(difference.mean()),
        p999=float(np.percentile(difference, 99.9)),
        most=float(difference.max()),
        open_whole=milliseconds(lambda: open_image(content)),
        open_reduced=milliseconds(lambda: opener(content, times * side)),
        ready_whole=milliseconds(lambda: ready(open_image(content))),
        ready_reduced=milliseconds(lambda: ready(opener(content, times * side))),
    )


def milliseconds(work: Callable[[], object]) -> float:
    """The shortest of `ROUNDS` runs."""
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return 1000 * min(spent)


def summary(kind: str, side: int, times: int, seen: int, effects: list[Effect]) -> Row:
    """One row of all these."""
    numbers = np.array([list(asdict(effect).values()) for effect in effects])
    figures = (np.median(numbers[:, 0]), *numbers[:, :3].max(axis=0), *numbers[:, 3:].mean(axis=0))
    return Row(kind, side, times, seen, len(effects), *(round(float(figure), 2) for figure in figures))


def columns(row: Row) -> tuple[str, str, str]:
    """The figures of a row for the table."""
    return (
        f"{row.mean:16.2f}{row.worst_mean:7.2f}{row.worst_p999:7.0f}{row.worst:5.0f}",
        f"{row.open_whole:12.0f} -> {row.open_reduced:3.0f}",
        f"{row.ready_whole:7.0f} -> {row.ready_reduced:3.0f}",
    )


def by_open_image(content: bytes, at_least: int) -> Image.Image:
    """As the program does it."""
    return open_image(content, at_least=at_least)


def whatever_is_left_over(content: bytes, at_least: int) -> Image.Image:
    """At the smallest fraction, of sizes too that it does not divide: what `open_image` refrains from."""
    image = Image.open(BytesIO(content))
    image.draft(None, (at_least, at_least))
    return image.convert("RGB")


def gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth waves of colour."""
    across, down = np.linspace(0, 3, width)[None, :, None], np.linspace(0, 3, height)[:, None, None]
    slope_3, rise_3, start_3 = rng.uniform(-1, 1, (3, 3))
    return picture(127 + 100 * np.sin(across * slope_3 + down * rise_3 + 3 * start_3))


def noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of the spectrum of natural scenes, 1/f in amplitude; its colours are alike, but not the same."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    common, *own = (
        np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency, s=(height, width)) for _ in range(4)
    )
    layers = np.stack([common + 0.5 * layer for layer in own], axis=-1)
    return picture(127 + 50 * layers / layers.std())


def lettering(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Large letters and bars with sharp edges, in all colours."""
    image = Image.new("RGB", (width, height), colour(rng, 180, 256))
    pen = ImageDraw.Draw(image)
    for size in rng.integers(height // 60 + 6, height // 6, 60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        pen.text((x, y), letters(rng, 8), fill=colour(rng, 0, 256), font=ImageFont.load_default(int(size)))
        pen.rectangle((y, x, y + int(size), x + int(size) // 2), fill=colour(rng, 0, 256))
    return image


def page(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A page of small print, 14 pixels high, from edge to edge; blue of all inks changes most."""
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for y in range(0, height, 18):
        pen.text((0, y), letters(rng, width // 7), fill="blue", font=font)
    return image


def photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Noise of a natural spectrum with a band of lettering across it, as posts have."""
    scene, words = noise(rng, width, height), lettering(rng, width, height)
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


def picture(levels_HW3: npt.NDArray[np.float64]) -> Image.Image:
    """Grey levels as a picture, cut off at 0 and 255."""
    return Image.fromarray(np.clip(levels_HW3, 0, 255).astype(np.uint8))


def letters(rng: np.random.Generator, count: int) -> str:
    """Any letters of the alphabet, and a few signs."""
    return "".join(map(chr, rng.integers(65, 123, count)))


def colour(rng: np.random.Generator, darkest: int, brightest: int) -> tuple[int, int, int]:
    """Red, green and blue, of independent levels."""
    red, green, blue = map(int, rng.integers(darkest, brightest, 3))
    return red, green, blue


def jpeg(image: Image.Image, quality: int) -> bytes:
    """The content of a file, with colours at half the resolution as cameras and websites write them."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def drawn(paint: Painter, sizes: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
    """A picture of every size, in every quality."""
    rng = np.random.default_rng(SEED)
    for width, height in sizes:
        image = paint(rng, width, height)
        yield from (jpeg(image, quality) for quality in QUALITIES)


def enlarged(folder: Path) -> Iterator[bytes]:
    """Some pictures of the folder at a shorter side of 1,344 pixels: true colours, but softer than a camera's."""
    for path in some(folder, ENLARGED):
        image = open_image(path)
        factor = 1344 / min(image.size)
        width, height = (8 * round(side * factor / 8) for side in image.size)
        yield jpeg(image.resize((width, height), Image.Resampling.LANCZOS), 85)


def mosaics(folder: Path) -> Iterator[bytes]:
    """Middles of many pictures of the folder side by side, 2,048 x 1,536 pixels: as sharp as they are."""
    across, down = 8, 6
    paths = some(folder, MOSAICS * across * down)
    for start in range(0, len(paths), across * down):
        mosaic = Image.new("RGB", (across * TILE, down * TILE))
        for index, path in enumerate(paths[start : start + across * down]):
            image = open_image(path)
            left, top = (image.width - TILE) // 2, (image.height - TILE) // 2
            tile = image.crop((left, top, left + TILE, top + TILE))
            mosaic.paste(tile, (index % across * TILE, index // across * TILE))
        yield jpeg(mosaic, 85)


def some(folder: Path, count: int) -> list[Path]:
    """So many of its JPEGs, always the same."""
    paths = sorted(folder.glob("*.jpg"))
    chosen = np.random.default_rng(SEED).permutation(len(paths))[:count]
    return [paths[index] for index in chosen]


if __name__ == "__main__":
    main()
