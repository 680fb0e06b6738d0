"""What leads a reader through MLflow: links from a study to what came of it, and a table of all models."""

from collections.abc import Mapping
from typing import Any

from src.core.records import ADAPTER_DIGEST
from src.tracking.client import Run, Tracker
from src.tracking.markdown import model_link, run_link, table

# Runs with the same values of these were judged on the same posts, over weights of the same kind.
_COMPARABLE = ("scale", "data_digest", "split_digest")
_PREFIX = "mvsa-"
_BASELINES, _WORDS = "baselines", "tfidf"
_VAL, _TEST = "best_val_macro_f1", "test_macro_f1"


def link_runs(tracker: Tracker, model: str, evaluated: Run) -> None:
    """Link the study, its best trial, the training, this evaluation and the model's versions, in the notes of each.

    What MLflow has no more is left out.
    """
    train = _training_of(tracker, evaluated)
    if train is None:
        return
    study = train.tag("study")
    studies = tracker.find({"stage": "study", "study": study})
    trials = tracker.find({"stage": "trial", "study": study, "trial": train.tag("trial")})
    links = {
        "study": run_link("study", studies[0] if studies else ""),
        "trial": run_link(f"trial {train.tag('trial')}", trials[0] if trials else ""),
        "train": run_link("train run", train.id),
        "evaluate": run_link("evaluate run", evaluated.id),
        "versions": model_link("registered versions", f"{_PREFIX}{model}"),
    }
    text = "From the {study}, its {trial}, trained again: {train}; scored on the test part: {evaluate}; {versions}."
    for run in (train, evaluated, *map(tracker.reopen, studies[:1])):
        run.section("What came of it", text.format(**links))


def compare_models(tracker: Tracker, facts: Mapping[str, str]) -> None:
    """Write the newest scores of all models on the same posts into the description of each one's experiment."""
    same = {name: facts[name] for name in _COMPARABLE}
    peers = tracker.experiments(_PREFIX)
    rows = [row for model, peer in peers.items() if (row := _row(model, peer, same))]
    rows.sort(key=lambda row: -row["validation"])
    if rows:
        baselines = _baselines(peers, facts)
        links = {row["model"]: model_link(row["model"], f"{_PREFIX}{row['model']}") for row in rows}
        shown = [_shown(row, links.get(row["model"], row["model"])) for row in (*rows, *baselines)]
        text = f"{_verdict(rows)}{_against(rows, baselines)}\n\n{table(shown)}"
        for row in rows:
            peers[row["model"]].section("All models on these posts", text)


def _row(model: str, peer: Tracker, same: Mapping[str, str]) -> dict[str, Any] | None:
    evaluated = _newest(peer, {**same, "stage": "evaluate"})
    if evaluated is None:
        return None
    zeroshot, train = _newest(peer, {**same, "stage": "zeroshot"}), _training_of(peer, evaluated)
    return {
        "model": model,
        "run": evaluated.id,
        "validation": train.last_metrics().get(_VAL, 0.0) if train else 0.0,
        "test": evaluated.last_metrics()[_TEST],
        "zeroshot": zeroshot.last_metrics()[_TEST] if zeroshot else None,
    }


def _training_of(tracker: Tracker, evaluated: Run) -> Run | None:
    """Return the newest training of the adapter that an evaluation judged; None if MLflow has none."""
    runs = tracker.find({"stage": "train", ADAPTER_DIGEST: evaluated.tag(ADAPTER_DIGEST)})
    return tracker.reopen(runs[0]) if runs else None


def _baselines(peers: Mapping[str, Tracker], facts: Mapping[str, str]) -> list[dict[str, Any]]:
    """What needs no model, on the same posts; a stage that has not run yet leaves it out."""
    if _BASELINES not in peers:
        return []
    same = {"stage": "baseline", "data_digest": facts["data_digest"], "split_digest": facts["split_digest"]}
    found = {name: _newest(peers[_BASELINES], {**same, "model": name}) for name in (_WORDS, "majority")}
    return [
        {"model": name, "run": run.id, "validation": figures["val_macro_f1"], "test": figures[_TEST], "zeroshot": None}
        for name, run in found.items()
        if run and (figures := run.last_metrics())
    ]


def _newest(peer: Tracker, tags: Mapping[str, str]) -> Run | None:
    """The newest run with these tags that has scores."""
    runs = map(peer.reopen, peer.find(tags))
    return next((run for run in runs if _TEST in run.last_metrics()), None)


def _verdict(rows: list[dict[str, Any]]) -> str:
    first, *others = rows
    said = f"Best on validation: **{first['model']}**, macro-F1 {first['validation']:.4f}"
    if others:
        said += f", {first['validation'] - others[0]['validation']:.4f} above {others[0]['model']}"
    return f"{said}."


def _against(rows: list[dict[str, Any]], baselines: list[dict[str, Any]]) -> str:
    """Says which models do not beat a classifier that reads the captions' words alone."""
    least = next((row["test"] for row in baselines if row["model"] == _WORDS), None)
    weak = [row["model"] for row in rows if least is not None and row["test"] <= least]
    return f" Not above TF-IDF of the captions on the test part: **{', '.join(weak)}**." if weak else ""


def _shown(row: Mapping[str, Any], name: str) -> dict[str, str]:
    before = row["zeroshot"]
    return {
        "model": name,
        "validation macro-F1": f"{row['validation']:.4f}",
        "test macro-F1": run_link(f"{row['test']:.4f}", row["run"]),
        "untrained": "-" if before is None else f"{before:.4f}",
        "gained": "-" if before is None else f"{row['test'] - before:+z.4f}",
    }
