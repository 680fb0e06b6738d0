"""Descriptions of experiments and runs, in a real MLflow store."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from src.core.records import ADAPTER_DIGEST
from src.tracking.client import Tracker
from src.tracking.overview import compare_models, link_runs
from src.tracking.store import open_store

FACTS = {"scale": "tiny", "data_digest": "d1", "split_digest": "s1"}


@pytest.fixture(scope="module")
def client(store: Path) -> MlflowClient:
    return open_store()


def log_pipeline(model: str, val: float, test: float, **facts: str) -> str:
    """Log the runs of a model as the pipeline does, and return the id of the study's run."""
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


def test_table_compares_models_on_same_posts(client: MlflowClient, store: Path) -> None:
    log_pipeline("elsewhere", val=0.9, test=0.9, split_digest="another")
    log_pipeline("weak", val=0.5, test=0.7)
    log_pipeline("strong", val=0.6, test=0.55)
    for model in ("weak", "strong"):
        text = description(client, model)
        assert "Best on validation: **strong**, macro-F1 0.6000, 0.1000 above weak." in text
        rows = [line for line in text.splitlines() if line.startswith("| [")]
        assert [row.split("]")[0] for row in rows] == ["| [strong", "| [weak"]
        assert "| 0.2500 | +0.3000 |" in rows[0]
    assert "strong" not in description(client, "elsewhere")


def test_models_below_tfidf_are_named(client: MlflowClient, store: Path) -> None:
    digests = {"data_digest": FACTS["data_digest"], "split_digest": "beside baselines"}
    for name, test in (("majority", 0.2), ("tfidf", 0.6)):
        with Tracker("mvsa-baselines").run(name, tags={"stage": "baseline", "model": name, **digests}) as run:
            run.metrics({"val_macro_f1": 0.65, "test_macro_f1": test})
    log_pipeline("above", val=0.5, test=0.61, **digests)
    log_pipeline("below", val=0.4, test=0.6, **digests)
    text = description(client, "above")
    assert "Not above TF-IDF of the captions on the test part: **below**." in text
    assert [line.split(" | ")[:2] for line in text.splitlines()][-2:] == [
        ["| tfidf", "0.6500"],
        ["| majority", "0.6500"],
    ]


def test_related_runs_link_each_other(client: MlflowClient, store: Path) -> None:
    study = log_pipeline("linked", val=0.5, test=0.5, split_digest="linked")
    runs = {run.info.run_name: run for run in client.search_runs([client.get_run(study).info.experiment_id])}
    text = runs["study s"].data.tags["mlflow.note.content"]
    for name in ("trial 4", "train", "evaluate"):
        assert f"/runs/{runs[name].info.run_id}?" in text
    assert "(#/models/mvsa-linked?" in text
    here = runs["train"].info.experiment_id
    assert f"[study](#/experiments/{here}/runs/{study}?" in runs["train"].data.tags["mlflow.note.content"]


def test_missing_training_gets_no_links(client: MlflowClient, store: Path) -> None:
    tracker = Tracker("mvsa-forgotten")
    with tracker.run("evaluate", tags={"stage": "evaluate", ADAPTER_DIGEST: "gone"}) as run:
        link_runs(tracker, "forgotten", run)
    assert "mlflow.note.content" not in client.get_run(run.id).data.tags
