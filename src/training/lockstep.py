"""Trainings side by side in one process: they run their batches in turn, on one base in memory.

Each training runs in a thread of its own, and only one thread runs at a time. So `fit` is the same function for one
training and for several, and a generator's `yield` need not pass through all of it. torch keeps its gradient mode by
thread; its random state is switched here. Trainings that are equally far read the same batch one after the other, and
share what `LatestRun` (src/modeling/latest_run.py) keeps of it.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from threading import Semaphore, Thread
from typing import Generic, TypeVar

import torch
from torch import Tensor

from src.core.errors import StopRequested

R = TypeVar("R")


class BatchwiseTraining(Generic[R]):
    """A training that runs one batch at a time. Its random numbers are those of a training that runs alone.

    Args:
        train: trains and returns a result. Its argument is a function that it calls after each batch.
        device: the device that it computes on.
    """

    def __init__(self, train: Callable[[Callable[[], None]], R], device: torch.device) -> None:
        self._train = train
        self._devices = [device] if device.type == "cuda" else []
        self._thread = Thread(target=self._work, daemon=True)
        self._result: Future[R] = Future()
        self._turn = Semaphore(0)
        self._turn_over = Semaphore(0)
        self._closed = False
        # The state of the CPU's generator, then of each device's; empty before the first batch.
        self._random: list[Tensor] = []

    def advance(self) -> bool:
        """Run to the end of the next batch, and return whether the training has ended."""
        with torch.random.fork_rng(self._devices):
            if self._random:
                torch.set_rng_state(self._random[0])
                for device, state in zip(self._devices, self._random[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                self._thread.start()
            self._turn.release()
            self._turn_over.acquire()
            self._random = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
        return self._result.done()

    def result(self) -> R:
        """Return the result of a training that has ended, or raise its error."""
        return self._result.result()

    def close(self) -> None:
        """End the training within its batch, as `StopRequested` does."""
        self._closed = True
        self._turn.release()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        self._turn.acquire()
        try:
            self._result.set_result(self._train(self._pause))
        except BaseException as error:  # noqa: BLE001 - `result` raises it in the thread of the caller
            self._result.set_exception(error)
        finally:
            self._turn_over.release()

    def _pause(self) -> None:
        self._turn_over.release()
        self._turn.acquire()
        if self._closed:
            raise StopRequested


def in_turn(trainings: Sequence[BatchwiseTraining[R]]) -> Generator[R, None, None]:
    """Run trainings side by side, and yield each result when its training has ended.

    An error of one training, and the generator's `close`, end the others at once.
    """
    running = list(trainings)
    try:
        while running:
            for training in list(running):
                if training.advance():
                    running.remove(training)
                    yield training.result()
    finally:
        for training in running:
            training.close()
