"""Stage `compare`: what each score is worth, which system is better than which, and how far confidences can be trusted.

python -m src.compare
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import load_params
from src.core.files import write_bytes, write_json, write_table
from src.core.paper import PUBLISHED, Published
from src.core.paths import COMPARE, GROUPS, SPLIT
from src.core.records import leak_free, read_groups, read_split

if TYPE_CHECKING:
    from src.core.records import Interval
    from src.evaluation.comparison_tables import ComparisonResults, ConfidenceQuality, PairResult
    from src.evaluation.systems import System

    Parts = Mapping[str, ComparisonResults]
    Trusts = Mapping[str, ConfidenceQuality]

REFERENCE = "tfidf"


@command(example="python -m src.compare")
def main() -> None:
    """Write outputs/compare/: intervals, comparisons, calibration and selective prediction, with pictures.

    Scores and comparisons are given on all test posts, and on those without a near-duplicate in another part.
    """
    params = load_params()
    part_of, group_of = read_split(SPLIT), read_groups(GROUPS)
    from src.evaluation.comparison_tables import ALL, LEAK_FREE, confidence_quality, score_and_compare
    from src.evaluation.systems import read_systems

    systems = read_systems(params.models, part_of)
    test, unleaked = {key for key, part in part_of.items() if part == "test"}, leak_free(part_of, group_of)
    parts = {ALL: score_and_compare(systems, test, group_of, params.seed)}
    if unleaked:
        same = unleaked == test
        parts[LEAK_FREE] = parts[ALL] if same else score_and_compare(systems, unleaked, group_of, params.seed)
    trusts = {system.name: confidence_quality(system) for system in systems}
    _write(systems, parts, trusts)
    distinct = {name: found for name, found in parts.items() if name == ALL or found.posts < len(test)}
    _draw(systems, distinct, trusts, params.notice)
    _tell_scores(systems, distinct)
    _tell_answers(distinct)
    _tell_trusts(trusts)
    if len(distinct) == 1:
        say(f"{'No' if unleaked else 'Every'} test post has a near-duplicate in another part.")
    say(f"{params.notice}\nTables and pictures: {COMPARE}")


def _write(systems: "Sequence[System]", parts: "Parts", trusts: "Trusts") -> None:
    from src.evaluation import comparison_tables

    write_table(COMPARE / "scores.csv", comparison_tables.score_rows(systems, parts))
    write_table(COMPARE / "pairs.csv", comparison_tables.pair_rows(parts))
    write_table(COMPARE / "calibration.csv", comparison_tables.calibration_rows(trusts))
    write_table(COMPARE / "reliability.csv", comparison_tables.reliability_rows(trusts))
    write_table(COMPARE / "selective.csv", comparison_tables.selective_rows(trusts))
    write_json(COMPARE / "metrics.json", comparison_tables.headline(systems, parts, trusts))


def _draw(systems: "Sequence[System]", parts: "Parts", trusts: "Trusts", notice: str) -> None:
    from src.reporting.plot_evaluation import forest, reliability_diagram, selective_curves

    tuned = [system for system in systems if system.kind == "tuned"]
    on = f"{parts['all'].posts:,} test posts"
    curves = {name: trusts[name].curve for name in (REFERENCE, *(system.name for system in tuned))}
    title = f"Accuracy with 95% intervals. {notice}"
    pictures = {
        "intervals": forest(_accuracies(systems, parts), _published(systems), "accuracy", title),
        "selective": selective_curves(curves, REFERENCE, f"Accuracy on the surest of {on}"),
    }
    for system in tuned:
        told, bins = trusts[system.name].calibration, trusts[system.name].bins.values()
        names = f"as it is: ECE {told.ece:.3f}", f"at temperature {told.temperature:.2f}: ECE {told.ece_scaled:.3f}"
        panels = dict(zip(names, bins, strict=True))
        pictures[f"reliability-{system.model}"] = reliability_diagram(panels, f"{system.name}, {on}")
    for name, png in pictures.items():
        write_bytes(COMPARE / "pictures" / f"{name}.png", png)


def _accuracies(systems: "Sequence[System]", parts: "Parts") -> "dict[str, dict[str, Interval]]":
    named = {f"{part} ({found.posts:,} test posts)": found for part, found in parts.items()}
    return {
        system.name: {part: found.scores[system.name]["accuracy"] for part, found in named.items()}
        for system in systems
    }


def _published(systems: "Sequence[System]") -> dict[str, float]:
    """The study's own accuracies, by system, where it gives any."""
    found = {}
    for system in systems:
        study = PUBLISHED.get(system.model, Published())
        figures = {"zero-shot": study.zeroshot, "tuned": study.tuned}.get(system.kind)
        if figures is not None and figures.accuracy is not None:
            found[system.name] = figures.accuracy
    return found


def _tell_scores(systems: "Sequence[System]", parts: "Parts") -> None:
    figures = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
    columns = [f"{title}, {part}" for part in parts for title in figures.values()]
    rows = [
        [each.name, *(_words(found.scores[each.name][name]) for found in parts.values() for name in figures)]
        for each in systems
    ]
    posts = ", ".join(f"{part}: {found.posts:,}" for part, found in parts.items())
    table(f"Test posts ({posts}), in brackets the 95% interval", ["system", *columns], rows)


def _tell_answers(parts: "Parts") -> None:
    whole = parts["all"].answers
    rows = [
        [
            *pair,
            _points(answer.comparison.accuracy),
            _points(answer.comparison.macro_f1),
            answer.verdict.p_holm,
            " / ".join(dict.fromkeys(found.answers[pair].verdict.answer for found in parts.values())),
            answer.comparison.posts_needed,
        ]
        for pair, answer in whole.items()
    ]
    posts = " / ".join(f"{found.posts:,} posts ({part})" for part, found in parts.items())
    columns = ["A", "B", "accuracy, A - B", "macro-F1, A - B", "p (Holm)", "A better", "needs"]
    table(f"Is A better than B, with {posts}? Differences in points; posts it needs to tell", columns, rows)
    beaten = {first: answer for (first, second), answer in whole.items() if second == REFERENCE}
    for name, answer in beaten.items():
        say(_against_reference(name, answer))


def _against_reference(name: str, answer: "PairResult") -> str:
    posts, needed = answer.comparison.posts, answer.comparison.posts_needed
    if answer.verdict.answer == "yes":
        return f"{name} beats TF-IDF."
    if answer.verdict.answer == "no":
        return f"{name} does not beat TF-IDF: it is worse."
    hint = "it is equally accurate" if needed is None else f"about {needed:,} would tell so small a difference"
    return f"{name} does not beat TF-IDF: cannot tell with {posts:,} posts ({hint})."


def _tell_trusts(trusts: "Trusts") -> None:
    columns = ["system", "ECE", "ECE, scaled", "temperature", "NLL", "NLL, scaled", "AURC"]
    rows = [[name, *astuple(each.calibration), each.area] for name, each in trusts.items()]
    table("Confidence on all test posts, and at the temperature that suits validation", columns, rows)


def _words(each: "Interval") -> str:
    return f"{each.value:.3f}" if each.low is None else f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"


def _points(each: "Interval") -> str:
    ends = "" if each.low is None or each.high is None else f" [{100 * each.low:+z.1f}, {100 * each.high:+z.1f}]"
    return f"{100 * each.value:+z.1f}{ends}"


if __name__ == "__main__":
    main()
