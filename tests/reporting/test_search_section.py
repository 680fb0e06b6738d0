"""The report's section on how honest a search is, from files made here."""

from pathlib import Path
from typing import Any

import pytest

from src.core.errors import UserError
from src.core.files import write_bytes, write_json
from src.reporting.pages import render
from src.reporting.search_section import REPEAT_SCORES, SearchReliability, search_reliability

SEARCH = {
    "finished": 30,
    "pruned": 18,
    "failed": 3,
    "reasons": {"out of memory": 2, "the loss is no number": 1},
    "epochs": 90,
    "epochs_unpruned": 180,
    "importances": {"lr": 0.62, "rank": 0.38},
}


def spread(mean: float, sd: float | None = 0.02, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "n": 3 if sd is not None else 1, "low": low, "high": high}


def repeated(**changes: Any) -> dict[str, Any]:
    """What `repeat` writes of a winner that is better than the default by more than chance."""
    return {
        "seeds": [8, 9, 10],
        "winner_is_default": False,
        "best_val_macro_f1": 0.85,
        "optimism": 0.05,
        "drop": spread(0.03, 0.01),
        "scores": {
            "winner": dict.fromkeys(REPEAT_SCORES, spread(0.8)),
            "default": dict.fromkeys(REPEAT_SCORES, spread(0.7)),
        },
        "gain": dict.fromkeys(REPEAT_SCORES, spread(0.1, 0.01, 0.0752, 0.1248)),
        "failures": {},
        **changes,
    }


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The section of a model, of which `tune` and `repeat` wrote this."""
    monkeypatch.chdir(tmp_path)

    def made(search: dict[str, Any] = SEARCH, **changes: Any) -> SearchReliability:
        write_json(Path("outputs/tune/clip/search.json"), search)
        write_json(Path("outputs/repeat/clip/repeat.json"), repeated(**changes))
        return search_reliability("clip")

    return made


def said(section: SearchReliability, words: str) -> bool:
    return any(words in sentence for sentence in section.sentences)


# The winner on other seeds


def test_the_table_has_the_winner_the_default_and_the_gain_with_its_interval(section: Any) -> None:
    found = section()
    assert list(found.scores) == list(REPEAT_SCORES.values())
    assert found.scores["test macro-F1"] == {
        "winner": "0.8000 ± 0.0200",
        "default": "0.7000 ± 0.0200",
        "gain": "+0.1000 ± 0.0100",
        "95% interval of the gain": "+0.0752 to +0.1248",
    }


def test_the_optimism_of_choosing_is_said_either_way(section: Any) -> None:
    assert said(section(), "On 3 other seeds its settings score 0.8000 ± 0.0200, 0.0500 less: by so much choosing")
    assert said(section(optimism=-0.01), "0.0100 more: choosing the best of many has not flattered it")


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            spread(0.1, 0.01, 0.0752, 0.1248),
            "3 seeds can tell that from 0: the 95% interval of the mean gain is +0.0752",
        ),
        (spread(-0.1, 0.01, -0.1248, -0.0752), "0.1000 ± 0.0100 below that of the default"),
        (spread(-0.1, 0.01, -0.1248, -0.0752), "3 seeds can tell that from 0"),
        (spread(0.1, 0.1, -0.1484, 0.3484), "3 seeds cannot tell that from 0: the 95% interval"),
        (spread(0.1, 0.0), "the same on all 3 seeds, which leaves no spread to judge it by"),
        (spread(0.1, None), "One seed has no spread to judge that by"),
    ],
)
def test_a_plain_sentence_says_whether_the_seeds_can_tell_the_gain_from_0(
    section: Any, gain: dict[str, Any], words: str
) -> None:
    assert said(section(gain=dict.fromkeys(REPEAT_SCORES, gain)), words)


def test_a_winner_that_is_the_default_gains_nothing_by_construction(section: Any) -> None:
    found = section(winner_is_default=True)
    assert said(found, "its gain is 0 by construction")
    assert found.scores["test accuracy"] == {"winner": "0.8000 ± 0.0200"}


def test_a_model_without_a_default_has_no_gain(section: Any) -> None:
    found = section(scores={"winner": dict.fromkeys(REPEAT_SCORES, spread(0.8))}, gain=dict.fromkeys(REPEAT_SCORES))
    assert said(found, "No settings were known to be good before the search")
    assert found.scores["test accuracy"] == {"winner": "0.8000 ± 0.0200"}


def test_the_drop_from_validation_to_test_may_be_a_rise(section: Any) -> None:
    assert said(section(), "From validation to test the winner's macro-F1 falls by 0.0300 ± 0.0100")
    assert said(section(drop=spread(-0.03, 0.01)), "rises by 0.0300 ± 0.0100")


def test_a_training_that_failed_is_named_and_what_is_missing_is_left_out(section: Any) -> None:
    found = section(
        scores={"winner": dict.fromkeys(REPEAT_SCORES), "default": dict.fromkeys(REPEAT_SCORES, spread(0.7))},
        gain=dict.fromkeys(REPEAT_SCORES),
        optimism=None,
        drop=None,
        failures={"winner, seed 9": "the loss is no longer a number"},
    )
    assert said(found, "One training (winner, seed 9) failed and is left out: the loss is no longer a number.")
    assert found.scores["test macro-F1"]["winner"] == found.scores["test macro-F1"]["gain"] == "-"


# The trials


def test_the_trials_are_counted_with_the_reasons_of_those_that_failed(section: Any) -> None:
    words = "30 finished, 18 of them pruned, and 3 failed (2 × out of memory; 1 × the loss is no number)."
    assert said(section(), words)
    assert said(section({**SEARCH, "failed": 0, "reasons": {}}), "18 of them pruned, and none failed.")


def test_the_pruners_saving_is_in_epochs(section: Any) -> None:
    assert said(section(), "They trained 90 epochs; without pruning it would have been up to 180: 50% saved.")
    assert said(section({**SEARCH, "epochs": 0, "epochs_unpruned": 0}), "0% saved")


def test_the_pictures_are_those_that_the_search_has(section: Any) -> None:
    assert section().pictures == {}
    write_bytes(Path("outputs/tune/clip/slices.png"), b"slices")
    write_bytes(Path("outputs/tune/clip/optimization_history.png"), b"history")
    assert list(section().pictures.values()) == [b"history", b"slices"]


@pytest.mark.parametrize("missing", ["outputs/tune/clip/search.json", "outputs/repeat/clip/repeat.json"])
def test_a_stage_that_has_not_run_is_named(section: Any, missing: str) -> None:
    section()
    Path(missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing: run `dvc repro` first"):
        search_reliability("clip")


# The page


def test_the_section_stands_in_the_page_with_everything_escaped(section: Any) -> None:
    write_bytes(Path("outputs/tune/clip/importances.png"), b"bars")
    page = render("report/honesty", model="clip", section=section({**SEARCH, "reasons": {"<b>": 3}}))
    assert "<h3>Search honesty</h3>" in page
    assert "<td>test macro-F1</td><td>0.8000 ± 0.0200</td>" in page
    assert "3 × &lt;b&gt;" in page
    assert "lr 62%, rank 38%." in page
    assert 'src="data:image/png;base64,YmFycw=="' in page


def test_where_no_importances_are_known_the_page_says_so(section: Any) -> None:
    page = render("report/honesty", model="clip", section=section({**SEARCH, "importances": {}}))
    assert "Which settings matter cannot be said" in page
