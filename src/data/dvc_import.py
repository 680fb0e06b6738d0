"""Import of the posts by DVC: data.dvc names the folder that `dvc repro` copies to data/.

A folder in MVSA's layout is named itself. A table is copied to a folder first (src/data/table_import.py).

The import in data.dvc is not frozen, so `dvc repro` notices another folder or other content, and copies it to data/.
DVC then deletes the old data/ with everything in it. Changes made there by hand are therefore looked for first.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.utils.serialize import YAMLFileCorruptedError, dumps_yaml, parse_yaml  # type: ignore[import-untyped]

from src.core.errors import UsageError, UserError
from src.core.files import write_text
from src.core.paths import DATA, DATA_DVC
from src.data import layouts, table_import
from src.data.reading import DatasetIndex

DVC_FOLDER = Path(".dvc")


@dataclass(frozen=True)
class Import:
    """The folder that data.dvc imports from now on."""

    index: DatasetIndex
    root: Path
    # Whether data.dvc had to be changed.
    changed: bool


def point_data_at(
    path: Path,
    *,
    names: Mapping[str, str] | None = None,
    folder: Path | None = None,
    on_post: Callable[[], None] = lambda: None,
) -> Import:
    """Make data.dvc import the posts in `path`.

    Args:
        path: what `layouts.survey` reads.
        names: the names of a table's columns that the user gives, by role.
        folder: where a table is imported to; by default beside the table.
        on_post: is called once a post of a table that is copied.

    Raises:
        UsageError: a column of a table is missing or ambiguous, or `folder` is given without a table.
        UserError: the current folder is no repository of DVC, no usable posts are there, DVC cannot store a file's
            name, or data/ was changed by hand.
    """
    if not DVC_FOLDER.is_dir():
        raise UserError(f"{DVC_FOLDER}/ is missing: run commands from the repository's root")
    index = layouts.survey(path, names)
    is_copied = layouts.is_table(path) and not table_import.is_import(path)
    if folder and not is_copied:
        raise UsageError(f"--to is for a table, and {path} is imported where it is")
    root = (folder or _folder_beside(path)) if is_copied else index.root
    _require_outside_data(index.root)
    _require_outside_data(root)
    _require_usable(index)
    _require_unedited_data()
    if is_copied:
        table_import.write_import(index, root, on_post)
    else:
        _require_encodable_names(root)
    return Import(index, root, _write_import(root))


def _folder_beside(path: Path) -> Path:
    path = path.resolve()
    return path.with_name(f"{path.name}.imported")


def _write_import(root: Path) -> bool:
    """Write `root` to data.dvc, and return whether that changes the file."""
    content = _read_import()
    source = _dependency_path(root)
    if [dep["path"] for dep in content.get("deps", [])] == [source] and not content.get("frozen"):
        return False
    # The old digest of data/ stays, so that DVC still recognises changes made there by hand.
    outs = content.get("outs", [{"path": str(DATA)}])
    write_text(DATA_DVC, dumps_yaml({"deps": [{"path": source}], "outs": outs}))
    return True


def _read_import() -> dict[str, Any]:
    if not DATA_DVC.exists():
        return {}
    try:
        content: dict[str, Any] = parse_yaml(DATA_DVC.read_text(encoding="utf-8"), str(DATA_DVC))
    except YAMLFileCorruptedError as error:
        raise UserError(f"{DATA_DVC} is not YAML: take it from git again, or remove it") from error
    return content


def _dependency_path(root: Path) -> str:
    # A path inside the repository is relative, so that it holds in clones elsewhere.
    repository = Path.cwd().resolve()
    folder = root.resolve()
    return folder.relative_to(repository).as_posix() if folder.is_relative_to(repository) else folder.as_posix()


def _require_outside_data(root: Path) -> None:
    if root.resolve().is_relative_to(DATA.resolve()):
        raise UserError(f"{root} is where `dvc repro` puts the posts: give another folder")


def _require_usable(index: DatasetIndex) -> None:
    if not index.posts:
        reasons = Counter(post.reason for post in index.dropped).most_common()
        counts = ", ".join(f"{count:,} have {reason}" for reason, count in reasons)
        raise UserError(
            f"{index.root} has no complete post (label row with a majority, image and caption): "
            f"{counts or 'it is empty'}"
        )


def _require_encodable_names(root: Path) -> None:
    for path in root.rglob("*"):
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"the name of {path} is not UTF-8, and DVC cannot import it: rename the file") from error


def _require_unedited_data() -> None:
    if DATA.exists() and _dvc_status().intersection(("modified", "new")):
        raise UserError(
            f"{DATA}/ was changed by hand, and `dvc repro` would delete the changes: move what you want to keep "
            f"elsewhere, remove {DATA}/ and try again"
        )


def _dvc_status() -> set[str]:
    """Return the kinds of difference between data/ and data.dvc."""
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json", str(DATA_DVC)], capture_output=True, text=True, check=False
    )
    if status.returncode:
        raise UserError(f"`dvc status {DATA_DVC}` fails: {status.stderr.strip().splitlines()[-1]}")
    changes = json.loads(status.stdout).get(str(DATA_DVC), [])
    return {change["changed outs"][str(DATA)] for change in changes if "changed outs" in change}
