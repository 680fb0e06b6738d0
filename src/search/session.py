"""One run of `tune`: it opens a study, shows it while workers run its trials, and writes its results."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

from src.cli.output import say
from src.core.config import Params
from src.core.errors import UsageError
from src.core.files import require_free_space
from src.core.locks import try_lock
from src.core.paths import KEPT, MLRUNS, OUTPUTS, STUDIES, TRIALS, sqlite_file
from src.core.provenance import code_digest
from src.core.signals import StopSignal
from src.search.adapters import PendingAdapters
from src.search.live_table import LiveTrialTable
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.plan import StudyPlan, plan_of, print_study_changes, study_config, warn_of_other_code
from src.search.poller import StudyPoller
from src.search.pool import LocalWorkerPool, WorkerPool
from src.search.ray_pool import RayWorkerPool, cluster
from src.search.results import SearchResult, conclude
from src.search.runner import StudyRunner
from src.search.steering import SearchOrders, obey, requests_of, total_of
from src.search.storage import remote_url, study_lock
from src.search.study import Study, open_study, other_studies, study_names
from src.search.warm_start import WarmStart, record_warm_start, warm_start_of
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
    """The resources of a search. None of them changes the scores of a trial."""

    # An SQLAlchemy URL or grpc://HOST:PORT.
    storage: str = f"sqlite:///{STUDIES}"
    workers: int = 1
    # A running Ray cluster.
    ray_address: str | None = None
    # A worker's share.
    gpus_per_trial: float | None = None
    cpus_per_trial: int | None = None
    # No trial begins after this time (seconds, as `time.time` counts).
    deadline_s: float | None = None

    @property
    def uses_ray(self) -> bool:
        """Whether workers are other processes."""
        return self.workers > 1 or self.ray_address is not None


@dataclass
class SearchRun:
    """One run of the search for one model.

    This class wires the parts of `src/search`, and no other module knows more than a few of them:

    - `Study` (Optuna's storage), under a lock of the repository and one of the storage;
    - `MlflowSync`, below the study's MLflow run;
    - `StudyPoller`, which passes changed trials from the storage to `LiveTrialTable` and `MlflowSync`;
    - `StudyRunner`, with a `LocalWorkerPool` or a `RayWorkerPool` of `TrialWorker`s;
    - `conclude`, which writes the stage's files.
    """

    params: Params
    model: str
    resources: SearchResources
    # The causes of the latest failures in a row, those of a replaced process included. The runner changes it.
    failure_causes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.facts = facts_of(self.model, checkpoint_of(self.params, self.model), self.params.labels)
        self.plan: StudyPlan = plan_of(self.params, self.model, self.facts)

    def search(self, total: int, warm_start: WarmStart | None = None) -> SearchResult:
        """Run trials until `total` are finished, or more if a person adds some, and write the results.

        Args:
            total: finished trials in all, earlier ones included.
            warm_start: another study whose best settings are tried first.
        """
        _require_settings(self.params, self.model)
        _require_free_space(LEAST_BYTES)
        with self._opened(warm_start) as (study, parent, sync):
            num_interrupted = self._prepare(study)
            orders = obey(study, total)
            # How large an adapter is, only a finished trial tells. A resumed search can therefore check more.
            _require_free_space(LEAST_BYTES + _adapter_bytes(study) * study.remaining(orders.total))
            reached = self._run_trials(study, sync, total, orders, num_interrupted)
            return conclude(self.model, study, sync, parent, reached)

    def sync(self, total: int) -> tuple[int, int]:
        """Bring MLflow up to date with the storage.

        Returns:
            The number of trials, and how many of them MLflow lacked in whole or in part.

        Raises:
            UsageError: no search has begun under these settings.
        """
        if self.plan.name not in study_names(self.resources.storage):
            raise UsageError(f"no search of {self.model} has begun under these settings: there is nothing to sync")
        with self._opened() as (study, parent, sync):
            study.recover()
            trials = study.trials()
            num_missing = sum(not sync.has(trial) for trial in trials)
            for trial in trials:
                sync.show(trial)
            sync.show_requests(requests_of(study))
            sync.flush()
            sync.require_all()
            reached = total_of(study, total)
            if any(trial.state == "complete" for trial in study.finished()[:reached]):
                conclude(self.model, study, sync, parent, reached)
            return len(trials), num_missing

    @contextmanager
    def _opened(self, warm_start: WarmStart | None = None) -> Iterator[tuple[Study, Run, MlflowSync]]:
        with (
            try_lock(KEPT / f"tune-{self.model}.lock", f"the search for {self.model}"),
            study_lock(self.resources.storage, self.plan.name),
        ):
            study = open_study(self.resources.storage, self.plan)
            if warm_start:
                numbers = record_warm_start(study, self.resources.storage, warm_start)
                for number in numbers:
                    say(f"Begins with the settings of trial {number} of {warm_start.study}")
            tracker = open_tracker(self.model)
            parent = self._study_run(tracker, study)
            # The folder is named by identity: after a lost storage, trial 3 of the new study is another trial.
            pending_adapters = PendingAdapters(TRIALS / study.identity)
            with MlflowSync(tracker, parent, self._trial_run_metadata(), pending_adapters) as sync:
                yield study, parent, sync

    def _prepare(self, study: Study) -> int:
        """Compare the study with earlier ones and with the current code, and recover interrupted trials.

        Returns:
            The number of recovered trials. A process that ends by itself leaves none, so theirs was killed.
        """
        trials = study.trials()
        if all(trial.state == "waiting" for trial in trials):
            config = study_config(self.params, self.model, self.facts)
            prefix = f"{self.model}-{self.params.scale}-"
            print_study_changes(study.name, config, other_studies(self.resources.storage, prefix, study.name))
            study.store_config(config)
        study.put_first(warm_start_of(study))
        warn_of_other_code(trials, code_digest(self.model))
        interrupted = study.recover()
        for trial in interrupted:
            hint = ""
            if study.num_interruptions(trial) > 1:
                hint = "; if the machine kills it again, it may need more memory than there is"
            say(f"Trial {trial.number} was interrupted: its settings are run again{hint}")
        return len(interrupted)

    def _run_trials(
        self, study: Study, sync: MlflowSync, given: int, orders: SearchOrders, num_interrupted: int
    ) -> int:
        """Run the missing trials. Return the total in the end."""
        total = orders.total
        if orders.pause:
            say(f"The search is paused by {orders.pause}: no trial begins until --resume")
        read_requests = partial(requests_of, study.impatient())
        with (
            LiveTrialTable(f"{self.model}: search", total, study.trials(), orders.requests) as table,
            StudyPoller(
                study.try_trials, [table.show, sync.show], read_requests, [table.show_requests, sync.show_requests]
            ),
            ExitStack() as stack,
        ):
            # Opening a pool loads the base or starts Ray, so it is opened only if a trial is missing.
            if study.remaining(total):
                stop, pool = self._open_pool(study, stack)
                # A signal then ends the wait for a storage that does not answer, too.
                study.interrupt_waits_by(stop.check)
                runner = StudyRunner(
                    study,
                    pool,
                    sync.pending_adapters,
                    stop,
                    deadline_s=self.resources.deadline_s,
                    failure_causes=self.failure_causes,
                    trials_at_once=self.params.tune.trials_at_once,
                    num_suspects=num_interrupted,
                )
                total = runner.run(given)
        sync.flush()
        return total

    def _open_pool(self, study: Study, stack: ExitStack) -> tuple[StopSignal, WorkerPool[TrialResult]]:
        resources = self.resources
        if not resources.uses_ray:
            workspace = open_workspace(self.params, self.model)
            stop = stack.enter_context(StopSignal())
            return stop, LocalWorkerPool(TrialWorker(self.params, workspace, study, "", stop.check))
        # `load_params` gives this process one thread at scale tiny, and its workers need as many for equal scores.
        cpus = resources.cpus_per_trial or (1 if self.params.scale == "tiny" else None)
        shares = stack.enter_context(cluster(resources.ray_address, resources.workers, resources.gpus_per_trial, cpus))
        url = stack.enter_context(remote_url(resources.storage, shares.host))
        make = partial(open_worker, params=self.params, model=self.model, url=url, plan=self.plan)
        # Ray's own signal handlers would end the process at once. Ours are installed later and replace them.
        return stack.enter_context(StopSignal()), RayWorkerPool(make, resources.workers, shares)

    def _study_run(self, tracker: Tracker, study: Study) -> Run:
        tracker.tag(VIEW_TAG, trials_view(list(self.plan.space)))
        run = self._earlier_run(tracker, study) or self._new_run(tracker, study)
        run.log_system_metrics()
        return run

    def _earlier_run(self, tracker: Tracker, study: Study) -> Run | None:
        name = {"stage": "study", "study": study.name}
        earlier = tracker.find({**name, "study_identity": study.identity})
        if earlier:
            return tracker.resume(earlier[0])
        # The storage of these studies is gone. Their runs belong to other trials than those of this study.
        for run_id in tracker.find(name, "attributes.status = 'RUNNING'"):
            tracker.close_abandoned(run_id)
        return None

    def _new_run(self, tracker: Tracker, study: Study) -> Run:
        tags = run_tags("study", self.facts, self.params.notice)
        identity = {"study": study.name, "study_identity": study.identity}
        run = tracker.run(f"study {study.name}", tags={**tags, **identity})
        run.inputs(parts_read("train", "val"))
        training = asdict(self.params.training_config(self.model))
        run.json("settings.json", {"plan": asdict(self.plan), "training": training})
        return run

    def _trial_run_metadata(self) -> TrialRunMetadata:
        return TrialRunMetadata(
            title=self.model,
            tags={**run_tags("trial", self.facts, self.params.notice), "study": self.plan.name},
            settings=asdict(self.params.training_config(self.model)),
            datasets=parts_read("train", "val"),
        )


def _adapter_bytes(study: Study) -> int:
    """Return the size of the largest adapter so far, in float32; 0 if no trial is finished."""
    return max((4 * int(trial.outcome.get("parameters", 0)) for trial in study.finished()), default=0)


def _require_settings(params: Params, model: str) -> None:
    """Raise UsageError if a trial may draw positions or an image head that the model lacks. Each one would fail."""
    from src.models.catalog import model_class
    from src.training.adapter import require_image_head, require_positions

    for name, require in (("adapter_positions", require_positions), ("image_head", require_image_head)):
        space = params.space_of(model).get(name)
        drawn = space.choices if space else (getattr(params.training_config(model), name),)
        for value in drawn or ():
            require(model_class(model), value)


def _require_free_space(num_bytes: int) -> None:
    local_store = [] if sqlite_file(tracking_uri()) is None else [MLRUNS]
    for folder in (OUTPUTS, KEPT, *local_store):
        require_free_space(folder, num_bytes, "the search")
