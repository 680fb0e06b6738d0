"""Stage `compare`: compute intervals of all scores, compare systems in pairs, and measure calibration.

python -m src.compare
"""

from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import load_params
from src.core.format import percent_interval, points_interval
from src.core.paths import COMPARE

if TYPE_CHECKING:
    from src.evaluation.comparison_tables import ComparisonResults, PairResult
    from src.pipeline.compare import CompareResult

REFERENCE = "tfidf"


@command(example="python -m src.compare")
def main() -> None:
    """Write outputs/compare/: intervals, comparisons, calibration and selective prediction, with plots.

    Scores and comparisons are given on all test posts, and on those without a near-duplicate in another part.
    """
    params = load_params()
    from src.pipeline.compare import run_compare

    result = run_compare(params)
    distinct = result.distinct()
    _print_scores(result, distinct)
    _print_comparisons(distinct)
    _print_seeds(distinct)
    _print_calibration(result)
    if len(distinct) == 1:
        say(f"{'No' if len(result.results) > 1 else 'Every'} test post has a near-duplicate in another part.")
    say(f"{params.notice}\nTables and plots: {COMPARE}")


def _print_scores(result: "CompareResult", results_of: "Mapping[str, ComparisonResults]") -> None:
    titles = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
    columns = [f"{title}, {part}" for part in results_of for title in titles.values()]
    rows = [
        [
            each.name,
            *(percent_interval(results.scores[each.name][name]) for results in results_of.values() for name in titles),
        ]
        for each in result.scored()
    ]
    posts = ", ".join(f"{part}: {results.posts:,}" for part, results in results_of.items())
    table(f"Test posts ({posts}), in brackets the 95% interval", ["system", *columns], rows)


def _print_comparisons(results_of: "Mapping[str, ComparisonResults]") -> None:
    answers = results_of["all"].answers
    rows = [
        [
            *pair,
            points_interval(answer.comparison.accuracy),
            points_interval(answer.comparison.macro_f1),
            answer.verdict.p_holm,
            " / ".join(dict.fromkeys(results.answers[pair].verdict.answer for results in results_of.values())),
            answer.comparison.posts_needed,
        ]
        for pair, answer in answers.items()
    ]
    posts = " / ".join(f"{results.posts:,} posts ({part})" for part, results in results_of.items())
    columns = ["A", "B", "accuracy, A - B", "macro-F1, A - B", "p (Holm)", "A better", "needs"]
    table(f"Is A better than B, with {posts}? Differences in points; posts it needs to tell", columns, rows)
    for (first, second), answer in answers.items():
        if second == REFERENCE:
            say(_against_reference(first, answer))


def _print_seeds(results_of: "Mapping[str, ComparisonResults]") -> None:
    rows = [
        [
            *pair,
            answer.comparison.seeds,
            points_interval(answer.comparison.accuracy),
            points_interval(answer.comparison.accuracy_over_seeds),
            points_interval(answer.comparison.macro_f1),
            answer.verdict.p_holm,
            " / ".join(dict.fromkeys(results.seeds_answers[pair].verdict.answer for results in results_of.values())),
        ]
        for pair, answer in results_of["all"].seeds_answers.items()
    ]
    if rows:
        columns = ["A", "B", "seeds", "accuracy, by posts", "by seeds", "macro-F1, by posts", "p (Holm)", "A better"]
        table("Is the mean over other seeds better than B? Differences in points, with intervals", columns, rows)


def _against_reference(name: str, answer: "PairResult") -> str:
    if answer.verdict.answer == "yes":
        return f"{name} beats TF-IDF."
    if answer.verdict.answer == "no":
        return f"{name} does not beat TF-IDF: it is worse."
    needed, posts = answer.comparison.posts_needed, answer.comparison.posts
    if needed is None:
        hint = "it is equally accurate"
    elif needed > posts:
        hint = f"about {needed:,} would show so small a difference"
    else:
        # `posts_needed` is of one comparison.
        hint = "one comparison alone would show it, and many are made"
    return f"{name} does not beat TF-IDF: cannot tell with {posts:,} posts ({hint})."


def _print_calibration(result: "CompareResult") -> None:
    columns = ["system", "ECE", "ECE, scaled", "temperature", "NLL", "NLL, scaled", "AURC"]
    rows = [[name, *astuple(quality.calibration), quality.area] for name, quality in result.qualities.items()]
    table("Calibration on all test posts, before and after temperature scaling on validation", columns, rows)


if __name__ == "__main__":
    main()
