"""Published folds of a few posts, for tests of cross-validation."""

from pathlib import Path

from src.core.records import Post

NUM_FOLDS = 3


def write_fold_lists(folder: Path, posts: list[Post]) -> None:
    """Write folds that test each post once. Every second post that the fold before tests is validated on."""
    (folder / "splits").mkdir(parents=True)
    (folder / "valid_pairlist.txt").write_text("".join(f"{post.id},0,0,0\n" for post in posts))
    tested = [[line for line in range(len(posts)) if line % NUM_FOLDS == rest] for rest in range(NUM_FOLDS)]
    for fold in range(NUM_FOLDS):
        parts = {"test": tested[fold], "val": tested[fold - 1][::2]}
        parts["train"] = [line for line in range(len(posts)) if line not in {*parts["test"], *parts["val"]}]
        for part, lines in parts.items():
            (folder / "splits" / f"{part}_{fold + 1}.txt").write_text("\n".join(map(str, lines)))
