import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from src.core.config import load_params
from src.core.data_outputs import SplitReport
from src.core.errors import UserError
from src.core.files import read_json, write_json
from src.core.outputs import PretrainedWeights
from src.core.paths import PARAMS, POSTS, SPLIT, SPLIT_REPORT, UNIMODAL, checkpoint_file
from src.core.records import Post, write_posts, write_split, write_unimodal
from src.core.training_config import TrainingConfig
from src.modeling.base import ToneModel
from src.pipeline.split import describe_split
from src.training.adapter import fresh_adapter
from src.training.inference import logits
from src.training.workspace import Workspace, open_workspace, posts_by_part

LORA = TrainingConfig(readout="head", rank=2, alpha=2, dropout=0.0, lr=0.1)
CHECKPOINT = checkpoint_file("clip")


@pytest.fixture
def workspace(
    tiny_model: Callable[[str], ToneModel],
    posts: list[Post],
    repo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workspace:
    """A folder in which `prepare`, `split` and `encode` have run, and what they wrote in memory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(repo_root / PARAMS, PARAMS)
    workspace = Workspace(tiny_model("clip"), {"train": posts[:4], "val": posts[4:6], "test": posts[6:8]})
    stages(workspace.parts)
    workspace.model.checkpoint.write(CHECKPOINT)
    return workspace


def stages(parts: dict[str, list[Post]]) -> None:
    """What `prepare` and `split` write, with a post that has no label, and in an order of its own."""
    labelled = [post for part in parts.values() for post in part]
    posts = [Post("0", "0.jpg", "no label", "positive", "negative", "", "0"), *labelled]
    part_of = {post.id: part for part in ("test", "train", "val") for post in parts[part][::-1]}
    write_posts(POSTS, posts)
    write_split(SPLIT, part_of)
    describe_split(posts, part_of, load_params(), []).write(SPLIT_REPORT)


# What scores depend on


def changes(workspace: Workspace, **parts: list[Post]) -> set[str]:
    """The facts that change when these parts are others."""
    before = workspace.facts()
    stages({**workspace.parts, **parts})
    after = open_workspace(load_params(), "clip").facts()
    assert before.keys() == after.keys()
    return {name for name in after if after[name] != before[name]}


def test_facts_name_weights_and_data(workspace: Workspace) -> None:
    facts = workspace.facts()
    checkpoint, report = workspace.model.checkpoint, SplitReport.read(SPLIT_REPORT)
    assert facts == {
        "model": "clip",
        "scale": "tiny",
        "weights": "random",
        "checkpoint": checkpoint.source,
        "checkpoint_revision": checkpoint.revision,
        "data_digest": report.data_digest,
        "split_digest": report.split_digest,
    }
    workspace.model.checkpoint = PretrainedWeights("openai/clip-vit-base-patch32", "3d74", "full")
    assert workspace.facts() == {
        **facts,
        "scale": "full",
        "weights": "pretrained",
        "checkpoint": "openai/clip-vit-base-patch32",
        "checkpoint_revision": "3d74",
    }


def test_moved_post_changes_the_split(workspace: Workspace) -> None:
    train, val = workspace.parts["train"], workspace.parts["val"]
    assert changes(workspace, train=[val[0], *train[1:]], val=[train[0], *val[1:]]) == {"split_digest"}


def test_facts_ignore_the_posts_order(workspace: Workspace) -> None:
    first, *rest = workspace.parts["train"]
    assert changes(workspace, train=[first, *rest[::-1]]) == set()


@pytest.mark.parametrize("change", [{"label": "none"}, {"digest": "another"}])
def test_changed_post_changes_the_data(workspace: Workspace, change: dict[str, str]) -> None:
    *rest, last = workspace.parts["train"]
    assert changes(workspace, train=[*rest, replace(last, **change)]) == {"data_digest"}


def test_missing_post_changes_data_and_split(workspace: Workspace) -> None:
    assert changes(workspace, train=workspace.parts["train"][:-1]) == {"data_digest", "split_digest"}


# Features


def test_features_are_of_part_and_adapter(workspace: Workspace) -> None:
    steps: list[int] = []
    assert set(workspace.data("train").features[0]) == {"length", "has_caption", "pooled"}
    with fresh_adapter(workspace.model, LORA, seed=1):
        data = replace(workspace, encode_batch_size=3).data("train", advance=steps.append)
        assert set(data.features[0]) == {"pixels", "tokens", "length", "has_caption"}
        assert steps == [3, 1]
        assert list(data.posts) == workspace.parts["train"]
        first_NK = logits(workspace.model, data, 2)
        again_NK = logits(workspace.model, workspace.data("train", advance=steps.append), 2)
    assert steps == [3, 1]
    assert torch.equal(first_NK, again_NK)
    assert len(workspace.data("val").posts) == 2


def test_altered_views_are_encoded_once(workspace: Workspace) -> None:
    settings = replace(LORA, augment="image", num_augmented_views=2)
    encoded: list[int] = []
    with fresh_adapter(workspace.model, settings, seed=1):
        assert workspace.training(LORA, advance=encoded.append).views == ()
        assert sum(encoded) == 4
        data = workspace.training(settings, advance=encoded.append)
        workspace.training(settings, advance=encoded.append)
        assert sum(encoded) == 4 + 2 * 4
    tables = (data.features, *data.views)
    assert [len(table) for table in tables] == [4, 4, 4]
    pixels = [[table[row]["pixels"] for table in tables] for row in range(4)]
    for own, first, second in pixels:
        assert not torch.equal(own, first) and not torch.equal(own, second) and not torch.equal(first, second)

    drawn = [[data.drawn(seed).features[row]["pixels"] for row in range(4)] for seed in range(20)]
    for row in range(4):
        places = [[torch.equal(view[row], each) for each in pixels[row]].index(True) for view in drawn]
        assert set(places) == {0, 1, 2}
    again = [data.drawn(3).features[row]["pixels"] for row in range(4)]
    assert all(torch.equal(one, other) for one, other in zip(again, drawn[3], strict=True))
    plain = workspace.data("val")
    assert plain.drawn(1) is plain


def test_image_logits_are_fitted_once(
    workspace: Workspace, posts: list[Post], tiny_model: Callable[[str], ToneModel]
) -> None:
    two_labels = [replace(post, label="", text_label="positive", image_label="neutral") for post in posts[8:12]]
    write_posts(POSTS, [*posts[:8], *two_labels])
    write_unimodal(UNIMODAL, two_labels)
    workspace = replace(workspace, model=tiny_model("smol"))
    plain = replace(LORA, image_head="linear")
    encoded: list[int] = []
    with fresh_adapter(workspace.model, plain, seed=1):
        segments = workspace.model.segments
        own = workspace.image_logits(plain, encoded.append)
        assert sum(encoded) == 6
        with_others = workspace.image_logits(replace(plain, unimodal_labels=True), encoded.append)
        assert sum(encoded) == 10
        assert workspace.image_logits(plain, encoded.append) is own
        assert sum(encoded) == 10
        assert workspace.model.segments == segments
        # Another division of the posts, as a fold has, is another fit.
        fold = replace(workspace, parts={**workspace.parts, "train": posts[2:6], "val": posts[:2]})
        of_fold = fold.image_logits(plain)
        assert torch.equal(replace(fold, _image_logits={}).image_logits(plain).weights_KI, of_fold.weights_KI)
    assert not torch.equal(own.weights_KI, with_others.weights_KI)
    assert not torch.equal(own.weights_KI, of_fold.weights_KI)


def test_images_with_unknown_labels_teach_nothing(
    workspace: Workspace, posts: list[Post], tiny_model: Callable[[str], ToneModel]
) -> None:
    """The labels of halves may lie outside `labels` where that of the whole post does not."""
    write_posts(POSTS, posts[:8])
    write_unimodal(UNIMODAL, [])
    settings = replace(LORA, image_head="linear", unimodal_labels=True)
    train = posts[:4]
    unknown = replace(posts[8], image_label="anger")
    found = []
    with fresh_adapter(model := tiny_model("smol"), settings, seed=1):
        for some in (train, [*train, unknown]):
            of_posts = replace(workspace, model=model, parts={"train": some, "val": posts[4:6]}, _image_logits={})
            found.append(of_posts.image_logits(settings).weights_KI)
    assert torch.equal(*found)


# From disk


def test_workspace_opens_from_stage_outputs(workspace: Workspace) -> None:
    opened = open_workspace(load_params(), "clip")
    assert opened.parts == workspace.parts
    assert opened.facts() == workspace.facts()
    assert opened.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert opened.model.backbone.dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert posts_by_part() == workspace.parts


@pytest.mark.parametrize("path", [POSTS, SPLIT, SPLIT_REPORT, CHECKPOINT])
def test_missing_stage_is_named(workspace: Workspace, path: Path) -> None:
    path.unlink()
    with pytest.raises(UserError) as refusal:
        open_workspace(load_params(), "clip").facts()
    assert str(refusal.value) == f"{path} is missing: run `dvc repro` first, which makes it"


def test_missing_checkpoint_is_refused(workspace: Workspace) -> None:
    write_json(CHECKPOINT, {**read_json(CHECKPOINT), "source": "outputs/nowhere"})
    with pytest.raises(UserError, match="outputs/nowhere cannot be loaded") as refusal:
        open_workspace(load_params(), "clip")
    assert "\n" not in str(refusal.value)
