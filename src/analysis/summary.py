"""What all stages found out, read back for the report, and what follows from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.analysis import findings
from src.analysis.alignment import relation
from src.analysis.evidence import ALL, LEAK_FREE
from src.analysis.findings import REFERENCE
from src.analysis.intervals import FIGURES
from src.core.paths import BASELINE, COMPARE, DATA_REPORT, GROUPS, LEAKS, NOISE, SPLIT_REPORT, stage_folder
from src.core.published import PUBLISHED, Figures, Published
from src.core.records import read_groups, read_json, read_predictions, read_table

_MISLABELLED_SHOWN = 20
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """The stages' own tables and summaries, numbers as numbers; those of one model under its name.

    `omitted` says what TF-IDF could not do, and why.
    """

    scores: Sequence[Row]
    pairs: Sequence[Row]
    calibration: Sequence[Row]
    trained: Mapping[str, Row]
    modality: Mapping[str, Row]
    saliency: Mapping[str, Row]
    noise: Row
    mislabelled: Sequence[Row]
    leaks: Row
    split: Row
    data: Row
    omitted: Mapping[str, str]

    def sentences(self) -> Iterator[str]:
        """What the figures say, the most important first."""
        chosen = max(self.trained, key=lambda model: float(self.trained[model]["macro_f1"]))
        published = {model: _published(model).tuned.accuracy for model in self.trained}
        study = {model: accuracy for model, accuracy in published.items() if accuracy is not None}
        yield from findings.on_the_choice(self.scores, chosen)
        yield from findings.on_comparisons(self.pairs)
        yield from findings.on_leaks(self.scores)
        yield from findings.on_the_study(self.scores, study, self.trained[chosen]["facts"]["weights"])
        yield from findings.on_modality(self.modality)
        yield from findings.on_calibration(self.calibration)
        yield from findings.on_noise(self.noise, self.split["protocol"])

    def score_rows(self) -> list[dict[str, Any]]:
        """A row a system: on `all` test posts, on the `clean` ones (leak-free), and what the `study` reports."""
        rows = {(row["system"], row["part"]): row for row in self.scores}
        none = {f"{name}{end}": None for name in FIGURES for end in ("", "_low", "_high")}
        return [
            {
                **row,
                "all": row,
                "clean": rows.get((system, LEAK_FREE), {**none, "posts": 0}),
                "study": asdict(_study_of(row["kind"], row["model"])),
            }
            for (system, part), row in rows.items()
            if part == ALL
        ]

    def pairs_by_part(self) -> dict[str, list[Row]]:
        """The comparisons on all test posts, and on the leak-free ones if there are any."""
        parts = dict.fromkeys(row["part"] for row in self.pairs)
        return {part: [row for row in self.pairs if row["part"] == part] for part in parts}


def read_evidence(models: Sequence[str]) -> Evidence:
    """What the stages wrote of these models.

    Raises:
        Refusal: one of them has not run.
    """

    def summaries(stage: str, name: str) -> dict[str, Row]:
        return {model: read_json(stage_folder(stage, model) / name) for model in models}

    return Evidence(
        scores=_numbers(COMPARE / "scores.csv"),
        pairs=_numbers(COMPARE / "pairs.csv"),
        calibration=_numbers(COMPARE / "calibration.csv"),
        trained=summaries("train", "train.json"),
        modality=summaries("modality", "modality.json"),
        saliency=summaries("saliency", "saliency.json"),
        noise=read_json(NOISE / "noise.json"),
        mislabelled=read_table(NOISE / "mislabelled.csv")[:_MISLABELLED_SHOWN],
        leaks=read_json(LEAKS),
        split=read_json(SPLIT_REPORT),
        data=read_json(DATA_REPORT),
        omitted=read_json(BASELINE / REFERENCE / "omitted.json"),
    )


def alignments(models: Sequence[str], seed: int) -> dict[str, Any]:
    """Of each model, how its being right goes with how well picture and caption go together, as CLIP sees that.

    Nothing where CLIP is not among the models.
    """
    tables = [read_table(stage_folder("modality", model) / "alignment.csv") for model in models]
    cosine_of = {row["id"]: float(row["cosine"]) for table in tables for row in table}
    group_of = read_groups(GROUPS)
    test = {model: read_predictions(stage_folder("evaluate", model) / "predictions.csv") for model in models}
    found = {model: relation(cosine_of, rows, group_of, seed) for model, rows in test.items()}
    return {model: asdict(each) for model, each in found.items() if each}


def _published(model: str) -> Published:
    return PUBLISHED.get(model, Published())


def _study_of(kind: str, model: str) -> Figures:
    return {"zero-shot": _published(model).zeroshot, "tuned": _published(model).tuned}.get(kind, Figures())


def _numbers(path: Path) -> list[Row]:
    """A table with numbers as numbers, and None for what is empty."""
    return [{name: _number(value) for name, value in row.items()} for row in read_table(path)]


def _number(value: str) -> float | str | None:
    try:
        return float(value) if value else None
    except ValueError:
        return value
