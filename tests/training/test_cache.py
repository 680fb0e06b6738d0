import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import Image

from src.core.errors import UserError
from src.core.outputs import PretrainedWeights
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.data.images import open_image
from src.modeling.base import Features, ToneModel
from src.training import cache as module
from src.training import cache_shards as files
from src.training.adapter import fresh_adapter
from src.training.batching import collate
from src.training.cache import FACTS, FeatureStore

LORA = TrainingConfig(readout="head", rank=2, alpha=2, dropout=0.0, lr=0.1)


class Encoder:
    """A model's `encode`, with the size of every batch it was asked for; fails at the batch it is told to."""

    def __init__(self, model: ToneModel, fail_at: int | None = None) -> None:
        self.encode = model.encode
        self.batches: list[int] = []
        self.fail_at = fail_at
        model.encode = self  # type: ignore[method-assign]

    def __call__(self, features: Features) -> Features:
        if len(self.batches) == self.fail_at:
            raise KeyboardInterrupt
        self.batches.append(len(features["length"]))
        return self.encode(features)


@pytest.fixture
def model(tiny_model: Callable[[str], ToneModel]) -> ToneModel:
    """A model whose head alone is trained, so that pooled states are cached."""
    return tiny_model("clip")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSTS_A_SHARD", 4)


def ignore(_: int) -> None:
    pass


def ensure(store: FeatureStore, model: ToneModel, posts: list[Post], batch_size: int = 3) -> int:
    return store.ensure(model, posts, batch_size, ignore)


def features_of(model: ToneModel, post: Post) -> Features:
    batch = model.encode(collate(model.preprocess([open_image(post.image)], [post.caption])))
    return {name: value[0] for name, value in batch.items()}


def same(one: Features, other: Features, atol: float = 1e-5) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and torch.allclose(value.double(), other[name].double(), rtol=0, atol=atol)
        for name, value in one.items()
    )


def shards(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("shard-*"))


# What is encoded, and how often


def test_every_content_is_encoded_once(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    encoder, store = Encoder(model), FeatureStore.of(tmp_path, model)
    steps: list[int] = []
    assert store.ensure(model, posts[:10], 3, steps.append) == 10
    assert encoder.batches == steps == [3, 1, 3, 1, 2]  # batches of 3, shards of 4
    assert ensure(store, model, posts[:10]) == 0
    assert ensure(FeatureStore.of(tmp_path, model), model, posts[:10]) == 0
    assert sum(encoder.batches) == 10


def test_only_new_posts_are_encoded(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    ensure(FeatureStore.of(tmp_path, model), model, posts[:5])
    encoder, store = Encoder(model), FeatureStore.of(tmp_path, model)
    assert ensure(store, model, posts[3:8]) == 3
    assert sum(encoder.batches) == 3
    again = FeatureStore.of(tmp_path, model)
    assert ensure(again, model, posts[:8]) == 0
    table = again.table(posts[:8])
    assert all(same(table[n], features_of(model, post)) for n, post in enumerate(posts[:8]))


def test_repeated_post_is_encoded_once(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    encoder, store = Encoder(model), FeatureStore.of(tmp_path, model)
    twin = replace(posts[0], id="twin")
    assert ensure(store, model, [posts[0], posts[1], twin, posts[0]]) == 2
    assert sum(encoder.batches) == 2
    table = store.table([twin, posts[1], posts[0]])
    assert len(table) == 3
    assert same(table[0], table[2], atol=0)
    assert not same(table[0], table[1])


def test_another_label_is_no_other_content(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:1])
    assert ensure(store, model, [replace(posts[0], id="0", label="neutral")]) == 0


def test_no_posts_are_no_trouble(model: ToneModel, tmp_path: Path) -> None:
    store = FeatureStore.of(tmp_path, model)
    assert ensure(store, model, []) == 0
    assert len(store.table([])) == 0
    assert store.table([]).lengths() == []


# What is read back


@pytest.mark.parametrize("name", ["clip", "blip2", "tinyllava"])
@pytest.mark.parametrize("rank", [0, 2])
def test_rows_equal_encoded_features(
    name: str, rank: int, tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path
) -> None:
    model = tiny_model(name)
    with fresh_adapter(model, replace(LORA, rank=rank), seed=1):
        store = FeatureStore.of(tmp_path, model)
        ensure(store, model, posts[:4], batch_size=1)
        table = FeatureStore.of(tmp_path, model).table(posts[:4])
        for place, post in enumerate(posts[:4]):
            assert set(table[place]) == set(model.cached_names())
            assert same(table[place], features_of(model, post), atol=0)


def test_no_padding_is_kept(tiny_model: Callable[[str], ToneModel], posts: list[Post], tmp_path: Path) -> None:
    model = tiny_model("blip2")
    with fresh_adapter(model, LORA, seed=1):
        store = FeatureStore.of(tmp_path, model)
        ensure(store, model, posts[:4], batch_size=4)
        table = store.table(posts[:4])
    lengths = [len(ids) for ids in model.token_ids([post.caption for post in posts[:4]])]
    assert len(set(lengths)) > 1
    assert [len(table[place]["tokens"]) for place in range(4)] == lengths == table.lengths()


def test_length_is_always_cached(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    """So that the batches of a training are the same wherever the boundary lies."""
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:3])
    tokens = model.token_ids([post.caption for post in posts[:3]])
    assert store.table(posts[:3]).lengths() == [len(ids) for ids in tokens]


def test_rows_are_copies(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:1])
    table = store.table(posts[:1])
    table[0]["pooled"].zero_()
    assert table[0]["pooled"].any()


def test_bfloat16_keeps_its_bits(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -2.5, 3e38, float("inf")], [1e-40, float("nan"), 0.0, -0.0]], dtype=torch.bfloat16)
    shard = files.open_shard(files.write(tmp_path, ["a", "b"], [{"x": row, "one": row[0]} for row in values]))
    read = {name: array.read(1) for name, array in shard.arrays.items()}
    assert read["x"].dtype == read["one"].dtype == torch.bfloat16
    assert torch.equal(read["x"].view(torch.int16), values[1].view(torch.int16))
    assert (read["x"].shape, read["one"].shape) == ((4,), ())


# What has a store of its own


def widen_crop(model: ToneModel) -> None:
    model.image_processor.size = {"shortest_edge": 80}


def other_checkpoint(model: ToneModel) -> None:
    model.checkpoint = PretrainedWeights(model.checkpoint.source, "another", "tiny")


def half(model: ToneModel) -> None:
    model.backbone.to(torch.bfloat16)


def train_vision(model: ToneModel) -> None:
    model.backbone.vision_model.post_layernorm.weight.requires_grad_(True)


def train_text(model: ToneModel) -> None:
    model.backbone.text_projection.weight.requires_grad_(True)


def test_store_key_covers_features(model: ToneModel, tiny_model: Callable[[str], ToneModel], tmp_path: Path) -> None:
    folders = [FeatureStore.of(tmp_path, model).folder]
    assert FeatureStore.of(tmp_path, model).folder == folders[0]
    for change in (widen_crop, other_checkpoint, half, train_vision, train_text):
        changed = tiny_model("clip")
        change(changed)
        folders.append(FeatureStore.of(tmp_path, changed).folder)
    folders.append(FeatureStore.of(tmp_path, tiny_model("tinyllava")).folder)
    with fresh_adapter(model, LORA, seed=1):
        folders.append(FeatureStore.of(tmp_path, model).folder)
    assert len(set(folders)) == len(folders)


def test_equal_boundaries_share_a_store(model: ToneModel, tmp_path: Path) -> None:
    folders = set()
    for rank, alpha, seed in ((2, 4, 1), (8, 1, 2)):
        with fresh_adapter(model, replace(LORA, rank=rank, alpha=alpha), seed):
            folders.add(FeatureStore.of(tmp_path, model).folder)
    assert len(folders) == 1


# What goes wrong


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(shard: Path) -> None:
        content = (shard / name).read_bytes()
        (shard / name).write_bytes(content[: int(len(content) * share)])

    return damage


def write(text: str) -> Callable[[Path], None]:
    def damage(shard: Path) -> None:
        (shard / files.INDEX).write_text(text)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(shard: Path) -> None:
        (shard / name).unlink()

    return damage


def without(key: str) -> Callable[[Path], None]:
    def damage(shard: Path) -> None:
        index = json.loads((shard / files.INDEX).read_text())
        del index[key]
        (shard / files.INDEX).write_text(json.dumps(index))

    return damage


def strange_type(shard: Path) -> None:
    (shard / files.INDEX).write_text((shard / files.INDEX).read_text().replace("float32", "float31"))


def fewer_rows(shard: Path) -> None:
    np.save(shard / "pooled.offsets.npy", np.load(shard / "pooled.offsets.npy")[:-1])


def flip_a_bit(shard: Path) -> None:
    content = bytearray((shard / "pooled.npy").read_bytes())
    content[-9] ^= 4
    (shard / "pooled.npy").write_bytes(content)


def spoil_the_head(shard: Path) -> None:
    content = (shard / "pooled.npy").read_bytes()
    (shard / "pooled.npy").write_bytes(content.replace(b"shape", b"shame", 1))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        spoil_the_head,
        cut("pooled.npy", 0.5),
        cut("pooled.npy", 0.0),
        cut("pooled.npy", 0.01),
        cut("pooled.offsets.npy", 0.9),
        cut("pooled.offsets.npy", 0.0),
        cut(files.INDEX, 0.5),
        cut(files.INDEX, 0.0),
        write("[]"),
        write("3"),
        write('{"posts": [], "features": []}'),
        remove("pooled.npy"),
        remove("pooled.offsets.npy"),
        remove(files.INDEX),
        without("posts"),
        without("features"),
        strange_type,
        fewer_rows,
    ],
)
def test_damaged_shard_is_encoded_again(
    model: ToneModel,
    posts: list[Post],
    damage: Callable[[Path], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:6])
    (spoilt,) = [shard for shard in shards(store) if len(json.loads((shard / files.INDEX).read_text())["posts"]) == 4]
    damage(spoilt)
    again = FeatureStore.of(tmp_path, model)
    assert ensure(again, model, posts[:6]) == 4
    (record,) = caplog.records
    assert str(spoilt) in record.getMessage()
    table = again.table(posts[:6])
    assert all(same(table[n], features_of(model, post)) for n, post in enumerate(posts[:6]))
    assert ensure(FeatureStore.of(tmp_path, model), model, posts[:6]) == 0


@pytest.mark.parametrize("is_replaced", [True, False])
def test_damage_that_another_process_saw_first(
    model: ToneModel, posts: list[Post], tmp_path: Path, is_replaced: bool
) -> None:
    ensure(FeatureStore.of(tmp_path, model), model, posts[:4])
    late, early = FeatureStore.of(tmp_path, model), FeatureStore.of(tmp_path, model)
    (shard,) = shards(late)
    flip_a_bit(shard)
    early.verify(posts[:4])
    assert not shards(early)
    if is_replaced:
        # A shard of equal content has the same name.
        ensure(early, model, posts[:4])
    assert ensure(late, model, posts[:4]) == (0 if is_replaced else 4)
    assert all(same(late.table(posts[:4])[n], features_of(model, post)) for n, post in enumerate(posts[:4]))


def test_unreadable_shard_is_kept(
    model: ToneModel, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:3])

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_open_array", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            FeatureStore.of(tmp_path, model)
    assert ensure(FeatureStore.of(tmp_path, model), model, posts[:3]) == 0


def test_killed_encoding_keeps_whole_shards(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    store = FeatureStore.of(tmp_path, model)
    Encoder(model, fail_at=3)  # in the middle of the second shard
    with pytest.raises(KeyboardInterrupt):
        ensure(store, model, posts[:10])
    assert len(shards(store)) == 1
    del model.encode
    again = FeatureStore.of(tmp_path, model)
    assert ensure(again, model, posts[:10]) == 6
    assert len(again.table(posts[:10])) == 10


def test_killed_write_leaves_no_shard(
    model: ToneModel, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: object) -> str:
        raise KeyboardInterrupt

    store = FeatureStore.of(tmp_path, model)
    with monkeypatch.context() as patch:
        patch.setattr("src.training.cache_shards._checksum", die)
        with pytest.raises(KeyboardInterrupt):
            ensure(store, model, posts[:3])
    assert not shards(store)
    stale = store.folder / files._UNFINISHED
    stale.mkdir()
    (stale / "pooled.npy").write_bytes(b"half")
    again = FeatureStore.of(tmp_path, model)
    assert ensure(again, model, posts[:3]) == 3
    assert sorted(path.name for path in again.folder.iterdir()) == [FACTS, *(shard.name for shard in shards(again))]


def test_posts_of_other_processes_are_reused(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    one, other = FeatureStore.of(tmp_path, model), FeatureStore.of(tmp_path, model)
    assert ensure(one, model, posts[:4]) == 4
    encoder = Encoder(model)
    ensure(other, model, posts[:4])
    assert not encoder.batches
    tables = one.table(posts[:4]), other.table(posts[:4])
    assert all(same(tables[0][place], tables[1][place], atol=0) for place in range(4))


def test_foreign_store_is_replaced(
    model: ToneModel, posts: list[Post], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FeatureStore.of(tmp_path, model)
    ensure(store, model, posts[:3])
    with fresh_adapter(model, LORA, seed=1):
        other = FeatureStore.of(tmp_path, model)
        shutil.copytree(store.folder, other.folder)
        again = FeatureStore.of(tmp_path, model)
        assert ensure(again, model, posts[:3]) == 3
        assert set(again.table(posts[:3])[0]) == set(model.cached_names())
    (record,) = caplog.records
    assert f"{other.folder} is not used: it does not say that it is of this boundary" in record.getMessage()


def test_small_disk_is_refused_first(
    model: ToneModel, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    store = FeatureStore.of(tmp_path, model)
    with pytest.raises(UserError, match=r"has 0\.0 MiB left, and the cache of 10 posts needs") as refusal:
        ensure(store, model, posts[:10])
    assert "\n" not in str(refusal.value)
    assert not list(store.folder.iterdir())


# What is on the way to something deeper


class Opener:
    """Counts the pictures that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr("src.training.cache_encoder.open_image", self)

    def __call__(self, source: Path, **options: int) -> Image:
        self.count += 1
        return open_image(source, **options)


@pytest.mark.parametrize("name", ["clip", "blip2", "tinyllava"])
def test_deeper_boundary_reuses_features(
    name: str,
    tiny_model: Callable[[str], ToneModel],
    posts: list[Post],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, opener = tiny_model(name), Opener(monkeypatch)
    with fresh_adapter(model, LORA, seed=1):
        ensure(FeatureStore.of(tmp_path, model), model, posts[:4])
    assert opener.count == 4
    for settings in (replace(LORA, adapter_layers="last-1"), replace(LORA, rank=0)):
        with fresh_adapter(model, settings, seed=1):
            store = FeatureStore.of(tmp_path, model)
            assert ensure(store, model, posts[:6]) == 6
            table = store.table(posts[:6])
            assert all(same(table[n], features_of(model, post)) for n, post in enumerate(posts[:6]))
    assert opener.count == 6  # every picture once


def test_other_weights_are_not_reused(
    model: ToneModel, posts: list[Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = Opener(monkeypatch)
    with fresh_adapter(model, LORA, seed=1):
        ensure(FeatureStore.of(tmp_path, model), model, posts[:4])
    other_checkpoint(model)
    ensure(FeatureStore.of(tmp_path, model), model, posts[:4])
    assert opener.count == 8


def test_missing_image_is_named(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    store = FeatureStore.of(tmp_path, model)
    gone = replace(posts[1], image=str(tmp_path / "gone.jpg"), digest="gone")
    with pytest.raises(UserError, match=r"gone\.jpg cannot be used: the image is not there"):
        ensure(store, model, [posts[0], gone])
    assert not shards(store)
