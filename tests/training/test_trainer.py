import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from src.core.errors import DivergenceError, StopRequested
from src.core.labels import TONES
from src.core.records import Post
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores
from src.modeling.base import ToneModel
from src.models.catalog import MODELS
from src.training.adapter import fresh_adapter, trainable_state
from src.training.batching import shuffled
from src.training.cache import FeatureStore
from src.training.callbacks import NullCallback, TrainingCallback
from src.training.checkpoint import TrainingCheckpoint
from src.training.curriculum import chosen, num_posts
from src.training.dataset import LabelledFeatures
from src.training.inference import logits, losses, mean_loss, predictions
from src.training.trainer import Cosine, TrainingContext, TrainingResult, fit, schedule_for

SETTINGS = TrainingConfig(readout="head", rank=4, alpha=8, dropout=0.0, lr=0.003, batch_size=16, epochs=2)
STILL = replace(SETTINGS, lr=1e-12)  # so small a step that nothing changes
A_POST = Post("1", "1.jpg", "a caption", "positive", "positive", "positive", "digest")
TRAIN, VAL = slice(0, 48), slice(48, 80)


@pytest.fixture
def model(tiny_model: Callable[[str], ToneModel]) -> ToneModel:
    return tiny_model("tinyllava")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def data_of(model: ToneModel, posts: Sequence[Post], cache: Path) -> LabelledFeatures:
    store = FeatureStore.of(cache, model)
    store.ensure(model, posts, 16, lambda _: None)
    return LabelledFeatures(posts, store.table(posts), TONES)


class Listener:
    """Remembers what it is told; goes on for as long as `goes_on` says of an epoch, and stops at a step if asked."""

    def __init__(self, goes_on: Callable[[int], bool] = lambda epoch: True, stop_at: int = 0) -> None:
        self.heard: list[tuple[int, Mapping[str, float]]] = []
        self.steps = 0
        self.goes_on = goes_on
        self.stop_at = stop_at

    def on_batch(self) -> None:
        self.steps += 1
        if self.steps == self.stop_at:
            raise StopRequested

    def on_epoch(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        self.heard.append((epoch, dict(metrics)))
        return self.goes_on(epoch)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Learning


@pytest.mark.parametrize("readout", ["head", "verbalizer"])
def test_the_loss_falls_on_the_sample(model: ToneModel, posts: list[Post], cache: Path, readout: str) -> None:
    settings = TrainingConfig(
        readout="verbalizer" if readout == "verbalizer" else "head", rank=8, alpha=16, dropout=0.0, lr=0.003, epochs=5
    )
    listener = Listener()
    with fresh_adapter(model, settings, seed=1):
        train, val = data_of(model, posts[TRAIN], cache), data_of(model, posts[VAL], cache)
        before = mean_loss(train, logits(model, train, 16))
        fitted = fit(model, train, val, settings, TrainingContext(1, listener))
        after = mean_loss(train, logits(model, train, 16))
    losses = [row["train_loss"] for row in fitted.history]
    assert losses[-1] < 0.6 * losses[0]
    assert after < 0.8 * before
    assert listener.heard == list(enumerate(fitted.history, start=1))
    assert [row["epoch"] for row in fitted.history] == list(range(1, len(losses) + 1))
    names = {"epoch", "train_loss", "val_loss", "val_accuracy", "val_macro_f1", "val_weighted_f1"}
    assert all(set(row) == names for row in fitted.history)


def test_train_loss_is_the_posts_mean(model: ToneModel, posts: list[Post], cache: Path) -> None:
    """Whatever the batches are: the last one is short here, and so is the last group."""
    for gradient_accumulation_steps in (1, 3):
        settings = replace(STILL, batch_size=5, gradient_accumulation_steps=gradient_accumulation_steps, epochs=1)
        with fresh_adapter(model, settings, seed=1):
            data = data_of(model, posts[:23], cache)
            fitted = fit(model, data, data, settings, TrainingContext(1))
        assert fitted.history[0]["train_loss"] == pytest.approx(fitted.history[0]["val_loss"], abs=1e-5)


# Stopping


def test_training_stops_when_patience_ends(model: ToneModel, posts: list[Post], cache: Path) -> None:
    settings = replace(STILL, epochs=9, patience=2)
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:16], cache)
        fitted = fit(model, data, data, settings, TrainingContext(1))
    assert fitted.best_epoch == 1
    assert len(fitted.history) == 3


def blank(model: ToneModel) -> None:
    """Make the head say the same of every post."""
    assert isinstance(model.readout, nn.Sequential)
    last = model.readout[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def test_the_best_epochs_weights_come_back(model: ToneModel, posts: list[Post], cache: Path) -> None:
    settings = replace(SETTINGS, rank=8, alpha=16, epochs=6, patience=2)
    states: list[dict[str, Tensor]] = []

    def spoil(epoch: int) -> bool:
        states.append(trainable_state(model))
        if epoch >= 2:
            blank(model)
        return True

    with fresh_adapter(model, settings, seed=1):
        train, val = data_of(model, posts[TRAIN], cache), data_of(model, posts[VAL], cache)
        fitted = fit(model, train, val, settings, TrainingContext(1, Listener(spoil)))
        assert not any(module.training for module in model.modules())
        again = predictions(val, logits(model, val, settings.batch_size))
        ended = trainable_state(model)
    figures = [row["val_macro_f1"] for row in fitted.history]
    assert fitted.best_epoch == figures.index(max(figures)) + 1
    assert fitted.best_epoch < len(figures)  # or this test would show nothing
    assert tuple(again) == fitted.predictions
    assert scores(again).macro_f1 == max(figures)
    assert equal(ended, fitted.state)
    assert equal(ended, states[fitted.best_epoch - 1])


def test_first_of_equal_epochs_wins(model: ToneModel, posts: list[Post], cache: Path) -> None:
    settings = replace(STILL, epochs=2, patience=5)
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:16], cache)
        fitted = fit(model, data, data, settings, TrainingContext(1))
    assert fitted.history[0]["val_macro_f1"] == fitted.history[1]["val_macro_f1"]
    assert fitted.best_epoch == 1


def test_pruned_training_keeps_its_best(model: ToneModel, posts: list[Post], cache: Path) -> None:
    listener = Listener(lambda epoch: epoch < 2)
    with fresh_adapter(model, SETTINGS, seed=1):
        data = data_of(model, posts[:16], cache)
        fitted = fit(model, data, data, replace(SETTINGS, epochs=5), TrainingContext(1, listener))
    assert [epoch for epoch, _ in listener.heard] == [1, 2]
    assert [row["epoch"] for row in fitted.history] == [1, 2]
    assert len(fitted.predictions) == 16


@pytest.mark.parametrize("stop_at", [1, 2, 3], ids=["in training", "after training", "in validation"])
def test_stopping_ends_within_a_batch(model: ToneModel, posts: list[Post], cache: Path, stop_at: int) -> None:
    listener = Listener(stop_at=stop_at)
    settings = replace(SETTINGS, batch_size=8, epochs=5)
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:16], cache)
        with pytest.raises(StopRequested):
            fit(model, data, data, settings, TrainingContext(1, listener))
    assert listener.steps == stop_at
    assert listener.heard == []


@pytest.mark.parametrize(("count", "epochs"), [(48, 3), (16, 1)], ids=["in training", "in validation"])
def test_loss_of_nan_is_refused(model: ToneModel, posts: list[Post], cache: Path, count: int, epochs: int) -> None:
    settings = replace(SETTINGS, lr=1e36, epochs=epochs)
    listener = Listener()
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:count], cache)
        with pytest.raises(DivergenceError, match=r"the loss is no longer a number at lr 1e\+36: try a smaller one"):
            fit(model, data, data, settings, TrainingContext(1, listener))
    assert listener.heard == []


# The same again


def train_once(model: ToneModel, posts: list[Post], cache: Path, settings: TrainingConfig, seed: int) -> TrainingResult:
    with fresh_adapter(model, settings, seed):
        train, val = data_of(model, posts[:24], cache), data_of(model, posts[24:40], cache)
        return fit(model, train, val, settings, TrainingContext(seed))


def test_a_seed_decides_the_whole_training(
    model: ToneModel, posts: list[Post], tmp_path: Path, tiny_model: Callable[[str], ToneModel]
) -> None:
    """With dropout on; with the cache cold and warm; in a process that has done other things before."""
    settings = replace(SETTINGS, dropout=0.3, batch_size=8)
    first = train_once(model, posts, tmp_path, settings, seed=1)
    torch.randn(100)
    train_once(model, posts, tmp_path, replace(settings, rank=2), seed=2)
    again = train_once(model, posts, tmp_path, settings, seed=1)
    fresh = train_once(tiny_model("tinyllava"), posts, tmp_path, settings, seed=1)
    assert first.history == again.history == fresh.history
    assert equal(first.state, again.state)
    assert first.predictions == again.predictions
    assert train_once(model, posts, tmp_path, settings, seed=2).history != first.history


class Watched(LabelledFeatures):
    """Posts that remember in which batches they were asked for."""

    def __init__(self, data: LabelledFeatures) -> None:
        super().__init__(data.posts, data.features, data.label_names)
        self.__dict__["batches"] = []

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        self.__dict__["batches"].append(tuple(indices))
        return super().batch(indices, device)


def test_seed_decides_batches(model: ToneModel, posts: list[Post], cache: Path) -> None:
    settings = replace(STILL, rank=0, batch_size=8, epochs=2)

    def batches(seed: int) -> list[tuple[int, ...]]:
        with fresh_adapter(model, settings, seed=1):
            data = data_of(model, posts[:24], cache)
            train = Watched(data)
            fit(model, train, data, settings, TrainingContext(seed))
        batches: list[tuple[int, ...]] = train.__dict__["batches"]
        return batches

    first = batches(seed=1)
    assert len(first) == 6
    assert sorted(index for batch in first[:3] for index in batch) == list(range(24))
    assert sorted(index for batch in first[3:] for index in batch) == list(range(24))
    assert set(first[:3]) != set(first[3:])
    assert batches(seed=1) == first
    assert set(batches(seed=2)[:3]) != set(first[:3])


# One step


def test_training_is_adamw_with_the_schedule(model: ToneModel, posts: list[Post], cache: Path) -> None:
    """Against a loop written out here, one batch an epoch."""
    settings = replace(
        SETTINGS, rank=0, epochs=4, weight_decay=0.1, label_smoothing=0.1, warmup_ratio=0.5, max_grad_norm=1e9
    )
    states: list[dict[str, Tensor]] = []

    def keep(epoch: int) -> bool:
        states.append(trainable_state(model))
        return True

    with fresh_adapter(model, settings, seed=1) as adapter:
        data = data_of(model, posts[:16], cache)
        head = copy.deepcopy(adapter.readout)
        fit(model, data, data, replace(settings, patience=9), TrainingContext(1, Listener(keep)))
    pooled_BD = torch.stack([data.features[index]["pooled"] for index in range(16)])
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.1)
    for factor, state in zip([0.5, 1.0, 1.0, 0.5], states, strict=True):
        optimizer.param_groups[0]["lr"] = settings.lr * factor
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(pooled_BD), data.labels(range(16)), label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, weight in head.named_parameters():
            torch.testing.assert_close(state[f"readout.{name}"], weight.detach(), rtol=0, atol=1e-5)


def first_step(model: ToneModel, data: LabelledFeatures, settings: TrainingConfig) -> dict[str, Tensor]:
    with fresh_adapter(model, settings, seed=1):
        fit(model, data, data, replace(settings, epochs=1), TrainingContext(1))
        return trainable_state(model)


def test_small_gradients_make_small_steps(model: ToneModel, posts: list[Post], cache: Path) -> None:
    with fresh_adapter(model, SETTINGS, seed=1):
        data = data_of(model, posts[:16], cache)
        before = trainable_state(model)
    after = first_step(model, data, replace(SETTINGS, weight_decay=0.0, adam_eps=1e3))
    assert 0 < max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-2 * SETTINGS.lr


@pytest.mark.parametrize("count", [16, 13])
def test_accumulation_equals_a_large_batch(model: ToneModel, posts: list[Post], cache: Path, count: int) -> None:
    with fresh_adapter(model, SETTINGS, seed=1):
        data = data_of(model, posts[:count], cache)
        before = trainable_state(model)
    whole = first_step(model, data, SETTINGS)
    halves = first_step(model, data, replace(SETTINGS, batch_size=8, gradient_accumulation_steps=2))
    assert not equal(whole, before)
    for name, weight in whole.items():
        torch.testing.assert_close(halves[name], weight, rtol=0, atol=1e-6)
    # Two steps of eight are something else.
    assert not equal(first_step(model, data, replace(SETTINGS, batch_size=8)), whole)


def test_gradients_are_clipped_before_the_step(model: ToneModel, posts: list[Post], cache: Path) -> None:
    """AdamW divides by the gradient's size, so what shows is whether it falls below its epsilon."""
    with fresh_adapter(model, SETTINGS, seed=1):
        data = data_of(model, posts[:16], cache)
        before = trainable_state(model)
    free = first_step(model, data, replace(SETTINGS, weight_decay=0.0))
    bound = first_step(model, data, replace(SETTINGS, weight_decay=0.0, max_grad_norm=1e-12))
    steps = [max(float((state[name] - before[name]).abs().max()) for name in before) for state in (free, bound)]
    assert steps[0] == pytest.approx(SETTINGS.lr, rel=0.01)
    assert steps[1] < 1e-3 * SETTINGS.lr


# The learning rate


def test_warmup_is_linear_then_cosine() -> None:
    schedule = Cosine(warmup=2, total=6)
    factors = [schedule(step) for step in range(7)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


def test_every_step_of_a_training_learns() -> None:
    for warmup in (1, 2, 5):
        for total in range(1, 30):
            factors = [Cosine(warmup, total)(step) for step in range(total)]
            assert all(0 < factor <= 1 for factor in factors), (warmup, total)


@pytest.mark.parametrize("posts", [1, 15, 16, 17, 255, 256, 257, 1555])
@pytest.mark.parametrize(("batch_size", "gradient_accumulation_steps"), [(16, 1), (16, 4), (5, 3)])
def test_the_schedule_ends_with_the_training(posts: int, batch_size: int, gradient_accumulation_steps: int) -> None:
    settings = replace(
        SETTINGS, batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, epochs=3
    )
    steps = sum(
        len(shuffled([1] * posts, batch_size * gradient_accumulation_steps, seed)) for seed in range(settings.epochs)
    )
    schedule = schedule_for(settings, [A_POST] * posts)
    assert schedule.total == steps
    assert schedule(steps) == pytest.approx(0, abs=1e-9) or steps == schedule.warmup == 1


# Easy posts first


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_curriculum_begins_with_easy_posts(
    model: ToneModel, posts: list[Post], cache: Path, sampling: Literal["uniform", "balanced"]
) -> None:
    settings = replace(STILL, rank=0, batch_size=7, epochs=4, curriculum="loss", sampling=sampling)
    with fresh_adapter(model, settings, seed=1):
        data = data_of(model, posts[:24], cache)
        easy = chosen(settings, posts[:24], losses(data, logits(model, data, 16)).tolist(), 1, 1)
        train = Watched(data)
        fitted = fit(model, train, data, settings, TrainingContext(1))
        schedule = schedule_for(settings, posts[:24])
    asked = train.__dict__["batches"]
    sizes = [num_posts(settings, posts[:24], epoch) for epoch in range(1, 5)]
    assert len(easy) == sizes[0] < sizes[1] < sizes[2] == sizes[3] == 24
    assert schedule.total == sum(math.ceil(size / 7) for size in sizes)
    ranked = math.ceil(24 / 7)  # batches in which losses are found
    first = asked[ranked : ranked + math.ceil(sizes[0] / 7)]
    trained = [place for batch in first for place in batch]
    assert len(trained) == sizes[0]
    assert sorted(trained) == easy if sampling == "uniform" else set(trained) <= set(easy)
    assert len(fitted.history) == 4


# Killed, and gone on with


VARIED = replace(
    SETTINGS,
    dropout=0.2,
    batch_size=8,
    epochs=5,
    patience=9,
    weight_decay=0.1,
    curriculum="loss",
    curriculum_until=0.9,
    sampling="balanced",
)


@pytest.mark.parametrize(
    ("name", "monitor"), [*((name, "macro_f1") for name in MODELS), ("clip", "loss"), ("tinyllava", "loss")]
)
def test_killed_training_ends_the_same(
    name: str,
    monitor: Literal["macro_f1", "loss"],
    posts: list[Post],
    tmp_path: Path,
    tiny_model: Callable[[str], ToneModel],
) -> None:
    settings = replace(VARIED, monitor=monitor, unfreeze="connector" if "llava" in name else "")

    def train(
        callback: TrainingCallback, checkpoint: TrainingCheckpoint | None
    ) -> tuple[TrainingResult, dict[str, Tensor]]:
        model = tiny_model(name)
        with fresh_adapter(model, settings, seed=1):
            train, val = (
                data_of(model, posts[:24], tmp_path / "cache"),
                data_of(model, posts[24:40], tmp_path / "cache"),
            )
            tables = [data_of(model, posts[24 * n : 24 * n + 24], tmp_path / "cache").features for n in (1, 2)]
            fitted = fit(
                model,
                replace(train, views=tuple(tables)),
                val,
                settings,
                TrainingContext(1, callback, checkpoint=checkpoint),
            )
            return fitted, trainable_state(model)

    whole, state = train(NullCallback(), None)
    checkpoint = TrainingCheckpoint(tmp_path / "kept.safetensors", "a key")
    for stop_at in (22, 9):  # in the third epoch, and in what was the fourth
        with pytest.raises(StopRequested):
            train(Listener(stop_at=stop_at), checkpoint)
    kept = checkpoint.load()
    assert kept is not None and 1 < len(kept.values["history"]) < settings.epochs
    listener = Listener()
    fitted, ended = train(listener, checkpoint)
    assert [epoch for epoch, _ in listener.heard] == list(range(len(kept.values["history"]) + 1, settings.epochs + 1))
    assert fitted.history == whole.history
    assert (fitted.best_epoch, fitted.predictions) == (whole.best_epoch, whole.predictions)
    assert equal(fitted.state, whole.state) and equal(ended, state)


def test_patience_survives_a_kill(model: ToneModel, posts: list[Post], tmp_path: Path) -> None:
    settings = replace(STILL, epochs=9, patience=3)
    checkpoint = TrainingCheckpoint(tmp_path / "kept.safetensors", "a key")
    histories = []
    for goes_on in (lambda epoch: epoch < 2, lambda epoch: True):
        with fresh_adapter(model, settings, seed=1):
            data = data_of(model, posts[:16], tmp_path / "cache")
            histories.append(
                fit(model, data, data, settings, TrainingContext(1, Listener(goes_on), checkpoint=checkpoint)).history
            )
    assert [len(history) for history in histories] == [2, 4]
