"""Markdown of descriptions: sections, tables, links."""

from src.tracking.markdown import run_link, table, with_section


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
    assert run_link("trial 1", "") == "trial 1"
    assert run_link("trial 1", "ab") == "[trial 1](#/runs/ab)"
