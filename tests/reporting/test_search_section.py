"""Covers: the report's section on the reliability of a search, from outputs made here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.estimates import Spread
from src.core.files import write_bytes
from src.core.outputs import BestTrial, RepeatOutput, SearchSummary
from src.core.paths import REPEAT_JSON, SEARCH_FILE, stage_folder
from src.reporting.pages import render
from src.reporting.search_section import REPEAT_SCORES, SearchReliability, search_reliability

MakeSection = Callable[..., SearchReliability]
TUNE = stage_folder("tune", "clip")
REPEAT = stage_folder("repeat", "clip")
SEARCH = SearchSummary(
    finished=30,
    pruned=18,
    failed=3,
    reasons={"out of memory": 2, "the loss is no number": 1},
    epochs=90,
    epochs_unpruned=180,
    importances={"lr": 0.62, "rank": 0.38},
)
BEST = BestTrial("study", 30, 18, 7, 0.85, {"lr": 0.0003, "rank": 8})


def spread(mean: float, sd: float | None = 0.02, low: float | None = None, high: float | None = None) -> Spread:
    return Spread(mean, sd, 3 if sd is not None else 1, low, high)


def all_scores(value: Spread | None) -> dict[str, Spread | None]:
    return dict.fromkeys(REPEAT_SCORES, value)


# A winner that is better than the default by more than chance.
REPEATED = RepeatOutput(
    study="study",
    seeds=(8, 9, 10),
    settings={},
    winner_is_default=False,
    best_val_macro_f1=0.85,
    optimism=0.05,
    drop=spread(0.03, 0.01),
    scores={"winner": all_scores(spread(0.8)), "default": all_scores(spread(0.7))},
    gain=all_scores(spread(0.1, 0.01, 0.0752, 0.1248)),
    failures={},
)


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSection:
    """Return a function that writes the outputs of `tune` and `repeat` and builds the section of their model."""
    monkeypatch.chdir(tmp_path)

    def build(search: SearchSummary = SEARCH, **changes: object) -> SearchReliability:
        search.write(TUNE / SEARCH_FILE)
        replace(REPEATED, **changes).write(REPEAT / REPEAT_JSON)  # type: ignore[arg-type]
        return search_reliability("clip", BEST)

    return build


def has(section: SearchReliability, *data: str) -> bool:
    """Return whether one sentence holds all of these data."""
    return any(all(datum in sentence for datum in data) for sentence in section.sentences)


# The winner on other seeds


def test_table_holds_winner_default_gain(section: MakeSection) -> None:
    scores = section().scores
    assert list(scores) == list(REPEAT_SCORES.values())
    assert scores["test macro-F1"] == {
        "winner": "0.8000 ± 0.0200",
        "default": "0.7000 ± 0.0200",
        "gain": "+0.1000 ± 0.0100",
        "95% interval of the gain": "+0.0752 to +0.1248",
    }


def test_optimism_is_stated_either_way(section: MakeSection) -> None:
    assert has(section(), "3 other seeds", "0.8000 ± 0.0200", "0.0500 less")
    assert has(section(optimism=-0.01), "0.0100 more")


@pytest.mark.parametrize(
    ("winner", "optimism", "verdict"),
    [
        (spread(0.8), 0.05, "too few seeds"),
        (spread(0.8, 0.02, 0.75, 0.85), 0.099, "may be chance"),
        (spread(0.8, 0.02, 0.75, 0.85), -0.099, "may be chance"),
        (spread(0.8, 0.02, 0.75, 0.85), 0.101, "less: the optimism"),
        (spread(0.8, 0.02, 0.75, 0.85), -0.101, "caused no optimism"),
    ],
)
def test_optimism_is_named_beyond_the_interval(
    section: MakeSection, winner: Spread, optimism: float, verdict: str
) -> None:
    scores = {"winner": all_scores(winner), "default": all_scores(spread(0.7))}
    assert has(section(scores=scores, optimism=optimism), verdict)


def test_no_other_seeds_say_so(section: MakeSection) -> None:
    nothing = all_scores(None)
    none = section(seeds=(), optimism=None, drop=None, scores={"winner": nothing, "default": nothing}, gain=nothing)
    assert has(none, "no other seed")
    assert not has(none, "Seeds vary the training")
    assert none.scores["test macro-F1"]["winner"] == "-"


@pytest.mark.parametrize(
    ("gain", "data"),
    [
        (spread(0.1, 0.01, 0.0752, 0.1248), ("above", "3 seeds can tell", "+0.0752")),
        (spread(-0.1, 0.01, -0.1248, -0.0752), ("0.1000 ± 0.0100 below", "3 seeds can tell")),
        (spread(0.1, 0.1, -0.1484, 0.3484), ("3 seeds cannot tell", "95% interval")),
        (spread(0.1, 0.0), ("same on all 3 seeds",)),
        (spread(0.1, None), ("One seed",)),
    ],
)
def test_gain_is_compared_with_zero(section: MakeSection, gain: Spread, data: tuple[str, ...]) -> None:
    assert has(section(gain=all_scores(gain)), *data)


def test_default_as_winner_gains_nothing(section: MakeSection) -> None:
    same = section(winner_is_default=True)
    assert has(same, "its gain is 0")
    assert same.scores["test accuracy"] == {"winner": "0.8000 ± 0.0200"}


def test_model_without_default_has_no_gain(section: MakeSection) -> None:
    alone = section(scores={"winner": all_scores(spread(0.8))}, gain=all_scores(None))
    assert has(alone, "no initial trials")
    assert alone.scores["test accuracy"] == {"winner": "0.8000 ± 0.0200"}


def test_drop_may_be_a_rise(section: MakeSection) -> None:
    assert has(section(), "falls by 0.0300 ± 0.0100")
    assert has(section(drop=spread(-0.03, 0.01)), "rises by 0.0300 ± 0.0100")


def test_failed_training_is_named(section: MakeSection) -> None:
    failed = section(
        scores={"winner": all_scores(None), "default": all_scores(spread(0.7))},
        gain=all_scores(None),
        optimism=None,
        drop=None,
        failures={"winner, seed 9": "the loss is no longer a number"},
    )
    assert has(failed, "winner, seed 9", "the loss is no longer a number")
    assert failed.scores["test macro-F1"]["winner"] == failed.scores["test macro-F1"]["gain"] == "-"


# The trials


def test_trials_are_counted_with_reasons(section: MakeSection) -> None:
    assert has(section(), "30", "18", "3 failed (2 × out of memory; 1 × the loss is no number)")
    assert has(section(replace(SEARCH, failed=0, reasons={})), "18", "none failed")


def test_saving_of_pruner_is_in_epochs(section: MakeSection) -> None:
    assert has(section(), "90 epochs", "180", "50% saved")
    assert has(section(replace(SEARCH, epochs=0, epochs_unpruned=0)), "0% saved")


def test_plots_are_those_that_exist(section: MakeSection) -> None:
    assert section().plots == {}
    write_bytes(TUNE / "slices.png", b"slices")
    write_bytes(TUNE / "optimization_history.png", b"history")
    history, slices = section().plots.values()
    assert (history.png, slices.png) == (b"history", b"slices")
    assert "30 finished trials" in history.alt and "trial 7" in history.alt
    assert "rank 8" in slices.alt


@pytest.mark.parametrize("missing", [TUNE / SEARCH_FILE, REPEAT / REPEAT_JSON], ids=str)
def test_missing_stage_is_named(section: MakeSection, missing: Path) -> None:
    section()
    missing.unlink()
    with pytest.raises(UserError, match=str(missing)):
        search_reliability("clip", BEST)


# The page


def test_section_is_escaped_in_page(section: MakeSection) -> None:
    write_bytes(TUNE / "importances.png", b"bars")
    page = render("report/search", model="clip", search=section(replace(SEARCH, reasons={"<b>": 3})))
    assert '<th scope="row">test macro-F1</th><td>0.8000 ± 0.0200</td>' in page
    assert "3 × &lt;b&gt;" in page
    assert "lr 62%, rank 38%." in page
    assert 'src="data:image/png;base64,YmFycw=="' in page


def test_missing_importances_are_named(section: MakeSection) -> None:
    page = render("report/search", model="clip", search=section(replace(SEARCH, importances={})))
    assert "lr" not in page
    assert "importance of settings is unknown" in page
