"""Cross-validation on published folds: one training on each, and scores of their test parts taken together.

One test part of 450 posts cannot separate good models. Over ten folds every post is tested once, by a model that was
not trained on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from src.cli.output import EpochBar, Progress, progress, warn
from src.core.config import Params
from src.core.errors import DivergenceError, UserError
from src.core.estimates import Spread
from src.core.files import digest_of, write_table
from src.core.outputs import BestTrial, FoldScores, FoldsOutput
from src.core.paths import (
    BEST_FILE,
    FOLDS_JSON,
    GROUPS,
    POSTS,
    PREDICTIONS_FILE,
    UNIMODAL,
    fold_runs_folder,
    stage_folder,
)
from src.core.provenance import training_key
from src.core.records import (
    Post,
    Prediction,
    leak_free,
    read_groups,
    read_posts,
    read_predictions,
    read_unimodal,
    split_digest,
    write_predictions,
)
from src.core.training_config import TrainingConfig
from src.data.published_splits import folds_in, predefined_split
from src.evaluation.intervals import spread_of
from src.evaluation.metrics import scores
from src.tracking.client import Dataset
from src.tracking.run_logging import open_tracker, run_tags
from src.training.train_and_test import train_and_test
from src.training.trainer import TrainingContext
from src.training.workspace import Workspace, open_workspace

FIGURES = ("accuracy", "macro_f1", "weighted_f1")


@dataclass(frozen=True)
class Fold:
    """One published division of the posts."""

    number: int
    # The part of each post, by id.
    part_of: Mapping[str, str]

    @property
    def digest(self) -> str:
        """A short digest of the division."""
        return digest_of(self.part_of.items())

    def test_ids(self) -> set[str]:
        """Return the ids of the fold's test posts."""
        return {key for key, part in self.part_of.items() if part == "test"}


PredictionsByFold = Mapping[int, Sequence[Prediction]]


def run_folds(params: Params, model: str) -> FoldsOutput:
    """Train the winner of a search once on every published fold, and write outputs/folds/<model>/ and an MLflow run.

    The epoch is chosen on the fold's val part, and its test part is predicted. Only the settings come from the search,
    because its train and val parts hold test posts of the folds.

    Args:
        params: the settings of params.yaml. `split.predefined` names the folder of the folds.
        model: the name in the catalog.

    Raises:
        UserError: an earlier stage has not run, there are no folds, they do not fit the posts, `align` has trained a
            part of the base, or a training diverges.
    """
    best = BestTrial.read(stage_folder("tune", model) / BEST_FILE)
    posts = read_posts(POSTS)
    group_of = read_groups(GROUPS)
    folds = read_folds(posts, Path(params.split.predefined.folder))
    config = params.training_config(model, **best.params)
    workspace = open_workspace(params, model)
    if workspace.model.checkpoint.aligned:
        raise UserError(
            f"folds would leak: `align` trained a part of {model} on labels of the train part, which holds test posts "
            "of the folds"
        )
    facts = workspace.facts()
    unimodal = read_unimodal(UNIMODAL) if config.unimodal_labels else ()

    def file_of(fold: Fold) -> Path:
        digest = split_digest(fold.part_of, unimodal)
        key = training_key(config, {**facts, "split_digest": digest}, params.seed)
        return fold_runs_folder(model) / f"{key}.csv"

    with progress(len(folds) * config.epochs, f"{model}: folds", "epochs") as bar:
        by_fold = predict_folds(folds, file_of, lambda fold: _train_fold(params, workspace, config, posts, fold, bar))
    output = summarise(folds, by_fold, group_of, best.study, config)
    _write(params, model, best, facts, folds, by_fold, output)
    return output


def read_folds(posts: Sequence[Post], folder: Path) -> list[Fold]:
    """Read the folds of a folder. A fold that tests a post of an earlier fold is left out, so no post counts twice."""
    folds: list[Fold] = []
    tested: set[str] = set()
    for number in folds_in(folder):
        fold = Fold(number, predefined_split(posts, folder, number))
        if tested & fold.test_ids():
            warn(f"fold {number} is left out: it tests posts that an earlier fold tests")
            continue
        tested |= fold.test_ids()
        folds.append(fold)
    return folds


def predict_folds(
    folds: Sequence[Fold], file_of: Callable[[Fold], Path], predict: Callable[[Fold], Sequence[Prediction]]
) -> dict[int, list[Prediction]]:
    """Return the predictions of each fold's test posts, by the fold's number.

    A fold whose file exists is not predicted again.
    """
    for fold in folds:
        if not file_of(fold).is_file():
            write_predictions(file_of(fold), predict(fold))
    return {fold.number: read_predictions(file_of(fold)) for fold in folds}


def summarise(
    folds: Sequence[Fold],
    by_fold: PredictionsByFold,
    group_of: Mapping[str, str],
    study: str,
    settings: TrainingConfig,
) -> FoldsOutput:
    """Score each fold, all test posts together, and those without a near-duplicate in their fold's other parts."""
    scores_of = {number: scores(rows) for number, rows in by_fold.items()}
    pooled = [row for rows in by_fold.values() for row in rows]
    unseen_of = {fold.number: leak_free(fold.part_of, group_of) for fold in folds}
    unseen = [row for number, rows in by_fold.items() for row in rows if row.id in unseen_of[number]]
    return FoldsOutput(
        study=study,
        settings=settings,
        folds=tuple(
            FoldScores(number, len(by_fold[number]), **fold_scores.headline())
            for number, fold_scores in scores_of.items()
        ),
        posts=len(pooled),
        pooled=_summary(pooled),
        leak_free_posts=len(unseen),
        pooled_leak_free=_summary(unseen),
        spread={
            figure: _spread([fold_scores.headline()[figure] for fold_scores in scores_of.values()])
            for figure in FIGURES
        },
    )


def _summary(rows: Sequence[Prediction]) -> dict[str, float]:
    return scores(rows).summary() if rows else {}


def _spread(values: Sequence[float]) -> Spread:
    # Folds share most of their train parts, so Student's interval of the mean does not hold (see FoldsOutput).
    return replace(spread_of(values), low=None, high=None)


def _train_fold(
    params: Params, workspace: Workspace, config: TrainingConfig, posts: Sequence[Post], fold: Fold, bar: Progress
) -> list[Prediction]:
    parts: dict[str, list[Post]] = {part: [] for part in dict.fromkeys(fold.part_of.values())}
    for post in posts:
        if post.id in fold.part_of:
            parts[fold.part_of[post.id]].append(post)
    callback = EpochBar(bar, f"fold {fold.number}")
    context = TrainingContext(params.seed, callback)
    try:
        tested = train_and_test(replace(workspace, parts=parts), config, context, params.evaluate.batch_size)
    except DivergenceError as error:
        raise DivergenceError(f"fold {fold.number}: {error}") from error
    finally:
        # Epochs that early stopping left out are done as far as the bar is concerned.
        bar.advance(config.epochs - callback.epochs)
    return list(tested.test)


def _write(
    params: Params,
    model: str,
    best: BestTrial,
    facts: Mapping[str, str],
    folds: Sequence[Fold],
    by_fold: PredictionsByFold,
    output: FoldsOutput,
) -> None:
    folder = stage_folder("folds", model)
    rows = [{"fold": number, **row.cells()} for number, predicted in by_fold.items() for row in predicted]
    write_table(folder / PREDICTIONS_FILE, rows)
    output.write(folder / FOLDS_JSON)
    digest = digest_of((str(fold.number), fold.digest) for fold in folds)
    tags = {**run_tags("folds", {**facts, "split_digest": digest}, params.notice), "study": best.study}
    tested = [row.actual for predicted in by_fold.values() for row in predicted]
    counts = {label: tested.count(label) for label in dict.fromkeys(tested)}
    name = f"mvsa-{params.prepare.protocol}-folds"
    dataset = Dataset(name, digest, str(Path(params.split.predefined.folder)), "folds", counts)
    with open_tracker(model).run("folds", tags=tags, params=best.params) as run:
        run.inputs([dataset])
        for fold in output.folds:
            run.metrics({f"fold_{figure}": getattr(fold, figure) for figure in FIGURES}, step=fold.fold)
        run.metrics({f"pooled_{name}": value for name, value in output.pooled.items()})
        run.metrics({f"pooled_leak_free_{name}": value for name, value in output.pooled_leak_free.items()})
        run.folder(folder, "folds")
