"""Published folds: one training on each, and what is said of their test parts taken together.

One test part of 450 posts cannot tell good models apart. Over ten folds each post is tested once, by a model that has
not seen it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from src.cli.output import EpochBar, Progress, progress, say, table, warn
from src.core.config import Params
from src.core.errors import DivergenceError
from src.core.files import digest_of, write_json, write_table
from src.core.paths import GROUPS, POSTS, REPEATS, stage_folder
from src.core.provenance import training_key
from src.core.records import Post, Prediction, leak_free, read_groups, read_posts, read_predictions, write_predictions
from src.core.training_config import TrainingConfig
from src.data.published_splits import folds_in, predefined_split
from src.evaluation.intervals import spread_of
from src.evaluation.metrics import scores
from src.tracking.client import Dataset
from src.tracking.run_logging import open_tracker, run_tags
from src.training.adapter import fresh_adapter
from src.training.inference import logits, predictions
from src.training.trainer import fit
from src.training.workspace import Workspace, open_workspace

FIGURES = ("accuracy", "macro_f1", "weighted_f1")


@dataclass(frozen=True)
class Fold:
    """One division of a benchmark: its number, and the part of each of its posts by id."""

    number: int
    part_of: Mapping[str, str]

    @property
    def digest(self) -> str:
        """A short digest of the division."""
        return digest_of(self.part_of.items())

    def tested(self) -> set[str]:
        """The ids of its test posts."""
        return {key for key, part in self.part_of.items() if part == "test"}


Predicted = Mapping[int, Sequence[Prediction]]


def run_folds(params: Params, model: str, best: Mapping[str, Any]) -> None:
    """Train the winner of a search once on every published fold, and write outputs/folds/<model>/.

    The epoch is chosen on the fold's val part, and its test part is predicted. Only the settings come from the search,
    whose train and val parts hold test posts of the folds.

    Args:
        params: its `split.predefined` says where the folds are.
        model: a name in the catalog.
        best: what the search for the model has found.

    Raises:
        UserError: there are no folds, they do not fit the posts, or a training diverges.
    """
    posts, folder = read_posts(POSTS), Path(params.split.predefined.folder)
    folds, group_of = read_folds(posts, folder), read_groups(GROUPS)
    settings = params.training_config(model, **best["params"])
    workspace = open_workspace(model)
    facts = workspace.facts()

    def key_of(fold: Fold) -> str:
        return training_key(settings, {**facts, "split_digest": fold.digest}, params.seed)

    with progress(len(folds) * settings.epochs, f"{model}: folds", "epochs") as bar:
        predicted = predict_folds(
            folds,
            lambda fold: REPEATS / f"{model}-folds" / f"{key_of(fold)}.csv",
            lambda fold: _train(params, workspace, settings, posts, fold, bar),
        )
    summary = {"study": best["study"], "settings": asdict(settings), **summarise(folds, predicted, group_of)}
    digest = digest_of((str(fold.number), fold.digest) for fold in folds)
    tags = {**run_tags("folds", {**facts, "split_digest": digest}, params.notice), "study": best["study"]}
    posts_read = Dataset(f"mvsa-{params.prepare.protocol}-folds", digest, str(folder), "folds", _tones(predicted))
    _write(model, tags, posts_read, best["params"], predicted, summary)
    _tell(params, model, summary)


def read_folds(posts: Sequence[Post], folder: Path) -> list[Fold]:
    """The folds below a folder, less those that test a post which an earlier one tests: nothing is pooled twice."""
    found: list[Fold] = []
    tested: set[str] = set()
    for number in folds_in(folder):
        fold = Fold(number, predefined_split(posts, folder, number))
        if tested & fold.tested():
            warn(f"fold {number} is left out: it tests posts that an earlier fold tests")
            continue
        tested |= fold.tested()
        found.append(fold)
    return found


def predict_folds(
    folds: Sequence[Fold], file_of: Callable[[Fold], Path], predict: Callable[[Fold], Sequence[Prediction]]
) -> dict[int, list[Prediction]]:
    """What is said of the test posts of each fold, by its number; a fold whose file is there is not done again."""
    for fold in folds:
        if not file_of(fold).is_file():
            write_predictions(file_of(fold), predict(fold))
    return {fold.number: read_predictions(file_of(fold)) for fold in folds}


def summarise(folds: Sequence[Fold], predicted: Predicted, group_of: Mapping[str, str]) -> dict[str, Any]:
    """Scores of all folds together, on all test posts and on those without a twin in their fold's other parts.

    `spread` has the mean and the standard deviation over folds, and no interval of the mean: folds share most of what
    they train on, and no estimate of that is unbiased (Bengio and Grandvalet, JMLR 2004).
    """
    rows = {number: scores(found).headline() for number, found in predicted.items()}
    pooled = [row for found in predicted.values() for row in found]
    clean_of = {fold.number: leak_free(fold.part_of, group_of) for fold in folds}
    clean = [row for number, found in predicted.items() for row in found if row.id in clean_of[number]]
    spread = {figure: spread_of([row[figure] for row in rows.values()]) for figure in FIGURES}
    return {
        "folds": [{"fold": number, "posts": len(predicted[number]), **row} for number, row in rows.items()],
        "posts": len(pooled),
        "pooled": _scores(pooled),
        "leak_free_posts": len(clean),
        "pooled_leak_free": _scores(clean),
        "spread": {figure: {"mean": each.mean, "sd": each.sd, "n": each.n} for figure, each in spread.items()},
    }


def _scores(rows: Sequence[Prediction]) -> dict[str, float]:
    """Empty where there is nothing to score."""
    return scores(rows).summary() if rows else {}


def _train(
    params: Params, workspace: Workspace, settings: TrainingConfig, posts: Sequence[Post], fold: Fold, bar: Progress
) -> list[Prediction]:
    parts: dict[str, list[Post]] = {part: [] for part in dict.fromkeys(fold.part_of.values())}
    for post in posts:
        if post.id in fold.part_of:
            parts[fold.part_of[post.id]].append(post)
    own, reporter = replace(workspace, parts=parts), EpochBar(bar, f"fold {fold.number}")
    try:
        with fresh_adapter(own.model, settings, params.seed) as adapter:
            val, test = (own.data(part) for part in ("val", "test"))
            fit(adapter.model, own.training(settings), val, settings, params.seed, reporter)
            return predictions(test, logits(adapter.model, test, params.evaluate.batch_size))
    except DivergenceError as error:
        raise DivergenceError(f"fold {fold.number}: {error}") from error
    finally:
        bar.advance(settings.epochs - reporter.epochs)


def _tones(predicted: Predicted) -> dict[str, int]:
    actual = [row.actual for found in predicted.values() for row in found]
    return {tone: actual.count(tone) for tone in dict.fromkeys(actual)}


def _write(
    model: str,
    tags: Mapping[str, str],
    posts_read: Dataset,
    searched: Mapping[str, Any],
    predicted: Predicted,
    summary: Mapping[str, Any],
) -> None:
    """The files, and a run that holds them."""
    folder = stage_folder("folds", model)
    pooled = {f"pooled_{name}": value for name, value in summary["pooled"].items()}
    clean = {f"pooled_leak_free_{name}": value for name, value in summary["pooled_leak_free"].items()}
    with open_tracker(model).run("folds", tags=tags, params=searched) as run:
        run.inputs([posts_read])
        for row in summary["folds"]:
            run.metrics({f"fold_{figure}": row[figure] for figure in FIGURES}, step=row["fold"])
        run.metrics({**pooled, **clean})
        rows = [{"fold": number, **asdict(row)} for number, found in predicted.items() for row in found]
        write_table(folder / "predictions.csv", rows)
        write_json(folder / "folds.json", summary)
        run.folder(folder, "folds")


def _tell(params: Params, model: str, summary: Mapping[str, Any]) -> None:
    rows = [[row["fold"], row["posts"], *(row[figure] for figure in FIGURES)] for row in summary["folds"]]
    for name, number, found in (("all", "posts", "pooled"), ("leak-free", "leak_free_posts", "pooled_leak_free")):
        rows.append([name, summary[number], *(summary[found].get(figure) for figure in FIGURES)])
    table(f"{model}: test parts of {len(summary['folds'])} published folds", ["fold", "posts", *FIGURES], rows)
    deviations = ", ".join(f"{figure} {each['sd']:.4f}" for figure, each in summary["spread"].items() if each["sd"])
    say(f"standard deviation over folds: {deviations or 'none, of one fold'}")
    say(f"{params.notice}\nTables: {stage_folder('folds', model)}")
