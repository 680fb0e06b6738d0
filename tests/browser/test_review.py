"""What somebody sees of the project who opens MLflow's pages for the first time."""

import pytest

from src.core.records import read_predictions
from src.reporting.mistakes import mistaken
from src.tracking.ui_views import view_address
from tests.browser import chromium
from tests.browser.chromium import Page
from tests.browser.conftest import Tracked
from tests.pipeline import MODEL, TRIALS

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_experiment_leads_to_the_trials_the_best_first(page: Page, tracked: Tracked) -> None:
    page.open(f"#/experiments/{tracked.experiment_id}?workflowType=machine_learning")
    page.text("evaluate", "train", "zeroshot", "mvsa-agreement-test")
    page.follow("trials, the best first")
    said = page.text(f"{TRIALS} matching runs", "best_val_macro_f1", "rank", "alpha", "lr", "dropout")
    names = [line for line in said.splitlines() if line in tracked.runs and line.startswith("trial")]
    assert names == [run.info.run_name for run in tracked.trials()]
    assert "label_smoothing" not in said


def test_the_chart_has_an_axis_for_each_searched_setting(page: Page, tracked: Tracked) -> None:
    page.open(view_address(tracked.experiment_id, charts=True))
    axes = {"rank", "alpha", "lr", "dropout", "best_val_macro_f1"}
    page.wait_for(lambda: axes <= {found.text for found in page.all("svg text")}, "the axes")


def test_two_trials_are_compared_by_what_tells_them_apart(page: Page, tracked: Tracked) -> None:
    ids = ",".join(f'"{run.info.run_id}"' for run in tracked.trials()[:2])
    page.open(f'#/compare-runs?runs=[{ids}]&experiments=["{tracked.experiment_id}"]')
    page.text("Comparing 2 Runs", "rank", "dropout", "best_val_macro_f1")


def test_the_study_says_which_trial_is_best_and_leads_there(page: Page, tracked: Tracked) -> None:
    best = tracked.trials()[0]
    page.open(f"#/runs/{tracked.runs['study'].info.run_id}")
    score = best.data.metrics["best_val_macro_f1"]
    page.text(f"Best of {TRIALS} trials: {best.info.run_name}, validation macro-F1 {score:.4f}")
    page.press("Show more")
    page.text("Related runs")
    page.follow("train run")
    page.text(tracked.runs["train"].info.run_id)


def test_the_experiment_says_which_model_is_best(page: Page, tracked: Tracked) -> None:
    page.open(f"#/experiments/{tracked.experiment_id}?workflowType=machine_learning")
    page.text("as a chart")
    page.find("[data-component-id='mlflow.experiment.metadata_editor.expand_button']").click()
    page.text(f"Best on validation: {MODEL}")


def test_a_trial_shows_its_confusion_matrix_among_its_artifacts(page: Page, tracked: Tracked) -> None:
    page.open(tracked.artifact("trial 0", "confusion_matrix.png"))
    page.text("learning_curves.png", "classification_report.txt", "adapter", "settings.json")
    picture = page.find("img[src^='blob:'], img[src*='get-artifact'], img[src*='confusion']")
    page.wait_for(lambda: page.is_drawn(picture), "the matrix")


def test_the_gallery_shows_every_mistake_with_its_picture(page: Page, tracked: Tracked) -> None:
    predictions = read_predictions(tracked.folder / "outputs" / "evaluate" / MODEL / "predictions.csv")
    wrong = mistaken(predictions)
    page.open(tracked.artifact("evaluate", "misclassified.html"))
    page.driver.switch_to.frame(page.find("iframe"))
    page.text(f"{len(wrong)} of {len(predictions)} posts are misclassified")
    assert [each.text for each in page.all(".id")] == [f"Post {each.id}" for each in wrong]
    assert all(map(page.is_drawn, page.all(".posts img")))
    assert len(page.all(".posts img")) == len(wrong)


def test_the_registered_model_shows_versions_and_aliases(page: Page, tracked: Tracked) -> None:
    page.open(f"#/models/mvsa-{MODEL}")
    page.text("Version 1", "champion")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_chromium_a_test_is_skipped_but_under_ci_it_fails(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(chromium, "find_programs", lambda: None)
    with pytest.raises(outcome, match="no Chromium"):
        chromium.needed_programs()
