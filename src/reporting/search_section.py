"""The report's section on the reliability of a search: the winner on other seeds, and the cost of the trials."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from src.core.estimates import Spread
from src.core.outputs import BestTrial, RepeatOutput, SearchSummary
from src.core.paths import REPEAT_JSON, SEARCH_FILE, stage_folder
from src.reporting.alt_texts import search_alts
from src.reporting.pages import Plot

REPEAT_SCORES = {
    "val_macro_f1": "validation macro-F1",
    "val_accuracy": "validation accuracy",
    "test_macro_f1": "test macro-F1",
    "test_accuracy": "test accuracy",
}
# Titles by file name in the folder of `tune`. A plot that the trials do not allow has no file.
PLOTS = {
    "optimization_history": "The search, trial by trial",
    "pareto_front": "The search: score against size",
    "slices": "Settings that the search tried, over all that it could choose",
    "importances": "Share of the differences between complete trials that each setting explains",
}


@dataclass(frozen=True)
class SearchReliability:
    """The section of one model."""

    # By score: the formatted spreads of winner, default and gain, and the interval of the gain. Without a default,
    # the winner alone.
    scores: Mapping[str, Mapping[str, str]]
    # On the winner, the gain, and the trials.
    sentences: tuple[str, ...]
    # Shares by setting, the highest first; empty if the trials tell too little.
    importances: Mapping[str, float]
    # By title.
    plots: Mapping[str, Plot]


def search_reliability(model: str, best: BestTrial) -> SearchReliability:
    """Build the section of a model from its best trial and the outputs of `tune` and `repeat`.

    Raises:
        UserError: one of these stages has not run.
    """
    folder = stage_folder("tune", model)
    search = SearchSummary.read(folder / SEARCH_FILE)
    repeated = RepeatOutput.read(stage_folder("repeat", model) / REPEAT_JSON)
    alts = search_alts(model, search, best)
    files = {name: folder / f"{name}.png" for name in PLOTS}
    return SearchReliability(
        scores={title: _row(repeated, name) for name, title in REPEAT_SCORES.items()},
        sentences=(*_on_other_seeds(repeated), *_on_trials(search)),
        importances=search.importances,
        plots={PLOTS[name]: Plot(path.read_bytes(), alts[name]) for name, path in files.items() if path.is_file()},
    )


def _row(repeated: RepeatOutput, score: str) -> dict[str, str]:
    row = {name: _plus_minus(spreads[score]) for name, spreads in repeated.scores.items()}
    if "default" not in row or repeated.winner_is_default:
        return {"winner": row["winner"]}
    gain = repeated.gain[score]
    return {**row, "gain": _plus_minus(gain, "+z.4f"), "95% interval of the gain": _interval(gain) or "-"}


def _on_other_seeds(repeated: RepeatOutput) -> Iterator[str]:
    """Yield how the winner scores on other seeds."""
    winner = repeated.scores["winner"]["val_macro_f1"]
    yield f"The best trial has a validation macro-F1 of {repeated.best_val_macro_f1:.4f}, on the search's one seed."
    if not repeated.seeds:
        yield "It was trained on no other seed (repeat.seeds is 0), so nothing shows how much of this is chance."
        return
    if winner is not None and repeated.optimism is not None:
        verdict = _optimism(repeated.optimism, winner)
        yield f"On {winner.n} other seeds its settings score {_plus_minus(winner)}, {verdict}."
    yield from _on_gain(repeated)
    drop = repeated.drop
    if drop is not None:
        direction = "falls" if drop.mean >= 0 else "rises"
        yield f"From validation to test, the winner's macro-F1 {direction} by {_size(drop)}."
    for training, reason in repeated.failures.items():
        yield f"One training ({training}) failed and is left out: {reason}."
    yield "Seeds vary the training and not the posts. They do not show how another validation or test part would score."


def _optimism(optimism: float, winner: Spread) -> str:
    """Return by how much the best trial lies above the winner's mean on other seeds, and what that shows."""
    difference = f"{abs(optimism):.4f} {'more' if optimism < 0 else 'less'}"
    if winner.low is None or winner.high is None:
        return f"{difference}: too few seeds to tell the optimism of choosing the best of many trials from chance"
    # The prediction interval of one more seed is t sd √(1 + 1/n) wide on either side, where the interval of the mean is
    # t sd / √n (G. J. Hahn and W. Q. Meeker, Statistical Intervals, 1991).
    distance = (winner.high - winner.mean) * math.sqrt(winner.n + 1)
    if abs(optimism) <= distance:
        return (
            f"{difference}: one more seed would lie within {distance:.4f} of the mean (95% prediction interval), so it "
            "may be chance and no optimism of choosing the best"
        )
    if optimism < 0:
        return f"{difference}: choosing the best of many trials caused no optimism"
    return f"{difference}: the optimism of choosing the best of many trials"


def _on_gain(repeated: RepeatOutput) -> Iterator[str]:
    gain = repeated.gain["test_macro_f1"]
    if repeated.winner_is_default:
        yield "The winner is the default itself, the first of the initial trials: its gain is 0 by construction."
    elif "default" not in repeated.scores:
        yield "params.yaml has no initial trials, so there is no default to compare the winner with."
    elif gain is not None:
        direction = "above" if gain.mean >= 0 else "below"
        yield (
            f"On test, the winner's macro-F1 is {_size(gain)} {direction} that of the default (the first of the "
            f"initial trials), on the same seeds and with the same number of epochs. {_verdict(gain)}"
        )


def _verdict(gain: Spread) -> str:
    """Return whether a gain differs from 0."""
    if gain.n == 1:
        return "One seed has no spread, so this may be chance."
    if gain.low is None or gain.high is None:
        return f"The gain is the same on all {gain.n} seeds, so it has no spread and no interval."
    tells = "can" if gain.low > 0 or gain.high < 0 else "cannot"
    return f"{gain.n} seeds {tells} tell the gain from 0: the 95% interval of its mean is {_interval(gain)}."


def _on_trials(search: SearchSummary) -> Iterator[str]:
    """Yield the ends of the trials, and the epochs that pruning saved."""
    reasons = "; ".join(f"{count} × {reason}" for reason, count in search.reasons.items())
    failed = f"{search.failed} failed ({reasons})" if search.failed else "none failed"
    yield f"{search.finished} trials finished, {search.pruned} of them pruned, and {failed}."
    saved = 1 - search.epochs / search.epochs_unpruned if search.epochs_unpruned else 0.0
    yield (
        f"The trials trained {search.epochs:,} epochs. Without pruning they would have trained up to "
        f"{search.epochs_unpruned:,}: {saved:.0%} saved."
    )


def _plus_minus(spread: Spread | None, form: str = ".4f") -> str:
    """Format mean and standard deviation."""
    if spread is None:
        return "-"
    mean = format(spread.mean, form)
    return mean if spread.sd is None else f"{mean} ± {spread.sd:.4f}"


def _size(spread: Spread) -> str:
    """Format like `_plus_minus` without a sign, for sentences in which a word gives the direction."""
    return _plus_minus(replace(spread, mean=abs(spread.mean)))


def _interval(spread: Spread | None) -> str:
    if spread is None or spread.low is None or spread.high is None:
        return ""
    return f"{spread.low:+z.4f} to {spread.high:+z.4f}"
