"""Stage `report`: write one HTML page: findings first, then every score with its interval.

python -m src.report
"""

from src.cli.options import command
from src.cli.output import say, table
from src.core.config import load_params
from src.core.paths import REPORT, REPORT_HTML


@command(example="python -m src.report")
def main() -> None:
    """Write outputs/report/: a page (index.html) that works offline, its plots, and the table of scores."""
    params = load_params()
    from src.pipeline.report import run_report

    result = run_report(params)
    table("Test part", list(result.scores[0]), [list(row.values()) for row in result.scores])
    for sentence in result.sentences:
        say(f"- {sentence}")
    say(f"{params.notice}\nPage: {REPORT / REPORT_HTML}")


if __name__ == "__main__":
    main()
