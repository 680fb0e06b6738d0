"""A runner of commands within a time limit, which keeps the figures that each command prints.

A command prints its figures as JSON objects on standard output, one per line. Later objects extend or replace earlier
ones, so a killed command leaves the figures that it printed by then. All output, the objects included, goes to a log,
which survives if this process is killed too.
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
    """A command and its claim on the time."""

    # The part's name in results.
    name: str
    # The program and its arguments.
    command: Sequence[str]
    # The share of the remaining time, in proportion to the weights of the parts that have not run yet.
    weight: float = 1.0
    # The seconds without which the part gives no figure. The part gets them at the cost of later parts.
    least_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """The end of one part."""

    part: str
    end: End
    # Seconds that the part took.
    seconds: float
    # Seconds that the part was given.
    share_s: float
    exit_code: int | None
    # All figures that the part printed.
    figures: Mapping[str, Any] = field(default_factory=dict)


def share_s(parts: Sequence[Part], remaining_s: float) -> float:
    """Return the seconds for the first of the parts that have not run yet."""
    first = parts[0]
    fair = remaining_s * first.weight / sum(part.weight for part in parts)
    return max(0.0, min(remaining_s, max(fair, first.least_s)))


def run_parts(
    parts: Sequence[Part], seconds: float, folder: Path, on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run all parts within a time limit. Each result is on disk before the next part starts.

    Args:
        parts: the most valuable first.
        seconds: the limit for all parts together.
        folder: gets `RESULTS_FILE` with one JSON object per part, and `LOG_FILE`.
        on_result: called with each result.

    Raises:
        UserError: the folder holds results already.
        StopRequested: this process got a signal to end. The result of the part that ran is written first.
    """
    deadline = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RESULTS_FILE).exists():
        raise UserError(f"{folder / RESULTS_FILE} exists already: give another --out")
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
    # A new session, so that `_kill` reaches the processes that the part starts.
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
    """Return the exit code of a process, or None if the process still runs at the deadline."""
    while process.poll() is None and time.monotonic() < deadline:
        stop.check()
        time.sleep(POLL_S)
    return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all processes that it started."""
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
                continue  # the log has this line


def _put(file: IO[Any], content: str | bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
