"""Text alternatives of plots hold the data that the plots show."""

from src.core.outputs import BestTrial, ExplainedMistake, SearchSummary
from src.core.records import Interval
from src.core.saliency import Word
from src.evaluation.comparison_tables import CalibrationRow
from src.reporting import alt_texts

MINUS = "\N{MINUS SIGN}"


def has(alt: str, *data: str) -> bool:
    return all(datum in alt for datum in data)


def test_forest_names_systems_and_intervals() -> None:
    rows = {"majority": Interval(0.5, None, None), "clip tuned": Interval(0.81, 0.779, 0.842)}
    assert has(
        alt_texts.forest_alt("Accuracy", rows), "Accuracy", "majority 50.0%;", "clip tuned 81.0% (77.9% to 84.2%)"
    )


def test_confusion_matrix_is_read_by_rows() -> None:
    alt = alt_texts.confusion_alt("clip", [[1200, 3], [0, 7]], ["negative", "positive"])
    assert has(alt, "of 1,203 negative posts it predicts 1,200 negative, 3 positive", "of 7 positive")


def test_curves_have_ends_and_best_epoch() -> None:
    history = [
        {"epoch": 1.0, "train_loss": 1.1, "val_macro_f1": 0.3},
        {"epoch": 2.0, "train_loss": 0.7, "val_macro_f1": 0.6},
        {"epoch": 3.0, "train_loss": 0.5, "val_macro_f1": 0.5},
    ]
    alt = alt_texts.learning_curves_alt("clip", history)
    assert has(alt, "3 epochs", "training loss goes from 1.10 to 0.50", "epoch 2, at 0.60")
    assert "validation loss" not in alt


def test_bars_are_named_by_model() -> None:
    alt = alt_texts.bars_alt("F1", {"clip": {"negative": 0.5, "positive": 0.75}, "llava": {"negative": 0.25}})
    assert has(alt, "clip negative 0.50, positive 0.75", "llava negative 0.25")


def test_temperature_tells_direction_of_errors() -> None:
    row = CalibrationRow("clip tuned", 0.2, 0.05, 1.7, 0.9, 0.8, 0.1)
    assert has(alt_texts.reliability_alt(row), "clip tuned", "too high", "1.70", "20.0%", "5.0%")
    assert "too low" in alt_texts.reliability_alt(CalibrationRow("clip tuned", 0.2, 0.05, 0.7, 0.9, 0.8, 0.1))
    fitted = alt_texts.reliability_alt(CalibrationRow("ensemble", 0.05, 0.05, 0.998, 0.8, 0.8, 0.1))
    assert "too" not in fitted and "1.00" in fitted


def test_selective_curve_has_half_and_whole() -> None:
    alt = alt_texts.selective_alt("Accuracy", {"tfidf": [1.0, 0.9, 0.8, 0.7], "clip tuned": [0.6]})
    assert has(alt, "tfidf 90.0%", "70.0% on all", "clip tuned 60.0%")


def test_saliency_map_names_strongest_words() -> None:
    words = (Word("the", 0.0), Word("sad", 0.8), Word("day", -0.9), Word("in", 0.2), Word("may", -0.1))
    mistake = ExplainedMistake("7", "positive", "negative", 0.9, -0.25, 1.5, words, "7.png")
    alt = alt_texts.saliency_alt("clip", mistake)
    assert has(
        alt, "post 7", "negative", f"image {MINUS}0.25", "caption +1.50", f"day {MINUS}0.90, sad +0.80, in +0.20."
    )
    assert "may" not in alt


def test_search_plots_name_winner() -> None:
    search = SearchSummary(30, 18, 3, {}, 90, 180, {"lr": 0.62, "rank": 0.38})
    alts = alt_texts.search_alts("clip", search, BestTrial("study", 30, 18, 7, 0.85, {"rank": 8}))
    assert all(has(alts[name], "30", "18", "trial 7 with 0.8500") for name in ("optimization_history", "pareto_front"))
    assert has(alts["slices"], "trial 7", "rank 8")
    assert has(alts["importances"], "lr 62%, rank 38%")
