"""Covers: the documentation. Every module stands in the tree, and every link and path leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
# What a run makes, and names that stand for any.
ELSEWHERE = re.compile(r"[<>*{]|^outputs/|^https?:")


def modules() -> set[str]:
    paths = (path for path in (ROOT / "src").rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(ROOT / "src").as_posix() for path in paths}


def tree() -> list[str]:
    """The modules in the tree of docs/architecture.md: a folder's line ends with a slash, its files are indented."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = text.split("## The tree")[1].split("```")[1]
    folder, names = "", []
    for line in block.splitlines():
        if match := re.match(r"^  (\w+)/", line):
            folder = f"{match[1]}/"
        elif match := re.match(r"^    (\w+\.py)", line):
            names.append(folder + match[1])
        elif match := re.match(r"^  (\w+\.py)", line):
            names.append(match[1])
    return names


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_tree_has_every_module_once() -> None:
    assert sorted(tree()) == sorted(modules())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for target in (name for name in targets if not ELSEWHERE.search(name)):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name) if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_code_exist(page: Path) -> None:
    names = re.findall(r"`((?:src|tests|benchmarks|docs|configs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing
