"""Loading of versions: contracts that are kept or broken, in this process and in others."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from src.core.config import load_params
from src.core.errors import UserError
from src.core.files import write_text
from src.core.labels import TONE_LABELS
from src.core.records import Post
from src.registry.contract_file import CONTRACT_FILE
from tests.registry.conftest import MODEL, download, run

if TYPE_CHECKING:
    from torch import Tensor

    from src.modeling.base import ToneModel

pytestmark = pytest.mark.slow

CONTRACT = f"artifacts/contract/{CONTRACT_FILE}"
ADAPTER = "artifacts/adapter/adapter_model.safetensors"
HEAD = "artifacts/adapter/head.safetensors"
BASE = "artifacts/checkpoint"


@pytest.fixture
def version(downloaded: Path, tmp_path: Path) -> Path:
    """A copy of the version's files, to be spoiled."""
    return Path(shutil.copytree(downloaded, tmp_path / "version"))


def contract(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / CONTRACT).read_text())
        change(content)
        (folder / CONTRACT).write_text(json.dumps(content))

    return spoil


def weights(name: str, change: "Callable[[dict[str, Tensor]], object]") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / name)
        change(state)
        save_file(state, folder / name, metadata={"format": "pt"})

    return spoil


def drop_first(state: "dict[str, Tensor]") -> None:
    del state[min(state)]


def add_one(state: "dict[str, Tensor]") -> None:
    state["stranger"] = next(iter(state.values())).clone()


def zero_one_b(state: "dict[str, Tensor]") -> None:
    state[next(name for name in state if ".lora_B." in name)].zero_()


def nudge(state: "dict[str, Tensor]") -> None:
    for weight in state.values():
        weight.mul_(1.1)


def leave_out_contract(folder: Path) -> None:
    path = folder / "MLmodel"
    content = yaml.safe_load(path.read_text())
    del content["flavors"]["python_function"]["artifacts"]["contract"]
    path.write_text(yaml.safe_dump(content))


CAUSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing key": (weights(ADAPTER, drop_first), "adapter_model.safetensors does not fit: 1 weights missing"),
    "an unexpected key": (weights(HEAD, add_one), "head.safetensors does not fit: 1 weights .* such as stranger"),
    "a missing file": (
        lambda folder: (folder / HEAD).unlink(),
        "head.safetensors is missing: the adapter is not whole",
    ),
    "a truncated file": (lambda folder: os.truncate(folder / ADAPTER, 999), "adapter_model.safetensors cannot be read"),
    "an all-zero lora_B": (weights(ADAPTER, zero_one_b), r"adapter was never trained: all of .*lora_B.* \(1 such"),
    "another base": (
        weights(f"{BASE}/model.safetensors", nudge),
        "checkpoint has changed: its files have the digest [0-9a-f]{12}, and [0-9a-f]{12} is recorded",
    ),
    "another tokenizer": (
        lambda folder: (folder / BASE / "tokenizer_config.json").write_text("{}"),
        "checkpoint has changed: its files have the digest [0-9a-f]{12}, and [0-9a-f]{12} is recorded",
    ),
    "other answers": (weights(HEAD, nudge), "golden logits are off by .*, and 0.001.* is allowed"),
    "no answers": (
        weights(HEAD, lambda state: state[min(state)].fill_(float("nan"))),
        "golden logits are off by nan, and 0.001.* is allowed",
    ),
    "another prompt": (contract(lambda content: content.update(prompt="?")), "the prompt is .*, and the contract says"),
    "other modules": (contract(lambda content: content["adapted_modules"].pop()), "the list of adapted modules is"),
    "a version from before there were contracts": (
        leave_out_contract,
        "contract.json is missing",
    ),
    "no contract": (
        lambda folder: (folder / CONTRACT).unlink(),
        "contract.json is missing: the version has no contract",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_broken_version_does_not_load(cause: str, version: Path) -> None:
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    spoil, message = CAUSES[cause]
    spoil(version)
    with pytest.raises(MlflowException, match=message) as refusal:
        mlflow.pyfunc.load_model(str(version))
    assert "\n" not in str(refusal.value)


def test_other_hub_commit_raises(
    tiny_model: "Callable[[str], ToneModel]", downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.core.outputs import PretrainedWeights
    from src.registry import loading

    model = tiny_model(MODEL)
    model.checkpoint = PretrainedWeights("openai/clip", "b" * 40, "full")
    monkeypatch.setattr(loading, "load_model", lambda *_: model)
    wanted = replace(model.checkpoint, revision="a" * 40)
    with pytest.raises(UserError, match=f"the base openai/clip is at {'b' * 40}, .* trained on {'a' * 40}"):
        loading.load_adapter(MODEL, wanted, downloaded / "artifacts" / "adapter", TONE_LABELS)


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "ia3"])
def test_untrained_adapter_raises(
    kind: str,
    tiny_model: "Callable[[str], ToneModel]",
    tmp_path: Path,
    repo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from src.registry import loading
    from src.training import adapter as adapter_module

    model = tiny_model(MODEL)
    settings = load_params(repo_root / "params.yaml").training_config(MODEL, adapter=kind)
    with adapter_module.fresh_adapter(model, settings, seed=1) as adapter:
        adapter.save(tmp_path / "fresh")
        assert adapter.peft is not None
        with torch.no_grad():
            for weight in adapter.peft.parameters():
                if weight.requires_grad:
                    weight.add_(0.01)
        adapter.save(tmp_path / "trained")
    monkeypatch.setattr(loading, "load_model", lambda *_: model)
    with pytest.raises(UserError, match=r"fresh was never trained: all of .*(lora_B|ia3_l)"):
        loading.load_adapter(MODEL, model.checkpoint, tmp_path / "fresh", TONE_LABELS)
    model = tiny_model(MODEL)
    assert loading.load_adapter(MODEL, model.checkpoint, tmp_path / "trained", TONE_LABELS).modules()


def test_bfloat16_version_loads_in_float32(version: Path, posts: list[Post]) -> None:
    """As one that was trained on a GPU does on a CPU."""
    import torch

    from src.core.outputs import PretrainedWeights
    from src.models.catalog import model_class
    from src.registry.loading import compute_logits, load_version
    from src.training import adapter as adapter_module

    artifacts = {
        "adapter": str(version / "artifacts/adapter"),
        "contract": str(version / "artifacts/contract"),
        "base": str(version / BASE),
    }
    kept = json.loads((version / CONTRACT).read_text())
    checkpoint = PretrainedWeights.of_folder(version / BASE, "tiny")
    model = model_class(MODEL).load(checkpoint, torch.device("cpu"), torch.bfloat16)
    adapter_module.load(model, version / "artifacts/adapter")
    rows = [((version / "artifacts/contract" / post["image"]).read_bytes(), post["caption"]) for post in kept["golden"]]
    for post, logits in zip(kept["golden"], compute_logits(model, rows).tolist(), strict=True):
        post["logits"] = logits
    (version / CONTRACT).write_text(json.dumps(kept))
    with pytest.raises(UserError, match="golden logits are off by"):
        load_version(artifacts)
    (version / CONTRACT).write_text(json.dumps({**kept, "dtype": "bfloat16"}))
    loaded = load_version(artifacts)
    assert 0.001 < loaded.difference < loaded.allowed


def test_other_library_warns(version: Path) -> None:
    import mlflow.pyfunc

    contract(lambda content: content["libraries"].update(torch="1.0", absent="2.0"))(version)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mlflow.pyfunc.load_model(str(version))
    said = [str(each.message) for each in caught]
    assert any(line.startswith("torch is ") and line.endswith(", was 1.0") for line in said)
    assert "absent is not installed, was 2.0" in said


def test_weights_are_safetensors(made: Path, tmp_path: Path) -> None:
    downloaded = download(made, tmp_path)
    files = [path for path in downloaded.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".pth", ".bin", ".pyc", ".joblib")]
    heavy = {path.relative_to(downloaded).as_posix() for path in files if path.suffix == ".safetensors"}
    assert heavy == {ADAPTER, HEAD, f"{BASE}/model.safetensors"}


def closure(requirements: Iterator[str] | list[str], known: set[str]) -> set[str]:
    """The distributions that some requirements call for, directly or not."""
    for line in requirements:
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        if name in known or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        known.add(name)
        closure(distribution(name).requires or [], known)
    return known


def link_installed(names: set[str], site: Path) -> None:
    """Put the installed files of these distributions, and no others, into a folder of links."""
    site.mkdir()
    for library in map(distribution, sorted(names)):
        for top in {path.parts[0] for path in library.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(library.locate_file(top))))


LOAD = """
import json, sys
from pathlib import Path
import mlflow.pyfunc, pandas
import src.core
folder = Path(sys.argv[1])
posts = json.loads((folder / "artifacts/contract/contract.json").read_text())["golden"]
rows = [((folder / "artifacts/contract" / post["image"]).read_bytes(), post["caption"]) for post in posts]
model = mlflow.pyfunc.load_model(str(folder))
answers = model.predict(pandas.DataFrame(rows, columns=["image", "text"]))
code = {name for name, module in sys.modules.items() if str(folder) in (getattr(module, "__file__", None) or "")}
assert sys.modules["src.core"] is src.core and src.core.OWN and not hasattr(sys.modules["src"], "serve")
loaded = sorted(name for name in code if name.isidentifier())
print(json.dumps([loaded, answers[["negative", "neutral", "positive"]].values.tolist()]))
"""


def test_version_loads_in_other_application(downloaded: Path, tmp_path: Path) -> None:
    import torch

    moved = Path(shutil.copytree(downloaded, tmp_path / "alone" / "version"))
    write_text(moved.parent / "src" / "__init__.py", "")
    write_text(moved.parent / "src" / "core.py", "OWN = True\n")
    requirements = (moved / "requirements.txt").read_text().split()
    link_installed(closure(requirements, set()), tmp_path / "site")
    assert not {"dvc", "optuna", "ray"} & {path.name for path in (tmp_path / "site").iterdir()}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", LOAD, "version"],
        cwd=tmp_path / "alone",
        env={**environment, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded, answers = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in loaded if name.startswith("mvsa_tuner_")] == [
        path.name for path in (moved / "code").iterdir()
    ]
    golden = json.loads((moved / CONTRACT).read_text())["golden"]
    expected = torch.tensor([post["logits"] for post in golden]).softmax(dim=-1)
    assert torch.allclose(torch.tensor(answers), expected, atol=1e-4)
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"src", "version"}


@pytest.mark.usefixtures("warm_children")
def test_verify_runs_versions_own_code(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (own / "src" / "serve.py").unlink()
    result = run("verify", f"models:/mvsa-{MODEL}@champion")
    said = capfd.readouterr().out
    assert "adapter: 8 modules" in said
    (difference,) = re.findall(r"golden posts: 8 answered, logits off by (\S+) ", said)
    assert float(difference) <= 1e-6  # the contract holds six decimals
    assert result.output.strip() == f"mvsa-{MODEL} version 1 keeps its contract"


def test_verify_names_broken_contract(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(HEAD, nudge)(version)
    result = run("verify", str(version), code=1)
    assert result.output.startswith("error: golden logits are off by") and result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("mvsa-clip", 2, "models:/mvsa-clip@champion"),
        ("models:/mvsa-clip/7", 1, "clip has no version 7"),
        ("models:/mvsa-clip@loser", 1, "no loser of clip is registered"),
        ("data", 1, "data holds no model version"),
    ],
)
def test_unknown_version_raises(address: str, code: int, message: str, repository: Path) -> None:
    result = run("verify", address, code=code)
    assert message in result.output and result.output.count("\n") == 1
