"""Work of stage `compare`: score all systems, compare them in pairs, and measure the quality of their confidences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.core.config import Params
from src.core.files import write_bytes, write_json, write_table
from src.core.labels import are_tones
from src.core.paper import PUBLISHED, Published
from src.core.paths import (
    CALIBRATION_TABLE,
    COMPARE,
    GROUPS,
    METRICS_JSON,
    PAIRS_TABLE,
    PLOTS_FOLDER,
    SCORES_TABLE,
    SEEDS_TABLE,
    SELECTIVE_TABLE,
    SPLIT,
)
from src.core.records import Interval, labels_of, leak_free, read_groups, read_split
from src.core.rows import write_rows
from src.evaluation import comparison_tables
from src.evaluation.comparison_tables import (
    ALL,
    JUDGED,
    LEAK_FREE,
    CalibrationRow,
    ComparisonResults,
    ConfidenceQuality,
    PairRow,
    ScoreRow,
    SeedsRow,
    confidence_quality,
    score_and_compare,
    scored,
)
from src.evaluation.seed_means import SeedMean, seed_means
from src.evaluation.systems import TFIDF, System, read_ensemble, read_further_trainings, read_systems
from src.reporting.plot_evaluation import forest, reliability_diagram, selective_curves


@dataclass(frozen=True)
class CompareResult:
    """Scores, comparisons and confidences of all systems."""

    systems: Sequence[System]
    # Of the models that `repeat` has trained on two seeds or more.
    means: Sequence[SeedMean]
    # By `ALL` and `LEAK_FREE`. Without the latter if no test post is leak-free.
    results: Mapping[str, ComparisonResults]
    # By system, on all test posts.
    qualities: Mapping[str, ConfidenceQuality]

    def distinct(self) -> dict[str, ComparisonResults]:
        """Return the results without `LEAK_FREE` if all test posts are leak-free."""
        whole = self.results[ALL]
        return {part: result for part, result in self.results.items() if part == ALL or result.posts < whole.posts}

    def scored(self) -> list[System | SeedMean]:
        """Return all that has scores, in the order of tables."""
        return scored(self.systems, self.means)


def run_compare(params: Params) -> CompareResult:
    """Compare all systems on the test part, and write outputs/compare/.

    Raises:
        UserError: predictions are missing, or were written for another split.
    """
    part_of = read_split(SPLIT)
    group_of = read_groups(GROUPS)
    systems = [*read_systems(params.models, part_of), read_ensemble(part_of)]
    means = seed_means(read_further_trainings(params.models, part_of))
    test = {key for key, part in part_of.items() if part == "test"}
    unleaked = leak_free(part_of, group_of)

    def results_on(ids: set[str]) -> ComparisonResults:
        return score_and_compare(systems, means, ids, group_of, params.seed)

    results = {ALL: results_on(test)}
    if unleaked:
        results[LEAK_FREE] = results[ALL] if unleaked == test else results_on(unleaked)
    result = CompareResult(systems, means, results, {system.name: confidence_quality(system) for system in systems})
    _write_tables(result)
    _write_plots(result, params.notice)
    return result


def _write_tables(result: CompareResult) -> None:
    write_rows(COMPARE / SCORES_TABLE, ScoreRow, comparison_tables.score_rows(result.scored(), result.results))
    write_rows(COMPARE / PAIRS_TABLE, PairRow, comparison_tables.pair_rows(result.results))
    write_rows(COMPARE / SEEDS_TABLE, SeedsRow, comparison_tables.seeds_rows(result.results))
    write_rows(COMPARE / CALIBRATION_TABLE, CalibrationRow, comparison_tables.calibration_rows(result.qualities))
    write_table(COMPARE / "reliability.csv", comparison_tables.reliability_rows(result.qualities))
    write_table(COMPARE / SELECTIVE_TABLE, comparison_tables.selective_rows(result.qualities))
    # Only `dvc metrics` reads this file. Its keys hold the models' names, so it has no dataclass.
    figures = comparison_tables.headline(result.systems, result.means, result.results, result.qualities)
    write_json(COMPARE / METRICS_JSON, figures)


def _write_plots(result: CompareResult, notice: str) -> None:
    judged = [system for system in result.systems if system.kind in JUDGED]
    test_posts = f"{result.results[ALL].posts:,} test posts"
    curves = {name: result.qualities[name].curve for name in (TFIDF, *(system.name for system in judged))}
    title = f"Accuracy with 95% intervals. {notice}"
    plots = {
        "intervals": forest(_accuracies(result), _published_accuracies(result.systems), "accuracy", title),
        "selective": selective_curves(curves, TFIDF, f"Accuracy on the most confident of {test_posts}"),
    }
    for system in judged:
        calibration = result.qualities[system.name].calibration
        bins = result.qualities[system.name].bins.values()
        names = (
            f"unscaled: ECE {calibration.ece:.3f}",
            f"at temperature {calibration.temperature:.2f}: ECE {calibration.ece_scaled:.3f}",
        )
        panels = dict(zip(names, bins, strict=True))
        plots[f"reliability-{system.short_name}"] = reliability_diagram(panels, f"{system.name}, {test_posts}")
    for name, png in plots.items():
        write_bytes(COMPARE / PLOTS_FOLDER / f"{name}.png", png)


def _accuracies(result: CompareResult) -> dict[str, dict[str, Interval]]:
    titles = {part: f"{part} ({results.posts:,} test posts)" for part, results in result.distinct().items()}
    return {
        each.name: {title: result.results[part].scores[each.name]["accuracy"] for part, title in titles.items()}
        for each in result.scored()
    }


def _published_accuracies(systems: Sequence[System]) -> dict[str, float]:
    """Return the paper's accuracies by system, for the systems that it reports."""
    accuracies: dict[str, float] = {}
    if not are_tones(labels_of(systems[0].test)):
        return accuracies
    for system in systems:
        published = PUBLISHED.get(system.model, Published())
        figures = {"zero-shot": published.zeroshot, "tuned": published.tuned}.get(system.kind)
        if figures is not None and figures.accuracy is not None:
            accuracies[system.name] = figures.accuracy
    return accuracies
