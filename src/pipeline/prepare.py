"""Work of stage `prepare`: read the posts, and describe what was read and what was left out."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from src.cli.output import progress
from src.core.config import Params
from src.core.data_outputs import DataReport, DroppedPosts, Quantiles, WordCounts
from src.core.errors import UserError
from src.core.labels import label_of, protocols_of
from src.core.paths import DATA, DATA_REPORT, FINGERPRINTS, POSTS
from src.core.records import Post, data_digest, write_fingerprints, write_posts
from src.data import encodings, layouts
from src.data.reading import DatasetIndex, LoadedDataset, read_folder, require_all_labels, with_labels


def prepare_posts(params: Params) -> DataReport:
    """Read the posts in data/, write outputs/prepare/, and return the data report.

    Raises:
        UserError: data/ is missing, malformed or without usable posts.
    """
    if not DATA.is_dir():
        raise UserError(f"{DATA}/ is missing: run `dvc repro`, which imports the folder that data.dvc names")
    names, protocol = params.label_names, params.prepare.protocol
    index = with_labels(layouts.survey(DATA), names)
    with progress(len(index.pairs), "reading posts", "post") as bar:
        dataset = read_folder(index, protocol, params.prepare.max_pixels, bar.advance)
    require_all_labels(dataset.posts, names, protocol)
    report = describe_data(index, dataset, protocol, names)
    write_posts(POSTS, dataset.posts)
    write_fingerprints(FINGERPRINTS, dataset.fingerprints)
    report.write(DATA_REPORT)
    return report


def describe_data(index: DatasetIndex, dataset: LoadedDataset, protocol: str, label_names: Sequence[str]) -> DataReport:
    """Return the data report of a folder that has been read."""
    widths, heights = zip(*dataset.sizes, strict=True)
    num_words = [len(post.caption.split()) for post in dataset.posts]
    return DataReport(
        protocol=protocol,
        data_digest=data_digest(dataset.posts),
        annotators=index.num_annotators,
        posts=len(dataset.posts),
        labelled=sum(bool(post.label) for post in dataset.posts),
        label_counts={name: _count_labels(dataset.posts, name, label_names) for name in protocols_of(label_names)},
        label_pairs=_count(f"{post.text_label},{post.image_label}" for post in dataset.posts),
        dropped=DroppedPosts(len(dataset.dropped), _count(post.reason for post in dataset.dropped), dataset.dropped),
        variants={**index.variants, **_folders_above(index)},
        encodings=_count(dataset.encodings),
        guessed_encodings=_guessed_encodings(dataset),
        caption_words=WordCounts(
            min(num_words), _quantile(num_words, 0.5), max(num_words), p95=_quantile(num_words, 0.95)
        ),
        empty_captions=num_words.count(0),
        image_width_px=_quantiles(widths),
        image_height_px=_quantiles(heights),
        image_megapixels=_quantiles([round(width * height / 1e6, 3) for width, height in dataset.sizes]),
    )


def _folders_above(index: DatasetIndex) -> dict[str, int]:
    depth = len(index.root.parts) - len(DATA.parts)
    return {"folders above the posts": depth} if depth else {}


def _guessed_encodings(dataset: LoadedDataset) -> dict[str, tuple[str, ...]]:
    """Return the ids of the posts whose caption's encoding is a guess, by that encoding."""
    ids: dict[str, tuple[str, ...]] = {}
    for post, encoding in zip(dataset.posts, dataset.encodings, strict=True):
        if encoding not in encodings.CERTAIN:
            ids[encoding] = (*ids.get(encoding, ()), post.id)
    return ids


def _count_labels(posts: Sequence[Post], protocol: str, label_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(label_of(protocol, post.text_label, post.image_label) for post in posts)
    return {label: counts[label] for label in label_names}


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())


def _quantiles(values: Sequence[float]) -> Quantiles:
    return Quantiles(min(values), _quantile(values, 0.5), max(values))


def _quantile(values: Sequence[float], share: float) -> float:
    # The nearest rank: the result is one of the values.
    return sorted(values)[math.ceil(share * len(values)) - 1]
