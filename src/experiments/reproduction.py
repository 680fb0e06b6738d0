"""Running the study's experiments. What comes of each is kept at once, and not computed again."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from src.cli.output import Progress, progress, say, warn
from src.core.config import Params
from src.core.errors import DivergenceError, UserError
from src.core.files import digest_of, read_json, write_json
from src.core.outputs import PretrainedWeights
from src.core.paper import Recipe
from src.core.paths import CHECKPOINTS, REPEATS, checkpoint_file
from src.core.provenance import code_digest, training_key
from src.core.records import Post, Prediction, Scores
from src.evaluation.metrics import report, scores
from src.models.catalog import resolve_checkpoint
from src.tracking.client import Run, Tracker
from src.tracking.run_logging import log_scores, run_tags
from src.training.adapter import fresh_adapter
from src.training.callbacks import NullCallback
from src.training.inference import logits, predictions
from src.training.trainer import fit
from src.training.workspace import Workspace, checkpoint_of, facts_of, load_model, posts_by_part

DONE = REPEATS / "recipes"
_ABOUT = "The study's own experiments, each with the published figures as `published_*`."
_COMPLETE = {"state": "complete"}
_FAILURES = (UserError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class ExperimentResult:
    """What came of a recipe.

    Attributes:
        recipe: what was run.
        facts: the weights and posts that it was run on.
        predictions: what the model says of the posts it is judged on.
        failure: why it says nothing; empty if it does.
        final: whether another attempt would end the same.
    """

    recipe: Recipe
    facts: Mapping[str, str]
    predictions: tuple[Prediction, ...] = ()
    failure: str = ""
    final: bool = False

    def scores(self) -> Scores:
        """How good the predictions are, of which there must be one."""
        return scores(self.predictions)


@dataclass(frozen=True)
class PlannedExperiment:
    """A recipe on certain weights and posts; the `key` is of all that its predictions depend on."""

    recipe: Recipe
    facts: Mapping[str, str]
    key: str

    @classmethod
    def of(cls, params: Params, recipe: Recipe, facts: Mapping[str, str]) -> "PlannedExperiment":
        """The case of a recipe: of an untrained model that is asked, no setting of a training counts."""
        own = {**facts, "kind": recipe.kind, "posts": str(recipe.num_posts)}
        if recipe.kind != "zeroshot":
            return cls(
                recipe, facts, training_key(params.training_config(recipe.model, **recipe.settings), own, params.seed)
            )
        depends_on = {**own, "seed": str(params.seed), "code": code_digest(recipe.model)}
        return cls(recipe, facts, digest_of(depends_on.items()))

    @property
    def labels(self) -> dict[str, str]:
        """Tags that tell its run in MLflow from others."""
        return {"recipe": self.recipe.name, "key": self.key}

    @property
    def file(self) -> Path:
        """Where what came of it is kept."""
        return DONE / self.recipe.name / f"{self.key}.json"

    def kept(self) -> ExperimentResult | None:
        """What came of it when it was run before, if it was."""
        return self._read() if self.file.is_file() else None

    def _read(self) -> ExperimentResult:
        content = read_json(self.file)
        said = tuple(Prediction(**row) for row in content["predictions"])
        return ExperimentResult(self.recipe, self.facts, said, content["failure"], final=True)

    def keep(self, said: Sequence[Prediction] = (), failure: str = "") -> ExperimentResult:
        """Write down what came of it."""
        write_json(self.file, {"failure": failure, "predictions": [asdict(row) for row in said]})
        # With the decimals that the file keeps: a later call computes from the same numbers.
        return self._read()


def run_recipes(params: Params, recipes: Sequence[Recipe]) -> list[ExperimentResult]:
    """Run recipes at the scale of `params`, one base in memory at a time: those of a model stand together.

    Each is a run in the MLflow experiment mvsa-paper. One that was run before on the same weights and posts, by the
    same code and settings, is taken from then, and its run too. A failure is an outcome; one that another attempt may
    not have (of memory, the Hub, MLflow) is not kept.

    Raises:
        UserError: `prepare` or `split` has not run.
    """
    parts = posts_by_part()
    found: list[ExperimentResult] = []
    with progress(len(recipes), "recipes", "recipes") as bar:
        for model, group in groupby(recipes, key=lambda recipe: recipe.model):
            found += _of_model(params, model, list(group), parts, bar)
    return found


def _of_model(
    params: Params, model: str, recipes: Sequence[Recipe], parts: dict[str, list[Post]], bar: Progress
) -> Iterator[ExperimentResult]:
    """The base is loaded only for what was not run before."""
    checkpoint = _checkpoint(params.scale, model, parts["train"])
    facts = facts_of(model, checkpoint)
    cases = [PlannedExperiment.of(params, recipe, facts) for recipe in recipes]
    missing = [case.recipe.name for case in cases if not case.kept()]
    workspace, failure = None, ""
    if missing:
        try:
            workspace = Workspace(load_model(model, checkpoint), parts)
        except _FAILURES as error:
            failure = _reason(error)
            warn(f"{', '.join(missing)}: failed: {failure}")
    for case in cases:
        bar.note(case.recipe.name)
        if workspace or case.recipe.name not in missing:
            yield _run(params, case, workspace)
        else:
            yield ExperimentResult(case.recipe, facts, failure=failure)
        bar.advance()


def _checkpoint(scale: str, model: str, train: Sequence[Post]) -> PretrainedWeights:
    """That of `encode` if it is of this scale, or else one resolved as `encode` does."""
    if checkpoint_file(model).is_file():
        found = checkpoint_of(model)
        if found.scale == scale:
            return found
    return resolve_checkpoint(model, scale, CHECKPOINTS / model, [post.caption for post in train])


def _run(params: Params, case: PlannedExperiment, workspace: Workspace | None) -> ExperimentResult:
    """What comes of a case, now or earlier; a run of MLflow is made where there is none that is complete."""
    kept, tracker = case.kept(), Tracker("mvsa-paper", _ABOUT)
    if kept and (kept.failure or tracker.find({**case.labels, **_COMPLETE})):
        outcome = kept
    else:
        outcome = _attempt(params, case, workspace, tracker)
    name = f"{case.recipe.name}{', taken from an earlier run' if kept else ''}"
    if outcome.failure:
        warn(f"{name}: failed: {outcome.failure}")
    else:
        say(f"{name}: {_figures(outcome.scores().headline())}; published: {_figures(case.recipe.published)}")
    return outcome


def _attempt(
    params: Params, case: PlannedExperiment, workspace: Workspace | None, tracker: Tracker
) -> ExperimentResult:
    for run_id in tracker.find(case.labels):
        tracker.remove(run_id)  # of an attempt that failed or was killed
    recipe = case.recipe
    tags = {**run_tags("recipe", case.facts, params.notice), **case.labels, "kind": recipe.kind}
    try:
        with tracker.run(recipe.name, tags=tags, params=dict(recipe.settings)) as run:
            outcome = case.kept() or case.keep(_predict(params, workspace, recipe))
            _log(run, outcome)
            return outcome
    except DivergenceError as error:
        return case.keep(failure=str(error))
    except _FAILURES as error:
        return ExperimentResult(recipe, case.facts, failure=_reason(error))


def _log(run: Run, outcome: ExperimentResult) -> None:
    recipe = outcome.recipe
    run.json("recipe.json", asdict(recipe))
    run.metrics({f"published_{name}": value for name, value in recipe.published.items()})
    log_scores(run, outcome.scores(), report(outcome.predictions), f"{recipe.name}, test", "test")
    run.tags(_COMPLETE)


def _predict(params: Params, workspace: Workspace | None, recipe: Recipe) -> list[Prediction]:
    assert workspace, "only what is kept needs no model"
    model = workspace.model
    if recipe.kind == "zeroshot":
        model.readout = model.verbalizer_readout()
        data = _drawn(workspace, recipe.num_posts, params.seed).data("test")
        return predictions(data, logits(model, data, params.evaluate.batch_size))
    settings = params.training_config(recipe.model, **recipe.settings)
    with fresh_adapter(model, settings, params.seed):
        if recipe.kind == "training":
            fit(model, workspace.training(settings), workspace.data("val"), settings, params.seed, NullCallback())
        data = workspace.data("test")
        return predictions(data, logits(model, data, params.evaluate.batch_size))


def _drawn(workspace: Workspace, count: int | None, seed: int) -> Workspace:
    """A workspace whose test part is `count` posts of all parts: nothing is trained, so none has been seen."""
    if count is None:
        return workspace
    posts: list[Post] = [post for part in workspace.parts.values() for post in part]
    drawn = random.Random(seed).sample(posts, min(count, len(posts)))
    return replace(workspace, parts={**workspace.parts, "test": drawn})


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _figures(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
