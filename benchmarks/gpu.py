"""All measurements that need a GPU, in a given number of minutes, the most valuable first.

python -m benchmarks.gpu --minutes 8 --out results
python -m benchmarks.gpu --rehearse --minutes 20 --out /tmp/rehearsal

A part is a process with a share of the remaining time. A part that exceeds its share is killed, and the figures that
it printed are kept. `results.jsonl` in the folder gets one line per part as soon as the part ends. `log.txt` gets all
output. `--rehearse` runs the same parts on tiny models, on a CPU too: it shows that they run and measures nothing. The
exit code is 0 if every part printed figures.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.lib.timeshare import LOG_FILE, RESULTS_FILE, Part, Result, run_parts
from src.cli.options import command
from src.cli.output import say, table
from src.core.paths import SAMPLE

# Time for the end of the last part and for the tables.
RESERVE_S = 3.0


def parts_of(size: str, posts: Path) -> list[Part]:
    """Return the parts, the most valuable first, for models of a size and a folder of posts."""
    python = [sys.executable, "-m"]
    of_size = ["--size", size, "--posts", str(posts)]
    # A CPU needs minutes for the posts that a GPU trains on in a second.
    few = ["--train-posts", "60", "--val-posts", "20"] if size == "tiny" else []
    steps = [
        Part(
            f"step of {model}",
            [*python, "benchmarks.step", "--model", model, *of_size, "--baseline", "--fit-memory", "--rounds", "2"],
            weight=weight,
            least_s=60,
        )
        for model, weight in (("tinyllava", 3), ("llava", 4), ("blip2", 3))
    ]
    return [
        Part("environment", [*python, "benchmarks.environment"], weight=1, least_s=30),
        *steps,
        Part("epoch of clip", [*python, "benchmarks.epoch", "--model", "clip", *of_size, *few], weight=2, least_s=40),
        Part("memory of tinyllava", [*python, "benchmarks.memory", "--model", "tinyllava", *of_size], 3, 60),
        Part("tests marked gpu", [*python, "benchmarks.marked_tests", "gpu"], weight=3, least_s=60),
    ]


@command(example="python -m benchmarks.gpu --minutes 8 --out results")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), required=True, help="Time limit of all parts together."
)
@click.option(
    "--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the results."
)
@click.option("--posts", type=click.Path(path_type=Path), default=SAMPLE, help="A folder in MVSA's layout.")
@click.option("--rehearse", is_flag=True, help="Run tiny models, on a CPU if there is no GPU.")
def main(minutes: float, folder: Path, posts: Path, rehearse: bool) -> None:
    """Run the measurements that need a GPU within a time limit."""
    parts = parts_of("tiny" if rehearse else "full", posts)
    results = run_parts(parts, minutes * 60 - RESERVE_S, folder, lambda result: say(_line(result)))
    rows = [[result.part, name, value] for result in results for name, value in flat(result.figures)]
    table("Figures", ["part", "figure", "value"], rows)
    table("Parts", ["part", "end", "seconds", "of"], [[row.part, row.end, row.seconds, row.share_s] for row in results])
    say(f"{folder / RESULTS_FILE} has one line per part, {folder / LOG_FILE} all output")
    raise SystemExit(0 if all(result.figures for result in results) else 1)


def flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested figures with their paths, such as `project.step_s`."""
    for name, value in figures.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if isinstance(inner, dict):
            yield from ((f"{name}.{rest}", leaf) for rest, leaf in flat(inner))
        else:
            yield str(name), value


def _line(result: Result) -> str:
    return f"{result.part}: {result.end} after {result.seconds:.0f} of {result.share_s:.0f} s"


if __name__ == "__main__":
    main()
