import copy
import gc
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from src.cli.garbage import collect_rarely
from tests.warm import skip_syncs

if TYPE_CHECKING:
    from src.core.records import Post
    from src.data.reading import LoadedDataset
    from src.modeling.base import ToneModel
    from tests.servers import Postgres
    from tests.warm import WarmPython

# One thread per process, child processes included. More would compete for the cores, and sums would depend on their
# number. torch reads the variable when it is imported, so it is set before.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray's workers are nice and wait for the other test process, and a cluster starts two that no pool uses.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
skip_syncs()
collect_rarely()


def pytest_collection_finish() -> None:
    """Keep collections from walking what the imports of all tests have made: a failed trial collects, in a second."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("there is no GPU that torch can see")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_mvsa(repo_root: Path) -> Path:
    path = repo_root.parent / "shared" / "mvsa"
    if not path.is_dir():
        pytest.skip("the real MVSA-Single is not beside the repository")
    return path


@pytest.fixture(scope="session")
def hub_files(repo_root: Path) -> Path:
    """Tokenizers, configurations and indices of the published checkpoints, one folder each."""
    path = repo_root.parent / "shared" / "hub"
    if not path.is_dir():
        pytest.skip("the small files of the Hub's checkpoints are not beside the repository")
    return path


@pytest.fixture(scope="session")
def real_reading(real_mvsa: Path, tmp_path_factory: pytest.TempPathFactory) -> "LoadedDataset":
    """The real posts as `prepare` reads them under the standard protocol, read once for all test processes."""
    from src.core.records import MAX_PIXELS
    from src.data.mvsa import survey
    from src.data.reading import read_folder
    from tests.pipeline import once

    def make(folder: Path) -> None:
        dataset = read_folder(survey(real_mvsa), "standard", MAX_PIXELS, lambda: None)
        (folder / "dataset").write_bytes(pickle.dumps(dataset))

    folder = once(tmp_path_factory, "real", make)
    dataset: LoadedDataset = pickle.loads((folder / "dataset").read_bytes())  # noqa: S301 # written above
    return dataset


@pytest.fixture(scope="session")
def real_agreement(real_reading: "LoadedDataset") -> "list[Post]":
    """The real posts with a label under the agreement protocol."""
    agreeing = [post for post in real_reading.posts if post.text_label == post.image_label]
    return [replace(post, label=post.text_label) for post in agreeing]


@pytest.fixture(scope="session")
def posts(repo_root: Path) -> "list[Post]":
    """The posts of the committed sample with a label under the agreement protocol."""
    from src.core.records import MAX_PIXELS
    from src.data.mvsa import survey
    from src.data.reading import read_folder

    dataset = read_folder(survey(repo_root / "sample"), "agreement", MAX_PIXELS, lambda: None, hashes=False)
    return [post for post in dataset.posts if post.label]


@pytest.fixture(scope="session")
def tiny_model(posts: "list[Post]", tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], ToneModel]":
    """Return a tiny model by its catalog name. It is built once a session; each call returns a copy, free to change."""
    import torch

    from src.models.catalog import model_class, resolve_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    models: dict[str, ToneModel] = {}

    def copy_of(name: str) -> "ToneModel":
        if name not in models:
            checkpoint = resolve_checkpoint(name, "tiny", folder / name, [post.caption for post in posts])
            models[name] = model_class(name).load(checkpoint, torch.device("cpu"), torch.float32)
        return copy.deepcopy(models[name])

    return copy_of


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of one MLflow store for this process and those it starts; creating one takes seconds."""
    folder = tmp_path_factory.mktemp("tracking") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Postgres]":
    """A running PostgreSQL server. A test that stops it must start it again."""
    from tests.servers import needed_postgres_programs, postgres_server

    with postgres_server(needed_postgres_programs()) as server:
        yield server


@pytest.fixture(scope="session")
def encoded(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after all stages before `tune`, for one tiny model. Tests work in copies of it."""
    from tests.pipeline import make_encoded, once

    return once(tmp_path_factory, "encoded", partial(make_encoded, repo_root))


@pytest.fixture(scope="session")
def made(encoded: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after all stages up to `register`. Tests that change something work in copies of it."""
    from tests.pipeline import make_registered, once

    return once(tmp_path_factory, "registered", partial(make_registered, repo_root, encoded))


@pytest.fixture(scope="session")
def warm_python() -> "Iterator[WarmPython]":
    """The fork server, in which commands start without loading libraries."""
    from tests.warm import WarmPython

    python = WarmPython()
    yield python
    python.close()


@pytest.fixture
def warm_children(warm_python: "WarmPython") -> Iterator[None]:
    """Processes that the code under test starts by `sys.executable` are the fork server's."""
    with warm_python.in_place():
        yield
