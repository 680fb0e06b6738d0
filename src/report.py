"""Stage `report`: what was found out, as one HTML page: findings first, then every figure with its interval.

python -m src.report
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import Params, load_params, notice_of
from src.core.files import read_json, read_table, write_bytes, write_table, write_text
from src.core.labels import TONES
from src.core.paper import RECIPES
from src.core.paths import COMPARE, REPORT, stage_folder
from src.core.records import Scores, read_predictions
from src.core.saliency import METHOD
from src.core.training_config import display_value
from src.reporting import paper_table
from src.reporting.search_section import search_reliability

if TYPE_CHECKING:
    from src.reporting.findings import ReportInputs

TITLE = "Tone of social-media posts: LoRA-tuned vision-language models"
FIGURES = ("accuracy", "macro_f1", "weighted_f1")
# What is on the page, the command that makes it (for one of the models), and the file below outputs/.
SOURCES = (
    ("posts read and left out", "python -m src.prepare", "prepare/report.json"),
    ("division, near-duplicates, leaks", "python -m src.split", "split/report.json, split/leaks.json"),
    ("majority and TF-IDF", "python -m src.baseline", "baseline/<name>/metrics.json"),
    ("zero-shot", "python -m src.zeroshot --model {model}", "zeroshot/<model>/metrics.json"),
    ("probe", "python -m src.probe --model {model}", "probe/<model>/metrics.json"),
    ("search, importances", "python -m src.tune --model {model}", "tune/<model>/search.json"),
    ("learning curves", "python -m src.train --model {model}", "train/<model>/history.csv"),
    ("tuned, confusion matrices", "python -m src.evaluate --model {model}", "evaluate/<model>/predictions.csv"),
    ("other seeds, gain, optimism", "python -m src.repeat --model {model}", "repeat/<model>/repeat.json"),
    ("text or picture, alignment", "python -m src.modality --model {model}", "modality/<model>/modality.json"),
    ("heat maps", "python -m src.saliency --model {model}", "saliency/<model>/saliency.json"),
    ("intervals, comparisons, calibration", "python -m src.compare", "compare/scores.csv, pairs.csv, calibration.csv"),
    ("the study's experiments", "python -m src.reproduce", "reproduce/recipes.csv, <recipe>.json"),
    ("wrong labels, the best possible score", "python -m src.noise", "noise/noise.json, mislabelled.csv"),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one model; `before` and `after` are its scores on the test part."""

    model: str
    best: Mapping[str, Any]
    trained: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    before: Scores
    after: Scores


@command(example="python -m src.report")
def main() -> None:
    """Write outputs/report/: a page (index.html) that works offline, its pictures, and the table of scores."""
    params = load_params()
    from src.reporting.findings import read_report_inputs

    evidence, outcomes = read_report_inputs(params.models), [_outcome(model) for model in params.models]
    details = {outcome.model: _detail(outcome) for outcome in outcomes}
    pictures = {**_compared(params.models), "per-class-f1": _per_class(outcomes)}
    for name, png in {**pictures, **_own_pictures(details)}.items():
        write_bytes(REPORT / f"{name}.png", png)
    rows = [_flat(row) for row in evidence.score_rows()]
    write_table(REPORT / "scores.csv", rows)
    write_text(REPORT / "index.html", _page(params, evidence, details, pictures))
    table("Test part", list(rows[0]), [list(row.values()) for row in rows])
    for sentence in evidence.sentences():
        say(f"- {sentence}")
    say(f"{params.notice}\nLook: {REPORT / 'index.html'}")


def _outcome(model: str) -> Outcome:
    from src.evaluation.metrics import scores

    train = stage_folder("train", model)
    return Outcome(
        model=model,
        best=read_json(stage_folder("tune", model) / "best.json"),
        trained=read_json(train / "train.json"),
        history=[{name: float(value) for name, value in row.items()} for row in read_table(train / "history.csv")],
        before=scores(read_predictions(stage_folder("zeroshot", model) / "predictions.csv")),
        after=scores(read_predictions(stage_folder("evaluate", model) / "predictions.csv")),
    )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    sides = {"": "all", "leak-free ": "clean", "study ": "study"}
    return {
        "system": row["system"],
        **{f"{title}{name}": row[side][name] for title, side in sides.items() for name in FIGURES[:2]},
    }


def _compared(models: Sequence[str]) -> dict[str, bytes]:
    names = ("intervals", "selective", *(f"reliability-{model}" for model in models))
    return {name: (COMPARE / "pictures" / f"{name}.png").read_bytes() for name in names}


def _per_class(outcomes: Sequence[Outcome]) -> bytes:
    """F1 of each tone, and the study's for the same model where it gives them."""
    from src.reporting import plot_evaluation

    study = {
        recipe.model: recipe.published
        for recipe in RECIPES
        if {f"f1_{tone}" for tone in TONES} <= set(recipe.published)
    }
    bars: dict[str, dict[str, float]] = {}
    for outcome in outcomes:
        bars[outcome.model] = {tone: outcome.after.per_class[tone]["f1"] for tone in TONES}
        if outcome.model in study:
            bars[f"{outcome.model}, study"] = {tone: study[outcome.model][f"f1_{tone}"] for tone in TONES}
    return plot_evaluation.per_class_bars(bars, "F1", "F1 of each tone on the test part, tuned")


def _detail(outcome: Outcome) -> dict[str, Any]:
    from src.reporting import plot_evaluation

    return {
        "facts": outcome.trained["facts"],
        "best": outcome.best,
        "settings": ", ".join(f"{name} {display_value(value)}" for name, value in outcome.best["params"].items()),
        "best_epoch": outcome.trained["best_epoch"],
        "confusion-before": plot_evaluation.confusion_matrix(
            outcome.before.confusion, TONES, f"{outcome.model}, zero-shot"
        ),
        "confusion-after": plot_evaluation.confusion_matrix(outcome.after.confusion, TONES, f"{outcome.model}, tuned"),
        "learning-curves": plot_evaluation.learning_curves(outcome.history, f"{outcome.model}, training"),
        "honesty": search_reliability(outcome.model),
    }


def _own_pictures(details: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    own = {f"{model}-{name}": content for model, detail in details.items() for name, content in detail.items()}
    return {name: content for name, content in own.items() if isinstance(content, bytes)}


def _explained(model: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of `saliency`, each mistake with its picture."""
    folder = stage_folder("saliency", model)
    mistakes = [{**each, "content": (folder / each["png"]).read_bytes()} for each in summary["mistakes"]]
    return {**summary, "mistakes": mistakes}


def _experiments() -> dict[str, Any]:
    """The study's experiments, and what a reader must know of the weights that they were run with."""
    found = paper_table.paper_section()
    notices = [notice_of(scale) for scale in dict.fromkeys(row.scale for row in found.recipes)]
    return {"experiments": found, "experiment_notices": notices, "experiment_figures": paper_table.SCORE_TITLES}


def _page(
    params: Params, evidence: "ReportInputs", details: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, bytes]
) -> str:
    from src.reporting.findings import alignments
    from src.reporting.pages import render

    rows, display_value = evidence.score_rows(), {model: stage_folder("modality", model) for model in params.models}
    return render(
        "report/page",
        title=TITLE,
        notice=params.notice,
        scale=params.scale,
        findings=evidence.sentences(),
        evidence=evidence,
        scores=rows,
        figures=FIGURES,
        test_posts=rows[0]["all"]["posts"],
        clean_posts=rows[0]["clean"]["posts"],
        pictures={
            **pictures,
            **{
                f"conditions-{model}": (folder / "conditions.png").read_bytes()
                for model, folder in display_value.items()
            },
        },
        alignments=alignments(params.models, params.seed),
        saliency={model: _explained(model, each) for model, each in evidence.saliency.items()},
        method=METHOD,
        details=details,
        sources=[(what, made_by.format(model=params.models[0]), file) for what, made_by, file in SOURCES],
        **_experiments(),
    )


if __name__ == "__main__":
    main()
