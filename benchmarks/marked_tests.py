"""A run of the tests that carry a marker, counted in lines of JSON.

python -m benchmarks.marked_tests gpu

Only files that use the marker are imported, so libraries that only other tests need may be absent. One line is printed
after each test.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from src.cli.options import command
from src.cli.output import say

TESTS = Path("tests")


@dataclass
class Tally:
    """A pytest plugin that counts outcomes and prints the counts after each test."""

    marker: str
    # Tests by outcome: passed, failed or skipped.
    outcomes: Counter[str] = field(default_factory=Counter)
    # Node ids of failed tests.
    failed: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the test's call, or its setup or teardown if that did not pass."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
            self.failed += [report.nodeid] if report.failed else []
            self.show()

    def show(self) -> None:
        """Print the counts so far."""
        figures = {"benchmark": "marked_tests", "marker": self.marker, **self.outcomes, "failures": self.failed}
        # The newline ends pytest's line of dots.
        say(f"\n{json.dumps(figures)}")


@command(example="python -m benchmarks.marked_tests gpu")
@click.argument("marker")
def main(marker: str) -> None:
    """Run the tests that carry a marker."""
    mark = f"pytest.mark.{marker}"
    files = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if mark in path.read_text(encoding="utf-8")]
    tally = Tally(marker)
    # Capture would hold the counts back. The cache would fail in a read-only checkout.
    code = pytest.main(["-m", marker, "--capture=no", "-p", "no:cacheprovider", *files], [tally])
    tally.show()
    raise SystemExit(int(code))


if __name__ == "__main__":
    main()
