"""The table of trials on a pseudo-terminal, and without a terminal."""

import contextlib
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.search.live_table import LiveTrialTable
from src.search.steering import StudyRequest
from src.search.trial import TrialRecord

ROWS = tuple({"epoch": epoch, "val_macro_f1": 0.51234} for epoch in range(1, 5))


def record(number: int, state: str = "complete", reason: str = "", **changes: Any) -> TrialRecord:
    facts = {
        "number": number,
        "state": state,
        "params": {"rank": 8, "lr": 3e-5},
        "value": 0.51234,
        "history": ROWS,
        "began_ms": 1_000,
        "ended_ms": None if state == "running" else 13_300,
        "reason": reason,
        "cause": reason,
        "outcome": {},
        "attrs": {},
    }
    return TrialRecord(**{**facts, **changes})


def test_ended_trials_print_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTrialTable("clip", total=5, before=[record(0)]) as table:
        table.show(record(0))
        table.show(record(1, "running"))
        table.show(record(1))
        table.show(record(1))
        table.show(record(2, "failed", "out of memory"))
        table.show(record(3, "waiting"))
    assert capsys.readouterr() == (
        "[2/5] trial 1 complete: macro-F1 0.5123, 4 epochs, 12.3 s (rank 8, lr 3e-05)\n"
        "[2/5] trial 2 failed: macro-F1 0.5123, 4 epochs, 12.3 s (rank 8, lr 3e-05): out of memory\n",
        "",
    )


def test_requests_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    more = StudyRequest("request:000001:a", "--more", "noon", 3)
    pause = StudyRequest("request:000001:b", "--pause", "one")
    with LiveTrialTable("clip", total=5, requests=[more]) as table:
        table.show(record(1, attrs={"request": "--try at noon"}))
        table.show_requests([more, replace(more, key="request:000001:A", trials=2), pause])
        table.show(record(2, "pruned", "stopped by --stop-trial at noon"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("(rank 8, lr 3e-05): asked for by --try at noon")
    assert lines[1:3] == ["Asked by --more 2 at noon", "Asked by --pause at one"]
    assert lines[3].startswith("[2/7]") and lines[3].endswith(": stopped by --stop-trial at noon")


def test_earlier_running_trial_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTrialTable("clip", total=5, before=[record(0, "running")]) as table:
        table.show(record(0, "failed", "interrupted"))
    assert "[0/5] trial 0 failed" in capsys.readouterr().out


def test_terminal_shows_intact_table(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.search.test_live_table import *\n"
        "from src.cli.output import progress, say\n"
        "with LiveTrialTable('clip: search', 40, [record(0)]) as table:\n"
        "    for number in range(1, 31):\n"
        "        table.show(record(number, 'running', value=0.25))\n"
        "        with progress(2, 'nested') as bar: bar.advance(2)\n"
        "        say(f'said {number}')\n"
        "        table.show(record(number))\n"
    )
    shown = on_terminal([sys.executable, str(script)])
    assert "running" in shown
    assert "0.2500" in shown
    assert "2/40 trials, about" in shown
    assert "said 30\r\n" in shown
    last_table = shown[shown.rindex("clip: search") :]
    assert [last_table.count("complete"), last_table.count("running")] == [30, 0]


def on_terminal(arguments: list[str]) -> str:
    """Return what a process writes to a terminal of 24 lines."""
    terminal, inside = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "PYTHONPATH": str(Path.cwd()), "LINES": "24", "COLUMNS": "100"}
    process = subprocess.Popen(arguments, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    pieces = []
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    os.close(terminal)
    assert process.wait(timeout=20) == 0
    return b"".join(pieces).decode()
