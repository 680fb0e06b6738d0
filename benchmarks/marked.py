"""Run the tests that carry a marker, and count them in lines of JSON.

python -m benchmarks.marked gpu

Only files that use the marker are imported, so that libraries which only other tests need may be absent. A line comes
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
    """A plugin of pytest that counts outcomes and prints them after each test."""

    marker: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test's call, or whatever else of it did not pass."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
            self.failed += [report.nodeid] if report.failed else []
            self.show()

    def show(self) -> None:
        """Print the counts so far."""
        figures = {"benchmark": "marked", "marker": self.marker, **self.outcomes, "failures": self.failed}
        # On a line of its own: pytest leaves the cursor behind the dot of the last test.
        say(f"\n{json.dumps(figures)}")


@command(example="python -m benchmarks.marked gpu")
@click.argument("marker")
def main(marker: str) -> None:
    """Run the tests that carry a marker."""
    mark = f"pytest.mark.{marker}"
    files = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if mark in path.read_text(encoding="utf-8")]
    tally = Tally(marker)
    # Without capture, for the counts are printed while tests run; without a cache, for the checkout may be read-only.
    code = pytest.main(["-m", marker, "--capture=no", "-p", "no:cacheprovider", *files], [tally])
    tally.show()
    raise SystemExit(int(code))


if __name__ == "__main__":
    main()
