"""Stage `tune`: searches a model's settings with Optuna; every trial is a run in MLflow.

python -m src.tune --model tinyllava --trials 30

The study's storage is the truth: the same command again runs only the trials that are missing.

python -m src.tune --model llava --scale full --dry-run --memory-gib 32

This says what the search would take at the published size, from the model files alone: no weights, no posts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from src.core.config import FitParams, Params, load_params
from src.core.errors import Pruned, Refusal, UsageRefusal
from src.core.paths import OUTPUTS, SPLIT, STUDIES, stage_folder
from src.core.records import digest_of, read_split, write_json, write_table
from src.models.catalog import MODELS, model_class
from src.services.spaces import highest
from src.services.terminal import TrialBoard, command, model_option, say, table

if TYPE_CHECKING:
    from src.learning.fitting import Fit
    from src.learning.lora import Adapter
    from src.learning.workspace import Workspace
    from src.services.studies import Study, Ticket, TrialRecord
    from src.services.tracking import Run, Tracker

# As many failures in a row mean that the next trial would fail as well.
MOST_FAILURES = 3
# Where nothing says otherwise, a dry run is of the study: its GPU, a V100, and its posts, the agreement of MVSA-Single.
STUDY_MEMORY_GIB = 32.0
STUDY_POSTS = {"train": 1555, "val": 518, "test": 519}


@command(example="python -m src.tune --model tinyllava --trials 30")
@model_option(MODELS)
@click.option("--trials", type=click.IntRange(min=1), help="Finished trials in all, earlier ones included.")
@click.option("--dry-run", is_flag=True, help="Only say what it would take; needs --scale full.")
@click.option("--scale", type=click.Choice(["full"]), help="With --dry-run: the published size.")
@click.option(
    "--memory-gib", type=click.FloatRange(min=0, min_open=True), help="With --dry-run: the GPU's.  [default: 32]"
)
def main(model: str, trials: int | None, dry_run: bool, scale: str | None, memory_gib: float | None) -> None:
    """Search a model's settings; every trial trains an adapter and is logged.

    Without --trials it takes tune.trials of params.yaml. With --dry-run it trains nothing and says what the largest
    trial would take at the published size.
    """
    params = load_params()
    if dry_run != bool(scale) or (dry_run and trials) or (memory_gib and not dry_run):
        raise UsageRefusal("a dry run is --dry-run --scale full [--memory-gib G]; a search takes params.yaml's scale")
    if dry_run:
        _say_what_it_takes(params, model, memory_gib or STUDY_MEMORY_GIB)
        return
    total = trials or params.tune.trials
    params.space_of(model)
    from src.core.locks import exclusive
    from src.learning.workspace import open_workspace
    from src.services.logbook import open_tracker

    workspace = open_workspace(model)
    name = _study_name(params, workspace)
    tracker = open_tracker(model)
    with exclusive(OUTPUTS / f"tune-{model}.lock", f"the search for {model}"):
        study = _open_study(params, model, name)
        with _study_run(tracker, name, params, workspace) as parent:
            Search(params, workspace, study, tracker, parent, name).run(total)
            best = study.best(total)
            _conclude(model, study, parent, total)
    _tell_best(model, best, total, params.tune.trials)


@dataclass
class Search:
    """One process's work on a study."""

    params: Params
    workspace: "Workspace"
    study: "Study"
    tracker: "Tracker"
    parent: "Run"
    name: str
    failures: list[str] = field(default_factory=list)

    def run(self, total: int) -> None:
        """Run trials until `total` are finished."""
        self.study.recover()
        self.tracker.close_abandoned(self.parent.id)
        with TrialBoard(self.workspace.model.spec.name, total, len(self.study.finished())) as board:
            while self.study.remaining(total):
                self._trial(board)

    def _trial(self, board: TrialBoard) -> None:
        ticket = self.study.ask()
        board.start(ticket.number, ticket.params)
        settings = self.params.fit_of(self.workspace.model.spec.name, **ticket.params)
        try:
            with self._run(ticket, settings) as run:
                self.study.tell(ticket, self._fit(ticket, settings, run, board))
            self.failures.clear()
        except Pruned:
            self.study.prune(ticket)
            self.failures.clear()
        except (Refusal, RuntimeError, MemoryError) as error:
            self._fail(ticket, error)
        board.done(self.study.trials()[ticket.number])

    def _fit(self, ticket: "Ticket", settings: FitParams, run: "Run", board: TrialBoard) -> float:
        from src.learning.fitting import fit
        from src.learning.lora import adapted

        reporter = _TrialReporter(ticket, run, board, settings.epochs)
        seed = self.params.seed
        with adapted(self.workspace.model, settings, seed) as adapter:
            train, val = self.workspace.data("train"), self.workspace.data("val")
            try:
                result = fit(adapter.model, train, val, settings, seed, reporter)
            finally:
                reporter.log_history(f"{adapter.model.spec.name}, trial {ticket.number}")
            return self._log(ticket, run, adapter, result)

    def _log(self, ticket: "Ticket", run: "Run", adapter: "Adapter", result: "Fit") -> float:
        from src.learning.metrics import report, scores
        from src.services.logbook import log_scores

        found = scores(result.predictions)
        title = f"{adapter.model.spec.name}, trial {ticket.number}, validation"
        log_scores(run, found, report(result.predictions), title, "best_val")
        run.metrics({"best_epoch": result.best_epoch})
        run.json("adapted_modules.json", adapter.modules())
        with TemporaryDirectory() as folder:
            adapter.save(Path(folder) / "adapter")
            run.folder(Path(folder) / "adapter", "adapter")
        return found.macro_f1

    def _run(self, ticket: "Ticket", settings: FitParams) -> "Run":
        from src.services.logbook import run_tags

        common = run_tags("trial", self.workspace.facts(), self.params.notice)
        tags = {**common, "study": self.name, "trial": ticket.number}
        run = self.tracker.run(f"trial {ticket.number}", parent=self.parent.id, tags=tags, params=asdict(settings))
        ticket.note("run_id", run.id)
        return run

    def _fail(self, ticket: "Ticket", error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.study.fail(ticket, reason)
        self.failures.append(reason)
        if len(self.failures) >= MOST_FAILURES:
            raise Refusal(f"{MOST_FAILURES} trials in a row failed, the last because: {reason}") from error


@dataclass
class _TrialReporter:
    """Passes each epoch on: to the run, to the board, and to the pruner, which may end the trial."""

    ticket: "Ticket"
    run: "Run"
    board: TrialBoard
    epochs: int
    history: list[Mapping[str, float]] = field(default_factory=list)

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.history.append(metrics)
        self.run.metrics({name: value for name, value in metrics.items() if name != "epoch"}, step=epoch)
        self.board.epoch(self.ticket.number, epoch, metrics)
        self.ticket.report(epoch, metrics["val_macro_f1"], last=epoch == self.epochs)

    def log_history(self, title: str) -> None:
        from src.services.logbook import log_history

        log_history(self.run, self.history, title)


def _say_what_it_takes(params: Params, model: str, memory_gib: float) -> None:
    from src.learning.footprint import footprint
    from src.learning.footprint_tables import sizes, tables, verdict

    kind = model_class(model)
    largest = params.fit_of(model, **highest(params.space_of(model)))
    known = [params.fit_of(model, **settings) for settings in params.tune.known_good.get(model, ())]
    num_posts = Counter(read_split(SPLIT).values()) if SPLIT.is_file() else STUDY_POSTS
    found = footprint(kind, largest, num_posts)
    say(f"{model} as {kind.spec.checkpoint}, base in bfloat16, {found.num_tokens} tokens of text a post")
    say(f"The search's largest trial: rank {largest.rank}, dropout {largest.dropout:g}, objective {largest.objective}")
    for each in [*tables(found), sizes(kind, known)]:
        table(*each)
    say(verdict(found, memory_gib))


def _study_name(params: Params, workspace: "Workspace") -> str:
    """Other settings, posts, weights, seed or pruning make other scores: each is a study of its own."""
    from src.services.studies import space_digest, study_name

    model, facts = workspace.model.spec.name, workspace.facts()
    rest = [*asdict(params.fit_of(model)).items(), ("seed", params.seed), ("revision", facts["checkpoint_revision"])]
    rest += [(name, getattr(params.tune, name)) for name in ("pruner", "min_epochs", "reduction_factor")]
    digests = (space_digest(params.space_of(model)), facts["split_digest"][:8], digest_of([[str(rest)]])[:8])
    return study_name(model, params.scale, *digests)


def _open_study(params: Params, model: str, name: str) -> "Study":
    from src.services.studies import open_study

    return open_study(
        f"sqlite:///{STUDIES}",
        name,
        params.space_of(model),
        known_good=params.tune.known_good.get(model, ()),
        seed=params.seed,
        startup_trials=params.tune.startup_trials,
        pruner=params.tune.pruner,
        min_epochs=params.tune.min_epochs,
        reduction_factor=params.tune.reduction_factor,
    )


def _study_run(tracker: "Tracker", name: str, params: Params, workspace: "Workspace") -> "Run":
    from src.services.logbook import run_tags

    found = tracker.find({"stage": "study", "study": name})
    if found:
        return tracker.resume(found[0])
    tags = {**run_tags("study", workspace.facts(), params.notice), "study": name}
    return tracker.run(f"study {name}", tags=tags, params={"seed": params.seed})


def _conclude(model: str, study: "Study", parent: "Run", total: int) -> None:
    best = study.best(total)
    trials = study.finished()[:total]
    summary = {
        "study": study.name,
        "trials": len(trials),
        "pruned": sum(trial.state == "pruned" for trial in trials),
        "best_trial": best.number,
        "best_val_macro_f1": best.value,
        "params": best.params,
    }
    folder = stage_folder("tune", model)
    write_json(folder / "best.json", {**summary, "run_id": best.attrs["run_id"]})
    write_table(folder / "trials.csv", [_row(trial) for trial in trials])
    parent.metrics({"best_val_macro_f1": best.value or 0.0, "trials": len(trials)})
    parent.tags({"best_trial": best.number, "best_run": best.attrs["run_id"]})
    parent.json("best.json", summary)
    parent.folder(folder, "search")


def _row(trial: "TrialRecord") -> dict[str, Any]:
    outcome = {"number": trial.number, "state": trial.state, "val_macro_f1": trial.value, "epochs": trial.epochs}
    return {**outcome, **trial.params}


def _tell_best(model: str, best: "TrialRecord", total: int, default: int) -> None:
    chosen = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
    say(f"{model}: best of {total} trials is trial {best.number}: validation macro-F1 {best.value:.4f} with {chosen}")
    say(f"Look: make ui, experiment mvsa-{model}. Table: {stage_folder('tune', model) / 'trials.csv'}")
    if total != default:
        say(f"To train and register it: dvc exp run -S tune.trials={total} (no trial is run again)")


if __name__ == "__main__":
    main()
