"""What the report says of how honest a search is: how far its best score holds elsewhere, and what it took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.core.files import read_json
from src.core.paths import stage_folder

REPEAT_SCORES = {
    "val_macro_f1": "validation macro-F1",
    "val_accuracy": "validation accuracy",
    "test_macro_f1": "test macro-F1",
    "test_accuracy": "test accuracy",
}
# By their file names in the folder of `tune`, which has those that its trials allow.
PICTURES = {
    "optimization_history": "The search, trial by trial",
    "pareto_front": "The search: score against size",
    "slices": "Where the search has looked, over all that it could choose",
    "importances": "How much of the difference between complete trials goes with each setting",
}
Spread = Mapping[str, Any]


@dataclass(frozen=True)
class SearchReliability:
    """The section of one model.

    Attributes:
        scores: for each figure the spreads of the winner, of the default and of the gain, and its interval, in words;
            those of a default are missing where there is none.
        sentences: what follows from them, and how the trials ended.
        importances: shares by setting, the highest first; empty where the search says too little.
        pictures: PNGs by their captions.
    """

    scores: Mapping[str, Mapping[str, str]]
    sentences: tuple[str, ...]
    importances: Mapping[str, float]
    pictures: Mapping[str, bytes]


def search_reliability(model: str) -> SearchReliability:
    """The section of a model, from what `tune` and `repeat` wrote.

    Raises:
        UserError: one of them has not run.
    """
    folder = stage_folder("tune", model)
    search, repeated = read_json(folder / "search.json"), read_json(stage_folder("repeat", model) / "repeat.json")
    files = {caption: folder / f"{name}.png" for name, caption in PICTURES.items()}
    return SearchReliability(
        scores={said: _row(repeated, figure) for figure, said in REPEAT_SCORES.items()},
        sentences=(*_on_other_seeds(repeated), *_on_trials(search)),
        importances=search["importances"],
        pictures={caption: path.read_bytes() for caption, path in files.items() if path.is_file()},
    )


def _row(repeated: Mapping[str, Any], figure: str) -> dict[str, str]:
    row = {name: _plus_minus(spreads[figure]) for name, spreads in repeated["scores"].items()}
    if "default" not in row or repeated["winner_is_default"]:
        return {"winner": row["winner"]}
    gain = repeated["gain"][figure]
    return {**row, "gain": _plus_minus(gain, "+z.4f"), "95% interval of the gain": _interval(gain) or "-"}


def _on_other_seeds(repeated: Mapping[str, Any]) -> Iterator[str]:
    """What the trainings on other seeds bear out."""
    winner, flattery = repeated["scores"]["winner"]["val_macro_f1"], repeated["optimism"]
    best = repeated["best_val_macro_f1"]
    yield f"The best trial has a validation macro-F1 of {best:.4f}, on the one seed of the search."
    if winner is not None:
        verdict = f"{flattery:.4f} less: by so much choosing the best of many flatters it"
        if flattery <= 0:
            verdict = f"{abs(flattery):.4f} more: choosing the best of many has not flattered it"
        yield f"On {winner['n']} other seeds its settings score {_plus_minus(winner)}, {verdict}."
    yield from _on_gain(repeated)
    drop = repeated["drop"]
    if drop is not None:
        way = "falls" if drop["mean"] >= 0 else "rises"
        yield f"From validation to test the winner's macro-F1 {way} by {_size(drop)}."
    for which, why in repeated["failures"].items():
        yield f"One training ({which}) failed and is left out: {why}."
    yield "Seeds vary the training and not the posts: how another validation or test part would score stays open."


def _on_gain(repeated: Mapping[str, Any]) -> Iterator[str]:
    gain = repeated["gain"]["test_macro_f1"]
    if repeated["winner_is_default"]:
        yield "The winner is the default itself, the first of the known-good settings: its gain is 0 by construction."
    elif "default" not in repeated["scores"]:
        yield "No settings were known to be good before the search, so there is nothing to compare its winner with."
    elif gain is not None:
        way = "above" if gain["mean"] >= 0 else "below"
        yield (
            f"On test the winner's macro-F1 is {_size(gain)} {way} that of the default (the first "
            f"of the known-good settings), on the same seeds and at an equal budget of epochs. {_verdict(gain)}"
        )


def _verdict(gain: Spread) -> str:
    """Whether a gain can be told from 0."""
    if gain["n"] == 1:
        return "One seed has no spread to judge that by."
    if gain["low"] is None:
        return f"It is the same on all {gain['n']} seeds, which leaves no spread to judge it by."
    tells = "can" if gain["low"] > 0 or gain["high"] < 0 else "cannot"
    return f"{gain['n']} seeds {tells} tell that from 0: the 95% interval of the mean gain is {_interval(gain)}."


def _on_trials(search: Mapping[str, Any]) -> Iterator[str]:
    """How the trials ended, and what pruning has saved."""
    reasons = "; ".join(f"{count} × {reason}" for reason, count in search["reasons"].items())
    failed = f"{search['failed']} failed ({reasons})" if search["failed"] else "none failed"
    yield f"Of the search's trials {search['finished']} finished, {search['pruned']} of them pruned, and {failed}."
    epochs, unpruned = search["epochs"], search["epochs_unpruned"]
    saved = 1 - epochs / unpruned if unpruned else 0.0
    yield f"They trained {epochs:,} epochs; without pruning it would have been up to {unpruned:,}: {saved:.0%} saved."


def _plus_minus(spread: Spread | None, form: str = ".4f") -> str:
    """Mean and standard deviation in words."""
    if spread is None:
        return "-"
    mean = format(spread["mean"], form)
    return mean if spread["sd"] is None else f"{mean} ± {spread['sd']:.4f}"


def _size(spread: Spread) -> str:
    """The same without a sign, where a word says which way."""
    return _plus_minus({**spread, "mean": abs(spread["mean"])})


def _interval(spread: Spread | None) -> str:
    if spread is None or spread["low"] is None:
        return ""
    return f"{spread['low']:+z.4f} to {spread['high']:+z.4f}"
