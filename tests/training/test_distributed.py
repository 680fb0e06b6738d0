"""Two CPU processes against one: real ones, started by `accelerate launch` with the configs that users take."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from src.core.errors import UsageError
from src.core.files import read_json, write_json
from src.core.outputs import BestTrial, adapter_digest
from src.core.paths import CACHE, PARAMS, POSTS, SPLIT, SPLIT_REPORT, checkpoint_file, checkpoint_folder, stage_folder
from src.core.records import ADAPTER_DIGEST, Post, read_predictions, write_posts, write_split
from src.modeling.base import ToneModel
from src.training.adapter import saved_adapter
from src.training.batching import shard_batches
from src.training.distributed import SINGLE_PROCESS, loading_device, open_distributed, own_device
from src.training.inference import logits, predictions
from tests.split_report import split_report
from tests.warm import WarmPython

HERE = Path(__file__).parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PROGRAM = script("trained_in_parallel")


def launch(root: Path, config: str, *words: str, folder: Path, python: WarmPython, code: int = 0) -> str:
    """What two processes say, standard error included."""
    launcher = ["accelerate.commands.launch", "--config_file", str(root / "configs" / config), *words]
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(root)}
    return python.start(folder, *launcher, environment=own).output(code)


# Who computes what


def test_processes_share_batches_evenly() -> None:
    for num_batches in range(1, 9):
        batches = [[2 * number, 2 * number + 1] for number in range(num_batches)]
        for num_processes in range(1, 5):
            hands = [shard_batches(batches, rank, num_processes) for rank in range(num_processes)]
            assert len({len(hand) for hand in hands}) == 1
            assert sorted(batch for hand in hands for batch, counts in hand if counts) == batches
            assert all(batch == [0] for hand in hands for batch, counts in hand if not counts)


def test_one_process_has_all_batches() -> None:
    assert shard_batches([[2], [0], [1]], 0, 1) == [([2], True), ([0], True), ([1], True)]


# What a process is told by its environment


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of the second of two processes."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_unlaunched_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a scheduler sets it
    with open_distributed() as parallel:
        assert parallel is SINGLE_PROCESS
    assert loading_device() == own_device()


def test_processes_take_their_gpu(launched: pytest.MonkeyPatch) -> None:
    launched.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device() == loading_device() == torch.device("cuda", 1)
    launched.setenv("ACCELERATE_USE_FSDP", "true")
    assert (own_device(), loading_device()) == (torch.device("cuda", 1), torch.device("cpu"))
    launched.setenv("ACCELERATE_USE_CPU", "True")
    assert own_device() == torch.device("cpu")
    launched.delenv("LOCAL_RANK")
    launched.delenv("ACCELERATE_USE_CPU")
    assert own_device() == loading_device() == torch.device("cuda")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision: no"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "use_deepspeed: false"),
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_RESHARD_AFTER_FORWARD", "false", "fsdp_reshard_after_forward: true"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: false"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading: false"),
    ],
)
def test_unsupported_config_is_refused(launched: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    launched.setenv(variable, value)
    with pytest.raises(UsageError, match=f"the accelerate config must say {said}"), open_distributed():
        pytest.fail("it went on")


def test_more_processes_than_gpus_are_refused(launched: pytest.MonkeyPatch) -> None:
    launched.setattr(torch.cuda, "is_available", lambda: True)
    launched.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="2 processes for 1 GPUs"), open_distributed():
        pytest.fail("it went on")


# Two processes against one


class Trained:
    """What the program's trainings came to, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, case: str, way: str, rank: int = 0) -> Any:
        return read_json(self.folder / f"{case}, {way}.{rank}.json")

    def shapes(self, case: str, way: str) -> dict[str, torch.Size]:
        files = sorted((self.folder / f"{case}, {way}").glob("*.safetensors"))
        return {f"{file.name} {name}": weight.shape for file in files for name, weight in load_file(file).items()}


@pytest.fixture(scope="module")
def trained(
    posts: list[Post],
    tiny_model: Callable[[str], ToneModel],
    repo_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm_python: WarmPython,
) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    for name in {case.model for case in PROGRAM.CASES.values()}:
        shutil.copytree(tiny_model(name).checkpoint.source, folder / "checkpoints" / name)
    for name, case in PROGRAM.CASES.items():
        model = tiny_model(case.model).to(case.dtype)
        write_json(
            folder / f"{name}, alone.0.json",
            PROGRAM.train(model, case, posts, folder, f"{name}, alone", SINGLE_PROCESS),
        )
    program = str(HERE / "trained_in_parallel.py")
    launch(repo_root, "fsdp.yaml", program, str(folder), folder=folder, python=warm_python)
    return Trained(folder)


each_way = pytest.mark.parametrize("way", ["data-parallel", "sharded"])
each_case = pytest.mark.parametrize("case", PROGRAM.CASES)


def numbers(rows: list[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if isinstance(value, float | int)} for row in rows]


@pytest.mark.slow
@each_case
@each_way
def test_epochs_equal_those_of_one_process(trained: Trained, case: str, way: str) -> None:
    alone, both, tolerance = trained.of(case, "alone"), trained.of(case, way), PROGRAM.CASES[case].tolerance
    assert len(alone["history"]) == PROGRAM.CASES[case].last
    assert both["history"] == [pytest.approx(row, abs=tolerance) for row in alone["history"]]
    assert both["best_epoch"] == alone["best_epoch"]
    assert numbers(both["predictions"]) == [pytest.approx(row, abs=tolerance) for row in numbers(alone["predictions"])]


@pytest.mark.slow
@each_case
@each_way
def test_processes_differ_in_dropout_alone(trained: Trained, case: str, way: str) -> None:
    main, other = (trained.of(case, way, rank) for rank in (0, 1))
    for name in ("history", "best_epoch", "predictions"):
        assert main[name] == other[name]
    assert main["draws"] == trained.of(case, "alone")["draws"] != other["draws"]


@pytest.mark.slow
@each_case
@each_way
def test_adapter_equals_that_of_one_process(
    trained: Trained, case: str, way: str, tiny_model: Callable[[str], ToneModel], posts: list[Post]
) -> None:
    assert trained.shapes(case, way) == trained.shapes(case, "alone")
    settings, folder = PROGRAM.CASES[case], trained.folder / f"{case}, {way}"
    model = tiny_model(settings.model).to(settings.dtype)
    with saved_adapter(model, folder):
        val = PROGRAM.labelled(model, posts[settings.count : settings.count + PROGRAM.NUM_VAL], trained.folder)
        again = predictions(val, logits(model, val, settings.settings.batch_size))
    expected = trained.of(case, way)["predictions"]
    repeated = numbers([asdict(row) for row in again])
    assert repeated == [pytest.approx(row, abs=settings.tolerance) for row in numbers(expected)]


@pytest.mark.slow
@each_way
def test_interrupted_processes_continue(trained: Trained, way: str) -> None:
    assert [trained.of("interrupted", way, rank)["epochs"] for rank in (0, 1)] == [[2, 3], [2, 3]]
    assert trained.of("interrupted", "alone")["epochs"] == [1, 2, 3]


@pytest.mark.slow
def test_sharded_weights_are_held_in_parts(trained: Trained) -> None:
    alone = trained.of("even shares", "alone")["held"]
    held = [[trained.of("even shares", way, rank)["held"] for rank in (0, 1)] for way in ("data-parallel", "sharded")]
    assert held[0] == [alone, alone]
    assert held[1] == pytest.approx([alone / 2, alone / 2], rel=0.01)


# The command


MODEL = "clip"
CHOSEN = {"rank": 4, "alpha": 8, "lr": 0.003, "dropout": 0.0}


@pytest.fixture(scope="module")
def workplace(
    posts: list[Post],
    tiny_model: Callable[[str], ToneModel],
    repo_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder in which all stages before `train` have run, but for the cache, which is empty."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "src").symlink_to(repo_root / "src")
    params = yaml.safe_load((repo_root / PARAMS).read_text())
    params["training"]["common"].update(epochs=2, batch_size=8)
    (folder / PARAMS).write_text(yaml.safe_dump(params))
    write_posts(folder / POSTS, posts[:37])
    write_split(folder / SPLIT, {post.id: "train" if place < 24 else "val" for place, post in enumerate(posts[:37])})
    split_report().write(folder / SPLIT_REPORT)
    model = tiny_model(MODEL)
    shutil.copytree(model.checkpoint.source, folder / checkpoint_folder(MODEL))
    checkpoint = {**asdict(model.checkpoint), "source": str(checkpoint_folder(MODEL))}
    write_json(folder / checkpoint_file(MODEL), checkpoint)
    BestTrial("a study", 1, 0, 0, 0.9, dict(CHOSEN)).write(folder / stage_folder("tune", MODEL) / "best.json")
    return folder


@pytest.fixture(scope="module")
def commanded(workplace: Path, repo_root: Path, warm_python: WarmPython) -> tuple[Path, str]:
    """The folder once two processes have trained there, and what they said."""
    command = ("-m", "src.train", "--model", MODEL)
    return workplace, launch(repo_root, "ddp.yaml", *command, folder=workplace, python=warm_python)


def runs(folder: Path) -> list[Any]:
    """The runs of the model, the newest first."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(f"mvsa-{MODEL}")
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time DESC"]))


@pytest.mark.slow
def test_command_writes_once(commanded: tuple[Path, str]) -> None:
    folder, said = commanded
    assert said.count(f"{MODEL}: best epoch") == 1
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["processes"], run.data.tags["sharded"]) == ("2", "False")
    written = stage_folder("train", MODEL)
    assert len(read_predictions(folder / written / "predictions.csv")) == 13
    digest = adapter_digest(folder / written / "adapter", run.data.tags["checkpoint_revision"])
    assert run.data.tags[ADAPTER_DIGEST] == digest
    assert {path.name for path in (folder / written).iterdir()} == {
        "adapter",
        "history.csv",
        "predictions.csv",
        "train.json",
    }


@pytest.mark.slow
def test_processes_encode_each_post_once(commanded: tuple[Path, str]) -> None:
    indices = [json.loads(path.read_text()) for path in (commanded[0] / CACHE).rglob("index.json")]
    encoded = [post for index in indices for post in index["posts"]]
    assert len(encoded) == len(set(encoded)) == 37


@pytest.mark.slow
def test_dead_process_ends_the_training(commanded: tuple[Path, str], repo_root: Path, warm_python: WarmPython) -> None:
    folder, _ = commanded
    program = folder / "dying.py"
    program.write_text(
        "import os, signal\n"
        "from src.training import trainer\n"
        "from src.train import main\n"
        "if os.environ['RANK'] == '1':\n"
        "    trainer.clip_grad_norm_ = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main()\n"
    )
    said = launch(repo_root, "ddp.yaml", str(program), "--model", MODEL, folder=folder, code=1, python=warm_python)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "this process has lost the others" in line or "the launcher ends this training" in line
    assert "Traceback" not in said.split("ChildFailedError")[0].split("error: ")[0]
    newest, before = runs(folder)
    assert newest.info.status == "FAILED" and newest.data.tags["failure"]
    assert before.info.status == "FINISHED"
