"""Covers: real disks of a few megabytes that are full, fill up, or are read-only."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from src.core.errors import UserError
from src.core.files import require_free_space
from src.core.signals import StopSignal
from src.search import mlflow_sync as sync_module
from src.search.adapters import PendingAdapters
from src.search.mlflow_sync import MlflowSync, TrialRunMetadata
from src.search.poller import StudyPoller
from src.search.pool import LocalWorkerPool
from src.search.runner import StudyRunner
from src.search.study import Study, open_study
from src.search.worker import TrialResult
from src.tracking.client import Tracker
from src.training.cache_shards import write
from src.training.failures import writing
from tests.search.light import InProcess, LightWorker, nothing, plan
from tests.search.logged import trial_runs
from tests.search.warm import WarmCommand

# The machines of GitHub let their user become root without a password.
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "-n")


@dataclass(frozen=True)
class Disk:
    """A disk of its own, mounted on a folder."""

    folder: Path

    def mount(self, *words: str) -> None:
        done = subprocess.run([*AS_ROOT, "mount", *words, str(self.folder)], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    def set(self, option: str) -> None:
        """Change a mount option, such as size=8m or ro."""
        self.mount("-o", f"remount,{option}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.folder / "filling").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"0" * 4096)
            except OSError:
                return

    def empty(self) -> None:
        (self.folder / "filling").unlink()


MakeDisk = Callable[[Path, str], Disk]


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    """Mounts a disk of a size such as 2m on a folder until the end of the test."""
    mounted: list[Disk] = []

    def make(folder: Path, size: str) -> Disk:
        folder.mkdir(parents=True, exist_ok=True)
        disk = Disk(folder)
        disk.mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        subprocess.run([*AS_ROOT, "umount", "--lazy", str(disk.folder)], check=True)


def test_a_full_disk_is_refused(make_disk: MakeDisk, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "small", "2m")
    require_free_space(disk.folder, 2**20, "the search")
    with pytest.raises(UserError, match=r"small has 2\.0 MiB left, and the search needs 64\.0"):
        require_free_space(disk.folder, 2**26, "the search")
    disk.fill()
    with pytest.raises(UserError, match=r"small/new: No space left on device$"):
        require_free_space(disk.folder / "new", 1, "the search")
    disk.empty()
    assert not [path for path in disk.folder.rglob("*") if path.is_file()]


def test_full_disk_is_named_while_tensors_are_written(make_disk: MakeDisk, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "small", "1m")
    tensor = torch.zeros(2**20)
    with pytest.raises(OSError, match="No space") as shard_refused:
        write(disk.folder / "cache", ["a"], [{"states": tensor}])
    with pytest.raises(OSError, match="No space") as file_refused, writing(disk.folder):
        save_file({"weight": tensor}, disk.folder / "weights.safetensors")
    assert (shard_refused.value.errno, file_refused.value.errno) == (errno.ENOSPC, errno.ENOSPC)
    assert not list((disk.folder / "cache").iterdir())


def test_a_read_only_disk_is_refused(make_disk: MakeDisk, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "kept", "2m")
    disk.set("ro")
    with pytest.raises(UserError, match=r"kept: Read-only file system$"):
        require_free_space(disk.folder, 1, "the search")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rw", "error: mlruns has 2.0 MiB left, and the search needs 64.0: "),
        ("ro", "error: nothing can be written in mlruns: Read-only file system\n"),
    ],
)
def test_full_disk_stops_before_first_trial(
    option: str, message: str, repository: Path, warm: WarmCommand, make_disk: MakeDisk
) -> None:
    disk = make_disk(repository / "mlruns", "2m")
    disk.set(option)
    assert warm.run("--trials", "1", code=1).startswith(message)
    assert not (repository / "outputs" / "studies.db").exists()


WEIGHTS = b"0" * 700_000


class Keeping(InProcess):
    """Trials whose adapters take some space."""

    def run(self, count: int) -> Iterator[TrialResult]:
        for result in super().run(count):
            yield replace(result, adapter={"settings.json": b"{}", "head.safetensors": WEIGHTS})


def search(disk: Disk, total: int, during: Callable[[int], None] = nothing) -> Study:
    """Run trials of a study that keeps everything on one disk."""
    study = open_study(f"sqlite:///{disk.folder}/studies.db", plan("clip"))
    worker = Keeping(LightWorker(study, epoch_s=0, during=during))
    StudyRunner(study, LocalWorkerPool(worker), PendingAdapters(disk.folder / "trials"), StopSignal()).run(total)
    return study


def fill_in_the_third(disk: Disk) -> Callable[[int], None]:
    return lambda number: disk.fill() if number == 2 else None


@pytest.mark.parametrize(
    ("size", "during", "kind", "message", "more_room"),
    [
        ("8m", fill_in_the_third, UserError, r"^the storage of studies .*/studies\.db fails: .* is full$", Disk.empty),
        ("2m", lambda disk: nothing, OSError, "No space left on device", lambda disk: disk.set("size=8m")),
    ],
    ids=["an epoch is not recorded", "an adapter is not kept"],
)
def test_search_resumes_after_full_disk(
    size: str,
    during: Callable[[Disk], Callable[[int], None]],
    kind: type[Exception],
    message: str,
    more_room: Callable[[Disk], None],
    make_disk: MakeDisk,
    tmp_path: Path,
) -> None:
    disk = make_disk(tmp_path / "disk", size)
    with pytest.raises(kind, match=message):
        search(disk, 6, during(disk))
    assert adapters(disk) == {"0": len(WEIGHTS), "1": len(WEIGHTS)}
    more_room(disk)
    before = search(disk, 2).trials()
    assert [trial.state for trial in before] == ["complete", "complete", "failed", "waiting"]
    study = search(disk, 6)
    after = study.trials()
    assert after[:3] == before[:3]
    assert (after[3].state, after[3].params) == ("complete", before[2].params)
    assert len(study.finished()) == 6
    assert adapters(disk) == {str(trial.number): len(WEIGHTS) for trial in study.finished()}


def adapters(disk: Disk) -> dict[str, int]:
    """Return the size of the weights in each folder of pending adapters."""
    folders = (disk.folder / "trials").iterdir()
    return {folder.name: (folder / "head.safetensors").stat().st_size for folder in folders}


@pytest.mark.slow
def test_command_resumes_after_full_disk(repository: Path, warm: WarmCommand, make_disk: MakeDisk) -> None:
    disk = make_disk(repository / "disk", "4m")
    environment = {"MVSA_STORAGE": "sqlite:///disk/studies.db"}
    fault = "if len(calls) == 2: open('disk/filling', 'wb').write(bytes(2**23))"
    output = warm.run("--trials", "2", code=1, environment=environment, fault=fault).splitlines()
    assert "[1/2] trial 0 complete" in output[0]
    assert output[1:] == ["error: No space left on device"]
    disk.empty()
    output = warm.run("--trials", "2", environment=environment).splitlines()
    assert output[0] == "Trial 1 was interrupted: its settings are run again"
    assert "[2/2] trial 2 complete" in output[1]
    assert {number: run.data.tags["state"] for number, run in trial_runs().items()} == {
        0: "complete",
        1: "interrupted",
        2: "complete",
    }


def test_mlflow_recovers_from_full_disk(
    make_disk: MakeDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sync_module, "_RETRY_AFTER_S", 0)
    disk = make_disk(tmp_path / "mlruns", "5m")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{disk.folder}/mlflow.db")
    study = open_study(f"sqlite:///{tmp_path}/studies.db", plan("clip"))
    tracker, pending_adapters = Tracker("full"), PendingAdapters(tmp_path / "trials")

    def during(number: int) -> None:
        if number == 1:
            disk.fill()
        if number == 3:
            disk.empty()

    with tracker.run("study") as parent:
        sync = MlflowSync(tracker, parent, TrialRunMetadata("clip", {}, {}), pending_adapters)
        with StudyPoller(study.try_trials, [sync.show]):
            worker = InProcess(LightWorker(study, epoch_s=0.3, during=during))
            StudyRunner(study, LocalWorkerPool(worker), pending_adapters, StopSignal()).run(4)
        sync.require_all()
    children = tracker.children(parent.id)
    assert sorted(child.tags["trial"] for child in children) == ["0", "1", "2", "3"]
    assert {child.tags["state"] for child in children} == {"complete"}
    assert not list(pending_adapters.folder.iterdir())
    gone, back = capsys.readouterr().err.splitlines()
    assert "No space left on device; the search goes on" in gone or "disk is full" in gone
    assert back.startswith("warning: MLflow answers again")
