"""What the figures say, in sentences: what a reader wants to know first, and no more than the intervals allow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from src.analysis.systems import BASELINES

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
