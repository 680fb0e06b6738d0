"""The effect of decoding JPEGs at a fraction of their size before a processor resizes them: error and time.

python -m benchmarks.decoding [FOLDER]

Each image goes through CLIP's processor twice: decoded at full size, and with a shorter side of at least `x` times the
processor's. Five kinds of images are drawn, in eight sizes from 800 x 600 to 4032 x 3024 and qualities 75, 85 and 95.
JPEGs of FOLDER are used in two ways: enlarged (soft), and as mosaics of their centres (sharp).

On one thread, with Pillow 13.0 and libjpeg-turbo 3.2 (5 minutes; some rows left out; other work ran on the machine, so
only ratios of times count):

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

Twice the side is enough for photos, and the time falls to 0.2-0.5 of the full time. Resizing saves more than decoding.
A size that the fraction does not divide must stay whole: `uneven, forced` shows the error. A shorter side below four
times the processor's (896 pixels for 224) is never reduced.
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
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.lib.jpegs import EVEN, PAINTERS, UNEVEN, drawn, enlarged, mosaics, photo
from src.data.images import open_image

SIDES, TIMES = (224, 336), (2, 3)
ROUNDS = 3

Array = npt.NDArray[np.uint8]
Opener = Callable[[bytes, int], Image.Image]


@dataclass(frozen=True)
class Effect:
    """The difference of one reduced image from the full one, in levels of 255, and the milliseconds of both."""

    mean: float
    p999: float
    most: float
    open_whole: float
    open_reduced: float
    ready_whole: float
    ready_reduced: float


@dataclass(frozen=True)
class Row:
    """The reduced images of one kind, for one side of the processor and one factor."""

    kind: str
    side: int
    times: int
    # Number of images, and of those that were reduced.
    seen: int
    reduced: int
    # Differences in levels of 255: median and maximum of the images' means, then maxima of 99.9% and of all pixels.
    mean: float
    worst_mean: float
    worst_p999: float
    worst: float
    # Mean milliseconds of opening an image.
    open_whole: float
    open_reduced: float
    # Mean milliseconds of opening and resizing an image.
    ready_whole: float
    ready_reduced: float


def main() -> None:
    """Print the table, then its rows as one line of JSON."""
    begun = time.perf_counter()
    kinds = {name: (drawn(paint, EVEN), by_open_image) for name, paint in PAINTERS.items()}
    kinds["uneven"] = (drawn(photo, UNEVEN), by_open_image)
    kinds["uneven, forced"] = (drawn(photo, UNEVEN), by_forced_fraction)
    for folder in sys.argv[1:2]:
        kinds["real, enlarged"] = (enlarged(Path(folder)), by_open_image)
        kinds["real, mosaic"] = (mosaics(Path(folder)), by_open_image)
    print(
        f"{'':15}{'side':>5}{'x':>3}{'reduced':>9}   grey levels: mean, worst, p99.9, max   ms: open, open and resize"
    )
    rows = [row for kind, (files, opener) in kinds.items() for row in measured(kind, list(files), opener)]
    print(json.dumps({"seconds": round(time.perf_counter() - begun), "rows": [asdict(row) for row in rows]}))


def measured(kind: str, files: list[bytes], opener: Opener) -> Iterator[Row]:
    """Yield and print a row for each side and factor at which any image was reduced."""
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
    """Return the effect on the processor's output of `side` x `side`, or None if the image was not reduced."""
    process = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})

    def ready(image: Image.Image) -> Array:
        pixels: Array = process([image], do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        assert pixels.dtype == np.uint8
        return pixels

    whole = open_image(content)
    reduced = opener(content, times * side)
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
    """Return the shortest time of `ROUNDS` runs."""
    spent = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return 1000 * min(spent)


def summary(kind: str, side: int, times: int, seen: int, effects: list[Effect]) -> Row:
    """Summarise the effects of one kind of images in a row."""
    numbers = np.array([list(asdict(effect).values()) for effect in effects])
    figures = (np.median(numbers[:, 0]), *numbers[:, :3].max(axis=0), *numbers[:, 3:].mean(axis=0))
    return Row(kind, side, times, seen, len(effects), *(round(float(figure), 2) for figure in figures))


def columns(row: Row) -> tuple[str, str, str]:
    """Format the figures of a row for the table."""
    return (
        f"{row.mean:16.2f}{row.worst_mean:7.2f}{row.worst_p999:7.0f}{row.worst:5.0f}",
        f"{row.open_whole:12.0f} -> {row.open_reduced:3.0f}",
        f"{row.ready_whole:7.0f} -> {row.ready_reduced:3.0f}",
    )


def by_open_image(content: bytes, at_least: int) -> Image.Image:
    """Open an image as the project does."""
    return open_image(content, at_least=at_least)


def by_forced_fraction(content: bytes, at_least: int) -> Image.Image:
    """Open an image at the smallest fraction, even if it does not divide the size. `open_image` never does."""
    image = Image.open(BytesIO(content))
    image.draft(None, (at_least, at_least))
    return image.convert("RGB")


if __name__ == "__main__":
    main()
