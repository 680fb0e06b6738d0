"""Running the paper's experiments. The result of each is stored at once and not computed again."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from src.cli.output import Progress, progress, say, warn
from src.core.config import Params
from src.core.errors import DivergenceError, UserError
from src.core.files import digest_of
from src.core.outputs import PretrainedWeights, StageOutput
from src.core.paper import Recipe, format_figures
from src.core.paths import CHECKPOINTS, PAPER_RUNS
from src.core.provenance import code_digest, training_key
from src.core.records import Post, Prediction, Scores
from src.evaluation.metrics import report, scores
from src.models.catalog import resolve_checkpoint
from src.tracking.addresses import first_line_without_password
from src.tracking.client import Run, Tracker
from src.tracking.run_logging import log_scores, run_tags
from src.training.adapter import fresh_adapter
from src.training.inference import predict
from src.training.train_and_test import train_and_test
from src.training.trainer import TrainingContext
from src.training.workspace import Workspace, checkpoint_of, facts_of, load_model, posts_by_part

EXPERIMENT = "mvsa-paper"
_ABOUT = "The paper's own experiments, each with the published figures as `published_*`."
_COMPLETE = {"state": "complete"}
_FAILURES = (UserError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class ExperimentResult:
    """The predictions of one recipe, or the reason why there are none."""

    recipe: Recipe
    # The weights and posts that the recipe was run on.
    facts: Mapping[str, str]
    # Predictions of the posts that the recipe is judged on. Empty after a failure.
    predictions: tuple[Prediction, ...] = ()
    # The reason of a failure. Empty on success.
    failure: str = ""
    # Whether another attempt would end the same.
    final: bool = False

    def scores(self) -> Scores:
        """Score the predictions, of which there must be one at least."""
        return scores(self.predictions)


@dataclass(frozen=True)
class _StoredResult(StageOutput):
    """The file that keeps a final result."""

    failure: str
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class PlannedExperiment:
    """A recipe on certain weights and posts."""

    recipe: Recipe
    facts: Mapping[str, str]
    # A digest of everything that the predictions depend on.
    key: str

    @classmethod
    def of(cls, params: Params, recipe: Recipe, facts: Mapping[str, str]) -> "PlannedExperiment":
        """Plan a recipe. The key of a zero-shot recipe covers no setting of a training."""
        judged = {**facts, "kind": recipe.kind, "posts": str(recipe.num_posts)}
        if recipe.kind == "zeroshot":
            depends_on = {**judged, "seed": str(params.seed), "code": code_digest(recipe.model)}
            return cls(recipe, facts, digest_of(depends_on.items()))
        config = params.training_config(recipe.model, **recipe.settings)
        return cls(recipe, facts, training_key(config, judged, params.seed))

    @property
    def tags(self) -> dict[str, str]:
        """The tags by which the experiment's run in MLflow is found again."""
        return {"recipe": self.recipe.name, "key": self.key}

    @property
    def file(self) -> Path:
        """The file that keeps the result."""
        return PAPER_RUNS / self.recipe.name / f"{self.key}.json"

    def stored(self) -> ExperimentResult | None:
        """Return the result of an earlier call. None without one."""
        if not self.file.is_file():
            return None
        result = _StoredResult.read(self.file)
        return ExperimentResult(self.recipe, self.facts, result.predictions, result.failure, final=True)

    def store(self, predictions: Sequence[Prediction] = (), failure: str = "") -> ExperimentResult:
        """Write the result to its file, and return it as a later call reads it: with rounded numbers."""
        _StoredResult(failure, tuple(predictions)).write(self.file)
        result = self.stored()
        assert result
        return result


def run_recipes(params: Params, recipes: Sequence[Recipe]) -> list[ExperimentResult]:
    """Run recipes at the scale of `params`.

    Recipes of one model must be adjacent: one base is in memory at a time. Each recipe is a run in the MLflow
    experiment mvsa-paper. A recipe that was run before on the same weights and posts, with the same code and settings,
    is not run again, and its run in MLflow stays. A failure is a result. It is stored unless another attempt may
    succeed (after a lack of memory, or an unreachable MLflow).

    Raises:
        UserError: `prepare` or `split` has not run, or a checkpoint cannot be resolved.
    """
    parts = posts_by_part()
    results: list[ExperimentResult] = []
    with progress(len(recipes), "recipes", "recipes") as bar:
        for model, group in groupby(recipes, key=lambda recipe: recipe.model):
            results += _run_model(params, model, list(group), parts, bar)
    return results


def _run_model(
    params: Params, model: str, recipes: Sequence[Recipe], parts: dict[str, list[Post]], bar: Progress
) -> Iterator[ExperimentResult]:
    checkpoint = _checkpoint(params, model, parts["train"])
    facts = facts_of(model, checkpoint, params.labels)
    experiments = [PlannedExperiment.of(params, recipe, facts) for recipe in recipes]
    # The base is loaded only if a recipe has no stored result.
    missing = [experiment.recipe.name for experiment in experiments if not experiment.stored()]
    workspace = None
    failure = ""
    if missing:
        try:
            workspace = Workspace(load_model(model, checkpoint, params.labels), parts, params.encode.batch_size)
        except _FAILURES as error:
            failure = first_line_without_password(error)
            warn(f"{', '.join(missing)}: failed: {failure}")
    for experiment in experiments:
        bar.note(experiment.recipe.name)
        if workspace or experiment.recipe.name not in missing:
            yield _run(params, experiment, workspace)
        else:
            yield ExperimentResult(experiment.recipe, facts, failure=failure)
        bar.advance()


def _checkpoint(params: Params, model: str, train: Sequence[Post]) -> PretrainedWeights:
    """Return the checkpoint of `frozen` if it is the wanted one. Resolve one as `frozen` does otherwise."""
    with suppress(UserError):
        return checkpoint_of(params, model)
    captions = [post.caption for post in train]
    given = params.checkpoint(model)
    return resolve_checkpoint(model, params.scale, CHECKPOINTS / model, captions, given, params.labels)


def _run(params: Params, experiment: PlannedExperiment, workspace: Workspace | None) -> ExperimentResult:
    """Return the stored result, or attempt the experiment. MLflow gets a run if it has no complete one."""
    stored = experiment.stored()
    try:
        tracker = Tracker(EXPERIMENT, _ABOUT)
        if stored and (stored.failure or tracker.find({**experiment.tags, **_COMPLETE})):
            result = stored
        else:
            result = _attempt(params, experiment, workspace, tracker)
    except _FAILURES as error:
        failure = first_line_without_password(error)
        result = ExperimentResult(experiment.recipe, experiment.facts, failure=failure)
    name = f"{experiment.recipe.name}{', taken from an earlier run' if stored else ''}"
    if result.failure:
        warn(f"{name}: failed: {result.failure}")
    else:
        ours = format_figures(result.scores().headline())
        say(f"{name}: {ours}; published: {format_figures(experiment.recipe.published)}")
    return result


def _attempt(
    params: Params, experiment: PlannedExperiment, workspace: Workspace | None, tracker: Tracker
) -> ExperimentResult:
    # Runs of attempts that failed or were killed are replaced.
    for run_id in tracker.find(experiment.tags):
        tracker.remove(run_id)
    recipe = experiment.recipe
    tags = {**run_tags("recipe", experiment.facts, params.notice), **experiment.tags, "kind": recipe.kind}
    try:
        with tracker.run(recipe.name, tags=tags, params=dict(recipe.settings)) as run:
            # The result is stored before it is logged: an error of MLflow costs no training.
            result = experiment.stored() or experiment.store(_predict(params, workspace, recipe))
            _log(run, result)
            return result
    except DivergenceError as error:
        # The same settings diverge again, so this failure is final.
        return experiment.store(failure=first_line_without_password(error))


def _log(run: Run, result: ExperimentResult) -> None:
    recipe = result.recipe
    run.json("recipe.json", asdict(recipe))
    run.metrics({f"published_{name}": value for name, value in recipe.published.items()})
    log_scores(run, result.scores(), report(result.predictions), f"{recipe.name}, test", "test")
    # Last, so that a run that was killed while it was logged is not taken for a complete one.
    run.tags(_COMPLETE)


def _predict(params: Params, workspace: Workspace | None, recipe: Recipe) -> list[Prediction]:
    assert workspace, "a stored result alone needs no model"
    model = workspace.model
    if recipe.kind == "zeroshot":
        model.readout = model.verbalizer_readout()
        data = _sampled(workspace, recipe.num_posts, params.seed).data("test")
        return predict(model, data, params.evaluate.batch_size)
    config = params.training_config(recipe.model, **recipe.settings)
    if recipe.kind == "training":
        tested = train_and_test(workspace, config, TrainingContext(params.seed), params.evaluate.batch_size)
        return list(tested.test)
    with fresh_adapter(model, config, params.seed):
        return predict(model, workspace.data("test"), params.evaluate.batch_size)


def _sampled(workspace: Workspace, num_posts: int | None, seed: int) -> Workspace:
    """Return the workspace with a random sample of all parts in the place of the test part.

    Nothing is trained, so the posts of train and val are as unseen as those of test.
    """
    if num_posts is None:
        return workspace
    posts = [post for part in workspace.parts.values() for post in part]
    sample = random.Random(seed).sample(posts, min(num_posts, len(posts)))
    return replace(workspace, parts={**workspace.parts, "test": sample})
