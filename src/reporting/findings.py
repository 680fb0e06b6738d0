"""What the figures say, in sentences: what a reader wants to know first, and no more than the intervals allow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.core.data_outputs import DataReport, LeakReport, SplitReport
from src.core.files import read_json, read_table
from src.core.paper import PUBLISHED, Figures, Published
from src.core.paths import BASELINE, COMPARE, DATA_REPORT, GROUPS, LEAKS, NOISE, SPLIT_REPORT, stage_folder
from src.core.records import read_groups, read_predictions
from src.evaluation.alignment import alignment_correlation
from src.evaluation.comparison_tables import ALL, LEAK_FREE
from src.evaluation.intervals import SCORES
from src.evaluation.systems import BASELINES

# A row of a table that a stage wrote, numbers as numbers, None where a cell is empty.
Row = Mapping[str, Any]


MAJORITY, REFERENCE = BASELINES


def on_the_choice(scores: Sequence[Row], chosen: str) -> Iterator[str]:
    """The model that validation chooses, on all test posts, beside the baselines.

    Args:
        scores: the rows of outputs/compare/scores.csv.
        chosen: the model, such as clip.
    """
    of = {row["system"]: row for row in scores if row["part"] == "all"}
    best = of[f"{chosen} tuned"]
    accuracy, macro_f1 = (_interval(best, name) for name in ("accuracy", "macro_f1"))
    yield (
        f"Validation chooses {chosen}. On the {best['posts']:,.0f} test posts its accuracy is {accuracy} and its "
        f"macro-F1 {macro_f1}. Always saying the commonest tone has an accuracy of "
        f"{_percent(of[MAJORITY]['accuracy'])}, a logistic regression on the captions' words (TF-IDF) one of "
        f"{_interval(of[REFERENCE], 'accuracy')}."
    )


def on_comparisons(pairs: Sequence[Row]) -> Iterator[str]:
    """Which systems can be told apart on all test posts, after Holm's correction.

    Args:
        pairs: the rows of outputs/compare/pairs.csv.
    """
    whole = [row for row in pairs if row["part"] == "all"]
    yield from _against(whole, REFERENCE, "TF-IDF on the captions")
    yield from _against(whole, "zero-shot", "the same model untrained")
    yield from _against(whole, "probe", "a logistic regression on its own frozen features")
    yield from _among_models([row for row in whole if row["second"].endswith("tuned")])


def on_leaks(scores: Sequence[Row]) -> Iterator[str]:
    """What near-duplicates in other parts are worth to the tuned models."""
    rows = {(row["system"], row["part"]): row for row in scores if row["kind"] == "tuned"}
    posts = {part: row["posts"] for (_, part), row in rows.items()}
    twins = posts["all"] - posts.get("leak-free", 0)
    if not twins:
        yield "No test post has a near-duplicate in train or val, so that every score is leak-free."
        return
    yield f"{twins:,.0f} of {posts['all']:,.0f} test posts have a near-duplicate in train or val."
    changes = [
        f"{system.removesuffix(' tuned')} {_points(row['accuracy'] - rows[system, 'all']['accuracy'])}"
        for (system, part), row in rows.items()
        if part == "leak-free"
    ]
    if changes:
        yield f"Without them accuracies change by, in points: {', '.join(changes)}."


def on_the_study(scores: Sequence[Row], published: Mapping[str, float], weights: str) -> Iterator[str]:
    """Whether our intervals hold the study's accuracies, given by model; nothing can be said over random weights."""
    if weights == "random":
        yield "Weights are random, so nothing here says anything about the study's figures, which stand beside ours."
        return
    of = {row["model"]: row for row in scores if row["kind"] == "tuned" and row["part"] == "all"}
    for model, figure in published.items():
        low, high = of[model]["accuracy_low"], of[model]["accuracy_high"]
        if low is not None:
            place = "within" if low <= figure <= high else "above" if figure > high else "below"
            said = f"{_percent(figure)} is {place} our interval for {model}, {_percent(low)} to {_percent(high)}"
            yield f"The study's accuracy of {said}."


def on_modality(summaries: Mapping[str, Row]) -> Iterator[str]:
    """What each half of a post is worth to each model, from outputs/modality/<model>/modality.json, by model."""
    for model, summary in summaries.items():
        shown = {"text": "the caption alone", "image": "the picture alone", "shuffled": "another post's picture"}
        changes = {half: summary["conditions"][half]["change"] for half in shown if half in summary["conditions"]}
        points = [f"{shown[half]} by {_points(change['accuracy']['value'])}" for half, change in changes.items()]
        said = f"{model}: accuracy changes, in points, with {', '.join(points)}"
        follows = summary["disagreement"]["follows"].get("both")
        if follows:
            said += (
                f"; of {follows['n']:,} posts whose two labels differ it follows the text's label in "
                f"{_percent(follows['text']['value'])}, the picture's in {_percent(follows['image']['value'])}"
            )
        yield f"{said}."


def on_calibration(calibration: Sequence[Row]) -> Iterator[str]:
    """How far the tuned models' probabilities can be trusted, from the rows of outputs/compare/calibration.csv."""
    rows = [row for row in calibration if row["system"].endswith("tuned")]
    said = ", ".join(
        f"{row['system'].removesuffix(' tuned')} {_percent(row['ece'])} ({_percent(row['ece_scaled'])} at temperature "
        f"{row['temperature']:.2f})"
        for row in rows
    )
    yield f"Confidences are off by, on average (expected calibration error): {said}."


def on_noise(noise: Row, protocol: str) -> Iterator[str]:
    """How right a model can be on labels like these, from outputs/noise/noise.json."""
    twins = noise["twins"][protocol]["any"]
    if twins is None:
        yield "No post has a near-duplicate, so that nothing shows how far labels of the same content agree."
    elif not twins["conflicting_groups"]:
        yield f"None of the {twins['groups']:,} groups of near-duplicates carries more than one label."
    else:
        yield (
            f"{twins['conflicting_groups']:,} of {twins['groups']:,} groups of near-duplicates carry several labels: "
            f"two labels of the same content differ in {_range(twins['disagreement'])}. If annotators err by chance, "
            f"{_range(twins['noise_rate'])} of labels are wrong, and not even knowing the true tone would score more "
            f"than {_range(twins['true_tone_accuracy'])}."
        )
    yield from _on_confident_learning(noise)


def _on_confident_learning(noise: Row) -> Iterator[str]:
    learned = noise["confident_learning"]
    if learned is None:
        yield f"Confident learning cannot say which labels are wrong: {noise['omitted']['confident_learning']}."
        return
    yield (
        f"Confident learning takes {learned['flagged']:,} of {learned['posts']:,} labels for wrong, posts that are "
        "only hard included."
    )


def _against(pairs: Sequence[Row], second: str, said: str) -> Iterator[str]:
    """Which tuned models beat a system, or systems of a kind."""
    rows = [row for row in pairs if row["second"].split()[-1] == second]
    names = {
        answer: [row["first"].removesuffix(" tuned") for row in rows if row["better"] == answer]
        for answer in ("yes", "no", "cannot tell")
    }
    words = {"yes": "better", "no": "worse", "cannot tell": f"cannot be told with {rows[0]['posts']:,.0f} posts"}
    told = "; ".join(f"{words[answer]}: {', '.join(each)}" for answer, each in names.items() if each)
    yield f"Against {said}: {told}."


def _among_models(pairs: Sequence[Row]) -> Iterator[str]:
    if not pairs:
        return
    order = {"yes": ("first", "second"), "no": ("second", "first")}
    sure = [
        tuple(row[end].removesuffix(" tuned") for end in order[row["better"]])
        for row in pairs
        if row["better"] in order
    ]
    said = f": {', '.join(f'{better} beats {worse}' for better, worse in sure)}" if sure else ""
    yield f"Pairs of tuned models that can be told apart: {len(sure)} of {len(pairs)}{said}."
    needed = [(row["posts_needed"], row) for row in pairs if row["better"] == "cannot tell" and row["posts_needed"]]
    if needed:
        least, row = min(needed, key=lambda each: each[0])
        both = " and ".join(row[end].removesuffix(" tuned") for end in ("first", "second"))
        yield f"Of the others {both} would need the fewest posts to tell: about {least:,.0f}."


def _interval(row: Row, name: str) -> str:
    if row[f"{name}_low"] is None:
        return _percent(row[name])
    return f"{_percent(row[name])} ({_percent(row[f'{name}_low'])} to {_percent(row[f'{name}_high'])})"


def _range(interval: Row) -> str:
    """The same of an interval that a JSON file holds."""
    return _interval({"it": interval["value"], "it_low": interval["low"], "it_high": interval["high"]}, "it")


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _points(change: float) -> str:
    return f"{100 * change:+z.1f}".replace("-", "\N{MINUS SIGN}")


_MISLABELLED_SHOWN = 20


@dataclass(frozen=True)
class ReportInputs:
    """The stages' own tables and summaries, numbers as numbers; those of one model under its name.

    `omitted` says what TF-IDF could not do, and why.
    """

    scores: Sequence[Row]
    pairs: Sequence[Row]
    calibration: Sequence[Row]
    trained: Mapping[str, Row]
    modality: Mapping[str, Row]
    saliency: Mapping[str, Row]
    noise: Row
    mislabelled: Sequence[Row]
    leaks: LeakReport
    split: SplitReport
    data: DataReport
    omitted: Mapping[str, str]

    def sentences(self) -> Iterator[str]:
        """What the figures say, the most important first."""
        chosen = max(self.trained, key=lambda model: float(self.trained[model]["macro_f1"]))
        published = {model: _published(model).tuned.accuracy for model in self.trained}
        study = {model: accuracy for model, accuracy in published.items() if accuracy is not None}
        yield from on_the_choice(self.scores, chosen)
        yield from on_comparisons(self.pairs)
        yield from on_leaks(self.scores)
        yield from on_the_study(self.scores, study, self.trained[chosen]["facts"]["weights"])
        yield from on_modality(self.modality)
        yield from on_calibration(self.calibration)
        yield from on_noise(self.noise, self.split.protocol)

    def score_rows(self) -> list[dict[str, Any]]:
        """A row a system: on `all` test posts, on the `clean` ones (leak-free), and what the `study` reports."""
        rows = {(row["system"], row["part"]): row for row in self.scores}
        none = {f"{name}{end}": None for name in SCORES for end in ("", "_low", "_high")}
        return [
            {
                **row,
                "all": row,
                "clean": rows.get((system, LEAK_FREE), {**none, "posts": 0}),
                "study": asdict(_study_of(row["kind"], row["model"])),
            }
            for (system, part), row in rows.items()
            if part == ALL
        ]

    def pairs_by_part(self) -> dict[str, list[Row]]:
        """The comparisons on all test posts, and on the leak-free ones if there are any."""
        parts = dict.fromkeys(row["part"] for row in self.pairs)
        return {part: [row for row in self.pairs if row["part"] == part] for part in parts}


def read_report_inputs(models: Sequence[str]) -> ReportInputs:
    """What the stages wrote of these models.

    Raises:
        UserError: one of them has not run.
    """

    def summaries(stage: str, name: str) -> dict[str, Row]:
        return {model: read_json(stage_folder(stage, model) / name) for model in models}

    return ReportInputs(
        scores=_numbers(COMPARE / "scores.csv"),
        pairs=_numbers(COMPARE / "pairs.csv"),
        calibration=_numbers(COMPARE / "calibration.csv"),
        trained=summaries("train", "train.json"),
        modality=summaries("modality", "modality.json"),
        saliency=summaries("saliency", "saliency.json"),
        noise=read_json(NOISE / "noise.json"),
        mislabelled=read_table(NOISE / "mislabelled.csv")[:_MISLABELLED_SHOWN],
        leaks=LeakReport.read(LEAKS),
        split=SplitReport.read(SPLIT_REPORT),
        data=DataReport.read(DATA_REPORT),
        omitted=read_json(BASELINE / REFERENCE / "omitted.json"),
    )


def alignments(models: Sequence[str], seed: int) -> dict[str, Any]:
    """Of each model, how its being right goes with how well picture and caption go together, as CLIP sees that.

    Nothing where CLIP is not among the models.
    """
    tables = [read_table(stage_folder("modality", model) / "alignment.csv") for model in models]
    cosine_of = {row["id"]: float(row["cosine"]) for table in tables for row in table}
    group_of = read_groups(GROUPS)
    test = {model: read_predictions(stage_folder("evaluate", model) / "predictions.csv") for model in models}
    found = {model: alignment_correlation(cosine_of, rows, group_of, seed) for model, rows in test.items()}
    return {model: asdict(each) for model, each in found.items() if each}


def _published(model: str) -> Published:
    return PUBLISHED.get(model, Published())


def _study_of(kind: str, model: str) -> Figures:
    return {"zero-shot": _published(model).zeroshot, "tuned": _published(model).tuned}.get(kind, Figures())


def _numbers(path: Path) -> list[Row]:
    """A table with numbers as numbers, and None for what is empty."""
    return [{name: _number(value) for name, value in row.items()} for row in read_table(path)]


def _number(value: str) -> float | str | None:
    try:
        return float(value) if value else None
    except ValueError:
        return value
