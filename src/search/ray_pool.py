"""Workers on the GPUs of a machine or of a cluster, by way of Ray."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from src.core.errors import UsageError, UserError
from src.search.pool import Worker, WorkerDied

if TYPE_CHECKING:
    from ray import ObjectRef

W = TypeVar("W")
_ROOT = Path(__file__).parents[2]
_log = logging.getLogger(__name__)
# What workers send home is adapters: megabytes. Ray's own default is a third of the machine's memory.
_OBJECT_STORE_BYTES = 256 * 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
}


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and the share of each.

    Attributes:
        host: this machine's address as workers see it.
        threads: CPUs that a worker computes with.
        cpus: CPUs that Ray sets aside for a worker: none where nobody else asks for any, and workers may share one.
        gpus: GPUs that Ray sets aside for a worker, and shows to it.
    """

    host: str
    threads: int
    cpus: int
    gpus: float


@contextmanager
def cluster(address: str | None, size: int, gpus: float | None, cpus: int | None) -> Iterator[Cluster]:
    """A Ray cluster for as long as the context lasts: one that runs at `address`, else one of this machine alone.

    Args:
        address: of a running cluster, such as auto or HOST:6379; None starts one here.
        size: how many workers it is for.
        gpus: a worker's share; by default one where the cluster has any.
        cpus: a worker's share; by default an even share of this machine, and one CPU of a cluster of several.

    Raises:
        UsageError: Ray is not installed, or cannot share GPUs out like that.
        UserError: no cluster answers, or this machine has too few GPUs.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    try:
        import ray
    except ImportError as error:
        raise UsageError('several workers need Ray: pip install -r requirements.lock, or ".[cluster]"') from error
    _start(address)
    try:
        found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        threads = cpus or (1 if address else max(1, int(found.get("CPU", 1)) // size))
        shares = Cluster(
            host=ray.util.get_node_ip_address() if address else "127.0.0.1",  # type: ignore[no-untyped-call]
            threads=threads,
            cpus=threads if address else 0,
            gpus=gpus if gpus is not None else float(min(1, found.get("GPU", 0))),
        )
        _require_gpus(size, shares.gpus, found.get("GPU", 0), grows=address is not None)
        yield shares
    finally:
        ray.shutdown()


class RayWorkerPool(Generic[W]):
    """Workers in processes of their own, each made by `make` from its name when it is first sent to work.

    A worker that dies is reported as `WorkerDied`, and the next one to be sent takes its place.
    """

    def __init__(self, make: Callable[[str], Worker[W]], size: int, shares: Cluster) -> None:
        self.size = size
        self._make = make
        self._shares = shares
        self._idle: dict[str, Any] = {}
        self._working: dict[ObjectRef[W], tuple[str, Any]] = {}
        self._num_started = 0

    @property
    def busy(self) -> int:
        """How many are at work."""
        return len(self._working)

    def begin(self) -> None:
        """Send an idle worker, or a new one, to do one piece of work."""
        name, seat = self._idle.popitem() if self._idle else self._start_worker()
        self._working[seat.run_one.remote()] = (name, seat)

    def next(self, timeout_s: float) -> W | WorkerDied | None:
        """What a worker says that is done, or that one is lost; None after `timeout_s`.

        Raises:
            Exception: what a worker raised, such as `UserError`.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        ready, _ = ray.wait(list(self._working), timeout=timeout_s)
        if not ready:
            return None
        name, seat = self._working.pop(ready[0])
        try:
            done: W = ray.get(ready[0])
        except RayTaskError as error:
            # Of what a user can mend, the error itself; of a defect, with Ray's account of where it was.
            raise (error.cause if isinstance(error.cause, UserError | OSError) else error) from None
        except RayError as error:
            # It may be out of reach and not dead, and must not go on with a trial that another one runs again.
            ray.kill(seat)
            return WorkerDied(name, _failure_reason(error))
        self._idle[name] = seat
        return done

    def replace(self, name: str) -> None:
        """Dismiss a worker that can do no more; the next one to be sent takes its place."""
        import ray

        ray.kill(self._idle.pop(name))

    def close(self) -> None:
        """End all work at once."""
        import ray

        for _, seat in [*self._idle.items(), *self._working.values()]:
            ray.kill(seat)
        self._idle.clear()
        self._working.clear()

    def _start_worker(self) -> tuple[str, Any]:
        import ray

        self._num_started += 1
        name = f"worker-{self._num_started}"
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"OMP_NUM_THREADS": str(self._shares.threads), "PYTHONPATH": os.pathsep.join(paths)}
        actor = ray.remote(num_cpus=self._shares.cpus, num_gpus=self._shares.gpus, max_restarts=0)(_WorkerActor)
        return name, actor.options(runtime_env={"env_vars": environment}).remote(self._make, name, str(Path.cwd()))


class _WorkerActor(Generic[W]):
    """A worker's process."""

    def __init__(self, make: Callable[[str], Worker[W]], name: str, root: str) -> None:
        os.chdir(root)
        self._make = make
        self._name = name
        self._worker: Worker[W] | None = None

    def run_one(self) -> W:
        # Made late, so that what it refuses is an answer and not a death.
        self._worker = self._worker or self._make(self._name)
        return self._worker.run_one()


def _start(address: str | None) -> None:
    import ray

    # Said aloud, for without an address Ray would join whatever cluster it finds.
    own = {"address": "local", "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    options: dict[str, Any] = {"address": address} if address else own
    try:
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"at {address}" if address else "on this machine"
        raise UserError(f"no Ray cluster {where}: {str(error).splitlines()[0]}") from error


def _require_gpus(size: int, share: float, found: float, *, grows: bool) -> None:
    if share > 1 and share % 1:
        raise UsageError(f"--gpus-per-trial {share:g}: a share of more than one GPU must be a whole number")
    if size * share <= found:
        return
    lacking = f"{size} workers with {share:g} GPUs each need {size * share:g}, and there are {found:g}"
    if not grows:
        raise UserError(f"{lacking}: fewer --workers, or less --gpus-per-trial")
    # A cluster with an autoscaler gets them.
    _log.warning("%s: some wait until the cluster has more", lacking)


def _failure_reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
