"""Stage `repeat`: trains the winner of the search, and the settings it has to beat, again on other seeds.

python -m src.repeat --model clip
python -m src.repeat --model clip --folds    # instead, by hand: the winner on every published fold

The best score of a search is the highest of many, so it flatters its settings. Seeds that had no part in the choice say
by how much, and whether the search has found more than was known before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from src.cli.options import command, model_option
from src.cli.output import EpochBar, progress, say, table, warn
from src.core.config import Params, load_params
from src.core.errors import DivergenceError
from src.core.files import read_json, read_table, write_json, write_table
from src.core.paths import REPEATS, stage_folder
from src.core.training_config import TrainingConfig
from src.models.catalog import MODELS

if TYPE_CHECKING:
    from src.cli.output import Progress
    from src.tracking.client import Tracker
    from src.training.workspace import Workspace

WINNER, DEFAULT = "winner", "default"
FIGURES = ("val_macro_f1", "val_accuracy", "test_macro_f1", "test_accuracy")


@dataclass(frozen=True)
class Training:
    """What came of one training: its epochs and its scores between 0 and 1, or none and the reason why it failed."""

    seed: int
    epochs: int
    scores: Mapping[str, float]
    failure: str = ""

    def row(self) -> dict[str, Any]:
        """The training as a row of a table."""
        scores = {name: self.scores.get(name) for name in FIGURES}
        return {"seed": self.seed, "epochs": self.epochs, **scores, "failure": self.failure}

    @classmethod
    def of(cls, row: Mapping[str, str]) -> "Training":
        """The training that a row of a file tells of."""
        scores = {name: float(row[name]) for name in FIGURES if row[name]}
        return cls(int(row["seed"]), int(row["epochs"]), scores, row["failure"])


@dataclass
class RunCache:
    """The trainings that are done, in a file that is no output of the stage: it outlives a kill and a rerun.

    Each stands there under a key of all that its scores depend on, so what has changed is not found.
    """

    path: Path
    done: dict[str, Training] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        self.done = {row["key"]: Training.of(row) for row in read_table(self.path)}

    def add(self, key: str, training: Training) -> None:
        """Keep a training, at once."""
        self.done[key] = training
        write_table(self.path, [{"key": key, **each.row()} for key, each in self.done.items()])
        # With the decimals that the file keeps: a later call computes from the same numbers.
        self._read()


Contenders = Mapping[str, TrainingConfig]
Runs = Mapping[str, Sequence[Training]]


@command(example="python -m src.repeat --model clip")
@model_option(MODELS)
@click.option("--folds", is_flag=True, help="Train the winner on each fold in split.predefined.folder, and pool them.")
def main(model: str, folds: bool) -> None:
    """Train the winner of the search and the first known-good settings on the same seeds, and say how scores spread.

    Both have the epochs and the patience of the winner, and nothing is pruned. The test part is scored and decides
    nothing. A training that an earlier call has finished is not done again.
    """
    params = load_params()
    best = read_json(stage_folder("tune", model) / "best.json")
    if folds:
        from src.experiments.cross_validation import run_folds

        run_folds(params, model, best)
        return
    settings = contenders(params, model, best["params"])
    from src.tracking.run_logging import open_tracker
    from src.training.workspace import open_workspace

    workspace, tracker = open_workspace(model), open_tracker(model)
    runs = _train_all(params, workspace, settings)
    summary = {"study": best["study"], **summarise(settings, runs, best["best_val_macro_f1"])}
    _write(params, workspace, tracker, runs, summary)
    _tell(params, model, summary)


def contenders(params: Params, model: str, chosen: Mapping[str, Any]) -> dict[str, TrainingConfig]:
    """The settings to be trained: the winner's, and the default's if params.yaml knows any to be good.

    The default takes the winner's epochs and patience, for a gain counts at an equal budget. The two may be the same.
    """
    winner = params.training_config(model, **chosen)
    known = params.tune.initial_trials.get(model, ())
    if not known:
        return {WINNER: winner}
    default = replace(params.training_config(model, **known[0]), epochs=winner.epochs, patience=winner.patience)
    return {WINNER: winner, DEFAULT: default}


def summarise(settings: Contenders, runs: Runs, best_val_macro_f1: float) -> dict[str, Any]:
    """What the trainings say of the search.

    Each spread is a mapping like `Spread`, or None where no seed has what it needs: of the `scores` by settings and
    figure; of the `gain` of the winner on the default, paired by seed; and of the `drop` of the winner's macro-F1 from
    validation to test. `optimism` is by how much the search's best score is above the winner's mean.
    """
    values = {name: {figure: _by_seed(rows, figure) for figure in FIGURES} for name, rows in runs.items()}
    winner, default = values[WINNER], values.get(DEFAULT, {})
    val = _spread(winner["val_macro_f1"])
    return {
        "seeds": [row.seed for row in runs[WINNER]],
        "settings": {name: asdict(each) for name, each in settings.items()},
        "winner_is_default": settings[WINNER] == settings.get(DEFAULT),
        "best_val_macro_f1": best_val_macro_f1,
        "optimism": None if val is None else best_val_macro_f1 - val["mean"],
        "drop": _spread(_differences(winner["val_macro_f1"], winner["test_macro_f1"])),
        "scores": {name: {figure: _spread(each[figure]) for figure in FIGURES} for name, each in values.items()},
        "gain": {figure: _spread(_differences(winner[figure], default.get(figure, {}))) for figure in FIGURES},
        "failures": {f"{name}, seed {row.seed}": row.failure for name in runs for row in runs[name] if row.failure},
    }


def _by_seed(rows: Sequence[Training], figure: str) -> dict[int, float]:
    return {row.seed: row.scores[figure] for row in rows if figure in row.scores}


def _differences(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    return {seed: value - second[seed] for seed, value in first.items() if seed in second}


def _spread(values: Mapping[int, float]) -> dict[str, Any] | None:
    from src.evaluation.intervals import spread_of

    return asdict(spread_of(list(values.values()))) if values else None


def _train_all(params: Params, workspace: "Workspace", settings: Contenders) -> dict[str, list[Training]]:
    """The trainings of all settings on all seeds; equal settings are trained once."""
    from src.core.provenance import training_key

    model, facts = workspace.model.spec.name, workspace.facts()
    seeds = range(params.seed + 1, params.seed + 1 + params.repeat.seeds)
    keys = {(name, seed): training_key(each, facts, seed) for name, each in settings.items() for seed in seeds}
    journal = RunCache(REPEATS / f"{model}.csv")
    missing = {key: (settings[name], seed) for (name, seed), key in keys.items() if key not in journal.done}
    with progress(sum(each.epochs for each, _ in missing.values()), f"{model}: other seeds", "epochs") as bar:
        for key, (each, seed) in missing.items():
            journal.add(key, _train(params, workspace, each, seed, bar))
    return {name: [journal.done[keys[name, seed]] for seed in seeds] for name in settings}


def _train(params: Params, workspace: "Workspace", settings: TrainingConfig, seed: int, bar: "Progress") -> Training:
    from src.evaluation.metrics import scores
    from src.training.adapter import fresh_adapter
    from src.training.inference import logits, predictions
    from src.training.trainer import fit

    reporter = EpochBar(bar, f"seed {seed}")
    try:
        with fresh_adapter(workspace.model, settings, seed) as adapter:
            val, test = (workspace.data(part) for part in ("val", "test"))
            result = fit(adapter.model, workspace.training(settings), val, settings, seed, reporter)
            tested = predictions(test, logits(adapter.model, test, params.evaluate.batch_size))
    except DivergenceError as error:
        warn(f"seed {seed}: {error}")
        return Training(seed, reporter.epochs, {}, str(error))
    finally:
        bar.advance(settings.epochs - reporter.epochs)
    found = {"val": scores(result.predictions), "test": scores(tested)}
    figures = {f"{part}_{name}": value for part, each in found.items() for name, value in each.headline().items()}
    return Training(seed, reporter.epochs, {name: figures[name] for name in FIGURES})


def _write(params: Params, workspace: "Workspace", tracker: "Tracker", runs: Runs, summary: dict[str, Any]) -> None:
    """The stage's files, and its run. A default that is the winner has no rows of its own."""
    from src.tracking.client import parts_read
    from src.tracking.run_logging import run_tags

    folder = stage_folder("repeat", workspace.model.spec.name)
    tags = {**run_tags("repeat", workspace.facts(), params.notice), "study": summary["study"]}
    shown = {WINNER: runs[WINNER]} if summary["winner_is_default"] else runs
    settings = summary["settings"][WINNER]
    searched = {name: settings[name] for name in params.space_of(workspace.model.spec.name)}
    with tracker.run("repeat", tags=tags, params=searched) as run:
        run.inputs(parts_read("train", "val", "test"))
        for name, rows in shown.items():
            for row in rows:
                run.metrics({f"{name}_{figure}": value for figure, value in row.scores.items()}, step=row.seed)
        run.metrics(_metrics(summary))
        write_table(folder / "runs.csv", [{"settings": name, **row.row()} for name in shown for row in shown[name]])
        write_json(folder / "repeat.json", summary)
        run.folder(folder, "repeat")


def _metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The mean and the standard deviation of each spread, under names such as gain_test_macro_f1_mean."""
    kinds = {**summary["scores"], "gain": summary["gain"]}
    spreads = {f"{kind}_{figure}": kinds[kind][figure] for kind in kinds for figure in FIGURES}
    spreads["drop"] = summary["drop"]
    found = {f"{name}_{each}": spread[each] for name, spread in spreads.items() if spread for each in ("mean", "sd")}
    return {name: value for name, value in {**found, "optimism": summary["optimism"]}.items() if value is not None}


def _tell(params: Params, model: str, summary: Mapping[str, Any]) -> None:
    rows = {**summary["scores"], "gain": summary["gain"]}
    if summary["winner_is_default"]:
        rows = {WINNER: rows[WINNER]}
    shown = [[name, *(_words(rows[name][figure]) for figure in FIGURES)] for name in rows]
    table(f"{model} on {len(summary['seeds'])} seeds, mean ± standard deviation", ["settings", *FIGURES], shown)
    if summary["winner_is_default"]:
        say(f"{model}: the winner of the search is the default itself, so there is nothing to gain")
    say(f"{params.notice}\nTable: {stage_folder('repeat', model) / 'runs.csv'}")


def _words(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return "-"
    return f"{spread['mean']:.4f}" if spread["sd"] is None else f"{spread['mean']:.4f} ± {spread['sd']:.4f}"


if __name__ == "__main__":
    main()
