"""Covers: MLflow's pages of the project, as a new visitor sees them."""

import pytest

from src.core.records import read_predictions
from src.reporting.mistakes import mistaken
from src.tracking.ui_views import view_address
from tests.browser import chromium
from tests.browser.chromium import Page
from tests.browser.conftest import Tracked
from tests.pipeline import MODEL, TRIALS

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_experiment_links_sorted_trials(page: Page, tracked: Tracked) -> None:
    page.open(f"#/experiments/{tracked.experiment_id}?workflowType=machine_learning")
    page.text("evaluate", "train", "zeroshot", "mvsa-agreement-test")
    page.follow("trials, the best first")
    text = page.text(f"{TRIALS} matching runs", "best_val_macro_f1", "rank", "alpha", "lr", "dropout")
    names = [line for line in text.splitlines() if line in tracked.runs and line.startswith("trial")]
    assert names == [run.info.run_name for run in tracked.trials()]
    assert "label_smoothing" not in text


def test_chart_shows_searched_settings(page: Page, tracked: Tracked) -> None:
    page.open(view_address(tracked.experiment_id, charts=True))
    axes = {"rank", "alpha", "lr", "dropout", "best_val_macro_f1"}
    page.wait_for(lambda: axes <= {label.text for label in page.all("svg text")}, "the axes")


def test_compared_trials_show_settings(page: Page, tracked: Tracked) -> None:
    ids = ",".join(f'"{run.info.run_id}"' for run in tracked.trials()[:2])
    page.open(f'#/compare-runs?runs=[{ids}]&experiments=["{tracked.experiment_id}"]')
    page.text("Comparing 2 Runs", "rank", "dropout", "best_val_macro_f1")


def test_study_links_best_trial(page: Page, tracked: Tracked) -> None:
    best = tracked.trials()[0]
    page.open(f"#/runs/{tracked.runs['study'].info.run_id}")
    score = best.data.metrics["best_val_macro_f1"]
    page.text(f"Best of {TRIALS} trials: {best.info.run_name}, validation macro-F1 {score:.4f}")
    page.press("Show more")
    page.text("Related runs")
    page.follow("train run")
    page.text(tracked.runs["train"].info.run_id)


def test_experiment_names_best_model(page: Page, tracked: Tracked) -> None:
    page.open(f"#/experiments/{tracked.experiment_id}?workflowType=machine_learning")
    page.text("as a chart")
    page.find("[data-component-id='mlflow.experiment.metadata_editor.expand_button']").click()
    page.text(f"Best on validation: {MODEL}")


def test_trial_shows_confusion_matrix(page: Page, tracked: Tracked) -> None:
    page.open(tracked.artifact("trial 0", "confusion_matrix.png"))
    page.text("learning_curves.png", "classification_report.txt", "adapter", "settings.json")
    plot = page.find("img[src^='blob:'], img[src*='get-artifact'], img[src*='confusion']")
    page.wait_for(lambda: page.is_drawn(plot), "the matrix")


def test_mistakes_show_their_images(page: Page, tracked: Tracked) -> None:
    predictions = read_predictions(tracked.folder / "outputs" / "evaluate" / MODEL / "predictions.csv")
    wrong = mistaken(predictions)
    page.open(tracked.artifact("evaluate", "misclassified.html"))
    page.driver.switch_to.frame(page.find("iframe"))
    page.text(f"{len(wrong)} of {len(predictions)} posts are misclassified")
    assert [label.text for label in page.all(".id")] == [f"Post {mistake.id}" for mistake in wrong]
    assert all(map(page.is_drawn, page.all(".posts img")))
    assert len(page.all(".posts img")) == len(wrong)


def test_model_shows_version_aliases(page: Page, tracked: Tracked) -> None:
    page.open(f"#/models/mvsa-{MODEL}")
    page.text("Version 1", "champion")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_missing_browser_fails_under_ci(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(chromium, "find_programs", lambda: None)
    with pytest.raises(outcome, match="no Chromium"):
        chromium.needed_programs()
