"""Covers: benchmarks.operations, by the command's JSON. The counts themselves are tests/sizing's."""

import json

import pytest
from click.testing import CliRunner

from benchmarks.operations import main


@pytest.mark.slow
def test_ratios_follow_what_runs_once() -> None:
    done = CliRunner().invoke(main, ["--model", "tinyllava", "--caption-tokens", "10", "--rank", "4"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.output.splitlines()[-1])
    everywhere, cached, alone, *at_once = [flops for flops, _ in figures["ratios"].values()]
    ascending = [1, everywhere, alone, *at_once, cached]
    assert ascending == sorted(set(ascending))


def test_clip_is_refused() -> None:
    assert CliRunner().invoke(main, ["--model", "clip"]).exit_code == 2
