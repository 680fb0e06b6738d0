from collections import Counter
from pathlib import Path

import pytest

from src.core.config import load_params
from src.core.outputs import FoldsOutput
from src.core.records import Post, Prediction
from src.experiments.cross_validation import Fold, predict_folds, read_folds, summarise
from tests.fold_lists import write_fold_lists


@pytest.fixture
def some(posts: list[Post]) -> list[Post]:
    return sorted(posts[:48], key=lambda post: post.label)


def test_majority_class_is_pooled_over_folds(repo_root: Path, tmp_path: Path, some: list[Post]) -> None:
    label_of = {post.id: post.label for post in some}
    predicted_folds: list[int] = []

    def majority(fold: Fold) -> list[Prediction]:
        predicted_folds.append(fold.number)
        return [
            Prediction(key, label_of[key], "positive", dict.fromkeys(label_of.values(), 0.0))
            for key in sorted(fold.test_ids())
        ]

    write_fold_lists(tmp_path / "lists", some)
    folds = read_folds(some, tmp_path / "lists")

    def predict() -> dict[int, list[Prediction]]:
        return predict_folds(folds, lambda fold: tmp_path / f"{fold.number}.csv", majority)

    by_fold = predict()
    assert predict() == by_fold
    assert predicted_folds == [1, 2, 3], "each fold is predicted once"
    settings = load_params(repo_root / "params.yaml").training_config("clip", rank=1, alpha=2, lr=0.1, dropout=0.0)
    output = summarise(folds, by_fold, dict.fromkeys(label_of, "one group"), "a study", settings)
    assert output.pooled["accuracy"] == pytest.approx(Counter(label_of.values())["positive"] / 48)
    assert (output.leak_free_posts, output.pooled_leak_free) == (0, {})
    output.write(tmp_path / "folds.json")
    assert FoldsOutput.read(tmp_path / "folds.json").folds[2].posts == 16
