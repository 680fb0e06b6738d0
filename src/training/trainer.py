"""The training loop: fit an adapter and a readout to cached features, and validate after every epoch.

A plain loop rather than transformers' Trainer: `benchmarks/loop.py` measures what that saves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from src.core.errors import DivergenceError
from src.core.records import Post, Prediction, Scores
from src.core.training_config import TrainingConfig
from src.evaluation.metrics import scores
from src.modeling.base import ToneModel
from src.training import curriculum
from src.training.adapter import restore, trainable_state
from src.training.batching import chunk, shard_batches, shuffled
from src.training.callbacks import NullCallback, TrainingCallback
from src.training.checkpoint import TrainingCheckpoint, TrainingState
from src.training.dataset import LabelledFeatures
from src.training.distributed import SINGLE_PROCESS, DistributedContext
from src.training.inference import logits, losses, mean_loss, predictions
from src.training.loss import Loss
from src.training.memory import micro_batch, set_checkpointing
from src.training.sharding import gathered, scatter


@dataclass(frozen=True)
class TrainingContext:
    """What a training needs besides the model, the posts and the settings."""

    # Decides the order of the posts, the augmented views and the dropout.
    seed: int
    # On several processes, the main one's decides whether the training continues.
    callback: TrainingCallback = field(default_factory=NullCallback)
    distributed: DistributedContext = SINGLE_PROCESS
    # Holds the state after each epoch. Without one, a killed training starts over.
    checkpoint: TrainingCheckpoint | None = None


@dataclass(frozen=True)
class TrainingResult:
    """The metrics of every epoch, and the weights and predictions of the best one."""

    # One row an epoch: epoch, train_loss, val_loss (nats), val_accuracy, val_macro_f1 and val_weighted_f1.
    history: tuple[Mapping[str, float], ...]
    # Counted from 1.
    best_epoch: int
    # The trained weights after the best epoch, on the CPU.
    state: Mapping[str, Tensor]
    # Predictions of the validation part after the best epoch.
    predictions: tuple[Prediction, ...]

    def scores(self) -> Scores:
        """Return the validation scores of the best epoch."""
        return scores(self.predictions)

    def is_over(self, settings: TrainingConfig) -> bool:
        """Return whether all epochs are done, or patience has ended."""
        epochs = len(self.history)
        return epochs >= settings.epochs or epochs - self.best_epoch >= settings.patience


def fit(
    model: ToneModel,
    train: LabelledFeatures,
    val: LabelledFeatures,
    settings: TrainingConfig,
    context: TrainingContext,
) -> TrainingResult:
    """Train the trainable weights of `model`, and leave it with those of the best epoch by `settings.monitor`.

    If the context's checkpoint holds a state, training continues from it and gives the same result as without the
    interruption. All processes of a distributed training call this function alike and return the same result.

    Raises:
        DivergenceError: a loss is NaN or infinite.
        StopRequested: the callback ends the training at once.
    """
    distributed = context.distributed
    trainer = Trainer(model, train, settings, context)
    result = trainer.resume()
    while result is None or not result.is_over(settings):
        epoch = 1 if result is None else len(result.history) + 1
        train_loss = trainer.train_epoch(epoch)
        val_predictions, val_metrics = trainer.validate(val)
        metrics = {"epoch": epoch, "train_loss": train_loss, **val_metrics}
        history = (*(result.history if result else ()), metrics)
        # The main process decides for all: metrics may differ by rounding, and a process that disagrees would deadlock.
        if result is None or distributed.broadcast_main(
            _is_better(metrics, result.history[result.best_epoch - 1], settings)
        ):
            result = TrainingResult(history, epoch, trainable_state(model), tuple(val_predictions))
        else:
            result = replace(result, history=history)
        # Saved before the callback, so that no epoch is reported twice. If the training is killed in between, the epoch
        # is not reported at all (`log_missing_epochs` mends that).
        trainer.save(result)
        if not distributed.broadcast_main(context.callback.on_epoch(epoch, metrics)):
            break
    restore(model, result.state)
    return result


def _is_better(metrics: Mapping[str, float], best: Mapping[str, float], settings: TrainingConfig) -> bool:
    """Compare two epochs. The earlier one wins a tie, so the comparison is strict."""
    if settings.monitor == "loss":
        return metrics["val_loss"] < best["val_loss"]
    return metrics["val_macro_f1"] > best["val_macro_f1"]


class Trainer:
    """One training: the model, its training posts, the optimizer and the schedule.

    Every random draw of an epoch depends on the seed and the epoch's number alone. A resumed training therefore needs
    no state of a random generator.
    """

    def __init__(
        self, model: ToneModel, data: LabelledFeatures, settings: TrainingConfig, context: TrainingContext
    ) -> None:
        self.model = model
        self.data = data
        self.settings = settings
        self.context = context
        # Sharding replaces the parameters by others, so it precedes everything that holds on to them.
        context.distributed.prepare(model)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = AdamW(
            self.weights, lr=settings.lr, eps=settings.adam_eps, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = LambdaLR(self.optimizer, schedule_for(settings, data.posts))
        set_checkpointing(model.backbone, settings.gradient_checkpointing)
        self.loss = Loss.of(settings, data.labels(range(len(data.posts))), len(model.labels))
        # Measured last: a step's memory depends on the sharding and on gradient checkpointing.
        self.micro_batch_size = micro_batch(model, data, settings, self.loss, context.distributed)

    def train_epoch(self, epoch: int) -> float:
        """Train for one epoch, counted from 1, and return the mean loss of its posts in nats."""
        # 1000 keeps the numbers of two seeds apart: nobody trains a thousand epochs here.
        epoch_seed = self.context.seed * 1000 + epoch
        posts = self._posts_of(epoch)
        data = self.data.drawn(epoch_seed)
        # After `_posts_of`, which may run the model: dropout starts at the same state with and without a curriculum.
        self.context.distributed.seed(epoch_seed)
        total_loss = 0.0
        for batch in self._batches(data, posts, epoch_seed):
            total_loss += self._step(data, batch)
        return total_loss / len(posts)

    def validate(self, val: LabelledFeatures) -> tuple[list[Prediction], dict[str, float]]:
        """Predict the validation posts, and return the predictions and the metrics val_loss and val_*.

        Raises:
            DivergenceError: the loss is NaN or infinite.
        """
        logits_NK = self._logits(val)
        val_loss = mean_loss(val, logits_NK)
        _require_finite(val_loss, self.settings)
        val_predictions = predictions(val, logits_NK)
        headline = {f"val_{name}": value for name, value in scores(val_predictions).headline().items()}
        return val_predictions, {"val_loss": val_loss, **headline}

    def _logits(self, data: LabelledFeatures, *, with_image: bool = True) -> Tensor:
        context = self.context
        on_batch = context.callback.on_batch
        return logits(self.model, data, self.settings.batch_size, on_batch, context.distributed, with_image=with_image)

    def _posts_of(self, epoch: int) -> list[int]:
        """Return the indices of the posts that an epoch trains on."""
        losses_N = [0.0] * len(self.data.posts)
        if curriculum.by_loss(self.settings, epoch):
            # The losses are the readout's own, because it alone trains.
            losses_N = losses(self.data, self._logits(self.data, with_image=False)).tolist()
        return curriculum.chosen(self.settings, self.data.posts, losses_N, epoch, self.context.seed)

    def _batches(self, data: LabelledFeatures, posts: Sequence[int], seed: int) -> list[list[int]]:
        """Return the posts of each optimizer step.

        A batch is the whole step, whatever its micro-batches and the number of processes: those change the speed, the
        rounding and the masks of dropout, never the batches.
        """
        settings = self.settings
        lengths = data.features.lengths()
        labels = [data.posts[index].label for index in posts] if settings.sampling == "balanced" else None
        step_size = settings.batch_size * settings.gradient_accumulation_steps
        batches = shuffled([lengths[index] for index in posts], step_size, seed, labels)
        return [[posts[place] for place in batch] for batch in batches]

    def _step(self, data: LabelledFeatures, batch: list[int]) -> float:
        """Take one optimizer step over a batch, in micro-batches, and return the sum of the posts' losses in nats."""
        model, distributed = self.model, self.context.distributed
        model.train()
        total_loss = torch.zeros((), device=model.device)
        # A process gets at least one micro-batch if the batch has enough posts.
        micro_batches = chunk(batch, min(self.micro_batch_size, math.ceil(len(batch) / distributed.num_processes)))
        for posts, counts in shard_batches(micro_batches, distributed.rank, distributed.num_processes):
            num_posts = len(posts) if counts else 0
            logits_BK = model(data.batch(posts, model.device), with_image=False)
            mean_loss_ = self.loss(logits_BK, data.labels(posts).to(model.device))
            # Weighted by the share of the whole batch, so that the sum of gradients is that of one large batch.
            # A post that does not count has weight 0, but still runs: sharded layers wait for all processes.
            (mean_loss_ * num_posts / len(batch)).backward()  # type: ignore[no-untyped-call]
            total_loss += mean_loss_.detach() * num_posts
            # Before the next micro-batch, so that trainings side by side read each one in turn.
            self.context.callback.on_batch()
        batch_loss = distributed.sum(total_loss).item()
        # Checked before the step, so that a diverging loss never reaches the weights.
        _require_finite(batch_loss, self.settings)
        distributed.sum_gradients(self.weights)
        clip_grad_norm_(self.weights, self.settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return batch_loss

    def save(self, result: TrainingResult) -> None:
        """Save everything that the next epochs depend on, unless the training is over."""
        checkpoint = self.context.checkpoint
        if checkpoint is None or result.is_over(self.settings):
            return
        # All processes gather, for sharded weights need all of them; the main process alone writes.
        groups = {
            "best": result.state,
            "weights": trainable_state(self.model),
            "moments": gathered(self.optimizer),
        }
        values = {
            "history": [dict(row) for row in result.history],
            "best_epoch": result.best_epoch,
            "predictions": [asdict(row) for row in result.predictions],
            "schedule": self.schedule.state_dict(),
            "micro_batch_size": self.micro_batch_size,
        }
        if self.context.distributed.is_main:
            tensors = {f"{group}/{name}": tensor for group, state in groups.items() for name, tensor in state.items()}
            checkpoint.save(TrainingState(tensors, values))

    def resume(self) -> TrainingResult | None:
        """Restore the state after the last saved epoch, and return its result; None if nothing is saved."""
        state = self.context.checkpoint.load() if self.context.checkpoint else None
        # On several machines one may lack the file. All processes must start alike, so then all start over.
        if not self.context.distributed.min(int(state is not None)) or state is None:
            return None
        restore(self.model, state.group("weights"))
        scatter(self.optimizer, state.group("moments"), self.weights)
        values = state.values
        # Other pieces of a step would draw other masks of dropout. More posts may fit now, or fewer.
        self.micro_batch_size = min(self.micro_batch_size, values["micro_batch_size"])
        self.schedule.load_state_dict(values["schedule"])
        # LambdaLR restores its own counters and leaves the optimizer at the learning rate of step 0.
        for group, lr in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = lr
        val_predictions = tuple(Prediction(**row) for row in values["predictions"])
        return TrainingResult(tuple(values["history"]), values["best_epoch"], state.group("best"), val_predictions)


def _require_finite(loss: float, settings: TrainingConfig) -> None:
    if not math.isfinite(loss):
        raise DivergenceError(f"the loss is no longer a number at lr {settings.lr:g}: try a smaller one")


def schedule_for(settings: TrainingConfig, posts: Sequence[Post]) -> "Cosine":
    """Return the learning rate schedule of a training on these posts: it ends with the last step."""
    step_size = settings.batch_size * settings.gradient_accumulation_steps
    epochs = range(1, settings.epochs + 1)
    # A curriculum trains on fewer posts in its first epochs, so steps are counted epoch by epoch.
    total = sum(math.ceil(curriculum.num_posts(settings, posts, epoch) / step_size) for epoch in epochs)
    return Cosine(max(1, round(settings.warmup_ratio * total)), total)


@dataclass(frozen=True)
class Cosine:
    """The learning rate factor: linear warmup, then half a cosine down to 0.

    transformers' `get_cosine_schedule_with_warmup` gives the first step a learning rate of 0, which wastes it. Here
    every step learns.
    """

    # Steps of the linear warmup.
    warmup: int
    # Steps of the whole training.
    total: int

    def __call__(self, step: int) -> float:
        """Return the factor for a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.total - self.warmup)))
