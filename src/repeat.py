"""Stage `repeat`: train the winner of the search, and the settings it has to beat, again on other seeds.

python -m src.repeat --model clip
python -m src.repeat --model clip --folds                    # by hand instead: the winner on every published fold
python -m src.repeat --model clip --change rank=16,alpha=32  # by hand instead: the winner and a variant of it
"""

from typing import TYPE_CHECKING

import click

from src.cli.options import assignments, command, model_option, typed
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.errors import UsageError
from src.core.format import points_interval
from src.core.paths import stage_folder
from src.core.records import Interval
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from src.core.estimates import Spread
    from src.core.outputs import FoldsOutput


@command(example="python -m src.repeat --model clip --change rank=16,alpha=32 --seeds 3")
@model_option(MODELS)
@click.option("--folds", is_flag=True, help="Train the winner on each fold in split.predefined.folder, and pool them.")
@click.option("--change", metavar="NAME=VALUE,...", help="Compare the winner with the same settings, these changed.")
@click.option("--seeds", type=click.IntRange(min=2), help="With --change: how many.  [default: repeat.seeds]")
def main(model: str, folds: bool, change: str | None, seeds: int | None) -> None:
    """Train the winner of the search and the first initial trial on the same seeds, and print the spread of scores.

    Both have the winner's epochs and patience, and nothing is pruned. The test part is scored and chooses nothing. A
    training that an earlier call has finished is not repeated.

    With --change a variant of the winner takes the initial trial's place, and their difference is printed with its
    intervals, over seeds and over test posts.
    """
    if (change is None and seeds) or (change is not None and folds):
        raise UsageError("give --folds, or --change NAME=VALUE,... [--seeds N], or neither")
    params = load_params()
    if change is not None:
        _compare_variant(params, model, change, seeds)
    elif folds:
        _repeat_on_folds(params, model)
    else:
        _repeat_on_seeds(params, model)


def _repeat_on_seeds(params: Params, model: str) -> None:
    from src.experiments.seeds import WINNER
    from src.pipeline.repeat import run_repeat

    output = run_repeat(params, model)
    spreads = {**output.scores, "gain": output.gain}
    if output.winner_is_default:
        spreads = {WINNER: output.scores[WINNER]}
    _print_spreads(model, len(output.seeds), spreads)
    if output.winner_is_default:
        say(f"{model}: the winner of the search is the default itself, so there is nothing to gain")
    say(f"{params.notice}\nTable: {stage_folder('repeat', model) / 'runs.csv'}")


def _compare_variant(params: Params, model: str, change: str, seeds: int | None) -> None:
    from src.experiments.variants import VARIANT, run_variant, variant_folder

    changes = {name: typed(value) for name, value in assignments(change, "--change").items()}
    output = run_variant(params, model, changes, seeds)
    _print_spreads(model, len(output.seeds), {**output.scores, "difference": output.difference})
    over_posts = {f"test_{name}": interval for name, interval in output.over_posts.items()}
    rows = [
        [
            figure,
            points_interval(Interval(spread.mean, spread.low, spread.high)) if spread else "-",
            points_interval(over_posts[figure]) if figure in over_posts else "-",
        ]
        for figure, spread in output.difference.items()
    ]
    title = f"{VARIANT} ({change}) less winner, in points: mean difference with its 95% interval"
    table(title, ["figure", "over seeds", "over posts"], rows)
    say(f"{params.notice}\nTable: {variant_folder(model, changes) / 'runs.csv'}")


def _print_spreads(model: str, num_seeds: int, spreads: "Mapping[str, Mapping[str, Spread | None]]") -> None:
    from src.experiments.seeds import FIGURES

    rows = [
        [name, *(_mean_and_deviation(by_figure[figure]) for figure in FIGURES)] for name, by_figure in spreads.items()
    ]
    table(f"{model} on {num_seeds} seeds, mean ± standard deviation", ["settings", *FIGURES], rows)


def _mean_and_deviation(spread: "Spread | None") -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:.4f}" if spread.sd is None else f"{spread.mean:.4f} ± {spread.sd:.4f}"


def _repeat_on_folds(params: Params, model: str) -> None:
    from src.experiments.cross_validation import FIGURES, run_folds

    output = run_folds(params, model)
    rows: list[list[object]] = [
        [scores.fold, scores.posts, *(getattr(scores, figure) for figure in FIGURES)] for scores in output.folds
    ]
    rows.append(["all", output.posts, *(output.pooled.get(figure) for figure in FIGURES)])
    rows.append(["leak-free", output.leak_free_posts, *(output.pooled_leak_free.get(figure) for figure in FIGURES)])
    table(f"{model}: test parts of {len(output.folds)} published folds", ["fold", "posts", *FIGURES], rows)
    say(f"standard deviation over folds: {_deviations(output)}")
    say(f"{params.notice}\nTables: {stage_folder('folds', model)}")


def _deviations(output: "FoldsOutput") -> str:
    deviations = [f"{figure} {spread.sd:.4f}" for figure, spread in output.spread.items() if spread.sd is not None]
    return ", ".join(deviations) or "none, of one fold"


if __name__ == "__main__":
    main()
