"""One training: an adapter and a readout fitted to features, judged on the validation part after every epoch.

A plain loop rather than transformers' Trainer: `benchmarks/loop.py` measures what that saves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from src.core.errors import DivergenceError
from src.core.records import Post, Prediction
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores
from src.modeling.base import ToneModel
from src.training import curriculum
from src.training.adapter import restore, trainable_state
from src.training.batching import chunk, shard_batches, shuffled
from src.training.callbacks import TrainingCallback
from src.training.checkpoint import TrainingCheckpoint, TrainingState
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext
from src.training.inference import logits, losses, mean_loss, predictions
from src.training.loss import Loss
from src.training.memory import keep_freed_memory, micro_batch, set_checkpointing
from src.training.sharding import gathered, scatter


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training: a row of metrics an epoch, and the best epoch's weights and predictions."""

    history: tuple[Mapping[str, float], ...]
    best_epoch: int
    state: Mapping[str, Tensor]
    predictions: tuple[Prediction, ...]

    def is_over(self, settings: TrainingConfig) -> bool:
        """Whether the settings want no further epoch."""
        epochs = len(self.history)
        return epochs >= settings.epochs or epochs - self.best_epoch >= settings.patience


def fit(
    model: ToneModel,
    train: LabelledFeatures,
    val: LabelledFeatures,
    settings: TrainingConfig,
    seed: int,
    reporter: TrainingCallback,
    parallel: DistributedContext = SINGLE_PROCESS,
    keeper: TrainingCheckpoint | None = None,
) -> TrainingResult:
    """Train what is trainable in `model`; it ends with the weights of the epoch that `settings.watch` finds the best.

    Several processes call it alike, each with its own `parallel`, and all return the same; whether the training goes on
    is for the main one's reporter to say. What the `keeper` has of a training that was killed is gone on from, and
    the result is what it would have been.

    Raises:
        DivergenceError: the loss is no longer a number.
        StopRequested: the reporter was told to end it at once.
    """
    training = Trainer(model, train, settings, seed, reporter, parallel)
    found = training.resume(keeper)
    while found is None or not found.is_over(settings):
        epoch = 1 if found is None else len(found.history) + 1
        train_loss = training.epoch(epoch)
        judged, row = _validate(model, val, settings, reporter, parallel)
        history = (*(found.history if found else ()), {"epoch": epoch, "train_loss": train_loss, **row})
        if found is None or parallel.broadcast_main(_is_better(row, found.history[found.best_epoch - 1], settings)):
            found = TrainingResult(history, epoch, trainable_state(model), tuple(judged))
        found = replace(found, history=history)
        goes_on = parallel.broadcast_main(reporter.on_epoch(epoch, history[-1]))
        training.keep(keeper, found)
        if not goes_on:
            break
    restore(model, found.state)
    return found


def _is_better(row: Mapping[str, float], best: Mapping[str, float], settings: TrainingConfig) -> bool:
    if settings.monitor == "loss":
        return row["val_loss"] < best["val_loss"]
    return row["val_macro_f1"] > best["val_macro_f1"]


class Trainer:
    """What epochs have in common: the model, what it is trained on, the optimiser and its schedule.

    An epoch draws its posts, their views and the dropout by its own number: nothing need be known of the draws before.
    """

    def __init__(
        self,
        model: ToneModel,
        data: LabelledFeatures,
        settings: TrainingConfig,
        seed: int,
        reporter: TrainingCallback,
        parallel: DistributedContext,
    ) -> None:
        self.model, self.data, self.settings, self.seed = model, data, settings, seed
        self.reporter, self.parallel = reporter, parallel
        parallel.prepare(model)
        keep_freed_memory(model.device)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        decay, eps = settings.weight_decay, settings.adam_eps
        self.optimizer = AdamW(self.weights, lr=settings.lr, eps=eps, weight_decay=decay, fused=True)
        self.schedule = LambdaLR(self.optimizer, _cosine(settings, data.posts))
        set_checkpointing(model.backbone, settings.gradient_checkpointing)
        self.loss = Loss.of(settings, data.labels(range(len(data.posts))))
        self.micro = micro_batch(model, data, settings, self.loss, parallel)

    def epoch(self, epoch: int) -> float:
        """Train for an epoch, counted from 1; returns the mean loss of its posts in nats."""
        number = self.seed * 1000 + epoch
        posts, data = self._chosen(epoch), self.data.drawn(number)
        self.parallel.seed(number)
        total = 0.0
        for batch in self._batches(data, posts, number):
            total += self._step(data, batch)
            self.reporter.on_step()
        return total / len(posts)

    def _chosen(self, epoch: int) -> list[int]:
        """The places of the posts that an epoch trains on."""
        found = [0.0] * len(self.data.posts)
        if curriculum.by_loss(self.settings, epoch):
            batch_size, on_step = self.settings.batch_size, self.reporter.on_step
            found = losses(self.data, logits(self.model, self.data, batch_size, on_step, self.parallel)).tolist()
        return curriculum.chosen(self.settings, self.data.posts, found, epoch, self.seed)

    def _batches(self, data: LabelledFeatures, posts: Sequence[int], seed: int) -> list[list[int]]:
        """The posts of each optimiser step: in whatever pieces a step is computed, they are the same."""
        lengths, settings = data.features.lengths(), self.settings
        balance = [data.posts[place].label for place in posts] if settings.sampling == "balanced" else None
        size = settings.batch_size * settings.gradient_accumulation_steps
        batches = shuffled([lengths[place] for place in posts], size, seed, balance)
        return [[posts[place] for place in batch] for batch in batches]

    def _step(self, data: LabelledFeatures, batch: list[int]) -> float:
        """One optimiser step over a batch, `micro` posts at a time; returns the sum of the posts' losses in nats."""
        model, parallel = self.model, self.parallel
        model.train()
        total = torch.zeros((), device=model.device)
        pieces = chunk(batch, min(self.micro, math.ceil(len(batch) / parallel.num_processes)))
        for piece, counts in shard_batches(pieces, parallel.rank, parallel.num_processes):
            posts = len(piece) if counts else 0
            mean = self.loss(model(data.batch(piece, model.device)), data.labels(piece).to(model.device))
            (mean * posts / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += mean.detach() * posts
        found = parallel.sum(total).item()
        _require_number(found, self.settings)
        parallel.sum_gradients(self.weights)
        clip_grad_norm_(self.weights, self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def keep(self, keeper: TrainingCheckpoint | None, found: TrainingResult) -> None:
        """Have the end of an epoch kept: all that the next ones depend on."""
        if keeper is None or found.is_over(self.settings):
            return
        groups = {
            "best": found.state,
            "weights": trainable_state(self.model),
            "moments": gathered(self.optimizer),
        }
        values = {
            "history": [dict(row) for row in found.history],
            "best_epoch": found.best_epoch,
            "predictions": [asdict(row) for row in found.predictions],
            "schedule": self.schedule.state_dict(),
        }
        if self.parallel.is_main:
            tensors = {f"{group}/{name}": value for group, each in groups.items() for name, value in each.items()}
            keeper.save(TrainingState(tensors, values))

    def resume(self, keeper: TrainingCheckpoint | None) -> TrainingResult | None:
        """Put everything back to where it was kept last, if it was; returns what had been found by then."""
        standing = keeper.load() if keeper else None
        if not self.parallel.min(int(standing is not None)) or standing is None:
            return None  # or one process has no such file, and they must begin alike
        restore(self.model, standing.group("weights"))
        scatter(self.optimizer, standing.group("moments"), self.weights)
        values = standing.values
        self.schedule.load_state_dict(values["schedule"])
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        rows = tuple(Prediction(**row) for row in values["predictions"])
        return TrainingResult(tuple(values["history"]), values["best_epoch"], standing.group("best"), rows)


def _validate(
    model: ToneModel,
    data: LabelledFeatures,
    settings: TrainingConfig,
    reporter: TrainingCallback,
    parallel: DistributedContext,
) -> tuple[list[Prediction], dict[str, float]]:
    logits_NK = logits(model, data, settings.batch_size, reporter.on_step, parallel)
    val_loss = mean_loss(data, logits_NK)
    _require_number(val_loss, settings)
    found = predictions(data, logits_NK)
    headline = {f"val_{name}": value for name, value in scores(found).headline().items()}
    return found, {"val_loss": val_loss, **headline}


def _require_number(value: float, settings: TrainingConfig) -> None:
    if not math.isfinite(value):
        raise DivergenceError(f"the loss is no longer a number at lr {settings.lr:g}: try a smaller one")


def _cosine(settings: TrainingConfig, posts: Sequence[Post]) -> "Cosine":
    size = settings.batch_size * settings.gradient_accumulation_steps
    epochs = range(1, settings.epochs + 1)
    total = sum(math.ceil(curriculum.num_posts(settings, posts, epoch) / size) for epoch in epochs)
    return Cosine(max(1, round(settings.warmup_ratio * total)), total)


@dataclass(frozen=True)
class Cosine:
    """A factor on the learning rate: up in a line over `warmup` steps, then down a half cosine to 0 at `total`."""

    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        """The factor for one step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.total - self.warmup)))
