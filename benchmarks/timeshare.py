"""Run commands one after the other until a time is over, and keep the figures that each one prints.

A command prints its figures as JSON objects, one a line, on standard output. A later object adds to an earlier one, or
replaces it, so that a command that is killed has left what it knew by then. Whatever else it prints goes to a log, and
so do the objects, for the case that this process is killed too.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from src.core.errors import StopRequested, UserError
from src.core.signals import StopSignal

POLL_S = 0.05
RESULTS_FILE, LOG_FILE = "results.jsonl", "log.txt"

End = Literal["ok", "failed", "killed", "not started"]


@dataclass(frozen=True)
class Part:
    """A command and its claim on the time.

    Attributes:
        name: the part's name in results.
        command: the program and its arguments.
        weight: its share of the remaining time, in proportion to the weights of the parts that are still to come.
        least_s: seconds without which it gives nothing. It gets them at the cost of later parts.
    """

    name: str
    command: Sequence[str]
    weight: float = 1.0
    least_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """The end of one part: `figures` are all that it printed, `share_s` the seconds that it was given."""

    part: str
    end: End
    seconds: float
    share_s: float
    exit_code: int | None
    figures: Mapping[str, Any] = field(default_factory=dict)


def share_s(parts: Sequence[Part], remaining_s: float) -> float:
    """Return the seconds of the first of the parts that are still to come."""
    first = parts[0]
    fair = remaining_s * first.weight / sum(part.weight for part in parts)
    return max(0.0, min(remaining_s, max(fair, first.least_s)))


def run_parts(
    parts: Sequence[Part], seconds: float, folder: Path, on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run all parts within so many seconds; each result is on disk before the next part starts.

    Args:
        parts: in the order of their worth.
        seconds: for all of them together.
        folder: takes `RESULTS_FILE`, one JSON object a part, and `LOG_FILE`.
        on_result: called with each result.

    Raises:
        UserError: the folder holds results already.
        StopRequested: this process got a signal to end. The part that ran then has its line.
    """
    deadline = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RESULTS_FILE).exists():
        raise UserError(f"{folder / RESULTS_FILE} is there already: give another --out")
    results = []
    with (folder / RESULTS_FILE).open("x") as lines, (folder / LOG_FILE).open("ab") as log, StopSignal() as stop:
        for place, part in enumerate(parts):
            result = _run(part, share_s(parts[place:], deadline - time.monotonic()), log, stop)
            _put(lines, json.dumps(asdict(result)) + "\n")
            results.append(result)
            on_result(result)
            stop.check()
    return results


def _run(part: Part, seconds: float, log: IO[bytes], stop: StopSignal) -> Result:
    if seconds <= 0:
        return Result(part.name, "not started", 0.0, 0.0, None)
    _put(log, f"\n== {part.name}: {' '.join(part.command)}\n".encode())
    begun = time.monotonic()
    # A group of its own, so that the processes that it starts end with it.
    process = subprocess.Popen(part.command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    figures: dict[str, Any] = {}
    reader = threading.Thread(target=_read, args=(process.stdout, figures, log), daemon=True)
    reader.start()
    end: End = "killed"
    with suppress(StopRequested):
        code = _exit_code(process, begun + seconds, stop)
        end = "killed" if code is None else "failed" if code else "ok"
    _kill(process)
    reader.join(timeout=1)
    took = time.monotonic() - begun
    return Result(part.name, end, round(took, 2), round(seconds, 2), process.returncode, dict(figures))


def _exit_code(process: subprocess.Popen[bytes], deadline: float, stop: StopSignal) -> int | None:
    """Wait for a process; None if it still runs at the deadline."""
    while process.poll() is None and time.monotonic() < deadline:
        stop.check()
        time.sleep(POLL_S)
    return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(stream: IO[bytes] | None, figures: dict[str, Any], log: IO[bytes]) -> None:
    assert stream is not None
    for line in stream:
        _put(log, line)
        if line.startswith(b"{"):
            try:
                figures.update(json.loads(line))
            except ValueError:
                continue  # a line that is no JSON is in the log


def _put(file: IO[Any], content: str | bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
