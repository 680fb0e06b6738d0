"""Work of stage `report`: one HTML page with the findings and every score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.core.config import Params, notice_of
from src.core.files import read_table, write_bytes, write_table, write_text
from src.core.labels import are_tones
from src.core.outputs import BestTrial, ExplainedMistake, ModalityOutput, Trained
from src.core.paper import RECIPES
from src.core.paths import (
    BEST_FILE,
    COMPARE,
    HISTORY_FILE,
    PLOTS_FOLDER,
    PREDICTIONS_FILE,
    REPORT,
    REPORT_HTML,
    SELECTIVE_TABLE,
    stage_folder,
)
from src.core.records import Scores, read_predictions
from src.core.saliency import METHOD
from src.core.training_config import display_value
from src.evaluation.comparison_tables import JUDGED
from src.evaluation.intervals import SCORES
from src.evaluation.metrics import scores
from src.evaluation.systems import TFIDF
from src.reporting import alt_texts
from src.reporting.findings import ReportInputs, SystemScores, read_report_inputs, similarities
from src.reporting.pages import Plot, render
from src.reporting.paper_table import SCORE_TITLES, paper_section
from src.reporting.plot_evaluation import confusion_matrix, learning_curves, per_class_bars
from src.reporting.search_section import SearchReliability, search_reliability

TITLE = "Tone of social-media posts: LoRA-tuned vision-language models"
# A part of the page, the command that writes it (for one of the models), and its file below outputs/.
SOURCES = (
    ("posts read and left out", "python -m src.prepare", "prepare/report.json"),
    ("split, near-duplicates, leaks", "python -m src.split", "split/report.json, split/leaks.json"),
    ("majority and TF-IDF", "python -m src.baseline", "baseline/<name>/metrics.json"),
    ("zero-shot", "python -m src.frozen --model {model}", "zeroshot/<model>/metrics.json"),
    ("probe", "python -m src.frozen --model {model}", "probe/<model>/metrics.json"),
    ("search, importances", "python -m src.tune --model {model}", "tune/<model>/search.json"),
    ("learning curves", "python -m src.train --model {model}", "train/<model>/history.csv"),
    ("tuned, confusion matrices", "python -m src.evaluate --model {model}", "evaluate/<model>/predictions.csv"),
    ("other seeds, gain, optimism", "python -m src.repeat --model {model}", "repeat/<model>/repeat.json"),
    ("text or image, similarity", "python -m src.evaluate --model {model}", "modality/<model>/modality.json"),
    ("saliency maps", "python -m src.evaluate --model {model}", "saliency/<model>/saliency.json"),
    ("members of the ensemble, weights", "python -m src.ensemble", "ensemble/ensemble.json"),
    (
        "intervals, comparisons, calibration",
        "python -m src.compare",
        "compare/scores.csv, pairs.csv, seeds.csv, calibration.csv",
    ),
    ("the paper's experiments", "python -m src.reproduce", "reproduce/recipes.csv, <recipe>.json"),
    ("wrong labels, the best possible score", "python -m src.noise", "noise/noise.json, mislabelled.csv"),
)


@dataclass(frozen=True)
class ModelSection:
    """The section of one model."""

    trained: Trained
    best: BestTrial
    # The best trial's settings, formatted.
    settings: str
    # On the test part.
    scores: Scores
    search: SearchReliability
    # By name: `confusion-before`, `confusion-after`, `learning-curves`.
    plots: Mapping[str, Plot]


@dataclass(frozen=True)
class ReportResult:
    """The findings, and the table of scores."""

    sentences: Sequence[str]
    # A row for each system, by column; None without a score.
    scores: Sequence[Mapping[str, str | float | None]]


def run_report(params: Params) -> ReportResult:
    """Write outputs/report/: a page that works offline, its plots, and the table of scores.

    Raises:
        UserError: a stage has not run.
    """
    inputs = read_report_inputs(params.models)
    sections = {model: _model_section(model, inputs.trained[model]) for model in params.models}
    plots = {**_compare_plots(inputs), "per-class-f1": _per_class_plot(sections)}
    own_plots = {f"{model}-{name}": plot for model, section in sections.items() for name, plot in section.plots.items()}
    for name, plot in {**plots, **own_plots}.items():
        write_bytes(REPORT / f"{name}.png", plot.png)
    plots |= {f"ablations-{model}": _ablations_plot(model, output) for model, output in inputs.modality.items()}
    sentences = [sentence for finding in inputs.findings() for sentence in finding.sentences]
    result = ReportResult(sentences, [_score_columns(row) for row in inputs.score_rows()])
    write_table(REPORT / "scores.csv", result.scores)
    write_text(REPORT / REPORT_HTML, _page(params, inputs, sections, plots))
    return result


def _compare_plots(inputs: ReportInputs) -> dict[str, Plot]:
    """Read the plots of stage `compare`."""
    accuracies = {row.system: row.all.accuracy for row in inputs.score_rows()}
    alts = {
        "intervals": alt_texts.forest_alt("Accuracy on the test part", accuracies),
        "selective": alt_texts.selective_alt("Accuracy on the most confident predictions", _selective_curves()),
    }
    alts |= {
        f"reliability-{row.system.removesuffix(' tuned')}": alt_texts.reliability_alt(row)
        for row in inputs.calibration
        if row.system.endswith(JUDGED)
    }
    folder = COMPARE / PLOTS_FOLDER
    return {name: Plot((folder / f"{name}.png").read_bytes(), alt) for name, alt in alts.items()}


def _selective_curves() -> dict[str, list[float]]:
    """Read the curves that the plot shows: those of TF-IDF, the tuned models and the ensemble."""
    curves: dict[str, list[float]] = {}
    for row in read_table(COMPARE / SELECTIVE_TABLE):
        if row["system"] == TFIDF or row["system"].endswith(JUDGED):
            curves.setdefault(row["system"], []).append(float(row["accuracy"]))
    return curves


def _ablations_plot(model: str, output: ModalityOutput) -> Plot:
    accuracies = {name: result.figures["accuracy"] for name, result in output.ablations.items()}
    png = (stage_folder("modality", model) / "ablations.png").read_bytes()
    return Plot(png, alt_texts.forest_alt(f"Accuracy of {model} by ablation", accuracies))


def _model_section(model: str, trained: Trained) -> ModelSection:
    rows = read_table(stage_folder("train", model) / HISTORY_FILE)
    history = [{name: float(value) for name, value in row.items()} for row in rows]
    before = scores(read_predictions(stage_folder("zeroshot", model) / PREDICTIONS_FILE))
    after = scores(read_predictions(stage_folder("evaluate", model) / PREDICTIONS_FILE))
    best = BestTrial.read(stage_folder("tune", model) / BEST_FILE)
    return ModelSection(
        trained=trained,
        best=best,
        settings=", ".join(f"{name} {display_value(value)}" for name, value in best.params.items()),
        scores=after,
        search=search_reliability(model, best),
        plots={
            "confusion-before": _confusion_plot(before, f"{model}, zero-shot"),
            "confusion-after": _confusion_plot(after, f"{model}, tuned"),
            "learning-curves": Plot(
                learning_curves(history, f"{model}, training"),
                alt_texts.learning_curves_alt(f"Learning curves of {model}", history),
            ),
        },
    )


def _confusion_plot(of: Scores, title: str) -> Plot:
    labels = list(of.per_class)
    alt = alt_texts.confusion_alt(f"Confusion matrix of {title}", of.confusion, labels)
    return Plot(confusion_matrix(of.confusion, labels, title), alt)


def _per_class_plot(sections: Mapping[str, ModelSection]) -> Plot:
    """Plot the F1 of each label, beside the paper's for the same model if it reports them."""
    names = {label: f"f1_{label}" for section in sections.values() for label in section.scores.per_class}
    recipes = RECIPES if are_tones(list(names)) else ()
    published = {recipe.model: recipe.published for recipe in recipes if set(names.values()) <= set(recipe.published)}
    bars: dict[str, dict[str, float]] = {}
    for model, section in sections.items():
        bars[model] = {label: row["f1"] for label, row in section.scores.per_class.items()}
        if model in published:
            bars[f"{model}, paper"] = {label: published[model][name] for label, name in names.items()}
    title = "F1 of each label on the test part, tuned"
    return Plot(per_class_bars(bars, "F1", title), alt_texts.bars_alt(title, bars))


def _score_columns(row: SystemScores) -> dict[str, str | float | None]:
    columns: dict[str, str | float | None] = {"system": row.system}
    names = ("accuracy", "macro_f1")
    columns |= {name: row.all.scores()[name].value for name in names}
    columns |= {f"leak-free {name}": row.clean.scores()[name].value if row.clean else None for name in names}
    columns |= {f"paper {name}": getattr(row.paper, name) for name in names}
    return columns


def _heat_maps(model: str, mistakes: Sequence[ExplainedMistake]) -> list[tuple[ExplainedMistake, Plot]]:
    """Return each mistake with the plot of its saliency map."""
    folder = stage_folder("saliency", model)
    return [
        (mistake, Plot((folder / mistake.png).read_bytes(), alt_texts.saliency_alt(model, mistake)))
        for mistake in mistakes
    ]


def _page(params: Params, inputs: ReportInputs, sections: Mapping[str, ModelSection], plots: Mapping[str, Plot]) -> str:
    rows = inputs.score_rows()
    experiments = paper_section()
    sources = [(part, stage_command.format(model=params.models[0]), file) for part, stage_command, file in SOURCES]
    content: dict[str, Any] = {
        "title": TITLE,
        "notice": params.notice,
        "scale": params.scale,
        "inputs": inputs,
        "scores": rows,
        "score_names": SCORES,
        "test_posts": rows[0].all.posts,
        "clean_posts": rows[0].clean.posts if rows[0].clean else 0,
        "plots": plots,
        "similarities": similarities(params.models, params.seed),
        "heat_maps": {model: _heat_maps(model, output.mistakes) for model, output in inputs.saliency.items()},
        "method": METHOD,
        "sections": sections,
        "sources": sources,
        "experiments": experiments,
        # The weights that the experiments were run with, if they are not those of the page.
        "experiment_notices": sorted({notice_of(row.scale) for row in experiments.recipes} - {params.notice}),
        "experiment_scores": SCORE_TITLES,
    }
    return render("report/page", **content)
