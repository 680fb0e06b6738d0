"""Stage `prepare`: from the folder data/ to a table of posts, one of their images' fingerprints, and a data report.

On the whole of MVSA-Single: 4,869 posts, 2,592 of them labelled under `agreement`, 4,511 under `standard`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from src.cli.options import command
from src.cli.output import progress, say
from src.core.config import load_params
from src.core.errors import UserError
from src.core.files import write_json
from src.core.labels import PROTOCOLS, TONES, label_of
from src.core.paths import DATA, DATA_REPORT, FINGERPRINTS, POSTS
from src.core.records import Post, data_digest, write_fingerprints, write_posts
from src.data import encodings, mvsa


@command(example="python -m src.prepare")
def main() -> None:
    """Read the posts in data/, leave out what cannot be used, and write outputs/prepare/."""
    params = load_params().prepare
    if not DATA.is_dir():
        raise UserError(f"{DATA}/ is missing: run `dvc repro`, which brings in what data.dvc names")
    found = mvsa.survey(mvsa.find_root(DATA))
    with progress(len(found.pairs), "reading posts", "post") as bar:
        reading = mvsa.read_folder(found, params.protocol, params.max_pixels, bar.advance)
    report = describe(found, reading, params.protocol)
    write_posts(POSTS, reading.posts)
    write_fingerprints(FINGERPRINTS, reading.fingerprints)
    write_json(DATA_REPORT, report)
    _summarise(report)


def describe(found: mvsa.DatasetIndex, reading: mvsa.LoadedDataset, protocol: str) -> dict[str, Any]:
    """The data report: what there is, what was left out and why, how long captions and how large images are.

    `variants` counts what differs from the layout and was read all the same, `guessed_encodings` lists which captions
    may be other words than they were.
    """
    widths, heights = zip(*reading.sizes, strict=True)
    num_words = [len(post.caption.split()) for post in reading.posts]
    return {
        "protocol": protocol,
        "data_digest": data_digest(reading.posts),
        "annotators": found.num_annotators,
        "posts": len(reading.posts),
        "labelled": sum(bool(post.label) for post in reading.posts),
        "tones": {name: _tones(reading.posts, name) for name in PROTOCOLS},
        "label_pairs": _tally(f"{post.text_label},{post.image_label}" for post in reading.posts),
        "dropped": {
            "count": len(reading.dropped),
            "reasons": _tally(post.reason for post in reading.dropped),
            "posts": [{"id": post.id, "reason": post.reason} for post in reading.dropped],
        },
        "variants": {**found.variants, **_folders_above(found)},
        "encodings": _tally(reading.encodings),
        "guessed_encodings": _guessed(reading),
        "caption_words": {**_spread(num_words), "p95": _quantile(num_words, 0.95)},
        "empty_captions": num_words.count(0),
        "image_width_px": _spread(widths),
        "image_height_px": _spread(heights),
        "image_megapixels": _spread([round(width * height / 1e6, 3) for width, height in reading.sizes]),
    }


def _folders_above(found: mvsa.DatasetIndex) -> dict[str, int]:
    depth = len(found.root.parts) - len(DATA.parts)
    return {"folders above the posts": depth} if depth else {}


def _guessed(reading: mvsa.LoadedDataset) -> dict[str, list[str]]:
    """The ids of the posts whose captions do not say their encoding, or are damaged, by what they were read as."""
    guessed: dict[str, list[str]] = {}
    for post, encoding in zip(reading.posts, reading.encodings, strict=True):
        if encoding not in encodings.CERTAIN:
            guessed.setdefault(encoding, []).append(post.id)
    return guessed


def _tones(posts: Sequence[Post], protocol: str) -> dict[str, int]:
    counts = Counter(label_of(protocol, post.text_label, post.image_label) for post in posts)
    return {tone: counts[tone] for tone in TONES}


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": _quantile(values, 0.5), "max": max(values)}


def _quantile(values: Sequence[float], share: float) -> float:
    # The nearest rank: always a value that is there, never one between two.
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _summarise(report: dict[str, Any]) -> None:
    say(f"{report['posts']:,} posts read, {report['dropped']['count']:,} left out")
    for reason, count in report["dropped"]["reasons"].items():
        say(f"  left out, {reason}: {count:,}")
    for variant, count in report["variants"].items():
        say(f"  read all the same, {variant}: {count:,}")
    for encoding, ids in report["guessed_encodings"].items():
        say(f"  captions that do not say their encoding, read as {encoding}: {len(ids):,}")
    for protocol, counts in report["tones"].items():
        tones = ", ".join(f"{count:,} {tone}" for tone, count in counts.items())
        mark = "used" if protocol == report["protocol"] else "not used"
        say(f"  {protocol} ({mark}): {sum(counts.values()):,} labelled, {tones}")
    words = report["caption_words"]
    say(f"  captions: median {words['median']} words, at most {words['max']}; {report['empty_captions']:,} empty")
    say(f"  see {DATA_REPORT}")


if __name__ == "__main__":
    main()
