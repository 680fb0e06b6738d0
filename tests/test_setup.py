"""The set-up of the project: the lock, the Makefile's own installing, and what CI runs."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {canonicalize_name(name): pin for name, pin in re.findall(r"^([^#=\s]+)==(\S+)$", LOCK, re.MULTILINE)}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["cluster"])]
# What is asked of a package beyond itself, as in psycopg[binary].
ASKED = {canonicalize_name(wanted.name): ["", *wanted.extras] for wanted in DIRECT}


def test_the_lock_holds_exact_versions_and_nothing_else() -> None:
    odd = [line for line in LOCK.splitlines() if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert not odd, odd
    assert "://" not in LOCK


@pytest.mark.parametrize("wanted", DIRECT, ids=lambda requirement: requirement.name)
def test_the_lock_has_every_direct_dependency(wanted: Requirement) -> None:
    assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)])


def test_the_lock_has_no_package_for_one_kind_of_device() -> None:
    assert LOCKED[canonicalize_name("torch")] == "2.13.0"
    assert not [name for name in LOCKED if re.match(r"nvidia|cuda|triton|mvsa", name)]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_has_all_that_its_packages_need(python: str) -> None:
    missing = []
    for name in LOCKED:
        asked = [{"python_version": python, "extra": extra} for extra in ASKED.get(name, [""])]
        for need in map(Requirement, requires(name) or []):
            here = need.marker is None or any(map(need.marker.evaluate, asked))
            if here and not need.specifier.contains(LOCKED.get(canonicalize_name(need.name), ""), prereleases=True):
                missing.append(f"{name} needs {need}")
    assert not missing, missing


def test_no_file_says_where_packages_come_from() -> None:
    files = [
        ROOT / "Makefile",
        ROOT / "requirements.lock",
        ROOT / "pyproject.toml",
        *(ROOT / ".ci").iterdir(),
        *WORKFLOWS,
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert not [name for name, text in texts.items() if re.search(r"index-url|find-links|file://|--index\b", text)]


def steps(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    for job in jobs:
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_exists(path: Path) -> None:
    for step in steps(yaml.safe_load(path.read_text(encoding="utf-8"))):
        uses, run = step.get("uses", ""), step.get("run", "")
        assert uses or run
        assert not uses.startswith("./") or (ROOT / uses / "action.yml").is_file()
        assert uses.startswith("./") or not uses or re.fullmatch(r"actions/[a-z-]+@v\d+", uses)
        assert set(re.findall(r"\bmake ([a-z]+)", run)) <= TARGETS
        assert all((ROOT / script).is_file() for script in re.findall(r"\bbash (\S+\.sh)", run))


def test_workflows_may_write_no_more_than_comments() -> None:
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")).get("permissions") for path in WORKFLOWS}
    assert found == {
        "action": None,
        "ci": {"contents": "read"},
        "compare": {"contents": "read", "pull-requests": "write"},
    }


@pytest.mark.parametrize("script", [".ci/run", ".github/scripts/compare.sh"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0


def test_ci_goes_through_the_makefile() -> None:
    assert {"lint", "test"} == set(
        re.findall(r"^make ([a-z]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"repro", "test", "ui", "lint", "help"} <= TARGETS


@pytest.mark.parametrize(("failing", "code"), [("none", 0), ("lint", 1), ("test", 1)])
def test_ci_runs_both_and_says_that_it_is_ci(tmp_path: Path, failing: str, code: int) -> None:
    # With these on PATH, nothing is installed.
    there = dict.fromkeys(("initdb", "chromium", "chromedriver"), "")
    for name, line in {"make": f'echo "$1 $CI"; [ "$1" != {failing} ]', **there}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["bash", ROOT / ".ci/run"], env=environment, capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.returncode) == (["lint 1", "test 1"], code)


def test_a_test_has_one_thread() -> None:
    import torch

    assert torch.get_num_threads() == 1


# A Python that makes the virtual environment out of copies of itself and writes down what it is asked to do.
STAND_IN = """#!/bin/sh
case "$*" in
*version_info*) exit {too_old};;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
*"pip"*"install -r"*) sleep 0.2; echo install >> {log}; exit $(cat {fails});;
*--version*) ;;
*"mlflow ui"*) echo "$*" >> {log}; echo "store $MLFLOW_BACKEND_STORE_URI" >> {log};;
*) echo "$*" >> {log};;
esac
"""


class Checkout:
    """A folder with the Makefile and the lock, where installing takes no time."""

    def __init__(self, folder: Path, *, too_old: bool = False) -> None:
        self.folder, self.log, self.fails = folder, folder / "log", folder / "fails"
        for name in ("Makefile", "requirements.lock"):
            shutil.copy(ROOT / name, folder)
        self.python = folder / "stand-in"
        self.python.write_text(STAND_IN.format(log=self.log, fails=self.fails, too_old=int(too_old)))
        self.python.chmod(0o755)
        self.fails.write_text("0")

    def make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # What an outer make was told is not for this one.
        outer = ("MAKE", "MFLAGS", "MLFLOW", "ARGS", "JOBS", "PORT", "VENV")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        command = ["make", f"PYTHON={self.python}", *arguments]
        return subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, timeout=60)

    def did(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


LINT = ["-m ruff check", "-m ruff format --check", "-m mypy"]


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("repro", ["-m dvc repro"]),
        ("test", ["-m pytest -n 2 --dist loadfile --no-loadscope-reorder ?"]),
        ("lint", LINT),
        ("ui", ["-m mlflow ui --host 127.0.0.1 --port 5000 --workers 1", "store sqlite:///mlruns/mlflow.db"]),
    ],
)
def test_a_target_sets_up_first_and_only_once(checkout: Checkout, target: str, runs: list[str]) -> None:
    assert checkout.make(target).returncode == 0
    first = checkout.did()
    assert checkout.make(target).returncode == 0
    assert first == ["install", *checkout.did()]
    assert all(re.fullmatch(wanted, done) for wanted, done in zip(runs, first[1:], strict=True))


def test_ui_hides_database_password(checkout: Checkout) -> None:
    address = "postgresql://user:secret@host/runs"
    assert checkout.make("ui", f"MLFLOW_TRACKING_URI={address}").returncode == 0
    command, store = checkout.did()[1:]
    assert "secret" not in command and store == f"store {address}"


def test_dvc_is_told_where_there_is_no_git(checkout: Checkout) -> None:
    (checkout.folder / ".dvc").mkdir()
    checkout.make("repro")
    assert checkout.did()[1:] == ["-m dvc config --local core.no_scm true", "-m dvc repro"]
    (checkout.folder / ".git").mkdir()
    checkout.make("repro")
    assert checkout.did() == ["-m dvc repro"]


def test_another_lock_is_installed(checkout: Checkout) -> None:
    checkout.make("lint")
    with (checkout.folder / "requirements.lock").open("a") as file:
        file.write("more==1.0\n")
    checkout.did()
    checkout.make("lint")
    assert checkout.did() == ["install", *LINT]


def test_an_installation_that_failed_is_done_again(checkout: Checkout) -> None:
    checkout.fails.write_text("1")
    assert checkout.make("lint").returncode != 0
    assert checkout.did() == ["install"]
    checkout.fails.write_text("0")
    assert checkout.make("lint").returncode == 0
    assert checkout.did() == ["install", *LINT]


def test_two_at_once_install_once(checkout: Checkout) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock on this machine")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(checkout.make, ["lint", "lint"]))
    assert [done.returncode for done in both] == [0, 0]
    assert checkout.did().count("install") == 1


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    done = Checkout(tmp_path, too_old=True).make("lint")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stdout


def test_help_is_what_make_alone_says(checkout: Checkout) -> None:
    done = checkout.make()
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["help", "repro", "test", "lint", "ui", "lock"]
    assert checkout.did() == []
