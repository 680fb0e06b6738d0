"""Reader of folders in the layout of MVSA-Single and -Multiple: `data/<id>.jpg`, `data/<id>.txt`, `labelResultAll.txt`.

Harmless deviations are read and counted: images with another suffix or letter case, and folders above.

Source: T. Niu, S. Zhu, L. Pang, A. El Saddik, Sentiment Analysis on Multi-view Social Data, MMM 2016.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import UserError
from src.core.records import DroppedPost, numeric_id_key
from src.data import images
from src.data.mvsa_labels import LABEL_FILE, read_labels
from src.data.reading import DatasetIndex, SourcePost

POST_FOLDER = "data"
IMAGE = ".jpg"
CAPTION = ".txt"
# The number of folder levels that are searched for the layout.
_DEPTH = 2


def find_root(path: Path) -> Path:
    """Return the folder in MVSA's layout: `path` itself, or the only such folder up to two levels below.

    Raises:
        UserError: there is no such folder, or more than one; the message says what is missing.
    """
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give the folder that has {LABEL_FILE} and {POST_FOLDER}/ in it")
    if not _missing_in(path):
        return path
    level = [path]
    for _ in range(_DEPTH):
        level = [folder for above in level for folder in sorted(above.iterdir()) if folder.is_dir()]
        roots = [folder for folder in level if not _missing_in(folder)]
        if len(roots) > 1:
            raise UserError(f"{path} holds several data sets: give one of {', '.join(map(str, roots))}")
        if roots:
            return roots[0]
    raise UserError(
        f"{path} has no {' and no '.join(_missing_in(path))}, and no folder in it has both, up to {_DEPTH} deep"
    )


def survey(root: Path) -> DatasetIndex:
    """Read the label file and list the posts, without opening their files.

    Raises:
        UserError: a row of the label file is malformed, or a post has two images or two captions.
    """
    labels = read_labels(root / LABEL_FILE)
    names = sorted(path for path in (root / POST_FOLDER).iterdir() if not path.name.startswith("."))
    image_of = _by_id(names, images.SUFFIXES)
    caption_of = _by_id(names, (CAPTION,))
    labelled = labels.pairs.keys() | labels.undecided
    kinds = (("no label row", labelled), ("no image", image_of), ("no caption", caption_of))
    complete: dict[str, SourcePost] = {}
    dropped = []
    for key in sorted({*labelled, *image_of, *caption_of}, key=numeric_id_key):
        faults = [fault for fault, ids in kinds if key not in ids]
        if key in labels.undecided:
            faults.append(labels.undecided[key])
        if faults:
            dropped.append(DroppedPost(key, ", ".join(faults)))
        else:
            complete[key] = SourcePost(image_of[key], caption_of[key], labels.pairs[key])
    suffixes = Counter(path.suffix for key in complete for path in (image_of[key], caption_of[key]))
    labels.variants.update({f"files in {suffix}": suffixes[suffix] for suffix in suffixes.keys() - {IMAGE, CAPTION}})
    variants = {name: count for name, count in sorted(labels.variants.items()) if count}
    return DatasetIndex(root, labels.num_annotators, complete, tuple(dropped), len(labels.undecided), variants)


def _by_id(paths: Sequence[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the file of each id that has one of the suffixes, in any letter case.

    Raises:
        UserError: an id has two such files.
    """
    path_of: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and path_of.setdefault(path.stem, path) != path:
            raise UserError(f"{path_of[path.stem]} and {path} are of one post: remove one of the files")
    return path_of


def _missing_in(folder: Path) -> list[str]:
    present = {LABEL_FILE: (folder / LABEL_FILE).is_file(), f"{POST_FOLDER}/": (folder / POST_FOLDER).is_dir()}
    return [name for name, is_present in present.items() if not is_present]
