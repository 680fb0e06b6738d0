"""Predict many posts, of a folder or a table, and write the answers as a table and a page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from src.cli.output import progress, warn
from src.core.errors import UsageError, UserError
from src.core.files import require_writable, write_text
from src.data.encodings import UTF_8
from src.data.inputs import Listing, read_folder, read_table
from src.registry.answers import AnsweredPosts
from src.registry.answers_page import GENERATOR, answers_page
from src.registry.evidence import read_evidence
from src.registry.prediction import answering_version, judge, predict_posts, write_predictions_table

# The beginning of a page, in which its head ends.
_HEAD_BYTES = 2000
# The number of ignored files or columns that a warning names.
_MAX_NAMES = 8


@dataclass(frozen=True)
class AnswerFiles:
    """The files to write: a table, and a page if it is wanted."""

    table: Path
    page: Path | None

    @classmethod
    def of_options(cls, out: Path, page: Path | None, no_page: bool) -> "AnswerFiles":
        """Take the files from the options of `predict`. The page lies beside the table by default.

        Raises:
            UsageError: the page would replace the table, or by default a file that is no page of answers.
            UserError: a file cannot be written.
        """
        require_writable(out)
        if no_page:
            return cls(out, None)
        chosen = _page_of(out, page)
        require_writable(chosen)
        return cls(out, chosen)

    def require_no_input(self, listing: Listing) -> None:
        """Check that no file replaces one that is read.

        Raises:
            UsageError: one would.
        """
        for option, path in (("--out", self.table), ("--page", self.page)):
            if path and path.exists() and any(_is_same(path, read) for read in listing.files):
                raise UsageError(f"{option} {path} would overwrite an input file: name another file")

    def write(self, content: AnsweredPosts) -> None:
        """Write the answers."""
        write_predictions_table(self.table, content.rows)
        if self.page:
            write_text(self.page, answers_page(content, self.page, self.table))


def _is_same(path: Path, read: Path) -> bool:
    """Return whether two names are those of one file."""
    # Unlike a method of Path, this is false for names that no file can have.
    return os.path.isfile(read) and path.samefile(read)  # noqa: PTH113


def _page_of(out: Path, page: Path | None) -> Path:
    chosen = page or out.with_suffix(".html")
    if chosen == out or (chosen.exists() and out.exists() and chosen.samefile(out)):
        raise UsageError(
            f"the page {chosen} would overwrite the table: name another file with --page, or give --no-page"
        )
    if page is None and chosen.is_file() and GENERATOR.encode() not in chosen.read_bytes()[:_HEAD_BYTES]:
        raise UsageError(f"{chosen} exists and is no page of answers: give --page to name the page, or --no-page")
    return chosen


def predict_many(
    model: str,
    version: str | None,
    source: Path,
    columns: Mapping[str, str],
    files: AnswerFiles,
    accuracy: float | None,
) -> AnsweredPosts:
    """Predict the posts of a folder or a table, and write the answers.

    Args:
        model: the name in the catalog, or that of the ensemble.
        version: the address of the version that predicts; None for the one that `answering_version` chooses.
        source: the folder or the table.
        columns: names of a table's columns by their role, where they differ from the known ones.
        files: the files to write.
        accuracy: the accuracy that is wanted of the posts that are not left to a person, as a share.

    Raises:
        UsageError: a column is missing or ambiguous, or a file to write is one to read.
        UserError: the source holds no posts, or the version cannot be loaded or lacks what `accuracy` needs.
    """
    listing = read_folder(source) if source.is_dir() else read_table(source, columns)
    files.require_no_input(listing)
    _warn_of_ignored(listing, "files" if source.is_dir() else "columns")
    if listing.encoding != UTF_8:
        warn(f"{source} is read as {listing.encoding}")
    answering = answering_version(model, version)
    if answering.warning:
        warn(answering.warning)
    evidence = read_evidence(answering.uri)
    if accuracy is not None and evidence.curve is None:
        raise UserError(f"{evidence.version} has no validation predictions, which --accuracy needs: register it again")
    rows = []
    with progress(len(listing.posts), f"{model}: posts", "posts") as bar:
        for row in predict_posts(answering.uri, listing.posts):
            rows.append(row)
            bar.advance()
    content = AnsweredPosts(source, listing.posts, judge(rows, evidence, accuracy), evidence, accuracy)
    files.write(content)
    return content


def _warn_of_ignored(listing: Listing, kind: str) -> None:
    if listing.ignored:
        rest = len(listing.ignored) - _MAX_NAMES
        more = f" and {rest:,} more" if rest > 0 else ""
        warn(f"{kind} that are not read: {', '.join(listing.ignored[:_MAX_NAMES])}{more}")
