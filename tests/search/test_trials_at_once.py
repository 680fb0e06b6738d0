"""Covers: trials side by side in one worker, on a real small model whose prefix every step computes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.core.config import Params, Range, load_params
from src.core.errors import StopRequested
from src.core.records import Post
from src.core.signals import StopSignal
from src.modeling.base import ToneModel
from src.modeling.language import LanguageToneModel
from src.search.adapters import PendingAdapters
from src.search.plan import StudyPlan
from src.search.pool import LocalWorkerPool
from src.search.runner import StudyRunner
from src.search.study import RunningTrial, Study, open_study
from src.search.worker import TrialResult, TrialWorker
from src.training import train_and_test
from src.training.trainer import fit
from src.training.workspace import Workspace

EPOCHS = 3
NUM_TRAIN = 16
NUM_VAL = 8
USUAL = {
    "rank": 4,
    "lr": 3e-3,
    "dropout": 0.1,
    "patience": EPOCHS,
    "adapter_layers": "all",
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
}
PRUNED = {**USUAL, "rank": 2, "dropout": 0.2}
DIVERGES = {**USUAL, "lr": 1e36}
IMPATIENT = {**USUAL, "rank": 1, "lr": 1e-5, "dropout": 0.0, "patience": 1}
SETTINGS = [PRUNED, DIVERGES, IMPATIENT, USUAL]


def batches(size: int) -> int:
    """Return the batches of all epochs, validation included."""
    return EPOCHS * (-(-NUM_TRAIN // size) - (-NUM_VAL // size))


@dataclass
class Watched:
    """A worker, what its trials reported, and the number of runs of the prefix."""

    worker: TrialWorker
    history: dict[int, list[dict[str, float]]] = field(default_factory=dict)
    num_prefix_runs: int = 0

    def run(self, settings: list[dict[str, Any]], *counts: int) -> dict[int, TrialResult]:
        for each in settings:
            self.worker.study.raw.enqueue_trial(each)
        return {result.number: result for count in counts for result in self.worker.run(count)}

    def runner(self, folder: Path) -> StudyRunner:
        pool = LocalWorkerPool(self.worker)
        return StudyRunner(self.worker.study, pool, PendingAdapters(folder), StopSignal(), trials_at_once=3)

    def states(self) -> list[str]:
        return [trial.state for trial in self.worker.study.trials()]


@pytest.fixture
def watch(
    tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Watched]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    run_prefix = LanguageToneModel._run_prefix

    def make(name: str) -> Watched:
        model = tiny_model("tinyllava")
        parts = {"train": posts[:NUM_TRAIN], "val": posts[NUM_TRAIN : NUM_TRAIN + NUM_VAL]}
        workspace = Workspace(model, parts, cache=tmp_path / "cache")
        watched = Watched(TrialWorker(text_params(), workspace, study_of(tmp_path, name), "w"))

        def count(self: Any, states: Any, **options: Any) -> Any:
            watched.num_prefix_runs += 1
            return run_prefix(self, states, **options)

        def report(self: RunningTrial, epoch: int, metrics: Mapping[str, float], *, last: bool = False) -> bool:
            watched.history.setdefault(self.number, []).append(dict(metrics))
            return self.params["rank"] != PRUNED["rank"]

        monkeypatch.setattr(LanguageToneModel, "_run_prefix", count)
        monkeypatch.setattr(RunningTrial, "report", report)
        return watched

    monkeypatch.setattr("src.training.workspace.free_bytes", lambda _: 10_000)
    yield make
    torch.set_num_threads(threads)


def text_params() -> Params:
    params = load_params()
    common = {**params.training["common"], "epochs": EPOCHS, "adapter_positions": "text"}
    return replace(params, training={**params.training, "common": common})


def study_of(folder: Path, name: str) -> Study:
    space = {
        "rank": Range(low=1, high=16, scale="log2"),
        "lr": Range(low=1e-5, high=1e38, scale="log"),
        "dropout": Range(low=0.0, high=0.3),
        "patience": Range(low=1, high=EPOCHS),
        "adapter_layers": Range(choices=("all", "last-1")),
        "batch_size": Range(low=1, high=16, scale="log2"),
        "gradient_accumulation_steps": Range(choices=(1, 2)),
    }
    plan = StudyPlan(name=name, space=space, seed=1, startup_trials=9, pruner="none", min_epochs=1, max_epochs=EPOCHS)
    return open_study(f"sqlite:///{folder}/studies.db", plan)


def test_results_equal_those_alone(watch: Callable[[str], Watched]) -> None:
    alone = watch("alone")
    expected = alone.run(SETTINGS, 1, 1, 1, 1)
    together = watch("together")
    assert together.run(SETTINGS, 4) == expected
    assert together.history == alone.history
    assert [expected[number].state for number in range(4)] == ["pruned", "failed", "complete", "complete"]
    assert [len(alone.history.get(number, [])) for number in range(4)] == [1, 0, 2, 3]
    # The longest trial reads all batches, and the others read nothing else.
    assert together.num_prefix_runs == batches(8) < alone.num_prefix_runs


def test_other_batches_are_not_shared(watch: Callable[[str], Watched]) -> None:
    settings = [USUAL, {**USUAL, "adapter_layers": "last-1"}, {**USUAL, "batch_size": 4}, {**USUAL, "dropout": 0.3}]
    expected = watch("alone").run(settings, 1, 1, 1, 1)
    together = watch("together")
    assert together.run(settings, 4) == expected
    assert together.num_prefix_runs == 2 * batches(8) + batches(4)


def test_each_batch_of_an_accumulated_step_is_shared(watch: Callable[[str], Watched]) -> None:
    settings = [{**each, "batch_size": 4, "gradient_accumulation_steps": 2} for each in (USUAL, {**USUAL, "rank": 1})]
    expected = watch("alone").run(settings, 1, 1)
    together = watch("together")
    assert together.run(settings, 2) == expected
    assert together.num_prefix_runs == batches(4)


def test_stop_ends_all_and_they_resume(watch: Callable[[str], Watched], tmp_path: Path) -> None:
    expected = watch("alone").run([USUAL, PRUNED], 1, 1)
    together = watch("together")
    base = digest(together.worker.workspace.model)
    steps: list[int] = []

    def check() -> None:
        steps.append(1)
        if len(steps) == 5:
            raise StopRequested

    together.worker.check = check
    for settings in (USUAL, PRUNED):
        together.worker.study.raw.enqueue_trial(settings)
    with pytest.raises(StopRequested):
        together.runner(tmp_path).run(2)
    assert together.states() == ["failed", "failed", "waiting", "waiting"]
    together.worker.check = None
    together.runner(tmp_path).run(2)
    assert together.states() == ["failed", "failed", "complete", "pruned"]
    for number, result in expected.items():
        folder = tmp_path / str(number + 2)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == result.adapter
    assert digest(together.worker.workspace.model) == base


def test_broken_gpu_blames_one_trial(watch: Callable[[str], Watched], monkeypatch: pytest.MonkeyPatch) -> None:

    def break_down(model: ToneModel, train: Any, val: Any, settings: Any, context: Any) -> Any:
        if settings.rank == PRUNED["rank"]:
            raise RuntimeError("CUDA error: unspecified")
        return fit(model, train, val, settings, context)

    monkeypatch.setattr(train_and_test, "fit", break_down)
    together = watch("together")
    results = together.run([USUAL, PRUNED, USUAL], 3)
    assert [(number, result.state) for number, result in results.items()] == [(1, "failed")]
    assert together.states() == ["running"] * 3


def test_screen_says_what_is_shared(
    watch: Callable[[str], Watched], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch("recomputed").run([USUAL, PRUNED], 2)
    assert "the prefix runs once a batch" in capsys.readouterr().out
    monkeypatch.undo()
    cached = watch("cached")
    cached.run([USUAL, PRUNED], 2)
    assert "they share nothing but the base" in capsys.readouterr().out
    # The prefix runs once a post, in batches of 32, and not in a step.
    assert cached.num_prefix_runs == 2


def digest(model: ToneModel) -> list[float]:
    return [float(weight.double().abs().sum()) for weight in model.parameters()]
