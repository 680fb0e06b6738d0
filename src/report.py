"""Stage `report`: all models in one table beside the study's figures, with pictures, as one HTML page.

python -m src.report
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from src.core.config import Params, load_params
from src.core.labels import TONES
from src.core.paths import DATA_REPORT, REPORT, SPLIT_REPORT, stage_folder
from src.core.published import PUBLISHED, Published
from src.core.records import Scores, read_json, read_predictions, read_table, write_bytes, write_table, write_text
from src.services.honesty import honesty_of
from src.services.terminal import command, say, table

TITLE = "Tone of social-media posts: LoRA-tuned vision-language models"
FIGURES = ("accuracy", "macro_f1", "weighted_f1")
Rows = Mapping[str, Mapping[str, Mapping[str, float | None]]]


@dataclass(frozen=True)
class Outcome:
    """What the stages before found out about one model; `before` and `after` are its scores on the test part."""

    model: str
    best: Mapping[str, Any]
    trained: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    before: Scores
    after: Scores


@command(example="python -m src.report")
def main() -> None:
    """Write outputs/report/: a page (index.html), its pictures, and the table of scores (scores.csv)."""
    params = load_params()
    outcomes = [_outcome(model) for model in params.models]
    rows = {outcome.model: _row(outcome) for outcome in outcomes}
    overview = _overview(outcomes, rows)
    details = {outcome.model: _detail(outcome) for outcome in outcomes}
    for name, png in _pictures(overview, details).items():
        write_bytes(REPORT / f"{name}.png", png)
    write_table(REPORT / "scores.csv", _flat(rows))
    write_text(REPORT / "index.html", _page(params, outcomes, rows, overview, details))
    columns = [f"{kind} {name}" for kind in ("zero-shot", "tuned", "published") for name in FIGURES[:2]]
    table("Test part", ["model", *columns], [[row["model"], *(row[name] for name in columns)] for row in _flat(rows)])
    say(f"{params.notice}\nLook: {REPORT / 'index.html'}")


def _outcome(model: str) -> Outcome:
    from src.learning.metrics import scores

    train = stage_folder("train", model)
    return Outcome(
        model=model,
        best=read_json(stage_folder("tune", model) / "best.json"),
        trained=read_json(train / "train.json"),
        history=[{name: float(value) for name, value in row.items()} for row in read_table(train / "history.csv")],
        before=scores(read_predictions(stage_folder("zeroshot", model) / "predictions.csv")),
        after=scores(read_predictions(stage_folder("evaluate", model) / "predictions.csv")),
    )


def _row(outcome: Outcome) -> dict[str, dict[str, float | None]]:
    study = PUBLISHED.get(outcome.model, Published())
    return {
        "zero-shot": dict(outcome.before.headline()),
        "tuned": dict(outcome.after.headline()),
        "published zero-shot": asdict(study.zeroshot),
        "published": asdict(study.tuned),
    }


def _flat(rows: Rows) -> list[dict[str, Any]]:
    return [
        {"model": model, **{f"{kind} {name}": row[kind][name] for kind in row for name in FIGURES}}
        for model, row in rows.items()
    ]


def _baseline(outcome: Outcome) -> float:
    """Accuracy of always saying the tone that most test posts have."""
    support = [sum(row) for row in outcome.after.confusion]
    return max(support) / sum(support)


def _overview(outcomes: Sequence[Outcome], rows: Rows) -> dict[str, bytes]:
    from src.services import plots

    accuracy = {
        model: {kind: scores["accuracy"] for kind, scores in row.items() if scores["accuracy"] is not None}
        for model, row in rows.items()
    }
    per_class = {outcome.model: {tone: outcome.after.per_class[tone]["f1"] for tone in TONES} for outcome in outcomes}
    return {
        "accuracy": plots.comparison_bars(accuracy, "accuracy", "Accuracy on the test part", _baseline(outcomes[0])),
        "per-class-f1": plots.per_class_bars(per_class, "F1", "F1 of each tone on the test part, tuned"),
    }


def _detail(outcome: Outcome) -> dict[str, Any]:
    from src.services import plots

    return {
        "facts": outcome.trained["facts"],
        "best": outcome.best,
        "settings": ", ".join(f"{name} {value:.4g}" for name, value in outcome.best["params"].items()),
        "best_epoch": outcome.trained["best_epoch"],
        "confusion-before": plots.confusion_matrix(outcome.before.confusion, TONES, f"{outcome.model}, zero-shot"),
        "confusion-after": plots.confusion_matrix(outcome.after.confusion, TONES, f"{outcome.model}, tuned"),
        "learning-curves": plots.learning_curves(outcome.history, f"{outcome.model}, training"),
        "honesty": honesty_of(outcome.model),
    }


def _pictures(overview: Mapping[str, bytes], details: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    own = {f"{model}-{name}": content for model, detail in details.items() for name, content in detail.items()}
    return {**overview, **{name: content for name, content in own.items() if isinstance(content, bytes)}}


def _page(
    params: Params,
    outcomes: Sequence[Outcome],
    rows: Rows,
    overview: Mapping[str, bytes],
    details: Mapping[str, Mapping[str, Any]],
) -> str:
    from src.services.pages import render

    return render(
        "report",
        title=TITLE,
        notice=params.notice,
        scale=params.scale,
        data=read_json(DATA_REPORT),
        split=read_json(SPLIT_REPORT),
        test_posts=sum(sum(row) for row in outcomes[0].after.confusion),
        baseline=_baseline(outcomes[0]),
        rows=rows,
        figures=FIGURES,
        overview=overview,
        details=details,
    )


if __name__ == "__main__":
    main()
