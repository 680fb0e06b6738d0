"""What commands print and how they end, in processes of their own and on a real pseudo-terminal."""

import contextlib
import errno
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from src.core.errors import Refusal, UsageRefusal
from src.services.studies import TrialRecord
from src.services.terminal import TrialBoard, command, model_option, progress, say, table, warn

MODELS = ("clip", "blip2")


def record(number: int, state: str = "complete", reason: str = "") -> TrialRecord:
    params = {"rank": 8, "lr": 3e-5}
    return TrialRecord(number, state, params, 0.51234, 4, 12.3, reason, {})  # type: ignore[arg-type]


def raising(error: BaseException) -> click.Command:
    @command()
    def main() -> None:
        raise error

    return main


@command(example="python -m src.tune --model clip --trials 30")
@model_option(MODELS)
@click.option("--trials", type=click.IntRange(min=1), default=3, help="Trials in all.")
def tune(model: str, trials: int) -> None:
    """Search."""
    say(f"{model} {trials}")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (Refusal("data/ is missing:\n run `dvc repro`"), "error: data/ is missing: run `dvc repro`", 1),
        (UsageRefusal("no such thing"), "error: no such thing", 2),
        (KeyboardInterrupt(), "error: interrupted", 130),
        (OSError(errno.ENOSPC, "No space left on device", "a.db"), "error: No space left on device: a.db", 1),
        (OSError("odd"), "error: odd", 1),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, line: str, code: int) -> None:
    result = CliRunner().invoke(raising(error), [])
    assert (result.stdout, result.stderr, result.exit_code) == ("", f"{line}\n", code)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    assert isinstance(CliRunner().invoke(raising(ZeroDivisionError()), []).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "error: Missing option '--model'. Try --help."),
        (["--model", "clop"], "error: unknown model 'clop'; did you mean 'clip'?"),
        (["--model", "gpt"], "error: unknown model 'gpt'; known: blip2, clip"),
        (["--model", "clip", "--trials", "0"], "error: Invalid value for '--trials': 0 is not in the range x>=1."),
        (["--model", "clip", "--trails", "1"], "error: No such option '--trails'."),
        (["--model", "clip", "more"], "error: Got unexpected extra argument"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(tune, arguments)
    assert (result.stdout, result.exit_code, result.stderr.count("\n")) == ("", 2, 1)
    assert result.stderr.startswith(line)


def test_the_help_shows_defaults_names_and_an_example() -> None:
    result = CliRunner().invoke(tune, ["--help"])
    assert result.exit_code == 0
    assert "One of clip, blip2." in result.output
    assert "[default: 3" in result.output
    assert "Example:\n    python -m src.tune --model clip --trials 30\n" in result.output
    assert CliRunner().invoke(tune, ["--model", "clip"]).stdout == "clip 3\n"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    code = (
        "from src.services.terminal import command, say\n"
        "@command()\ndef main():\n for line in range(100000): say('line')\nmain()"
    )
    piped = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -c "$0" | head -1', code], capture_output=True, text=True
    )
    assert (piped.stdout, piped.stderr) == ("line\n", "")


def test_an_interrupted_process_ends_with_one_line() -> None:
    # A process that a script began in the background is deaf to it, and so are its children until they say otherwise.
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from src.services.terminal import command, say\n"
        "@command()\ndef main():\n print('in', flush=True)\n time.sleep(60)\nmain()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (errors, process.returncode) == ("error: interrupted\n", 130)


def test_nothing_moves_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "encode", "posts") as bar:
        bar.advance(2)
        bar.note("almost")
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_lines_go_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    say("a result [bold]")
    warn("a warning")
    assert capsys.readouterr() == ("a result [bold]\n", "warning: a warning\n")


def test_a_table_fits_and_leaves_brackets_alone(capsys: pytest.CaptureFixture[str]) -> None:
    table("Scores", ["model", "accuracy", "lr", "posts"], [["clip [x]", 0.51234, 3e-5, 519], ["b", None, 1.0, 4]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["Scores"]
    assert lines[1] == ["model", "accuracy", "lr", "posts"]
    assert lines[3:] == [["clip", "[x]", "0.5123", "3.0e-05", "519"], ["b", "-", "1.0000", "4"]]


def test_without_a_terminal_a_board_prints_a_line_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    with TrialBoard("clip", total=5, done=1) as board:
        board.start(1, {"rank": 8})
        board.epoch(1, 1, {"val_macro_f1": 0.5})
        board.done(record(1))
        board.done(record(2, "failed", "out of memory"))
    assert capsys.readouterr() == (
        "[2/5] trial 1 complete: macro-F1 0.5123, 4 epochs, 12.3 s (rank 8, lr 3e-05)\n"
        "[2/5] trial 2 failed: macro-F1 0.5123, 4 epochs, 12.3 s (rank 8, lr 3e-05): out of memory\n",
        "",
    )


def test_on_a_terminal_a_board_shows_a_table_that_words_do_not_tear(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from tests.services.test_terminal import *\n"
        "with TrialBoard('clip: search', 40, 1) as board:\n"
        "    for number in range(1, 31):\n"
        "        board.epoch(number, 1, {'val_macro_f1': 0.25})\n"
        "        with progress(2, 'nested') as bar: bar.advance(2)\n"
        "        say(f'said {number}')\n"
        "        board.done(record(number))\n"
    )
    shown = on_terminal([sys.executable, str(script)])
    assert "running" in shown
    assert "0.2500" in shown
    assert "2/40 trials, about" in shown
    assert "said 30\r\n" in shown
    last_table = shown[shown.rindex("clip: search") :]
    assert [last_table.count("complete"), last_table.count("running")] == [30, 0]


def on_terminal(arguments: list[str]) -> str:
    """What a process writes to a terminal of 24 lines."""
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


def test_importing_loads_no_rich() -> None:
    code = "import sys, src.services.terminal; sys.exit('rich' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
