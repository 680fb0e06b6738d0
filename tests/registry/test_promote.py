"""The command `promote`."""

from pathlib import Path

import pytest

from src.registry import registry
from src.tracking.store import open_store
from tests.registry.conftest import MODEL, run

pytestmark = pytest.mark.slow


@pytest.fixture
def second(own: Path) -> int:
    """The number of a version that is worse on validation and better on test; it has the champion's files."""
    _, first = registry.version_at(registry.uri_of(MODEL))
    tags = {**first.tags, "val_macro_f1": "0.01", "test_macro_f1": "0.99", "adapter_digest": "other"}
    source = open_store().get_model_version(first.name, str(first.number)).source
    return int(open_store().create_model_version(first.name, source, tags=tags).version)


def champion() -> int:
    version = registry.version_at_alias(MODEL)
    assert version is not None
    return version.number


def test_promotion_and_rollback(second: int) -> None:
    said = run("promote", "--model", MODEL).output
    assert f"The champion of {MODEL} stays as it is" in said and champion() == 1
    said = run("promote", "--model", MODEL, "--version", str(second)).output
    assert f"Version 2 of {MODEL} is the champion now (by hand), version 1 was" in said and champion() == second
    run("register", "--model", MODEL)
    assert champion() == second
    said = run("promote", "--model", MODEL, "--rollback").output
    assert f"Version 1 of {MODEL} is the champion now (rollback), version 2 was" in said and champion() == 1
    rows = [line.split() for line in said.splitlines()]
    assert ["2", "0.0100", "challenger"] in [row[:3] for row in rows]
    assert [row[1:] for row in rows if "T" in "".join(row[:1])] == [
        ["1", "-", "validation"],
        ["2", "1", "by", "hand"],
        ["1", "2", "rollback"],
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--rollback"], 1, "before version 1"),
        (["--version", "9"], 1, "clip has no version 9; registered: 1"),
        (["--rollback", "--version", "1"], 2, "give it or --version, not both"),
    ],
)
def test_impossible_promotion_is_one_line(words: list[str], code: int, message: str, repository: Path) -> None:
    said = run("promote", "--model", MODEL, *words, code=code).output
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
