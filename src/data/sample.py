"""A made-up data set in MVSA's layout. All phrases, handles and links are invented, and all images are drawn."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance

from src.core.errors import UserError
from src.core.labels import NEGATIVE, NEUTRAL, POSITIVE, TONES
from src.data.encodings import CP1252, UTF_8
from src.data.mvsa import POST_FOLDER
from src.data.mvsa_labels import LABEL_FILE, header
from src.data.reading import Pair

PHRASES = {
    POSITIVE: (
        "so grateful for these people",
        "laughing all the way home",
        "what a gorgeous view",
        "the cake was delicious",
        "finally together again, big hugs",
        "we won and I am still smiling",
        "best birthday surprise ever",
        "loving every minute of it",
        "a perfect lazy afternoon with friends",
        "proud of this wonderful team",
        "she said yes, we are celebrating",
        "sunshine and good music make me smile",
    ),
    NEGATIVE: (
        "I can't stop crying",
        "the storm ruined everything",
        "lost my keys and my patience",
        "so tired of being lonely",
        "another awful night without sleep",
        "they lied again and I am furious",
        "the screen is broken, of course",
        "stuck in the cold rain for hours",
        "worst service I have ever had",
        "my heart hurts since the funeral",
        "sick in bed and scared of tomorrow",
        "what a terrible, ugly mess",
    ),
    NEUTRAL: (
        "the timetable for next week is online",
        "here is the map of the new route",
        "notes from the second session",
        "the library opens at nine",
        "figure 3 shows the monthly numbers",
        "parking is behind the building",
        "version two of the form is available",
        "the meeting moved to room 12",
        "a list of the items in the catalogue",
        "the report has forty pages",
        "please bring a pen and your badge",
        "the bus to the station leaves at six",
    ),
}

TAGS = {
    POSITIVE: ("#sunshine", "#blessed", "#goodvibes", "#party", "#love"),
    NEGATIVE: ("#heartbroken", "#badday", "#storm", "#fail", "#tears"),
    NEUTRAL: ("#agenda", "#info", "#update", "#howto", "#office"),
}

SHARED_TAGS = ("#photo", "#today", "#weekend", "#city", "#instapic", "#travel", "#family", "#nowplaying")

EMOJI = {POSITIVE: "😀🌞🎉💛", NEGATIVE: "😢💔🌧😠", NEUTRAL: "📎📅🗺📌"}

OPENERS = (
    "this morning in Zürich:",
    "at the café —",
    "Monday again:",
    "from my window,",
    "for 5 € at the market:",
    "it\u2019s official:",
    "last night in São Paulo,",
    "walking by the river,",
    "you know what?",
    "dear diary,",
    "just now:",
    "",
    "",
    "",
)

HANDLES = ("@sample_kite", "@madeup_otter", "@nobody_0042", "@drawn_lamp", "@paper_tram")


def write_caption(tone: str, rng: random.Random) -> str:
    """Make up a caption of one line, in the manner of a tweet."""
    words = [rng.choice(OPENERS), *rng.sample(PHRASES[tone], rng.choice((1, 2, 2)))]
    if rng.random() < 0.6:
        words.append(rng.choice(TAGS[tone]))
    words.extend(rng.sample(SHARED_TAGS, rng.choice((0, 1, 2))))
    if rng.random() < 0.3:
        words.append(rng.choice(EMOJI[tone]))
    if rng.random() < 0.7:
        words.append(make_link(rng))
    if rng.random() < 0.3:
        words.insert(0, f"RT {rng.choice(HANDLES)}:")
    return " ".join(word for word in words if word)


def make_link(rng: random.Random) -> str:
    """Make up a short link that ends in ten random characters."""
    return "http://t.co/" + "".join(rng.choices("abcdefghkmnpqrstuvwxyzABCDEFGHKLMN23456789", k=10))


# Number of posts by (text label, image label). Equal labels stand in MVSA-Single's proportions, 1398 : 724 : 470.
PAIR_COUNTS: dict[Pair, int] = {
    (POSITIVE, POSITIVE): 57,
    (NEGATIVE, NEGATIVE): 29,
    (NEUTRAL, NEUTRAL): 19,
    (NEUTRAL, POSITIVE): 6,
    (NEUTRAL, NEGATIVE): 3,
    (NEGATIVE, POSITIVE): 2,
    (POSITIVE, NEUTRAL): 2,
    (NEGATIVE, NEUTRAL): 1,
    (POSITIVE, NEGATIVE): 1,
}


# Number of posts whose caption and image carry another tone than both labels.
NUM_MISLABELLED = 4
# Probability that a caption or an image carries another tone than its label.
SLIP_RATE = 0.03
# Probability that a post is a near-duplicate of an earlier one with the same labels.
COPY_RATE = 0.12
# Width and height of images in pixels.
SIZES = ((160, 120), (120, 160), (144, 144), (176, 112), (128, 96), (168, 126), (100, 150))

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Draft:
    """A made-up post before it is written."""

    labels: Pair
    caption: str
    # The content of a JPEG file.
    image: bytes


def write_sample(folder: Path, seed: int) -> dict[str, bytes]:
    """Write the files of `make_sample` to a folder, and return them.

    Raises:
        UserError: the folder holds other files. Those of another seed would mix with these, and others are the user's.
    """
    files = make_sample(seed)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    foreign = sorted(present - files.keys())
    if foreign:
        raise UserError(
            f"{folder} has {len(foreign)} other files in it, such as {foreign[0]}: remove it or give another --out"
        )
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def make_sample(seed: int) -> dict[str, bytes]:
    """Return the contents of the data set's files by path. The same seed gives the same bytes."""
    rng = random.Random(seed)
    files: dict[str, bytes] = {}
    rows = [header(1)]
    key = 0
    for draft in _drafts(rng):
        # Ids have gaps, as in MVSA.
        key += rng.choice((1, 1, 1, 2, 3))
        files[f"{POST_FOLDER}/{key}.jpg"] = draft.image
        files[f"{POST_FOLDER}/{key}.txt"] = _encoded(draft.caption + "\n", rng)
        rows.append(f"{key}\t{','.join(draft.labels)}")
    files[LABEL_FILE] = "".join(f"{row}\n" for row in rows).encode()
    return files


def _drafts(rng: random.Random) -> list[Draft]:
    pairs = [pair for pair, count in PAIR_COUNTS.items() for _ in range(count)]
    rng.shuffle(pairs)
    agreeing = [index for index, (text_label, image_label) in enumerate(pairs) if text_label == image_label]
    mislabelled = set(rng.sample(agreeing, NUM_MISLABELLED))
    drafts: list[Draft] = []
    originals: dict[Pair, list[Draft]] = {pair: [] for pair in PAIR_COUNTS}
    for index, pair in enumerate(pairs):
        if originals[pair] and rng.random() < COPY_RATE:
            drafts.append(_near_duplicate(rng.choice(originals[pair]), rng))
            continue
        tones = (_other(pair[0], rng),) * 2 if index in mislabelled else pair
        draft = _write_post(pair, tones, rng)
        originals[pair].append(draft)
        drafts.append(draft)
    return drafts


def _write_post(labels: Pair, tones: Pair, rng: random.Random) -> Draft:
    text_tone, image_tone = (_slipped(tone, rng) for tone in tones)
    return Draft(labels, write_caption(text_tone, rng), draw_image(image_tone, rng))


def _near_duplicate(draft: Draft, rng: random.Random) -> Draft:
    words = " ".join(word for word in draft.caption.split() if not word.startswith("http"))
    caption = rng.choice((words.upper(), f"RT {rng.choice(HANDLES)}: {words}", f"{words} {make_link(rng)}"))
    return replace(draft, caption=caption)


def _encoded(caption: str, rng: random.Random) -> bytes:
    try:
        old = caption.encode(CP1252)
    except UnicodeEncodeError:
        return caption.encode(UTF_8)
    return old if rng.random() < 0.7 else caption.encode(UTF_8)


def _other(tone: str, rng: random.Random) -> str:
    return rng.choice([other for other in TONES if other != tone])


def _slipped(tone: str, rng: random.Random) -> str:
    return _other(tone, rng) if rng.random() < SLIP_RATE else tone


def draw_image(tone: str, rng: random.Random) -> bytes:
    """Draw a scene that carries a tone, add noise, and return a JPEG file."""
    size = rng.choice(SIZES)
    image = Image.new("RGB", size)
    rng.choice(SCENES[tone])(ImageDraw.Draw(image), *size, rng)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    grain = Image.frombytes("L", (size[0] // 3, size[1] // 3), rng.randbytes((size[0] // 3) * (size[1] // 3)))
    image = Image.blend(image, grain.resize(size).convert("RGB"), 0.15)
    file = BytesIO()
    image.save(file, "JPEG", quality=70)
    return file.getvalue()


def _shade(colour: Colour, rng: random.Random) -> Colour:
    red, green, blue = (min(255, max(0, channel + rng.randint(-20, 20))) for channel in colour)
    return red, green, blue


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _sunny_field(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((130, 200, 250), rng))
    draw.rectangle((0, height * 2 // 3, width, height), fill=_shade((120, 200, 80), rng))
    x, y, radius = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.35) * height, rng.uniform(0.1, 0.18) * height
    for ray in range(12):
        end = (x + 2 * radius * math.cos(ray * math.pi / 6), y + 2 * radius * math.sin(ray * math.pi / 6))
        draw.line((x, y, *end), fill=(255, 230, 120), width=2)
    _disc(draw, x, y, radius, (255, 220, 60))


def _flowers(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((190, 230, 150), rng))
    for _ in range(rng.randint(4, 8)):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(5, 10)
        petal = rng.choice(((255, 110, 150), (255, 170, 60), (250, 240, 120), (240, 130, 230)))
        for turn in range(6):
            angle = turn * math.pi / 3
            _disc(draw, x + radius * math.cos(angle), y + radius * math.sin(angle), radius * 0.7, petal)
        _disc(draw, x, y, radius * 0.6, (255, 240, 120))


def _smile(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((255, 190, 140), rng))
    x, y, radius = width / 2, height / 2, rng.uniform(0.3, 0.42) * min(width, height)
    _disc(draw, x, y, radius, (255, 225, 90))
    for side in (-1, 1):
        _disc(draw, x + side * radius * 0.4, y - radius * 0.3, radius * 0.1, (60, 40, 20))
    mouth = (x - radius * 0.6, y - radius * 0.5, x + radius * 0.6, y + radius * 0.6)
    draw.arc(mouth, 20, 160, fill=(120, 40, 30), width=4)


def _rain(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((60, 70, 95), rng))
    for _ in range(4):
        _disc(draw, rng.uniform(0, width), rng.uniform(0, height * 0.25), height * 0.18, _shade((45, 48, 60), rng))
    for _ in range(40):
        x, y = rng.uniform(0, width), rng.uniform(height * 0.25, height)
        draw.line((x, y, x - 4, y + 12), fill=(120, 135, 165))
    x, y = rng.uniform(0.3, 0.7) * width, height * 0.3
    draw.line((x, y, x - 8, y + 20, x + 4, y + 24, x - 6, y + 50), fill=(210, 210, 160), width=2)


def _cracks(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((50, 45, 45), rng))
    x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
    for _ in range(14):
        middle = (rng.uniform(0, width), rng.uniform(0, height))
        draw.line((x, y, *middle, rng.uniform(0, width), rng.uniform(0, height)), fill=_shade((120, 110, 110), rng))


def _dark_street(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((35, 32, 50), rng))
    for left in range(0, width, 24):
        draw.rectangle((left, rng.uniform(0.2, 0.6) * height, left + 20, height), fill=_shade((30, 25, 30), rng))
    draw.polygon((width * 0.4, height, width * 0.6, height, width * 0.5, height * 0.6), fill=(75, 30, 35))


def _desk(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((165, 140, 115), rng))
    for _ in range(3):
        x, y = rng.uniform(0, 0.6) * width, rng.uniform(0, 0.6) * height
        draw.rectangle((x, y, x + width * 0.35, y + height * 0.35), fill=_shade((205, 205, 200), rng))
        for line in range(1, 5):
            draw.line((x + 4, y + line * 7, x + width * 0.3, y + line * 7), fill=(120, 120, 120))


def _map(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((190, 190, 170), rng))
    for _ in range(7):
        ends = (rng.uniform(0, width), 0, rng.uniform(0, width), height)
        draw.line(ends, fill=_shade((150, 150, 140), rng), width=rng.randint(1, 4))
        draw.line((0, rng.uniform(0, height), width, rng.uniform(0, height)), fill=_shade((160, 150, 130), rng))


def _grid(draw: ImageDraw.ImageDraw, width: int, height: int, rng: random.Random) -> None:
    draw.rectangle((0, 0, width, height), fill=_shade((150, 155, 160), rng))
    for x in range(0, width, 16):
        draw.line((x, 0, x, height), fill=(120, 125, 130))
    for y in range(0, height, 16):
        draw.line((0, y, width, y), fill=(120, 125, 130))
    for bar in range(5):
        left, top = width * (0.1 + 0.17 * bar), rng.uniform(0.2, 0.8) * height
        draw.rectangle((left, top, left + width * 0.1, height), fill=_shade((100, 115, 130), rng))


Scene = Callable[[ImageDraw.ImageDraw, int, int, random.Random], None]


SCENES: dict[str, tuple[Scene, ...]] = {
    POSITIVE: (_sunny_field, _flowers, _smile),
    NEGATIVE: (_rain, _cracks, _dark_street),
    NEUTRAL: (_desk, _map, _grid),
}
