"""The project's side of `benchmarks.search`: one base in memory, one new feature cache, one training per trial."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from benchmarks.lib.task import Plan, Task, Trained, macro_f1
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.training.adapter import fresh_adapter, restore
from src.training.cache import FeatureStore
from src.training.callbacks import NullCallback, TrainingCallback
from src.training.dataset import LabelledFeatures
from src.training.inference import logits
from src.training.memory import keep_freed_memory
from src.training.trainer import TrainingContext, fit

ENCODE_BATCH = 32

Job = Callable[[ToneModel, Task], Trained]


@dataclass(frozen=True)
class Workers:
    """The processes in which trials run."""

    task: Task
    # 1: trials run in this process. More: in so many child processes, which share the task's threads.
    count: int
    pool: ProcessPoolExecutor | None

    def run(self, model: ToneModel, jobs: Sequence[Job]) -> list[Trained]:
        """Return the results of jobs, in order. `model` serves the jobs that run in this process."""
        if self.pool is None:
            return [job(model, self.task) for job in jobs]
        futures = [self.pool.submit(_in_worker, job, self.task, self.threads) for job in jobs]
        return [future.result() for future in futures]

    @property
    def threads(self) -> int:
        """The threads of one process."""
        return max(1, self.task.threads // self.count)


@contextmanager
def workers_for(task: Task, count: int) -> Iterator[Workers]:
    """Start workers, which load their base while this process builds the cache."""
    if count == 1:
        yield Workers(task, 1, None)
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        workers = Workers(task, count, pool)
        for _ in range(count):
            pool.submit(_read_base, task, workers.threads)
        yield workers


def run_trials(task: Task, trials: Sequence[TrainingConfig], count: int = 1) -> tuple[list[Trained], dict[str, float]]:
    """Run all trials on a new cache. Return them with the seconds of loading the base and of building the cache."""
    begun = perf_counter()
    with TemporaryDirectory() as folder, workers_for(task, count) as workers:
        model = task.sized.load()
        loaded = perf_counter()
        build_cache(model, task, trials[0], Path(folder))
        built = perf_counter()
        jobs = [partial(run_trial, settings=settings, cache=Path(folder)) for settings in trials]
        trained = workers.run(model, jobs)
    return trained, {"load_s": loaded - begun, "cache_s": built - loaded}


def build_cache(model: ToneModel, task: Task, settings: TrainingConfig, cache: Path) -> None:
    """Encode all posts up to the boundary of these settings."""
    with fresh_adapter(model, settings, task.seed):
        features(model, (*task.posts.train, *task.posts.val), cache)


def run_trial(
    model: ToneModel, task: Task, settings: TrainingConfig, cache: Path, callback: TrainingCallback | None = None
) -> Trained:
    """Train one adapter as `tune` does."""
    with fresh_adapter(model, settings, task.seed):
        train, val = (features(model, part, cache) for part in (task.posts.train, task.posts.val))
        keep_freed_memory(model.device)
        result = fit(model, train, val, settings, TrainingContext(task.seed, callback or NullCallback()))
    # Arrays, because a tensor from another process dies with that process.
    return Trained(settings, result.history, {name: weight.numpy() for name, weight in result.state.items()})


def features(model: ToneModel, posts: Sequence[Post], cache: Path) -> LabelledFeatures:
    """Return posts with their features at the boundary of the model's current adapter."""
    store = FeatureStore.of(cache, model)
    store.ensure(model, posts, ENCODE_BATCH, lambda _: None)
    return LabelledFeatures(posts, store.table(posts), TONES)


def score_on_test(task: Task, trained: Trained) -> float:
    """Return the test macro-F1 of a trial's best epoch."""
    model = task.sized.load()
    with TemporaryDirectory() as folder, fresh_adapter(model, trained.settings, task.seed):
        restore(model, {name: torch.from_numpy(weight) for name, weight in trained.state.items()})
        data = features(model, task.posts.test, Path(folder))
        return macro_f1(task.posts.test, logits(model, data, trained.settings.batch_size))


def plan_of(task: Task, settings: TrainingConfig) -> Plan:
    """Return what the baseline needs to train the same modules on the same batches."""
    model = task.sized.load()
    with TemporaryDirectory() as folder, fresh_adapter(model, settings, task.seed) as adapter:
        lengths = features(model, task.posts.train, Path(folder)).features.lengths()
        return Plan(tuple(lengths), tuple(adapter.modules()))


@cache
def _base_of_worker(task: Task, threads: int) -> ToneModel:
    torch.set_num_threads(threads)
    return task.sized.load()


def _read_base(task: Task, threads: int) -> None:
    _base_of_worker(task, threads)


def _in_worker(job: Job, task: Task, threads: int) -> Trained:
    return job(_base_of_worker(task, threads), task)
