"""Covers: command lines in messages, help texts and pages. Each one parses with the program that it calls.

No command is run. Strings are taken from the code by `ast`, and expressions in f-strings are replaced by examples.
"""

import ast
import html
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from src.cli.output import cell
from src.core.saliency import signed
from src.core.training_config import display_value

ROOT = Path(__file__).parents[1]
PROGRAMS = "python|dvc|mlflow|accelerate|make|git"
ENVIRONMENT = r"(?:[A-Z_]+=\S+ )?"
# Names of commands that stand in backticks without being complete command lines.
NAMES_ONLY = ("dvc exp apply",)
# An example for an expression in the braces of an f-string, by the name that the expression begins with.
EXAMPLES = {
    "_this_command": "python -m src.tune --model clip --trials 30",
    "DATA_DVC": "data.dvc",
    "commit": "abc123",
    "model": "clip",
    "overrides": "-S tune.trials=5 -S tune.sampler=gp",
    "store": "MLFLOW_TRACKING_URI=sqlite:///mlruns/mlflow.db ",
}
# An example for a placeholder that the reader replaces.
PLACEHOLDERS = {"{model}": "clip", "src.STAGE": "src.prepare"}


class NotAcceptedError(Exception):
    """A program does not take a command line."""


def text_of(node: ast.expr) -> str:
    """Return the text of a string, with an example in the place of each expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    assert isinstance(node, ast.FormattedValue)
    return EXAMPLES.get(re.split(r"\W", ast.unparse(node.value))[0], "1")


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every string with its line, except for docstrings that are no command's help."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value): getattr(node, "name", "")
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if not is_text and not isinstance(node, ast.JoinedStr):
            continue
        if id(node) not in parts and docstrings.get(id(node), "main") == "main":
            assert isinstance(node, ast.expr)
            yield node.lineno, text_of(node)


def in_message(text: str) -> list[str]:
    """Return the command lines in backticks, or the whole text if it is one command line."""
    if re.match(rf"{ENVIRONMENT}(python|mlflow|accelerate) \S", text) and "`" not in text:
        text = f"`{text}`"
    commands = re.findall(rf"`({ENVIRONMENT}(?:{PROGRAMS}) [^`]+)`", text)
    return [command for command in commands if command not in NAMES_ONLY]


def in_page(template: str) -> list[str]:
    """Return the command lines in `<code>` elements of an HTML template."""
    codes = [" ".join(html.unescape(code).split()) for code in re.findall(r"<code>(.*?)</code>", template, re.DOTALL)]
    return [code for code in codes if re.match(rf"{ENVIRONMENT}(?:{PROGRAMS}) ", code)]


def printed() -> Iterator[tuple[str, str]]:
    """Yield every command line of src/ with its place."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for line, text in strings(ast.parse(path.read_text(encoding="utf-8"))):
            for command in in_message(text):
                yield f"{path.relative_to(ROOT)}:{line}", command
    for path in sorted((ROOT / "src").rglob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        find = in_page if path.name.endswith(".html.jinja") else in_message
        for command in find(template):
            yield str(path.relative_to(ROOT)), command


def accept(line: str) -> None:
    """Parse a command line as its programs do.

    Raises:
        NotAcceptedError: a program does not take it.
    """
    for placeholder, example in PLACEHOLDERS.items():
        line = line.replace(placeholder, example)
    for command in line.split(" && "):
        words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
        try:
            _PARSERS[words[0]](words[1:])
        except (SystemExit, click.ClickException, click.exceptions.Exit, ImportError, KeyError) as error:
            raise NotAcceptedError(f"{command}: {error!r}") from error


def _accept_python(words: list[str]) -> None:
    _require(words[0] == "-m", "python runs modules")
    importlib.import_module(words[1]).main.make_context(words[1], words[2:])


def _accept_dvc(words: list[str]) -> None:
    from dvc.cli import DvcParserError, parse_args  # type: ignore[import-untyped]

    try:
        parse_args(words)
    except DvcParserError as error:
        raise NotAcceptedError(f"dvc {shlex.join(words)}") from error


def _accept_mlflow(words: list[str]) -> None:
    from mlflow.cli import cli

    command: click.Command = cli
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            _, subcommand, words = command.resolve_command(context, words)
        assert subcommand
        command = subcommand
    command.make_context("mlflow", words)


def _accept_accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    _require(words[0] == "launch", "accelerate launches")
    launch = launch_command_parser().parse_args(words[1:])
    _require(launch.module and (ROOT / launch.config_file).is_file(), f"{launch.config_file} is missing")
    _accept_python(["-m", launch.training_script, *launch.training_script_args])


def _accept_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    _require(words[0] in targets, f"the Makefile has no target {words[0]}")


def _accept_git(words: list[str]) -> None:
    _require(words[0] == "checkout" and len(words) == 2, "git checks out a commit")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise NotAcceptedError(message)


_PARSERS = {
    "python": _accept_python,
    "dvc": _accept_dvc,
    "mlflow": _accept_mlflow,
    "accelerate": _accept_accelerate,
    "make": _accept_make,
    "git": _accept_git,
}


@pytest.fixture
def named_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders that the command lines name, for options that require them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "posts.csv"):
        (tmp_path / name).touch()
    for name in ("folder", "Downloads/MVSA-Single"):
        (tmp_path / name).mkdir(parents=True)


@pytest.mark.usefixtures("named_files")
def test_every_printed_command_is_accepted() -> None:
    refused = []
    for place, command in printed():
        try:
            accept(command)
        except NotAcceptedError as error:
            refused.append(f"{place}: {error}")
    assert refused == []


def test_commands_of_all_places_are_seen() -> None:
    commands = list(printed())
    assert {"python", "dvc", "make", "git"} <= {shlex.split(command)[0] for _, command in commands}
    assert len(commands) > 40
    assert ("src/reporting/templates/report/experiments.html.jinja", "python -m src.reproduce --list") in commands


def test_no_command_outside_backticks() -> None:
    """A command line without backticks would escape the test above."""
    loose = re.compile(r"(?<!`)\b(python -m src|dvc (repro|exp|pull)|mlflow (models|experiments)|make ui)\b")
    for path in sorted((ROOT / "src").rglob("*.py")):
        for line, text in strings(ast.parse(path.read_text(encoding="utf-8"))):
            rest = text
            for command in in_message(text):
                rest = rest.replace(command, "")
            assert not loose.search(rest), f"{path}:{line}: {text}"


@pytest.mark.parametrize(
    "command",
    [
        "python -m src.train",
        "python -m src.train --model M",
        "python -m src.trian --model clip",
        "python -m src.tune --model clip --trials",
        "accelerate launch --config_file configs/none.yaml -m src.train --model clip",
        "mlflow experiments restore",
        "mlflow experiment restore --experiment-id 1",
        "dvc rerpo",
        "dvc repro && make coffee",
        "git checkout",
    ],
)
def test_wrong_command_is_refused(command: str) -> None:
    with pytest.raises(NotAcceptedError):
        accept(command)


def test_wrong_command_in_page_is_seen() -> None:
    page = "<p>Run <code>python -m\nsrc.reproduce --lst</code> or <code>params.yaml</code>.</p>"
    (command,) = in_page(page)
    with pytest.raises(NotAcceptedError):
        accept(command)


def test_no_signed_format_prints_negative_zero() -> None:
    """Python's option `z` turns a negative zero that rounding leaves into a positive one."""
    without_z = re.compile(r":?\+\.")
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FormattedValue) and node.format_spec:
                assert not without_z.match(text_of(node.format_spec)), f"{path}:{node.lineno}"


def test_zero_has_no_minus() -> None:
    assert (cell(-0.0), display_value(-0.0), signed(-0.0001)) == ("0.0000", "0", "+0.000")
