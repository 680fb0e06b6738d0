"""Stage `repeat`: train the winner of the search, and the settings it has to beat, again on other seeds.

python -m src.repeat --model clip
python -m src.repeat --model clip --folds    # by hand instead: the winner on every published fold
"""

from typing import TYPE_CHECKING

import click

from src.cli.options import command, model_option
from src.cli.output import say, table
from src.core.config import Params, load_params
from src.core.paths import stage_folder
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.core.estimates import Spread
    from src.core.outputs import FoldsOutput


@command(example="python -m src.repeat --model clip")
@model_option(MODELS)
@click.option("--folds", is_flag=True, help="Train the winner on each fold in split.predefined.folder, and pool them.")
def main(model: str, folds: bool) -> None:
    """Train the winner of the search and the first initial trial on the same seeds, and print the spread of scores.

    Both have the winner's epochs and patience, and nothing is pruned. The test part is scored and chooses nothing. A
    training that an earlier call has finished is not repeated.
    """
    params = load_params()
    if folds:
        _repeat_on_folds(params, model)
    else:
        _repeat_on_seeds(params, model)


def _repeat_on_seeds(params: Params, model: str) -> None:
    from src.experiments.seeds import FIGURES, WINNER
    from src.pipeline.repeat import run_repeat

    output = run_repeat(params, model)
    spreads = {**output.scores, "gain": output.gain}
    if output.winner_is_default:
        spreads = {WINNER: output.scores[WINNER]}
    rows = [
        [name, *(_mean_and_deviation(by_figure[figure]) for figure in FIGURES)] for name, by_figure in spreads.items()
    ]
    table(f"{model} on {len(output.seeds)} seeds, mean ± standard deviation", ["settings", *FIGURES], rows)
    if output.winner_is_default:
        say(f"{model}: the winner of the search is the default itself, so there is nothing to gain")
    say(f"{params.notice}\nTable: {stage_folder('repeat', model) / 'runs.csv'}")


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
    deviations = [f"{figure} {spread.sd:.4f}" for figure, spread in output.spread.items() if spread.sd]
    return ", ".join(deviations) or "none, of one fold"


if __name__ == "__main__":
    main()
