"""Covers: GitHub's workflows, and `.ci/run`, by which they do all their work."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = {path.relative_to(ROOT / ".github").as_posix(): path for path in (ROOT / ".github").rglob("*.yml")}
CONTENT = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
WORKFLOWS = [name for name in FILES if name.startswith("workflows/")]
WITH_STEPS = [name for name in FILES if name != "dependabot.yml"]
JOBS = set(re.findall(r"^job_([a-z]+)\(\)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE))


def jobs(name: str) -> Mapping[str, Any]:
    """The jobs of a workflow; a composite action is one job."""
    content: Mapping[str, Any] = CONTENT[name]
    return content["jobs"] if "jobs" in content else {name: content["runs"]}


def steps(name: str) -> Iterator[Mapping[str, Any]]:
    for job in jobs(name).values():
        yield from job["steps"]


def test_actions_are_pinned_by_commit() -> None:
    lines = [line for path in FILES.values() for line in path.read_text(encoding="utf-8").splitlines()]
    used = {match[1].strip() for line in lines if (match := re.match(r"[ -]*uses:(.*)", line))}
    pinned = {use for use in used if not use.startswith("$/")}
    assert not [use for use in pinned if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)]
    # One version of each action everywhere.
    assert len(pinned) == len({use.partition("@")[0] for use in pinned}) > 0


@pytest.mark.parametrize("name", WITH_STEPS)
def test_steps_run_jobs_of_the_script(name: str) -> None:
    for step in steps(name):
        if "uses" not in step:
            script, job = step["run"].split(" ")
            assert script == ".ci/run" and job in JOBS
        elif step["uses"].startswith("$/"):
            assert (ROOT / step["uses"].removeprefix("$/") / "action.yml").is_file()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_only_read(name: str) -> None:
    assert CONTENT[name]["permissions"] == {"contents": "read"}
    wider = {job: content["permissions"] for job, content in jobs(name).items() if "permissions" in content}
    comments = {"compare": {"contents": "read", "pull-requests": "write"}}
    assert wider == (comments if name == "workflows/compare.yml" else {})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_bounded(name: str) -> None:
    assert {"group", "cancel-in-progress"} <= CONTENT[name]["concurrency"].keys()
    assert all(job["timeout-minutes"] <= 60 for job in jobs(name).values())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_checkouts_keep_no_credentials(name: str) -> None:
    checkouts = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(jobs(name))
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_updates_cover_all_actions() -> None:
    (entry,) = [
        entry for entry in CONTENT["dependabot.yml"]["updates"] if entry["package-ecosystem"] == "github-actions"
    ]
    # Dependabot reads `/` as the folder of workflows.
    actions = [f"/.github/{Path(name).parent}" for name in FILES if name.startswith("actions/")]
    assert "/" in entry["directories"]
    assert all(any(fnmatch(action, pattern) for pattern in entry["directories"]) for action in actions)


@pytest.mark.parametrize("script", [".ci/run", ".ci/compare.sh"])
def test_scripts_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


class Checkout:
    """A folder with `.ci`, and programs that only log how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        shutil.copy(ROOT / "requirements.lock", folder)
        (folder / "bin").mkdir()
        # With these programs on PATH nothing is installed.
        for name in ("make", "initdb", "chromium", "chromedriver"):
            self.fake(name)
        self.fake("python3", 'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi')

    def fake(self, name: str, line: str = "") -> None:
        """Put a program on PATH that logs its name and arguments, and then runs a line of shell."""
        program = self.folder / "bin" / name
        program.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> "{self.log}"\n{line}\n')
        program.chmod(0o755)

    def run(self, *jobs: str, **environment: str) -> int:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "GITHUB_"))}
        kept["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{kept['PATH']}"
        command = ["bash", str(self.folder / ".ci/run"), *jobs]
        return subprocess.run(command, env={**kept, **environment}, capture_output=True, timeout=60).returncode

    def logged(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(("failing", "code"), [("none", 0), ("lint", 1), ("test", 1)])
def test_ci_runs_lint_and_test(checkout: Checkout, failing: str, code: int) -> None:
    checkout.fake("make", f'echo "CI=$CI" >> {checkout.log}; [ "$1" != {failing} ]')
    assert checkout.run() == code
    assert checkout.logged() == ["make lint", "CI=1", "make test", "CI=1"]


def test_unknown_job_runs_nothing(checkout: Checkout) -> None:
    assert checkout.run("lint", "lnit") == 2
    assert not checkout.log.exists()


@pytest.mark.parametrize("code", [0, 1])
def test_audit_covers_the_lock(checkout: Checkout, code: int) -> None:
    checkout.fake(
        "python3",
        f'case "$*" in "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";; "-m pip_audit"*) exit {code};; esac',
    )
    assert checkout.run("audit") == code
    _, install, audit = checkout.logged()
    assert re.search(r"pip install .*pip-audit==[\d.]+$", install)
    assert {"--strict", "requirements.lock"} <= set(audit.split())


def test_setup_installs_locked_torch(checkout: Checkout) -> None:
    assert checkout.run("setup") == 0
    (torch,) = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch==")]
    assert checkout.logged()[0] == "python3 -m venv .venv"
    assert checkout.logged()[-1].endswith(f"--torch-backend cpu {torch}")


def test_pipeline_shows_metrics(checkout: Checkout) -> None:
    checkout.fake("make", "mkdir -p .venv/bin && ln -s ../../bin/python3 .venv/bin/python")
    checkout.fake("python3", "echo '| metric |'")
    summary = checkout.folder / "summary.md"
    assert checkout.run("pipeline", GITHUB_STEP_SUMMARY=str(summary)) == 0
    assert checkout.logged() == ["make repro", "python -m dvc metrics show --md"]
    assert "| metric |" in summary.read_text().splitlines()


@pytest.mark.parametrize(
    ("earlier", "call"),
    [
        ("", "gh api --method POST repos/o/r/issues/7/comments --field body=@comparison.md"),
        ("31\n32", "gh api --method PATCH repos/o/r/issues/comments/31 --field body=@comparison.md"),
    ],
)
def test_comment_is_written_once(checkout: Checkout, earlier: str, call: str) -> None:
    checkout.fake("gh", f'[ "$2" = --paginate ] && printf "{earlier}"; true')
    (checkout.folder / "comparison.md").write_text("<!-- mark -->\n## Differences\n")
    assert checkout.run("comment", GITHUB_REPOSITORY="o/r", NUMBER="7") == 0
    search, write = checkout.logged()
    assert 'startswith("<!-- mark -->")' in search
    assert write == call
