import re
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.files import read_table
from src.reporting.pages import render
from src.reporting.paper_table import (
    SCORE_TITLES,
    TABLE,
    PaperTableRow,
    TfidfComparison,
    compare_with_tfidf,
    paper_section,
    read_rows,
    write_rows,
)

LORA = dict.fromkeys(SCORE_TITLES, 0.5) | {"accuracy": 0.612, "accuracy_low": 0.57, "accuracy_high": 0.65}
ROWS = [
    PaperTableRow(
        name="clip-zeroshot", scale="tiny", weights="random", posts=1000, scores={"accuracy": 0.4, "macro_f1": 0.7}
    ),
    PaperTableRow(name="clip-lora", scale="tiny", weights="random", posts=519, scores=LORA),
    PaperTableRow(name="blip2-lora", scale="tiny", weights="random", failure="the loss is no longer a number"),
    PaperTableRow(name="tfidf", posts=519, scores={"accuracy": 0.7, "macro_f1": 0.6}),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def page() -> str:
    """The section of the report, all white space as one blank."""
    content = {
        "experiments": paper_section(),
        "experiment_notices": ["Mind the weights."],
        "experiment_scores": SCORE_TITLES,
    }
    return " ".join(render("report/experiments", **content).split())


def row_of(name: str) -> str:
    (row,) = re.findall(rf"<tr[^>]*><th scope=\"row\" class=\"words\">{name} ?<.*?</tr>", page())
    return str(row)


def test_table_is_read_as_written() -> None:
    write_rows(ROWS)
    assert read_rows() == ROWS
    rows = {row["name"]: row for row in read_table(TABLE)}
    assert rows["clip-lora"]["published_accuracy"] == "0.812"
    assert rows["tfidf"]["published_accuracy"] == ""


def test_recipes_below_tfidf_are_named() -> None:
    assert compare_with_tfidf(ROWS) == TfidfComparison(0.6, ["clip-lora"], ["clip-lora"])
    assert compare_with_tfidf(ROWS[:2]) is None


def test_other_posts_and_failures_are_not_compared() -> None:
    above = replace(ROWS[1], scores={**LORA, "macro_f1": 0.7})
    write_rows([ROWS[0], above, *ROWS[2:]])
    assert "the test part (1), all are above <code>tfidf</code>" in page()
    assert compare_with_tfidf([ROWS[0], *ROWS[2:]]) is None
    write_rows([ROWS[0], *ROWS[2:]])
    assert "are above" not in page()


def test_row_shows_ours_beside_paper() -> None:
    write_rows(ROWS)
    row = row_of("clip-lora")
    assert "classifier, and LoRA on q and v of both towers" in row
    assert '<td>519</td><td>61.2<br><span class="small">57.0–65.0</span></td> <td class="paper">81.2</td>' in row
    assert "failed: the loss is no longer a number" in row_of("blip2-lora")
    assert '<td>70.0</td> <td class="paper"></td>' in row_of("tfidf")


def test_report_marks_assumptions_and_losers() -> None:
    write_rows(ROWS)
    said = page()
    notes = dict(re.findall(r'<li id="note-(\d+)">(.*?)\.</li>', said))
    for mark in re.findall(r'href="#note-(\d+)"', row_of("clip-lora")):
        assert notes[mark] in {
            "learning rate: that of clip-head",
            "batch size, seed and what is not named here: as in params.yaml",
        }
    assert "words alone (macro-F1 60.0): clip-lora.</p>" in said
    assert ": clip-zeroshot." in said
    assert "Mind the weights." in said


def test_no_experiment_shows_the_command() -> None:
    write_rows([])
    said = page()
    assert "No experiment was run" in said and "reproduce.recipes: [all]" in said and "<table>" not in said
