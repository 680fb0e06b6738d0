"""Descriptions that lead a reader through MLflow: links between related runs, and a table that compares models."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.core.records import ADAPTER_DIGEST
from src.tracking.client import Run, Tracker
from src.tracking.markdown import lead_of, model_link, run_link, table

# Scores of runs with equal values of these tags compare: same posts, same split, weights of the same scale.
_COMPARABLE_TAGS = ("scale", "data_digest", "split_digest")
_PREFIX = "mvsa-"
_BASELINES = "baselines"
_TFIDF = "tfidf"
_VAL_METRIC = "best_val_macro_f1"
_TEST_METRIC = "test_macro_f1"


@dataclass(frozen=True)
class _ModelScores:
    """The newest scores of one model, a row of the table."""

    model: str
    # The run with the test score, and its experiment.
    run_id: str
    experiment_id: str
    # Macro-F1 of the tuned model on the test part, and on the validation part if MLflow has the training run.
    test: float
    validation: float | None
    # Macro-F1 of the untuned model on the test part, if MLflow has its run.
    zeroshot: float | None

    def row(self, name: str) -> dict[str, str]:
        """Return the row of the table; `name` is the model's name or a link."""
        return {
            "model": name,
            "validation macro-F1": "-" if self.validation is None else f"{self.validation:.4f}",
            "test macro-F1": run_link(f"{self.test:.4f}", self.experiment_id, self.run_id),
            "untrained": "-" if self.zeroshot is None else f"{self.zeroshot:.4f}",
            "gained": "-" if self.zeroshot is None else f"{self.test - self.zeroshot:+z.4f}",
        }


def link_runs(tracker: Tracker, model: str, evaluated: Run) -> None:
    """Link the runs of study, best trial, training and evaluation, and the model's versions, in their descriptions.

    A run that MLflow does not have is named without a link.
    """
    train = _training_of(tracker, evaluated)
    if train is None:
        return
    study = train.tag("study")
    studies = tracker.find({"stage": "study", "study": study})
    trials = tracker.find({"stage": "trial", "study": study, "trial": train.tag("trial")})
    here = evaluated.experiment_id()
    links = {
        "study": run_link("study", here, studies[0] if studies else ""),
        "trial": run_link(f"trial {train.tag('trial')}", here, trials[0] if trials else ""),
        "train": run_link("train run", here, train.id),
        "evaluate": run_link("evaluate run", here, evaluated.id),
        "versions": model_link("registered versions", f"{_PREFIX}{model}"),
    }
    text = (
        "{study} → {trial} → {train} (the trial's settings, trained again) → {evaluate} (on the test part) → {versions}"
    )
    for run in (train, evaluated, *map(tracker.reopen, studies[:1])):
        run.section("Related runs", text.format(**links))


def compare_models(tracker: Tracker, facts: Mapping[str, str]) -> None:
    """Write a table of all models' newest scores on the same posts into the description of each model's experiment."""
    tags = {name: facts[name] for name in _COMPARABLE_TAGS}
    experiments = tracker.experiments(_PREFIX)
    models = [scores for model, item in experiments.items() if (scores := _scores_of(model, item, tags))]
    # Models without a validation score come last.
    models.sort(key=lambda scores: -1.0 if scores.validation is None else scores.validation, reverse=True)
    if not models:
        return
    baselines = _baselines(experiments, facts)
    rows = [scores.row(model_link(scores.model, f"{_PREFIX}{scores.model}")) for scores in models]
    rows += [scores.row(scores.model) for scores in baselines]
    text = f"{_best_sentence(models)}{_below_baseline_sentence(models, baselines)}\n\n{table(rows)}"
    for scores in models:
        experiments[scores.model].section("All models on these posts", text)


def _scores_of(model: str, experiment: Tracker, tags: Mapping[str, str]) -> _ModelScores | None:
    """Return the newest scores of a model; None if no evaluation has these tags."""
    evaluated = _newest(experiment, {**tags, "stage": "evaluate"})
    if evaluated is None:
        return None
    zeroshot = _newest(experiment, {**tags, "stage": "zeroshot"})
    train = _training_of(experiment, evaluated)
    return _ModelScores(
        model=model,
        run_id=evaluated.id,
        experiment_id=evaluated.experiment_id(),
        test=evaluated.last_metrics()[_TEST_METRIC],
        validation=train.last_metrics().get(_VAL_METRIC) if train else None,
        zeroshot=zeroshot.last_metrics()[_TEST_METRIC] if zeroshot else None,
    )


def _training_of(tracker: Tracker, evaluated: Run) -> Run | None:
    """Return the newest training of the adapter that an evaluation scored; None if MLflow does not have it."""
    runs = tracker.find({"stage": "train", ADAPTER_DIGEST: evaluated.tag(ADAPTER_DIGEST)})
    return tracker.reopen(runs[0]) if runs else None


def _baselines(experiments: Mapping[str, Tracker], facts: Mapping[str, str]) -> list[_ModelScores]:
    """Return the scores of the TF-IDF and majority baselines on the same posts, as far as MLflow has them."""
    if _BASELINES not in experiments:
        return []
    tags = {"stage": "baseline", "data_digest": facts["data_digest"], "split_digest": facts["split_digest"]}
    baselines = []
    for name in (_TFIDF, "majority"):
        run = _newest(experiments[_BASELINES], {**tags, "model": name})
        if run:
            metrics = run.last_metrics()
            scores = (metrics[_TEST_METRIC], metrics["val_macro_f1"], None)
            baselines.append(_ModelScores(name, run.id, run.experiment_id(), *scores))
    return baselines


def _newest(experiment: Tracker, tags: Mapping[str, str]) -> Run | None:
    """Return the newest run with these tags that has test scores."""
    runs = map(experiment.reopen, experiment.find(tags))
    return next((run for run in runs if _TEST_METRIC in run.last_metrics()), None)


def _best_sentence(models: list[_ModelScores]) -> str:
    """Name the best model on validation; empty if no model has a validation score."""
    ranked = [(scores.model, scores.validation) for scores in models if scores.validation is not None]
    if not ranked:
        return ""
    (best, validation), *others = ranked
    sentence = f"Best on validation: **{best}**, macro-F1 {validation:.4f}"
    if others:
        second, next_validation = others[0]
        sentence += f", {lead_of(validation, next_validation)} {second}"
    return f"{sentence}."


def _below_baseline_sentence(models: list[_ModelScores], baselines: list[_ModelScores]) -> str:
    """Name the models whose test score does not exceed that of TF-IDF; empty if there are none."""
    threshold = next((scores.test for scores in baselines if scores.model == _TFIDF), None)
    if threshold is None:
        return ""
    weak = [scores.model for scores in models if scores.test <= threshold]
    return f" Not above TF-IDF of the captions on the test part: **{', '.join(weak)}**." if weak else ""
