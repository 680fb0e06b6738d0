"""The report's findings: the outputs of all stages, and sentences that say no more than the intervals allow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from src.core.data_outputs import DataReport, LeakReport, SplitReport
from src.core.estimates import SimilarityCorrelation
from src.core.files import read_table
from src.core.format import percent, percent_interval, points, points_interval
from src.core.labels import are_tones
from src.core.outputs import (
    BaselineOmissions,
    EnsembleOutput,
    MislabelledRow,
    ModalityOutput,
    NoiseOutput,
    SaliencyOutput,
    Trained,
    read_trained,
)
from src.core.paper import PUBLISHED, Figures, Published
from src.core.paths import (
    BASELINE,
    CALIBRATION_TABLE,
    COMPARE,
    DATA_REPORT,
    ENSEMBLE,
    ENSEMBLE_JSON,
    GROUPS,
    LEAKS,
    MISLABELLED_TABLE,
    MODALITY_JSON,
    NOISE,
    NOISE_JSON,
    OMITTED_JSON,
    PAIRS_TABLE,
    PREDICTIONS_FILE,
    SALIENCY_JSON,
    SCORES_TABLE,
    SEEDS_TABLE,
    SPLIT_REPORT,
    stage_folder,
)
from src.core.records import Interval, read_groups, read_predictions
from src.core.rows import read_rows
from src.evaluation.comparison_tables import ALL, LEAK_FREE, CalibrationRow, PairRow, ScoreRow, SeedsRow
from src.evaluation.similarity import similarity_correlation
from src.evaluation.systems import COMBINED, MAJORITY, SEEDS, TFIDF

_NUM_MISLABELLED_SHOWN = 20


def on_the_choice(scores: Sequence[ScoreRow], chosen: str) -> Iterator[str]:
    """Yield the scores of the model that validation chooses (such as clip), beside the baselines."""
    row_of = {row.system: row for row in scores if row.part == ALL}
    best = row_of[f"{chosen} tuned"]
    yield (
        f"Validation chooses {chosen}. On the {best.posts:,} test posts its accuracy is "
        f"{percent_interval(best.accuracy)} and its macro-F1 {percent_interval(best.macro_f1)}. Always predicting the "
        f"commonest label has an accuracy of {percent(row_of[MAJORITY].accuracy.value)}. Logistic regression on the "
        f"captions' words (TF-IDF) has an accuracy of {percent_interval(row_of[TFIDF].accuracy)}."
    )


def on_comparisons(pairs: Sequence[PairRow]) -> Iterator[str]:
    """Yield which models differ from which systems on all test posts, after Holm's correction."""
    whole = [row for row in pairs if row.part == ALL and row.first != COMBINED]
    yield from _against(whole, TFIDF, "TF-IDF on the captions")
    yield from _against(whole, "zero-shot", "the same model untrained")
    yield from _against(whole, "probe", "a logistic regression on its own frozen features")
    yield from _among_models([row for row in whole if row.second.endswith("tuned")])


def on_seeds(scores: Sequence[ScoreRow], comparisons: Sequence[SeedsRow]) -> Iterator[str]:
    """Yield each model's mean scores over seeds, and what it is better than by both tests."""
    row_of = {row.system: row for row in scores if row.kind == SEEDS and row.part == ALL}
    for system, row in row_of.items():
        rows = [each for each in comparisons if each.first == system and each.part == ALL]
        beaten = ", ".join(each.second for each in rows if each.better == "yes")
        yield (
            f"The mean of {rows[0].seeds} other trainings of {row.model}'s winner has an accuracy of "
            f"{percent_interval(row.accuracy)} and a macro-F1 of {percent_interval(row.macro_f1)}. "
            f"Better than: {beaten or 'none'}."
        )


def on_the_ensemble(output: EnsembleOutput, scores: Sequence[ScoreRow], pairs: Sequence[PairRow]) -> Iterator[str]:
    """Yield the ensemble's members, its scores, and whether it is better than its rivals."""
    row = next(row for row in scores if row.system == COMBINED and row.part == ALL)
    members = ", ".join(f"{member.system} ({percent(member.weight)})" for member in output.members)
    yield (
        f"The mean of {len(output.members)} of {output.candidates} systems, weighted on validation, has an accuracy of "
        f"{percent_interval(row.accuracy)} and a macro-F1 of {percent_interval(row.macro_f1)}. Members: {members}."
    )
    for pair in (pair for pair in pairs if pair.first == COMBINED and pair.part == ALL):
        best = ", the best single system on validation" if pair.second == output.best_single else ""
        yield f"Better than {pair.second}{best}: {pair.better}, by {points_interval(pair.accuracy_difference)} points."


def on_leaks(scores: Sequence[ScoreRow]) -> Iterator[str]:
    """Yield the number of leaks, and the change of the tuned models' accuracies without them."""
    rows = {(row.system, row.part): row for row in scores if row.kind == "tuned"}
    posts = {part: row.posts for (_, part), row in rows.items()}
    num_leaks = posts[ALL] - posts.get(LEAK_FREE, 0)
    if not num_leaks:
        yield "No test post has a near-duplicate in train or val, so every score is leak-free."
        return
    yield f"{num_leaks:,} of {posts[ALL]:,} test posts have a near-duplicate in train or val."
    changes = [
        f"{_model(system)} {points(row.accuracy.value - rows[system, ALL].accuracy.value)}"
        for (system, part), row in rows.items()
        if part == LEAK_FREE
    ]
    if changes:
        yield f"Without these posts, accuracies change by (in points): {', '.join(changes)}."


def on_the_paper(
    scores: Sequence[ScoreRow], published: Mapping[str, float], weights: Mapping[str, str]
) -> Iterator[str]:
    """Yield whether our intervals hold the paper's accuracies.

    Args:
        scores: the scores of all systems.
        published: the paper's accuracies, by model.
        weights: by model, as in `Workspace.facts`; only the published ones allow a statement.
    """
    if "random" in weights.values():
        yield "Weights are random, so nothing here says anything about the paper's scores, which stand beside ours."
        return
    row_of = {row.model: row for row in scores if row.kind == "tuned" and row.part == ALL}
    for model, figure in published.items():
        if weights[model] == "given":
            continue
        low = row_of[model].accuracy.low
        high = row_of[model].accuracy.high
        if low is None or high is None:
            continue
        place = "below" if figure < low else "above" if figure > high else "within"
        interval = f"{percent(low)} to {percent(high)}"
        yield f"The paper's accuracy of {percent(figure)} is {place} our interval for {model}, {interval}."


def on_modality(outputs: Mapping[str, ModalityOutput]) -> Iterator[str]:
    """Yield the effect of each ablation on each model, and the label that its predictions follow."""
    titles = {"text": "the caption alone", "image": "the image alone", "shuffled": "another post's image"}
    for model, output in outputs.items():
        changes = []
        for name, title in titles.items():
            change = output.ablations[name].change if name in output.ablations else None
            if change:
                changes.append(f"{title} by {points(change.accuracy.value)}")
        sentence = f"{model}: accuracy changes, in points, with {', '.join(changes)}"
        adherence = output.disagreement.follows.get("both")
        if adherence:
            sentence += (
                f"; of {adherence.n:,} posts whose two labels differ, it follows the text's label in "
                f"{percent(adherence.text.value)} and the image's label in {percent(adherence.image.value)}"
            )
        yield f"{sentence}."


def on_calibration(calibration: Sequence[CalibrationRow]) -> Iterator[str]:
    """Yield the calibration errors of the tuned models."""
    errors = ", ".join(
        f"{_model(row.system)} {percent(row.ece)} ({percent(row.ece_scaled)} at temperature {row.temperature:.2f})"
        for row in calibration
        if row.system.endswith("tuned")
    )
    yield f"Mean distance of confidence and accuracy (expected calibration error): {errors}."


def on_noise(noise: NoiseOutput, protocol: str) -> Iterator[str]:
    """Yield the estimates of label noise under a protocol."""
    agreement = noise.near_duplicates[protocol]["any"]
    if agreement is None:
        yield "No post has a near-duplicate, so nothing shows how well labels of the same content agree."
    elif not agreement.conflicting_groups:
        yield f"None of the {agreement.groups:,} groups of near-duplicates carries more than one label."
    else:
        yield (
            f"{agreement.conflicting_groups:,} of {agreement.groups:,} groups of near-duplicates carry several labels: "
            f"two labels of the same content differ in {percent_interval(agreement.disagreement)}. If labels err "
            f"independently, {percent_interval(agreement.noise_rate)} of them are wrong, and even a classifier that "
            f"knows the true label would score no more than {percent_interval(agreement.true_label_accuracy)}."
        )
    learned = noise.confident_learning
    if learned is None:
        yield f"Confident learning cannot say which labels are wrong: {noise.omitted['confident_learning']}."
    else:
        yield (
            f"Confident learning flags {learned.flagged:,} of {learned.posts:,} labels as wrong, hard posts included."
        )


def _against(pairs: Sequence[PairRow], second: str, title: str) -> Iterator[str]:
    """Yield which tuned models are better than a system, or than the systems of a kind."""
    rows = [row for row in pairs if row.second.split()[-1] == second]
    models = {
        answer: ", ".join(_model(row.first) for row in rows if row.better == answer)
        for answer in ("yes", "no", "cannot tell")
    }
    sentence = f"Better than {title}: {models['yes'] or 'none'}."
    if models["no"]:
        sentence += f" Worse: {models['no']}."
    if models["cannot tell"]:
        sentence += f" Undecided with {rows[0].posts:,} posts: {models['cannot tell']}."
    yield sentence


def _among_models(pairs: Sequence[PairRow]) -> Iterator[str]:
    if not pairs:
        return
    beats = [f"{_model(row.first)} beats {_model(row.second)}" for row in pairs if row.better == "yes"]
    beats += [f"{_model(row.second)} beats {_model(row.first)}" for row in pairs if row.better == "no"]
    ending = f": {', '.join(beats)}" if beats else ""
    yield f"Pairs of tuned models that differ beyond chance: {len(beats)} of {len(pairs)}{ending}."
    # `posts_needed` is of one comparison. Where so many posts are there, the correction for many has decided.
    needed = [
        (row.posts_needed, row)
        for row in pairs
        if row.better == "cannot tell" and row.posts_needed is not None and row.posts_needed > row.posts
    ]
    if needed:
        fewest, row = min(needed, key=lambda item: item[0])
        yield (
            f"Of the other pairs, {_model(row.first)} and {_model(row.second)} need the fewest posts to tell: "
            f"about {fewest:,}."
        )


def _ends(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "no interval"
    return f"{percent(interval.low)} to {percent(interval.high)}"


def _model(system: str) -> str:
    return system.removesuffix(" tuned")


@dataclass(frozen=True)
class Finding:
    """The findings on one subject."""

    # The id of the page's section with the numbers.
    section: str
    title: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Tile:
    """A result at the top of the page."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class SystemScores:
    """A row of the report's table of scores."""

    system: str
    kind: str
    # On all test posts.
    all: ScoreRow
    # On leak-free test posts; None if there are none.
    clean: ScoreRow | None
    paper: Figures


@dataclass(frozen=True)
class ReportInputs:
    """The outputs of the stages. Outputs of one model stand under its name."""

    scores: Sequence[ScoreRow]
    pairs: Sequence[PairRow]
    # Means over seeds against baselines.
    seeds: Sequence[SeedsRow]
    calibration: Sequence[CalibrationRow]
    trained: Mapping[str, Trained]
    modality: Mapping[str, ModalityOutput]
    saliency: Mapping[str, SaliencyOutput]
    noise: NoiseOutput
    # The least plausible labels.
    mislabelled: Sequence[MislabelledRow]
    leaks: LeakReport
    split: SplitReport
    data: DataReport
    # Of TF-IDF.
    omissions: BaselineOmissions
    ensemble: EnsembleOutput

    @property
    def chosen(self) -> str:
        """Return the model that validation chooses."""
        return max(self.trained, key=lambda model: self.trained[model].validation["macro_f1"])

    @property
    def is_leak_free(self) -> bool:
        """Return whether all test posts are leak-free. Scores on leak-free posts then repeat those on all."""
        posts = {row.part: row.posts for row in self.scores}
        return posts.get(LEAK_FREE) == posts[ALL]

    def tiles(self) -> list[Tile]:
        """Return the results of the chosen model that stand at the top of the page."""
        best, tfidf = (self._score_row(system) for system in (f"{self.chosen} tuned", TFIDF))
        answers = {row.second: row.better for row in self.pairs if row.part == ALL and row.first == best.system}
        validation = self.trained[self.chosen].validation["macro_f1"]
        return [
            Tile("chosen on validation", self.chosen, f"macro-F1 {percent(validation)}"),
            Tile("accuracy", percent(best.accuracy.value), f"{_ends(best.accuracy)} on {best.posts:,} test posts"),
            Tile("macro-F1", percent(best.macro_f1.value), f"{_ends(best.macro_f1)}"),
            Tile("better than TF-IDF", answers[TFIDF], f"TF-IDF: accuracy {percent(tfidf.accuracy.value)}"),
        ]

    def findings(self) -> list[Finding]:
        """Return the findings by subject, the most important first. A subject without a sentence is left out."""
        published = {model: self._published(model).tuned.accuracy for model in self.trained}
        accuracies = {model: accuracy for model, accuracy in published.items() if accuracy is not None}
        weights = {model: trained.facts["weights"] for model, trained in self.trained.items()}
        subjects = (
            ("scores", "Best model", on_the_choice(self.scores, self.chosen)),
            ("comparisons", "Comparisons", on_comparisons(self.pairs)),
            ("seeds", "Other seeds", on_seeds(self.scores, self.seeds)),
            ("ensemble", "Ensemble", on_the_ensemble(self.ensemble, self.scores, self.pairs)),
            ("data", "Leaks", on_leaks(self.scores)),
            ("experiments", "The paper", on_the_paper(self.scores, accuracies, weights)),
            ("modality", "Text or image", on_modality(self.modality)),
            ("calibration", "Calibration", on_calibration(self.calibration)),
            ("data", "Labels", on_noise(self.noise, self.split.protocol)),
        )
        findings = [Finding(section, title, tuple(sentences)) for section, title, sentences in subjects]
        return [finding for finding in findings if finding.sentences]

    def _published(self, model: str) -> Published:
        """Return the paper's scores of a model; none for other labels than the paper's."""
        return PUBLISHED.get(model, Published()) if are_tones(self.split.labels) else Published()

    def _figures(self, kind: str, model: str) -> Figures:
        """Return the paper's scores of a system; none for systems that it does not report."""
        published = self._published(model)
        return {"zero-shot": published.zeroshot, "tuned": published.tuned}.get(kind, Figures())

    def score_rows(self) -> list[SystemScores]:
        """Return a row for each system: on all test posts, on leak-free ones, and the paper's scores."""
        row_of = {(row.system, row.part): row for row in self.scores}
        return [
            SystemScores(system, row.kind, row, row_of.get((system, LEAK_FREE)), self._figures(row.kind, row.model))
            for (system, part), row in row_of.items()
            if part == ALL
        ]

    @property
    def has_published(self) -> bool:
        """Return whether the paper reports a score of any of the systems."""
        return any(row.paper != Figures() for row in self.score_rows())

    def pairs_by_part(self) -> dict[str, list[PairRow]]:
        """Return the comparisons on all test posts, and on leak-free ones if these are some of them and not all."""
        parts = [ALL] if self.is_leak_free else dict.fromkeys(row.part for row in self.pairs)
        return {part: [row for row in self.pairs if row.part == part] for part in parts}

    def seeds_on_all(self) -> list[SeedsRow]:
        """Return the comparisons of means over seeds on all test posts."""
        return [row for row in self.seeds if row.part == ALL]

    def _score_row(self, system: str) -> ScoreRow:
        return next(row for row in self.scores if row.system == system and row.part == ALL)


def read_report_inputs(models: Sequence[str]) -> ReportInputs:
    """Read the outputs of the stages for these models.

    Raises:
        UserError: a stage has not run.
    """
    return ReportInputs(
        scores=read_rows(COMPARE / SCORES_TABLE, ScoreRow),
        pairs=read_rows(COMPARE / PAIRS_TABLE, PairRow),
        seeds=read_rows(COMPARE / SEEDS_TABLE, SeedsRow),
        calibration=read_rows(COMPARE / CALIBRATION_TABLE, CalibrationRow),
        trained={model: read_trained(model) for model in models},
        modality={model: ModalityOutput.read(stage_folder("modality", model) / MODALITY_JSON) for model in models},
        saliency={model: SaliencyOutput.read(stage_folder("saliency", model) / SALIENCY_JSON) for model in models},
        noise=NoiseOutput.read(NOISE / NOISE_JSON),
        mislabelled=read_rows(NOISE / MISLABELLED_TABLE, MislabelledRow)[:_NUM_MISLABELLED_SHOWN],
        leaks=LeakReport.read(LEAKS),
        split=SplitReport.read(SPLIT_REPORT),
        data=DataReport.read(DATA_REPORT),
        omissions=BaselineOmissions.read(BASELINE / TFIDF / OMITTED_JSON),
        ensemble=EnsembleOutput.read(ENSEMBLE / ENSEMBLE_JSON),
    )


def similarities(models: Sequence[str], seed: int) -> dict[str, SimilarityCorrelation]:
    """Correlate CLIP's image-text similarity with the correct predictions of each model; empty without CLIP."""
    tables = [read_table(stage_folder("modality", model) / "similarity.csv") for model in models]
    cosine_of = {row["id"]: float(row["cosine"]) for table in tables for row in table}
    group_of = read_groups(GROUPS)
    correlations = {}
    for model in models:
        predictions = read_predictions(stage_folder("evaluate", model) / PREDICTIONS_FILE)
        correlation = similarity_correlation(cosine_of, predictions, group_of, seed)
        if correlation:
            correlations[model] = correlation
    return correlations
