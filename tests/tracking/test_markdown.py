"""Markdown of descriptions: sections, tables, links."""

from src.tracking.markdown import lead_of, run_link, table, with_section


def test_section_replaces_earlier_one() -> None:
    text = with_section("Weights are random.", "The search", "Best: **trial 1**")
    text = with_section(text, "Related runs", "trained")
    text = with_section(text, "The search", "Best: **trial 2**")
    assert text == "Weights are random.\n\n## The search\n\nBest: **trial 2**\n\n## Related runs\n\ntrained"
    assert with_section(text, "Related runs", "trained") == text
    assert with_section("", "The search", "a") == "## The search\n\na"


def test_table_escapes_cells() -> None:
    assert table([{"a": "x|y", "b": 1}]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_run_without_id_has_no_link() -> None:
    assert run_link("trial 1", "7", "") == "trial 1"
    assert run_link("trial 1", "7", "ab") == "[trial 1](#/experiments/7/runs/ab?workflowType=machine_learning)"


def test_equal_scores_are_level() -> None:
    assert lead_of(0.9, 0.85) == "0.0500 above"
    assert lead_of(0.9, 0.9) == "level with"
