"""What git and DVC say of the code and the data, for whoever asks later whether they are still the same."""

import subprocess
from collections.abc import Sequence

import yaml

from src.core.errors import Refusal
from src.core.paths import DATA_DVC


def data_revision() -> str:
    """The MD5 by which data.dvc knows the posts in data/; empty if there is no data.dvc, or it was never reproduced.

    Raises:
        Refusal: the file is damaged.
    """
    if not DATA_DVC.is_file():
        return ""
    try:
        (out,) = yaml.safe_load(DATA_DVC.read_text(encoding="utf-8"))["outs"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise Refusal(f"{DATA_DVC} is damaged: take it from git again") from error
    return str(out.get("md5", ""))


def has_commit(commit: str) -> bool:
    """Whether the repository here knows a commit."""
    return git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def changed_since(commit: str, paths: Sequence[str]) -> list[str]:
    """The files below `paths` that differ now from what they were at a commit of this repository."""
    changed = git("diff", "--name-only", "--no-renames", commit, "--", *paths).stdout.splitlines()
    return changed + git("ls-files", "--others", "--exclude-standard", "--", *paths).stdout.splitlines()


def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """What git says here, whoever owns the files: in a container that is often another user.

    Git warns of such a repository, for its settings may start programs. Whoever runs its code trusts it already.
    """
    command = ["git", "-c", "safe.directory=*", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not installed")
