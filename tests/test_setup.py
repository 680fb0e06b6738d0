"""Covers: requirements.lock, the Makefile's installation, and the project's packaging."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = {canonicalize_name(name): pin for name, pin in re.findall(r"^([^#=\s]+)==(\S+)$", LOCK, re.MULTILINE)}
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["cluster"], *EXTRAS["smol"])]
# The extras of direct dependencies, as in psycopg[binary].
REQUESTED_EXTRAS = {canonicalize_name(wanted.name): ["", *wanted.extras] for wanted in DIRECT}


def test_lock_holds_exact_versions() -> None:
    odd = [line for line in LOCK.splitlines() if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert not odd, odd
    assert "://" not in LOCK


@pytest.mark.parametrize("wanted", DIRECT, ids=lambda requirement: requirement.name)
def test_lock_has_direct_dependencies(wanted: Requirement) -> None:
    assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)])


def test_lock_has_no_device_packages() -> None:
    assert LOCKED[canonicalize_name("torch")] == "2.13.0"
    assert not [name for name in LOCKED if re.match(r"nvidia|cuda|triton|mvsa", name)]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_lock_has_transitive_dependencies(python: str) -> None:
    missing = []
    for name in LOCKED:
        environments = [{"python_version": python, "extra": extra} for extra in REQUESTED_EXTRAS.get(name, [""])]
        for need in map(Requirement, requires(name) or []):
            applies = need.marker is None or any(map(need.marker.evaluate, environments))
            if applies and not need.specifier.contains(LOCKED.get(canonicalize_name(need.name), ""), prereleases=True):
                missing.append(f"{name} needs {need}")
    assert not missing, missing


def test_files_name_no_package_index() -> None:
    files = [
        ROOT / "Makefile",
        ROOT / "requirements.lock",
        ROOT / "pyproject.toml",
        *(ROOT / ".ci").iterdir(),
        *(ROOT / ".github").rglob("*.yml"),
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert not [name for name, text in texts.items() if re.search(r"index-url|find-links|file://|--index\b", text)]


def test_build_has_no_modules(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src" / "core", tmp_path / "src" / "core")
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]).namelist()
    assert {name.split("/")[0] for name in names} == {f"mvsa_tuner-{PROJECT['version']}.dist-info"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_citation_agrees_with_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {key: citation[key] for key in ("version", "license")} == {
        key: PROJECT[key] for key in ("version", "license")
    }


def test_tests_have_one_thread() -> None:
    import torch

    assert torch.get_num_threads() == 1


# A fake Python: it copies itself into virtual environments and logs its arguments.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) exit {too_old};;
"-m venv "*) mkdir -p "$3/bin" && for name in python shellcheck zizmor; do cp "$0" "$3/bin/$name"; done;;
*"pip"*"install -r"*) sleep 0.2; echo install >> {log}; exit $(cat {fails});;
*--version*) ;;
*"dvc status"*) exit {up_to_date};;
*"dvc stage list"*) printf '%s\\n' split frozen@clip frozen@blip2 tune@clip report;;
*"mlflow ui"*) echo "$*" >> {log}; echo "store $MLFLOW_BACKEND_STORE_URI" >> {log};;
-m*) echo "$*" >> {log};;
*) echo "$(basename "$0") $*" >> {log};;
esac
"""


class Checkout:
    """A folder with the Makefile and the lock, whose Python only logs."""

    def __init__(self, folder: Path, *, too_old: bool = False, up_to_date: bool = False) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.fails = folder / "fails"
        for name in ("Makefile", "requirements.lock"):
            shutil.copy(ROOT / name, folder)
        self.python = folder / "fake-python"
        status = {"too_old": int(too_old), "up_to_date": int(not up_to_date)}
        self.python.write_text(FAKE_PYTHON.format(log=self.log, fails=self.fails, **status))
        self.python.chmod(0o755)
        self.fails.write_text("0")

    def make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        # Variables of an outer make would change this one.
        outer = ("MAKE", "MFLAGS", "MLFLOW", "MODELS_AT_ONCE", "ARGS", "JOBS", "PORT", "VENV")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        command = ["make", f"PYTHON={self.python}", *arguments]
        return subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, timeout=60)

    def logged(self) -> list[str]:
        """Return the logged commands, and clear the log."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


LINT = [
    "-m ruff check",
    "-m ruff format --check",
    r"shellcheck .*\.ci/run .*\.sh",
    r"zizmor .*--strict-collection \.github",
    *(
        f"-m check_jsonschema --builtin-schema vendor.{schema} .*"
        for schema in ("github-workflows", "github-actions", "dependabot", "citation-file-format")
    ),
    "-m mypy",
]


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("repro", ["-m dvc repro"]),
        ("test", ["-m pytest -n 2 --dist loadfile --no-loadscope-reorder ?"]),
        ("lint", LINT),
        ("ui", ["-m mlflow ui --host 127.0.0.1 --port 5000 --workers 1", "store sqlite:///mlruns/mlflow.db"]),
    ],
)
def test_target_installs_once(checkout: Checkout, target: str, runs: list[str]) -> None:
    assert checkout.make(target).returncode == 0
    first = checkout.logged()
    assert checkout.make(target).returncode == 0
    assert first == ["install", *checkout.logged()]
    assert all(re.fullmatch(pattern, command) for pattern, command in zip(runs, first[1:], strict=True))


def test_ui_hides_database_password(checkout: Checkout) -> None:
    address = "postgresql://user:secret@host/runs"
    assert checkout.make("ui", f"MLFLOW_TRACKING_URI={address}").returncode == 0
    command, store = checkout.logged()[1:]
    assert "secret" not in command and store == f"store {address}"


ONE_MODEL = "-m dvc --wait-for-lock repro --single-item"
MODELS = [f"{ONE_MODEL} {stages}" for stages in ("baseline", "frozen@blip2", "frozen@clip tune@clip")]
ALL_MODELS = [f"{ONE_MODEL} {stages}" for stages in ("ensemble register_ensemble noise compare", "reproduce")]


@pytest.mark.parametrize(
    ("scale", "arguments", "runs"),
    [
        ("tiny", [], MODELS),
        ("tiny", ["JOBS=1"], []),
        ("tiny", ["ARGS=-n"], []),
        ("full", [], []),
        ("full", ["MODELS_AT_ONCE=2"], MODELS),
    ],
)
def test_repro_runs_small_models_side_by_side(
    checkout: Checkout, scale: str, arguments: list[str], runs: list[str]
) -> None:
    (checkout.folder / "params.yaml").write_text(f"scale: {scale}\n")
    assert checkout.make("repro", *arguments).returncode == 0
    *side_by_side, last = checkout.logged()[1:]
    assert last.startswith("-m dvc repro")
    assert side_by_side[:1] == (["-m dvc repro split"] if runs else [])
    assert sorted(side_by_side[1 : 1 + len(MODELS)]) == runs
    assert sorted(side_by_side[1 + len(MODELS) :]) == (ALL_MODELS if runs else [])


def test_stages_side_by_side_are_those_of_the_pipeline() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = {word for line in (*MODELS, *ALL_MODELS) for word in line.removeprefix(ONE_MODEL).split()}
    per_model = {name for name, stage in stages.items() if "matrix" in stage}
    # `report` depends on all of them, and the first two precede all of them.
    assert {name for name in named if "@" not in name} == set(stages) - per_model - {"prepare", "split", "report"}


def test_nothing_runs_side_by_side_if_nothing_changed(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, up_to_date=True)
    (tmp_path / "params.yaml").write_text("scale: tiny\n")
    assert checkout.make("repro").returncode == 0
    assert checkout.logged() == ["install", "-m dvc repro"]


def test_dvc_runs_without_git(checkout: Checkout) -> None:
    (checkout.folder / ".dvc").mkdir()
    checkout.make("repro")
    assert checkout.logged()[1:] == ["-m dvc config --local core.no_scm true", "-m dvc repro"]
    (checkout.folder / ".git").mkdir()
    checkout.make("repro")
    assert checkout.logged() == ["-m dvc repro"]


def test_changed_lock_is_installed(checkout: Checkout) -> None:
    checkout.make("repro")
    with (checkout.folder / "requirements.lock").open("a") as file:
        file.write("more==1.0\n")
    checkout.logged()
    checkout.make("repro")
    assert checkout.logged() == ["install", "-m dvc repro"]


def test_failed_installation_is_repeated(checkout: Checkout) -> None:
    checkout.fails.write_text("1")
    assert checkout.make("repro").returncode != 0
    assert checkout.logged() == ["install"]
    checkout.fails.write_text("0")
    assert checkout.make("repro").returncode == 0
    assert checkout.logged() == ["install", "-m dvc repro"]


def test_parallel_makes_install_once(checkout: Checkout) -> None:
    if shutil.which("flock") is None:
        pytest.skip("no flock on this machine")
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(checkout.make, ["lint", "lint"]))
    assert [done.returncode for done in both] == [0, 0]
    assert checkout.logged().count("install") == 1


def test_old_python_is_refused(tmp_path: Path) -> None:
    done = Checkout(tmp_path, too_old=True).make("lint")
    assert done.returncode != 0
    assert "3.11" in done.stdout


def test_make_prints_help(checkout: Checkout) -> None:
    done = checkout.make()
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        "help",
        "repro",
        "smol",
        "test",
        "lint",
        "ui",
        "lock",
    ]
    assert checkout.logged() == []
