"""One run of `tune`: the study is opened, shown on the screen and in MLflow while workers run its trials, concluded."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from src.cli.output import say
from src.core.config import Params
from src.core.files import require_free_space
from src.core.locks import sqlite_file, try_lock
from src.core.paths import KEPT, MLRUNS, OUTPUTS, STUDIES, TRIALS
from src.core.provenance import code_digest
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.live_table import LiveTrialTable
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.plan import StudyPlan, plan_of, print_study_changes, study_config, warn_of_other_code
from src.search.poller import StudyPoller
from src.search.pool import LocalWorkerPool, WorkerPool
from src.search.ray_pool import RayWorkerPool, cluster
from src.search.results import conclude
from src.search.runner import StudyRunner
from src.search.storage import postgres_lock, remote_url
from src.search.study import Study, open_study, other_studies
from src.search.trial import TrialRecord
from src.search.worker import TrialResult, TrialWorker, open_worker
from src.tracking.client import Run, Tracker, parts_read
from src.tracking.run_logging import open_tracker, run_tags
from src.tracking.store import tracking_uri
from src.tracking.ui_views import VIEW_TAG, trials_view
from src.training.workspace import checkpoint_of, facts_of, open_workspace

# Free space for databases and plots. Adapters need more on top of it.
LEAST_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class SearchResources:
    """What a search runs on: nothing here changes what a trial's scores are."""

    storage: str = f"sqlite:///{STUDIES}"
    workers: int = 1
    ray_address: str | None = None
    gpus_per_trial: float | None = None
    cpus_per_trial: int | None = None
    deadline_s: float | None = None

    @property
    def by_ray(self) -> bool:
        """Whether workers are other processes."""
        return self.workers > 1 or self.ray_address is not None


@dataclass
class SearchRun:
    """The search for one model. `causes` are those of the failures in a row that came last."""

    params: Params
    model: str
    means: SearchResources
    causes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = facts_of(self.model, checkpoint_of(self.model))
        self.plan: StudyPlan = plan_of(self.params, self.model, self.facts)

    def search(self, total: int) -> tuple[Study, TrialRecord]:
        """Run the trials that are missing to `total`; returns the study and its best trial."""
        _require_free_space(LEAST_BYTES)
        with self._opened() as (study, parent, mirror):
            self._greet(study)
            _require_free_space(LEAST_BYTES + _adapter_bytes(study) * study.remaining(total))
            self._run(study, mirror, total)
            return study, conclude(self.model, study, mirror, parent, total)

    def _run(self, study: Study, mirror: MlflowSync, total: int) -> None:
        with (
            LiveTrialTable(f"{self.model}: search", total, study.trials()) as board,
            StudyPoller(study.try_trials, [board.show, mirror.show]),
            ExitStack() as stack,
        ):
            if study.remaining(total):
                stop, crew = self._crew(study, stack)
                StudyRunner(study, crew, mirror.shelf, stop, self.means.deadline_s, self.causes).run(total)
        mirror.flush()

    def sync(self, total: int) -> tuple[int, int]:
        """Bring MLflow to what the storage says; returns how many trials there are, and how many it did not have."""
        with self._opened() as (study, parent, mirror):
            study.recover()
            trials = study.trials()
            missing = sum(not mirror.has(trial) for trial in trials)
            for trial in trials:
                mirror.show(trial)
            mirror.flush()
            mirror.require_all()
            if any(trial.state == "complete" for trial in study.finished()[:total]):
                conclude(self.model, study, mirror, parent, total)
            return len(trials), missing

    @contextmanager
    def _opened(self) -> Iterator[tuple[Study, Run, MlflowSync]]:
        with (
            try_lock(KEPT / f"tune-{self.model}.lock", f"the search for {self.model}"),
            postgres_lock(self.means.storage, self.plan.name),
        ):
            study = open_study(self.means.storage, self.plan)
            tracker = open_tracker(self.model)
            parent = self._study_run(tracker, study)
            with MlflowSync(tracker, parent, self._caption(), PendingAdapters(TRIALS / study.identity)) as mirror:
                yield study, parent, mirror

    def _greet(self, study: Study) -> None:
        trials, memory = study.trials(), study_config(self.params, self.model, self.facts)
        if not any(trial.state != "waiting" for trial in trials):
            prefix = f"{self.model}-{self.params.scale}-"
            print_study_changes(study.name, memory, other_studies(self.means.storage, prefix, study.name))
            study.store_config(memory)
        warn_of_other_code(trials, code_digest(self.model))
        for lost in study.recover():
            times = study.num_interruptions(lost)
            hint = "; if the machine kills it again, it may want more memory than there is" if times > 1 else ""
            say(f"Trial {lost.number} was interrupted: its settings are run again{hint}")

    def _crew(self, study: Study, stack: ExitStack) -> tuple[StopSignal, WorkerPool[TrialResult]]:
        means = self.means
        if not means.by_ray:
            workspace = open_workspace(self.model)
            stop = stack.enter_context(StopSignal())
            return stop, LocalWorkerPool(TrialWorker(self.params, workspace, study, "", stop.check))
        shares = stack.enter_context(
            cluster(means.ray_address, means.workers, means.gpus_per_trial, means.cpus_per_trial)
        )
        url = stack.enter_context(remote_url(means.storage, shares.host))
        make = partial(open_worker, params=self.params, model=self.model, url=url, plan=self.plan)
        # After Ray's own handlers, which would end the process at once.
        return stack.enter_context(StopSignal()), RayWorkerPool(make, means.workers, shares)

    def _study_run(self, tracker: Tracker, study: Study) -> Run:
        tracker.tag(VIEW_TAG, trials_view(list(self.plan.space)))
        run = self._earlier_run(tracker, study) or self._new_run(tracker, study)
        run.log_system_metrics()
        return run

    def _earlier_run(self, tracker: Tracker, study: Study) -> Run | None:
        for run_id in tracker.find({"stage": "study", "study": study.name}):
            run = tracker.reopen(run_id)
            if run.tag("study_identity") == study.identity:
                return tracker.resume(run_id)
            # Its storage is gone: the trials below it are not this study's.
            tracker.close_abandoned(run_id)
        return None

    def _new_run(self, tracker: Tracker, study: Study) -> Run:
        tags = run_tags("study", self.facts, self.params.notice)
        own = {"study": study.name, "study_identity": study.identity}
        run = tracker.run(f"study {study.name}", tags={**tags, **own})
        run.inputs(parts_read("train", "val"))
        run.json(
            "settings.json", {"plan": asdict(self.plan), "training": asdict(self.params.training_config(self.model))}
        )
        return run

    def _caption(self) -> TrialRunMetadata:
        tags = {**run_tags("trial", self.facts, self.params.notice), "study": self.plan.name}
        return TrialRunMetadata(
            self.model,
            tags,
            lambda settings: asdict(self.params.training_config(self.model, **settings)),
            parts_read("train", "val"),
        )


def _adapter_bytes(study: Study) -> int:
    """The largest adapter so far, whose weights are float32; 0 where no trial has come to its end."""
    return max((4 * int(trial.outcome.get("parameters", 0)) for trial in study.finished()), default=0)


def _require_free_space(num_bytes: int) -> None:
    for folder in (OUTPUTS, KEPT, *_local_store()):
        require_free_space(folder, num_bytes, "the search")


def _local_store() -> list[Path]:
    return [] if sqlite_file(tracking_uri()) is None else [MLRUNS]
