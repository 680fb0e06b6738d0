"""Covers: `benchmarks/lib/timeshare.py` and the parts and tables of `benchmarks.gpu`."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import gpu
from benchmarks.lib.timeshare import LOG_FILE, RESULTS_FILE, Part, run_parts, share_s
from src.core.errors import StopRequested, UserError

# Seconds, for which no test waits.
LONG_S = 60.0


def part(name: str, program: str, weight: float = 1.0, least_s: float = 0.0) -> Part:
    return Part(name, [sys.executable, "-S", "-c", program], weight, least_s)


def printing(name: str, **figures: Any) -> Part:
    return part(name, f"print({json.dumps(figures)!r})")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]


def test_share_follows_weight() -> None:
    parts = [part("a", "", weight=1), part("b", "", weight=3)]
    assert share_s(parts, 80) == 20
    assert share_s(parts[1:], 70) == 70


def test_minimum_beats_fair_share() -> None:
    parts = [part("a", "", weight=1, least_s=50), part("b", "", weight=3, least_s=50)]
    assert share_s(parts, 80) == 50
    assert share_s(parts, 30) == 30
    assert share_s(parts, -1) == 0


def test_later_figures_extend_earlier(tmp_path: Path) -> None:
    program = "print('{\"a\": 1, \"b\": 1}'); print('a table'); print('{no json'); print('{\"b\": 2}')"
    (result,) = run_parts([part("one", program)], LONG_S, tmp_path)
    assert (result.end, result.exit_code, result.figures) == ("ok", 0, {"a": 1, "b": 2})
    assert "a table" in (tmp_path / LOG_FILE).read_text()
    assert lines(tmp_path)[0]["figures"] == {"a": 1, "b": 2}


def test_failed_part_keeps_figures(tmp_path: Path) -> None:
    program = "import sys; print('{\"a\": 1}'); sys.exit('no memory')"
    results = run_parts([part("one", program), printing("two", b=2)], LONG_S, tmp_path)
    assert [(result.end, result.figures) for result in results] == [("failed", {"a": 1}), ("ok", {"b": 2})]
    assert "no memory" in (tmp_path / LOG_FILE).read_text()


def test_result_precedes_next_part(tmp_path: Path) -> None:
    reader = part("two", f"print(open({str(tmp_path / RESULTS_FILE)!r}).read())")
    results = run_parts([printing("one", a=1), reader], LONG_S, tmp_path)
    assert results[1].figures["part"] == "one"


def test_timeout_kills_process_group(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    program = (
        "import json, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        "print(json.dumps({'child': child.pid}), flush=True)\n"
        "time.sleep(60)\n"
    )
    results = run_parts([part("one", program, least_s=5), printing("two", b=2)], 5, tmp_path)
    assert [result.end for result in results] == ["killed", "not started"]
    assert [line["end"] for line in lines(tmp_path)] == ["killed", "not started"]
    deadline = time.monotonic() + LONG_S
    while is_running(results[0].figures["child"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(results[0].figures["child"])


def is_running(pid: int) -> bool:
    try:
        # An ended process stays a zombie until its parent waits for it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signal_keeps_printed_figures(tmp_path: Path) -> None:
    log = tmp_path / LOG_FILE

    def stop() -> None:
        while not log.exists() or '\n{"a": 1}\n' not in log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    waiting = part("one", "import time; print('{\"a\": 1}', flush=True); time.sleep(60)")
    with pytest.raises(StopRequested):
        run_parts([waiting, printing("two", b=2)], LONG_S, tmp_path)
    assert [(line["end"], line["figures"]) for line in lines(tmp_path)] == [("killed", {"a": 1})]


def test_existing_results_are_kept(tmp_path: Path) -> None:
    run_parts([printing("one", a=1)], LONG_S, tmp_path)
    with pytest.raises(UserError):
        run_parts([printing("one", a=2)], LONG_S, tmp_path)
    assert lines(tmp_path)[0]["figures"] == {"a": 1}


@pytest.mark.parametrize(("program", "code"), [("print('{\"a\": [0.5]}')", 0), ("print('nothing')", 1)])
def test_exit_code_needs_all_figures(program: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "parts_of", lambda size, posts: [part(size, program)])
    result = CliRunner().invoke(gpu.main, ["--rehearse", "--minutes", "1", "--out", str(tmp_path)])
    assert result.exit_code == code, result.output
    assert "tiny: ok after" in result.stdout
    assert ("a.0" in result.stdout) == (code == 0)


def test_parts_start_with_steps() -> None:
    names = [part.name for part in gpu.parts_of("full", Path("sample"))]
    assert names[:4] == ["environment", "step of tinyllava", "step of llava", "step of blip2"]
    assert len(set(names)) == len(names) == 7
    assert all("full" in part.command for part in gpu.parts_of("full", Path("sample"))[1:-1])


def test_nested_figures_have_paths() -> None:
    figures = {"a": 1, "b": {"c": [2, {"d": None}]}}
    assert list(gpu.flat(figures)) == [("a", 1), ("b.c.0", 2), ("b.c.1.d", None)]
