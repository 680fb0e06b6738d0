"""The worker pool on Ray: workers in other processes, on one machine or a cluster."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from src.core.errors import UsageError, UserError, first_line
from src.search.pool import Worker, WorkerDied

if TYPE_CHECKING:
    from ray import ObjectRef

W = TypeVar("W")
_ROOT = Path(__file__).parents[2]
_log = logging.getLogger(__name__)
# Results of workers are adapters of some megabytes. Ray's default is a third of the machine's memory.
_OBJECT_STORE_BYTES = 256 * 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the share of each worker."""

    # This machine's address as workers see it.
    host: str
    # The threads that a worker computes with.
    threads: int
    # The CPUs that Ray reserves for a worker; 0 on a cluster of our own, where more workers than CPUs may run.
    cpus: int
    # The GPUs that Ray reserves for a worker and makes visible to it.
    gpus: float


@contextmanager
def cluster(address: str | None, size: int, gpus: float | None, cpus: int | None) -> Iterator[Cluster]:
    """Connect to a running Ray cluster, or start one on this machine, until the context ends.

    Args:
        address: a running cluster, such as auto or HOST:6379; None starts one.
        size: the number of workers.
        gpus: a worker's share; by default 1 if the cluster has any.
        cpus: a worker's share; by default an even share of this machine, and 1 on a running cluster.

    Raises:
        UsageError: Ray is not installed, or cannot give such shares of a GPU.
        UserError: no cluster answers, or this machine has too few GPUs.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise UsageError('several workers need Ray: pip install -r requirements.lock, or ".[cluster]"') from error
    _init_ray(address)
    try:
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        threads = cpus or (1 if address else max(1, int(available.get("CPU", 1)) // size))
        shares = Cluster(
            host=ray.util.get_node_ip_address() if address else "127.0.0.1",  # type: ignore[no-untyped-call]
            threads=threads,
            cpus=threads if address else 0,
            gpus=gpus if gpus is not None else float(min(1, available.get("GPU", 0))),
        )
        require_gpus(size, shares.gpus, available.get("GPU", 0), grows=address is not None)
        yield shares
    finally:
        ray.shutdown()


@dataclass
class _RayWorker:
    """A worker in a process of Ray's."""

    name: str
    actor: Any
    # Ready as soon as Ray has the resources for the process and has started it.
    start: "ObjectRef[None]"
    # When it was asked for (seconds, as `time.monotonic` counts).
    asked_s: float
    # The number of tasks that have not ended.
    num_tasks: int = 0


class RayWorkerPool(Generic[W]):
    """Workers in processes of their own.

    If a worker dies, `wait_any` returns `WorkerDied` and the next `submit` starts a new worker.

    Args:
        make: makes a worker from its name. It runs in the worker's process.
        size: the number of workers.
        shares: the cluster, and a worker's share of it.
    """

    def __init__(self, make: Callable[[str], Worker[W]], size: int, shares: Cluster) -> None:
        self._size = size
        self._make = make
        self._shares = shares
        self._idle: list[_RayWorker] = []
        # The busy workers by the result that comes next.
        self._busy: dict[ObjectRef[W], _RayWorker] = {}
        self._num_started = 0

    @property
    def busy(self) -> int:
        """The number of tasks that run."""
        return sum(worker.num_tasks for worker in self._busy.values())

    @property
    def idle(self) -> int:
        """The number of workers that run no task, or are not started yet."""
        return self._size - len(self._busy)

    @property
    def num_spare(self) -> int:
        """The number of started workers that run no task."""
        return len(self._idle)

    def submit(self, count: int = 1) -> None:
        """Start tasks side by side on an idle worker, or on a new one."""
        worker = self._idle.pop() if self._idle else self._start_worker()
        worker.num_tasks = count
        self._busy[worker.actor.run.remote(count)] = worker

    def withdraw(self, count: int) -> list[str]:
        """End up to `count` workers that wait to be started, with their tasks. Return their names."""
        import ray

        waiting = [
            (result, worker) for result, worker in self._busy.items() if not ray.wait([worker.start], timeout=0)[0]
        ]
        for result, worker in waiting[:count]:
            ray.kill(worker.actor)
            del self._busy[result]
        return [worker.name for _, worker in waiting[:count]]

    def wait_any(self, timeout_s: float) -> W | WorkerDied | None:
        """Wait for the next result. Return `WorkerDied` if a worker dies first, or None after `timeout_s`.

        Raises:
            Exception: a worker raised it, such as `UserError`.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        ready, _ = ray.wait(list(self._busy), timeout=timeout_s)
        if not ready:
            return None
        worker = self._busy.pop(ready[0])
        try:
            result: W = ray.get(ready[0])
        except RayTaskError as error:
            # A user can mend these two, so they are raised as they are. Any other error is a defect, and Ray's wrapper
            # shows where it was raised.
            raise (error.cause if isinstance(error.cause, UserError | OSError) else error) from None
        except RayError as error:
            # The worker may be unreachable and alive. It must not finish a trial that another worker runs again.
            ray.kill(worker.actor)
            return WorkerDied(worker.name, first_line(error), worker.asked_s)
        worker.num_tasks -= 1
        if worker.num_tasks:
            self._busy[worker.actor.run_on.remote()] = worker
        else:
            self._idle.append(worker)
        return result

    def replace(self, name: str) -> None:
        """End a worker. A later `submit` starts a new one."""
        import ray

        for worker in [*self._idle, *self._busy.values()]:
            if worker.name == name:
                ray.kill(worker.actor)
        self._idle = [worker for worker in self._idle if worker.name != name]
        self._busy = {result: worker for result, worker in self._busy.items() if worker.name != name}

    def close(self) -> None:
        """End all workers at once."""
        import ray

        for worker in [*self._idle, *self._busy.values()]:
            ray.kill(worker.actor)
        self._idle.clear()
        self._busy.clear()

    def _start_worker(self) -> _RayWorker:
        import ray

        self._num_started += 1
        name = f"worker-{self._num_started}"
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"OMP_NUM_THREADS": str(self._shares.threads), "PYTHONPATH": os.pathsep.join(paths)}
        actor_class = ray.remote(num_cpus=self._shares.cpus, num_gpus=self._shares.gpus, max_restarts=0)(_WorkerActor)
        actor: Any = actor_class.options(runtime_env={"env_vars": environment}).remote(
            self._make, name, str(Path.cwd())
        )
        return _RayWorker(name, actor, actor.start.remote(), time.monotonic())


class _WorkerActor(Generic[W]):
    """A worker in a process of Ray's."""

    def __init__(self, make: Callable[[str], Worker[W]], name: str, root: str) -> None:
        os.chdir(root)
        self._make = make
        self._name = name
        self._worker: Worker[W] | None = None
        self._results: Iterator[W] = iter(())

    def start(self) -> None:
        """Do nothing: this returns as soon as the process runs."""

    def run(self, count: int) -> W:
        """Start tasks, and return the result of the one that ends first."""
        # Made here and not in __init__: an error then is the result of a task, and does not kill the actor.
        self._worker = self._worker or self._make(self._name)
        self._results = self._worker.run(count)
        return next(self._results)

    def run_on(self) -> W:
        """Run the other tasks until the next one ends, and return its result."""
        return next(self._results)


def _init_ray(address: str | None) -> None:
    import ray

    # Without the address "local" Ray would join any cluster that it finds.
    own = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    options: dict[str, Any] = {"address": address} if address else own
    try:
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address}" if address else "on this machine"
        raise UserError(f"no Ray cluster {where}: {first_line(error)}") from error


def require_gpus(size: int, share: float, available: float, *, grows: bool) -> None:
    """Check that a cluster has enough GPUs. A cluster that `grows` (by an autoscaler) may get them later.

    Raises:
        UsageError: Ray cannot reserve such a share.
        UserError: there are too few GPUs, and the cluster does not grow.
    """
    if share > 1 and share % 1:
        raise UsageError(f"--gpus-per-trial {share:g}: a share of more than one GPU must be a whole number")
    if size * share <= available:
        return
    lack = f"{size} workers with {share:g} GPUs each need {size * share:g}, and there are {available:g}"
    if not grows:
        raise UserError(f"{lack}: fewer --workers, or less --gpus-per-trial")
    _log.warning("%s: some wait until the cluster has more", lack)
