"""The layouts in which labelled posts may lie: MVSA's, a table of posts, an image folder, an imported table."""

from collections.abc import Mapping
from pathlib import Path

from src.core.errors import UsageError, UserError
from src.data import mvsa, post_table, table_import
from src.data.reading import DatasetIndex


def survey(path: Path, names: Mapping[str, str] | None = None) -> DatasetIndex:
    """List the posts in `path`, without opening their images.

    Args:
        path: a table, an image folder, or a folder in MVSA's layout or around one.
        names: the names of a table's columns that the user gives, by role.

    Raises:
        UsageError: a column of a table is missing or ambiguous, or names are given for MVSA's layout.
        UserError: nothing is there, or it is malformed.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: give a table of posts, an image folder or a folder in MVSA's layout")
    if is_table(path):
        index = post_table.survey(path, names)
        return table_import.with_left_out(index) if table_import.is_import(path) else index
    if names:
        raise UsageError(f"--column is for a table, and {path} has none")
    return mvsa.survey(mvsa.find_root(path))


def is_table(path: Path) -> bool:
    """Return whether the posts in `path` come from a table."""
    return bool(post_table.find_tables(path))
