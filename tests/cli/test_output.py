"""Output and exit codes of commands, in separate processes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from src.cli.options import command, model_option
from src.cli.output import progress, say, table, warn
from src.core.errors import StopRequested, UsageError, UserError

MODELS = ("clip", "blip2")
LESS = "a smaller batch_size, or a machine with more, may do"


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
        (UserError("data/ is missing:\n run `dvc repro`"), "error: data/ is missing: run `dvc repro`", 1),
        (UsageError("no such thing"), "error: no such thing", 2),
        (KeyboardInterrupt(), "error: interrupted", 130),
        (StopRequested("stopped by SIGTERM", 143), "error: stopped by SIGTERM", 143),
        (OSError(errno.ENOSPC, "No space left on device", "a.db"), "error: No space left on device: a.db", 1),
        (OSError("odd"), "error: odd", 1),
        (MemoryError(), f"error: out of memory: MemoryError; {LESS}", 1),
        (RuntimeError("CUDA out of memory.\nSee"), f"error: out of memory: CUDA out of memory.; {LESS}", 1),
    ],
)
def test_error_is_one_line(error: BaseException, line: str, code: int) -> None:
    result = CliRunner().invoke(raising(error), [])
    assert (result.stdout, result.stderr, result.exit_code) == ("", f"{line}\n", code)


def test_defect_is_shown_whole() -> None:
    assert isinstance(CliRunner().invoke(raising(RuntimeError("shapes differ")), []).exception, RuntimeError)


def test_only_paths_may_break_utf_8() -> None:
    @command()
    @click.option("--word", multiple=True)
    @click.argument("path", type=click.Path(path_type=Path))
    @click.argument("caption", required=False)
    def main(path: Path, caption: str | None, word: tuple[str, ...]) -> None:
        say("fine")

    stray = os.fsdecode(b"caf\xe9")
    assert CliRunner().invoke(main, [stray, "café \N{GRINNING FACE}", "--word", "a"]).stdout == "fine\n"
    for words, name in (([stray, stray], "CAPTION"), (["a", "--word", "b", "--word", stray], "--word")):
        result = CliRunner().invoke(main, words)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert name in result.stderr and "caf\N{REPLACEMENT CHARACTER}" in result.stderr


def test_programming_error_keeps_traceback() -> None:
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
def test_misuse_is_one_line(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(tune, arguments)
    assert (result.stdout, result.exit_code, result.stderr.count("\n")) == ("", 2, 1)
    assert result.stderr.startswith(line)


def test_help_shows_defaults_and_example() -> None:
    result = CliRunner().invoke(tune, ["--help"])
    assert result.exit_code == 0
    assert "One of clip, blip2." in result.output
    assert "[default: 3" in result.output
    assert "Example:\n    python -m src.tune --model clip --trials 30\n" in result.output
    assert CliRunner().invoke(tune, ["--model", "clip"]).stdout == "clip 3\n"


def test_closed_pipe_is_no_error() -> None:
    code = (
        "from src.cli.options import command\nfrom src.cli.output import say\n"
        "@command()\ndef main():\n for line in range(100000): say('line')\nmain()"
    )
    piped = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -c "$0" | head -1', code], capture_output=True, text=True
    )
    assert (piped.stdout, piped.stderr) == ("line\n", "")


def test_interruption_is_one_line() -> None:
    # A process that a script began in the background is deaf to it, and so are its children until they say otherwise.
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from src.cli.options import command\nfrom src.cli.output import say\n"
        "@command()\ndef main():\n print('in', flush=True)\n time.sleep(60)\nmain()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (errors, process.returncode) == ("error: interrupted\n", 130)


def test_no_bar_without_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "encode", "posts") as bar:
        bar.advance(2)
        bar.note("almost")
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_results_and_warnings_have_own_streams(capsys: pytest.CaptureFixture[str]) -> None:
    say("a result [bold]")
    warn("a warning")
    assert capsys.readouterr() == ("a result [bold]\n", "warning: a warning\n")


def test_table_fits_and_keeps_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    table("Scores", ["model", "accuracy", "lr", "posts"], [["clip [x]", 0.51234, 3e-5, 519], ["b", None, 1.0, 4]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["Scores"]
    assert lines[1] == ["model", "accuracy", "lr", "posts"]
    assert lines[3:] == [["clip", "[x]", "0.5123", "3.0e-05", "519"], ["b", "-", "1.0000", "4"]]
