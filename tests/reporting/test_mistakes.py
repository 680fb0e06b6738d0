"""The page of misclassified posts, and what surrounds it in MLflow: notes, datasets, views, the table of models."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from src.core.records import ADAPTER_DIGEST, Post, Prediction
from src.reporting.mistakes import mistaken, mistakes_page, thumbnail
from src.tracking.client import Dataset, Tracker, parts_read
from src.tracking.markdown import run_link, table, with_section
from src.tracking.overview import compare_models, link_runs
from src.tracking.store import open_store
from src.tracking.ui_views import VIEW_TAG, trials_view

NOTICE = "Weights are random."
FACTS = {"scale": "tiny", "data_digest": "d1", "split_digest": "s1"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "1.jpg"
    Image.new("RGB", (640, 320), "red").save(path)
    return path


def post(key: str, picture: Path, caption: str = "what a day") -> Post:
    return Post(key, str(picture), caption, "positive", "neutral", "positive", "digest")


def said(key: str, predicted: str, sure: float, actual: str = "positive") -> Prediction:
    rest = (1 - sure) / 2
    shares = {tone: sure if tone == predicted else rest for tone in ("negative", "neutral", "positive")}
    return Prediction(key, actual, predicted, **shares)


def test_only_mistakes_are_shown_the_most_confident_first(picture: Path) -> None:
    found = [
        said("1", "negative", 0.5),
        said("2", "positive", 0.9),
        said("3", "neutral", 0.8),
        said("4", "neutral", 0.4),
    ]
    page = mistakes_page("clip", NOTICE, [post(key, picture) for key in "1234"], found)
    assert re.findall(r"Post (\d)</p>", page) == ["3", "1", "4"]
    assert [each.id for each in mistaken(found)] == ["3", "1", "4"]
    assert "3 of 4 posts are misclassified." in page
    assert NOTICE in page


def test_a_mistake_is_shown_with_all_that_is_known_of_it(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "negative", 0.5)])
    assert "<strong>negative</strong> predicted, <strong>positive</strong> labelled" in page
    assert "Annotators: text positive, image neutral" in page
    assert "what a day" in page
    assert (page.count("50.0%"), page.count("25.0%")) == (1, 2)
    (content,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(BytesIO(base64.b64decode(content))) as image:
        assert (image.format, image.size) == ("JPEG", (160, 80))


def test_a_caption_is_text_and_no_markup(picture: Path) -> None:
    page = mistakes_page(
        "clip", NOTICE, [post("1", picture, "<script>alert('x')</script> & co")], [said("1", "neutral", 0.5)]
    )
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_no_network(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "neutral", 0.5)])
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http" not in page


def test_of_many_mistakes_the_surest_are_shown_and_all_are_counted(picture: Path) -> None:
    keys = [str(number) for number in range(9)]
    found = [said(key, "neutral", 0.4 + int(key) / 20) for key in keys]
    page = mistakes_page("clip", NOTICE, [post(key, picture) for key in keys], found, most=2)
    assert "9 of 9 posts are misclassified; the 2 of which the model was surest are shown." in page
    assert re.findall(r"Post (\d)</p>", page) == ["8", "7"]
    assert "<tr><td>positive</td><td>neutral</td><td>9</td></tr>" in page


def test_without_a_mistake_the_page_says_so(picture: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", picture)], [said("1", "positive", 0.9)])
    assert "0 of 1 posts are misclassified." in page


def test_a_picture_that_is_gone_leaves_the_rest(tmp_path: Path) -> None:
    page = mistakes_page("clip", NOTICE, [post("1", tmp_path / "gone.jpg")], [said("1", "neutral", 0.5)])
    assert "The picture is gone" in page
    assert thumbnail(tmp_path / "gone.jpg") == b""


def test_a_section_of_a_note_takes_the_place_of_an_earlier_one() -> None:
    note = with_section("Weights are random.", "The search", "Best: **trial 1**")
    note = with_section(note, "What came of it", "trained")
    again = with_section(note, "The search", "Best: **trial 2**")
    assert again == "Weights are random.\n\n## The search\n\nBest: **trial 2**\n\n## What came of it\n\ntrained"
    assert with_section(again, "What came of it", "trained") == again
    assert with_section("", "The search", "a") == "## The search\n\na"


def test_a_table_keeps_its_cells_apart() -> None:
    assert table([{"a": "x|y", "b": 1}]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_what_mlflow_has_no_run_of_is_no_link() -> None:
    assert run_link("trial 1", "") == "trial 1"


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return open_store()


def test_a_run_says_once_which_posts_it_reads(client: MlflowClient, store: Path) -> None:
    counts = {"negative": 1, "neutral": 2, "positive": 3}
    parts = [Dataset(f"mvsa-agreement-{part}", "d1-s1", "data.dvc", part, counts) for part in ("train", "val")]
    with Tracker("reading").run("train") as run:
        for _ in range(2):
            run.inputs(parts)
    found = client.get_run(run.id).inputs.dataset_inputs
    assert {(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in found} == {
        ("mvsa-agreement-train", "d1-s1", "train"),
        ("mvsa-agreement-val", "d1-s1", "val"),
    }
    assert len(found) == 2
    assert json.loads(found[0].dataset.profile) == counts


def test_a_part_is_known_by_content_and_division(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "outputs" / "split" / "report.json"
    report.parent.mkdir(parents=True)
    parts = {"test": {"negative": 1, "neutral": 1, "positive": 2}}
    digests = {"data_digest": "d" * 16, "split_digest": "s" * 16}
    report.write_text(json.dumps({"protocol": "agreement", **digests, "parts": parts}))
    (test,) = parts_read("test")
    assert (test.name, test.digest) == ("mvsa-agreement-test", f"{'d' * 16}-{'s' * 16}")
    assert test.counts == parts["test"]


def test_the_view_of_trials_has_the_searched_settings_as_columns_and_axes() -> None:
    state = json.loads(json.loads(trials_view(["rank", "lr"]))["state"])
    assert {"params.`rank`", "params.`lr`", "metrics.`best_val_macro_f1`"} <= set(state["selectedColumns"])
    (axes,) = [chart["selectedParams"] for chart in state["compareRunCharts"] if chart["type"] == "PARALLEL"]
    assert axes == ["rank", "lr"]


def test_an_experiment_is_described_and_tagged_when_it_is_made(client: MlflowClient, store: Path) -> None:
    tracker = Tracker("described", "[Trials](#/experiments/{id}/runs)", {VIEW_TAG: trials_view(())})
    tracker.section("Scores", "none")
    tracker.section("Scores", "some")
    found = client.get_experiment_by_name("described")
    note = found.tags["mlflow.note.content"]
    assert note == f"[Trials](#/experiments/{found.experiment_id}/runs)\n\n## Scores\n\nsome"
    assert VIEW_TAG in found.tags


def evaluated(model: str, val: float, test: float, **facts: str) -> str:
    """Runs of a model as the pipeline leaves them; returns the study's."""
    tracker, facts = Tracker(f"mvsa-{model}"), {**FACTS, **facts}
    with tracker.run("study s", tags={**facts, "stage": "study", "study": "s"}) as study:
        pass
    with tracker.run("trial 4", tags={**facts, "stage": "trial", "study": "s", "trial": 4}):
        pass
    with tracker.run("zeroshot", tags={**facts, "stage": "zeroshot"}) as run:
        run.metrics({"test_macro_f1": 0.25})
    with tracker.run(
        "train", tags={**facts, "stage": "train", "study": "s", "trial": 4, ADAPTER_DIGEST: model}
    ) as train:
        train.metrics({"best_val_macro_f1": val})
    with tracker.run("evaluate", tags={**facts, "stage": "evaluate", ADAPTER_DIGEST: model}) as run:
        run.metrics({"test_macro_f1": test})
        link_runs(tracker, model, run)
        compare_models(tracker, facts)
    return study.id


def description(client: MlflowClient, model: str) -> str:
    return str(client.get_experiment_by_name(f"mvsa-{model}").tags.get("mlflow.note.content", ""))


def test_every_model_says_which_is_best_on_the_same_posts(client: MlflowClient, store: Path) -> None:
    evaluated("elsewhere", val=0.9, test=0.9, split_digest="another")
    evaluated("weak", val=0.5, test=0.7)
    evaluated("strong", val=0.6, test=0.55)
    for model in ("weak", "strong"):
        text = description(client, model)
        assert "Best on validation: **strong**, macro-F1 0.6000, 0.1000 above weak." in text
        rows = [line for line in text.splitlines() if line.startswith("| [")]
        assert [row.split("]")[0] for row in rows] == ["| [strong", "| [weak"]
        assert "| 0.2500 | +0.3000 |" in rows[0]
    assert "strong" not in description(client, "elsewhere")


def test_the_baselines_stand_below_the_models_and_who_does_not_beat_them_is_named(
    client: MlflowClient, store: Path
) -> None:
    digests = {"data_digest": FACTS["data_digest"], "split_digest": "beside baselines"}
    for name, test in (("majority", 0.2), ("tfidf", 0.6)):
        with Tracker("mvsa-baselines").run(name, tags={"stage": "baseline", "model": name, **digests}) as run:
            run.metrics({"val_macro_f1": 0.65, "test_macro_f1": test})
    evaluated("above", val=0.5, test=0.61, **digests)
    evaluated("below", val=0.4, test=0.6, **digests)
    text = description(client, "above")
    assert "Not above TF-IDF of the captions on the test part: **below**." in text
    assert [line.split(" | ")[:2] for line in text.splitlines()][-2:] == [
        ["| tfidf", "0.6500"],
        ["| majority", "0.6500"],
    ]


def test_a_study_leads_to_what_came_of_it(client: MlflowClient, store: Path) -> None:
    study = evaluated("linked", val=0.5, test=0.5, split_digest="linked")
    runs = {run.info.run_name: run for run in client.search_runs([client.get_run(study).info.experiment_id])}
    note = runs["study s"].data.tags["mlflow.note.content"]
    for name in ("trial 4", "train", "evaluate"):
        assert f"#/runs/{runs[name].info.run_id}" in note
    assert "(#/models/mvsa-linked)" in note
    assert f"[study](#/runs/{study})" in runs["train"].data.tags["mlflow.note.content"]


def test_a_training_that_mlflow_has_no_more_is_not_linked(client: MlflowClient, store: Path) -> None:
    tracker = Tracker("mvsa-forgotten")
    with tracker.run("evaluate", tags={"stage": "evaluate", ADAPTER_DIGEST: "gone"}) as run:
        link_runs(tracker, "forgotten", run)
    assert "mlflow.note.content" not in client.get_run(run.id).data.tags
